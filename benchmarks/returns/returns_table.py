"""Tables of returns.json, returns_speed.json and tuning.json for tables.py, and the summary of the main README."""

from __future__ import annotations

import json
from dataclasses import dataclass

from benchmarks.markdown import (
    by_seed,
    commits,
    grouped,
    judging_steps,
    mean_interval,
    mean_of,
    paragraphs,
    source,
    t_interval,
    table,
    verdict,
)
from benchmarks.refinement.refined_table import BASELINES, evaluated
from world_env.types import JSON

SEEDS = (0, 1, 2, 3, 4)
FEWER_SEEDS = {"Pendulum-v1-pixels": (0, 1, 2)}
"""Tasks with fewer seeds: one cell takes an hour or more."""
POLICIES = {
    "ppo_twin": "PPO trained only in the twin",
    "random": "random",
    "ppo_real_same_steps": "PPO in the real environment, same steps",
    "offpolicy_real_same_steps": "SAC or DQN in the real environment, same steps",
    "ppo_real_many_steps": "PPO in the real environment, 10x steps or more",
}
"""Value in the results file -> name in the tables, in the order of the rows."""


@dataclass(frozen=True)
class Goal:
    """Goal of a task, set before it was measured.

    statistic: "every seed" (lowest mean return of a seed), "mean" (over seeds), "paired" (lower end of the 95 %
    interval of the difference to a reference policy trained in the real environment), or "share" (position between
    random policies and PPO with 10x steps, 0 to 1, of means over seeds).
    level: smallest value that meets the goal. real_steps: largest number of real steps allowed.
    against: reference of a "paired" goal.
    """

    statistic: str
    level: float
    real_steps: int
    against: str = ""


_SAC_10K, _SAC_20K = "SAC in reality, 10000 steps", "SAC in reality, 20000 steps"
GOALS: dict[str, tuple[Goal, ...]] = {
    "CartPole-v1": (Goal("every seed", 495.0, 2_000), Goal("every seed", 495.0, 1_000)),
    "Pendulum-v1": (
        Goal("paired", -10.0, 3_000, _SAC_10K),
        Goal("paired", -10.0, 3_000, _SAC_20K),
        Goal("paired", -10.0, 2_000, _SAC_20K),
    ),
    "Acrobot-v1": (Goal("mean", -80.0, 20_000), Goal("mean", -75.0, 10_000)),
    "MountainCarContinuous-v0": (Goal("mean", 88.0, 5_000), Goal("mean", 90.0, 2_000)),
    "Pendulum-v1-pixels": (Goal("share", 0.95, 100_000), Goal("share", 1.0, 20_000)),
}
"""Task -> the goals, the stretch goal last."""
_CHECK_STEPS = 1
"""Real steps beyond those allowed: before the first episode, one step checks the environment."""
_STATISTICS = {
    "every seed": "lowest seed",
    "mean": "mean over seeds",
    "paired": "difference to {}, lower 95 % bound",
    "share": "(return - random) / (PPO 10x - random)",
}
_REFERENCES = {
    _SAC_10K: "SAC in the real environment, 10,000 steps",
    _SAC_20K: "SAC in the real environment, 20,000 steps",
}


def seeds_of(task: str) -> tuple[int, ...]:
    """Seeds that a task is evaluated on."""
    return FEWER_SEEDS.get(task, SEEDS)


def _final(tree: JSON) -> list[JSON]:
    return [row for row in tree["rows"] if row["final"] and row["seed"] in SEEDS]


def _pairs(tree: JSON) -> list[JSON]:
    return [pair for pair in tree.get("pairs", []) if pair["seed"] in SEEDS]


def returns_section(tree: JSON) -> str:
    """Real return of every policy by task."""
    rows = _final(tree)
    found = grouped(rows, lambda row: (row["task"], row["policy"]))
    lines = []
    for task in [task for task in GOALS if any(row["task"] == task for row in rows)]:
        for policy, name in POLICIES.items():
            of = found.get((task, policy))
            if not of:
                lines.append([task, name, "", "", "", "not measured", "", ""])
                continue
            values = [row["real_mean"] for row in of]
            steps = " / ".join(f"{count:,}" for count in sorted({row["real_steps"] for row in of}))
            gap = mean_of(of, "learned_mean") - mean_of(of)
            spread = f"{min(values):,.1f} to {max(values):,.1f}"
            seeds = [str(len(of)), mean_interval(values), spread, f"{gap:+.1f}"]
            lines.append([task, name, steps, judging_steps(of), *seeds])
    header = ["task", "policy", "real steps", "judging steps", "seeds", "real return, mean [95 %]"]
    episodes = " or ".join(str(count) for count in sorted({row["episodes"] for row in rows}))
    return paragraphs(
        table([*header, "lowest to highest seed", "return gap"], lines),
        _missing(rows),
        f"Each seed is evaluated on {episodes} real episodes. Judging steps: their real steps, mean over seeds. "
        f"{source(tree, _made(tree))}",
    )


def _made(tree: JSON) -> str:
    """Commits and dates of the cells, by task."""
    found = grouped(tree["cells"], lambda cell: (cell["commit"], cell["date"]))
    return "; ".join(
        f"`{commit[:12]}` ({date}: {', '.join(dict.fromkeys(cell['task'] for cell in cells))})"
        for (commit, date), cells in sorted(found.items(), key=lambda item: item[0][1])
    )


def _missing(rows: list[JSON]) -> str:
    found = {(row["task"], row["policy"], row["seed"]) for row in rows}
    lines = []
    for task in GOALS:
        gaps: dict[tuple[int, ...], list[str]] = {}
        for policy, name in POLICIES.items():
            seeds = tuple(seed for seed in seeds_of(task) if (task, policy, seed) not in found)
            gaps.setdefault(seeds, []).append(name)
        gaps.pop((), None)
        for seeds, names in gaps.items():
            which = "all policies" if len(names) == len(POLICIES) else "; ".join(names)
            lines.append(f"- {task}, {which}: seeds {', '.join(map(str, seeds))}")
    return "Missing cells:\n\n" + "\n".join(lines) if lines else ""


def pairs_section(tree: JSON) -> str:
    """Difference to the reference policies, seed by seed."""
    found = grouped(_pairs(tree), lambda pair: (pair["task"], pair["against"]))
    return table(
        ["task", "reference", "difference, mean [95 %]", "by seed"],
        [
            [
                task,
                _REFERENCES.get(against, against),
                mean_interval([pair["difference"] for pair in pairs]),
                by_seed(pairs, "difference", "+.1f"),
            ]
            for (task, against), pairs in sorted(found.items())
        ],
    )


def goals_section(tree: JSON) -> str:
    """Goals with the measured value and the verdict."""
    lines = []
    for task, goals in GOALS.items():
        rows = [row for row in _final(tree) if row["task"] == task]
        pairs = [pair for pair in _pairs(tree) if pair["task"] == task]
        twin = [row["real_steps"] for row in rows if row["policy"] == "ppo_twin"]
        for number, goal in enumerate(goals):
            value = _measured(goal, task, rows, pairs)
            name = _STATISTICS[goal.statistic].format(_REFERENCES.get(goal.against, goal.against))
            name = f"{name} >= {goal.level:g}" + " (stretch)" * (number == len(goals) - 1)
            digits = 2 if goal.statistic == "share" else 1
            shown = "" if value is None else f"{value:.{digits}f}"
            spent = max(twin, default=None)
            used = "" if spent is None else f"{spent:,}"
            lines.append(
                [task, name, f"{goal.real_steps:,}", shown, used, _word(goal, value, spent)]
            )
    header = ["task", "goal", "real steps allowed", "measured", "real steps used", "verdict"]
    return table(header, lines)


def _measured(goal: Goal, task: str, rows: list[JSON], pairs: list[JSON]) -> float | None:
    """Statistic of the goal; None until every seed is measured. rows, pairs: of the task."""
    wanted = set(seeds_of(task))
    of: dict[str, dict[int, float]] = {policy: {} for policy in POLICIES}
    for row in rows:
        if row["seed"] in wanted:
            of[row["policy"]][row["seed"]] = row["real_mean"]
    values = list(of["ppo_twin"].values())
    if len(values) < len(wanted):
        return None
    if goal.statistic == "paired":
        of_goal = {p["seed"]: p["difference"] for p in pairs if p["against"] == goal.against}
        interval = t_interval(list(of_goal.values())) if wanted <= set(of_goal) else None
        return None if interval is None else interval[0]
    if goal.statistic == "share":
        if not wanted <= set(of["random"]) & set(of["ppo_real_many_steps"]):
            return None
        random, many, mean = (
            sum(of[name].values()) / len(of[name])
            for name in ("random", "ppo_real_many_steps", "ppo_twin")
        )
        return (mean - random) / (many - random)
    return min(values) if goal.statistic == "every seed" else sum(values) / len(values)


def _word(goal: Goal, value: float | None, spent: int | None) -> str:
    if value is None or spent is None:
        return verdict(None)
    if spent > goal.real_steps + _CHECK_STEPS:
        return "not measured with so few steps"
    return verdict(value >= goal.level)


def returns_speed_section(tree: JSON, first: JSON) -> str:
    """Policies of the twin trained and evaluated again, beside the rows of returns.json."""
    lines = []
    for (task,), again in grouped(
        [row for row in tree["rows"] if row["policy"] == "ppo_twin" and row["final"]],
        lambda row: (row["task"],),
    ).items():
        seeds = {row["seed"] for row in again}
        before = [
            row
            for row in _final(first)
            if (row["task"], row["policy"]) == (task, "ppo_twin") and row["seed"] in seeds
        ]
        gap = mean_of(again, "learned_mean") - mean_of(again)
        made = [commits(c for c in one["cells"] if c["task"] == task) for one in (first, tree)]
        means = [f"{mean_of(rows):.1f}" for rows in (before, again)]
        lines.append([task, *means, by_seed(again), f"{gap:+.1f}", " then ".join(made)])
    header = ["task", "first return, mean", "repeated return, mean", "repeated, by seed"]
    return table([*header, "return gap", "commits"], lines)


def tuning_section(tree: JSON) -> str:
    """One row a change, with all tuning seeds that it was measured on."""
    found = grouped(tree["rows"], lambda row: (row["task"], json.dumps(row["change"])))
    return table(
        ["task", "change", "real return, by seed", "mean", "learned return, mean", "commits"],
        [
            [
                task,
                "none" if change == "{}" else f"`{change}`",
                by_seed(rows),
                f"{mean_of(rows):.1f}",
                f"{mean_of(rows, 'learned_mean'):.1f}",
                commits(rows),
            ]
            for (task, change), rows in found.items()
        ],
    )


SUMMARY = (*GOALS, "Hopper-v5", "HalfCheetah-v5", "InvertedDoublePendulum-v5")
"""Tasks of the summary, one row each."""


def summary_section(returns: JSON, refined: JSON) -> str:
    """One row a task: a policy trained only in the twin, and the baselines; means over seeds."""
    rows = [row for row in _final(returns) if row["task"] in GOALS]
    rows += [row for row in evaluated(refined["rows"]) if row["task"] in SUMMARY[len(GOALS) :]]
    found = grouped(rows, lambda row: (row["task"], row["policy"]))
    used: list[JSON] = []
    cells = {(cell["task"], cell["seed"]): cell["commit"] for cell in returns["cells"]}

    def cell(task: str, policies: tuple[str, ...], *, steps: bool = False, ci: bool = False) -> str:
        """Best of some policies by mean return."""
        of = [found[task, policy] for policy in policies if (task, policy) in found]
        if not of:
            return "not measured"
        best = max(of, key=mean_of)
        used.extend(row | {"commit": row.get("commit") or cells[task, row["seed"]]} for row in best)
        digits = 0 if task not in GOALS else 1
        values = [row["real_mean"] for row in best]
        shown = mean_interval(values, digits) if ci else f"{mean_of(best):,.{digits}f}"
        notes = [f"{max(row['real_steps'] for row in best):,} steps"] if steps else []
        if ci or len(values) < len(found.get((task, "random"), [])):
            notes.append(f"{len(values)} seed{'s' * (len(values) > 1)}")
        return f"{shown} ({', '.join(notes)})" if notes else shown

    lines = []
    for task in SUMMARY:
        learner = next((p for p in ("ppo_twin", "sac_twin") if (task, p) in found), "ppo_twin")
        spent = [row["real_steps"] for row in found.get((task, learner), [])]
        off_policy = ("offpolicy_real_same_steps", "sac_real_same_steps")
        lines.append(
            [
                task,
                f"{max(spent):,}" if spent else "",
                judging_steps(found.get((task, learner), [])),
                f"{learner[:3].upper()}: {cell(task, (learner,), ci=True)}",
                cell(task, ("ppo_real_same_steps",)),
                cell(task, off_policy),
                cell(task, ("ppo_real_many_steps", *BASELINES), steps=True),
                cell(task, ("random",)),
            ]
        )
    header = ["task", "real steps", "judging steps", "trained only in the twin, mean [95 %]"]
    header += ["PPO, same real steps", "SAC or DQN, same real steps"]
    header += ["PPO, 10x real steps or more, best", "random"]
    return paragraphs(
        table(header, lines),
        "Mean real return over seeds. Judging steps: real steps of the final evaluation of the policy trained in the "
        "twin, mean over seeds; its real steps do not include them. Policies of `Pendulum-v1-pixels` act on latents of "
        "the twin, whose real steps are additional for policies trained in the real environment. "
        f"Commits {commits(used)}; {returns['machine']}; commands "
        "`python -m benchmarks.returns.returns` and `python -m benchmarks.refinement.refined`; "
        "all tables: [docs/results](docs/results).",
    )
