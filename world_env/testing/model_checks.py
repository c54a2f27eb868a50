"""Contract check of world models."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from world_env.batch import Context, Observation, State, select
from world_env.codec import Codec
from world_env.device import torch_defaults
from world_env.errors import CheckError, InvalidOptionError
from world_env.models.base import Prediction, TrainableWorldModel, WorldModel
from world_env.models.conditioning import check_shapes
from world_env.rng import CounterRNG
from world_env.simulation.step_outputs import FRAME, check_extra_names

_MAX_RELATIVE_DIFFERENCE = 1e-4
"""Largest difference between batch sizes, relative to the largest value: matrix products round differently."""
_PERTURBATION = 1e-3
"""Change of the inputs that changes every smooth output."""
_MODULE_ATTRIBUTES = set(vars(nn.Module())) - {"training"}
"""Attributes of every torch module; parameters and buffers are compared by name."""


@torch_defaults()
def check_world_model(
    model: WorldModel,
    *,
    starts: Context | None = None,
    differentiable: bool = True,
    rebuild: Callable[[], WorldModel] | None = None,
) -> None:
    """Check that a world model satisfies the protocol of `world_env.models.base`.

    The check covers purity, independent rows, equal results for equal random numbers, batches of 1 and of 64 rows, the
    names, dtypes and shapes of states, predictions and extras, and that the optimizer gets every trainable parameter
    once.

    starts: contexts of real episodes; None: samples of the observation space, and random conditioning.
    differentiable: also check that gradients flow from the next observation and the reward to the state and the action.
    rebuild: function that creates a second model of the same family and config; also check that it gives equal results
        after `load_state_dict`.
    Raises CheckError (an AssertionError, also under `python -O`) at the first violation.
    """
    starts = _sampled_starts(model) if starts is None else starts
    try:
        check_shapes(model, starts.conditioning, "starts")
    except InvalidOptionError as error:
        raise CheckError(str(error)) from error
    starts = starts.to(starts.length.device, model.dtype)
    if isinstance(model, TrainableWorldModel):
        _check_parameter_groups(model)
    before = _stored_values(model)
    with torch.no_grad():
        for rows in (1, 64):
            _check_shapes(model, starts, rows)
        _check_repeatable(model, starts)
        _check_rows_independent(model, starts)
        _check_observe(model, starts)
    _check_equal(
        before,
        _stored_values(model),
        "the model is not pure, a call changed a stored value (pass it through the state instead)",
    )
    if differentiable:
        _check_gradients(model, starts)
    if rebuild is not None:
        with torch.no_grad():
            _check_state_dict(model, rebuild(), starts)


def _check_shapes(model: WorldModel, starts: Context, rows: int) -> None:
    context, rng = _begin(starts, rows)
    state = model.encode(context, rng=rng)
    shapes = Codec(model.spec).shapes
    for step in range(3):
        for name, value in state.items():
            if value.shape[:1] != (rows,):
                raise CheckError(
                    f"state {name!r} has the shape {tuple(value.shape)}, expected ({rows}, ...): every tensor of a "
                    "state needs the batch dimension first"
                )
        decoded = {key: tuple(value.shape) for key, value in model.decode(state).items()}
        expected = {key: (rows, *shape) for key, shape in shapes.items()}
        if decoded != expected:
            raise CheckError(
                f"decode() returned the shapes {decoded}, expected {expected}: return every key of the observation "
                "space in its encoded shape"
            )
        _check_dtype(model, "decode()", *model.decode(state).values())
        features = model.features(state)
        if features.ndim != 2 or len(features) != rows:
            raise CheckError(
                f"features() returned the shape {tuple(features.shape)}, expected ({rows}, F): flatten the features"
            )
        arrived, prediction = model.step(
            state, _actions(model, rows, step), rng=rng, uncertainty=True
        )
        _check_prediction(prediction, rows)
        _check_dtype(model, "Prediction", prediction.reward, prediction.terminated)
        _check_form(state, arrived, "step()")
        state = arrived


def _check_prediction(prediction: Prediction, rows: int) -> None:
    for name in ("reward", "terminated", "terminal_reward", "uncertainty"):
        value = getattr(prediction, name)
        if value is None and name in ("terminal_reward", "uncertainty"):
            continue
        if not isinstance(value, Tensor) or value.shape != (rows,):
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise CheckError(f"Prediction.{name} is {found}, expected a tensor of shape ({rows},)")
        if not torch.isfinite(value).all():
            raise CheckError(
                f"Prediction.{name} has NaN or infinite values: {value!s:.200}, expected finite numbers"
            )
    _check_extras(prediction.extras, rows)
    probability = prediction.terminated
    if not ((probability >= 0) & (probability <= 1)).all():
        raise CheckError(
            f"Prediction.terminated is {probability!s:.200}, expected probabilities in [0, 1]: apply a sigmoid "
            "to a logit"
        )
    if prediction.uncertainty is not None and not (prediction.uncertainty >= 0).all():
        raise CheckError(
            f"Prediction.uncertainty is {prediction.uncertainty!s:.200}, expected values >= 0"
        )


def _check_dtype(model: WorldModel, where: str, *values: Tensor) -> None:
    for value in values:
        if value.dtype != model.dtype:
            raise CheckError(
                f"{where} has the dtype {value.dtype}, expected {model.dtype}, that of the model: do not convert "
                "tensors to a fixed dtype"
            )


def _check_extras(extras: dict[str, Tensor], rows: int) -> None:
    check_extra_names(extras)
    for name, value in extras.items():
        if not isinstance(value, Tensor) or value.shape[:1] != (rows,):
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise CheckError(
                f"Prediction.extras[{name!r}] is {found}, expected a tensor of shape ({rows}, ...)"
            )
        if name == FRAME and (value.ndim != 4 or value.shape[1] not in (1, 3)):
            raise CheckError(
                f"Prediction.extras['frame'] has the shape {tuple(value.shape)}, expected ({rows}, 3, H, W) or "
                f"({rows}, 1, H, W)"
            )


def _check_parameter_groups(model: TrainableWorldModel) -> None:
    names = {id(value): name for name, value in model.named_parameters()}
    grouped: list[int] = []
    for group in model.parameter_groups():
        grouped += map(id, group["params"])
    for key in grouped:
        if key not in names or grouped.count(key) > 1:
            raise CheckError(
                f"parameter_groups() has the parameter {names.get(key, 'of another module')} {grouped.count(key)} "
                "times, expected every trainable parameter of the model once"
            )
    for name, value in model.named_parameters():
        if value.requires_grad and id(value) not in grouped:
            raise CheckError(
                f"parameter_groups() lacks the parameter {name}: add it to a group, or freeze it with "
                "requires_grad_(False)"
            )


def _check_form(state: State, later: State, method: str) -> None:
    if _form(later) != _form(state):
        raise CheckError(
            f"{method} changed the form of the state from {_form(state)} to {_form(later)}, expected the same names, "
            "dtypes and shapes"
        )


def _check_repeatable(model: WorldModel, starts: Context) -> None:
    context, rng = _begin(starts, 8)
    context_before = _tensors_of(context)
    state = model.encode(context, rng=rng)
    _check_equal(
        context_before,
        _tensors_of(context),
        "encode() changed the context (copy it before a change)",
    )
    state_before, action = _clone(state), _actions(model, 8, 0)
    action_before = action.clone()
    results = [model.step(state, action, rng=rng.clone(), uncertainty=True) for _ in range(2)]
    model.decode(state), model.features(state)
    _check_equal(
        state_before,
        state,
        "step(), decode() or features() changed the state (copy it before a change)",
    )
    if not torch.equal(action_before, action):
        raise CheckError("step() changed the action, expected no change: copy it before a change")
    first, second = ({**s, "reward": p.reward, "terminated": p.terminated} for s, p in results)
    _check_equal(
        first,
        second,
        "step() returned two results for the same state, action and rng (draw all random numbers from `rng`)",
    )


def _check_rows_independent(model: WorldModel, starts: Context) -> None:
    """Check that other rows, and the number of rows, do not change a row."""
    context, rng = _begin(starts, 8)
    noise = rng.clone()
    state = model.encode(context, rng=rng)
    action = _actions(model, 8, 0)
    alone = torch.tensor([3])
    reference = _outcome(model, state, action, rng.clone())
    other_action, other_state = action.clone(), _clone(state)
    others = torch.arange(8) != 3
    other_action[others] = action.roll(1, 0)[others]
    for name, value in state.items():
        other_state[name][others] = value.roll(1, 0)[others]
    changed = _outcome(model, other_state, other_action, rng.clone())
    _check_close(
        select(reference, alone),
        select(changed, alone),
        "another row's action or state changed a row (do not mix rows)",
    )
    lone_rng = noise.select(alone)
    lone_state = model.encode(context.select(alone), rng=lone_rng)
    _check_close(
        select(state, alone),
        lone_state,
        "encode() of a single row differs from the same row in a batch",
    )
    lone = _outcome(model, select(state, alone), action[alone], lone_rng)
    _check_close(
        select(reference, alone),
        lone,
        "step() of a single row differs from the same row in a batch",
    )


def _check_observe(model: WorldModel, starts: Context) -> None:
    context, rng = _begin(starts, 4)
    state = model.encode(context, rng=rng)
    before = _clone(state)
    updated = model.observe(state, _actions(model, 4, 0), context.last(), rng=rng)
    _check_form(state, updated, "observe()")
    _check_equal(before, state, "observe() changed the state (copy it before a change)")


def _check_gradients(model: WorldModel, starts: Context) -> None:
    context, rng = _begin(starts, 4)
    with torch.no_grad():
        state = _clone(model.encode(context, rng=rng))
        action = _actions(model, 4, 0)
        floats = {name: value for name, value in state.items() if value.is_floating_point()}
        perturbed = {name: value + _PERTURBATION for name, value in floats.items()}
        plain = _step_outputs(model, state, action, rng)
        other = _step_outputs(model, {**state, **perturbed}, action + _PERTURBATION, rng)
    inputs = [value.requires_grad_() for value in (action, *floats.values())]
    any_gradient = False
    for name, value in _step_outputs(model, state, action, rng).items():
        gradients: list[Tensor] = []
        if value.requires_grad:
            found = torch.autograd.grad(value.sum(), inputs, allow_unused=True, retain_graph=True)
            gradients = [gradient for gradient in found if gradient is not None]
        # A constant, such as a reward of 1 per step, needs no gradient.
        if not gradients and not torch.equal(plain[name], other[name]):
            raise CheckError(
                f"the {name} has no gradient with respect to the state or the action: is it detached? "
                "Pass differentiable=False for a model without gradients."
            )
        if not all(torch.isfinite(gradient).all() for gradient in gradients):
            raise CheckError(
                f"gradients of the {name} have NaN or infinite values, expected finite ones"
            )
        any_gradient |= bool(gradients)
    if not any_gradient:
        raise CheckError(
            "neither the next observation nor the reward has a gradient with respect to the state or the action: "
            "pass differentiable=False for a model without gradients"
        )


def _step_outputs(model: WorldModel, state: State, action: Tensor, rng: CounterRNG) -> State:
    """Differentiable outputs of one step: the next observation, flattened, and the reward."""
    arrived, prediction = model.step(state, action, rng=rng.clone())
    decoded = [value.flatten() for value in model.decode(arrived).values()]
    return {"next observation": torch.cat(decoded), "reward": prediction.reward}


def _check_state_dict(model: WorldModel, other: WorldModel, starts: Context) -> None:
    other.load_state_dict(model.state_dict())
    other.train(model.training)
    context, rng = _begin(starts, 4)
    results = []
    for one in (model, other):
        noise = rng.clone()
        state = one.encode(context, rng=noise)
        results.append(_outcome(one, state, _actions(one, 4, 0), noise))
    _check_equal(
        results[0],
        results[1],
        "a model restored from state_dict gives other results (use parameters or buffers)",
    )


def _sampled_starts(model: WorldModel) -> Context:
    codec = Codec(model.spec)
    space = copy.deepcopy(model.spec.observation_space)
    space.seed(0)
    observations = [codec.encode_observation(_batch_of_one(space.sample())) for _ in range(8)]
    keys = observations[0]
    merged = {key: torch.cat([one[key] for one in observations]).clamp(-10, 10) for key in keys}
    generator = torch.Generator().manual_seed(0)
    conditioning = {
        name: torch.rand(8, *shape, generator=generator)
        for name, shape in model.conditioning.items()
    }
    return Context.from_observation(merged, codec.action_size, conditioning)


def _batch_of_one(observation: Any) -> Any:
    if isinstance(observation, dict):
        return {key: _batch_of_one(value) for key, value in observation.items()}
    return np.asarray(observation)[None]


def _begin(starts: Context, rows: int) -> tuple[Context, CounterRNG]:
    context = starts.select(torch.arange(rows) % len(starts))
    return context, CounterRNG.from_seed(7, rows)


def _actions(model: WorldModel, rows: int, seed: int) -> Tensor:
    space = copy.deepcopy(model.spec.action_space)
    space.seed(seed)
    encoded = Codec(model.spec).encode_action(np.stack([space.sample() for _ in range(rows)]))
    return encoded.to(model.dtype)


def _outcome(model: WorldModel, state: State, action: Tensor, rng: CounterRNG) -> State:
    arrived, prediction = model.step(state, action, rng=rng)
    extras = {f"extras {name}": value for name, value in prediction.extras.items()}
    return {**arrived, "reward": prediction.reward, "terminated": prediction.terminated, **extras}


def _stored_values(model: WorldModel) -> dict[str, Any]:
    """Copies of all values that are stored in a model: parameters, buffers and attributes, also private ones."""
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    for path, module in model.named_modules():
        own = {
            name: value for name, value in vars(module).items() if name not in _MODULE_ATTRIBUTES
        }
        tensors |= {f"{path}:{name}": value for name, value in own.items()}
    return {name: _comparable(value) for name, value in tensors.items()}


def _comparable(value: Any) -> Any:
    """Copy that supports ==. A value that is neither an array nor a container is returned unchanged."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().reshape(-1).view(torch.uint8).numpy()
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, Mapping):
        return [(key, _comparable(part)) for key, part in value.items()]
    if isinstance(value, list | tuple | set | deque):
        return [_comparable(part) for part in value]
    return value


def _form(state: State) -> dict[str, tuple[Any, ...]]:
    return {name: (value.dtype, tuple(value.shape)) for name, value in state.items()}


def _clone(state: State) -> State:
    return {name: value.detach().clone() for name, value in state.items()}


def _tensors_of(context: Context) -> Observation:
    parts = {"actions": context.actions, "length": context.length, "elapsed": context.elapsed}
    conditioning = {f"conditioning {name}": each for name, each in context.conditioning.items()}
    return _clone({**context.observations, **parts, **conditioning})


def _check_equal(old: dict[str, Any], new: dict[str, Any], message: str) -> None:
    _check_names(old, new, message)
    for name, value in old.items():
        same = torch.equal(value, new[name]) if isinstance(value, Tensor) else value in [new[name]]
        if not same:
            raise CheckError(f"{message}: {name!r} is {new[name]!s:.200}, expected {value!s:.200}")


def _check_close(old: State, new: State, message: str) -> None:
    _check_names(old, new, message)
    for name, value in old.items():
        difference = (
            (value.double() - new[name].double()).abs().max().item() if value.numel() else 0.0
        )
        largest = value.double().abs().max().item() if value.numel() else 0.0
        limit = _MAX_RELATIVE_DIFFERENCE * max(1.0, largest)
        # Not "difference > limit": a NaN difference must fail.
        if not difference <= limit:
            raise CheckError(
                f"{message}: {name!r} differs by {difference:g}, expected at most {limit:g}"
            )


def _check_names(old: dict[str, Any], new: dict[str, Any], message: str) -> None:
    if old.keys() != new.keys():
        raise CheckError(f"{message}: it has the names {sorted(new)}, expected {sorted(old)}")
