"""Comparison of the learned and the real returns of policies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from world_env.errors import InvalidOptionError, StageError
from world_env.policy_evaluation.config import MIN_EPISODES
from world_env.real.real_env import spec_of
from world_env.real.step_ledger import StepLedger
from world_env.rollouts.actors import Actor, as_actor
from world_env.rollouts.learned import check_horizon, run_learned
from world_env.rollouts.real import run_real
from world_env.rollouts.returns import Returns
from world_env.spec import EnvConfig, check_same_spaces
from world_env.twin.twin import Twin
from world_env.types import JSON

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm


def compare(
    policies: Mapping[str, Actor | BaseAlgorithm | str | Path],
    twin: Twin | str | Path,
    real: EnvConfig | None = None,
    *,
    ledger: StepLedger | None = None,
    episodes: int = 100,
    seed: int = 10_000,
    purpose: str = "judge",
    real_steps: dict[str, int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> JSON:
    """Compare the returns of policies in the twin and in the real environment.

    Both sides have the same first observations, time limit and number of episodes; no policy is trained.

    policies: name -> model of Stable-Baselines3, folder of a policy, or function (batched observations, environment
        indices) -> batched actions.
    twin: the twin, its folder, or the name of a bundled one.
    real: the real environment. None: the one that the twin was fitted to.
    ledger: counts the real steps under `purpose`. None: a ledger in memory.
    episodes: per policy and side. seed: first reset seed of the real environment.
    real_steps: name -> real steps that the policy has cost, for the table.
    progress: called after each policy with (episodes done, episodes in total) of one side.
    Returns {"env_id", "episodes", "seeds", "rows": [{"policy", "real_mean", "real_ci95", "learned_mean",
    "learned_ci95", "return_gap" (learned minus real), "real_steps", "past_threshold_share" (share of learned steps
    that are out of distribution)}], "real_steps_by_purpose": of the ledger}. Returns are in task units, with 95 %
    bootstrap intervals.
    Raises InvalidOptionError and SpaceMismatchError before a real step.
    """
    if episodes < MIN_EPISODES:
        raise InvalidOptionError(
            f"episodes is {episodes}, expected at least {MIN_EPISODES}: intervals of fewer episodes are too wide"
        )
    if not isinstance(policies, Mapping):
        raise InvalidOptionError(
            f"policies is a {type(policies).__name__}, expected a dict of name -> policy, such as "
            '{"PPO": model}'
        )
    twin = twin if isinstance(twin, Twin) else Twin.load(twin)
    check_horizon(twin)
    actors = {name: as_actor(policy, twin.spec) for name, policy in policies.items()}
    real = real_environment(twin) if real is None else real
    ledger = StepLedger() if ledger is None else ledger
    check_same_spaces(spec_of(real), twin.spec)
    seeds = list(range(seed, seed + episodes))
    rows: list[JSON] = []
    for name, actor in actors.items():
        real_returns = run_real(actor, real, seeds, purpose=purpose, ledger=ledger)
        learned = run_learned(actor, twin, real_returns.first)
        rows.append(
            comparison_row(name, real_returns, learned)
            | {"real_steps": (real_steps or {}).get(name)}
        )
        if progress is not None:
            progress(len(rows) * episodes, len(actors) * episodes)
    return {
        "env_id": real.env_id,
        "episodes": episodes,
        "seeds": [seeds[0], seeds[-1]],
        "rows": rows,
        "real_steps_by_purpose": ledger.by_purpose,
    }


def real_environment(twin: Twin) -> EnvConfig:
    """The real environment that a twin was fitted to. Raises InvalidOptionError if the twin does not name one."""
    stored = twin.provenance.get("real")
    if stored is None:
        raise InvalidOptionError(
            "this twin does not name its real environment: pass one (`real`, ENV_ID)"
        )
    return EnvConfig.from_json(stored, where="provenance of the twin", error=StageError)


def comparison_row(policy: str, real: Returns, learned: Returns | None) -> JSON:
    """Entry of one policy in the table of a comparison; learned None: no learned episodes."""
    return {
        "policy": policy,
        "real_mean": real.mean,
        "real_ci95": list(real.ci95()),
        "learned_mean": None if learned is None else learned.mean,
        "learned_ci95": None if learned is None else list(learned.ci95()),
        "return_gap": None if learned is None else learned.mean - real.mean,
        "past_threshold_share": None if learned is None else learned.past_threshold,
        "episodes": len(real.values),
    }
