"""Number of environment steps that a training takes: Stable-Baselines3 completes its last rollout."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from world_env.policies.saved_policy import policy_card
from world_env.results.step_plan import PlannedSteps
from world_env.rl.algorithms import training_class
from world_env.rl.config import FEW_ENVS, MANY_ENVS, LearnConfig
from world_env.rl.resume import partial_folder
from world_env.spec import WorldSpec


def training_steps(
    config: LearnConfig, spec: WorldSpec, out: Path | None, *, use: str
) -> PlannedSteps:
    """Real steps that `learn` still takes in the real environment with this spec.

    out: folder of the policy: a finished training takes no step, an interrupted one those that are left.
    use: use of the steps, in words.
    """
    left = max(0, config.steps - _done(config, out))
    unit, spread = _rollout(config, spec.horizon)
    least = left if unit is None else -(-left // unit) * unit
    most = None if spread is None else least + (spread if left else 0)
    chunk = spec.action_chunk
    return PlannedSteps(
        purpose="collect",
        use=use,
        # Only the last action of an episode may hold fewer real steps than its chunk.
        steps=None if most is None else most * chunk,
        at_least=least,
    )


def _done(config: LearnConfig, out: Path | None) -> int:
    """Training steps of a finished or an interrupted training in a folder; a finished one needs no more."""
    if out is None:
        return 0
    if (out / "policy.json").is_file():
        return config.steps
    partial = partial_folder(out)
    if not (partial / "policy.json").is_file():
        return 0
    return int(policy_card(partial).provenance["learn"]["done"])


def _rollout(config: LearnConfig, horizon: int | None) -> tuple[int | None, int | None]:
    """(steps by which a training is rounded up, largest number of steps beyond that); None: not known."""
    kind = training_class(config.algo)
    envs = config.num_envs or 1  # of some real environments only one can be open
    if not config.off_policy:
        own = (FEW_ENVS if envs <= 8 else MANY_ENVS) if config.algo == "PPO" else {}
        steps = (own | config.algo_kwargs).get("n_steps", _default(kind, "n_steps"))
        return (steps * envs, 0) if isinstance(steps, int) else (None, None)
    every: Any = config.algo_kwargs.get("train_freq", _default(kind, "train_freq"))
    if isinstance(every, int):
        return every * envs, 0
    if isinstance(every, list | tuple) and len(every) == 2 and every[1] == "step":
        return int(every[0]) * envs, 0
    if isinstance(every, list | tuple) and len(every) == 2 and horizon is not None:
        return None, int(every[0]) * envs * horizon
    return None, None


def _default(kind: type, name: str) -> Any:
    parameter = inspect.signature(kind).parameters.get(name)
    return None if parameter is None else parameter.default
