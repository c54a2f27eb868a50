"""Refinement configurations for PPO and SAC."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from training.tasks import Task
from world_env.fitting.fit import FitConfig
from world_env.refinement.config import RefineConfig
from world_env.rl.learn import LearnConfig
from world_env.spec import RealConfig
from world_env.types import JSON

MANY_STEPS = 50_000
"""Real steps from which PPO's twins are refined in small rounds, where a task's row does not say otherwise."""


_SMALL_ROUND = 5_000


_RANDOM_AND_HELD = "mix:0.5*random+0.5*held:5"


_SHORT_ROUND = 10_000
"""Real steps of a round for `SHORT_BRANCHES`; fewer where that would be less than four rounds."""


SHORT_BRANCHES = LearnConfig(
    algo="SAC",
    rows=256,
    steps=960_000,
    dataset_starts=0.95,
    branch_length=10,
    on_uncertain="truncate",
    options={
        "train_freq": 4,
        "gradient_steps": 32,
        "batch_size": 256,
        "learning_starts": 1_000,
        "learning_rate": 1e-3,
        "policy_kwargs": {"net_arch": [128, 128]},
    },
)
"""An off-policy algorithm in a twin, after MBPO (Janner et al. 2019, arXiv:1906.08253): many updates on branches of a
few steps from all states of the data, where the twin is right; what lies further on is learned when data comes there.
"""


def refine_task(
    task: Task, real: RealConfig, out: Path, seed: int, *, algo: str = "PPO"
) -> RefineConfig:
    """The rounds of a task's row: the one default configuration of its algorithm, and what the row says.

    algo: "PPO" or "SAC", who learns in the twins.
    """
    if algo == "SAC":
        return _short_branches(task, real, out, seed)
    many = task.real_steps >= MANY_STEPS
    plain = _small_rounds(task, real, out) if many else RefineConfig(real, out)
    asked = {"rounds": task.rounds, "later_exploration": task.later_exploration}
    fit = {"updates": task.updates} | _fit_of(task)
    learn: JSON = {"steps": task.learn_steps, "on_uncertain": task.on_uncertain} | _view_of(task)
    learn |= {"options": plain.learn.options | task.options, "seed": seed}
    return dataclasses.replace(
        plain,
        steps=task.real_steps,
        exploration=_first_exploration(task),
        seed=seed,
        fit=dataclasses.replace(plain.fit, **given(fit)),
        learn=dataclasses.replace(plain.learn, **given(learn)),
        **given(asked),
    )


def given(fields: JSON) -> JSON:
    """Those that a row says something of."""
    return {name: value for name, value in fields.items() if value is not None}


def _fit_of(task: Task) -> JSON:
    """What a row says of fits, whichever algorithm learns."""
    return {"family": task.family, "model": task.model or None, "states": task.states}


def _view_of(task: Task) -> JSON:
    """What policies of a row see."""
    return {"observation_mode": task.observation_mode}


def _first_exploration(task: Task) -> str:
    """Who acts in the first round, whichever algorithm learns."""
    return task.exploration or ("random" if task.real_steps < MANY_STEPS else _RANDOM_AND_HELD)


def _small_rounds(task: Task, real: RealConfig, out: Path) -> RefineConfig:
    """One policy that goes on through many rounds, two that explore for it, and now and then one that begins anew.

    A policy's objective has resting places, and data of it alone shows the twin nothing else: who discounts much leaps
    and falls, who discounts little stands still. The two explorers are of either kind, and a twin of both knows what
    lies between them. A policy that rests does not leave even so; one that begins anew in a twin that knows more does
    not come to rest there. Until then no round finds a better one, so the budget is spent in any case.
    """
    return RefineConfig(
        real,
        out,
        steps=task.real_steps,
        rounds=task.real_steps // _SMALL_ROUND,
        later_exploration="mix:0.34*policy:{newest}+0.33*policy:{hasty}+0.33*policy:{steady}",
        explorers={
            "hasty": {"options": {"gamma": 0.99}},
            "steady": {"options": {"gamma": 0.998}},
        },
        explorer_steps=130_000,
        spot_checks=0.1,
        warm_start=True,
        candidates=("newest",),
        restart_every=5,
        compared=3,
        patience=None,
        later_updates=1_500,
        fit=FitConfig(updates=4_000, states=20_000),
        learn=LearnConfig(
            steps=300_000,
            dataset_starts=0.3,
            on_uncertain="ignore",
            options={"gamma": 0.995},
        ),
    )


def _short_branches(task: Task, real: RealConfig, out: Path, seed: int) -> RefineConfig:
    """Rounds as `SHORT_BRANCHES` wants them: the policy goes on, and data comes from where it is now."""
    return RefineConfig(
        real,
        out,
        steps=task.real_steps,
        rounds=max(4, task.real_steps // _SHORT_ROUND),
        exploration=_first_exploration(task),
        later_exploration="policy:{newest}",
        warm_start=True,
        candidates=("newest",),
        later_updates=3_000,
        seed=seed,
        fit=dataclasses.replace(FitConfig(updates=6_000, states=50_000), **given(_fit_of(task))),
        learn=dataclasses.replace(SHORT_BRANCHES, seed=seed, **given(_view_of(task))),
    )
