"""The commands of `world-env`, one function each: arguments in, a line or a table out, and an exit status if not 0."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from rich.table import Table

from world_env.cli.console import Bars, console, real_of_twin, runs_folder
from world_env.cli.data_commands import DATA_STAGES
from world_env.cli.evaluation_commands import JUDGE_STAGES, show_comparison
from world_env.collection.collect import collect
from world_env.collection.config import CollectConfig
from world_env.collection.exploration import RandomPolicy
from world_env.errors import InvalidOptionError
from world_env.fitting.config import FitConfig
from world_env.fitting.fit import fit
from world_env.pipeline.build import Built, build
from world_env.pipeline.config import BuildConfig
from world_env.pipeline.demo import demo
from world_env.policies.saved_policy import load_policy
from world_env.real.step_ledger import StepLedger
from world_env.refinement.refine import RefineConfig, refine
from world_env.reporting.futures_video import futures
from world_env.reporting.plots import rounds_picture
from world_env.reporting.report import read_comparison, write_report
from world_env.reporting.side_by_side_video import watch
from world_env.rl.learn import LearnConfig, learn
from world_env.spec import EnvConfig
from world_env.twin.serialization import find_twin, list_twins, read_json
from world_env.twin.twin import Twin

_FIT = FitConfig()
_T = TypeVar("_T")
_Flat = Annotated[_T, tyro.conf.arg(name="")]
"""A config whose fields are options by their own names, without its own in front."""


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
    console.print(table)


def collect_stage(config: _Flat[CollectConfig]) -> None:
    """Collect real episodes; run again to go on or to add steps."""
    bars = Bars()
    store = collect(config, progress=lambda done, wanted: bars("collect", done, wanted, {}))
    console.print(f"{store.steps} real steps in {len(store)} episodes: {config.out}")


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
    bars = Bars()
    twin = fit(
        data,
        out,
        config,
        horizon=horizon,
        progress=lambda done, wanted, logs: bars("fit", done, wanted, logs),
        tensorboard=tensorboard,
    )
    loss = twin.fidelity["loss"]
    console.print(
        f"twin: {out}; best held-out open-loop score {loss['best_open_loop']:.4g} (0 is exact, 1 is lost)"
    )
    if "per_dimension" in loss:
        console.print(f"one-step error per dimension: {loss['per_dimension']}")


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
    through: str | None = None
    """Bundled twin or folder that a policy sees reality through, where --observation-mode is not "pixels"."""
    config: _Flat[LearnConfig] = field(default_factory=LearnConfig)

    def world(self) -> Twin | EnvConfig:
        """The one world that was given. Raises InvalidOptionError for none or both."""
        if (self.twin is None) == (self.real is None):
            raise InvalidOptionError(
                "give exactly one world: --twin NAME_OR_FOLDER or --real ENV_ID"
            )
        if self.real is not None:
            real = EnvConfig(self.real, self.kwargs, self.wrappers)
            return dataclasses.replace(real, action_chunk=self.action_chunk)
        if self.kwargs or self.wrappers or self.action_chunk != 1:
            raise InvalidOptionError(
                "kwargs, wrappers and action_chunk belong to --real: a twin is as it was made"
            )
        return Twin.load(str(self.twin))


def learn_stage(stage: _Flat[LearnStage]) -> None:
    """Train a policy with Stable-Baselines3, in a twin (--twin) or in reality (--real)."""
    world = stage.world()
    bars = Bars()
    ledger = (
        StepLedger(stage.out.with_name(f"{stage.out.name}-real-steps.json")) if stage.real else None
    )
    learn(
        world,
        stage.config,
        out=stage.out,
        ledger=ledger,
        progress=lambda done, wanted, logs: bars("learn", done, wanted, logs),
        through=None if stage.through is None else Twin.load(stage.through),
    )
    console.print(f"policy: {stage.out}")


def report_stage(
    comparison: Path, out: Path, twin: str | None = None, title: str | None = None
) -> None:
    """Write the page (HTML and Markdown) of a comparison, with a twin's measured error.

    Args:
        comparison: The comparison.json of `compare` or `build`.
        out: Folder of report.html and report.md.
        twin: Bundled twin or folder, for its warnings and all that was measured of it.
        title: Of the page.
    """
    tree = read_comparison(comparison)
    page = write_report(
        out,
        title=title or f"{tree.get('env_id', 'A twin')}: learned and real",
        comparison=tree,
        fidelity=None if twin is None else read_json(find_twin(twin))["fidelity"],
    )
    console.print(f"page: {page}")


def refine_stage(config: _Flat[RefineConfig]) -> None:
    """Rounds of collect, fit, learn and choose; its picture is rounds.svg."""
    ledger = StepLedger(config.out / "real-steps.json")
    done = refine(config, ledger=ledger, report=Bars())
    table = Table(
        "round",
        "real steps",
        "chosen policy",
        "predicted_return",
        "spot checks of the choice before",
    )
    for part in done:
        promise, reality = part.log["predicted_return"] or {}, part.log["reality"] or {}
        returns = ", ".join(f"{value:.4g}" for value in reality.get("returns", []))
        told = f"{promise['mean']:.4g}" if promise else "-"
        if promise.get("low") is not None:
            told += f" [{promise['low']:.4g}, {promise['high']:.4g}]"
        table.add_row(
            str(part.number), str(part.real_steps), part.log["chosen"], told, returns or "-"
        )
    console.print(table)
    if (picture := rounds_picture([part.log for part in done])) is not None:
        (config.out / "rounds.svg").write_bytes(picture)
    console.print(f"policy: {done[-1].policy_folder}\ntwin: {done[-1].twin_folder}")


def build_stage(
    env_id: str,
    /,
    steps: int | None = None,
    rounds: int | None = None,
    exploration: str | None = None,
    algo: str = "PPO",
    learn_steps: int | None = None,
    episodes: int = 100,
    out: Path | None = None,
    pool: Path | None = None,
    seed: int = 0,
    kwargs: dict[str, Any] | None = None,
    wrappers: tuple[str, ...] = (),
    family: str | None = None,
    observation_mode: str | None = None,
) -> None:
    """Collect, fit, learn, verify in reality, and save a twin with its card and a page.

    ENV_ID is a Gymnasium id, or "module:Id".
    """
    folder = out or runs_folder() / "build" / env_id.replace("/", "-").replace(":", "-")
    _show(
        build(
            BuildConfig(
                env_id,
                folder,
                steps=steps,
                rounds=rounds,
                exploration=exploration,
                algo=algo,
                learn_steps=learn_steps,
                episodes=episodes,
                pool=pool,
                seed=seed,
                kwargs=kwargs or {},
                wrappers=wrappers,
                family=family,
                observation_mode=observation_mode,
            ),
            report=Bars(),
        )
    )


def demo_stage(learn_steps: int = 150_000, updates: int = 2_000) -> None:
    """Run the whole pipeline on CartPole: 2,000 random real steps, a twin, PPO in it, a comparison, a page."""
    _show(demo(runs_folder() / "demo", learn_steps=learn_steps, updates=updates, report=Bars()))


def watch_stage(
    twin: str,
    out: Path,
    policy: Path | None = None,
    real: str | None = None,
    steps: int = 200,
    seed: int = 0,
    mode: str = "closed_loop",
) -> None:
    """A policy (or random actions) in the twin beside the real environment, as a gif.

    Args:
        twin: Bundled twin or folder.
        out: The file, .gif or .mp4; the count of real steps is kept beside it.
        policy: Folder of the policy; without it random actions.
        real: Real environment id; "same" for the one that the twin was made from; without it the twin alone.
        steps: Steps shown at most.
        seed: Of both worlds and of the policy.
        mode: "closed_loop": it acts on what it sees in each world; "open_loop": the twin gets the actions that it chose
            in reality, without noise, after as many real observations as its model takes in, and of pixels the
            difference is shown too.
    """
    loaded = Twin.load(twin)
    actor = (
        RandomPolicy(loaded.spec.action_space)
        if policy is None
        else load_policy(policy, expect=loaded.spec)
    )
    config = None if real is None else real_of_twin(loaded, None if real == "same" else real)
    ledger = StepLedger(out.with_name(f"{out.stem}-real-steps.json"))
    path = watch(loaded, actor, out, real=config, steps=steps, seed=seed, ledger=ledger, mode=mode)
    if config is not None:
        ledger.save()
    console.print(f"video: {path}")


def futures_stage(
    twin: str,
    policy: Path,
    out: Path,
    real: str | None = None,
    after: int = 50,
    steps: int = 100,
    number: int = 5,
    every: int = 1,
    seed: int = 0,
) -> None:
    """What may follow on one real moment, in several futures of the twin, beside what did; as a gif.

    Args:
        twin: Bundled twin or folder.
        policy: Folder of the policy.
        out: The file, .gif or .mp4; the count of real steps is kept beside it.
        real: Real environment id; without it the one that the twin was made from.
        after: Real steps before that moment.
        steps: Steps shown after it, at most.
        number: Futures.
        every: Only each so-manieth frame is kept.
        seed: Of both worlds.
    """
    loaded = Twin.load(twin)
    ledger = StepLedger(out.with_name(f"{out.stem}-real-steps.json"))
    path = futures(
        loaded,
        load_policy(policy, expect=loaded.spec),
        out,
        real=real_of_twin(loaded, real),
        after=after,
        steps=steps,
        number=number,
        every=every,
        seed=seed,
        ledger=ledger,
    )
    ledger.save()
    console.print(f"video: {path}")


def _show(built: Built) -> None:
    show_comparison(built.comparison)
    times = Table("stage", "seconds")
    for name, value in built.seconds:
        times.add_row(name, f"{value:.1f}")
    console.print(times)
    console.print(f"twin: {built.twin_folder}\npage: {built.page}")


STAGES: dict[str, Callable[..., int | None]] = {
    "demo": demo_stage,
    "build": build_stage,
    "collect": collect_stage,
    **DATA_STAGES,
    "fit": fit_stage,
    "learn": learn_stage,
    **JUDGE_STAGES,
    "report": report_stage,
    "refine": refine_stage,
    "watch": watch_stage,
    "futures": futures_stage,
    "twins": twins,
}
