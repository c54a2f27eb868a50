"""Contract check of vector environments."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from world_env.errors import CheckError
from world_env.spaces import row_of


def check_vector_env(env: VectorEnv[Any, Any, Any], *, steps: int = 300, seed: int = 0) -> None:
    """Check that a vector environment follows Gymnasium's API, with random actions and its own autoreset mode.

    The check covers spaces, dtypes, new arrays at every step, seeding, `infos`, and the observations at and after the
    end of an episode.

    steps: number of steps; at least one episode must end within them, else the check fails.
    seed: seed of the environment and of the actions.
    Raises CheckError (an AssertionError, also under `python -O`) at the first violation.
    """
    mode = env.metadata.get("autoreset_mode")
    if not isinstance(mode, AutoresetMode):
        raise CheckError(
            f"metadata['autoreset_mode'] is {mode!r}, expected a gymnasium.vector.AutoresetMode"
        )
    _check_spaces(env)
    first, infos = env.reset(seed=seed)
    _check_observation(env, first)
    _check_infos(infos, env.num_envs)
    again, _ = env.reset(seed=seed)
    if not data_equivalence(first, again):
        raise CheckError(
            f"reset(seed={seed}) returned two different observations, expected equal ones: derive all random numbers "
            "from the seed"
        )
    env.action_space.seed(seed)
    ended, over, kept = 0, np.zeros(env.num_envs, bool), None
    restarted = mode is not AutoresetMode.SAME_STEP
    for _ in range(steps):
        observation, rewards, terminated, truncated, infos = env.step(env.action_space.sample())
        _check_step(env, observation, rewards, terminated, truncated, infos)
        if kept is not None and not data_equivalence(*kept):
            raise CheckError(
                "an observation that was returned earlier was changed by a later step: return a new array at every step"
            )
        kept = (observation, copy.deepcopy(observation))
        done = terminated | truncated
        if mode is AutoresetMode.NEXT_STEP:
            _check_next_step(over, done, rewards)
        if mode is AutoresetMode.SAME_STEP and done.any():
            restarted |= _check_final(env, observation, infos, done)
        if mode is AutoresetMode.DISABLED and done.any():
            _check_masked_reset(env, observation, done)
        over, ended = done, ended + int(done.sum())
    if not ended:
        raise CheckError(
            f"no episode ended in {steps} steps, expected at least one: pass a larger `steps`, or an environment with "
            "a shorter time limit"
        )
    if not restarted:
        raise CheckError(
            "SAME_STEP: after every end the observation was the final one, expected that of a new episode (the final "
            "one belongs in infos['final_obs'])"
        )


def _check_spaces(env: VectorEnv[Any, Any, Any]) -> None:
    for name, space, single in (
        ("observation_space", env.observation_space, env.single_observation_space),
        ("action_space", env.action_space, env.single_action_space),
    ):
        expected = batch_space(single, env.num_envs)
        if space != expected:
            raise CheckError(
                f"{name} is {space}, expected {expected}: use batch_space(single_{name}, num_envs)"
            )


def _check_observation(env: VectorEnv[Any, Any, Any], observation: Any) -> None:
    if not env.observation_space.contains(observation):
        raise CheckError(
            f"the observation is {observation!s:.200}, expected a value of {env.observation_space}: check shape, dtype "
            "and bounds"
        )


def _check_step(
    env: VectorEnv[Any, Any, Any],
    observation: Any,
    rewards: Any,
    terminated: Any,
    truncated: Any,
    infos: Any,
) -> None:
    _check_observation(env, observation)
    for name, value, dtype in (
        ("rewards", rewards, np.dtype(np.float64)),
        ("terminated", terminated, np.dtype(np.bool_)),
        ("truncated", truncated, np.dtype(np.bool_)),
    ):
        if not isinstance(value, np.ndarray) or value.dtype != dtype:
            found = f"{type(value).__name__} {getattr(value, 'dtype', '')}".rstrip()
            raise CheckError(f"{name} is a {found}, expected a numpy array of {dtype}")
        if value.shape != (env.num_envs,):
            raise CheckError(f"{name} has the shape {value.shape}, expected ({env.num_envs},)")
    if not np.isfinite(rewards).all():
        raise CheckError(f"rewards are {rewards!s:.200}, expected finite numbers")
    _check_infos(infos, env.num_envs)


def _check_infos(infos: Any, num_envs: int) -> None:
    """Check that every key has a boolean mask `_key` and one entry per environment."""
    if not isinstance(infos, dict):
        raise CheckError(f"infos is a {type(infos).__name__}, expected a dict")
    for key, value in infos.items():
        if key.startswith("_"):
            shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
            if dtype != np.dtype(bool) or shape != (num_envs,):
                raise CheckError(
                    f"infos[{key!r}] has the shape {shape} and the dtype {dtype}, expected a boolean mask of shape "
                    f"({num_envs},)"
                )
            continue
        if f"_{key}" not in infos:
            raise CheckError(f"infos[{key!r}] has no mask, expected one in infos['_{key}']")
        if isinstance(value, dict):
            _check_infos(value, num_envs)
        elif len(value) != num_envs:
            raise CheckError(
                f"infos[{key!r}] has {len(value)} entries, expected one per environment ({num_envs})"
            )


def _check_next_step(over: np.ndarray, done: np.ndarray, rewards: np.ndarray) -> None:
    """Check the reset step. over: environments whose episode ended at the step before."""
    if done[over].any():
        raise CheckError(
            "NEXT_STEP: terminated or truncated is True at the step after an end, expected False: that step only resets"
        )
    if not (rewards[over] == 0).all():
        raise CheckError(
            f"NEXT_STEP: the rewards at the step after an end are {rewards[over]}, expected 0: that step only resets"
        )


def _check_final(
    env: VectorEnv[Any, Any, Any], observation: Any, infos: dict[str, Any], ended: np.ndarray
) -> bool:
    """Check `final_obs` and `final_info`. Returns whether an observation differs from the final one."""
    for name in ("final_obs", "final_info"):
        if name not in infos or not (infos[f"_{name}"] == ended).all():
            raise CheckError(
                f"SAME_STEP: infos[{name!r}] is missing or has another mask, expected entries for exactly the "
                "environments whose episode ended"
            )
    restarted = False
    for i in np.flatnonzero(ended).tolist():
        final = infos["final_obs"][i]
        if not env.single_observation_space.contains(final):
            raise CheckError(
                f"SAME_STEP: infos['final_obs'][{i}] is {final!s:.200}, expected a value of "
                f"{env.single_observation_space}"
            )
        restarted |= not data_equivalence(final, row_of(observation, i))
    return restarted


def _check_masked_reset(env: VectorEnv[Any, Any, Any], before: Any, ended: np.ndarray) -> None:
    observation, infos = env.reset(options={"reset_mask": ended.copy()})
    _check_observation(env, observation)
    _check_infos(infos, env.num_envs)
    for i in np.flatnonzero(~ended).tolist():
        if not data_equivalence(row_of(before, i), row_of(observation, i)):
            raise CheckError(
                f"DISABLED: the observation of environment {i} changed, expected no change: it was not in "
                "options['reset_mask']"
            )
