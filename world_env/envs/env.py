"""A twin as one `gymnasium.Env`: the shell that adds and drops the row axis."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from world_env.bundled_twins import DEFAULT_TWIN
from world_env.envs.factory import open_simulator
from world_env.errors import InvalidActionError, InvalidObservationError
from world_env.simulation.initial_states import reset_options
from world_env.simulation.simulator import ENDS, Simulator, Snapshot
from world_env.spaces import row_of
from world_env.spec import SpecOfStrings
from world_env.twin.twin import KnownFunction, Twin

RENDER_FPS = 30
"""Frames per second where the twin does not know how long a step takes."""


class WorldModelEnv(SpecOfStrings, gymnasium.Env[Any, Any]):
    """One world of a twin, with the real environment's spaces and units.

    twin: a bundled name, a folder (anything with a separator, or a Path), or a Twin. `spec.to_json()` of a made
        environment needs a name or a folder: a Twin or a known function is no JSON.
    render_mode: None or "rgb_array".
    device: where a named twin's model is loaded; a Twin stays where it is.
    max_episode_steps: another word for `horizon`.
    reward_fn, termination_fn: known functions (obs, action, next_obs), batched numpy.
    options: fields of SimulatorConfig: horizon, rollout_length, termination, on_uncertain, uncertainty_threshold,
        uncertainty (default True here), temperature, dataset_starts, observation_mode.

    `step` reports `info["end"]` (why the episode ended, "" while it goes on) and `info["uncertainty"]` where the
    family knows it. `reset(options=...)` takes one of "observation", "context" or "snapshot", of one row.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": RENDER_FPS}

    def __init__(
        self,
        twin: str | Path | Twin = DEFAULT_TWIN,
        *,
        render_mode: str | None = None,
        device: torch.device | str = "cpu",
        max_episode_steps: int | None = None,
        reward_fn: KnownFunction | None = None,
        termination_fn: KnownFunction | None = None,
        **options: Any,
    ) -> None:
        self.simulator: Simulator = open_simulator(
            twin,
            1,
            {"uncertainty": True, **options},
            render_mode=render_mode,
            device=device,
            max_episode_steps=max_episode_steps,
            reward_fn=reward_fn,
            termination_fn=termination_fn,
        )
        self.render_mode = render_mode
        self._renderer: Any = None
        world = self.simulator.twin.spec
        self.observation_space = self.simulator.view.space
        self.action_space = world.action_space
        seconds = world.seconds_per_step
        fps = RENDER_FPS if not seconds else max(1, round(1.0 / seconds))
        self.metadata = {**type(self).metadata, "render_fps": fps}

    @property
    def twin(self) -> Twin:
        """The twin that this world lives in."""
        return self.simulator.twin

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode: (observation, info).

        options: at most one of "observation" (one observation), "context" (a dict with "observations" (K, ...),
            "actions" (K-1, ...), optional "elapsed"), "snapshot" (of one row). Raises InvalidOptionError otherwise.
        """
        super().reset(seed=seed)
        given = _with_row_axis(reset_options(options))
        observation = self.simulator.reset(seed=seed, options=given)
        return row_of(observation, 0), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step with one action of `action_space`.

        Raises ResetNeededError before a reset or after an end, InvalidActionError for a bad action.
        """
        try:
            rows = np.asarray(action)[None]
        except ValueError as error:
            raise InvalidActionError(
                f"the action {action!r} is no array of the space {self.action_space}"
            ) from error
        result = self.simulator.step(rows)
        info: dict[str, Any] = {"end": ENDS[result.end[0]]}
        if result.uncertainty is not None:
            info["uncertainty"] = float(result.uncertainty[0])
        return (
            row_of(result.observation, 0),
            float(result.reward[0]),
            bool(result.terminated[0]),
            bool(result.truncated[0]),
            info,
        )

    def snapshot(self) -> Snapshot:
        """All there is to this world now; `restore` replays the same future bit by bit."""
        return self.simulator.snapshot()

    def restore(self, snapshot: Snapshot, *, fresh_noise: bool = False) -> Any:
        """Go back (or over) to a snapshot of one row; returns its observation.

        fresh_noise: another future from the same past.
        """
        self.simulator.restore(snapshot, fresh_noise=fresh_noise)
        return row_of(self.simulator.observe(), 0)

    def fork(self, n: int = 1, *, seed: int | None = None) -> Simulator:
        """`n` futures of this world as a Simulator of `n` rows, each with noise of its own."""
        return self.simulator.fork(n=n, seed=seed)

    def render(self) -> Any:
        """The current observation as an RGB frame, (H, W, 3) uint8; None without a render mode.

        Raises ResetNeededError before the first reset.
        """
        if self.render_mode is None:
            if self.spec is not None:
                gymnasium.logger.warn(
                    "render() does nothing without a render mode: make the environment with render_mode='rgb_array'"
                )
            return None
        observation = row_of(self.simulator.decoded_observation(), 0)
        if self._renderer is None:
            from world_env.rendering.renderer import Renderer

            self._renderer = Renderer(self.twin.spec)
        return self._renderer.frame(observation)

    def close(self) -> None:
        """Let go of the renderer, if there is one; closing twice is fine."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def _with_row_axis(options: dict[str, Any]) -> dict[str, Any]:
    """One world's reset options as those of a batch of one."""
    return {
        name: _add_axis(value) if name in ("observation", "context") else value
        for name, value in options.items()
    }


def _add_axis(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _add_axis(part) for key, part in value.items()}
    try:
        return np.asarray(value)[None]
    except ValueError as error:
        raise InvalidObservationError(
            f"the start {value!r:.80} is no array of the observation space: {error}"
        ) from error
