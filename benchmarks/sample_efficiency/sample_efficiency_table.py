"""Tables of sample_efficiency.json for tables.py."""

from __future__ import annotations

from benchmarks.markdown import (
    NOT_MEASURED,
    by_seed,
    commits,
    covers,
    grouped,
    judging_steps,
    mean_interval,
    mean_of,
    paragraphs,
    predicted_return,
    source,
    table,
    verdict,
)
from world_env.types import JSON

SEEDS = range(3)
GOALS = {
    "HalfCheetah-v5": 9_000.0,
    "Hopper-v5": 3_300.0,
    "Walker2d-v5": 4_000.0,
    "InvertedDoublePendulum-v5": 9_000.0,
}
"""Task -> lowest mean real return of SVG over seeds."""
LOWEST = {"Hopper-v5": 2_500.0}
"""Task -> lowest real return of any seed."""
WORDS = {
    "svg_twin": "SVG trained only in the twin",
    "svg_twin_known": "SVG trained only in the twin, true termination function",
    "ppo_twin": "PPO trained only in the last twin of SVG",
    "sac_real": "SAC in the real environment, same steps",
    "ppo_real": "PPO in the real environment, 1,000,000 steps",
    "random": "random",
}


def sample_efficiency_section(tree: JSON | None) -> str:
    """One row per task and policy, and the goals."""
    if tree is None:
        return NOT_MEASURED
    rows = [row for row in tree["rows"] if row["seed"] in SEEDS]
    found = grouped(sorted(rows, key=_order), lambda row: (row["task"], row["policy"]))
    return paragraphs(
        table(
            [
                "task",
                "policy",
                "real steps",
                "judging steps",
                "real return, mean [95 %]",
                "by seed",
                "lowest seed",
                "predicted return [interval] (predicted minus real) by seed",
                "intervals that cover the real return",
                "hours",
            ],
            [_cells(task, policy, of) for (task, policy), of in found.items()],
        ),
        table(
            ["task", "goal", "measured", "verdict"],
            [line for task in GOALS for line in _goals(task, found.get((task, "svg_twin"), []))],
        ),
        source(tree, commits(rows)),
    )


def _order(row: JSON) -> tuple[int, int, int]:
    return list(GOALS).index(row["task"]), list(WORDS).index(row["policy"]), row["seed"]


def _cells(task: str, policy: str, rows: list[JSON]) -> list[str]:
    predicted = [row for row in rows if row.get("predicted_return")]
    return [
        task,
        WORDS[policy],
        f"{mean_of(rows, 'real_steps'):,.0f}",
        judging_steps(rows),
        mean_interval([row["real_mean"] for row in rows], 0),
        by_seed(rows, form=",.0f"),
        f"{min(row['real_mean'] for row in rows):,.0f}",
        ", ".join(f"{row['seed']}: {_predicted(row)}" for row in predicted) or "-",
        f"{sum(map(covers, predicted))} of {len(predicted)}" if predicted else "-",
        f"{mean_of(rows, 'seconds') / 3600:.1f}",
    ]


def _predicted(row: JSON) -> str:
    gap = row["predicted_return"]["mean"] - row["real_mean"]
    return f"{predicted_return(row)} ({gap:+,.0f})"


def _goals(task: str, rows: list[JSON]) -> list[list[str]]:
    whole = len(rows) == len(SEEDS)
    returns = [row["real_mean"] for row in rows]
    kinds = [("mean over seeds", GOALS[task], sum(returns) / max(1, len(returns)))]
    if task in LOWEST:
        kinds.append(("every seed", LOWEST[task], min(returns, default=0.0)))
    lines = []
    for of, goal, value in kinds:
        shown = f"{value:,.0f}" if returns else "-"
        if returns and not whole:
            shown += f" ({len(rows)} of {len(SEEDS)} seeds)"
        met = verdict(value >= goal if whole else None)
        lines.append([task, f"{of} >= {goal:,.0f}", shown, met])
    return lines


def learning_curves_section(tree: JSON | None) -> str:
    """Real return of SVG after parts of the real steps, by task and seed."""
    if tree is None:
        return NOT_MEASURED
    rows = [row for row in tree["rows"] if row["seed"] in SEEDS and row.get("curve")]
    return table(
        ["task", "policy", "seed", "real steps: real return"],
        [
            [
                row["task"],
                WORDS[row["policy"]],
                str(row["seed"]),
                "; ".join(
                    f"{point['real_steps']:,}: {point['real_mean']:,.0f}"
                    for point in [*row["curve"], row]
                ),
            ]
            for row in sorted(rows, key=_order)
        ],
    )


def svg_critics_section(tree: JSON | None) -> str:
    """One row per kind of critics and number of updates, means over seeds."""
    if tree is None:
        return NOT_MEASURED
    points = [row | point for row in tree["rows"] for point in row["curve"]]
    found = grouped(points, lambda point: (point["critics"], point["updates"]))
    return paragraphs(
        table(
            [
                "critics",
                "updates",
                "learned return by seed",
                "real return by seed",
                "value of the critics",
                "Monte Carlo return",
            ],
            [
                [
                    critics,
                    f"{updates:,}",
                    by_seed(of, "learned_mean", ",.0f"),
                    by_seed(of, form=",.0f"),
                    f"{mean_of(of, 'value'):,.0f}",
                    f"{mean_of(of, 'monte_carlo'):,.0f}",
                ]
                for (critics, updates), of in found.items()
            ],
        ),
        source(tree, commits(tree["rows"])),
    )
