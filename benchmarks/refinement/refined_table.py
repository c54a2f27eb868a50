"""The tables of refined.py, for tables.py."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

from scipy.stats import t as student_t

from benchmarks.refinement.refined_arms import ARMS, OF_OLDER, OF_ROW, OLDER, ROW
from training.tasks import real_of, refine_task, task_of
from world_env.types import JSON

NOTHING = "Nothing was measured yet: `benchmarks/results/refined.json` does not exist."
SEEDS = (0, 1, 2)
TUNING = range(100, 110)
TASKS = (
    "Hopper-v5",
    "HalfCheetah-v5",
    "InvertedDoublePendulum-v5",
    "Walker2d-v5",
    "Ant-v5",
    "Swimmer-v5",
    "LunarLander-v3",
)
WORDS = {
    "sac_twin": "SAC, only in the twin",
    "sac_twin_known": "SAC, only in the twin, true termination",
    "ppo_twin": "PPO, only in the twin",
    "ppo_twin_known": "PPO, only in the twin, true termination",
    "ppo_real_twin_steps": "PPO in reality, the twin's steps",
    "ppo_real_long": "PPO in reality, 1,000,000 steps (a bar)",
    "ppo_real_long_few": "PPO in reality, 1,000,000 steps in 8 rows (a bar)",
    "ppo_real_long_discount": "PPO in reality, 1,000,000 steps, discount as in the twin (a bar)",
    "ppo_real_long_same": "PPO in reality, 1,000,000 steps, batches too as in the twin (a bar)",
    "ppo_real_same_steps": "PPO in reality, same steps",
    "sac_real_same_steps": "SAC in reality, same steps",
    "random": "random",
}
LEARNERS = ("sac_twin", "ppo_twin")
BARS = ("ppo_real_long", "ppo_real_long_few", "ppo_real_long_discount", "ppo_real_long_same")
FLOORS = {"Hopper-v5": 1_500.0, "InvertedDoublePendulum-v5": 9_000.0}
_OLDER_WAS = "no restarts, cut past the threshold, an end after five rounds without another choice"
CLOSE = 0.15
"""Share of the real return within which a promise is to be."""
_PLAIN = "{}"


def refined_section(tree: dict | None) -> str:
    """The Markdown between the `refined` markers: policies, goals, rounds, and what was tried."""
    if tree is None:
        return NOTHING
    rows = _judged(tree["rows"])
    parts = [_policies(task, [row for row in rows if row["task"] == task]) for task in _tasks(rows)]
    parts += [_goals(rows), _rounds(tree), _ablation(tree["rows"])]
    parts += [_tried(tree["rows"]), _missing(rows)]
    commits = ", ".join(sorted({f"`{row['commit'][:12]}`" for row in tree["rows"]}))
    parts.append(
        f"Made at {commits} on {tree['machine']} by `python -m benchmarks.refinement.refined`."
    )
    return "\n\n".join(part for part in parts if part)


def _judged(rows: list[dict]) -> list[dict]:
    """Rows of judged seeds: the tasks' own, and the bars that learn as in the twin."""
    named = [row | {"policy": _bar(row), "change": {}} for row in rows if _bar(row)]
    return [row for row in [*rows, *named] if row["seed"] in SEEDS and not row["change"]]


def _bar(row: dict) -> str | None:
    """Which of the bars that learn as in the twin a row of `ppo_real_long` is."""
    if row["policy"] != "ppo_real_long":
        return None
    options = _twin_options(row["task"])
    bars = {
        "ppo_real_long_discount": {"gamma": options["gamma"]} if "gamma" in options else None,
        "ppo_real_long_same": options,
    }
    learns = row["change"].get("learn", {})
    return next((name for name, of in bars.items() if of and learns == {"options": of}), None)


def _twin_options(task: str) -> dict:
    return refine_task(task_of(real_of(task)), real_of(task), Path(), 0).learn.options


def refined_summary(tree: dict | None) -> str:
    """The Markdown between the main page's `refined` markers: tasks on which twins were refined, and their goals."""
    if tree is None:
        return NOTHING
    rows = _judged(tree["rows"])
    done = {row["task"] for row in rows if row["policy"] in LEARNERS}
    kept_rows = [row for row in rows if row["task"] in done]
    parts = [
        _policies(task, [row for row in kept_rows if row["task"] == task])
        for task in _tasks(kept_rows)
        if task in done
    ]
    left = [
        f"{task} (seeds {', '.join(map(str, SEEDS))})" for task in TASKS if task not in done
    ] + [
        f"{task} (seed {seed})"
        for task in _tasks(kept_rows)
        if task in done
        for seed in SEEDS
        if not any(
            (row["task"], row["seed"]) == (task, seed) and row["policy"] in LEARNERS for row in rows
        )
    ]
    missing = f"Not judged yet: {', '.join(left)}." if left else ""
    return "\n\n".join(part for part in [*parts, _goals(kept_rows), missing] if part)


def _tasks(rows: list[dict]) -> list[str]:
    return list(dict.fromkeys([*TASKS, *sorted({row["task"] for row in rows})]))


def _policies(task: str, rows: list[dict]) -> str:
    lines = [
        f"**{task}**",
        "",
        "| policy | real steps | learned from | real return, mean [95 %] | seed by seed | forward | promise |",
        "|---|---|---|---|---|---|---|",
    ]
    for policy, words in WORDS.items():
        of = sorted((row for row in rows if row["policy"] == policy), key=lambda row: row["seed"])
        if not of:
            continue
        each = ", ".join(f"{row['seed']}: {row['real_mean']:,.0f}" for row in of)
        forward = [row["forward_mean"] for row in of if row["forward_mean"] is not None]
        shown = f"{statistics.fmean(forward):,.0f}" if forward else "-"
        promise = ", ".join(_promise(row) for row in of if row["predicted_return"]) or "-"
        real, learned = (
            f"{statistics.fmean(row[name] for row in of):,.0f}"
            for name in ("real_steps", "learned_steps")
        )
        mean = _mean([row["real_mean"] for row in of])
        lines.append(f"| {words} | {real} | {learned} | {mean} | {each} | {shown} | {promise} |")
    return "\n".join(lines)


def _promise(row: dict) -> str:
    promise = row["predicted_return"]
    ends = "" if promise["low"] is None else f" [{promise['low']:,.0f}, {promise['high']:,.0f}]"
    return f"{row['seed']}: {promise['mean']:,.0f}{ends}"


def _mean(values: list[float]) -> str:
    middle = statistics.fmean(values)
    if len(values) < 2:
        return f"{middle:,.0f}"
    half = student_t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{middle:,.0f} [{middle - half:,.0f}, {middle + half:,.0f}]"


def kept(row: dict) -> bool:
    """Whether a promise was close enough, or its interval held what came."""
    promise, real = row["predicted_return"], row["real_mean"]
    inside = promise["low"] is not None and promise["low"] <= real <= promise["high"]
    return inside or abs(promise["mean"] - real) <= CLOSE * abs(real)


def _goals(rows: list[dict]) -> str:
    lines = ["| task | policy | goal | measured | verdict |", "|---|---|---|---|---|"]
    for task in _tasks(rows):
        of = {
            policy: [row for row in rows if (row["task"], row["policy"]) == (task, policy)]
            for policy in (*LEARNERS, *BARS)
        }
        levels = {"the floor": FLOORS[task]} if task in FLOORS else {}
        bars = [statistics.fmean(row["real_mean"] for row in of[bar]) for bar in BARS if of[bar]]
        if bars:
            levels["the highest bar"] = max(bars)
        for learner in LEARNERS:
            twin = of[learner]
            if not twin:
                continue
            begin = f"| {task} | {WORDS[learner]} |"
            mean = statistics.fmean(row["real_mean"] for row in twin)
            for name, level in levels.items():
                verdict = _verdict(mean >= level, len(twin))
                lines.append(
                    f"{begin} mean over seeds >= {level:,.0f} ({name}) | {mean:,.0f} | {verdict} |"
                )
            good = sum(map(kept, twin))
            verdict = _verdict(good == len(twin), len(twin))
            lines.append(
                f"{begin} promise within {CLOSE:.0%} of reality, or its interval covers "
                f"| {good} of {len(twin)} seeds | {verdict} |"
            )
    return "\n".join(lines) if len(lines) > 2 else ""


def _verdict(met: bool, seeds: int) -> str:
    so_far = "" if seeds >= len(SEEDS) else f" so far ({seeds} of {len(SEEDS)} seeds)"
    return f"{'met' if met else '**missed**'}{so_far}"


def _rounds(tree: dict) -> str:
    """What every round predicted / what its policy earns in reality."""
    lines = [
        "| task, policy, seed | after real steps: predicted / in reality (judged afterwards) |",
        "|---|---|",
    ]
    found: dict[tuple[str, str, int], list[dict]] = {}
    for row in tree["rounds"]:
        if row["policy"] in LEARNERS and not row["change"] and row["seed"] in SEEDS:
            found.setdefault((row["task"], row["policy"], row["seed"]), []).append(row)
    for (task, policy, seed), rows in sorted(found.items()):
        rows.sort(key=lambda row: row["round"])
        # At most twelve of them, the last one among them.
        rows = rows[len(rows) - 1 :: -max(1, len(rows) // 12)][::-1]
        told = "; ".join(
            f"{row['real_steps']:,}: {row['predicted_return']['mean']:,.0f} / {row['real_mean']:,.0f}"
            for row in rows
        )
        lines.append(f"| {task}, {WORDS[policy]}, {seed} | {told} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _ablation(rows: list[dict]) -> str:
    """What each part of PPO's configuration is worth: changes by name, each beside its base on the same seed."""
    tables = [
        _arms(rows, OF_ROW, ROW, "**Beside the row**"),
        _arms(rows, OF_OLDER, OLDER, f"**What each part is worth, in {OLDER}** ({_OLDER_WAS})"),
    ]
    return "\n\n".join(table for table in tables if table)


def _arms(rows: list[dict], arms: dict[str, JSON], base: str, title: str) -> str:
    """One table of arms; in brackets what their base earns."""
    lines = [
        title,
        "",
        f"| task | changed | seed: real return ({base}) | for going forward | real steps | promise | commits |",
        "|---|---|---|---|---|---|---|",
    ]
    named = {json.dumps(change, sort_keys=True): name for name, change in arms.items()}
    plain: dict[tuple[str, int], dict] = {}
    found: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        arm = named.get(json.dumps(row["change"], sort_keys=True))
        if row["policy"] == "ppo_twin" and arm == base:
            plain[(row["task"], row["seed"])] = row
        if row["policy"] == "ppo_twin" and arm and row["change"]:
            found.setdefault((row["task"], arm), []).append(row)
    for (task, arm), of in sorted(
        found.items(), key=lambda item: (item[0][0], item[1][0]["real_mean"])
    ):
        each = ", ".join(
            f"{row['seed']}: {row['real_mean']:,.0f}"
            + ("" if other is None or other is row else f" ({other['real_mean']:,.0f})")
            for row in of
            for other in [plain.get((task, row["seed"]))]
        )
        forward, promise, commits = _cells(of)
        steps = ", ".join(f"{row['real_steps']:,}" for row in of)
        lines.append(f"| {task} | {arm} | {each} | {forward} | {steps} | {promise} | {commits} |")
    return "\n".join(lines) if len(lines) > 4 else ""


def _cells(rows: list[dict]) -> tuple[str, str, str]:
    """(returns for going forward, promises, commits) of some rows."""
    forward = ", ".join(
        "-" if row["forward_mean"] is None else f"{row['forward_mean']:,.0f}" for row in rows
    )
    promise = ", ".join(_promise(row) for row in rows if row["predicted_return"]) or "-"
    return forward, promise, ", ".join(sorted({f"`{row['commit'][:8]}`" for row in rows}))


def _tried(rows: list[dict]) -> str:
    """Changes without a name, and tuning seeds."""
    named = [change for change in ARMS.values() if change]
    tried = [
        row
        for row in rows
        if (row["change"] or row["seed"] in TUNING) and row["change"] not in named and not _bar(row)
    ]
    if not tried:
        return ""
    lines = [
        "**What was tried**",
        "",
        "| task | policy | change | real return by seed | for going forward | promise | commits |",
        "|---|---|---|---|---|---|---|",
    ]
    found: dict[tuple[str, str, str], list[dict]] = {}
    for row in tried:
        key = (row["task"], row["policy"], json.dumps(row["change"], sort_keys=True))
        found.setdefault(key, []).append(row)
    for (task, policy, change), of in found.items():
        each = ", ".join(f"{row['seed']}: {row['real_mean']:,.0f}" for row in of)
        forward, promise, commits = _cells(of)
        shown = "as the row stood" if change == _PLAIN else f"`{change}`"
        lines.append(
            f"| {task} | {WORDS[policy]} | {shown} | {each} | {forward} | {promise} | {commits} |"
        )
    return "\n".join(lines)


def _missing(rows: list[dict]) -> str:
    """What no row tells yet, task by task."""
    there = {(row["task"], row["seed"], row["policy"]) for row in rows}
    lines = ["| task | not measured yet: policies (seeds) |", "|---|---|"]
    for task in _tasks(rows):
        wanted = [policy for policy in WORDS if applies(policy, task)]
        left: dict[tuple[int, ...], list[str]] = {}
        for policy in wanted:
            seeds = tuple(seed for seed in SEEDS if (task, seed, policy) not in there)
            left.setdefault(seeds, []).append(WORDS[policy])
        left.pop((), None)
        told = [
            f"{'all' if len(names) == len(wanted) else '; '.join(names)} ({', '.join(map(str, seeds))})"
            for seeds, names in left.items()
        ]
        if told:
            lines.append(f"| {task} | {'; '.join(told)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def applies(policy: str, task: str) -> bool:
    """Whether a task can have a column: a known termination, continuous actions for SAC."""
    row = task_of(real_of(task))
    known = row.termination is not None or not policy.endswith("_known")
    if policy in ("ppo_real_long_same", "ppo_real_long_discount"):
        options = _twin_options(task)
        if options == row.options or (policy.endswith("same") and set(options) == {"gamma"}):
            return False  # it is another bar
    return known and (row.offpolicy == "SAC" or not policy.startswith("sac"))
