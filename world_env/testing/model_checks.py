"""Contract check for world models."""

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
from world_env.models.base import Prediction, WorldModel
from world_env.rng import CounterRNG

_FAR = 1e-4
"""Largest difference that another batch size may make, relative to the largest value (matrix products round)."""
_NUDGE = 1e-3
"""A change of inputs that shows in whatever is computed smoothly from them."""
_MODULE = set(vars(nn.Module())) - {"training"}
"""What torch itself keeps in every module; parameters and buffers are looked at by name."""


def check_world_model(
    model: WorldModel,
    *,
    starts: Context | None = None,
    differentiable: bool = True,
    rebuild: Callable[[], WorldModel] | None = None,
) -> None:
    """Check that a model keeps the protocol that simulators rely on.

    It is pure, rows are independent, equal noise gives equal results, 1 and 64 rows work, and a state keeps its names,
    types and shapes.

    starts: real contexts to begin from; None: samples of the observation space.
    differentiable: whether gradients must flow to action and state from the next observation and from the reward.
    rebuild: makes a second model of the same family and config, which must behave alike after `load_state_dict`.
    """
    starts = _sampled_starts(model) if starts is None else starts
    before = _memory(model)
    with torch.no_grad():
        for rows in (1, 64):
            _check_shapes(model, starts, rows)
        _check_repeatable(model, starts)
        _check_rows_independent(model, starts)
        _check_observe(model, starts)
    _check_equal(before, _memory(model), "the model changed while it was used: it must be pure")
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
            assert value.shape[:1] == (rows,), (
                f"state {name!r} has the shape {tuple(value.shape)}, expected ({rows}, ...)"
            )
        shown = {key: tuple(value.shape) for key, value in model.decode(state).items()}
        wanted = {key: (rows, *shape) for key, shape in shapes.items()}
        assert shown == wanted, f"decode gives {shown}, expected {wanted}"
        features = model.features(state)
        assert features.ndim == 2 and len(features) == rows, (
            f"features have the shape {tuple(features.shape)}, expected ({rows}, F)"
        )
        arrived, prediction = model.step(
            state, _actions(model, rows, step), rng=rng, uncertainty=True
        )
        _check_prediction(prediction, rows)
        assert _form(arrived) == _form(state), (
            f"step changed the form of the state: {_form(state)} became {_form(arrived)}"
        )
        state = arrived


def _check_prediction(prediction: Prediction, rows: int) -> None:
    for name in ("reward", "terminated", "terminal_reward", "uncertainty"):
        value = getattr(prediction, name)
        if value is None and name in ("terminal_reward", "uncertainty"):
            continue
        assert isinstance(value, Tensor) and value.shape == (rows,), (
            f"Prediction.{name} is {value!r}, expected a tensor of shape ({rows},)"
        )
        assert torch.isfinite(value).all(), f"Prediction.{name} holds non-finite numbers: {value}"
    ends = prediction.terminated
    assert ((ends >= 0) & (ends <= 1)).all(), f"terminated is no probability: {ends}"
    if prediction.uncertainty is not None:
        assert (prediction.uncertainty >= 0).all(), (
            f"negative uncertainty: {prediction.uncertainty}"
        )


def _check_repeatable(model: WorldModel, starts: Context) -> None:
    context, rng = _begin(starts, 8)
    kept = _tensors_of(context)
    state = model.encode(context, rng=rng)
    _check_equal(kept, _tensors_of(context), "encode changed the context it was given")
    given, action = _clone(state), _actions(model, 8, 0)
    pushed = action.clone()
    results = [model.step(state, action, rng=rng.clone(), uncertainty=True) for _ in range(2)]
    model.decode(state), model.features(state)
    _check_equal(given, state, "step, decode or features changed the state they were given")
    assert torch.equal(pushed, action), "step changed the action it was given"
    first, second = ({**s, "reward": p.reward, "ends": p.terminated} for s, p in results)
    _check_equal(first, second, "the same state, action and noise gave two results")


def _check_rows_independent(model: WorldModel, starts: Context) -> None:
    """Another neighbour, or none, never changes a row."""
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
        "a neighbour's action or state changed a row",
    )
    lone_rng = noise.select(alone)
    lone_state = model.encode(context.select(alone), rng=lone_rng)
    _check_close(select(state, alone), lone_state, "a row encoded alone differs")
    lone = _outcome(model, select(state, alone), action[alone], lone_rng)
    _check_close(select(reference, alone), lone, "a row stepped alone differs")


def _check_observe(model: WorldModel, starts: Context) -> None:
    context, rng = _begin(starts, 4)
    state = model.encode(context, rng=rng)
    given = _clone(state)
    seen = model.observe(state, _actions(model, 4, 0), context.last(), rng=rng)
    assert _form(seen) == _form(state), (
        f"observe changed the form of the state: {_form(state)} became {_form(seen)}"
    )
    _check_equal(given, state, "observe changed the state it was given")


def _check_gradients(model: WorldModel, starts: Context) -> None:
    context, rng = _begin(starts, 4)
    with torch.no_grad():
        state = _clone(model.encode(context, rng=rng))
        action = _actions(model, 4, 0)
        floats = {name: value for name, value in state.items() if value.is_floating_point()}
        nudged = {name: value + _NUDGE for name, value in floats.items()}
        plain = _shown(model, state, action, rng)
        other = _shown(model, {**state, **nudged}, action + _NUDGE, rng)
    inputs = [value.requires_grad_() for value in (action, *floats.values())]
    reached = False
    for name, value in _shown(model, state, action, rng).items():
        flowing: list[Tensor] = []
        if value.requires_grad:
            found = torch.autograd.grad(value.sum(), inputs, allow_unused=True, retain_graph=True)
            flowing = [gradient for gradient in found if gradient is not None]
        # A constant (a reward of 1 a step) has no gradient, and needs none.
        assert flowing or torch.equal(plain[name], other[name]), (
            f"no gradient flows from the {name} to the state or the action: is it detached?"
        )
        finite = all(torch.isfinite(gradient).all() for gradient in flowing)
        assert finite, f"gradients of the {name} hold non-finite numbers"
        reached |= bool(flowing)
    assert reached, "no gradient flows from the next observation or the reward to the inputs"


def _shown(model: WorldModel, state: State, action: Tensor, rng: CounterRNG) -> State:
    """What one step shows, with its gradient: the next observation, all of it flat, and the reward."""
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
    _check_equal(results[0], results[1], "a model rebuilt from its state_dict behaves differently")


def _sampled_starts(model: WorldModel) -> Context:
    codec = Codec(model.spec)
    space = copy.deepcopy(model.spec.observation_space)
    space.seed(0)
    observations = [codec.encode_observation(_batch_of_one(space.sample())) for _ in range(8)]
    keys = observations[0]
    merged = {key: torch.cat([one[key] for one in observations]).clamp(-10, 10) for key in keys}
    return Context.from_observation(merged, codec.action_size)


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
    return Codec(model.spec).encode_action(np.stack([space.sample() for _ in range(rows)]))


def _outcome(model: WorldModel, state: State, action: Tensor, rng: CounterRNG) -> State:
    arrived, prediction = model.step(state, action, rng=rng)
    return {**arrived, "reward": prediction.reward, "terminated": prediction.terminated}


def _memory(model: WorldModel) -> dict[str, Any]:
    """A copy of all that a model could remember: tensors and attributes, private ones too."""
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    for path, module in model.named_modules():
        own = {name: value for name, value in vars(module).items() if name not in _MODULE}
        tensors |= {f"{path}:{name}": value for name, value in own.items()}
    return {name: _kept(value) for name, value in tensors.items()}


def _kept(value: Any) -> Any:
    """A copy that compares with ==; what is neither array nor container, itself."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().reshape(-1).view(torch.uint8).numpy()
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, Mapping):
        return [(key, _kept(part)) for key, part in value.items()]
    if isinstance(value, list | tuple | set | deque):
        return [_kept(part) for part in value]
    return value


def _form(state: State) -> dict[str, tuple[Any, ...]]:
    return {name: (value.dtype, tuple(value.shape)) for name, value in state.items()}


def _clone(state: State) -> State:
    return {name: value.detach().clone() for name, value in state.items()}


def _tensors_of(context: Context) -> Observation:
    parts = {"actions": context.actions, "length": context.length, "elapsed": context.elapsed}
    return _clone({**context.observations, **parts})


def _check_equal(old: dict[str, Any], new: dict[str, Any], message: str) -> None:
    assert old.keys() == new.keys(), f"{message}: {sorted(old.keys() ^ new.keys())}"
    for name, value in old.items():
        same = torch.equal(value, new[name]) if isinstance(value, Tensor) else value in [new[name]]
        assert same, f"{message}: {name!r} was {value!s:.200}, now {new[name]!s:.200}"


def _check_close(old: State, new: State, message: str) -> None:
    assert old.keys() == new.keys(), f"{message}: {sorted(old.keys() ^ new.keys())}"
    for name, value in old.items():
        far = (value.double() - new[name].double()).abs().max().item() if value.numel() else 0.0
        limit = _FAR * max(1.0, value.double().abs().max().item() if value.numel() else 0.0)
        assert far <= limit, f"{message}: {name!r} by {far:g} (allowed {limit:g})"
