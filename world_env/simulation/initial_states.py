"""Initial states of episodes: drawn from those of a twin, or given by the caller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from world_env.batch import Context, replace
from world_env.codec import Codec
from world_env.errors import InitialStatesError, InvalidOptionError
from world_env.rng import CounterRNG

_CONTEXT_KEYS = ("observations", "actions", "elapsed")


def reset_options(options: Any) -> dict[str, Any]:
    """Return the options of a reset as a new dict (None: empty). Raises InvalidOptionError unless it is a mapping."""
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise InvalidOptionError(
            f"reset options must be a dict with at most one of 'observation', 'context', 'snapshot', and optionally "
            f"'conditioning', got {options!r:.80}"
        )
    return dict(options)


def draw_initial_states(
    starts: Context, states: Context | None, share: float, rng: CounterRNG
) -> Context:
    """Draw one initial state per environment of `rng`.

    starts: real initial states. states: states inside data episodes, or None. share: probability of the latter.
    Raises InitialStatesError if the two have contexts of different lengths.
    """
    if states is not None:
        starts = starts.padded(states.actions.shape[1] + 1)
    if share == 0.0 or states is None:
        return starts.select(rng.integers(len(starts)).to(starts.length.device))
    from_data = rng.uniform(1).squeeze(-1) < share
    fraction = rng.uniform(1, dtype=torch.float64).squeeze(-1)
    device = starts.length.device
    initial, middle = (
        part.select((fraction * len(part)).long().clamp(max=len(part) - 1).to(device))
        for part in (starts, states)
    )
    if initial.actions.shape != middle.actions.shape:
        raise InitialStatesError(
            f"contexts differ in length: real initial states have {initial.actions.shape[1] + 1} observations, "
            f"states inside data episodes {middle.actions.shape[1] + 1}; expected equal lengths"
        )
    merged = replace(_tensors(initial), from_data.to(device), _tensors(middle))
    return Context(
        {key: merged[f"observations.{key}"] for key in initial.observations},
        merged["actions"],
        merged["length"],
        merged["elapsed"],
        {name: merged[f"conditioning.{name}"] for name in initial.conditioning},
    )


def given_initial_states(options: Mapping[str, Any], codec: Codec, rows: int) -> Context:
    """Encode the initial states in `options` under "observation" or "context", for `rows` environments.

    "observation": environment arrays (rows, ...). "context": a dict with "observations" (rows, K, ...), "actions"
    (rows, K-1, ...) and optionally "elapsed" (rows,), steps since the real initial state.
    Raises InvalidOptionError, InvalidObservationError or InvalidActionError.
    """
    if "observation" in options:
        observation = codec.encode_observation(options["observation"])
        context = Context.from_observation(observation, codec.action_size)
    else:
        context = _given_context(options["context"], codec)
    if len(context) != rows:
        name = next(iter(options))
        raise InvalidOptionError(
            f"options[{name!r}] holds {len(context)} initial states, but {rows} environments are reset: "
            "pass one per environment"
        )
    return context


def _given_context(given: Any, codec: Codec) -> Context:
    names = set(given) if isinstance(given, Mapping) else set()
    if not set(_CONTEXT_KEYS[:2]) <= names <= set(_CONTEXT_KEYS):
        raise InvalidOptionError(
            "options['context'] must be a dict with 'observations' (n, K, ...), 'actions' (n, K-1, ...) and optionally "
            f"'elapsed' (n,), got {sorted(names) or type(given).__name__}"
        )
    actions = np.asarray(given["actions"])
    if actions.ndim < 2:
        raise InvalidOptionError(
            f"options['context']['actions'] has shape {actions.shape}, expected (n, K-1, ...)"
        )
    rows, steps = actions.shape[:2]
    encoded = codec.encode_observation(_fold(given["observations"]))
    if any(value.shape[0] != rows * (steps + 1) for value in encoded.values()):
        raise InvalidOptionError(
            f"options['context']['observations'] must be ({rows}, {steps + 1}, ...), one observation more than "
            f"actions, whose shape is {actions.shape}"
        )
    encoded_actions = torch.zeros(rows, 0, codec.action_size, dtype=torch.float32, device="cpu")
    if steps:
        flat = actions.reshape(rows * steps, *actions.shape[2:])
        encoded_actions = codec.encode_action(flat).unflatten(0, (rows, steps))
    elapsed = np.asarray(given.get("elapsed", np.full(rows, steps)))
    if elapsed.shape != (rows,) or not np.issubdtype(elapsed.dtype, np.integer):
        raise InvalidOptionError(
            f"options['context']['elapsed'] must be {rows} integers, got {elapsed.dtype} of shape {elapsed.shape}"
        )
    return Context(
        {key: value.unflatten(0, (rows, steps + 1)) for key, value in encoded.items()},
        encoded_actions,
        torch.full((rows,), steps + 1, dtype=torch.int64, device="cpu"),
        torch.from_numpy(elapsed.astype(np.int64)),
    )


def _tensors(context: Context) -> dict[str, Tensor]:
    parts = {f"observations.{key}": value for key, value in context.observations.items()}
    rest = {"actions": context.actions, "length": context.length, "elapsed": context.elapsed}
    conditioning = {f"conditioning.{name}": each for name, each in context.conditioning.items()}
    return parts | rest | conditioning


def _fold(observations: Any) -> Any:
    """Reshape (n, K, ...) arrays, or a dict of them, to (n * K, ...)."""
    if isinstance(observations, Mapping):
        return {key: _fold(value) for key, value in observations.items()}
    array = np.asarray(observations)
    if array.ndim < 2:
        raise InvalidOptionError(
            f"options['context']['observations'] has shape {array.shape}, expected (n, K, ...)"
        )
    return array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])
