"""Wrappers that give a real environment the interface of a twin."""

from __future__ import annotations

import importlib.util
import secrets
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces

from world_env.codec import one_row, row_of
from world_env.errors import (
    InvalidActionError,
    InvalidOptionError,
    MissingExtraError,
    ResetNeededError,
    UnsupportedSpaceError,
)
from world_env.rng import derive_seeds
from world_env.simulation.snapshot import row_seeds
from world_env.simulation.state_filter import Filter
from world_env.spec import check_same_spaces
from world_env.twin.twin import Twin, load_cached


class ActionChunk(gymnasium.Wrapper[Any, Any, Any, Any], gymnasium.utils.RecordConstructorArgs):
    """One action holds `n` actions of the wrapped environment, taken one after another.

    Box becomes Box (n, *A), Discrete becomes MultiDiscrete (n,). A chunk stops where the episode ends; rewards are
    summed; observation and info are the last ones, `info["chunk_steps"]` counts the steps taken.
    Raises InvalidOptionError for n < 1, UnsupportedSpaceError for other action spaces.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], n: int) -> None:
        if n < 1:
            raise InvalidOptionError(f"n is {n}: a chunk holds at least 1 action")
        gymnasium.utils.RecordConstructorArgs.__init__(self, n=n)
        gymnasium.Wrapper.__init__(self, env)
        self.n = n
        self._one = env.action_space
        self.action_space = _chunked(self._one, n)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Take up to `n` steps. Raises InvalidActionError for a chunk of the wrong shape."""
        chunk = np.asarray(action)
        if chunk.shape != self.action_space.shape:
            raise InvalidActionError(
                f"a chunk of {self.n} actions has the shape {self.action_space.shape}, got {chunk.shape}"
            )
        total, steps = 0.0, 0
        for one in chunk:
            if isinstance(self._one, spaces.Discrete):
                one = self._one.dtype.type(int(one))
            observation, reward, terminated, truncated, info = self.env.step(one)
            total, steps = total + float(reward), steps + 1
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, {**info, "chunk_steps": steps}


class ZeroBasedActions(
    gymnasium.ActionWrapper[Any, Any, Any], gymnasium.utils.RecordConstructorArgs
):
    """Discrete and MultiDiscrete actions counted from 0, as Stable-Baselines3 counts them whatever `start` says.

    Raises UnsupportedSpaceError for other action spaces.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self)
        gymnasium.ActionWrapper.__init__(self, env)
        space = env.action_space
        if not isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
            raise UnsupportedSpaceError(
                f"{space} has no first action to count from: expected Discrete or MultiDiscrete"
            )
        self._start = space.start
        self.action_space = (
            spaces.Discrete(int(space.n), dtype=space.dtype.type)
            if isinstance(space, spaces.Discrete)
            else spaces.MultiDiscrete(space.nvec, dtype=space.dtype.type)
        )

    def action(self, action: Any) -> Any:
        """The wrapped environment's own number of an action."""
        return action + self._start


class SelectColumns(
    gymnasium.ObservationWrapper[Any, Any, Any], gymnasium.utils.RecordConstructorArgs
):
    """Some columns of a vector observation: what an agent would see that lacks the other sensors.

    columns: numbers of those that are kept, in this order.
    Raises UnsupportedSpaceError for anything but vectors, InvalidOptionError for columns that are not there.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], columns: Sequence[int]) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self, columns=columns)
        gymnasium.ObservationWrapper.__init__(self, env)
        space = env.observation_space
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise UnsupportedSpaceError(f"{space} has no columns to select: expected a vector Box")
        known = range(space.shape[0])
        if not columns or len(set(columns)) < len(columns) or not set(columns) <= set(known):
            raise InvalidOptionError(
                f"columns is {columns}: expected at least one of 0..{len(known) - 1}, each once"
            )
        self._columns = list(columns)
        self.observation_space = spaces.Box(
            space.low[self._columns], space.high[self._columns], dtype=space.dtype.type
        )

    def observation(self, observation: Any) -> Any:
        """The kept columns."""
        return observation[self._columns]


class SetAttributes(gymnasium.Wrapper[Any, Any, Any, Any], gymnasium.utils.RecordConstructorArgs):
    """Attributes of the environment underneath that its constructor does not ask for, set before its first episode.

    {"screen_dim": 128}: classic control draws at the size that is looked at, which is several times as fast as drawing
    500 x 500 pixels and shrinking them. Spaces that the constructor made stay as they are.
    Raises InvalidOptionError for attributes that are not there, or of another type: a mistyped name would change
    nothing.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], **attributes: Any) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self, **attributes)
        gymnasium.Wrapper.__init__(self, env)
        for name, value in attributes.items():
            known = getattr(env.unwrapped, name, None)
            kinds = (int, float) if isinstance(known, float) else type(known)
            mixed = isinstance(value, bool) != isinstance(known, bool)
            if known is None or mixed or not isinstance(value, kinds):
                raise InvalidOptionError(
                    f"{type(env.unwrapped).__name__}.{name} is {known!r} and cannot become {value!r}: expected an "
                    "attribute that it has, and a value of the same type"
                )
            try:
                setattr(env.unwrapped, name, value)
            except AttributeError as error:
                raise InvalidOptionError(
                    f"{type(env.unwrapped).__name__}.{name} cannot be set ({error}): expected an attribute that is "
                    "no property"
                ) from error


class KeepImages(gymnasium.Wrapper[Any, Any, Any, Any], gymnasium.utils.RecordConstructorArgs):
    """Image files that the environment draws with are read once, and not for every picture.

    For those that decode one for each frame, which can take most of the frame's time. What is drawn stays the same to
    the bit. It has to be inside of whatever asks for pictures, such as AddRenderObservation.
    Raises MissingExtraError without pygame, by whose `image.load` such environments read.
    """

    _drawing = threading.RLock()

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)
        if importlib.util.find_spec("pygame") is None:
            raise MissingExtraError(
                "KeepImages keeps what pygame reads, which is not installed: pip install 'world-env[pixels]'"
            )
        self._images: dict[tuple[str, str], Any] = {}

    def render(self) -> Any:
        """As the environment draws it; one at a time, because `image.load` is replaced meanwhile."""
        from pygame import image

        with self._drawing:
            read = image.load

            def load(file: Any, namehint: str = "") -> Any:
                if not isinstance(file, str | Path):
                    return read(file, namehint)
                key = (str(file), namehint)
                if key not in self._images:
                    self._images[key] = read(*key)
                # A copy: whoever draws on what it read must not find it again next time.
                return self._images[key].copy()

            image.load = load  # type: ignore[assignment]
            try:
                return self.env.render()
            finally:
                image.load = read


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
        self._filter = Filter(self.twin, mode)
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


def _chunked(space: spaces.Space[Any], n: int) -> spaces.Space[Any]:
    if isinstance(space, spaces.Box):
        low, high = (np.repeat(bound[None], n, axis=0) for bound in (space.low, space.high))
        return spaces.Box(low, high, dtype=space.dtype.type)
    if isinstance(space, spaces.Discrete):
        return spaces.MultiDiscrete(
            np.full(n, space.n), dtype=space.dtype.type, start=np.full(n, space.start)
        )
    raise UnsupportedSpaceError(
        f"chunks of {space} are not supported: expected a Box or Discrete action space"
    )
