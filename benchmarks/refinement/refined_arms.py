"""What is left out of, or put into, a refinement to see what it is worth: one change of the task's row each."""

from __future__ import annotations

from world_env.types import JSON

_LARGE: JSON = {"n_steps": 256, "batch_size": 1024}
_SMALL: JSON = {"n_steps": 64, "batch_size": 256}
ROW = "as the row stands"
OF_ROW: dict[str, JSON] = {
    ROW: {},
    "no restarts": {"restart_every": None},
    "past the threshold an episode is cut": {"learn": {"on_uncertain": "truncate"}},
}
"""Name -> what differs from the row, as `--change` of refined.py."""
OLDER = "the older row"
_OLDER: JSON = {"restart_every": None, "patience": 5}
_OF_OLDER: dict[str, JSON] = {
    OLDER: {},
    "no sharp ends": {"fit": {"sharp_ends": False}},
    "no explorers: the newest policy alone collects": {
        "explorers": {},
        "later_exploration": "policy:{newest}",
    },
    "explorers that discount as the policy does": {"explorers": {"hasty": {}, "steady": {}}},
    "all discount .99": {
        "explorers": {"hasty": {}, "steady": {}},
        "learn": {"options": {"gamma": 0.99}},
    },
    "rollouts of 256 steps, twice the learned steps": {
        "learn": {"steps": 600_000, "options": _LARGE | {"gamma": 0.995}},
        "explorers": {
            "hasty": {"options": _SMALL | {"gamma": 0.99}},
            "steady": {"options": _SMALL | {"gamma": 0.998}},
        },
    },
    "rollouts of 256 steps in the last 40 % of the rounds": {
        "last_learn": {"options": _LARGE},
        "last_share": 0.4,
    },
    "rollouts of 256 steps in the last 40 %, twice the learned steps": {
        "last_learn": {"options": _LARGE, "steps": 600_000},
        "last_share": 0.4,
    },
    "2 members": {"model": {"members": 2}},
    "10 members": {"model": {"members": 10}},
    "single steps only, no k-step training": {"model": {"one_step_share": 1.0}},
    "k = 16 instead of 8": {"model": {"rollout": 16}},
    "all episodes from true starts": {"learn": {"dataset_starts": 0.0}},
    "90 % of episodes from the data, cut after 50 steps": {
        "learn": {"dataset_starts": 0.9, "branch_length": 50}
    },
    "90 % from the data, cut after 20 steps, later 200": {
        "learn": {"dataset_starts": 0.9, "branch_length": 200, "first_branch_length": 20}
    },
    "past the threshold an episode ends at a price": {"learn": {"on_uncertain": "pessimistic"}},
    "past the threshold an episode ends for nothing": {"learn": {"on_uncertain": "terminate"}},
    "past the threshold an episode goes on": {"learn": {"on_uncertain": "ignore"}},
    "a judge ends trainings and has a say": {"judge": True},
}


def of_older(change: JSON) -> JSON:
    """A change of the row as it was when most arms ran, as one of today's row.

    It had no restarts, cut episodes past the threshold, and ended after five rounds without another choice.
    """
    return _OLDER | change | {"learn": {"on_uncertain": "truncate"} | change.get("learn", {})}


OF_OLDER = {name: of_older(change) for name, change in _OF_OLDER.items()}
"""The same for changes of the older row."""
ARMS = OF_ROW | OF_OLDER
