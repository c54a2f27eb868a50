"""The commands of `world-env`, one function each: arguments in, a line or a table out, and an exit status if not 0."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from training.build import BuildConfig, Built, build
from training.collect import CollectConfig, collect
from training.compare import compare, policy_actor, random_actor, write_comparison
from training.data_stages import DATA_STAGES, compare_with_logs
from training.fit import FitConfig, fit
from training.learn import LearnConfig, learn
from training.policy import RandomPolicy, load_policy
from training.provenance import facts
from training.real import RealConfig, StepLedger
from training.refine import RefineConfig, refine
from training.report import curves_from, read_comparison, show, write_report
from training.watch import watch
from world_env.errors import InvalidOptionError
from world_env.folder import find_twin, list_twins, read_json
from world_env.spec import JSON
from world_env.twin import Twin

_console = Console()
_FIT = FitConfig()
_T = TypeVar("_T")
_Flat = Annotated[_T, tyro.conf.arg(name="")]
"""A config whose fields are options by their own names, without its own in front."""


def _runs() -> Path:
    return Path(os.environ.get("WORLD_ENV_RUNS", "runs"))


class _Bars:
    """One progress bar a stage."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._stage = ""

    def __call__(self, stage: str, done: int, wanted: int, logs: JSON) -> None:
        if self._bar is None or stage != self._stage or done < self._bar.n:
            self.close()
            # From `done` on, because what was done before the first report took time that no bar saw.
            self._bar = tqdm(total=wanted, initial=done, desc=stage, unit="", mininterval=0.5)
            self._stage = stage
        self._bar.update(done - self._bar.n)
        numbers = {name: f"{value:.4g}" for name, value in logs.items() if isinstance(value, float)}
        shown = {name: numbers[name] for name in ("open_loop", "episode_return") if name in numbers}
        self._bar.set_postfix(shown)
        if done >= wanted:
            self.close()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = None


def twins() -> None:
    """List the bundled twins."""
    table = Table("twin", "real environment", "family", "real steps", "exploration")
    for name in list_twins():
        tree = read_json(find_twin(name))
        real = tree["provenance"].get("real", {}).get("env_id", "")
        provenance = tree["provenance"]
        table.add_row(
            name,
            real,
            tree["family"],
            str(provenance.get("real_steps")),
            str(provenance.get("exploration")),
        )
    _console.print(table)


def collect_stage(config: _Flat[CollectConfig]) -> None:
    """Collect real episodes; run again to go on or to add steps."""
    bars = _Bars()
    store = collect(config, progress=lambda done, wanted: bars("collect", done, wanted, {}))
    _console.print(f"{store.steps} real steps in {len(store)} episodes: {config.out}")


def fit_stage(
    data: str,
    out: Path,
    config: _Flat[FitConfig] = _FIT,
    horizon: int | None = None,
    tensorboard: Path | None = None,
) -> None:
    """Fit a twin to real episodes; run again after a kill to go on.

    Args:
        data: Folder of an episode store, or minari:ID.
        out: Folder of the twin.
        config: How it is fitted.
        horizon: The task's time limit in steps; without it the one that the data names.
        tensorboard: Folder of its logs.
    """
    bars = _Bars()
    twin = fit(
        data,
        out,
        config,
        horizon=horizon,
        progress=lambda done, wanted, logs: bars("fit", done, wanted, logs),
        tensorboard=tensorboard,
    )
    loss = twin.fidelity["loss"]
    _console.print(
        f"twin: {out}; best held-out open-loop score {loss['best_open_loop']:.4g} (0 is exact, 1 is lost)"
    )
    if "per_dimension" in loss:
        _console.print(f"one-step error per dimension: {loss['per_dimension']}")


def _real_of(twin: Twin, env_id: str | None) -> RealConfig:
    """The real environment that a twin was made from, with its arguments and wrappers; or a plain one by its id."""
    stored = twin.provenance.get("real")
    if stored is not None and env_id in (None, stored.get("env_id")):
        return RealConfig.from_json(stored)
    if env_id is None:
        raise InvalidOptionError(
            "this twin does not say which real environment it was made from: give --real ENV_ID"
        )
    return RealConfig(env_id)


@dataclass(frozen=True)
class LearnStage:
    """Train a policy in a twin, or with --real in reality."""

    out: Path
    """Folder of the policy."""
    twin: str | None = None
    """Bundled twin or folder."""
    real: str | None = None
    """Real environment id; every step is counted beside the policy."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the real environment."""
    wrappers: tuple[str, ...] = ()
    """Wrappers of the real environment, as module:Class, innermost first."""
    action_chunk: int = 1
    """Real actions that one action plays."""
    config: _Flat[LearnConfig] = field(default_factory=LearnConfig)

    def world(self) -> Twin | RealConfig:
        """The one world that was given. Raises InvalidOptionError for none or both."""
        if (self.twin is None) == (self.real is None):
            raise InvalidOptionError(
                "give exactly one world: --twin NAME_OR_FOLDER or --real ENV_ID"
            )
        if self.real is not None:
            return RealConfig(self.real, self.kwargs, self.wrappers, self.action_chunk)
        if self.kwargs or self.wrappers or self.action_chunk != 1:
            raise InvalidOptionError(
                "kwargs, wrappers and action_chunk belong to --real: a twin is as it was made"
            )
        return Twin.load(str(self.twin))


def learn_stage(stage: _Flat[LearnStage]) -> None:
    """Train a policy with Stable-Baselines3, in a twin (--twin) or in reality (--real)."""
    world = stage.world()
    bars = _Bars()
    ledger = (
        StepLedger(stage.out.with_name(f"{stage.out.name}-real-steps.json")) if stage.real else None
    )
    learn(
        world,
        stage.config,
        out=stage.out,
        ledger=ledger,
        progress=lambda done, wanted, logs: bars("learn", done, wanted, logs),
    )
    _console.print(f"policy: {stage.out}")


def compare_stage(
    twin: str,
    policies: tuple[Path, ...] | None = None,
    against: str | None = None,
    real: str | None = None,
    episodes: int = 100,
    seed: int = 10_000,
    out: Path | None = None,
) -> None:
    """Run frozen policies in the twin and in reality under one protocol; or replay logs in the twin.

    Args:
        twin: Bundled twin or folder.
        policies: Folders of the policies; a random one is always beside them.
        against: Instead of policies, logs: folder of an episode store, or minari:ID. No real step is made.
        real: Real environment id; without it the one that the twin was made from, arguments and wrappers included.
        episodes: Episodes a policy, in each world.
        seed: First reset seed, or of the twin's noise.
        out: Folder of comparison.json (or logs.json) and of the count of real steps; runs/compare/TWIN without it.
    """
    loaded = Twin.load(twin)
    if (policies is None) == (against is None) or (against is not None and real is not None):
        raise InvalidOptionError(
            "give either --policies, which act in the twin and in reality, or --against DATASET, whose logged actions "
            "are replayed in the twin: with logs, no policy acts and no --real environment is made"
        )
    target = out or _runs() / "compare" / Path(twin).name
    if against is not None:
        compare_with_logs(loaded, against, target / "logs.json", seed=seed)
        return
    config = _real_of(loaded, real)
    actors = {"random": random_actor(loaded.spec.action_space, range(episodes))}
    for folder in policies or ():
        name = str(folder) if folder.name in actors else folder.name
        actors[name] = policy_actor(load_policy(folder, expect=loaded.spec))
    ledger = StepLedger(target / "real-steps.json")
    bars = _Bars()
    comparison = compare(
        actors,
        loaded,
        config,
        ledger=ledger,
        episodes=episodes,
        seed=seed,
        purpose="spot_check",
        real_steps={"random": 0},
        progress=lambda done, wanted: bars("compare", done, wanted, {}),
    )
    ledger.save()
    counted = {"real_steps_by_purpose": ledger.by_purpose, "provenance": facts()}
    write_comparison(target / "comparison.json", comparison | counted)
    show_comparison(comparison)
    _console.print(f"comparison: {target / 'comparison.json'}")


def report_stage(
    comparison: Path, out: Path, twin: str | None = None, title: str | None = None
) -> None:
    """Write the page (HTML and Markdown) of a comparison, with a twin's measured error.

    Args:
        comparison: The comparison.json of `compare` or `build`.
        out: Folder of report.html and report.md.
        twin: Bundled twin or folder, for its open-loop error on held-out episodes.
        title: Of the page.
    """
    tree = read_comparison(comparison)
    page = write_report(
        out,
        title=title or f"{tree.get('env_id', 'A twin')}: learned and real",
        comparison=tree,
        curves=None if twin is None else curves_from(read_json(find_twin(twin))["fidelity"]),
    )
    _console.print(f"page: {page}")


def refine_stage(config: _Flat[RefineConfig]) -> None:
    """Rounds of collect, fit and learn."""
    ledger = StepLedger(config.out / "real-steps.json")
    for done in refine(config, ledger=ledger, report=_Bars()):
        _console.print(
            f"round {done.number}: {done.real_steps} real steps, twin {done.twin_folder}"
        )


def build_stage(
    env_id: str,
    /,
    steps: int | None = None,
    rounds: int | None = None,
    exploration: str | None = None,
    learn_steps: int | None = None,
    episodes: int = 100,
    out: Path | None = None,
    seed: int = 0,
    wrappers: tuple[str, ...] = (),
) -> None:
    """Collect, fit, learn, verify in reality, and save a twin with its card and a page."""
    folder = out or _runs() / "build" / env_id.replace("/", "-").replace(":", "-")
    _show(
        build(
            BuildConfig(
                env_id,
                folder,
                steps=steps,
                rounds=rounds,
                exploration=exploration,
                learn_steps=learn_steps,
                episodes=episodes,
                seed=seed,
                wrappers=wrappers,
            ),
            report=_Bars(),
        )
    )


def demo(env_id: str = "CartPole-v1", learn_steps: int = 150_000, updates: int = 2_000) -> None:
    """The whole way on CartPole: 2,000 real random steps, a twin, PPO inside it, and the truth about both."""
    folder = _runs() / "demo"
    config = BuildConfig(env_id, folder, learn_steps=learn_steps, fit=FitConfig(updates=updates))
    _show(build(config, report=_Bars()))


def watch_stage(
    twin: str,
    out: Path,
    policy: Path | None = None,
    real: str | None = None,
    steps: int = 200,
    seed: int = 0,
) -> None:
    """A policy (or random actions) in the twin beside the real environment, as a gif.

    Args:
        twin: Bundled twin or folder.
        out: The file, .gif or .mp4; the count of real steps is kept beside it.
        policy: Folder of the policy; without it random actions.
        real: Real environment id; "same" for the one that the twin was made from; without it the twin alone.
        steps: Steps shown at most.
        seed: Of both worlds and of the policy.
    """
    loaded = Twin.load(twin)
    actor = (
        RandomPolicy(loaded.spec.action_space)
        if policy is None
        else load_policy(policy, expect=loaded.spec)
    )
    config = None if real is None else _real_of(loaded, None if real == "same" else real)
    ledger = StepLedger(out.with_name(f"{out.stem}-real-steps.json"))
    path = watch(loaded, actor, out, real=config, steps=steps, seed=seed, ledger=ledger)
    if config is not None:
        ledger.save()
    _console.print(f"video: {path}")


def show_comparison(comparison: JSON) -> None:
    """The comparison as a table; a dash where a number is unknown."""
    table = Table("policy", "real return [95 %]", "learned return [95 %]", "promise", "real steps")
    for row in comparison["rows"]:
        real, learned = (
            f"{row[f'{side}_mean']:.1f} [{row[f'{side}_ci95'][0]:.1f}, {row[f'{side}_ci95'][1]:.1f}]"
            for side in ("real", "learned")
        )
        table.add_row(
            row["policy"], real, learned, f"{row['promise']:+.1f}", show(row["real_steps"])
        )
    _console.print(table)


def _show(built: Built) -> None:
    show_comparison(built.comparison)
    times = Table("stage", "seconds")
    for name, value in built.seconds:
        times.add_row(name, f"{value:.1f}")
    _console.print(times)
    _console.print(f"twin: {built.twin_folder}\npage: {built.page}")


STAGES: dict[str, Callable[..., int | None]] = {
    "demo": demo,
    "build": build_stage,
    "collect": collect_stage,
    **DATA_STAGES,
    "fit": fit_stage,
    "learn": learn_stage,
    "compare": compare_stage,
    "report": report_stage,
    "refine": refine_stage,
    "watch": watch_stage,
    "twins": twins,
}
