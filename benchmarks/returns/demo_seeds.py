"""Returns of the CartPole demo over seeds, before and after a change that should not matter.

    python -m benchmarks.returns.demo_seeds --version before --seeds 0 1 2
    python -m benchmarks.returns.demo_seeds --version after --seeds 0 1 2

A run is 2,000 random real steps, a twin, PPO in the twin, and 100 real episodes. The rows of a version are kept in the
file. With two versions, the difference of their means is printed with Welch's 95 % interval over the seeds.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from scipy.stats import ttest_ind

from benchmarks.arguments import option, script_parser
from benchmarks.returns.returns import read
from world_env import BuildConfig, EnvConfig, FitConfig, build
from world_env.atomic_io import write_json
from world_env.results import facts
from world_env.types import JSON

BENCHMARK = "demo_seeds"


def main() -> None:
    """Run the seeds, keep their rows and print the means."""
    parser = script_parser(__doc__, BENCHMARK, seeds=range(10))
    option(parser, "--version", "before", "name of the version of the code")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for seed in arguments.seeds:
        row = {"version": arguments.version, "seed": seed} | returns_of(seed)
        stored = read(arguments.out) or {"rows": []}
        same = (arguments.version, seed)
        kept = [each for each in stored["rows"] if (each["version"], each["seed"]) != same]
        tree = {"benchmark": BENCHMARK} | facts().to_json()
        write_json(arguments.out, tree | {"rows": [*kept, row]})
        print(row, flush=True)
    print(summary((read(arguments.out) or {"rows": []})["rows"]))


def returns_of(seed: int) -> JSON:
    """Rest of one row: mean real and learned return of the policy trained in the twin."""
    with tempfile.TemporaryDirectory() as folder:
        config = BuildConfig(
            EnvConfig("CartPole-v1"),
            Path(folder),
            steps=2_000,
            learn_steps=150_000,
            fit=FitConfig(gradient_steps=2_000),
            baseline=False,
            seed=seed,
        )
        rows = {row.policy: row for row in build(config).comparison.rows}
    row, made = rows["ppo_twin"], facts()
    return {
        "real_mean": row.real_mean,
        "learned_mean": row.learned_mean,
        "commit": made.commit,
        "date": made.date,
    }


def summary(rows: list[JSON]) -> str:
    """Means of the versions, and the difference of the first two."""
    versions = sorted({row["version"] for row in rows}, reverse=True)
    values = {
        name: np.array([row["real_mean"] for row in rows if row["version"] == name])
        for name in versions
    }
    lines = [f"{name}: {v.mean():.1f} over {len(v)} seeds" for name, v in values.items()]
    if len(versions) > 1:
        one, other = (values[name] for name in versions[:2])
        difference = low = high = float(other.mean() - one.mean())
        if np.ptp(one) or np.ptp(other):
            low, high = ttest_ind(other, one, equal_var=False).confidence_interval(0.95)
        names = f"{versions[1]} minus {versions[0]}"
        lines.append(f"{names}: {difference:.1f} [{low:.1f}, {high:.1f}]")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
