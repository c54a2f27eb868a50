"""The same frozen policies in both worlds, under one protocol: what the twin promises and what reality pays."""

from __future__ import annotations

from collections.abc import Callable

from world_env.errors import InvalidOptionError
from world_env.policy_evaluation.config import MIN_EPISODES
from world_env.real.real_env import spec_of
from world_env.real.step_ledger import StepLedger
from world_env.rollouts.actors import Actor
from world_env.rollouts.learned import check_horizon, run_learned
from world_env.rollouts.real import run_real
from world_env.rollouts.returns import Returns
from world_env.spec import EnvConfig, check_same_spaces
from world_env.twin.twin import Twin
from world_env.types import JSON


def compare(
    policies: dict[str, Actor],
    twin: Twin,
    real: EnvConfig,
    *,
    ledger: StepLedger,
    episodes: int = 100,
    seed: int = 10_000,
    purpose: str = "judge",
    real_steps: dict[str, int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> JSON:
    """Every policy in both worlds: the same reset seeds, first observations, limit and episode count.

    Returns {"env_id", "episodes", "seeds", "rows": [{"policy", "real_mean", "real_ci95", "learned_mean",
    "learned_ci95", "return_gap", "real_steps", "past_threshold_share"}]}; promise = learned minus real.
    progress: called after each policy with (episodes judged in each world, episodes wanted).
    Raises InvalidOptionError and SpaceMismatchError before a real step is spent.
    """
    if episodes < MIN_EPISODES:
        raise InvalidOptionError(
            f"episodes is {episodes}: fewer than {MIN_EPISODES} tell too little"
        )
    check_horizon(twin)
    check_same_spaces(spec_of(real), twin.spec)
    seeds = list(range(seed, seed + episodes))
    rows: list[JSON] = []
    for name, actor in policies.items():
        reality = run_real(actor, real, seeds, purpose=purpose, ledger=ledger)
        learned = run_learned(actor, twin, reality.first)
        rows.append(
            comparison_row(name, reality, learned) | {"real_steps": (real_steps or {}).get(name)}
        )
        if progress is not None:
            progress(len(rows) * episodes, len(policies) * episodes)
    return {
        "env_id": real.env_id,
        "episodes": episodes,
        "seeds": [seeds[0], seeds[-1]],
        "rows": rows,
    }


def comparison_row(policy: str, reality: Returns, learned: Returns | None) -> JSON:
    """One policy's line of a comparison."""
    return {
        "policy": policy,
        "real_mean": reality.mean,
        "real_ci95": list(reality.ci95()),
        "learned_mean": None if learned is None else learned.mean,
        "learned_ci95": None if learned is None else list(learned.ci95()),
        "return_gap": None if learned is None else learned.mean - reality.mean,
        "past_threshold_share": None if learned is None else learned.past_threshold,
        "episodes": len(reality.values),
    }
