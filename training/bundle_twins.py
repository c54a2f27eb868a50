"""Make the bundled twins: `python -m training.bundle_twins TASK_ID ...`.

The full build runs (collect, fit, learn, compare), so that each card has measured returns, and agreement where
`runs/pools` has the task's pool. No table of results uses its seed, 42.
"""

from __future__ import annotations

import argparse
import os
import shutil
import warnings
from pathlib import Path

import torch

from training.build_task import build_task_config
from training.tasks import BUNDLED, TASKS
from world_env import build
from world_env.fitting import FitWarning

SEED = 42
MAX_BYTES = 4_000_000
TWINS = Path(__file__).resolve().parents[1] / "world_env" / "bundled_twins"


def main() -> None:
    """Build the named tasks and put their twins into the package."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "tasks",
        nargs="*",
        metavar="TASK_ID",
        help=f"one of {', '.join(BUNDLED)} (default: all)",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FitWarning)
    for task_id in arguments.tasks or list(BUNDLED):
        out = Path(os.environ.get("WORLD_ENV_RUNS", "runs")) / "bundle" / task_id
        pool = out.parents[1] / "pools" / task_id
        pool = pool if (pool / "pool.json").is_file() else None
        built = build(build_task_config(task_id, out, seed=SEED).replace(baseline=False, pool=pool))
        size = sum(path.stat().st_size for path in built.twin_folder.iterdir())
        if size > MAX_BYTES:
            raise SystemExit(
                f"{task_id}: {size} bytes are too many to bundle (at most {MAX_BYTES})"
            )
        target = TWINS / TASKS[task_id].twin
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(built.twin_folder, target)
        rows = {row.policy: row.real_mean for row in built.comparison.rows}
        print(f"{task_id}: {size} bytes, real returns {rows}: {target.name}", flush=True)


if __name__ == "__main__":
    main()
