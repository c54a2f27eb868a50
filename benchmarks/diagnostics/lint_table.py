"""The Markdown table of `lint.json`; `tables.py` puts it into its page."""

from __future__ import annotations

from collections import Counter


def lint_section(tree: dict | None) -> str:
    """Faults by task: in how many of the seeds each was found; and what else spoke up, named."""
    if tree is None:
        return "Not measured yet."
    rows = tree["rows"]
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    planted = [row for row in rows if row["fault"] != "clean"]
    found = sum(row["found"] for row in planted)
    clean = [row for row in rows if row["fault"] == "clean"]
    quiet = sum(not row["found"] for row in clean)
    lines = [
        f"**{found} of {len(planted)} planted faults found; {quiet} of {len(clean)} clean datasets without an error or "
        f"a warning.** {_seeds(rows)} Made at {_commits(rows)}, on {tree['machine']}, by `{tree['command']}`.\n",
        "| fault | " + " | ".join(tasks) + " |",
        "|---|" + "---|" * len(tasks),
    ]
    for fault in dict.fromkeys(row["fault"] for row in planted):
        cells = [
            _share([r for r in planted if (r["fault"], r["task"]) == (fault, task)])
            for task in tasks
        ]
        lines.append(f"| `{fault}` | " + " | ".join(cells) + " |")
    others = Counter(
        (row["fault"], row["task"], name) for row in rows for name in row["other_findings"]
    )
    if others:
        lines += [
            "\nWhat else spoke up:\n",
            "| fault | task | check | times |",
            "|---|---|---|---|",
        ]
        lines += [f"| `{f}` | {task} | {name} | {n} |" for (f, task, name), n in others.items()]
    return "\n".join(lines)


def _share(rows: list[dict]) -> str:
    """Blank where the data cannot hold the fault."""
    if not rows:
        return ""
    found = sum(row["found"] for row in rows)
    return f"{found} of {len(rows)}" if found == len(rows) else f"**{found} of {len(rows)}**"


def _seeds(rows: list[dict]) -> str:
    seeds = sorted({row["seed"] for row in rows})
    steps = [row["steps"] for row in rows]
    return f"Seeds {', '.join(map(str, seeds))}; {min(steps):,} to {max(steps):,} steps."


def _commits(rows: list[dict]) -> str:
    return ", ".join(sorted({f"`{row['commit'][:12]}` ({row['date']})" for row in rows}))
