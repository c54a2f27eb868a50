"""The commands that evaluate: compare, pool, report, watch, futures.

The stages are imported inside the commands, so that the help of a command loads no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from world_env.atomic_io import write_json
from world_env.cli.console import (
    NO_KWARGS,
    Bars,
    console,
    real_of_twin,
    runs_folder,
    show_comparison,
)
from world_env.cli.main import set_threads
from world_env.errors import InvalidOptionError
from world_env.policy_evaluation.config import PoolConfig
from world_env.spec import EnvConfig
from world_env.twin.fidelity import show
from world_env.types import JSON

if TYPE_CHECKING:
    from world_env.policy_evaluation.policy_pool import Pool
    from world_env.twin.twin import Twin


def pool_command(
    env_id: str,
    /,
    out: Path | None = None,
    policies: int = 24,
    on_policy_steps: int = 200_000,
    off_policy_steps: int = 20_000,
    episodes: int = 100,
    scripted: str | None = None,
    seed: int = 0,
    kwargs: dict[str, Any] = NO_KWARGS,
    wrappers: tuple[str, ...] = (),
    through: str | None = None,
) -> None:
    """Train policies in the real environment only, spread over the range of returns, to evaluate twins with.

    The real steps of a pool are counted in its own folder. No twin may learn from them.

    Args:
        env_id: Gymnasium id of the real environment, or "module:Id" if importing the module registers it.
        out: Folder of the pool; run again to resume. None: runs/pool/ENV_ID.
        policies: Number of policies wanted, at least 20.
        on_policy_steps: Real steps of each of the PPO (and A2C) runs.
        off_policy_steps: Real steps of each of the SAC and TD3 (or DQN) runs.
        episodes: Real episodes that evaluate each policy.
        scripted: A policy written by hand as "module:function", with and without noise. None: no such policy.
        seed: Seed of the runs.
        kwargs: Keyword arguments of the real environment, as JSON.
        wrappers: Wrappers of the real environment as module:Class, innermost first.
        through: Twin (bundled name or folder) on whose latents all policies are trained; the pool cannot evaluate
            that twin. None: policies are trained on observations.
    """
    from world_env.policy_evaluation.policy_pool import crowding, pool

    set_threads()
    folder = out or runs_folder() / "pool" / env_id.replace("/", "-").replace(":", "-")
    config = PoolConfig(
        EnvConfig(env_id, kwargs, wrappers),
        folder,
        policies=policies,
        on_policy_steps=on_policy_steps,
        off_policy_steps=off_policy_steps,
        episodes=episodes,
        scripted=scripted,
        through=through,
        seed=seed,
    )
    found = pool(config, report=Bars())
    table = Table("policy", "real return")
    for member, returns in zip(found.members, found.returns, strict=True):
        table.add_row(member.name, f"{returns.mean:.1f}")
    console.print(table)
    console.print(f"pool: {folder}; real steps by purpose: {found.real_steps}")
    if warning := crowding(found):
        console.print(f"[yellow]warning[/yellow]: {warning}")


def compare_command(
    twin: str,
    policies: tuple[Path, ...] | None = None,
    against: str | None = None,
    real: str | None = None,
    pool: Path | None = None,
    episodes: int = 100,
    seed: int = 10_000,
    out: Path | None = None,
) -> None:
    """Compare learned and real returns of policies; or evaluate a twin with a pool; or replay logs.

    With --policies, each policy plays the same episodes in the twin and in the real environment. With --pool, a pool
    of policies trained in the real environment plays in the twin, and the agreement is stored in the twin's folder.
    With --against, logged actions are replayed in the twin, and no real step is made.

    Args:
        twin: Name of a bundled twin, or a folder.
        policies: Folders of policies; a random policy is always added. With --pool: policies trained in the twin.
        against: Dataset of logs: folder of an episode store, or minari:ID.
        real: Id of the real environment. None: the one that the twin was fitted to, with its arguments and wrappers.
        pool: Folder of a pool made by `world-env pool`.
        episodes: Episodes per policy, in the twin and in the real environment, at least 50. Only with --policies: a
            pool has its own episodes.
        seed: First reset seed; with --against, seed of the twin's noise. A pool has its own seeds.
        out: Folder of comparison.json (or logs.json) and of the count of real steps. None: a folder in runs/compare.
            With --pool the results are stored in the twin's folder.
    """
    from world_env.policy_evaluation.compare import compare
    from world_env.policy_evaluation.policy_pool import Pool
    from world_env.provenance import facts
    from world_env.real.step_ledger import StepLedger
    from world_env.rollouts.actors import random_actor
    from world_env.twin.twin import Twin

    set_threads()
    loaded = Twin.load(twin)
    folder = Path(twin)
    # Two runs may both call their twin "twin".
    name = f"{folder.parent.name}-{folder.name}" if folder.parent.name else folder.name
    target = out or runs_folder() / "compare" / name
    if against is not None:
        if (policies, real, pool) != (None, None, None):
            raise InvalidOptionError(
                "--against replays logged actions: leave out --policies, --real and --pool"
            )
        from world_env.cli.data_commands import compare_with_logs

        return compare_with_logs(loaded, against, target / "logs.json", seed=seed)
    if pool is not None:
        return _evaluate_with_pool(twin, loaded, Pool.load(pool), policies or (), real)
    if policies is None:
        raise InvalidOptionError("pass --policies FOLDER ..., --pool FOLDER, or --against DATASET")
    config = real_of_twin(loaded, real)
    actors: dict[str, Any] = {"random": random_actor(loaded.spec.action_space, range(episodes))}
    for path in policies:
        actors[str(path) if path.name in actors else path.name] = path
    ledger = StepLedger(target / "real-steps.json")
    bars = Bars()
    comparison = compare(
        actors,
        loaded,
        config,
        ledger=ledger,
        episodes=episodes,
        seed=seed,
        purpose="evaluate",
        real_steps={"random": 0},
        progress=lambda done, wanted: bars("compare", done, wanted, {}),
    )
    ledger.save()
    write_json(target / "comparison.json", comparison | {"provenance": facts()})
    show_comparison(comparison)
    console.print(f"comparison: {target / 'comparison.json'}")


def _evaluate_with_pool(
    name: str, twin: Twin, found: Pool, policies: tuple[Path, ...], real: str | None
) -> None:
    from world_env.policies.saved_policy import load_policy
    from world_env.policy_evaluation.evaluate_twin import (
        TrainedPolicy,
        agreement,
        evaluate_twin,
        with_agreement,
    )
    from world_env.real.step_ledger import StepLedger
    from world_env.rollouts.actors import policy_actor
    from world_env.rollouts.real import run_real
    from world_env.twin.serialization import find_twin, list_twins

    if real is not None:
        raise InvalidOptionError("a pool has its own real environment: leave out --real")
    folder = find_twin(name)
    if name in list_twins():
        raise InvalidOptionError(
            f"{name!r} is a bundled twin, and results are stored in the twin's folder: copy it, or pass the folder of "
            "your own twin"
        )
    ledger = StepLedger(folder.parent / f"{folder.name}-pool-real-steps.json")
    bars = Bars()
    trained = []
    for number, path in enumerate(policies):
        actor = policy_actor(load_policy(path, expect=twin.spec))
        reality = run_real(actor, found.real, found.seeds, purpose="evaluate", ledger=ledger)
        trained.append(TrainedPolicy(str(path), str(path), lambda actor=actor: actor, reality))  # type: ignore[misc]
        bars("real episodes", number + 1, len(policies), {})
    ledger.save()
    judged = evaluate_twin(
        twin, found, trained, progress=lambda done, wanted: bars("evaluate", done, wanted, {})
    )
    stored = agreement(judged, found)
    with_agreement(twin, stored).save(folder)
    show_agreement(stored["agreement"])
    console.print(f"stored in {folder}; real steps of the twin's policies: {ledger.by_purpose}")


def show_agreement(tree: JSON) -> None:
    """Print the agreement of each kind of policies as a table; a dash where a number is unknown."""
    from world_env.policy_evaluation.correlation import EVALUATION, OPTIMISATION

    table = Table("", *(kind for kind in (EVALUATION, OPTIMISATION) if tree[kind]))
    kinds = [tree[kind] for kind in (EVALUATION, OPTIMISATION) if tree[kind]]
    for name in ("policies", "runs", "pearson", "ceiling", "spearman", "spearman_upper_half", "mmrv_fraction",
                 "bias_fraction", "mae_fraction", "coverage90", "width_fraction", "supported_share"):  # fmt: skip
        table.add_row(name, *(show(kind[name]) for kind in kinds))
    console.print(table)


def report_command(
    comparison: Path, out: Path, twin: str | None = None, title: str | None = None
) -> None:
    """Write the report page of a comparison, as HTML and Markdown.

    Args:
        comparison: comparison.json of `world-env compare` or `world-env build`.
        out: Folder of report.html and report.md.
        twin: Name of a bundled twin, or a folder: the page then includes its warnings and measured
            errors. None: the comparison only.
        title: Title of the page. None: the environment's id.
    """
    from world_env.reporting.report import read_comparison, write_report
    from world_env.twin.serialization import find_twin, read_json

    tree = read_comparison(comparison)
    page = write_report(
        out,
        title=title or f"{tree.get('env_id', 'A twin')}: learned and real",
        comparison=tree,
        fidelity=None if twin is None else read_json(find_twin(twin))["fidelity"],
    )
    console.print(f"page: {page}")


def watch_command(
    twin: str,
    out: Path,
    policy: Path | None = None,
    real: str | None = None,
    steps: int = 200,
    seed: int = 0,
    mode: str = "closed_loop",
) -> None:
    """Record a video of a policy in the twin, beside the same policy in the real environment.

    Args:
        twin: Name of a bundled twin, or a folder.
        out: The video, .gif or .mp4. The count of real steps is written beside it.
        policy: Folder of the policy. None: random actions.
        real: Id of the real environment; "same": the one that the twin was fitted to. None: the twin alone.
        steps: Maximum number of steps shown.
        seed: Seed of both environments and of the policy.
        mode: "closed_loop": the policy acts on the observations of each environment. "open_loop": the twin gets the
            actions of the real environment, after as many real observations as its model takes as context; images
            also show their difference.
    """
    from world_env.collection.exploration import RandomPolicy
    from world_env.policies.saved_policy import load_policy
    from world_env.real.step_ledger import StepLedger
    from world_env.reporting.side_by_side_video import watch
    from world_env.twin.twin import Twin

    set_threads()
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


def futures_command(
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
    """Record a video of several learned rollouts from one real state, beside the real rollout.

    Args:
        twin: Name of a bundled twin, or a folder.
        policy: Folder of the policy that acts in all of them.
        out: The video, .gif or .mp4. The count of real steps is written beside it.
        real: Id of the real environment. None: the one that the twin was fitted to.
        after: Real steps before the state.
        steps: Maximum number of steps shown after the state.
        number: Number of learned futures.
        every: Keep every n-th frame.
        seed: Seed of both environments.
    """
    from world_env.policies.saved_policy import load_policy
    from world_env.real.step_ledger import StepLedger
    from world_env.reporting.futures_video import futures
    from world_env.twin.twin import Twin

    set_threads()
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
