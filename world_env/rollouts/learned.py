"""Rollouts of a policy in a twin."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from world_env.errors import InvalidOptionError
from world_env.policies.loading import AnyPolicy, as_policy
from world_env.policies.protocol import Policy
from world_env.rollouts.returns import Returns
from world_env.simulation.config import OnUncertain, SimulatorConfig
from world_env.simulation.simulator import Simulator, StepResult
from world_env.spaces import row_of, stacked
from world_env.twin.twin import Twin

_RECORDS = ("observation", "action", "reward", "uncertainty")


@dataclass(frozen=True)
class LearnedStep:
    """One step of N environments in a twin.

    observation: N batched observations before the step. action: (N, ...) actions; zeros where no episode runs.
    result: result of the step. running: (N,) bool, environments that took the step.
    """

    observation: Any
    action: np.ndarray
    result: StepResult
    running: np.ndarray


def steps_in_twin(
    policy: Policy,
    simulator: Simulator,
    observation: Any,
    *,
    max_steps: np.ndarray | None = None,
) -> Iterator[LearnedStep]:
    """Step a simulator with a policy until all episodes have ended, and yield each step.

    policy: reset, or in running episodes. simulator: reset; `observation` is its N batched observations.
    max_steps: (N,) steps after which each environment stops although its episode runs; None: no limit.
    """
    for step in itertools.count():
        running = ~simulator.finished
        if max_steps is not None:
            running &= step < max_steps
        if not running.any():
            return
        index = np.flatnonzero(running)
        taken = policy.act(row_of(observation, index), index)
        actions = np.zeros((len(running), *taken.shape[1:]), taken.dtype)
        actions[index] = taken
        result = simulator.step(actions, rows=running)
        policy.executed(taken, index)
        yield LearnedStep(observation, actions, result, running)
        observation = result.observation


def run_learned(
    policy: AnyPolicy,
    twin: Twin,
    first: Any,
    *,
    seed: int = 0,
    policy_seeds: Sequence[int] | None = None,
    conditioning: Mapping[str, np.ndarray] | None = None,
    on_uncertain: OnUncertain = "ignore",
    discount: float = 1.0,
    horizon: int | None = None,
    max_steps: np.ndarray | None = None,
    record: Collection[str] = (),
    on_step: Callable[[LearnedStep], None] | None = None,
) -> Returns:
    """Play one learned episode from each given first observation.

    policy: what `world_env.policies.as_policy` takes. first: N batched first observations.
    seed: seed of the world model's noise. policy_seeds: N seeds of the policy's random numbers; None: 0..N-1.
    conditioning: name -> (N, ...), as the reset option of the simulator; None: the defaults of the twin.
    on_uncertain: as in SimulatorConfig. Evaluations use "ignore". A twin without an uncertainty threshold always does.
    discount: discount factor of the returns. Evaluations use 1.
    horizon: time limit in steps; None: the twin's.
    max_steps: (N,) steps of each episode, in place of the time limit; None: the time limit.
    record: what to keep of every step, of "observation" (before the step), "action", "reward" and "uncertainty". The
        entries after the end of an episode have no meaning.
    on_step: called with each step, for what is too large to keep.
    Raises InvalidOptionError for a twin without a horizon, if `max_steps` is None, and for another record.
    """
    policy = as_policy(policy, twin.spec)
    if max_steps is None and horizon is None:
        check_horizon(twin)
    if unknown := sorted(set(record) - set(_RECORDS)):
        raise InvalidOptionError(f"record has {unknown}, expected names among {list(_RECORDS)}")
    number = len(next(iter(first.values()))) if isinstance(first, dict) else len(first)
    rule: OnUncertain = "ignore" if twin.uncertainty_threshold is None else on_uncertain
    # One step more than the longest episode, so that the time limit ends none.
    horizon = horizon if max_steps is None else int(np.max(max_steps)) + 1
    uncertain = max_steps is None or "uncertainty" in record
    config = SimulatorConfig(uncertainty=uncertain, on_uncertain=rule, horizon=horizon)
    simulator = Simulator(twin, number, seed=seed, config=config)
    options = {"observation": first} | ({"conditioning": conditioning} if conditioning else {})
    observation = simulator.reset(options=options)
    member = simulator.snapshot().state.get("member")
    policy.reset(np.arange(number), range(number) if policy_seeds is None else policy_seeds)
    values, lengths = np.zeros(number), np.zeros(number, np.int64)
    ends, above = np.zeros(number, np.int64), 0
    has_uncertainty = uncertain and twin.uncertainty_threshold is not None
    kept: dict[str, list[Any]] = {name: [] for name in record}
    for step in steps_in_twin(policy, simulator, observation, max_steps=max_steps):
        result, running = step.result, step.running
        values += np.where(running, result.reward * discount**lengths, 0.0)
        lengths += running
        ends[running] = result.end[running]
        if has_uncertainty and result.uncertainty is not None:
            above += int((result.uncertainty[running] > twin.uncertainty_threshold).sum())
        has_uncertainty = has_uncertainty and result.uncertainty is not None
        for name, entries in kept.items():
            entries.append(getattr(step if hasattr(step, name) else result, name))
        if on_step is not None:
            on_step(step)
    share = above / int(lengths.sum()) if has_uncertainty else None
    recorded = {name: stacked(kept[name]) for name in kept if kept[name][0] is not None}
    return Returns(
        values,
        lengths,
        first,
        share,
        ends=ends,
        members=None if member is None else member.numpy(force=True),
        recorded=recorded,
    )


def check_horizon(twin: Twin) -> None:
    """Raise InvalidOptionError for a twin without a horizon, whose episodes may never end."""
    if twin.spec.horizon is None:
        raise InvalidOptionError(
            "this twin has no time limit, so an episode may never end: fit it again with --horizon STEPS (time "
            "limit of the task in steps)"
        )
