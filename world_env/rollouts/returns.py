"""One policy's episodes, in reality and in a twin, from the same starts."""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from world_env.codec import copied, row_of
from world_env.errors import InvalidOptionError
from world_env.policies.latent_policy import LatentActor, senses_of
from world_env.real.real_env import RealConfig, StepLedger, make_real
from world_env.simulation.simulator import Simulator, SimulatorConfig, StepResult
from world_env.twin.twin import Twin

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

Actor = Callable[[Any, np.ndarray], np.ndarray]
"""(batched observations, (B,) row numbers) -> batched actions."""

Watch = Callable[[Any, StepResult, np.ndarray], None]
"""(observations left, what the step showed, (B,) bool rows that were stepped): sees every learned step."""

_PART = "reward_"


@dataclass(frozen=True)
class Returns:
    """Returns of one policy in one world, undiscounted unless they were asked for otherwise.

    values: (N,) one return an episode. lengths: (N,) steps. first: the N first observations, batched.
    past_threshold: share of learned steps past the twin's uncertainty threshold; None in reality.
    parts: in reality, what the environment itself says that its rewards consist of (every number of `info` whose name
        begins with "reward_", as MuJoCo's tell), summed: name -> (N,); a twin predicts only their sum.
    """

    values: np.ndarray
    lengths: np.ndarray
    first: Any
    past_threshold: float | None = None
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(self.values.mean())

    def ci95(self) -> tuple[float, float]:
        """95 % bootstrap interval of the mean over episodes."""
        return bootstrap_mean(self.values)


def bootstrap_mean(
    values: np.ndarray, *, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean, 10,000 resamples (scipy)."""
    if len(values) < 2 or np.ptp(values) == 0:
        return float(values.mean()), float(values.mean())
    from scipy.stats import bootstrap

    interval = bootstrap(
        (values,),
        np.mean,
        confidence_level=level,
        n_resamples=10_000,
        method="percentile",
        rng=np.random.default_rng(seed),
        batch=1000,
    ).confidence_interval
    return float(interval.low), float(interval.high)


def policy_actor(model: BaseAlgorithm, *, deterministic: bool = True) -> Actor:
    """A trained policy, on what it sees through; recurrent policies are not covered here."""
    senses = senses_of(model)
    if senses is not None:
        return LatentActor(model, senses, deterministic=deterministic)
    return lambda observation, rows: model.predict(observation, deterministic=deterministic)[0]


def scripted_actor(name: str) -> Actor:
    """A policy written by hand, "module:function": batched observations in, batched actions out."""
    module, _, function = name.partition(":")
    act = getattr(importlib.import_module(module), function)
    return lambda observation, rows: np.asarray(act(observation))


def random_actor(space: spaces.Space[Any], seeds: Sequence[int]) -> Actor:
    """Uniform random actions, each row with a generator of its own."""
    import copy

    samplers = [copy.deepcopy(space) for _ in seeds]
    for sampler, seed in zip(samplers, seeds, strict=True):
        sampler.seed(int(seed))
    return lambda observation, rows: np.stack([samplers[row].sample() for row in rows])


def first_observations(real: RealConfig, seeds: Sequence[int]) -> Any:
    """What the real environment shows after a reset with each seed, batched; takes no step."""
    env = make_real(real, purpose="judge", ledger=StepLedger())
    try:
        return stacked([copied(env.reset(seed=int(seed))[0]) for seed in seeds])
    finally:
        env.close()


def run_real(
    actor: Actor, real: RealConfig, seeds: Sequence[int], *, purpose: str, ledger: StepLedger
) -> Returns:
    """One real episode a reset seed, all stepped side by side; every step is counted under `purpose`."""
    envs = [make_real(real, purpose=purpose, ledger=ledger) for _ in seeds]
    current = [env.reset(seed=int(seed))[0] for env, seed in zip(envs, seeds, strict=True)]
    first = stacked(current)
    values, lengths = np.zeros(len(envs)), np.zeros(len(envs), np.int64)
    parts: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(len(envs)))
    running = np.arange(len(envs))
    _begin(actor)
    while len(running):
        actions = actor(stacked([current[row] for row in running]), running)
        still = []
        for row, action in zip(running, actions, strict=True):
            current[row], reward, terminated, truncated, info = envs[row].step(action)
            values[row] += float(reward)
            lengths[row] += 1
            for name, part in info.items():
                if name.startswith(_PART) and isinstance(part, Real):
                    parts[name][row] += float(part)
            if not (terminated or truncated):
                still.append(row)
        running = np.array(still, int)
    for env in envs:
        env.close()
    return Returns(values, lengths, first, parts=dict(parts))


def run_learned(
    actor: Actor,
    twin: Twin,
    first: Any,
    *,
    seed: int = 0,
    watch: Watch | None = None,
    on_uncertain: str = "ignore",
    discount: float = 1.0,
) -> Returns:
    """One learned episode from each given first observation.

    on_uncertain: of SimulatorConfig; whoever judges leaves it at "ignore". A twin without a threshold has no other.
    discount: step t's reward counts discount**t; whoever judges leaves it at 1.
    """
    rows = len(next(iter(first.values()))) if isinstance(first, dict) else len(first)
    check_horizon(twin)
    rule = "ignore" if twin.uncertainty_threshold is None else on_uncertain
    config = SimulatorConfig(uncertainty=True, on_uncertain=rule)
    simulator = Simulator(twin, rows, seed=seed, config=config)
    observation = simulator.reset(options={"observation": first})
    values, lengths, past, known = np.zeros(rows), np.zeros(rows, np.int64), 0, True
    _begin(actor)
    while not simulator.finished.all():
        running = ~simulator.finished
        index = np.flatnonzero(running)
        chosen = np.asarray(actor(row_of(observation, index), index))
        actions = np.zeros((rows, *chosen.shape[1:]), chosen.dtype)
        actions[index] = chosen
        result = simulator.step(actions, rows=running)
        values += np.where(running, result.reward * discount**lengths, 0.0)
        lengths += running
        if result.uncertainty is None or twin.uncertainty_threshold is None:
            known = False
        else:
            past += int((result.uncertainty[running] > twin.uncertainty_threshold).sum())
        if watch is not None:
            watch(observation, result, running)
        observation = result.observation
    return Returns(values, lengths, first, past / int(lengths.sum()) if known else None)


def _begin(actor: Actor) -> None:
    """New episodes begin: an actor with a memory forgets the old ones."""
    if isinstance(actor, LatentActor):
        actor.begin()


def check_horizon(twin: Twin) -> None:
    """Raises InvalidOptionError for a twin whose episodes may never end."""
    if twin.spec.horizon is None:
        raise InvalidOptionError(
            "this twin has no horizon, so its episodes may never end: fit it again with `--horizon STEPS`, or set one "
            "in its spec"
        )


def stacked(observations: Sequence[Any]) -> Any:
    """Single observations, or dicts of them, as one array (N, ...), or a dict of such."""
    if isinstance(observations[0], dict):
        return {key: np.stack([part[key] for part in observations]) for key in observations[0]}
    return np.stack(observations)
