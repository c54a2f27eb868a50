"""The commands of the pipeline: build, demo, collect, fit, learn, refine, twins.

The stages are imported inside the commands, so that the help of a command loads no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from world_env.atomic_io import write_bytes, write_json
from world_env.cli.console import console, runs_folder
from world_env.cli.main import set_threads
from world_env.cli.options import RealEnv
from world_env.cli.real_steps import announce, check_limit, show_plan
from world_env.collection.config import CollectConfig
from world_env.errors import InvalidOptionError
from world_env.fitting.config import FitConfig
from world_env.pipeline.config import BuildConfig
from world_env.progress import ProgressBars
from world_env.refinement.config import RefineConfig
from world_env.results.formatting import error_per_dimension
from world_env.rl.config import LearnConfig
from world_env.run_config import CONFIG_FILE
from world_env.spec import EnvConfig
from world_env.struct import Struct

if TYPE_CHECKING:
    from world_env.pipeline.build import Built
    from world_env.results.lint_issue import LintIssue
    from world_env.twin.twin import Twin


class NoSettings(Struct, frozen=True):
    """A command without settings."""


def twins_command(config: NoSettings) -> None:
    """List the bundled twins."""
    from gymnasium import registry

    from world_env.twin.provenance_text import real_steps_text
    from world_env.twin.serialization import find_twin, list_twins, read_json

    # The default id is another name of one of them.
    ids = {
        spec.kwargs.get("twin"): name
        for name, spec in registry.items()
        if name.startswith("WorldModel/")
    }
    table = Table("twin", "id", "family", "real steps", box=None, padding=(0, 2, 0, 0))
    for name in list_twins():
        tree = read_json(find_twin(name))
        steps = real_steps_text(tree["provenance"]) or "unknown"
        table.add_row(name, ids.get(name, ""), tree["family"], steps)
    console.print(table)


def collect_command(config: CollectConfig) -> int:
    """Collect episodes of a real environment; run again to resume, or with more steps to add episodes.

    Exit status 1 if `lint` finds errors in the data, which are kept.
    """
    from world_env.collection.collect import collect, log_issues
    from world_env.pipeline.step_plan import planned_steps

    set_threads()
    show_plan(planned_steps(config), lower="--steps")
    issues: list[LintIssue] = []
    store = collect(config, progress=ProgressBars().stage("collect"), on_issues=issues.extend)
    log_issues(issues)
    console.print(f"{store.steps} real steps in {len(store)} episodes: {config.out}")
    return int(any(issue.severity == "error" for issue in issues))


class FitCommand(Struct, frozen=True):
    """Settings of `fit`."""

    data: str
    """Dataset: folder of an episode store, or minari:ID."""
    out: Path
    """Folder of the twin."""
    horizon: int | None = None
    """Time limit of an episode in steps. None: the time limit that the dataset names."""
    tensorboard: Path | None = None
    """Folder of TensorBoard logs. None: no logs."""
    fit: FitConfig = FitConfig()
    """Settings of the fit."""


def fit_command(config: FitCommand) -> None:
    """Fit a twin to episodes; run again to resume an interrupted fit."""
    from world_env.fitting.fit import fit

    set_threads()
    twin = fit(
        config.data,
        config.out,
        config.fit,
        horizon=config.horizon,
        progress=ProgressBars().stage("fit"),
        tensorboard=config.tensorboard,
    )
    write_json(config.out / CONFIG_FILE, config.to_json())
    loss = twin.fidelity.loss
    console.print(
        f"twin: {config.out}; open-loop score on the validation split {loss.best_open_loop:.4g} (0: exact; 0.5: error "
        f"of one standard deviation)"
    )
    if isinstance(errors := loss.parts.get("per_dimension"), list):
        console.print(error_per_dimension(errors))


class LearnCommand(Struct, frozen=True):
    """Settings of `learn`."""

    out: Path
    """Folder of the policy. The count of real steps is written beside it."""
    env: RealEnv = RealEnv()
    """Real environment to train in. Every step is counted."""
    twin: str | None = None
    """Twin to train in: name of a bundled twin, or a folder. None: train in the real environment ENV_ID."""
    tensorboard: Path | None = None
    """Folder of TensorBoard logs. None: no logs."""
    max_real_steps: int | None = None
    """Limit of all real environment steps of this folder, those of earlier runs included. The training stops before the
    step that would exceed it; a larger limit resumes it. None: no limit."""
    learn: LearnConfig = LearnConfig()
    """Settings of the training."""

    def __post_init__(self) -> None:
        check_limit(self.max_real_steps)

    def environment(self) -> Twin | EnvConfig:
        """The twin or the real environment to train in. Raises InvalidOptionError for none or both."""
        real = self.env.config()
        if real is not None and self.twin is None:
            return real
        if real is not None or self.twin is None:
            given = "none is given" if real is None else "both are given"
            raise InvalidOptionError(f"pass either --twin NAME_OR_FOLDER or ENV_ID: {given}")
        from world_env.twin.twin import Twin

        return Twin.load(self.twin)


def learn_command(config: LearnCommand) -> None:
    """Train a policy with Stable-Baselines3, in a twin (--twin) or in the real environment (ENV_ID).

    Run again to resume an interrupted training.
    """
    from world_env.real.real_env import spec_of
    from world_env.real.step_ledger import StepLedger
    from world_env.rl.learn import learn
    from world_env.rl.step_plan import training_steps

    set_threads()
    environment, out = config.environment(), config.out
    ledger = None
    if isinstance(environment, EnvConfig):
        path = out.with_name(f"{out.name}-real-steps.json")
        ledger = StepLedger(path, max_steps=config.max_real_steps)
        use = f"training of {config.learn.algo}"
        part = training_steps(config.learn, spec_of(environment), out, use=use)
        announce([part], ledger, config.max_real_steps, lower="--steps")
    learn(
        environment,
        config.learn,
        out=out,
        ledger=ledger,
        progress=ProgressBars().stage("learn"),
        tensorboard=config.tensorboard,
    )
    write_json(out / CONFIG_FILE, config.to_json())
    console.print(f"policy: {out}")


def refine_command(config: RefineConfig) -> None:
    """Repeat collection, fitting and policy training in rounds; run again to resume.

    The folder has one subfolder per round, and rounds.svg with predicted and real returns.
    """
    from world_env.real.step_ledger import StepLedger
    from world_env.refinement.refine import refine
    from world_env.reporting.plots import rounds_picture

    set_threads()
    ledger = StepLedger(config.out / "real-steps.json")
    done = refine(config, ledger=ledger, report=ProgressBars())
    table = Table(
        *("round", "real steps", "selected policy", "predicted return"),
        "real evaluation episodes of the previous selection",
    )
    for part in done:
        predicted, reality = part.log.predicted_return, part.log.reality
        returns = ", ".join(f"{value:.4g}" for value in reality.returns) if reality else "-"
        shown = f"{predicted.mean:.4g}" if predicted else "-"
        if predicted and predicted.low is not None:
            shown += f" [{predicted.low:.4g}, {predicted.high:.4g}]"
        row = (str(part.number), str(part.real_steps), part.log.chosen, shown, returns)
        table.add_row(*row)
    console.print(table)
    if (picture := rounds_picture([part.log for part in done])) is not None:
        write_bytes(config.out / "rounds.svg", picture)
    console.print(f"policy: {done[-1].policy_folder}\ntwin: {done[-1].twin_folder}")


def build_command(config: BuildConfig) -> None:
    """Run all stages: collect, fit, learn, compare, report.

    The plan of the real steps is printed before the first one. Run the same command again to resume: finished stages
    are skipped, the final comparison too.
    """
    from world_env.pipeline.build import build

    set_threads()
    _show_built(build(config, report=ProgressBars()))


class DemoCommand(Struct, frozen=True):
    """Settings of `demo`."""

    learn_steps: int = 150_000
    """Steps of PPO in the twin."""
    gradient_steps: int = 2_000
    """Gradient steps of the fit."""
    out: Path | None = None
    """Folder of the run. None: runs/demo."""


def demo_command(config: DemoCommand) -> None:
    """Run the whole pipeline on CartPole: 2,000 random real steps, a twin, PPO in the twin, a comparison, a page."""
    from world_env.pipeline.demo import demo

    set_threads()
    _show_built(
        demo(
            config.out or runs_folder() / "demo",
            learn_steps=config.learn_steps,
            gradient_steps=config.gradient_steps,
            report=ProgressBars(),
        )
    )


def _show_built(built: Built) -> None:
    print(built.comparison)
    times = Table("stage", "seconds")
    for name, value in built.seconds:
        times.add_row(name, f"{value:.1f}")
    console.print(times)
    policy = built.rounds[-1].policy_folder
    console.print(f"twin: {built.twin_folder}\npolicy: {policy}\npage: {built.page}")
