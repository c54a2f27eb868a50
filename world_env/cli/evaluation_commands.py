"""The commands that judge: pool and compare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.table import Table

from world_env.atomic_io import write_json
from world_env.cli.console import Bars, console, real_of_twin, runs_folder
from world_env.cli.data_commands import compare_with_logs
from world_env.errors import InvalidOptionError
from world_env.policies.saved_policy import load_policy
from world_env.policy_evaluation.compare import compare
from world_env.policy_evaluation.config import PoolConfig
from world_env.policy_evaluation.correlation import EVALUATION, OPTIMISATION
from world_env.policy_evaluation.evaluate_twin import (
    TrainedPolicy,
    agreement,
    judge,
    with_agreement,
)
from world_env.policy_evaluation.policy_pool import Pool, crowding
from world_env.policy_evaluation.policy_pool import pool as make_pool
from world_env.provenance import facts
from world_env.real.step_ledger import StepLedger
from world_env.reporting.report import show
from world_env.rollouts.actors import policy_actor, random_actor
from world_env.rollouts.real import run_real
from world_env.spec import EnvConfig
from world_env.twin.serialization import find_twin, list_twins
from world_env.twin.twin import Twin
from world_env.types import JSON

_NO_KWARGS: dict[str, Any] = {}


def pool_stage(
    env_id: str,
    /,
    out: Path | None = None,
    policies: int = 24,
    on_policy_steps: int = 200_000,
    off_policy_steps: int = 20_000,
    episodes: int = 100,
    scripted: str | None = None,
    seed: int = 0,
    kwargs: dict[str, Any] = _NO_KWARGS,
    wrappers: tuple[str, ...] = (),
    through: str | None = None,
) -> None:
    """Train policies in reality only, spread over the range of returns, to judge twins by.

    Args:
        env_id: Gymnasium id of the real environment, or "module:Id".
        out: Folder of the pool; running again goes on where it stopped.
        policies: Policies wanted.
        on_policy_steps: Real steps of each on-policy run.
        off_policy_steps: Real steps of each off-policy run.
        episodes: Real episodes that evaluate each policy.
        scripted: A policy written by hand, as "module:function".
        seed: Of the runs.
        kwargs: Arguments of the real environment.
        wrappers: Wrappers of the real environment, as module:Class, innermost first.
        through: Bundled twin or folder on whose latents all policies learn; the pool cannot judge that one.
    """
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
    found = make_pool(config, report=Bars())
    table = Table("policy", "real return")
    for member, returns in zip(found.members, found.returns, strict=True):
        table.add_row(member.name, f"{returns.mean:.1f}")
    console.print(table)
    console.print(f"pool: {folder}; real steps by purpose: {found.real_steps}")
    if warning := crowding(found):
        console.print(f"[yellow]warning[/yellow]: {warning}")


def compare_stage(
    twin: str,
    policies: tuple[Path, ...] | None = None,
    against: str | None = None,
    real: str | None = None,
    pool: Path | None = None,
    episodes: int = 100,
    seed: int = 10_000,
    out: Path | None = None,
) -> None:
    """Run frozen policies in the twin and in reality under one protocol; or judge by a pool; or replay logs.

    With --pool: judge the twin by a pool of policies that never saw it, and store what was found, and the promise that
    follows from it, in the twin's folder; the policies given are then those that were trained in it.

    Args:
        twin: Bundled twin or folder.
        policies: Folders of the policies; a random one is always beside them.
        against: Instead of policies, logs: folder of an episode store, or minari:ID. No real step is made.
        pool: Folder of a pool, made by `world-env pool`.
        real: Real environment id; without it the one that the twin was made from, arguments and wrappers included.
        episodes: Episodes a policy, in each world.
        seed: First reset seed, or of the twin's noise.
        out: Folder of comparison.json (or logs.json) and of the count of real steps; runs/compare/TWIN without it.
    """
    loaded = Twin.load(twin)
    target = out or runs_folder() / "compare" / Path(twin).name
    if against is not None:
        if (policies, real, pool) != (None, None, None):
            raise InvalidOptionError(
                "with --against DATASET the logged actions are replayed in the twin: leave out --policies, --real and "
                "--pool, no policy acts and no real environment is made"
            )
        return compare_with_logs(loaded, against, target / "logs.json", seed=seed)
    if pool is not None:
        return _judge_by_pool(twin, loaded, Pool.load(pool), policies or (), real)
    if policies is None:
        raise InvalidOptionError(
            "give what to compare by: --policies, which act in the twin and in reality, --pool, or --against DATASET"
        )
    config = real_of_twin(loaded, real)
    actors = {"random": random_actor(loaded.spec.action_space, range(episodes))}
    for folder in policies:
        name = str(folder) if folder.name in actors else folder.name
        actors[name] = policy_actor(load_policy(folder, expect=loaded.spec))
    ledger = StepLedger(target / "real-steps.json")
    bars = Bars()
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
    write_json(target / "comparison.json", comparison | counted)
    show_comparison(comparison)
    console.print(f"comparison: {target / 'comparison.json'}")


def _judge_by_pool(
    name: str, twin: Twin, found: Pool, policies: tuple[Path, ...], real: str | None
) -> None:
    if real is not None:
        raise InvalidOptionError("a pool knows its real environment: leave out --real")
    folder = find_twin(name)
    if name in list_twins():
        raise InvalidOptionError(
            f"{name!r} is bundled, what was found cannot be stored in it: copy {folder.name} somewhere, or give the "
            "folder of your own twin"
        )
    ledger = StepLedger(folder.parent / f"{folder.name}-pool-real-steps.json")
    bars = Bars()
    trained = []
    for number, path in enumerate(policies):
        actor = policy_actor(load_policy(path, expect=twin.spec))
        reality = run_real(actor, found.real, found.seeds, purpose="spot_check", ledger=ledger)
        trained.append(TrainedPolicy(str(path), str(path), lambda actor=actor: actor, reality))  # type: ignore[misc]
        bars("judge", number + 1, len(policies), {})
    ledger.save()
    judged = judge(
        twin, found, trained, progress=lambda done, wanted: bars("agree", done, wanted, {})
    )
    stored = agreement(judged, found)
    with_agreement(twin, stored).save(folder)
    show_agreement(stored["agreement"])
    console.print(f"stored in {folder}; the real steps of its own policies: {ledger.by_purpose}")


def show_agreement(tree: JSON) -> None:
    """The agreement of each kind of policies as a table; a dash where a number is unknown."""
    table = Table("", *(kind for kind in (EVALUATION, OPTIMISATION) if tree[kind]))
    kinds = [tree[kind] for kind in (EVALUATION, OPTIMISATION) if tree[kind]]
    for name in ("policies", "runs", "pearson", "ceiling", "spearman", "spearman_upper_half", "mmrv_fraction",
                 "bias_fraction", "mae_fraction", "coverage90", "width_fraction", "supported_share"):  # fmt: skip
        table.add_row(name, *(show(kind[name]) for kind in kinds))
    console.print(table)


def show_comparison(comparison: JSON) -> None:
    """The comparison as a table; a dash where a number is unknown."""
    table = Table(
        "policy", "real return [95 %]", "learned return [95 %]", "return gap", "real steps"
    )
    for row in comparison["rows"]:
        real, learned = (
            f"{row[f'{side}_mean']:.1f} [{row[f'{side}_ci95'][0]:.1f}, {row[f'{side}_ci95'][1]:.1f}]"
            for side in ("real", "learned")
        )
        table.add_row(
            row["policy"], real, learned, f"{row['return_gap']:+.1f}", show(row["real_steps"])
        )
    console.print(table)


JUDGE_STAGES: dict[str, Callable[..., None]] = {"pool": pool_stage, "compare": compare_stage}
