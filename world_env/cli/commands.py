"""The commands of the pipeline: build, demo, collect, fit, learn, refine, twins.

The stages are imported inside the commands, so that the help of a command loads no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro
from rich.table import Table

from world_env.atomic_io import write_bytes
from world_env.cli.console import NO_KWARGS, console, runs_folder, show_comparison
from world_env.cli.main import set_threads
from world_env.collection.config import CollectConfig
from world_env.errors import InvalidOptionError
from world_env.fitting.config import FitConfig
from world_env.progress import ProgressBars
from world_env.refinement.config import RefineConfig
from world_env.rl.config import LearnConfig
from world_env.spec import EnvConfig

if TYPE_CHECKING:
    from world_env.pipeline.build import Built
    from world_env.twin.twin import Twin

_FIT = FitConfig()
_T = TypeVar("_T")
_Flat = Annotated[_T, tyro.conf.arg(name="")]
"""A configuration whose fields are options without a prefix."""


def twins_command() -> None:
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


def collect_command(config: _Flat[CollectConfig]) -> None:
    """Collect episodes of a real environment; run again to resume, or with more steps to add episodes."""
    from world_env.collection.collect import collect

    set_threads()
    store = collect(config, progress=ProgressBars().stage("collect"))
    console.print(f"{store.steps} real steps in {len(store)} episodes: {config.out}")


def fit_command(
    data: str,
    out: Path,
    config: _Flat[FitConfig] = _FIT,
    horizon: int | None = None,
    tensorboard: Path | None = None,
) -> None:
    """Fit a twin to episodes; run again to resume an interrupted fit.

    Args:
        data: Dataset: folder of an episode store, or minari:ID.
        out: Folder of the twin.
        config: Settings of the fit.
        horizon: Time limit of an episode in steps. None: the time limit that the dataset names.
        tensorboard: Folder of TensorBoard logs. None: no logs.
    """
    from world_env.fitting.fit import fit

    set_threads()
    twin = fit(
        data,
        out,
        config,
        horizon=horizon,
        progress=ProgressBars().stage("fit"),
        tensorboard=tensorboard,
    )
    loss = twin.fidelity["loss"]
    score = loss["best_open_loop"]
    console.print(
        f"twin: {out}; open-loop score on the validation split {score:.4g} (0: exact; 0.5: error of one "
        f"standard deviation)"
    )
    if "per_dimension" in loss:
        console.print(f"one-step error per dimension: {loss['per_dimension']}")


@dataclass(frozen=True)
class LearnCommand:
    """Options of `learn` besides those of LearnConfig."""

    out: Path
    """Folder of the policy."""
    twin: str | None = None
    """Twin to train in: name of a bundled twin, or a folder. Give either --twin or --real."""
    real: str | None = None
    """Real environment to train in, by its id. Every step is counted in a file beside the policy."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the real environment, as JSON. Only with --real."""
    wrappers: tuple[str, ...] = ()
    """Wrappers of the real environment as module:Class, innermost first. Only with --real."""
    action_chunk: int = 1
    """Real steps per action of the policy. Only with --real."""
    tensorboard: Path | None = None
    """Folder of TensorBoard logs. None: no logs."""
    through: str | None = None
    """Twin (bundled name or folder) that encodes real observations, where --observation-mode is "latent" or "both"."""
    config: _Flat[LearnConfig] = field(default_factory=LearnConfig)

    def environment(self) -> Twin | EnvConfig:
        """The twin or the real environment to train in. Raises InvalidOptionError for none or both."""
        if (self.twin is None) == (self.real is None):
            given = "both are given" if self.real else "none is given"
            raise InvalidOptionError(f"pass either --twin NAME_OR_FOLDER or --real ENV_ID: {given}")
        if self.real is not None:
            return EnvConfig(self.real, self.kwargs, self.wrappers, self.action_chunk)
        if self.kwargs or self.wrappers or self.action_chunk != 1:
            raise InvalidOptionError(
                "--kwargs, --wrappers and --action-chunk belong to --real: a twin keeps those that it was fitted with"
            )
        from world_env.twin.twin import Twin

        return Twin.load(str(self.twin))


def learn_command(command: _Flat[LearnCommand]) -> None:
    """Train a policy with Stable-Baselines3, in a twin (--twin) or in the real environment (--real).

    Run again to resume an interrupted training.
    """
    from world_env.real.step_ledger import StepLedger
    from world_env.rl.learn import learn
    from world_env.twin.twin import Twin

    set_threads()
    environment = command.environment()
    out = command.out
    ledger = StepLedger(out.with_name(f"{out.name}-real-steps.json")) if command.real else None
    learn(
        environment,
        command.config,
        out=out,
        ledger=ledger,
        progress=ProgressBars().stage("learn"),
        tensorboard=command.tensorboard,
        through=None if command.through is None else Twin.load(command.through),
    )
    console.print(f"policy: {out}")


def refine_command(config: _Flat[RefineConfig], tensorboard: Path | None = None) -> None:
    """Repeat collection, fitting and policy training in rounds; run again to resume.

    The folder has one subfolder per round, and rounds.svg with predicted and real returns.

    Args:
        config: Settings of the refinement.
        tensorboard: Folder of TensorBoard logs. None: no logs.
    """
    from world_env.real.step_ledger import StepLedger
    from world_env.refinement.refine import refine
    from world_env.reporting.plots import rounds_picture

    set_threads()
    ledger = StepLedger(config.out / "real-steps.json")
    done = refine(config, ledger=ledger, report=ProgressBars(), tensorboard=tensorboard)
    table = Table(
        *("round", "real steps", "selected policy", "predicted return"),
        "real evaluation episodes of the previous selection",
    )
    for part in done:
        predicted, reality = part.log["predicted_return"] or {}, part.log["reality"] or {}
        returns = ", ".join(f"{value:.4g}" for value in reality.get("returns", []))
        shown = f"{predicted['mean']:.4g}" if predicted else "-"
        if predicted.get("low") is not None:
            shown += f" [{predicted['low']:.4g}, {predicted['high']:.4g}]"
        row = (str(part.number), str(part.real_steps), part.log["chosen"], shown, returns or "-")
        table.add_row(*row)
    console.print(table)
    if (picture := rounds_picture([part.log for part in done])) is not None:
        write_bytes(config.out / "rounds.svg", picture)
    console.print(f"policy: {done[-1].policy_folder}\ntwin: {done[-1].twin_folder}")


def build_command(
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
    kwargs: dict[str, Any] = NO_KWARGS,
    wrappers: tuple[str, ...] = (),
    family: str | None = None,
    observation_mode: str | None = None,
    tensorboard: Path | None = None,
) -> None:
    """Run all stages: collect, fit, learn, compare, report.

    Run the same command again to resume: finished stages are skipped; the final comparison runs again.

    Args:
        env_id: Gymnasium id of the real environment, or "module:Id" if importing the module registers it.
        steps: Real steps of the data. None: 10,000. The baseline in the real environment takes the same number again,
            and the final evaluation --episodes episodes per policy.
        rounds: Number of rounds. None: with PPO 1 below 50,000 steps, else steps / 5,000; with SAC steps / 10,000, at
            least 4.
        exploration: Actions of the first round: random, held:20, mix:0.5*random+0.5*held:20, policy:FOLDER.
            None: random, or random and held actions from 50,000 steps on.
        algo: Algorithm that trains in the twin: PPO or SAC. SAC needs continuous actions.
        learn_steps: Steps in the twin per round. None: as the preset of the algorithm says.
        episodes: Real episodes that evaluate each policy at the end, at least 50.
        out: Folder of the run. None: runs/build/ENV_ID.
        pool: Folder of a policy pool (`world-env pool`) to evaluate the twin with; the card then has agreement
            and a predicted return. None: no such evaluation.
        seed: Seed of data, world model and policy.
        kwargs: Keyword arguments of the real environment, as JSON.
        wrappers: Wrappers of the real environment as module:Class, innermost first.
        family: Family of the world model: ensemble, rssm, rssm-large or linear. None: ensemble. Images need rssm.
        observation_mode: Observation mode of the policy: observation, latent or both. None: observation.
        tensorboard: Folder of TensorBoard logs. None: no logs.
    """
    from world_env.pipeline.build import build
    from world_env.pipeline.config import BuildConfig

    set_threads()
    config = BuildConfig(
        env_id,
        out or runs_folder() / "build" / env_id.replace("/", "-").replace(":", "-"),
        steps=steps,
        rounds=rounds,
        exploration=exploration,
        algo=algo,
        learn_steps=learn_steps,
        episodes=episodes,
        pool=pool,
        seed=seed,
        kwargs=kwargs,
        wrappers=wrappers,
        family=family,
        observation_mode=observation_mode,
    )
    _show_built(build(config, report=ProgressBars(), tensorboard=tensorboard))


def demo_command(learn_steps: int = 150_000, updates: int = 2_000, out: Path | None = None) -> None:
    """Run the whole pipeline on CartPole: 2,000 random real steps, a twin, PPO in the twin, a comparison, a page.

    Args:
        learn_steps: Steps of PPO in the twin.
        updates: Gradient steps of the fit.
        out: Folder of the run. None: runs/demo.
    """
    from world_env.pipeline.demo import demo

    set_threads()
    folder = out or runs_folder() / "demo"
    _show_built(demo(folder, learn_steps=learn_steps, updates=updates, report=ProgressBars()))


def _show_built(built: Built) -> None:
    show_comparison(built.comparison)
    times = Table("stage", "seconds")
    for name, value in built.seconds:
        times.add_row(name, f"{value:.1f}")
    console.print(times)
    policy = built.rounds[-1].policy_folder
    console.print(f"twin: {built.twin_folder}\npolicy: {policy}\npage: {built.page}")
