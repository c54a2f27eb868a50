"""Check of what a real environment returns as an observation, and its cast to the type of its space.

Every observation is checked: an environment may change shape at any step. An observation that has the type of its space
already costs a comparison of types and shapes, and one pass for NaN and infinite values if it holds floats; any other
one is cast, and a cast that changes a value is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from world_env.errors import EnvApiError
from world_env.spaces import is_image
from world_env.struct import shortened

Check = Callable[[Any, str], Any]
"""Function of (observation, where it came from, such as "reset()") that returns the observation in the type of its
space, or raises EnvApiError."""


def observation_check(space: spaces.Space[Any]) -> Check:
    """The check of one observation space: Box, Discrete, MultiDiscrete, MultiBinary, or a Dict of these."""
    if isinstance(space, spaces.Dict):
        return _DictCheck(space)
    return _PartCheck(space, "the observation")


class _DictCheck:
    def __init__(self, space: spaces.Dict) -> None:
        self._parts = {
            key: _PartCheck(part, f"observation {key!r}") for key, part in space.spaces.items()
        }

    def __call__(self, value: Any, where: str) -> Any:
        if not isinstance(value, Mapping):
            raise EnvApiError(
                f"{where} returned the observation {shortened(value)}, expected a dict with the keys "
                f"{list(self._parts)}, as in observation_space"
            )
        if value.keys() != self._parts.keys():
            raise EnvApiError(
                f"{where} returned an observation with the keys {sorted(map(str, value))}, expected the keys of "
                f"observation_space: {list(self._parts)}"
            )
        return {key: part(value[key], where) for key, part in self._parts.items()}


class _PartCheck:
    """Check of an observation, or of one entry of a dict. name: its name in errors."""

    def __init__(self, space: spaces.Space[Any], name: str) -> None:
        self._space, self._name = space, name
        self._dtype, self._shape = np.dtype(space.dtype), tuple(space.shape or ())
        self._scalar = isinstance(space, spaces.Discrete)
        self._limits = _limits(space)

    def __call__(self, value: Any, where: str) -> Any:
        if type(value) is np.ndarray and value.dtype == self._dtype and value.shape == self._shape:
            array = value
        else:
            array = self._cast(value, where)
        if self._dtype.kind == "f" and not np.isfinite(array).all():
            self._refuse_infinite(array, where)
        if self._limits is not None:
            self._check_limits(array, where)
        return array[()] if self._scalar else array

    def _cast(self, value: Any, where: str) -> np.ndarray:
        """The observation as an array of the type of its space."""
        try:
            array = np.asarray(value)
        except (TypeError, ValueError) as error:
            raise EnvApiError(f"{self._came(where, value)} ({error})") from error
        if array.dtype.kind not in "biuf":
            raise EnvApiError(self._came(where, value))
        if array.shape != self._shape:
            raise EnvApiError(
                f"{where} returned {self._name} of shape {array.shape}, expected {self._shape}: the space is "
                f"{self._space}. Return np.array(..., dtype=np.{self._dtype}) of that shape, or declare the shape"
            )
        if array.dtype == self._dtype:
            return array
        with np.errstate(all="ignore"):
            cast = array.astype(self._dtype)
        if self._dtype.kind == "f":
            # Rounding to fewer digits is usual; a number that becomes infinite is lost.
            changed = np.isfinite(array) & ~np.isfinite(cast)
        elif array.dtype.kind == "b":
            return cast
        elif self._dtype.kind == "b":
            changed = (array != 0) & (array != 1)
        else:
            changed = self._changed(array, cast)
        if changed.any():
            self._refuse(array, changed, where)
        return cast

    def _changed(self, array: np.ndarray, cast: np.ndarray) -> np.ndarray:
        """Where the cast to integers changes a value: fractions, numbers out of range, NaN."""
        info = np.iinfo(self._dtype)
        if array.dtype.kind == "f":
            inside = (array >= float(info.min)) & (array < float(info.max) + 1.0)
            return ~inside | (np.floor(array) != array)
        own = np.iinfo(array.dtype)
        changed = np.zeros(array.shape, bool)
        if own.min < info.min:
            changed |= array < info.min
        if own.max > info.max:
            changed |= array > info.max
        return changed

    def _refuse(self, array: np.ndarray, changed: np.ndarray, where: str) -> None:
        """Raise EnvApiError for a cast that changes the marked values."""
        text = (
            f"{where} returned {self._name} with the value {array[changed].flat[0]} of type {array.dtype}, but its "
            f"space is {self._space}: {self._dtype} cannot hold the value, the data would be changed"
        )
        if (
            is_image(self._space)
            and array.dtype.kind == "f"
            and ((array >= 0) & (array <= 1)).all()
        ):
            raise EnvApiError(
                f"{text}. The image is scaled to 0..1: return uint8 from 0 to 255, such as "
                "(255 * image).astype(np.uint8), or declare spaces.Box(0.0, 1.0, shape, np.float32)"
            )
        raise EnvApiError(
            f"{text}. Declare a space of type {array.dtype}, or return values of type {self._dtype}"
        )

    def _refuse_infinite(self, array: np.ndarray, where: str) -> None:
        index = int(np.flatnonzero(~np.isfinite(array.reshape(-1)))[0])
        column = f"[{index}]" if self._shape else ""
        raise EnvApiError(
            f"{where} returned {array.reshape(-1)[index]} in {self._name}{column}, expected finite values: repair the "
            "environment, or replace the value in a gymnasium.ObservationWrapper"
        )

    def _check_limits(self, array: np.ndarray, where: str) -> None:
        assert self._limits is not None
        low, high = self._limits
        outside = (array < low) | (array > high)
        if np.any(outside):
            raise EnvApiError(
                f"{where} returned {self._name} {shortened(array.tolist())}, which is outside of {self._space}: "
                f"expected integers from {shortened(low.tolist())} to {shortened(high.tolist())}"
            )

    def _came(self, where: str, value: Any) -> str:
        return (
            f"{where} returned {self._name} {shortened(value)} of type {type(value).__name__}, expected an array of "
            f"{self._dtype} with shape {self._shape}: the space is {self._space}"
        )


def _limits(space: spaces.Space[Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """First and last value of a space of categories; None for a Box, whose bounds the data may cross."""
    if isinstance(space, spaces.Discrete):
        first = np.asarray(space.start)
        return first, first + int(space.n) - 1
    if isinstance(space, spaces.MultiDiscrete):
        return np.asarray(space.start), np.asarray(space.start) + space.nvec - 1
    if isinstance(space, spaces.MultiBinary):
        return np.zeros((), int), np.ones((), int)
    return None
