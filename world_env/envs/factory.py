"""Simulator from the keyword arguments that the three environment classes share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from world_env.errors import InvalidOptionError, UnknownArgumentError
from world_env.simulation.config import SimulatorConfig, whole_number
from world_env.simulation.simulator import Simulator
from world_env.spaces import row_of
from world_env.twin.goals import ComputeReward, GoalReward
from world_env.twin.twin import KnownFunction, Twin, load_cached


def open_simulator(
    twin: str | Path | Twin,
    num_rows: int,
    options: Mapping[str, Any],
    *,
    render_mode: str | None = None,
    device: torch.device | str = "cpu",
    max_episode_steps: int | None = None,
    reward_fn: KnownFunction | None = None,
    termination_fn: KnownFunction | None = None,
    compute_reward: ComputeReward | None = None,
) -> Simulator:
    """Create a simulator from the keyword arguments of an environment, and check them.

    num_rows: number of environments. options: fields of SimulatorConfig by name.
    max_episode_steps: alias of the option `horizon`, which takes precedence; -1 or None: not given.
    compute_reward: function of goals, which replaces `reward_fn`.
    Raises UnknownArgumentError, a TypeError, for an unknown option, InvalidOptionError for a wrong value, and the
    errors of `Twin.load`.
    """
    if compute_reward is not None:
        if reward_fn is not None:
            raise InvalidOptionError(
                "reward_fn and compute_reward are both given, but each computes the rewards: pass one of them"
            )
        reward_fn = GoalReward(compute_reward)
    if render_mode not in (None, "rgb_array"):
        raise InvalidOptionError(f"render_mode is {render_mode!r}, expected None or 'rgb_array'")
    names = SimulatorConfig.__struct_fields__
    unknown = sorted(set(options) - set(names))
    if unknown:
        # Python's words, from which clients recognise an optional argument of theirs that an environment does not take.
        more = f" (also {', '.join(map(repr, unknown[1:]))})" if unknown[1:] else ""
        raise UnknownArgumentError(
            f"__init__() got an unexpected keyword argument {unknown[0]!r}{more}: expected twin, device, render_mode, "
            f"max_episode_steps, reward_fn, termination_fn, compute_reward, action_mask_key, {', '.join(names)}"
        )
    config = SimulatorConfig(**options)
    # Gymnasium passes -1 for "no TimeLimit wrapper".
    if config.horizon is None and max_episode_steps is not None and max_episode_steps != -1:
        limit = whole_number(max_episode_steps, "max_episode_steps")
        config = config.replace(horizon=limit)
    if isinstance(twin, Twin):
        twin = dataclasses.replace(
            twin,
            reward_fn=reward_fn or twin.reward_fn,
            termination_fn=termination_fn or twin.termination_fn,
        )
    else:
        twin = load_cached(twin, device=device, reward_fn=reward_fn, termination_fn=termination_fn)
    return Simulator(twin, num_rows, config=config)


class Frames:
    """RGB frames of the environments of a simulator: predicted by the model, or drawn from the observations."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._renderer: Any = None

    def of_all(self) -> list[np.ndarray]:
        """Return one frame per environment, (H, W, 3) uint8.

        Raises ResetNeededError before the first reset, MissingExtraError if a package for drawing is not installed.
        """
        rows = range(self._simulator.num_rows)
        predicted = [self._simulator.frame(row) for row in rows]
        if all(frame is not None for frame in predicted):
            return [frame.copy() for frame in predicted if frame is not None]
        observation = self._simulator.decoded_observation()
        if self._renderer is None:
            from world_env.rendering.renderer import Renderer

            self._renderer = Renderer(self._simulator.twin.spec)
        return [
            self._renderer.frame(row_of(observation, row)) if frame is None else frame.copy()
            for row, frame in zip(rows, predicted, strict=True)
        ]

    def __getstate__(self) -> dict[str, Any]:
        # A renderer may hold surfaces that cannot be copied; the next frame makes a new one.
        return {**vars(self), "_renderer": None}

    def close(self) -> None:
        """Close the renderer. Can be called more than once."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
