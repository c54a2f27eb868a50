"""Faults that `world-env lint` finds in data with one planted fault, and issues in clean data.

    python -m benchmarks.diagnostics.lint --out benchmarks/results/lint.json

Data of each task is collected anew for each seed, by a mixture of explorations and, with a bundled twin, a PPO policy.
Each fault is planted into the same data by one function of this script. A row holds whether the check for this fault
reported it, and the other checks with an error or a warning; the row "clean" holds whether any check did. A fault that
the data cannot hold has no row: a time limit marked as termination if no episode reached the limit, shifted rewards if
all are equal, values outside a space without bounds. Stored rows are skipped.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from gymnasium import spaces
from numpy.random import Generator

from benchmarks.arguments import option, script_parser
from benchmarks.returns.returns import merge, read
from training.tasks import TASKS as REAL_TASKS, real_of
from world_env import collect, learn
from world_env.collection import CollectConfig
from world_env.data import Episode, LintIssue, Recording, lint, lint_split
from world_env.policies import (
    ExplorationConfig,
    HeldExploration,
    MixtureExploration,
    PolicyExploration,
    RandomExploration,
)
from world_env.results import facts
from world_env.rl import LearnConfig, TwinTrainingConfig
from world_env.spec import WorldSpec
from world_env.twin import Twin
from world_env.types import JSON

BENCHMARK = "lint"
POLICY_STEPS = 60_000
TASKS: dict[str, tuple[int, float, tuple[float, ...]]] = {
    "CartPole-v1": (5_000, 5, (0.35, 0.35, 0.3)),
    "Pendulum-v1": (4_000, 5, (0.35, 0.35, 0.3)),
    "Acrobot-v1": (5_000, 5, (0.35, 0.25, 0.4)),
    "MountainCarContinuous-v0": (5_000, 30, (0.2, 0.5, 0.3)),
    "HalfCheetah-v5": (5_000, 5, (0.5, 0.5)),
    "InvertedDoublePendulum-v5": (3_000, 3, (0.5, 0.5)),
}
"""Task -> real steps, steps of a held action, and weights of random actions, held actions and a policy."""

VELOCITIES: dict[str, slice] = {
    "CartPole-v1": slice(1, None, 2),
    "Pendulum-v1": slice(2, 3),
    "Acrobot-v1": slice(4, 6),
    "MountainCarContinuous-v0": slice(1, 2),
    "HalfCheetah-v5": slice(8, 17),
    "InvertedDoublePendulum-v5": slice(5, 8),
}
"""Task -> dimensions of the observation that are velocities."""

Episodes = list[Episode]
Plant = Callable[[Episodes, WorldSpec, Generator], Episodes | None]
"""(episodes, spec, rng) -> the episodes with the fault; None: the data cannot hold it."""


def reward_late(episodes: Episodes, spec: WorldSpec, rng: Generator) -> Episodes | None:
    """All rewards of the log one step late."""
    return _rolled(episodes, 1)


def reward_early(episodes: Episodes, spec: WorldSpec, rng: Generator) -> Episodes | None:
    """All rewards of the log one step early."""
    return _rolled(episodes, -1)


def reward_late_filled(episodes: Episodes, spec: WorldSpec, rng: Generator) -> Episodes | None:
    """Rewards of each episode one step late, the first one 0."""
    return [change(e, rewards=np.append(np.float32(0), e.rewards[:-1])) for e in episodes]


def reward_clock(episodes: Episodes, spec: WorldSpec, rng: Generator) -> Episodes | None:
    """Rewards multiplied by 0.99 to the power of the step."""
    return [change(e, rewards=e.rewards * 0.99 ** np.arange(len(e))) for e in episodes]


def glued(episodes: Episodes, spec: WorldSpec, rng: Generator) -> Episodes | None:
    """Every second episode joined to the one before, without the flags of its end."""
    pairs = list(zip(episodes[::2], episodes[1::2], strict=False))
    return [
        change(
            second,
            observations=np.concatenate([first.observations[:-1], second.observations]),
            actions=np.concatenate([first.actions, second.actions]),
            rewards=np.concatenate([first.rewards, second.rewards]),
            seed=first.seed,
        )
        for first, second in pairs
    ] + episodes[2 * len(pairs) :]


def autoreset_rows(episodes: Episodes, spec: WorldSpec, rng: Generator) -> Episodes | None:
    """Each episode begins with the autoreset step of a vector environment."""
    later = [
        change(
            second,
            observations=np.concatenate([first.observations[-1:], second.observations]),
            actions=np.concatenate([rng.permutation(first.actions)[:1], second.actions]),
            rewards=np.append(np.float32(0), second.rewards),
        )
        for first, second in itertools.pairwise(episodes)
    ]
    return [episodes[0], *later]


def limit_as_death(episodes: Episodes, spec: WorldSpec, rng: Generator) -> Episodes | None:
    """Episodes truncated by the time limit marked as terminated."""
    cut = [len(e) == spec.horizon and not e.terminated for e in episodes]
    marked = [
        change(e, terminated=True, truncated=False) if at_limit else e
        for e, at_limit in zip(episodes, cut, strict=True)
    ]
    return marked if sum(cut) > 1 else None


def non_finite(episodes: Episodes, spec: WorldSpec, rng: Generator) -> Episodes | None:
    """One NaN in one observation."""
    return _with_values(episodes, rng, 1, lambda values: values * np.nan)


def constant(episodes: Episodes, spec: WorldSpec, rng: Generator) -> Episodes | None:
    """One constant dimension of the observation."""
    stuck = episodes[0].observations[0, 0]
    return [change(e, observations=_column(e, lambda column: 0 * column + stuck)) for e in episodes]


def spikes(episodes: Episodes, spec: WorldSpec, rng: Generator) -> Episodes | None:
    """One value in a thousand of one dimension times 1,000."""
    return _with_values(episodes, rng, 0.001, lambda values: 1000 * values)


def duplicate_episode(episodes: Episodes, spec: WorldSpec, rng: Generator) -> Episodes | None:
    """One episode twice."""
    return [*episodes, episodes[1]]


def duplicate_stretch(episodes: Episodes, spec: WorldSpec, rng: Generator) -> Episodes | None:
    """A part of one episode again as an episode of its own."""
    longest = max(episodes, key=len)
    return [*episodes, longest.cut(len(longest) // 4, len(longest) // 2 + 1)]


def outside_observation(episodes: Episodes, spec: WorldSpec, rng: Generator) -> Episodes | None:
    """One observation in a hundred outside the space."""
    high = float(spec.observation_space.high.reshape(-1)[0])
    if not np.isfinite(high):
        return None
    return _with_values(episodes, rng, 0.01, lambda values: 0 * values + 1.5 * high)


def outside_action(episodes: Episodes, spec: WorldSpec, rng: Generator) -> Episodes | None:
    """Actions outside the space."""
    if isinstance(spec.action_space, spaces.Discrete):
        return [
            change(episodes[0], actions=episodes[0].actions * 0 + spec.action_space.n),
            *episodes[1:],
        ]
    return [change(e, actions=e.actions * 1.5) for e in episodes]


def action_unused(episodes: Episodes, spec: WorldSpec, rng: Generator) -> Episodes | None:
    """The last discrete action never taken; or Box actions within a twentieth of the bounds."""
    if isinstance(spec.action_space, spaces.Discrete):
        last = spec.action_space.n - 1
        return [change(e, actions=np.minimum(e.actions, last - 1)) for e in episodes]
    return [change(e, actions=e.actions * np.float32(0.05)) for e in episodes]


def action_held(episodes: Episodes, spec: WorldSpec, rng: Generator) -> Episodes | None:
    """Each episode repeats its first action."""
    return [change(e, actions=np.repeat(e.actions[:1], len(e), axis=0)) for e in episodes]


def pieces(episodes: Episodes, spec: WorldSpec, rng: Generator) -> Episodes | None:
    """Every episode cut in two, the second half on the other side of the split."""
    half = [e for e in episodes if len(e) > 1]
    return [e.cut(0, len(e) // 2) for e in half] + [e.cut(len(e) // 2, len(e)) for e in half]


def same_seeds(episodes: Episodes, spec: WorldSpec, rng: Generator) -> Episodes | None:
    """The same reset seeds on both sides of the split."""
    count = len(episodes) // 2
    return [dataclasses.replace(e, seed=i % count) for i, e in enumerate(episodes[: 2 * count])]


def action_late(episodes: Episodes, spec: WorldSpec, rng: Generator) -> Episodes | None:
    """Actions of each episode one step late, the first one twice."""
    return [change(e, actions=np.concatenate([e.actions[:1], e.actions[:-1]])) for e in episodes]


def action_early(episodes: Episodes, spec: WorldSpec, rng: Generator) -> Episodes | None:
    """Actions of each episode one step early, the last one twice."""
    return [change(e, actions=np.concatenate([e.actions[1:], e.actions[-1:]])) for e in episodes]


def hidden_velocity(episodes: Episodes, spec: WorldSpec, rng: Generator) -> Episodes | None:
    """Velocities replaced by zeros; their dimensions are `VELOCITIES`."""
    hidden = VELOCITIES.get(spec.real_id or "")
    if hidden is None:
        return None
    return [change(e, observations=_without(e.observations, hidden)) for e in episodes]


def chance_ends(episodes: Episodes, spec: WorldSpec, rng: Generator) -> Episodes | None:
    """Episodes that end in each step with a probability of 1 / 20, marked as terminated."""
    cut = []
    for e in episodes:
        length = min(len(e), int(rng.geometric(1 / 20)))
        early = length < len(e)
        part = e.cut(0, length)
        cut.append(
            change(part, terminated=early or e.terminated, truncated=not early and e.truncated)
        )
        # The rest of a long episode gives further episodes of its kind.
        start = length
        while start < len(e):
            length = min(len(e) - start, int(rng.geometric(1 / 20)))
            whole = start + length == len(e)
            part = change(e.cut(start, start + length), elapsed=0, seed=None)
            ended = e.terminated if whole else True
            cut.append(change(part, terminated=ended, truncated=not ended))
            # One observation is left out, or the parts are those of one cut episode.
            start += length + 1
    return cut


def death_as_truncation(episodes: Episodes, spec: WorldSpec, rng: Generator) -> Episodes | None:
    """Episodes that terminated marked as truncated."""
    if sum(e.terminated for e in episodes) < 5:
        return None
    return [change(e, terminated=False, truncated=True) for e in episodes]


def limit_of_log(episodes: Episodes, spec: WorldSpec, rng: Generator) -> Episodes | None:
    """Episodes cut at two thirds of their median length, and marked as terminated there."""
    limit = int(2 / 3 * np.median([len(e) for e in episodes]))
    if limit < 3 or sum(len(e) > limit for e in episodes) < 5:
        return None
    return [
        change(e.cut(0, limit), terminated=True, truncated=False) if len(e) > limit else e
        for e in episodes
    ]


def offset(episodes: Episodes, spec: WorldSpec, rng: Generator) -> Episodes | None:
    """The first dimension with an offset of 10 million times its usual change, as float32."""
    change_size = np.mean([np.abs(np.diff(e.observations[:, 0])).mean() for e in episodes])
    return [
        change(e, observations=_column(e, lambda column: column + np.float32(1e7 * change_size)))
        for e in episodes
    ]


def constant_rewards(episodes: Episodes, spec: WorldSpec, rng: Generator) -> Episodes | None:
    """All rewards 0, no episode terminated."""
    return [
        change(e, rewards=np.zeros_like(e.rewards), terminated=False, truncated=True)
        for e in episodes
    ]


FAULTS: dict[str, tuple[Plant, str]] = {
    "reward_late": (reward_late, "reward_shift"),
    "reward_early": (reward_early, "reward_shift"),
    "reward_late_filled": (reward_late_filled, "reward_shift"),
    "reward_clock": (reward_clock, "reward_clock"),
    "glued": (glued, "glued"),
    "autoreset_rows": (autoreset_rows, "autoreset"),
    "limit_as_death": (limit_as_death, "time_limit"),
    "non_finite": (non_finite, "finite"),
    "constant": (constant, "constant"),
    "spikes": (spikes, "spikes"),
    "duplicate_episode": (duplicate_episode, "duplicates"),
    "duplicate_stretch": (duplicate_stretch, "duplicates"),
    "outside_observation": (outside_observation, "space"),
    "outside_action": (outside_action, "space"),
    "action_unused": (action_unused, "actions"),
    "action_held": (action_held, "actions"),
    "pieces": (pieces, "split"),
    "same_seeds": (same_seeds, "split"),
    "action_late": (action_late, "action_shift"),
    "action_early": (action_early, "action_shift"),
    "hidden_velocity": (hidden_velocity, "hidden_state"),
    "chance_ends": (chance_ends, "chance_ends"),
    "death_as_truncation": (death_as_truncation, "state_truncation"),
    "limit_of_log": (limit_of_log, "time_limit"),
    "offset": (offset, "precision"),
    "constant_rewards": (constant_rewards, "constant_reward"),
}
"""Fault -> function that plants it, and the check for it."""
COLUMNS = ("non_finite", "constant", "spikes", "outside_observation", "offset")
"""Faults of the first observation dimension: found only if the check names the dimension."""
SPLITS = ("pieces", "same_seeds")
"""Faults between the two halves of the episodes."""


def judge(fault: str, episodes: Episodes, spec: WorldSpec, seed: int) -> JSON | None:
    """{"fault", "found", "other_findings"}; None if the data cannot hold the fault."""
    planted: Episodes | None = episodes
    if fault != "clean":
        planted = FAULTS[fault][0](episodes, spec, np.random.default_rng(seed))
    if planted is None:
        return None
    half = len(planted) // 2
    if fault in SPLITS:
        findings = lint(planted[:half], spec) + lint_split(planted[:half], planted[half:], spec)
    else:
        findings = lint(planted, spec)
    reported = sorted({f.check for f in findings if f.severity != "note"})
    if fault == "clean":
        return {"fault": fault, "found": bool(reported), "other_findings": reported}
    check = FAULTS[fault][1]
    return {
        "fault": fault,
        "found": any(_names(finding, fault, check) for finding in findings),
        "other_findings": [name for name in reported if name != check],
    }


def change(episode: Episode, **columns: object) -> Recording:
    """The episode with other columns, without validation."""
    fields = {field.name: getattr(episode, field.name) for field in dataclasses.fields(Episode)}
    return Recording(**(fields | columns))


def _names(finding: LintIssue, fault: str, check: str) -> bool:
    first = finding.where in ("observation", "observation[0]")
    return finding.check == check and (fault not in COLUMNS or first)


def _rolled(episodes: Episodes, rows: int) -> Episodes | None:
    whole = np.concatenate([episode.rewards for episode in episodes])
    if np.ptp(whole) == 0:
        return None
    ends = np.cumsum([len(episode) for episode in episodes])[:-1]
    parts = np.split(np.roll(whole, rows), ends)
    return [change(e, rewards=part) for e, part in zip(episodes, parts, strict=True)]


def _without(observations: np.ndarray, hidden: slice) -> np.ndarray:
    kept = observations.copy()
    kept[:, hidden] = 0
    return kept


def _column(episode: Episode, does: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    observations = episode.observations.copy()
    observations[:, 0] = does(observations[:, 0])
    return observations


def _with_values(
    episodes: Episodes, rng: Generator, amount: float, does: Callable[[np.ndarray], np.ndarray]
) -> Episodes:
    """Change `amount` values of the first dimension, or that share of them if below 1."""
    lengths = [len(episode) + 1 for episode in episodes]
    total = sum(lengths)
    chosen = np.zeros(total, bool)
    chosen[rng.choice(total, int(amount) or max(3, round(amount * total)), replace=False)] = True
    parts = np.split(chosen, np.cumsum(lengths)[:-1])
    return [
        change(e, observations=_column(e, lambda column, p=part: np.where(p, does(column), column)))
        for e, part in zip(episodes, parts, strict=True)
    ]


def collected(task: str, seed: int) -> tuple[WorldSpec, Episodes]:
    """Data of a task and seed, loaded if it is on disk."""
    steps, held, weights = TASKS[task]
    runs = Path(os.environ.get("WORLD_ENV_RUNS", "runs")) / BENCHMARK
    parts: list[ExplorationConfig] = [RandomExploration(), HeldExploration(steps=held)]
    if len(weights) == 3:
        row = REAL_TASKS[task]
        simulation = TwinTrainingConfig()
        if row.on_uncertain is not None:
            simulation = TwinTrainingConfig(on_uncertain=row.on_uncertain)
        config = LearnConfig(steps=POLICY_STEPS, algo_kwargs=row.algo_kwargs, simulation=simulation)
        learn(Twin.load(row.twin), config, out=runs / "policies" / task)
        parts.append(PolicyExploration(path=str(runs / "policies" / task)))
    exploration = MixtureExploration(parts=tuple(parts), weights=weights)
    store = collect(CollectConfig(real_of(task), runs / f"{task}-{seed}", steps, exploration, seed))
    return store.spec, store.load()


def main(arguments: Sequence[str] | None = None) -> None:
    """Write one row for each task, seed and fault."""
    parser = script_parser(__doc__, BENCHMARK, tasks=TASKS, seeds=range(3))
    option(
        parser,
        "--faults",
        ["clean", *FAULTS],
        "faults to plant (default: all, and clean data)",
        ["clean", *FAULTS],
    )
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    made = {name: facts().to_json()[name] for name in ("commit", "date")}
    for task in given.tasks:
        for seed in given.seeds:
            stored = read(given.out) or {"rows": []}
            if any((row["task"], row["seed"]) == (task, seed) for row in stored["rows"]):
                continue
            spec, episodes = collected(task, seed)
            steps = sum(map(len, episodes))
            head = {"task": task, "seed": seed, "steps": steps, "episodes": len(episodes)}
            judged = [judge(fault, episodes, spec, seed) for fault in given.faults]
            rows = [head | row | made for row in judged if row is not None]
            merge(given.out, BENCHMARK, {"rows": rows}, keep=True)
            for row in rows:
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
