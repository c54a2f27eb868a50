"""Contract check for vector environments."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from world_env.spaces import row_of


def check_vector_env(env: VectorEnv[Any, Any, Any], *, steps: int = 300, seed: int = 0) -> None:
    """Check Gymnasium's vector contract under random actions, for the environment's own autoreset mode.

    Spaces and types, fresh arrays, seeding, what an end shows and what follows it.
    steps: taken once; at least one episode must end within them, or the check fails for lack of evidence.
    """
    mode = env.metadata.get("autoreset_mode")
    assert isinstance(mode, AutoresetMode), (
        f"metadata['autoreset_mode'] is {mode!r}, expected an AutoresetMode"
    )
    rows = env.num_envs
    assert env.observation_space == batch_space(env.single_observation_space, rows)
    assert env.action_space == batch_space(env.single_action_space, rows)
    first, infos = env.reset(seed=seed)
    _check_batch(env, first)
    _check_infos(infos, rows)
    again, _ = env.reset(seed=seed)
    assert data_equivalence(first, again), "the same seed gave two different starts"
    env.action_space.seed(seed)
    ended, over, kept = 0, np.zeros(rows, bool), None
    restarted = mode is not AutoresetMode.SAME_STEP
    for _ in range(steps):
        observation, rewards, terminated, truncated, infos = env.step(env.action_space.sample())
        _check_step(env, observation, rewards, terminated, truncated, infos)
        if kept is not None:
            assert data_equivalence(*kept), (
                "an array handed out earlier was changed by a later step"
            )
        kept = (observation, copy.deepcopy(observation))
        now = terminated | truncated
        if mode is AutoresetMode.NEXT_STEP:
            assert not now[over].any(), "NEXT_STEP: the step after an end only resets"
            assert (rewards[over] == 0).all(), "NEXT_STEP: the step after an end pays nothing"
        if mode is AutoresetMode.SAME_STEP and now.any():
            restarted |= _check_final(env, observation, infos, now)
        if mode is AutoresetMode.DISABLED and now.any():
            _check_masked_reset(env, observation, now)
        over, ended = now, ended + int(now.sum())
    assert restarted or not ended, (
        "SAME_STEP: rows that ended always showed their last observation, expected a new start"
    )
    assert ended, f"no episode ended in {steps} steps: pass more steps, or a shorter horizon"


def _check_batch(env: VectorEnv[Any, Any, Any], observation: Any) -> None:
    assert env.observation_space.contains(observation), (
        f"the observations are not in {env.observation_space}: {observation}"
    )


def _check_step(
    env: VectorEnv[Any, Any, Any],
    observation: Any,
    rewards: Any,
    terminated: Any,
    truncated: Any,
    infos: Any,
) -> None:
    _check_batch(env, observation)
    for name, value, dtype in (
        ("rewards", rewards, np.float64),
        ("terminated", terminated, np.bool_),
        ("truncated", truncated, np.bool_),
    ):
        assert isinstance(value, np.ndarray) and value.dtype == dtype, (
            f"{name} is {type(value).__name__} {getattr(value, 'dtype', '')}, expected {dtype}"
        )
        assert value.shape == (env.num_envs,), f"{name} has the shape {value.shape}"
    assert np.isfinite(rewards).all(), f"rewards hold non-finite numbers: {rewards}"
    _check_infos(infos, env.num_envs)


def _check_infos(infos: Any, rows: int) -> None:
    """Every key has a bool mask `_key`, and one entry a row."""
    assert isinstance(infos, dict), f"infos is a {type(infos).__name__}, expected a dict"
    for key, value in infos.items():
        if key.startswith("_"):
            assert value.dtype == bool and value.shape == (rows,), f"infos[{key!r}] is no mask"
            continue
        assert f"_{key}" in infos, f"infos[{key!r}] has no mask infos['_{key}']"
        if isinstance(value, dict):
            _check_infos(value, rows)
        else:
            assert len(value) == rows, f"infos[{key!r}] has {len(value)} entries for {rows} rows"


def _check_final(
    env: VectorEnv[Any, Any, Any], observation: Any, infos: dict[str, Any], ended: np.ndarray
) -> bool:
    """Whether some row shows something else than its last observation."""
    for name in ("final_obs", "final_info"):
        assert name in infos and (infos[f"_{name}"] == ended).all(), (
            f"SAME_STEP: infos[{name!r}] must speak of exactly the rows that ended"
        )
    fresh = False
    for row in np.flatnonzero(ended).tolist():
        final = infos["final_obs"][row]
        assert env.single_observation_space.contains(final), (
            f"SAME_STEP: final_obs of row {row} is not in the space: {final}"
        )
        fresh |= not data_equivalence(final, row_of(observation, row))
    return fresh


def _check_masked_reset(env: VectorEnv[Any, Any, Any], before: Any, ended: np.ndarray) -> None:
    observation, infos = env.reset(options={"reset_mask": ended.copy()})
    _check_batch(env, observation)
    _check_infos(infos, env.num_envs)
    for row in np.flatnonzero(~ended).tolist():
        assert data_equivalence(row_of(before, row), row_of(observation, row)), (
            f"DISABLED: row {row} was not in reset_mask, but its observation changed"
        )
