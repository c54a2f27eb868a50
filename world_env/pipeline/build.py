"""Build of a twin and a policy: collect, fit, learn and compare, with one folder for all results."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from world_env.atomic_io import write_json
from world_env.data.episode import split
from world_env.data.truncations import truncations_as_terminations
from world_env.device import torch_defaults
from world_env.errors import MissingExtraError, RealStepLimitError, WorldEnvError
from world_env.fitting.config import FitConfig
from world_env.fitting.fit import fit_episodes
from world_env.model_evaluation.action_effects import measure_action_effects, most_real_steps
from world_env.model_evaluation.error_by_horizon import measure_horizons
from world_env.models.base import WorldModel
from world_env.pipeline.config import BuildConfig
from world_env.pipeline.judged import Judged, digest_of
from world_env.pipeline.preconditions import check_before_steps
from world_env.pipeline.refinement_config import final_ppo, refine_config
from world_env.pipeline.step_plan import (
    VIDEO_STEPS,
    baseline_algo,
    baseline_config,
    baseline_folder,
    final_ppo_folder,
    planned_steps,
)
from world_env.policies.loading import AnyPolicy, trained_policy
from world_env.policies.random_policy import RandomPolicy
from world_env.policy_evaluation.compare import compare
from world_env.policy_evaluation.evaluate_twin import (
    TrainedPolicy,
    agreement,
    evaluate_twin,
    with_agreement,
)
from world_env.policy_evaluation.policy_pool import Pool
from world_env.real.step_ledger import StepLedger
from world_env.refinement.preconditions import check_folder
from world_env.refinement.refine import prepare, run_rounds
from world_env.refinement.rounds import Known, Report, Round, episodes_of_rounds
from world_env.reporting.report import write_report
from world_env.reporting.side_by_side_video import side_by_side
from world_env.results.comparison import Comparison
from world_env.results.fidelity import ActionEffects, Agreement, Fidelity, ReturnCalibration
from world_env.results.provenance import facts
from world_env.rl.learn import learn
from world_env.rollouts.real import run_real
from world_env.run_config import MAY_CHANGE, one_at_a_time
from world_env.spec import encoded_shapes
from world_env.twin.serialization import read_json
from world_env.twin.twin import KnownFunction, Twin

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from world_env.data.episode import Episode


_Measured = TypeVar("_Measured")
_log = logging.getLogger(__name__)
_LOWER = "--steps or --judge-episodes, or pass --no-baseline"
"""Settings that make the plan of real steps smaller."""
_MAY_CHANGE = (
    *("judge_episodes", "baseline", "pool", "refinement.patience"),
    *("fit.allow_errors", "refinement.fit.allow_errors"),
    *(f"refinement.{name}" for name in MAY_CHANGE),
)
"""Settings of a build that may differ when it is resumed, besides those of any stage."""
_RESULTS = ("comparison.json", "judged.json", "twin")
_MAX_LINEAR_COLUMNS = 400
"""Largest number of encoded columns of an observation with which errors are compared with least squares. Its time grows
with the square: about a minute with 400 columns on one core, ten minutes with 1,000."""
JUDGE_SEEDS = 10_000
"""First reset seed of the final comparison. Data collection uses other seeds."""


@dataclass(frozen=True)
class _Compared:
    """A policy of the final comparison. digest: its identity. real_steps: real steps that it has cost."""

    policy: AnyPolicy
    digest: str
    real_steps: int


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


@torch_defaults()
@one_at_a_time(lambda config, **_: config.out)
def build(
    config: BuildConfig,
    *,
    report: Report | None = None,
    reward_fn: KnownFunction | None = None,
    termination_fn: KnownFunction | None = None,
) -> Built:
    """Build a twin and a policy, compare them with the real environment, and write the report.

    Collects real episodes, fits a twin, trains a policy in it, and compares the returns of the policy, of a random one
    and of a baseline in the twin and in the real environment. The baseline is the same algorithm (for SVG: SAC),
    trained in the real environment on the same number of real steps. With SVG, PPO is also trained in the last round's
    twin. Run again with the same configuration to resume. The plan of the real steps is logged before the first one;
    `planned_steps` returns it.

    report: progress callback, (stage, steps done, steps in total, values to log).
    reward_fn, termination_fn: known functions of the twin, as in `fit`.
    Raises InvalidOptionError, SpaceMismatchError, StageError and the errors of `refine`, before a real step where the
    settings show them; RealStepLimitError if the plan exceeds `max_real_steps`, before a real step, or at that limit;
    StageBusyError while another process uses the folder.
    """
    report = report or (lambda stage, done, wanted, logs: None)
    out = Path(config.out)
    rounds_config = refine_config(config)
    known: Known = {"reward_fn": reward_fn, "termination_fn": termination_fn}
    spec = check_before_steps(config, reward_fn)
    policy_pool = None if config.pool is None else Pool.load(config.pool)
    plan = planned_steps(config, spec)
    plan.check(_LOWER)
    check_folder(out, spec, rounds_config.steps)
    prepare(
        rounds_config,
        known,
        config.replace(refinement=rounds_config).to_json(),
        may_change=_MAY_CHANGE,
        results=_RESULTS,
    )
    _log.info("%s", plan)
    ledger = StepLedger(out / "real-steps.json", max_steps=config.max_real_steps)
    rounds = run_rounds(rounds_config, spec, ledger, report, known)
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
    seconds.append(("measure", round(time.perf_counter() - mark, 1)))
    # Of a resumed build, the rounds were made by other processes.
    seconds.append(("all", round(sum(duration for _, duration in seconds), 1)))
    folder = twin.save(out / "twin")
    if fidelity.action_effects is not None:
        Judged.read(out).replace(action_effects_of=digest_of(last.twin_folder)).write(out)
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
    """Comparison of the policies, after training the baseline; durations are added to `seconds`.

    The final evaluation of a policy is recorded at once, and not repeated by a later run.
    """
    out, name = Path(config.out), config.algo.lower()
    policies: dict[str, _Compared] = {
        "random": _Compared(RandomPolicy(last.twin.spec.action_space), "random", 0),
        f"{name}_twin": _Compared(last.policy, digest_of(last.policy_folder), last.real_steps),
    }
    if (learning := final_ppo(config)) is not None:
        mark = time.perf_counter()
        ppo = learn(
            last.twin,
            learning,
            out=final_ppo_folder(config),
            progress=lambda done, wanted, logs: report("learn", done, wanted, logs),
        )
        digest = digest_of(final_ppo_folder(config))
        policies["ppo_twin"] = _Compared(ppo, digest, last.real_steps)
        seconds.append(("PPO in the last twin", round(time.perf_counter() - mark, 1)))
    if config.baseline:
        mark = time.perf_counter()
        baseline = _baseline(config, last, ledger, report)
        digest = digest_of(baseline_folder(config))
        # Stable-Baselines3 completes its last rollout, so this can exceed `last.real_steps`.
        steps = baseline.num_timesteps
        algo, duration = baseline_algo(config), round(time.perf_counter() - mark, 1)
        policies[f"{algo.lower()}_real_same_steps"] = _Compared(baseline, digest, steps)
        seconds.append((f"{algo} in the real environment, same steps", duration))
    mark = time.perf_counter()
    twin, episodes = digest_of(last.twin_folder), config.judge_episodes
    judged, found = Judged.read(out), list[Comparison]()
    for number, (each, policy) in enumerate(policies.items()):
        one = judged.comparison(each, policy.digest, twin, episodes)
        if one is None:
            progress = _progress(report, number * episodes, len(policies) * episodes)
            one = _judge(config, last, each, policy, ledger, progress)
            judged = judged.with_comparison(each, policy.digest, twin, one)
            judged.write(out)
        found.append(one)
    seconds.append(("compare", round(time.perf_counter() - mark, 1)))
    return found[0].replace(
        rows=[row for one in found for row in one.rows],
        judging_steps={name: n for one in found for name, n in one.judging_steps.items()},
        seed=config.seed,
        provenance=facts(),
    )


def _judge(
    config: BuildConfig,
    last: Round,
    name: str,
    policy: _Compared,
    ledger: StepLedger,
    progress: Callable[[int, int], None],
) -> Comparison:
    """The final evaluation of one policy."""
    before = ledger.by_purpose.get("judge", 0)
    found = compare(
        last.twin,
        {name: policy.policy},
        real=config.real,
        ledger=ledger,
        episodes=config.judge_episodes,
        seed=JUDGE_SEEDS,
        real_steps={name: policy.real_steps},
        progress=progress,
    )
    return found.replace(judging_steps={name: ledger.by_purpose.get("judge", 0) - before})


def _progress(report: Report, before: int, total: int) -> Callable[[int, int], None]:
    """Progress of one policy's episodes among those of all policies."""
    return lambda done, _: report("compare", before + done, total, {})


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
    learning = baseline_config(config, last.real_steps)
    return learn(
        config.real,
        learning,
        out=baseline_folder(config),
        ledger=ledger,
        purpose="collect",
        progress=lambda done, wanted, logs: report("baseline", done, wanted, logs),
        encoder=None if learning.observation_mode == "observation" else last.twin,
    )


def _measured(config: BuildConfig, last: Round, ledger: StepLedger) -> Fidelity:
    """Fidelity of the last round's twin with its errors by horizon, on its validation split, and action effects."""
    episodes = episodes_of_rounds(Path(config.out), last.number)
    if last.twin.provenance.recorded("fit", "truncations") == "ends":
        episodes = truncations_as_terminations(episodes, last.twin.spec)
    share = last.twin.provenance.recorded("fit", "validation_fraction")
    _, validation = split(episodes, share, config.seed)
    # Least squares has a weight for each pair of columns: of pixels, or of the categories of a grid world.
    columns = sum(map(math.prod, encoded_shapes(last.twin.spec).values()))
    few = columns <= _MAX_LINEAR_COLUMNS and not last.twin.codec.images
    linear = _linear(episodes, last.twin, share, config.seed) if few else None
    effects = _stored_effects(Path(config.out), last) or _diagnosed(
        "effects of actions",
        lambda: _action_effects(config, last.twin, ledger),
    )
    return last.twin.fidelity.replace(
        horizons=measure_horizons(last.twin, validation, linear=linear), action_effects=effects
    )


def _action_effects(config: BuildConfig, twin: Twin, ledger: StepLedger) -> ActionEffects:
    """Raises RealStepLimitError without a step where the limit might stop the measure, whose steps would be lost."""
    most, left = most_real_steps() * config.real.action_chunk, ledger.steps_left
    if left is not None and left < most:
        raise RealStepLimitError(
            f"the limit of {config.max_real_steps:,} real steps leaves {left:,}, and they need up to {most:,}. Run "
            "again with a larger limit (--max-real-steps, max_real_steps) to add them."
        )
    return measure_action_effects(twin, config.real, ledger=ledger, seed=config.seed)


def _diagnosed(name: str, measure: Callable[[], _Measured]) -> _Measured | None:
    """The result of a measure that a build can do without; None, with a warning, where it fails.

    The comparison is complete by then: a missing package, the limit on real steps or an error of the environment must
    not lose it.
    """
    try:
        return measure()
    except Exception as error:  # environments raise any kind of error
        own = isinstance(error, WorldEnvError)
        if own and not isinstance(error, MissingExtraError | RealStepLimitError):
            raise
        text = str(error) if own else f"{type(error).__name__}: {error}"
        _log.warning("the report has no %s: %s", name, text)
        return None


def _stored_effects(out: Path, last: Round) -> ActionEffects | None:
    """Effects of actions that an earlier run measured of this twin."""
    stored = out / "twin"
    if not (stored / "twin.json").is_file():
        return None
    if Judged.read(out).action_effects_of != digest_of(last.twin_folder):
        return None
    fidelity: Fidelity = read_json(stored)["fidelity"]
    return fidelity.action_effects


def _agreement(
    name: str, last: Round, policy_pool: Pool, ledger: StepLedger
) -> tuple[Agreement, ReturnCalibration | None]:
    """Agreement of learned and real returns over a policy pool and over the policy trained in the twin."""
    policy = trained_policy(last.policy)
    real = run_real(policy, policy_pool.real, policy_pool.seeds, purpose="judge", ledger=ledger)
    trained = TrainedPolicy(name, name, policy, real)
    return agreement(evaluate_twin(last.twin, policy_pool, [trained]), policy_pool)


def _linear(
    episodes: list[Episode], twin: Twin, validation_fraction: float, seed: int
) -> WorldModel:
    """Least squares on the episodes that the twin was trained on, with its encoding."""
    config = FitConfig(
        family="linear", gradient_steps=500, validation_fraction=validation_fraction, seed=seed
    )
    with warnings.catch_warnings():
        # The fit of the twin has warned of the same data.
        warnings.simplefilter("ignore")
        return fit_episodes(episodes, twin.spec, config, encoding=twin, issues=[]).model


def _frames(config: BuildConfig, last: Round, ledger: StepLedger) -> list[np.ndarray]:
    """Side-by-side frames of one real and one learned episode; none where they cannot be drawn."""
    frames = _diagnosed(
        "frames",
        lambda: side_by_side(
            last.twin,
            last.policy,
            real=config.real,
            steps=VIDEO_STEPS,
            seed=config.seed,
            ledger=ledger,
            mode="open_loop" if last.twin.codec.images else "closed_loop",
        ),
    )
    return [] if frames is None else frames[:: max(1, len(frames) // 6)][:6]
