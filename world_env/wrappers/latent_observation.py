"""Wrapper that replaces observations by features of a twin's latent state."""

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
    """Real environment with latent observations, for policies that were trained on latent observations in a twin.

    The state of the world model is inferred from the first observation of an episode (`WorldModel.encode`), and
    updated with each later one (`WorldModel.observe`). The observation is `WorldModel.features` of that state, as in a
    simulator with the same observation mode.

    twin: name of a bundled twin, a folder, or a Twin. mode: "latent" or "both", as
        `SimulatorConfig.observation_mode`.
    Raises SpaceMismatchError if the spaces of the environment are not those of the twin.
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
        if mode == "observation":
            raise InvalidOptionError(
                "mode is 'pixels', which would change nothing: pass 'latent' or 'both'"
            )
        self._filter = StateFilter(self.twin, mode)
        self.observation_space = self._filter.view.space
        self._seed, self._episode = secrets.randbits(48), 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode. The seed also seeds the random draws of the world model, as in a simulator."""
        observation, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self._seed, self._episode = seed, 0
        seeds = derive_seeds(row_seeds(self._seed, 1), self._episode)
        self._episode += 1
        return row_of(self._filter.start(one_row(observation), seeds.tolist()), 0), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Play one real step.

        Raises ResetNeededError before the first reset, InvalidActionError for an invalid action.
        """
        if self._episode == 0:
            raise ResetNeededError("step() called before reset(): call reset() first")
        # A copy, because the environment may modify the array.
        batched = np.array(action)[None]
        # Checked before the real step, so that no real step is spent on an action that the model cannot encode.
        self.twin.codec.encode_action(batched)
        observation, reward, terminated, truncated, info = self.env.step(action)
        latent = self._filter.update(batched, one_row(observation), np.zeros(1, np.int64))
        return row_of(latent, 0), reward, terminated, truncated, info
