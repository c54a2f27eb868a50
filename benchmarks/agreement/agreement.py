"""How well the return of a policy in a twin predicts its real return, for a pool of policies.

    python -m benchmarks.agreement.agreement --tasks CartPole-v1 Pendulum-v1 --seeds 0 1 2 --resume

A cell is one task and one seed: a twin made by refinement, the policy pool of the task evaluated in it, and policies
trained in it (three runs, three stages each), evaluated in the real environment once. Rows combine the cells of a task:
"evaluation" holds means over twins, "optimisation" all policies together, each in its own twin. Missing pools are
trained first (`world-env pool`). Seeds 100 to 109 are for tuning.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.agreement.agreement_tables import TASKS as WANTED
from benchmarks.arguments import script_parser
from benchmarks.returns.returns import read
from training.tasks import TASKS, Task, pool_task, real_of, refine_task
from world_env import learn, refine
from world_env.atomic_io import write_json
from world_env.fitting import FitConfig, FitWarning, fit_episodes
from world_env.policies import load_policy
from world_env.policy_evaluation import (
    EVALUATION,
    OPTIMISATION,
    PolicyReturns,
    Pool,
    TrainedPolicy,
    bootstrap,
    coverage,
    evaluate_twin,
    pool,
    predictions_by_kind,
    range_shares,
    statistics,
)
from world_env.provenance import facts
from world_env.real import StepLedger
from world_env.refinement import RefineConfig, Round, episodes_of_rounds
from world_env.rl import milestones
from world_env.rollouts import policy_actor, run_real
from world_env.struct import Struct
from world_env.twin import Twin
from world_env.types import JSON

ORACLE = "oracle"
ORACLES = ("CartPole-v1", "Pendulum-v1")
"""Tasks with exact equations, see tests/oracle.py."""
JUDGED_FILE = "judged.json"
LATENT_SEED = 90
"""Seed of the twin whose latents the pool acts on; no evaluated twin has it."""
LEARN_RUNS = 3
STAGES = (0.1, 0.3)
"""Shares of a run after which its policy is evaluated too, besides the last one."""


def main() -> None:
    """Run the missing cells and write the file after each."""
    parser = script_parser(__doc__, "agreement", tasks=TASKS, default_tasks=WANTED, seeds=range(3))
    parser.add_argument(
        "--resume", action="store_true", help="load finished cells instead of running them again"
    )
    parser.add_argument(
        "--change",
        type=fields_of(Task),
        default={},
        help="changed fields of the task as JSON, such as '{\"rounds\": 3}'; stored in the rows",
    )
    parser.add_argument(
        "--refit",
        type=fields_of(FitConfig),
        default={},
        help='changed fields of FitConfig as JSON, such as \'{"model": {"width": 200}}\'; the last twin is fitted '
        "again to the same data with them; stored in the rows",
    )
    parser.add_argument(
        "--oracle", action="store_true", help="also evaluate twins with exact equations"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FitWarning)
    runs = Path(os.environ.get("WORLD_ENV_RUNS", "runs"))
    for task_id in arguments.tasks:
        found = pool_of(task_id, runs)
        if arguments.oracle and task_id in ORACLES:
            exact = evaluate_twin(oracle_twin(task_id), found)
            put(arguments.out, task_id, {}, found, [Cell(0, exact, 0, facts())], ORACLE)
        cells = []
        shown = arguments.change | ({"refit": arguments.refit} if arguments.refit else {})
        for seed in arguments.seeds:
            began = time.perf_counter()
            base = place_of(runs, task_id, seed, arguments.change)
            place = place_of(runs, task_id, seed, shown)
            if not (arguments.resume and (place / JUDGED_FILE).is_file()):
                task = TASKS[task_id].updated(arguments.change, where="--change")
                run_cell(task, arguments.refit, base, place, found, seed)
            cells.append(read_cell(place / JUDGED_FILE))
            rows = put(arguments.out, task_id, shown, found, cells)
            print(f"{task_id} seed {seed}: {time.perf_counter() - began:.0f} s", flush=True)
            for row in rows:
                print("  ", {name: row[name] for name in SHOWN}, flush=True)


def pool_of(task_id: str, runs: Path) -> Pool:
    """Policy pool of the task, trained now if it is missing.

    If policies act on latents, the pool acts on those of a twin of other data that is not evaluated.
    """
    task, real, encoder = TASKS[task_id], real_of(task_id), None
    if task.observation_mode is not None:
        folder = runs / "eyes" / task_id
        ledger = StepLedger(folder / "twin-real-steps.json")
        # Its policy is not used; its real steps are printed.
        short = task.replace(learn_steps=1)
        source = refine(refine_task(short, real, folder, LATENT_SEED), ledger=ledger)[-1]
        print(
            f"{task_id}: the pool acts on latents of a twin of {ledger.total():,} more real steps"
        )
        encoder = str(source.twin_folder)
    return pool(pool_task(task, real, runs / "pools" / task_id, encoder=encoder))


def fields_of(kind: type[Struct]) -> Callable[[str], JSON]:
    """Parser of JSON with fields of a config; unknown fields are refused before anything is run."""

    def read_fields(text: str) -> JSON:
        try:
            given = json.loads(text)
        except json.JSONDecodeError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not valid JSON: {error}") from error
        names = kind.__struct_fields__
        wrong = sorted(set(given) - set(names)) if isinstance(given, dict) else [text]
        if wrong:
            raise argparse.ArgumentTypeError(
                f"not a field of {kind.__name__}: {', '.join(wrong)}; "
                f"expected a JSON object with some of {', '.join(names)}"
            )
        return given

    return read_fields


SHOWN = ("kind", "policies", "pearson", "pearson_ci95", "ceiling", "mmrv_fraction", "bias_fraction",
         "coverage90", "width_fraction", "supported_share")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Cell:
    """Returns of all policies in the twin of one seed. real_steps: of the twin. made: commit and date."""

    seed: int
    judged: list[PolicyReturns]
    real_steps: int
    made: JSON


def place_of(runs: Path, task_id: str, seed: int, change: JSON) -> Path:
    """The folder of one cell."""
    name = "-".join([task_id, str(seed), *(f"{key}={value}" for key, value in change.items())])
    return runs / "agreement" / "".join(c if c.isalnum() or c in "-_.=" else "_" for c in name)


def run_cell(task: Task, refit: JSON, base: Path, place: Path, found: Pool, seed: int) -> None:
    """Make or load a twin in `base`, evaluate the pool and new policies in it, and write `place`."""
    ledger = StepLedger(base / "twin-real-steps.json")
    config = refine_task(task, found.real, base, seed)
    last = refine(config, ledger=ledger)[-1]
    if refit:
        last = dataclasses.replace(last, twin=fitted_again(config, last, refit, place / "twin"))
    judged = evaluate_twin(
        last.twin, found, trained_in(last, config.learn, found, place, seed), seed=seed
    )
    write_json(
        place / JUDGED_FILE,
        {
            "seed": seed,
            "real_steps": ledger.total(),
            "made": {key: facts()[key] for key in ("commit", "date")},
            "judged": [
                vars(policy) | {"real": policy.real.tolist(), "learned": policy.learned.tolist()}
                for policy in judged
            ],
        },
    )


def fitted_again(config: RefineConfig, last: Round, refit: JSON, out: Path) -> Twin:
    """Twin of another fit to the data of the last round."""
    if not (out / "twin.json").is_file():
        wanted = config.fit_of(last.number).updated(refit, where="--refit")
        episodes = episodes_of_rounds(config.out, last.number)
        checkpoint = out.with_name(".twin.fit.pt")
        twin = fit_episodes(
            episodes,
            last.twin.spec,
            wanted,
            provenance=last.twin.provenance | {"refit": refit},
            checkpoint=checkpoint,
        )
        twin.save(out)
        checkpoint.unlink(missing_ok=True)
    return Twin.load(out)


def read_cell(path: Path) -> Cell:
    """Load the file that `run_cell` wrote."""
    tree = json.loads(path.read_text(encoding="utf-8"))
    arrays = [
        PolicyReturns(**(part | {side: np.array(part[side]) for side in ("real", "learned")}))
        for part in tree["judged"]
    ]
    return Cell(tree["seed"], arrays, tree["real_steps"], tree["made"])


def trained_in(last: Round, config, found: Pool, place: Path, seed: int) -> list[TrainedPolicy]:
    """Policies trained in the twin, a few runs with a few stages each, with their real returns."""
    trained = []
    for number in range(LEARN_RUNS):
        run = f"twin {seed}, run {number}"
        own = config.replace(seed=seed * 100 + 1000 + number)
        out = place / f"learned-{number}"
        stages = {share: out.with_name(f"{out.name}-{share}") for share in STAGES}
        marks = {round(share * own.steps): path for share, path in stages.items()}
        learn(last.twin, own, out=out, callbacks=[milestones(marks, trained_in="learned")])
        for share, policy in [*stages.items(), (1.0, out)]:
            actor = policy_actor(load_policy(policy))
            real_returns = run_real(
                actor, found.real, found.seeds, purpose="judge", ledger=StepLedger()
            )
            trained.append(
                TrainedPolicy(f"{run}, {share:.0%}", run, lambda actor=actor: actor, real_returns)
            )
    return trained


def oracle_twin(task_id: str):
    """Twin with exact equations: the measures without model error."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
    import oracle

    oracle.register_oracles()
    return oracle.oracle_twin(task_id)


def put(
    path: Path, task_id: str, change: JSON, found: Pool, cells: list[Cell], only: str | None = None
) -> list[JSON]:
    """Replace the rows of a task in the file; returns the new rows."""
    named = {"task": task_id, "change": change}
    rows, points = [], []
    span = float(np.ptp([part.mean for part in found.returns]))
    for kind in [only] if only else (EVALUATION, OPTIMISATION):
        row, own = row_of(kind, cells, span)
        described = {
            "pool_steps": sum(found.real_steps.values()),
            "range_shares": range_shares([part.mean for part in found.returns]),
            "range": [min(part.mean for part in found.returns), max(p.mean for p in found.returns)],
        }
        rows.append(named | {"kind": kind} | row | described)
        points += [named | {"kind": kind} | point for point in own]
    stored = read(path) or {"rows": [], "points": []}
    kinds = {row["kind"] for row in rows}
    kept = {
        part: [old for old in stored[part] if not (named.items() <= old.items() and old["kind"] in kinds)]
        for part in ("rows", "points")
    }  # fmt: skip
    tree = {"benchmark": "agreement"} | facts()
    tree |= {"rows": kept["rows"] + rows, "points": kept["points"] + points}
    for part in ("rows", "points"):
        tree[part].sort(key=lambda row: (row["task"], str(row["change"]), row["kind"]))
    write_json(path, tree)
    return rows


def row_of(kind: str, cells: list[Cell], span: float) -> tuple[JSON, list[JSON]]:
    """One row of the file, and one point a policy and seed."""
    source = OPTIMISATION if kind == OPTIMISATION else EVALUATION
    twins, predictions = [], []
    for cell in cells:
        of_kind = {name: (p, q) for name, p, q in predictions_by_kind(cell.judged)}
        twins.append(of_kind[source][0])
        predictions.append(of_kind[source][1])
    together = [policy for policies in twins for policy in policies]
    given = [prediction for part in predictions for prediction in part]
    # A pool policy is one policy in all twins; a policy trained in a twin belongs to that twin.
    groups = [together] if kind == OPTIMISATION else twins
    parts = [statistics(group, span=span, intervals=False) for group in groups]
    row = averaged(parts) | bootstrap(groups) | coverage(together, given, span=span)
    supported = [
        [p for p, q in zip(*pair, strict=True) if not q.reason]
        for pair in zip(twins, predictions, strict=True)
    ]
    if kind == OPTIMISATION:
        supported = [[policy for part in supported for policy in part]]
    known = [statistics(part, span=span, intervals=False) for part in supported if part]
    row |= {
        "supported": averaged(known) if known else None,
        "past_threshold": float(np.mean([p.past_threshold or 0.0 for p in together])),
        "seeds": [cell.seed for cell in cells],
        "pearson_by_seed": [
            statistics(policies, span=span, intervals=False)["pearson"] for policies in twins
        ],
        "real_steps": [cell.real_steps for cell in cells],
        "commits": sorted({cell.made["commit"] for cell in cells}),
    }
    seeds = [cell.seed for cell, policies in zip(cells, twins, strict=True) for _ in policies]
    points = [
        {
            "seed": seed,
            "policy": policy.policy,
            "run": policy.run,
            "real": round(float(policy.real.mean()), 4),
            "learned": round(float(policy.learned.mean()), 4),
            "past_threshold": policy.past_threshold,
            "interval": None
            if prediction.reason
            else [round(prediction.low, 4), round(prediction.high, 4)],
        }
        for seed, policy, prediction in zip(seeds, together, given, strict=True)
    ]
    return row, points


def averaged(parts: list[JSON]) -> JSON:
    """Mean of each number over twins; None if no twin has it."""
    found: JSON = {}
    for name, value in parts[0].items():
        if isinstance(value, dict):
            found[name] = averaged([part[name] for part in parts])
            continue
        known = [part[name] for part in parts if part[name] is not None]
        mean = float(np.mean(known)) if known else None
        found[name] = round(mean) if name in ("policies", "runs") and mean is not None else mean
    return found


if __name__ == "__main__":
    main()
