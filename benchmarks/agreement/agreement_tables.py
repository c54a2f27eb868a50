"""The tables of results/agreement.json: how far learned returns stand for real ones, and what was wanted."""

from __future__ import annotations

import json

NOTHING = "Not measured yet: the results file does not exist."
TASKS = (
    *("CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCarContinuous-v0"),
    *("InvertedDoublePendulum-v5", "HalfCheetah-v5", "Pendulum-v1-pixels"),
)
MIN_PEARSON = {"Pendulum-v1-pixels": 0.95}
"""What is wanted of a task, where it is not .99."""
SEEDS = {0, 1, 2}
KINDS = ("evaluation", "optimisation", "oracle")


def agreement_section(tree: dict | None) -> str:
    """The Markdown between the `agreement` markers."""
    if tree is None:
        return NOTHING
    rows = sorted(tree["rows"], key=_order)
    plain = [row for row in rows if not row["change"]]
    changed = [row for row in rows if row["change"]]
    parts = [_measures(plain), _promises(plain), _goals(plain), _missing(plain)]
    if changed:
        parts += ["**What was tried where a goal was missed**", _changes(changed, plain)]
    commits = sorted({commit[:12] for row in rows for commit in row["commits"]})
    parts.append(
        f"Made at {', '.join(f'`{commit}`' for commit in commits)} on {tree['machine']} by "
        f"`{tree['command'].partition(' --')[0]}`; pools begin with seed 0."
    )
    return "\n\n".join(part for part in parts if part)


def _order(row: dict) -> tuple:
    return TASKS.index(row["task"]), KINDS.index(row["kind"]), json.dumps(row["change"])


def _measures(rows: list[dict]) -> str:
    lines = [
        "| task | policies | of runs | twins | Pearson [95 %] | ceiling | Spearman | upper half | MMRV (ceiling) "
        "| bias | mean error | regret@1 |",
        "|---" * 12 + "|",
    ]
    for row in rows:
        span = row["range"][1] - row["range"][0]
        floor = row["ceilings"]["mmrv"]
        lines.append(
            f"| {row['task']}, {row['kind']} | {row['policies']} | {row['runs']} | {len(row['seeds'])} "
            f"| {_number(row['pearson'])} {_pair(row['pearson_ci95'])} | {_number(row['ceiling'])} "
            f"| {_number(row['spearman'])} | {_number(row['spearman_upper_half'])} | {_share(row['mmrv_fraction'])} "
            f"({_share(None if floor is None else floor / span)}) "
            f"| {_share(row['bias_fraction'], sign=True)} | {_share(row['mae_fraction'])} "
            f"| {_share(row['regret1'] / span)} |"
        )
    return "\n".join(lines)


def _promises(rows: list[dict]) -> str:
    lines = [
        "| task | an interval is given to | it holds the real return of | its median width | steps past the threshold "
        "| Pearson of those policies | real steps of a twin | of the pool | commits |",
        "|---" * 9 + "|",
    ]
    for row in rows:
        if row["kind"] == "oracle":
            continue
        own = row["supported"] or {}
        lines.append(
            f"| {row['task']}, {row['kind']} | {_share(row['supported_share'], 0)} | {_share(row['coverage90'], 0)} "
            f"| {_share(row['width_fraction'])} | {_share(row['past_threshold'])} | {_number(own.get('pearson'))} "
            f"| {max(row['real_steps']):,} | {row['pool_steps']:,} | {_commits(row)} |"
        )
    return "\n".join(lines)


def verdicts(row: dict) -> dict[str, bool | None]:
    """Goal -> whether a row of kind "evaluation" meets it; None where it was not measured."""

    def told(value: float | None, good) -> bool | None:
        return None if value is None else bool(good(value))

    limit = MIN_PEARSON.get(row["task"], 0.99)
    if row["ceiling"] is not None:
        limit = min(limit, row["ceiling"])
    low = None if row["pearson_ci95"] is None else row["pearson_ci95"][0]
    return {
        "Pearson >= .99 (pixels: .95) or the ceiling": told(row["pearson"], lambda v: v >= limit),
        "its lower end >= .95": told(low, lambda v: v >= 0.95),
        "MMRV <= 2 %": told(row["mmrv_fraction"], lambda v: v <= 0.02),
        "bias within 5 %": told(row["bias_fraction"], lambda v: abs(v) <= 0.05),
        "coverage 85 to 95 %": told(row["coverage90"], lambda v: 0.85 <= v <= 0.95),
        "width <= 25 %": told(row["width_fraction"], lambda v: v <= 0.25),
    }


def _goals(rows: list[dict]) -> str:
    judged = [(row, verdicts(row)) for row in rows if row["kind"] == "evaluation"]
    if not judged:
        return ""
    names = list(judged[0][1])
    words = {True: "met", False: "**missed**", None: "not measured"}
    lines = [f"| task | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [
        f"| {row['task']} | {' | '.join(words[found[name]] for name in names)} |"
        for row, found in judged
    ]
    return "\n".join(lines)


def _changes(rows: list[dict], plain: list[dict]) -> str:
    """Each change beside the unchanged row of the same task and kind."""
    lines = [
        "| task | change | seeds | Pearson [95 %] | MMRV | bias | coverage | width | an interval for | "
        "commits |",
        "|---" * 10 + "|",
    ]
    shown: set[tuple[str, str]] = set()
    for row in rows:
        key = (row["task"], row["kind"])
        before = [old for old in plain if (old["task"], old["kind"]) == key and key not in shown]
        shown.add(key)
        for one in [*before, row]:
            change = json.dumps(one["change"]) if one["change"] else "none"
            lines.append(
                f"| {one['task']}, {one['kind']} | {change} | {', '.join(map(str, one['seeds']))} "
                f"| {_number(one['pearson'])} {_pair(one['pearson_ci95'])} | {_share(one['mmrv_fraction'])} "
                f"| {_share(one['bias_fraction'], sign=True)} | {_share(one['coverage90'], 0)} "
                f"| {_share(one['width_fraction'])} | {_share(one['supported_share'], 0)} "
                f"| {_commits(one)} |"
            )
    return "\n".join(lines)


def _missing(rows: list[dict]) -> str:
    there = {row["task"]: set(row["seeds"]) for row in rows if row["kind"] == "evaluation"}
    left = {task: sorted(SEEDS - there.get(task, set())) for task in TASKS}
    missing = [
        f"{task} (seeds {', '.join(map(str, seeds))})" for task, seeds in left.items() if seeds
    ]
    return f"Missing cells: {'; '.join(missing)}." if missing else ""


def _commits(row: dict) -> str:
    return ", ".join(f"`{commit[:8]}`" for commit in row["commits"])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _pair(ends: list[float] | None) -> str:
    return "" if ends is None else f"[{ends[0]:.3f}, {ends[1]:.3f}]"


def _share(value: float | None, digits: int = 1, *, sign: bool = False) -> str:
    return "-" if value is None else f"{100 * value:{'+' if sign else ''}.{digits}f} %"
