"""The Markdown tables of speed, each from its results file; `tables.py` puts them into their pages."""

from __future__ import annotations

import itertools
import json
import statistics
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[1] / "results"
NOTHING = "Not measured yet."
IMAGE_ROWS = 16
IMAGE_GOALS = {("64x64", "core, images"): 5_000, ("64x64", "core, latents"): 25_000}
_SHELLS = ("core", "vector_env", "vector_env_restarts", "vec_env", "env", "mbrl", "real")


def steps_section(tree: dict | None) -> str:
    """Steps a second by size, at one and at 1,000 rows, and the limits of the same run."""
    if tree is None:
        return NOTHING
    kinds = list(dict.fromkeys((row["dtype"], row["uncertainty"]) for row in tree["rows"]))
    network = tree["network"]
    lines = [
        f"{network['members']} members of {network['layers']} x {network['width']} units, one thread, median of "
        f"{tree['repeats']} alternating rounds; in brackets the share of the bare network. {_made(tree)}\n",
        "| world, rows | what | " + " | ".join(_kind(*kind) for kind in kinds) + " |",
        "|---|---|" + "---|" * len(kinds),
    ]
    rows = [row for row in tree["rows"] if "members" not in row]
    for size in dict.fromkeys(row["size"] for row in rows):
        for count, what in itertools.product((1, 1000), ("forward", *_SHELLS)):
            found = {
                (row["dtype"], row["uncertainty"]): row
                for row in rows
                if (row["size"], row["what"]) == (size, what) and _about(row, count)
            }
            if found and (count == 1000 or what not in ("vector_env_restarts", "core")):
                cells = [_rate(found.get(kind)) for kind in kinds]
                name = f"{size}, {count:,}" if what != "real" else f"{size}, 1"
                if what != "real" or count == 1:
                    lines.append(f"| {name} | {what} | " + " | ".join(cells) + " |")
        lines += [
            f"| {size} | matrix limit, {limit['dtype']} | {limit['steps_per_second']:,.0f} |"
            + " |" * (len(kinds) - 1)
            for limit in tree["limits"]
            if limit["size"] == size
        ]
    memory = tree["memory"]
    if memory is not None:
        total = memory["rows"] * memory["steps"]
        lines.append(
            f"\nMemory: {memory['rows']:,} rows of {memory['size']} hold {memory['simulator_mb']:,.0f} MB; after "
            f"{total:,} steps {memory['growth_mb']:+,.1f} MB, and a step of all rows took "
            f"{memory['milliseconds_last_tenth']:.1f} ms where it had taken {memory['milliseconds_first_tenth']:.1f}."
        )
    return "\n".join(lines)


def image_section(tree: dict | None) -> str:
    """Steps a second of worlds of images, with the goals that were set for them."""
    if tree is None:
        return NOTHING
    counts = sorted({row["rows"] for row in tree["rows"]})
    lines = [
        "| images | what | " + " | ".join(f"{count} rows" for count in counts) + " | goal |",
        "|---|---|" + "---|" * (len(counts) + 1),
    ]
    found = {(row["size"], row["what"], row["rows"]): row for row in tree["rows"]}
    for size, what in dict.fromkeys((row["size"], row["what"]) for row in tree["rows"]):
        cells = [
            f"{row['steps_per_second']:,.0f} ({row['milliseconds']:.2f} ms)"
            if (row := found.get((size, what, count)))
            else ""
            for count in counts
        ]
        judged, goal = found.get((size, what, IMAGE_ROWS)), IMAGE_GOALS.get((size, what))
        word = ""
        if goal is not None and judged is not None:
            met = judged["steps_per_second"] >= goal
            word = f"{goal:,} in {IMAGE_ROWS} rows: {'met' if met else '**missed**'}"
        lines.append(f"| {size} | {what} | {' | '.join(cells)} | {word} |")
    return "\n".join([*lines, "", f"Median of {tree['repeats']} alternating rounds. {_made(tree)}"])


def gpu_section(tree: dict | None) -> str:
    """Steps and updates a second of every family, one column a device."""
    if tree is None:
        return NOTHING
    places = list(dict.fromkeys((row["device"], row["threads"]) for row in tree["rows"]))
    names = [f"{device}, {threads} thread{'s' * (threads > 1)}" for device, threads in places]
    lines = [
        "| family, observation | what | " + " | ".join(names) + " |",
        "|---|---|" + "---|" * len(names),
    ]
    found: dict[tuple[str, str], dict[tuple[str, int], float]] = {}
    for row in tree["rows"]:
        what = "updates of a fit"
        if row["what"] == "steps":
            seen = " on latents" if row["mode"] == "latent" else ""
            what = f"steps{seen}, {row['rows']:,} rows"
        cells = found.setdefault((f"{row['family']}, {row['size']}", what), {})
        cells[row["device"], row["threads"]] = row["per_second"]
    for (world, what), cells in found.items():
        shown = [_amount(cells.get(place)) for place in places]
        lines.append(f"| {world} | {what} | {' | '.join(shown)} |")
    return "\n".join(
        [*lines, "", f"A second; steps: median of three, updates: of one fit. {_made(tree)}"]
    )


def _amount(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def held_section(tree: dict | None) -> str:
    """Policies of the twin, judged again, beside what `returns.json` holds."""
    if tree is None:
        return NOTHING
    first = json.loads((RESULTS / "returns.json").read_text(encoding="utf-8"))
    lines = [
        "| task | `returns.json`, mean over seeds | judged again | seed by seed, again | promise, again | commits |",
        "|---|---|---|---|---|---|",
    ]
    for task in dict.fromkeys(row["task"] for row in tree["rows"]):
        again, before = (
            [
                row
                for row in one["rows"]
                if (row["task"], row["policy"], row["final"]) == (task, "ppo_twin", True)
            ]
            for one in (tree, first)
        )
        seeds = {row["seed"] for row in again}
        before = [row for row in before if row["seed"] in seeds]
        each = ", ".join(f"{row['seed']}: {row['real_mean']:.1f}" for row in again)
        promise = statistics.fmean(row["learned_mean"] - row["real_mean"] for row in again)
        made = [
            {cell["commit"][:8] for cell in one["cells"] if cell["task"] == task}
            for one in (first, tree)
        ]
        commits = " then ".join("`" + "`, `".join(sorted(part)) + "`" for part in made)
        lines.append(
            f"| {task} | {_real(before):.1f} | {_real(again):.1f} | {each} | {promise:+.1f} | {commits} |"
        )
    return "\n".join(lines)


def parts_section(tree: dict | None) -> str:
    """Where the time of a step goes."""
    if tree is None:
        return NOTHING
    names = ("size", "network", "rows")
    columns = list(dict.fromkeys(tuple(row[name] for name in names) for row in tree["rows"]))
    found = {
        (row["what"], *(row[name] for name in names)): row["microseconds"] for row in tree["rows"]
    }
    lines = [
        f"Microseconds a step of all rows, one thread, the least of many rounds. {_made(tree)}\n",
        "| what | " + " | ".join(f"{s}, {n} network, {rows:,}" for s, n, rows in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for what in dict.fromkeys(row["what"] for row in tree["rows"]):
        cells = [found.get((what, *column)) for column in columns]
        shown = ["" if cell is None else f"{cell:,.0f}" for cell in cells]
        lines.append(f"| {what} | " + " | ".join(shown) + " |")
    times = [
        f"{column[2] * found[('real', *column)] / found[('environment', *column)]:.1f}"
        for column in columns
    ]
    lines.append("| **times as fast as one real environment** | " + " | ".join(times) + " |")
    return "\n".join(lines)


def fit_section(tree: dict | None) -> str:
    """One line a fit, in the order they were run."""
    if tree is None:
        return NOTHING
    lines = [
        "| data | change | threads | updates/s | prepare, updates, validation, finish: total (s) | open-loop error | "
        "peak memory (MB) | commit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in tree["rows"]:
        seconds = row["seconds"]
        parts = [f"{seconds[name]:.1f}" for name in ("prepare", "updates", "validation", "finish")]
        lines.append(
            f"| {row['task']}, {row['transitions']:,} | `{row['change']}` | {row['threads']} | "
            f"{row['updates_per_second']:.0f} | {', '.join(parts)}: **{seconds['total']:.1f}** | "
            f"{row['open_loop']:.4f} | {row['peak_mb']:,.0f} | `{row['commit'][:8]}` |"
        )
    return "\n".join(lines)


def ppo_section(tree: dict | None) -> str:
    """One line a comparison of PPO in both worlds."""
    if tree is None:
        return NOTHING
    lines = [
        "| task, twin | until | rows, batch, epochs | twin: s (env, policy, update) | real: s (env, policy, update) | "
        "real / twin | commit |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in tree["rows"]:
        steps = {training["steps"] for training in row["trainings"]}
        until = f"{max(steps):,} steps"
        if row["to_return"] is not None:
            until = f"a real return of {row['to_return']:g}"
        ratio = "not reached" if row["ratio"] is None else f"**{row['ratio']:.2f}**"
        sides = [_training(row, world) for world in ("twin", "real")]
        settings = f"{row['rows_together']}, {row['batch_size']}, {row['n_epochs']}"
        lines.append(
            f"| {row['task']}, {row['twin']} | {until} | {settings} | {sides[0]} | {sides[1]} | {ratio} | "
            f"`{row['commit'][:8]}` |"
        )
    return "\n".join(lines)


def learn_section(tree: dict | None) -> str:
    """Settings of PPO by task: what they earn in reality, and what they cost."""
    if tree is None:
        return NOTHING
    lines = [
        "| task, world, steps | rows x steps / batch / epochs | change | real return by seed | mean | "
        "seconds | of these stepping | commit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    found: dict[tuple, list[dict]] = {}
    for row in tree["rows"]:
        key = (row["task"], row["world"], row["steps"], row["setting"], str(row["change"] or ""))
        found.setdefault(key, []).append(row)
    order = list(dict.fromkeys(key[0] for key in found))
    for key, rows in sorted(
        found.items(), key=lambda item: (order.index(item[0][0]), -_real(item[1]))
    ):
        task, world, steps, setting, change = key
        each = ", ".join(f"{row['seed']}: {row['real_mean']:.1f}" for row in rows)
        costs = [
            statistics.fmean(row[name] for row in rows)
            for name in ("seconds", "environment_seconds")
        ]
        commits = " ".join(sorted({f"`{row['commit'][:8]}`" for row in rows}))
        lines.append(
            f"| {task}, {world}, {steps:,} | {setting} | {f'`{change}`' if change else ''} | {each} | "
            f"{_real(rows):.1f} | {costs[0]:.0f} | {costs[1]:.0f} | {commits} |"
        )
    return "\n".join(lines)


def uncertainty_section(tree: dict | None) -> str:
    """Kinds of uncertainty by task."""
    if tree is None:
        return NOTHING
    lines = [
        "| task | uncertainty | AUROC, worst tenth | against full | AUROC, error > 0.5 | against full | commit |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['task']} | {row['kind']} | {row['auroc_worst_tenth']:.3f} | {row['gap_worst_tenth']:+.3f} | "
        f"{row['auroc_half']:.3f} | {row['gap_half']:+.3f} | `{row['commit'][:8]}` |"
        for row in tree["rows"]
    ]
    return "\n".join(lines)


def _about(row: dict, count: int) -> bool:
    """mbrl-lib's row counts are rounded up to a multiple of the members."""
    return count <= row["rows"] < count + 5


def _kind(dtype: str, uncertainty: str) -> str:
    return f"uncertainty {uncertainty}" + ("" if dtype == "float32" else f", {dtype}")


def _rate(row: dict | None) -> str:
    if row is None:
        return ""
    share = row["share_of_bare"]
    return f"{row['steps_per_second']:,.0f}" + ("" if share in (None, 1.0) else f" ({share:.0%})")


def _training(row: dict, world: str) -> str:
    """The median training of a world in seconds, split where it was."""
    trainings = [training for training in row["trainings"] if training["world"] == world]
    seconds = statistics.median(training["seconds"] for training in trainings)
    if row["to_return"] is not None:
        steps = statistics.median(training["steps"] for training in trainings)
        return f"{seconds:.0f} ({steps:,.0f} steps)"
    parts = [
        statistics.median(training[f"{name}_seconds"] for training in trainings)
        for name in ("environment", "policy", "update")
    ]
    return f"{seconds:.1f} ({', '.join(f'{part:.1f}' for part in parts)})"


def _real(rows: list[dict]) -> float:
    return statistics.fmean(row["real_mean"] for row in rows)


def _made(tree: dict) -> str:
    return f"Made at `{tree['commit'][:12]}` ({tree['date']}), on {tree['machine']}, by `{tree['command']}`."
