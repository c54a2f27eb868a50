"""Where episodes begin: drawn from a twin's starts, or given by the caller."""

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
    """The options of a reset as a fresh dict; None: none. Raises InvalidOptionError where they are no mapping."""
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise InvalidOptionError(
            f"reset options are a dict with at most one of 'observation', 'context', 'snapshot', got {options!r:.80}"
        )
    return dict(options)


def draw_initial_states(
    starts: Context, states: Context | None, share: float, rng: CounterRNG
) -> Context:
    """One start for each row of `rng`: a true one, or with probability `share` a dataset state.

    Raises InitialStatesError where the two have contexts of different lengths.
    """
    if states is not None:
        starts = starts.padded(states.actions.shape[1] + 1)
    if share == 0.0 or states is None:
        return starts.select(rng.integers(len(starts)).to(starts.length.device))
    inside = rng.uniform(1).squeeze(-1) < share
    fraction = rng.uniform(1, dtype=torch.float64).squeeze(-1)
    device = starts.length.device
    true, middle = (
        part.select((fraction * len(part)).long().clamp(max=len(part) - 1).to(device))
        for part in (starts, states)
    )
    if true.actions.shape != middle.actions.shape:
        raise InitialStatesError(
            "true starts and dataset states have contexts of different lengths"
        )
    merged = replace(_tensors(true), inside.to(device), _tensors(middle))
    return Context(
        {key: merged[f"observations.{key}"] for key in true.observations},
        merged["actions"],
        merged["length"],
        merged["elapsed"],
    )


def given_initial_states(options: Mapping[str, Any], codec: Codec, rows: int) -> Context:
    """The context that `options` holds under "observation" or "context", for `rows` rows.

    "observation": environment arrays (rows, ...). "context": a dict with "observations" (rows, K, ...), "actions"
    (rows, K-1, ...) and, if known, "elapsed" (rows,).
    Raises InvalidOptionError, InvalidObservationError, InvalidActionError.
    """
    if "observation" in options:
        observation = codec.encode_observation(options["observation"])
        context = Context.from_observation(observation, codec.action_size)
    else:
        context = _given_context(options["context"], codec)
    if len(context) != rows:
        raise InvalidOptionError(f"{rows} rows are reset, but the option holds {len(context)}")
    return context


def _given_context(given: Any, codec: Codec) -> Context:
    names = set(given) if isinstance(given, Mapping) else set()
    if not set(_CONTEXT_KEYS[:2]) <= names <= set(_CONTEXT_KEYS):
        raise InvalidOptionError(
            "options['context'] is a dict with 'observations' (n, K, ...), 'actions' (n, K-1, ...) and, if known, "
            f"'elapsed' (n,); got {sorted(names) or type(given).__name__}"
        )
    actions = np.asarray(given["actions"])
    if actions.ndim < 2:
        raise InvalidOptionError(
            f"options['context']['actions'] has the shape {actions.shape}, expected (n, K-1, ...)"
        )
    rows, steps = actions.shape[:2]
    encoded = codec.encode_observation(_fold(given["observations"]))
    if any(value.shape[0] != rows * (steps + 1) for value in encoded.values()):
        raise InvalidOptionError(
            f"a context holds one observation more than actions; actions are {actions.shape}"
        )
    pushed = torch.zeros(rows, 0, codec.action_size)
    if steps:
        flat = actions.reshape(rows * steps, *actions.shape[2:])
        pushed = codec.encode_action(flat).unflatten(0, (rows, steps))
    elapsed = np.asarray(given.get("elapsed", np.full(rows, steps)))
    if elapsed.shape != (rows,) or not np.issubdtype(elapsed.dtype, np.integer):
        raise InvalidOptionError(
            f"options['context']['elapsed'] holds {rows} whole numbers, got {elapsed.dtype} {elapsed.shape}"
        )
    return Context(
        {key: value.unflatten(0, (rows, steps + 1)) for key, value in encoded.items()},
        pushed,
        torch.full((rows,), steps + 1, dtype=torch.int64),
        torch.as_tensor(elapsed.astype(np.int64)),
    )


def _tensors(context: Context) -> dict[str, Tensor]:
    parts = {f"observations.{key}": value for key, value in context.observations.items()}
    rest = {"actions": context.actions, "length": context.length, "elapsed": context.elapsed}
    return parts | rest


def _fold(observations: Any) -> Any:
    """(n, K, ...) arrays, or a dict of them, as (n * K, ...)."""
    if isinstance(observations, Mapping):
        return {key: _fold(value) for key, value in observations.items()}
    array = np.asarray(observations)
    if array.ndim < 2:
        raise InvalidOptionError(
            f"options['context']['observations'] has the shape {array.shape}, expected (n, K, ...)"
        )
    return array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])
