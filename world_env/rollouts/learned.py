"""Rollouts of a policy in a twin."""

from __future__ import annotations

from typing import Any

import numpy as np

from world_env.errors import InvalidOptionError
from world_env.rollouts.actors import Actor, begin_episodes
from world_env.rollouts.returns import Returns, Watch
from world_env.simulation.config import OnUncertain, SimulatorConfig
from world_env.simulation.simulator import Simulator
from world_env.spaces import row_of
from world_env.twin.twin import Twin


def run_learned(
    actor: Actor,
    twin: Twin,
    first: Any,
    *,
    seed: int = 0,
    watch: Watch | None = None,
    on_uncertain: OnUncertain = "ignore",
    discount: float = 1.0,
) -> Returns:
    """Play one learned episode from each given first observation.

    first: N batched first observations.
    seed: seed of the world model's noise.
    watch: callback for each learned step.
    on_uncertain: as in SimulatorConfig. Evaluations use "ignore". A twin without an uncertainty threshold always does.
    discount: discount factor of the returns. Evaluations use 1.
    Raises InvalidOptionError for a twin without a horizon.
    """
    rows = len(next(iter(first.values()))) if isinstance(first, dict) else len(first)
    check_horizon(twin)
    rule: OnUncertain = "ignore" if twin.uncertainty_threshold is None else on_uncertain
    config = SimulatorConfig(uncertainty=True, on_uncertain=rule)
    simulator = Simulator(twin, rows, seed=seed, config=config)
    observation = simulator.reset(options={"observation": first})
    values, lengths, above, has_uncertainty = np.zeros(rows), np.zeros(rows, np.int64), 0, True
    begin_episodes(actor)
    while not simulator.finished.all():
        running = ~simulator.finished
        index = np.flatnonzero(running)
        taken = np.asarray(actor(row_of(observation, index), index))
        actions = np.zeros((rows, *taken.shape[1:]), taken.dtype)
        actions[index] = taken
        result = simulator.step(actions, rows=running)
        values += np.where(running, result.reward * discount**lengths, 0.0)
        lengths += running
        if result.uncertainty is None or twin.uncertainty_threshold is None:
            has_uncertainty = False
        else:
            above += int((result.uncertainty[running] > twin.uncertainty_threshold).sum())
        if watch is not None:
            watch(observation, result, running)
        observation = result.observation
    share = above / int(lengths.sum()) if has_uncertainty else None
    return Returns(values, lengths, first, share)


def check_horizon(twin: Twin) -> None:
    """Raise InvalidOptionError for a twin without a horizon, whose episodes may never end."""
    if twin.spec.horizon is None:
        raise InvalidOptionError(
            "this twin has no time limit, so an episode may never end: fit it again with --horizon STEPS (time "
            "limit of the "
            "task in steps)"
        )
