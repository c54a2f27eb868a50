"""Tables of refined.json for tables.py: policies, goals, rounds, ablations and missing cells."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.markdown import (
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
from benchmarks.refinement.refined_arms import (
    ARMS,
    EARLIER,
    OF_EARLIER,
    OF_RECIPE,
    RECIPE,
    REMOVED_ARMS,
    mark_removed,
)
from training.tasks import real_of, refine_task, task_of
from world_env.types import JSON

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
_REAL = "in the real environment"
WORDS = {
    "sac_twin": "SAC trained only in the twin",
    "sac_twin_known": "SAC trained only in the twin, true termination function",
    "ppo_twin": "PPO trained only in the twin",
    "ppo_twin_known": "PPO trained only in the twin, true termination function",
    "ppo_real_twin_steps": f"PPO {_REAL}, as many steps as in the twin",
    "ppo_real_long": f"PPO {_REAL}, 1,000,000 steps, 64 environments (baseline)",
    "ppo_real_long_few": f"PPO {_REAL}, 1,000,000 steps, 8 environments (baseline)",
    "ppo_real_long_discount": f"PPO {_REAL}, 1,000,000 steps, gamma as in the twin (baseline)",
    "ppo_real_long_same": f"PPO {_REAL}, 1,000,000 steps, options as in the twin (baseline)",
    "ppo_real_same_steps": f"PPO {_REAL}, same steps",
    "sac_real_same_steps": f"SAC {_REAL}, same steps",
    "random": "random",
}
LEARNERS = ("sac_twin", "ppo_twin")
BASELINES = ("ppo_real_long", "ppo_real_long_few", "ppo_real_long_discount", "ppo_real_long_same")
MIN_RETURNS = {"Hopper-v5": 1_500.0, "InvertedDoublePendulum-v5": 9_000.0}
CLOSE = 0.15
"""Largest return gap of a goal, as a share of the real return."""
_SHOWN_ROUNDS = 5
_LONGEST_CHANGE = 100
"""Characters of a change in a table; of a longer one the names of its fields are shown."""


def evaluated(rows: list[JSON]) -> list[JSON]:
    """Rows of evaluation seeds: the recipe's own, and the baselines with the options of the twin's PPO."""
    named = [row | {"policy": _baseline(row), "change": {}} for row in rows if _baseline(row)]
    return [row for row in [*rows, *named] if row["seed"] in SEEDS and not row["change"]]


def _baseline(row: JSON) -> str | None:
    """Name of the baseline that a row of `ppo_real_long` with changed options is."""
    if row["policy"] != "ppo_real_long":
        return None
    options = _twin_options(row["task"])
    baselines = {
        "ppo_real_long_discount": {"gamma": options["gamma"]} if "gamma" in options else None,
        "ppo_real_long_same": options,
    }
    learn = row["change"].get("learn", {})
    return next(
        (name for name, of in baselines.items() if of and learn == {"algo_kwargs": of}), None
    )


def _twin_options(task: str) -> JSON:
    return refine_task(task_of(real_of(task)), real_of(task), Path(), 0).learn.algo_kwargs


def _tasks(rows: list[JSON]) -> list[str]:
    return list(dict.fromkeys([*TASKS, *sorted({row["task"] for row in rows})]))


def refined_section(tree: JSON) -> str:
    """Real return of every policy by task."""
    rows = evaluated(tree["rows"])
    found = grouped(rows, lambda row: (row["task"], row["policy"]))
    lines = []
    for task in _tasks(rows):
        for policy, name in WORDS.items():
            of = sorted(found.get((task, policy), []), key=lambda row: row["seed"])
            if of:
                real, learned = (
                    f"{mean_of(of, field):,.0f}" for field in ("real_steps", "learned_steps")
                )
                steps = (real, judging_steps(of), learned)
                mean = mean_interval([row["real_mean"] for row in of], 0)
                seeds = by_seed(of, form=",.0f")
                lines.append([task, name, *steps, mean, seeds, _predictions(of)])
    header = ["task", "policy", "real steps", "judging steps", "training steps"]
    header += ["real return, mean [95 %]"]
    header += ["by seed", "predicted return [interval] by seed"]
    return paragraphs(table(header, lines), source(tree, commits(rows)))


def _predictions(rows: Sequence[JSON]) -> str:
    shown = [f"{row['seed']}: {predicted_return(row)}" for row in rows if row["predicted_return"]]
    return ", ".join(shown) or "-"


def prediction_holds(row: JSON) -> bool:
    """Whether the interval covers the real return, or the return gap is small."""
    real = row["real_mean"]
    return covers(row) or abs(row["predicted_return"]["mean"] - real) <= CLOSE * abs(real)


def goals_section(tree: JSON) -> str:
    """Goals with the measured value and the verdict."""
    rows = evaluated(tree["rows"])
    found = grouped(rows, lambda row: (row["task"], row["policy"]))
    lines = []
    for task in _tasks(rows):
        levels = {"set before": MIN_RETURNS[task]} if task in MIN_RETURNS else {}
        baselines = [mean_of(found[task, name]) for name in BASELINES if (task, name) in found]
        if baselines:
            levels["best baseline"] = max(baselines)
        for learner in LEARNERS:
            twin = found.get((task, learner), [])
            if not twin:
                continue
            begin, mean = [task, WORDS[learner]], mean_of(twin)
            for name, level in levels.items():
                goal = f"mean over seeds >= {level:,.0f} ({name})"
                lines.append([*begin, goal, f"{mean:,.0f}", _word(mean >= level, len(twin))])
            good = sum(map(prediction_holds, twin))
            goal = f"predicted return within {CLOSE:.0%}, or its interval covers the real return"
            met = _word(good == len(twin), len(twin))
            lines.append([*begin, goal, f"{good} of {len(twin)} seeds", met])
    return table(["task", "policy", "goal", "measured", "verdict"], lines)


def _word(met: bool, seeds: int) -> str:
    so_far = "" if seeds >= len(SEEDS) else f" so far ({seeds} of {len(SEEDS)} seeds)"
    return f"{verdict(met)}{so_far}"


def rounds_section(tree: JSON) -> str:
    """Predicted and real return of the chosen policy during refinement."""
    found = grouped(
        sorted(
            (
                row
                for row in tree["rounds"]
                if row["policy"] in LEARNERS and not row["change"] and row["seed"] in SEEDS
            ),
            key=lambda row: (row["task"], row["policy"], row["seed"], row["round"]),
        ),
        lambda row: (row["task"], row["policy"], row["seed"]),
    )
    lines = []
    for (task, policy, seed), rows in found.items():
        # Evenly spaced, the last round among them.
        shown = rows[len(rows) - 1 :: -max(1, len(rows) // _SHOWN_ROUNDS)][::-1]
        each = "; ".join(
            f"{row['real_steps']:,}: {row['predicted_return']['mean']:,.0f} / {row['real_mean']:,.0f}"
            for row in shown
        )
        lines.append([task, policy[:3].upper(), str(seed), each])
    return table(["task", "algorithm", "seed", "real steps: predicted / real return"], lines)


def ablation_section(tree: JSON) -> str:
    """Changes by name, each beside its base on the same seed."""
    rows = tree["rows"]
    return paragraphs(
        _arms(rows, OF_RECIPE, RECIPE), _arms(rows, OF_EARLIER | REMOVED_ARMS, EARLIER)
    )


def _arms(rows: list[JSON], arms: dict[str, JSON], base: str) -> str:
    """One table of arms; the return of the base in brackets."""
    names = {json.dumps(change, sort_keys=True): name for name, change in arms.items()}
    arm_of = lambda row: names.get(json.dumps(row["change"], sort_keys=True))  # noqa: E731
    own = [row for row in rows if row["policy"] == "ppo_twin" and arm_of(row)]
    plain = {(row["task"], row["seed"]): row for row in own if arm_of(row) == base}
    found = grouped([row for row in own if row["change"]], lambda row: (row["task"], arm_of(row)))
    lines = []
    for (task, arm), of in sorted(found.items(), key=lambda item: (item[0][0], mean_of(item[1]))):
        each = ", ".join(
            f"{row['seed']}: {row['real_mean']:,.0f}"
            + ("" if other is None or other is row else f" ({other['real_mean']:,.0f})")
            for row in of
            for other in [plain.get((task, row["seed"]))]
        )
        name = mark_removed(arm, of[0]["change"])
        lines.append([task, name, each, _predictions(of), commits(of)])
    seeds = f"seed: real return ({base})"
    return table(["task", "change", seeds, "predicted return [interval]", "commits"], lines)


def tried_section(tree: JSON) -> str:
    """Changes without a name, and tuning seeds."""
    named = [change for change in (*ARMS.values(), *REMOVED_ARMS.values()) if change]
    tried = [
        row
        for row in tree["rows"]
        if (row["change"] or row["seed"] in TUNING)
        and row["change"] not in named
        and not _baseline(row)
    ]
    found = grouped(
        tried, lambda row: (row["task"], row["policy"], json.dumps(row["change"], sort_keys=True))
    )
    return table(
        [
            "task",
            "policy",
            "change",
            "real return by seed",
            "predicted return [interval]",
            "commits",
        ],
        [
            [
                task,
                WORDS[policy],
                mark_removed(change_text(of[0]["change"]), of[0]["change"]),
                by_seed(of, form=",.0f"),
                _predictions(of),
                commits(of),
            ]
            for (task, policy, _), of in found.items()
        ],
    )


def change_text(change: JSON) -> str:
    """A change as JSON; the names of its fields if that is long."""
    text = json.dumps(change, sort_keys=True)
    if len(text) > _LONGEST_CHANGE:
        return ", ".join(f"`{name}`" for name in sorted(change))
    return f"`{text}`" if change else "none"


def missing_section(tree: JSON) -> str:
    """Policies and seeds without a row, task by task."""
    rows = evaluated(tree["rows"])
    there = {(row["task"], row["seed"], row["policy"]) for row in rows}
    lines = []
    for task in _tasks(rows):
        wanted = [policy for policy in WORDS if applies(policy, task)]
        left: dict[tuple[int, ...], list[str]] = {}
        for policy in wanted:
            seeds = tuple(seed for seed in SEEDS if (task, seed, policy) not in there)
            left.setdefault(seeds, []).append(WORDS[policy])
        left.pop((), None)
        shown = [
            f"{'all' if len(names) == len(wanted) else '; '.join(names)} ({', '.join(map(str, seeds))})"
            for seeds, names in left.items()
        ]
        if shown:
            lines.append([task, "; ".join(shown)])
    return table(["task", "not measured: policies (seeds)"], lines)


def applies(policy: str, task: str) -> bool:
    """Whether a task can have a column: a known termination function, continuous actions for SAC."""
    row = task_of(real_of(task))
    known = row.termination is not None or not policy.endswith("_known")
    if policy in ("ppo_real_long_same", "ppo_real_long_discount"):
        options = _twin_options(task)
        if options == row.algo_kwargs or (policy.endswith("same") and set(options) == {"gamma"}):
            return False  # the same as another baseline
    return known and (row.offpolicy == "SAC" or not policy.startswith("sac"))
