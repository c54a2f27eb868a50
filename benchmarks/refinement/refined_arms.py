"""Ablations of a refinement: named changes of the task's recipe, for `refined.py --arms`."""

from __future__ import annotations

import json

from world_env.policies import PolicyExploration
from world_env.types import JSON

_LARGE: JSON = {"n_steps": 256, "batch_size": 1024}
_SMALL: JSON = {"n_steps": 64, "batch_size": 256}
RECIPE = "recipe"
OF_RECIPE: dict[str, JSON] = {
    RECIPE: {},
    "no restarts": {"restart_every": None},
    "out of distribution: truncated": {"learn": {"simulation": {"on_uncertain": "truncate"}}},
}
"""Name -> difference to the recipe, as `--change` of refined.py."""
EARLIER = "earlier recipe"
_EARLIER: JSON = {"restart_every": None, "patience": 5}
_OF_EARLIER: dict[str, JSON] = {
    EARLIER: {},
    "no hard termination bounds": {"fit": {"hard_termination_bounds": False}},
    "no explorers, only the newest policy collects": {
        "explorers": {},
        "later_exploration": PolicyExploration(path="newest").to_json(),
    },
    "explorers with the gamma of the policy": {"explorers": {"hasty": {}, "steady": {}}},
    "gamma 0.99 for all": {
        "explorers": {"hasty": {}, "steady": {}},
        "learn": {"algo_kwargs": {"gamma": 0.99}},
    },
    "rollouts of 256 steps, twice the learned steps": {
        "learn": {"steps": 600_000, "algo_kwargs": _LARGE | {"gamma": 0.995}},
        "explorers": {
            "hasty": {"algo_kwargs": _SMALL | {"gamma": 0.99}},
            "steady": {"algo_kwargs": _SMALL | {"gamma": 0.998}},
        },
    },
    "2 members": {"model": {"members": 2}},
    "10 members": {"model": {"members": 10}},
    "single-step training": {"model": {"one_step_share": 1.0}},
    "k = 16 instead of 8 in k-step training": {"model": {"rollout": 16}},
    "all episodes from initial states": {"learn": {"simulation": {"dataset_starts": 0.0}}},
    "90 % of episodes from data states, rollout length 50": {
        "learn": {"simulation": {"dataset_starts": 0.9, "dataset_rollout_length": 50}}
    },
    "out of distribution: pessimistic": {"learn": {"simulation": {"on_uncertain": "pessimistic"}}},
    "out of distribution: terminated": {"learn": {"simulation": {"on_uncertain": "terminate"}}},
    "out of distribution: ignored": {"learn": {"simulation": {"on_uncertain": "ignore"}}},
}


def of_earlier(change: JSON) -> JSON:
    """A change of the earlier recipe, with which most arms were measured, as a change of the recipe.

    The earlier recipe has no restarts, truncates episodes out of distribution, and stops after five rounds without a
    new choice of policy.
    """
    learn = change.get("learn", {})
    simulation = {"on_uncertain": "truncate"} | learn.get("simulation", {})
    return _EARLIER | change | {"learn": learn | {"simulation": simulation}}


OF_EARLIER = {name: of_earlier(change) for name, change in _OF_EARLIER.items()}
"""The same for the earlier recipe."""
ARMS = OF_RECIPE | OF_EARLIER
REMOVED_ARMS = {
    "rollouts of 256 steps in the last 40 % of the rounds, twice the learned steps": of_earlier(
        {"last_learn": {"algo_kwargs": _LARGE, "steps": 600_000}, "last_share": 0.4}
    )
}
"""Arms with stored rows whose options the library does not have: for the table, not for `--arms`."""
_REMOVED = ("judge", "last_learn", "last_share", "first_steps", "candidates")
_REMOVED_POLICIES = ("early", "middle")


def removed_options(change: JSON) -> list[str]:
    """Options of a stored change that the library does not have; such a row cannot be measured again."""
    exploration = json.dumps(change.get("later_exploration"))
    names = [name for name in _REMOVED if name in change]
    return names + [name for name in _REMOVED_POLICIES if f'"{name}"' in exploration]


def mark_removed(name: str, change: JSON) -> str:
    """The name of a change, marked if one of its options is removed."""
    return f"{name} (option removed)" if removed_options(change) else name
