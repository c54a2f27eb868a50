"""Build of a twin and a policy: collect, fit, learn and compare, with one folder for all results."""

from __future__ import annotations

import dataclasses
import logging
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from world_env.atomic_io import write_json
from world_env.data.episode import split
from world_env.data.truncations import truncations_as_terminations
from world_env.errors import MissingExtraError
from world_env.fitting.config import FitConfig
from world_env.fitting.fit import fit_episodes
from world_env.model_evaluation.action_effects import measure_action_effects
from world_env.model_evaluation.error_by_horizon import measure_horizons
from world_env.models.base import WorldModel
from world_env.pipeline.config import BuildConfig
from world_env.policies.loading import trained_policy
from world_env.policies.random_policy import RandomPolicy
from world_env.policy_evaluation.compare import compare
from world_env.policy_evaluation.evaluate_twin import (
    TrainedPolicy,
    agreement,
    evaluate_twin,
    with_agreement,
)
from world_env.policy_evaluation.policy_pool import Pool
from world_env.real.real_env import spec_of
from world_env.real.step_ledger import StepLedger
from world_env.refinement.config import RefineConfig, check_actions
from world_env.refinement.preconditions import check_time_limit
from world_env.refinement.presets import given, preset
from world_env.refinement.refine import refine
from world_env.refinement.rounds import Report, Round, episodes_of_rounds
from world_env.reporting.report import write_report
from world_env.reporting.side_by_side_video import side_by_side
from world_env.results.comparison import Comparison
from world_env.results.fidelity import Agreement, Fidelity, ReturnCalibration
from world_env.results.provenance import facts
from world_env.rl.config import LearnConfig
from world_env.rl.learn import learn
from world_env.rollouts.real import run_real
from world_env.spec import WorldSpec, check_same_spaces
from world_env.twin.twin import KnownFunction
from world_env.types import JSON

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from world_env.data.episode import Episode


_log = logging.getLogger(__name__)
_VIDEO_STEPS = 120
JUDGE_SEEDS = 10_000
"""First reset seed of the final comparison. Data collection uses other seeds."""


@dataclass(frozen=True)
class Built:
    """Result of a build.

    seconds: (stage, duration) in order. page: the HTML report.
    """

    rounds: list[Round]
    comparison: Comparison
    seconds: list[tuple[str, float]]
    twin_folder: Path
    page: Path


def build(
    config: BuildConfig,
    *,
    report: Report | None = None,
    reward_fn: KnownFunction | None = None,
    termination_fn: KnownFunction | None = None,
) -> Built:
    """Build a twin and a policy, compare them with the real environment, and write the report.

    Collects real episodes, fits a twin, trains a policy in it, and compares the returns of the policy, of a random one
    and of a baseline in the twin and in the real environment. The baseline is the same algorithm, trained in the real
    environment on the same number of real steps. Run again with the same configuration to resume.

    report: progress callback, (stage, steps done, steps in total, values to log).
    reward_fn, termination_fn: known functions of the twin, as in `fit`.
    Raises InvalidOptionError, SpaceMismatchError, StageError and the errors of `refine`, before a real step where the
    settings show them.
    """
    report = report or (lambda stage, done, wanted, logs: None)
    out = Path(config.out)
    policy_pool = _checked(config, spec_of(config.real))
    ledger = StepLedger(out / "real-steps.json")
    began = time.perf_counter()
    rounds_config = refine_config(config)
    rounds = refine(
        rounds_config,
        ledger=ledger,
        report=report,
        reward_fn=reward_fn,
        termination_fn=termination_fn,
        record=config.replace(refinement=rounds_config).to_json(),
        may_change=("episodes", "baseline", "pool"),
    )
    last = rounds[-1]
    seconds = [
        (f"{stage} (round {part.number})", value)
        for part in rounds
        for stage, value in part.seconds.items()
    ]
    comparison = _compared(config, last, ledger, report, seconds)
    comparison = _write(out, comparison, ledger)
    mark = time.perf_counter()
    fidelity = _measured(config, last, ledger).replace(comparison=comparison.rows)
    twin = dataclasses.replace(last.twin, fidelity=fidelity)
    if policy_pool is not None:
        found = _agreement(f"{config.algo.lower()}_twin", last, policy_pool, ledger)
        twin = with_agreement(twin, *found)
    now = time.perf_counter()
    seconds += [("measure", round(now - mark, 1)), ("all", round(now - began, 1))]
    folder = twin.save(out / "twin")
    frames = _frames(config, last, ledger)
    # Again, because measures and videos take real steps too.
    comparison = _write(out, comparison, ledger)
    page = write_report(
        out / "report",
        title=f"{config.real.env_id}: learned and real returns",
        comparison=comparison,
        fidelity=twin.fidelity,
        provenance=twin.provenance,
        stages=seconds,
        frames=frames,
        rounds=[part.log for part in rounds],
    )
    return Built(rounds, comparison, seconds, folder, page)


def _compared(
    config: BuildConfig,
    last: Round,
    ledger: StepLedger,
    report: Report,
    seconds: list[tuple[str, float]],
) -> Comparison:
    """Comparison of the policies, after training the baseline; durations are added to `seconds`."""
    name = config.algo.lower()
    policies: dict[str, Any] = {
        "random": RandomPolicy(last.twin.spec.action_space),
        f"{name}_twin": last.policy,
    }
    real_steps = {"random": 0, f"{name}_twin": last.real_steps}
    if config.baseline:
        mark = time.perf_counter()
        baseline = _baseline(config, last, ledger, report)
        policies[f"{name}_real_same_steps"] = baseline
        # Stable-Baselines3 completes its last rollout, so this can exceed `last.real_steps`.
        real_steps[f"{name}_real_same_steps"] = baseline.num_timesteps
        duration = round(time.perf_counter() - mark, 1)
        seconds.append((f"{config.algo} in the real environment, same steps", duration))
    mark = time.perf_counter()
    comparison = compare(
        last.twin,
        policies,
        real=config.real,
        ledger=ledger,
        episodes=config.episodes,
        seed=JUDGE_SEEDS,
        real_steps=real_steps,
        progress=lambda done, wanted: report("compare", done, wanted, {}),
    )
    seconds.append(("compare", round(time.perf_counter() - mark, 1)))
    return comparison.replace(seed=config.seed, provenance=facts())


def _write(out: Path, comparison: Comparison, ledger: StepLedger) -> Comparison:
    """Write the comparison with the real steps so far, and return it."""
    ledger.save()
    comparison = comparison.replace(real_steps_by_purpose=ledger.by_purpose)
    write_json(out / "comparison.json", comparison.to_json())
    return comparison


def _baseline(
    config: BuildConfig, last: Round, ledger: StepLedger, report: Report
) -> BaseAlgorithm:
    """The same algorithm, trained in the real environment on as many real steps as the twin.

    It has the observation mode of the policy in the twin. Latents come from the twin's model, and the real steps of
    that model's data are not added to those of the baseline.
    """
    mode = refine_config(config).learn.observation_mode
    return learn(
        config.real,
        LearnConfig(
            algo=config.algo,
            steps=last.real_steps,
            num_envs=1,
            seed=config.seed,
            algo_kwargs=config.baseline_algo_kwargs,
            observation_mode=mode,
        ),
        out=Path(config.out) / f"{config.algo.lower()}-real",
        ledger=ledger,
        purpose="collect",
        progress=lambda done, wanted, logs: report("baseline", done, wanted, logs),
        encoder=None if mode == "observation" else last.twin,
    )


def refine_config(config: BuildConfig) -> RefineConfig:
    """Refinement of a build: the preset of its algorithm, with the values of the configuration that are not None."""
    plain = config.refinement or preset(
        config.real,
        Path(config.out),
        algo=config.algo,
        seed=config.seed,
        **given({"steps": config.steps}),
    )
    learning = {"steps": config.learn_steps, "observation_mode": config.observation_mode}
    fit = given({"family": config.family, "truncations": config.truncations}) | _named(config.fit)
    if config.allow_errors:
        fit["allow_errors"] = True
    if fit.get("family", plain.fit.family) != plain.fit.family:
        fit = {"model": {}} | fit  # the sizes of another family do not fit
    return plain.replace(
        **given(
            {
                "steps": config.steps,
                "rounds": config.rounds,
                "exploration": config.exploration,
                "tensorboard": config.tensorboard,
            }
        ),
        fit=plain.fit.replace(**fit),
        learn=plain.learn.replace(**given(learning)),
    )


def _named(fit: FitConfig) -> JSON:
    """The fields that are not the defaults."""
    plain = FitConfig()
    return {n: v for n in fit.__struct_fields__ if (v := getattr(fit, n)) != getattr(plain, n)}


def _measured(config: BuildConfig, last: Round, ledger: StepLedger) -> Fidelity:
    """Fidelity of the last round's twin with its errors by horizon, on its validation split, and action effects."""
    episodes = episodes_of_rounds(Path(config.out), last.number)
    if last.twin.provenance.recorded("fit", "truncations") == "ends":
        episodes = truncations_as_terminations(episodes, last.twin.spec)
    share = last.twin.provenance.recorded("fit", "validation_fraction")
    _, validation = split(episodes, share, config.seed)
    # Least squares on images would need a weight for each pair of pixels.
    images = last.twin.codec.images
    linear = None if images else _linear(episodes, last.twin.spec, share, config.seed)
    return last.twin.fidelity.replace(
        horizons=measure_horizons(last.twin, validation, linear=linear),
        action_effects=measure_action_effects(
            last.twin, config.real, ledger=ledger, seed=config.seed
        ),
    )


def _checked(config: BuildConfig, spec: WorldSpec) -> Pool | None:
    """Check the settings and load the policy pool, if there is one, before a real step."""
    check_actions(config.algo, spec)
    check_time_limit(config.real, spec)
    if config.pool is None:
        return None
    policy_pool = Pool.load(config.pool)
    check_same_spaces(spec_of(policy_pool.real), spec)
    return policy_pool


def _agreement(
    name: str, last: Round, policy_pool: Pool, ledger: StepLedger
) -> tuple[Agreement, ReturnCalibration | None]:
    """Agreement of learned and real returns over a policy pool and over the policy trained in the twin."""
    policy = trained_policy(last.policy)
    real = run_real(policy, policy_pool.real, policy_pool.seeds, purpose="judge", ledger=ledger)
    trained = TrainedPolicy(name, name, policy, real)
    return agreement(evaluate_twin(last.twin, policy_pool, [trained]), policy_pool)


def _linear(
    episodes: list[Episode], spec: WorldSpec, validation_fraction: float, seed: int
) -> WorldModel:
    """Least squares on the episodes that the twin was trained on."""
    config = FitConfig(
        family="linear", gradient_steps=500, validation_fraction=validation_fraction, seed=seed
    )
    with warnings.catch_warnings():
        # The fit of the twin has warned of the same data.
        warnings.simplefilter("ignore")
        return fit_episodes(episodes, spec, config, issues=[]).model


def _frames(config: BuildConfig, last: Round, ledger: StepLedger) -> list[np.ndarray]:
    """Side-by-side frames of one real and one learned episode; none where no renderer is installed."""
    try:
        frames = side_by_side(
            last.twin,
            last.policy,
            real=config.real,
            steps=_VIDEO_STEPS,
            seed=config.seed,
            ledger=ledger,
            mode="open_loop" if last.twin.codec.images else "closed_loop",
        )
    except MissingExtraError as error:
        _log.warning("the report has no frames: %s", error)
        return []
    return frames[:: max(1, len(frames) // 6)][:6]
