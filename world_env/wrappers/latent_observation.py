"""Wrapper that shows the latent state of a twin instead of observations."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium
import numpy as np

from world_env.errors import InvalidOptionError, ResetNeededError
from world_env.rng import derive_seeds
from world_env.simulation.snapshot import row_seeds
from world_env.simulation.state_filter import StateFilter
from world_env.spaces import one_row, row_of
from world_env.spec import check_same_spaces
from world_env.twin.twin import Twin, load_cached


class LatentObservation(
    gymnasium.Wrapper[Any, Any, Any, Any], gymnasium.utils.RecordConstructorArgs
):
    """A real environment as a twin's model takes it in: a policy that learned on latents in the twin acts here.

    The model's state is inferred from the first observation of an episode and then filtered with every further one
    (`WorldModel.encode`, `WorldModel.observe`); observations are the features of that state, as in a simulator with the
    same observation mode.

    twin: a bundled name, a folder, or a Twin. mode: "latent" or "both", as in SimulatorConfig.
    Raises SpaceMismatchError where the environment is not the one that the twin is of.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        twin: str | Path | Twin,
        mode: str = "latent",
    ) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self, twin=twin, mode=mode)
        gymnasium.Wrapper.__init__(self, env)
        self.twin = twin if isinstance(twin, Twin) else load_cached(twin)
        check_same_spaces(env, self.twin.spec)
        if mode == "pixels":
            raise InvalidOptionError(
                "LatentObservation with mode='pixels' would change nothing: take 'latent' or 'both'"
            )
        self._filter = StateFilter(self.twin, mode)
        self.observation_space = self._filter.view.space
        self._seed, self._episode = secrets.randbits(48), 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; the seed is that of the model's draws too, as a simulator's row would have it."""
        observation, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self._seed, self._episode = seed, 0
        seeds = derive_seeds(row_seeds(self._seed, 1), self._episode)
        self._episode += 1
        return row_of(self._filter.begin(one_row(observation), seeds.tolist()), 0), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """One real step. Raises ResetNeededError before the first reset, InvalidActionError for a bad action."""
        if self._episode == 0:
            raise ResetNeededError("no episode has begun: call reset() before step()")
        # A copy: environments may keep, or change, the array that they are given.
        taken = np.array(action)[None]
        # Before the real step: one that the model could not follow should not be spent.
        self.twin.codec.encode_action(taken)
        observation, reward, terminated, truncated, info = self.env.step(action)
        latent = self._filter.go_on(taken, one_row(observation), np.zeros(1, np.int64))
        return row_of(latent, 0), reward, terminated, truncated, info
