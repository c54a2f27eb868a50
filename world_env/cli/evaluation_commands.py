"""The commands that evaluate: compare, pool, report, watch, futures.

The stages are imported inside the commands, so that the help of a command loads no torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table

from world_env.atomic_io import write_bytes, write_json
from world_env.cli.console import (
    console,
    real_of_twin,
    runs_folder,
)
from world_env.cli.main import set_threads
from world_env.cli.options import RealEnv, RealEnvOfTwin
from world_env.cli.real_steps import announce, check_limit, filmed, played, show_plan
from world_env.errors import InvalidOptionError
from world_env.policy_evaluation.config import MIN_EPISODES, PoolConfig
from world_env.progress import ProgressBars
from world_env.results.formatting import show
from world_env.run_config import CONFIG_FILE
from world_env.spec import EnvConfig
from world_env.struct import Struct

if TYPE_CHECKING:
    from world_env.policy_evaluation.policy_pool import Pool
    from world_env.results.fidelity import Agreement
    from world_env.twin.twin import Twin


def pool_command(config: PoolConfig) -> None:
    """Train policies in the real environment only, spread over the range of returns, to evaluate twins with.

    The real steps of a pool are counted in its own folder. No twin may learn from them.
    """
    from world_env.pipeline.step_plan import planned_steps
    from world_env.policy_evaluation.policy_pool import crowding, pool

    set_threads()
    lower = "--on-policy-steps, --off-policy-steps, --policies or --episodes"
    show_plan(planned_steps(config), lower=lower)
    found = pool(config, report=ProgressBars())
    table = Table("policy", "real return")
    for member, returns in zip(found.members, found.returns, strict=True):
        table.add_row(member.name, f"{returns.mean:.1f}")
    console.print(table)
    console.print(f"pool: {config.out}; real steps by purpose: {found.real_steps}")
    if warning := crowding(found):
        console.print(f"[yellow]warning[/yellow]: {warning}")


class CompareCommand(Struct, frozen=True):
    """Settings of `compare`."""

    twin: str
    """Name of a bundled twin, or a folder."""
    env: RealEnvOfTwin = RealEnvOfTwin()
    """Real environment. Without it: the one that the twin was fitted to, with its arguments and wrappers."""
    policies: tuple[Path, ...] | None = None
    """Policies: folders, or the .zip of models of Stable-Baselines3, sb3-contrib or SBX. A random policy is always
    added. With --pool: policies trained in the twin."""
    against: str | None = None
    """Dataset of logs whose actions are replayed in the twin: folder of an episode store, or minari:ID. None: no
    replay."""
    pool: Path | None = None
    """Folder of a pool made by `world-env pool`. None: no pool."""
    episodes: int = 100
    """Episodes per policy, in the twin and in the real environment, at least 5. Only with --policies: a pool has its
    own episodes."""
    max_real_steps: int | None = None
    """Limit of all real environment steps of this folder, those of earlier runs included. The command stops before the
    step that would exceed it. None: no limit."""
    workers: int = 1
    """Number of processes that play the real episodes of --policies, each in an environment of its own. The returns do
    not depend on it."""
    seed: int = 10_000
    """First reset seed; with --against, seed of the twin's noise. A pool has its own seeds."""
    out: Path | None = None
    """Folder of comparison.json (or logs.json) and of the count of real steps. None: a folder in runs/compare.
    With --pool the results are stored in the twin's folder."""

    def __post_init__(self) -> None:
        check_limit(self.max_real_steps)
        if self.episodes < MIN_EPISODES:
            raise InvalidOptionError(
                f"episodes is {self.episodes}, expected at least {MIN_EPISODES}: intervals of fewer are too wide"
            )


def compare_command(config: CompareCommand) -> None:
    """Compare learned and real returns of policies; or evaluate a twin with a pool; or replay logs.

    With --policies, each policy plays the same episodes in the twin and in the real environment. With --pool, a pool
    of policies trained in the real environment plays in the twin, and the agreement is stored in the twin's folder.
    With --against, logged actions are replayed in the twin, and no real step is made.
    """
    from world_env.policies.random_policy import RandomPolicy
    from world_env.policy_evaluation.compare import compare
    from world_env.policy_evaluation.policy_pool import Pool
    from world_env.real.api_check import check_step
    from world_env.real.step_ledger import StepLedger
    from world_env.results.provenance import facts
    from world_env.twin.twin import Twin

    set_threads()
    loaded, real, policies = Twin.load(config.twin), config.env.config(), config.policies
    folder = Path(config.twin)
    # Two runs may both call their twin "twin".
    name = f"{folder.parent.name}-{folder.name}" if folder.parent.name else folder.name
    target = config.out or runs_folder() / "compare" / name
    if config.against is not None:
        if (policies, real, config.pool) != (None, None, None):
            raise InvalidOptionError(
                "--against replays logged actions: leave out --policies, ENV_ID and --pool"
            )
        from world_env.cli.data_commands import compare_with_logs

        return compare_with_logs(loaded, config.against, target / "logs.json", seed=config.seed)
    if config.pool is not None:
        found = Pool.load(config.pool)
        return _evaluate_with_pool(config, loaded, found, real)
    if policies is None:
        raise InvalidOptionError(
            "pass --policies FOLDER_OR_ZIP ..., --pool FOLDER, or --against DATASET"
        )
    named: dict[str, Any] = {"random": RandomPolicy(loaded.spec.action_space)}
    for path in policies:
        # A folder called "random" does not replace the random policy.
        named[str(path.absolute()) if path.name in named else path.name] = path
    ledger = StepLedger(target / "real-steps.json", max_steps=config.max_real_steps)
    real = real_of_twin(loaded, real)
    part = played(loaded, real, len(named), config.episodes)
    announce([check_step(real), part], ledger, config.max_real_steps, lower="--episodes")
    comparison = compare(
        loaded,
        named,
        real=real,
        ledger=ledger,
        episodes=config.episodes,
        seed=config.seed,
        purpose="evaluate",
        real_steps={"random": 0},
        workers=config.workers,
        progress=ProgressBars().stage("compare"),
    )
    ledger.save()
    write_json(target / "comparison.json", comparison.replace(provenance=facts()).to_json())
    print(comparison)
    console.print(f"comparison: {target / 'comparison.json'}")


def _evaluate_with_pool(
    config: CompareCommand, twin: Twin, found: Pool, real: EnvConfig | None
) -> None:
    from world_env.policies.loading import as_policy
    from world_env.policy_evaluation.evaluate_twin import (
        TrainedPolicy,
        agreement,
        evaluate_twin,
        with_agreement,
    )
    from world_env.real.step_ledger import StepLedger
    from world_env.rollouts.real import run_real
    from world_env.twin.serialization import find_twin, list_twins

    if real is not None:
        raise InvalidOptionError("a pool has its own real environment: leave out ENV_ID")
    folder, policies = find_twin(config.twin), config.policies or ()
    if config.twin in list_twins():
        raise InvalidOptionError(
            f"{config.twin!r} is a bundled twin, and results are stored in the twin's folder: copy it, or pass the "
            "folder of your own twin"
        )
    path = folder.parent / f"{folder.name}-pool-real-steps.json"
    ledger = StepLedger(path, max_steps=config.max_real_steps)
    part = played(twin, found.real, len(policies), len(found.seeds))
    announce([part], ledger, config.max_real_steps, lower="the number of --policies")
    bars = ProgressBars()
    trained = []
    for number, path in enumerate(policies):
        policy = as_policy(path, twin.spec)
        reality = run_real(policy, found.real, found.seeds, purpose="evaluate", ledger=ledger)
        trained.append(TrainedPolicy(str(path), str(path), policy, reality))
        bars("real episodes", number + 1, len(policies), {})
    ledger.save()
    judged = evaluate_twin(twin, found, trained, progress=bars.stage("evaluate"))
    measured, calibration = agreement(judged, found)
    settings = folder / CONFIG_FILE
    record = settings.read_bytes() if settings.is_file() else None
    with_agreement(twin, measured, calibration).save(folder)
    if record is not None:  # the twin's folder was replaced
        write_bytes(settings, record)
    show_agreement(measured)
    console.print(f"stored in {folder}; real steps of the twin's policies: {ledger.by_purpose}")


def show_agreement(measured: Agreement) -> None:
    """Print the agreement of each kind of policies as a table; a dash where a number is unknown."""
    from world_env.policy_evaluation.correlation import EVALUATION, OPTIMISATION

    named = {EVALUATION: measured.evaluation, OPTIMISATION: measured.optimisation}
    kinds = {kind: stats for kind, stats in named.items() if stats is not None}
    table = Table("", *kinds)
    for name in ("policies", "runs", "pearson", "ceiling", "spearman", "spearman_upper_half", "mmrv_fraction",
                 "bias_fraction", "mae_fraction", "coverage90", "width_fraction", "supported_share"):  # fmt: skip
        table.add_row(name, *(show(getattr(stats, name)) for stats in kinds.values()))
    console.print(table)


class ReportCommand(Struct, frozen=True):
    """Settings of `report`."""

    comparison: Path
    """comparison.json of `world-env compare` or `world-env build`."""
    out: Path
    """Folder of report.html and report.md."""
    twin: str | None = None
    """Name of a bundled twin, or a folder: the page then includes its warnings and measured errors. None: the
    comparison only."""
    title: str | None = None
    """Title of the page. None: the environment's id."""


def report_command(config: ReportCommand) -> None:
    """Write the report page of a comparison, as HTML and Markdown."""
    from world_env.reporting.report import read_comparison, write_report
    from world_env.twin.serialization import find_twin, read_json

    found = read_comparison(config.comparison)
    tree = None if config.twin is None else read_json(find_twin(config.twin))
    if tree is not None:
        _check_same_environment(found.env_id, tree["provenance"].real, tree["spec"], config.twin)
    page = write_report(
        config.out,
        title=config.title or f"{found.env_id}: learned and real",
        comparison=found,
        fidelity=None if tree is None else tree["fidelity"],
    )
    console.print(f"page: {page}")


def _check_same_environment(
    compared: str, real: EnvConfig | None, spec: Any, twin: str | None
) -> None:
    """Raise InvalidOptionError for a comparison in another environment than that of the twin, where both are known."""
    stored = json.loads(spec["real"] or "{}")
    own = stored.get("id") if real is None else real.env_id
    if own is not None and own.rpartition(":")[2] != compared.rpartition(":")[2]:
        raise InvalidOptionError(
            f"the comparison is of {compared}, but the twin {twin} was fitted to {own}: pass the twin that was "
            "compared (--twin)"
        )


class WatchCommand(Struct, frozen=True):
    """Settings of `watch`."""

    twin: str
    """Name of a bundled twin, or a folder."""
    out: Path
    """The video, .gif or .mp4. The count of real steps is written beside it."""
    env: RealEnv = RealEnv()
    """Real environment to show too."""
    real: bool = False
    """Show the real environment that the twin was fitted to, too."""
    policy: Path | None = None
    """Policy: a folder, or the .zip of a model of Stable-Baselines3, sb3-contrib or SBX. None: random actions."""
    steps: int = 200
    """Maximum number of steps shown."""
    max_real_steps: int | None = None
    """Limit of all real environment steps counted beside the video, those of earlier runs included. The command stops
    before the step that would exceed it. None: no limit."""
    seed: int = 0
    """Seed of both environments and of the policy."""
    mode: Literal["closed_loop", "open_loop"] = "closed_loop"
    """"closed_loop": the policy acts on the observations of each environment. "open_loop": the twin gets the actions of
    the real environment, after as many real observations as its model takes as context; images also show their
    difference."""

    def __post_init__(self) -> None:
        check_limit(self.max_real_steps)


def watch_command(config: WatchCommand) -> None:
    """Record a video of a policy in the twin, beside the same policy in the real environment."""
    from world_env.policies.random_policy import RandomPolicy
    from world_env.real.step_ledger import StepLedger
    from world_env.reporting.side_by_side_video import watch
    from world_env.twin.twin import Twin

    set_threads()
    twin, given, out = Twin.load(config.twin), config.env.config(), config.out
    shown = RandomPolicy(twin.spec.action_space) if config.policy is None else config.policy
    real = real_of_twin(twin, given) if config.real or given is not None else None
    ledger = StepLedger(
        out.with_name(f"{out.stem}-real-steps.json"), max_steps=config.max_real_steps
    )
    if real is not None:
        part = filmed(twin, real, config.steps)
        announce([part], ledger, config.max_real_steps, lower="--steps")
    path = watch(
        twin,
        shown,
        out,
        real=real,
        steps=config.steps,
        seed=config.seed,
        ledger=ledger,
        mode=config.mode,
    )
    if real is not None:
        ledger.save()
    console.print(f"video: {path}")


class FuturesCommand(Struct, frozen=True):
    """Settings of `futures`."""

    twin: str
    """Name of a bundled twin, or a folder."""
    policy: Path
    """Policy that acts in all rollouts: a folder, or the .zip of a model of Stable-Baselines3, sb3-contrib or SBX."""
    out: Path
    """The video, .gif or .mp4. The count of real steps is written beside it."""
    env: RealEnvOfTwin = RealEnvOfTwin()
    """Real environment. Without it: the one that the twin was fitted to."""
    after: int = 50
    """Real steps before the state."""
    steps: int = 100
    """Maximum number of steps shown after the state."""
    number: int = 5
    """Number of learned futures."""
    every: int = 1
    """Keep every n-th frame."""
    max_real_steps: int | None = None
    """Limit of all real environment steps counted beside the video, those of earlier runs included. The command stops
    before the step that would exceed it. None: no limit."""
    seed: int = 0
    """Seed of both environments."""

    def __post_init__(self) -> None:
        check_limit(self.max_real_steps)


def futures_command(config: FuturesCommand) -> None:
    """Record a video of several learned rollouts from one real state, beside the real rollout."""
    from world_env.real.step_ledger import StepLedger
    from world_env.reporting.futures_video import futures
    from world_env.twin.twin import Twin

    set_threads()
    twin, out = Twin.load(config.twin), config.out
    ledger = StepLedger(
        out.with_name(f"{out.stem}-real-steps.json"), max_steps=config.max_real_steps
    )
    real = real_of_twin(twin, config.env.config())
    part = filmed(twin, real, config.after + config.steps)
    announce([part], ledger, config.max_real_steps, lower="--after or --steps")
    path = futures(
        twin,
        config.policy,
        out,
        real=real,
        after=config.after,
        steps=config.steps,
        number=config.number,
        every=config.every,
        seed=config.seed,
        ledger=ledger,
    )
    ledger.save()
    console.print(f"video: {path}")
