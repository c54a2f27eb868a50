"""A twin as a single `gymnasium.Env`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from world_env.bundled_twins import DEFAULT_TWIN
from world_env.envs.action_masks import DEFAULT_KEY
from world_env.envs.client_methods import ClientMethods
from world_env.envs.factory import Frames, open_simulator
from world_env.errors import InvalidActionError, InvalidObservationError
from world_env.simulation.initial_states import reset_options
from world_env.simulation.simulator import Simulator, Snapshot
from world_env.spaces import row_of
from world_env.spec import SpecOfStrings
from world_env.twin.goals import ComputeReward
from world_env.twin.twin import KnownFunction, Twin

RENDER_FPS = 30
"""Frames per second of a twin whose step duration is unknown."""


class WorldModelEnv(SpecOfStrings, ClientMethods, gymnasium.Env[Any, Any]):
    """Learned simulator of one environment, registered as `WorldModel-v0` and, per bundled twin, `WorldModel/NAME-v0`.

    **Description.** A twin of a real environment: the transitions, rewards and terminations are predicted by a world
    model that was fitted to episodes of the real environment. No real environment is stepped.

    **Action space.** That of the real environment, dtype included. A finite Box action outside the bounds is clipped.

    **Observation space.** That of the real environment, dtype included, unless `observation_mode` is "latent" (the
    model's features, a float32 Box) or "both" (a Dict of the two). Observations are clipped to the space and to the
    data range plus a margin.

    **Rewards.** Predicted by the model in the units of the task and clipped to the range in the data, or computed by
    `reward_fn`.

    **Starting state.** A real initial state of the data, drawn at random; with `dataset_starts` also states inside data
    episodes. `reset(options=...)` takes one of "observation", "context" and "snapshot" instead, and
    "conditioning" for families that have it.

    **Episode end.** Termination: the predicted probability exceeds the twin's threshold (or by chance, with this
    probability, for a twin with sampled terminations), or the observation passes a hard termination bound; with
    `termination_fn`, only its result counts. Truncation: the time limit `horizon`, `rollout_length`,
    `dataset_rollout_length`, or a prediction that is not finite. `on_uncertain` adds a termination or a truncation
    above the uncertainty threshold. `info["end"]` is the reason, the number of an `EpisodeEnd`:
    `EpisodeEnd(info["end"]).name`; 0 while the episode is running. `info["uncertainty"]` is the uncertainty of the
    step, if the model family has one. Families may add numbers of their own.

    **Arguments.**

    - twin: name of a bundled twin, folder of a twin (a Path, or a str with a separator), or a Twin. For
      `spec.to_json()` use a name or a folder: a Twin and known functions cannot be written as JSON.
    - render_mode: None or "rgb_array".
    - device: torch device of the model, for a name or a folder. A Twin keeps its device.
    - max_episode_steps: alias of `horizon`.
    - reward_fn, termination_fn: known functions (obs, action, next_obs) -> (B,), on batched numpy arrays.
    - compute_reward: known function of goals (achieved_goal, desired_goal, info) -> (B,), in place of `reward_fn`. The
      method `compute_reward` calls it.
    - action_mask_key: key of the observation with the mask of valid actions, for `action_masks` (default:
      "action_mask").
    - options: fields of SimulatorConfig: horizon, rollout_length, dataset_rollout_length, termination, on_uncertain,
      uncertainty_threshold, uncertainty (default here: True), temperature, dataset_starts, conditioning,
      observation_mode.

    Raises TypeError for an unknown argument, InvalidOptionError for a wrong value, and the errors of `Twin.load`.
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
        compute_reward: ComputeReward | None = None,
        action_mask_key: str = DEFAULT_KEY,
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
            compute_reward=compute_reward,
        )
        self.action_mask_key = action_mask_key
        self.render_mode = render_mode
        self._frames = Frames(self.simulator)
        spec = self.simulator.twin.spec
        self.observation_space = self.simulator.view.space
        self.action_space = spec.action_space
        seconds = spec.seconds_per_step
        fps = RENDER_FPS if not seconds else max(1, round(1.0 / seconds))
        self.metadata = {**type(self).metadata, "render_fps": fps}

    @property
    def twin(self) -> Twin:
        """The twin that this environment simulates."""
        return self.simulator.twin

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode and return (observation, info).

        seed: of the initial state and all noise; None: the next episode of the current seed.
        options: at most one of "observation" (one observation), "context" (a dict with "observations" (K, ...),
            "actions" (K-1, ...), optional "elapsed", steps since the real initial state) and "snapshot" (of one
            environment); and "conditioning" (name -> value), which also holds for later episodes.
        Raises InvalidOptionError for other options.
        """
        super().reset(seed=seed)
        given = _with_row_axis(reset_options(options))
        observation = self.simulator.reset(seed=seed, options=given)
        return row_of(observation, 0), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step with an action of `action_space` and return (observation, reward, terminated, truncated, info).

        Raises ResetNeededError before the first reset or after the end of the episode, InvalidActionError for an
        action outside the action space.
        """
        try:
            batch = np.asarray(action)[None]
        except ValueError as error:
            raise InvalidActionError(
                f"invalid action {action!r:.80} for {self.action_space}: it cannot be converted to an array"
            ) from error
        result = self.simulator.step(batch)
        info: dict[str, Any] = {"end": int(result.end[0])}
        if result.uncertainty is not None:
            info["uncertainty"] = float(result.uncertainty[0])
        if result.extras:
            info |= {name: value[0].item() for name, value in result.scalars().items()}
        return (
            row_of(result.observation, 0),
            float(result.reward[0]),
            bool(result.terminated[0]),
            bool(result.truncated[0]),
            info,
        )

    def action_masks(self) -> np.ndarray:
        """Return the mask of valid actions, (choices,) bool. Raises SpaceMismatchError without `action_mask_key`."""
        return np.asarray(self._masks()[0])

    def snapshot(self) -> Snapshot:
        """Copy the complete state. After a `restore`, the same actions give bit-identical results."""
        return self.simulator.snapshot()

    def restore(self, snapshot: Snapshot, *, fresh_noise: bool = False) -> Any:
        """Set the environment to a snapshot of one environment and return the observation.

        fresh_noise: do not restore the noise, so that the same state gets a different future.
        """
        self.simulator.restore(snapshot, fresh_noise=fresh_noise)
        return row_of(self.simulator.observe(), 0)

    def fork(self, n: int = 1, *, seed: int | None = None) -> Simulator:
        """Return a Simulator with `n` copies of this environment and independent noise."""
        return self.simulator.fork(n=n, seed=seed)

    def render(self) -> Any:
        """Return the current RGB frame, (H, W, 3) uint8; None if `render_mode` is None.

        It is the frame that the model predicted in the last step, if its family predicts frames, and otherwise drawn
        from the observation.

        Raises ResetNeededError before the first reset, MissingExtraError if a package for drawing is not installed.
        """
        if self.render_mode is None:
            if self.spec is not None:
                gymnasium.logger.warn(
                    "render() returns None without a render mode: make the environment with render_mode='rgb_array'"
                )
            return None
        return self._frames.of_all()[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.twin!r})"

    def close(self) -> None:
        """Close the renderer. Can be called more than once."""
        self._frames.close()


def _with_row_axis(options: dict[str, Any]) -> dict[str, Any]:
    """Convert reset options of one environment to those of a batch of one."""
    return {
        name: _add_axis(value) if name in ("observation", "context", "conditioning") else value
        for name, value in options.items()
    }


def _add_axis(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _add_axis(part) for key, part in value.items()}
    try:
        return np.asarray(value)[None]
    except ValueError as error:
        raise InvalidObservationError(
            f"reset option {value!r:.80} cannot be converted to an array of the observation space: {error}"
        ) from error
