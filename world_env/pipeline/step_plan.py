"""Plan of the real environment steps of a stage, before the first one is taken."""

from __future__ import annotations

import math
from pathlib import Path

from world_env.collection.config import CollectConfig
from world_env.data.store import EpisodeStore
from world_env.model_evaluation.action_effects import most_real_steps
from world_env.pipeline.config import BuildConfig
from world_env.pipeline.judged import Judged, digest_of
from world_env.pipeline.refinement_config import final_ppo, refine_config
from world_env.policy_evaluation.config import PoolConfig
from world_env.policy_evaluation.policy_pool import Pool, pool_steps
from world_env.real.api_check import check_step
from world_env.real.real_env import spec_of
from world_env.real.step_ledger import StepLedger
from world_env.refinement.config import RefineConfig
from world_env.refinement.rounds import selected_policy
from world_env.refinement.step_plan import planned_rounds, stopped_before
from world_env.results.step_plan import PlannedSteps, StepPlan, at_most, of_episodes
from world_env.rl.config import LearnConfig
from world_env.rl.step_plan import training_steps
from world_env.spec import WorldSpec

VIDEO_STEPS = 120
"""Longest episode of the frames on the page of a build."""


def planned_steps(
    config: BuildConfig | RefineConfig | CollectConfig | PoolConfig, spec: WorldSpec | None = None
) -> StepPlan:
    """Return the real steps that a stage will take, by purpose, without a real step.

    Of an interrupted or a finished run in the folder, the plan has the steps that are left.
    spec: of the real environment (None: read from it).
    Raises what `spec_of` raises, and StageError for a damaged folder.
    """
    spec = spec_of(config.real) if spec is None else spec
    out = Path(config.out)
    name = "real-steps.json"
    if isinstance(config, BuildConfig):
        parts = _build_parts(config, spec)
    elif isinstance(config, RefineConfig):
        parts = planned_rounds(config, spec)
    elif isinstance(config, PoolConfig):
        parts = pool_steps(config, spec)
    else:
        name = "steps.json"
        stored = EpisodeStore(out).steps if EpisodeStore.exists(out) else 0
        left = max(0, config.steps - stored)
        # The last action of an episode may hold fewer real steps than its chunk.
        parts = [at_most(config.purpose, "episodes", left * spec.action_chunk, at_least=left)]
        if not stored:
            parts.insert(0, check_step(config.real))
    taken = StepLedger(out / name).by_purpose
    return StepPlan(parts=parts, taken=taken, max_steps=config.max_real_steps)


def baseline_config(config: BuildConfig, real_steps: int) -> LearnConfig:
    """Training of the baseline of a build on as many real steps as the twin."""
    return LearnConfig(
        algo=baseline_algo(config),
        steps=real_steps,
        num_envs=1,
        seed=config.seed,
        algo_kwargs=config.baseline_algo_kwargs,
        observation_mode=refine_config(config).learn.observation_mode,
    )


def baseline_algo(config: BuildConfig) -> str:
    """Algorithm of the baseline: SVG has no gradients of the real environment, and its policies are those of SAC."""
    return "SAC" if config.algo == "SVG" else config.algo


def baseline_folder(config: BuildConfig) -> Path:
    """Folder of the baseline of a build."""
    return Path(config.out) / f"{baseline_algo(config).lower()}-real"


def final_ppo_folder(config: BuildConfig) -> Path:
    """Folder of the policy that PPO trains in the twin of the last round."""
    return Path(config.out) / "ppo-twin"


def _build_parts(config: BuildConfig, spec: WorldSpec) -> list[PlannedSteps]:
    rounds = refine_config(config)
    parts = planned_rounds(rounds, spec)
    last = _last_round(rounds)
    if config.baseline:
        # By `patience` the twin may have fewer real steps than planned, and the baseline has as many.
        fewest = rounds.rounds - 1 if rounds.patience is None else rounds.patience
        bounds = [
            training_steps(
                baseline_config(config, rounds.steps_after(min(number, rounds.rounds - 1))),
                spec,
                baseline_folder(config),
                use=f"{baseline_algo(config)} in the real environment, the baseline (--no-baseline: none)",
            )
            for number in (
                fewest if last is None else last,
                rounds.rounds if last is None else last,
            )
        ]
        parts.append(bounds[1].replace(at_least=bounds[0].at_least))
    left, effects = _left_to_judge(config, rounds, last)
    if left and all(part.purpose != "validate" for part in parts):
        # A resumed build checks the environment before the first policy that it evaluates.
        parts.insert(0, check_step(config.real))
    policies = "1 policy" if left == 1 else f"{left} policies"
    use = f"final evaluation: {policies} x {config.judge_episodes} episodes (--judge-episodes)"
    horizon, chunk = spec.horizon, spec.action_chunk
    parts.append(of_episodes("judge", use, left * config.judge_episodes, horizon, chunk))
    if config.pool is not None:
        pool = Pool.load(config.pool)
        use = f"agreement over the pool: 1 policy x {len(pool.seeds)} episodes"
        parts.append(of_episodes("judge", use, len(pool.seeds), horizon, chunk))
    most = most_real_steps() * chunk
    if effects and most <= _most_left(config, parts):
        use = "effects of actions (none where --max-real-steps leaves fewer)"
        parts.append(at_most("evaluate", use, most))
    shown = min(VIDEO_STEPS, horizon or VIDEO_STEPS)
    parts.append(at_most("evaluate", "frames of the report page", shown * chunk))
    return parts


def _most_left(config: BuildConfig, parts: list[PlannedSteps]) -> float:
    """Largest number of steps that the limit may leave after these parts."""
    if config.max_real_steps is None:
        return math.inf
    taken = StepLedger(Path(config.out) / "real-steps.json").total(exclude=())
    return config.max_real_steps - taken - sum(part.at_least for part in parts)


def _last_round(rounds: RefineConfig) -> int | None:
    """Number of the last round if all rounds are finished; None if they are not."""
    for number in range(rounds.rounds):
        if stopped_before(rounds, number):
            return number - 1
        if not (Path(rounds.out) / f"round-{number}" / "round.json").is_file():
            return None
    return rounds.rounds - 1


def _left_to_judge(config: BuildConfig, rounds: RefineConfig, last: int | None) -> tuple[int, bool]:
    """(number of policies whose final evaluation is left, whether the effects of actions are left)."""
    ppo = final_ppo_folder(config) if final_ppo(config) is not None else None
    policies = 2 + config.baseline + (ppo is not None)
    if last is None:
        return policies, True
    out, judged = Path(config.out), Judged.read(Path(config.out))
    twin = digest_of(out / f"round-{last}" / "twin")
    name, baseline = config.algo.lower(), baseline_folder(config)
    digests = {"random": "random", f"{name}_twin": digest_of(selected_policy(out, last))}
    if ppo is not None and ppo.is_dir():
        digests["ppo_twin"] = digest_of(ppo)
    if config.baseline and baseline.is_dir():
        digests[f"{baseline_algo(config).lower()}_real_same_steps"] = digest_of(baseline)
    done = [
        judged.comparison(each, digest, twin, config.judge_episodes)
        for each, digest in digests.items()
    ]
    return policies - sum(one is not None for one in done), judged.action_effects_of != twin
