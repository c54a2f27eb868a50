"""Comparison of the learned and the real returns of policies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from world_env.device import torch_defaults
from world_env.errors import InvalidOptionError
from world_env.policies.loading import AnyPolicy, as_policy
from world_env.real.api_check import check_real
from world_env.real.env_config import AnyEnv, as_env_config, limited
from world_env.real.real_env import own_horizon, spec_of
from world_env.real.step_ledger import StepLedger
from world_env.results.comparison import Comparison, Interval, PolicyComparison
from world_env.rollouts.learned import run_learned
from world_env.rollouts.real import run_real
from world_env.rollouts.returns import Returns
from world_env.spec import EnvConfig, check_same_spaces
from world_env.struct import integer
from world_env.twin.twin import Twin


@torch_defaults()
def compare(
    twin: Twin | str | Path,
    policies: AnyPolicy | Mapping[str, AnyPolicy],
    *,
    real: AnyEnv | None = None,
    ledger: StepLedger | None = None,
    episodes: int = 100,
    seed: int = 10_000,
    purpose: str = "judge",
    real_steps: Mapping[str, int] | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Compare the returns of policies in the twin and in the real environment.

    Both sides have the same first observations and number of episodes, and the same time limit: the smaller one of the
    twin's and the real environment's. No policy is trained. In a process that has not checked the environment yet,
    `check_real` takes one step, counted under "validate".

    twin: the twin, its folder, or the name of a bundled one.
    policies: a policy, or name -> policy. A policy is what `world_env.policies.as_policy` takes: a model of
        Stable-Baselines3, its .zip, the folder of a saved policy, a function from batched observations to batched
        actions, or a `Policy`.
    real: the real environment: what `world_env.real.as_env_config` takes. None: the one that the twin was fitted to.
    ledger: counts the real steps under `purpose`. None: a ledger in memory.
    episodes: per policy and side. seed: first reset seed of the real environment.
    real_steps: name -> real steps that the policy has cost, for the table.
    workers: number of processes that play the real episodes, as in `run_real`. The returns do not depend on it.
    progress: called with (real episodes done, real episodes in total).
    Intervals are 95 % intervals (`world_env.rollouts.mean_interval`).
    Raises InvalidOptionError, SpaceMismatchError, EnvApiError and what `make_real` raises, before an episode.
    """
    episodes, seed = integer(episodes, "episodes"), integer(seed, "seed")
    if seed < 0:
        raise InvalidOptionError(f"seed must be >= 0, got {seed}")
    if episodes < 1:
        raise InvalidOptionError(f"episodes must be >= 1, got {episodes}")
    named = policies if isinstance(policies, Mapping) else {"policy": policies}
    twin = twin if isinstance(twin, Twin) else Twin.load(twin)
    playable = {name: as_policy(policy, twin.spec) for name, policy in named.items()}
    real = real_environment(twin) if real is None else as_env_config(real)
    ledger = StepLedger() if ledger is None else ledger
    limits = (twin.spec.horizon, own_horizon(real))
    real = limited(real, twin.spec.horizon)
    check_same_spaces(spec_of(real), twin.spec)
    horizon = check_real(real, ledger=ledger).horizon
    seeds = list(range(seed, seed + episodes))
    rows: list[PolicyComparison] = []
    for name, policy in playable.items():
        before = len(rows) * episodes
        real_returns = run_real(
            policy,
            real,
            seeds,
            purpose=purpose,
            ledger=ledger,
            workers=workers,
            progress=lambda done, before=before: (  # type: ignore[misc]
                progress and progress(before + done, len(playable) * episodes)
            ),
        )
        learned = run_learned(policy, twin, real_returns.first, policy_seeds=seeds, horizon=horizon)
        rows.append(comparison_row(name, real_returns, learned, (real_steps or {}).get(name)))
    return Comparison(
        env_id=real.env_id,
        episodes=episodes,
        horizon=horizon,
        limits=limits,
        seeds=(seeds[0], seeds[-1]),
        rows=rows,
        real_steps_by_purpose=ledger.by_purpose,
    )


def real_environment(twin: Twin) -> EnvConfig:
    """The real environment that a twin was fitted to. Raises InvalidOptionError if the twin does not name one."""
    if twin.provenance.real is None:
        raise InvalidOptionError(
            "this twin does not name its real environment: pass one (`real`, ENV_ID)"
        )
    return twin.provenance.real


def comparison_row(
    policy: str, real: Returns, learned: Returns | None, real_steps: int | None = None
) -> PolicyComparison:
    """Entry of one policy in the table of a comparison; learned None: no learned episodes."""
    return PolicyComparison(
        policy=policy,
        real_mean=real.mean,
        real_ci95=_interval(real),
        learned_mean=None if learned is None else learned.mean,
        learned_ci95=None if learned is None else _interval(learned),
        past_threshold_share=None if learned is None else learned.past_threshold,
        episodes=len(real.values),
        real_steps=real_steps,
    )


def _interval(returns: Returns) -> Interval | None:
    return returns.ci95() if len(returns.values) > 1 else None
