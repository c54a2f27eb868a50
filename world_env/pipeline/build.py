"""`world-env build ENV_ID`: collect, fit, learn, compare, and one folder with the twin, its card and a page."""

from __future__ import annotations

import dataclasses
import logging
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from world_env.atomic_io import write_json
from world_env.data.dataset import encode_episodes
from world_env.data.episode import split
from world_env.errors import MissingExtraError
from world_env.fitting.config import FitConfig
from world_env.fitting.fit import fit_episodes
from world_env.model_evaluation.action_effects import counterfactual
from world_env.model_evaluation.error_by_horizon import measure_horizons
from world_env.model_evaluation.open_loop import evaluate_open_loop
from world_env.models.base import WorldModel
from world_env.pipeline.config import BuildConfig
from world_env.policy_evaluation.compare import compare
from world_env.policy_evaluation.evaluate_twin import TrainedPolicy, agreement, judge
from world_env.policy_evaluation.policy_pool import Pool
from world_env.provenance import facts
from world_env.real.real_env import spec_of
from world_env.real.step_ledger import StepLedger
from world_env.refinement.presets import preset
from world_env.refinement.refine import RefineConfig, Report, Round, check_actions, refine
from world_env.refinement.rounds import episodes_until
from world_env.reporting.report import write_report
from world_env.reporting.side_by_side_video import side_by_side
from world_env.rl.config import LearnConfig
from world_env.rl.learn import learn
from world_env.rollouts.actors import policy_actor, random_actor
from world_env.rollouts.real import run_real
from world_env.spec import EnvConfig, WorldSpec, check_same_spaces
from world_env.twin.fidelity import error_curves
from world_env.twin.twin import KnownFunction, Twin
from world_env.types import JSON

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from world_env.data.episode import Episode


_log = logging.getLogger(__name__)


_FILMED_STEPS = 120


JUDGE_SEEDS = 10_000
"""Reset seeds of judged episodes begin here; collection never comes near them."""


@dataclass(frozen=True)
class Built:
    """What a build left. comparison: as `world_env.policy_evaluation.compare.compare` returns it. page: the HTML report."""

    rounds: list[Round]
    comparison: JSON
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
    """Collect, fit, learn, judge once in reality, save the twin with its card, write the page.

    reward_fn, termination_fn: known functions of the twin, as in `world_env.fitting.fit.fit_episodes`.
    """
    say = report or (lambda stage, done, wanted, logs: None)
    out, name = Path(config.out), config.algo.lower()
    real = config.real
    ledger = StepLedger(out / "real-steps.json")
    judges = _judges(config, real)
    began = time.perf_counter()
    rounds = refine(
        refine_config(config),
        ledger=ledger,
        report=report,
        reward_fn=reward_fn,
        termination_fn=termination_fn,
    )
    last = rounds[-1]
    policies = {
        "random": random_actor(last.twin.spec.action_space, range(config.episodes)),
        f"{name}_twin": policy_actor(last.policy),
    }
    real_steps = {"random": 0, f"{name}_twin": last.real_steps}
    seconds = [
        (f"{stage} (round {part.number})", value)
        for part in rounds
        for stage, value in part.seconds.items()
    ]
    if config.baseline:
        mark = time.perf_counter()
        baseline = _baseline(config, last, ledger, say)
        policies[f"{name}_real_same_steps"] = policy_actor(baseline)
        # Stable-Baselines3 finishes its last rollout: what was really spent.
        real_steps[f"{name}_real_same_steps"] = baseline.num_timesteps
        seconds.append(
            (f"{config.algo} in reality, same steps", round(time.perf_counter() - mark, 1))
        )
    mark = time.perf_counter()
    comparison = compare(
        policies,
        last.twin,
        real,
        ledger=ledger,
        episodes=config.episodes,
        seed=JUDGE_SEEDS,
        real_steps=real_steps,
        progress=lambda done, wanted: say("compare", done, wanted, {}),
    )
    seconds.append(("compare", round(time.perf_counter() - mark, 1)))
    comparison["seed"] = config.seed
    _write(out, comparison, ledger)
    mark = time.perf_counter()
    curves, measured = _measured(config, last, ledger)
    if judges is not None:
        measured |= _agreement(f"{name}_twin", last, judges, ledger)
    now = time.perf_counter()
    seconds += [("measure", round(now - mark, 1)), ("all", round(now - began, 1))]
    last = dataclasses.replace(last, twin=_judged_twin(config, last, comparison, measured))
    folder = last.twin.save(out / "twin")
    frames = _frames(config, last, ledger)
    _write(out, comparison, ledger)  # again: measuring and filming spend real steps too
    page = _page(config, rounds, last.twin, comparison, curves, seconds, frames)
    return Built(rounds, comparison, seconds, folder, page)


def _write(out: Path, comparison: JSON, ledger: StepLedger) -> None:
    ledger.save()
    comparison["real_steps_by_purpose"] = ledger.by_purpose
    write_json(out / "comparison.json", comparison)


def _baseline(config: BuildConfig, last: Round, ledger: StepLedger, say: Report) -> BaseAlgorithm:
    """The same algorithm in reality, on as many real steps as the twin cost.

    It sees what the twin's policy does: through the twin's model where that does, whose own real steps it does not pay.
    """
    plan, own = refine_config(config), config.refinement
    mode = plan.learn_of(plan.rounds - 1).observation_mode
    return learn(
        config.real,
        LearnConfig(
            algo=config.algo,
            steps=last.real_steps,
            rows=1,
            seed=config.seed,
            options=own.learn.options if own is not None and config.algo == "PPO" else {},
            observation_mode=mode,
        ),
        out=Path(config.out) / f"{config.algo.lower()}-real",
        ledger=ledger,
        purpose="collect",
        progress=lambda done, wanted, logs: say("learn in reality", done, wanted, logs),
        through=None if mode == "pixels" else last.twin,
    )


def _judged_twin(config: BuildConfig, last: Round, comparison: JSON, measured: JSON) -> Twin:
    """The last round's twin with what was judged and measured."""
    judged = {"comparison": comparison["rows"], "judged": config.episodes}
    return dataclasses.replace(last.twin, fidelity=last.twin.fidelity | judged | measured)


def refine_config(config: BuildConfig) -> RefineConfig:
    """The rounds of a build: the preset of its algorithm, with the values that the configuration names."""
    plain = config.refinement or preset(
        config.real,
        Path(config.out),
        algo=config.algo,
        seed=config.seed,
        **_given({"steps": config.steps}),
    )
    learning = {"steps": config.learn_steps, "observation_mode": config.observation_mode}
    return dataclasses.replace(
        plain,
        **_given(
            {"steps": config.steps, "rounds": config.rounds, "exploration": config.exploration}
        ),
        fit=dataclasses.replace(
            plain.fit, **_given({"family": config.family}), **_named(config.fit)
        ),
        learn=dataclasses.replace(plain.learn, **_given(learning)),
    )


def _given(fields: JSON) -> JSON:
    """The fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def _named(fit: FitConfig) -> JSON:
    """The fields that are not the defaults."""
    plain = dataclasses.asdict(FitConfig())
    return {n: value for n, value in dataclasses.asdict(fit).items() if value != plain[n]}


def _measured(config: BuildConfig, last: Round, ledger: StepLedger) -> tuple[JSON, JSON]:
    """(curves for the page, measures for the twin) on what the last round's twin was not trained on."""
    episodes = episodes_until(Path(config.out), last.number)
    share = last.twin.provenance["fit"]["held_out"]
    _, held_out = split(episodes, share, config.seed)
    images = last.twin.codec.images  # they are no matter for least squares
    linear = None if images else _linear(episodes, last.twin.spec, share, config.seed)
    return curves_of(last.twin, held_out, linear), {
        "horizons": measure_horizons(last.twin, held_out, linear=linear),
        "counterfactual": counterfactual(last.twin, config.real, ledger=ledger, seed=config.seed),
    }


def _judges(config: BuildConfig, real: EnvConfig) -> Pool | None:
    """The pool that judges the twin, if one does; what cannot work is refused before a real step is spent."""
    spec = spec_of(real)
    check_actions(config.algo, spec)
    if config.pool is None:
        return None
    judges = Pool.load(config.pool)
    check_same_spaces(spec_of(judges.real), spec)
    return judges


def _agreement(name: str, last: Round, judges: Pool, ledger: StepLedger) -> JSON:
    """How far the twin agrees with reality over a pool, and over the policy that was trained in it."""
    actor = policy_actor(last.policy)
    reality = run_real(actor, judges.real, judges.seeds, purpose="judge", ledger=ledger)
    trained = TrainedPolicy(name, name, lambda: actor, reality)
    return agreement(judge(last.twin, judges, [trained]), judges)


def curves_of(twin: Twin, held_out: list[Episode], linear: WorldModel | None) -> JSON:
    """Open-loop errors of the twin, of "nothing moves" and, where given, of the linear family, on held-out episodes."""
    data = encode_episodes(held_out, twin.codec)
    horizon = int(data.left.max())
    found = error_curves(
        {"open_loop": evaluate_open_loop(twin.model, data, horizon=horizon).to_json()}
    )
    assert found is not None
    if linear is None:
        return found
    line = evaluate_open_loop(linear, data, horizon=horizon).to_json()
    return found | {"linear": line["error"]}


def _linear(episodes: list[Episode], spec: WorldSpec, held_out: float, seed: int) -> WorldModel:
    """Least squares on the episodes that the twin was trained on, and on no other."""
    config = FitConfig(family="linear", updates=500, held_out=held_out, seed=seed)
    with warnings.catch_warnings():
        # What the data lacks has been said when the twin itself was fitted.
        warnings.simplefilter("ignore")
        return fit_episodes(episodes, spec, config).model


def _page(
    config: BuildConfig,
    rounds: list[Round],
    twin: Twin,
    comparison: JSON,
    curves: JSON,
    seconds: list[tuple[str, float]],
    frames: list[np.ndarray],
) -> Path:
    provenance = twin.provenance | facts() | {"seeds": str(config.seed)}
    return write_report(
        Path(config.out) / "report",
        title=f"{config.env_id}: learned and real",
        comparison=comparison | {"provenance": provenance},
        curves=curves,
        stages=[{"stage": name, "seconds": value} for name, value in seconds],
        frames=frames,
        fidelity=twin.fidelity,
        rounds=[part.log for part in rounds],
    )


def _frames(config: BuildConfig, last: Round, ledger: StepLedger) -> list[np.ndarray]:
    """A few moments of one episode, learned beside real; nothing where no renderer is installed.

    Images with the same actions in both worlds, and how far they are apart.
    """
    try:
        pictures = side_by_side(
            last.twin,
            last.policy,
            real=config.real,
            steps=_FILMED_STEPS,
            seed=config.seed,
            ledger=ledger,
            mode="open_loop" if last.twin.codec.images else "closed_loop",
        )
    except MissingExtraError as error:
        _log.warning("the page has no pictures: %s", error)
        return []
    return pictures[:: max(1, len(pictures) // 6)][:6]
