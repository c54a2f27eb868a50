"""Wrapper that turns texts in observations into categories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from world_env.errors import InvalidObservationError, InvalidOptionError, UnsupportedSpaceError
from world_env.spaces import is_text
from world_env.wrappers.flat_dict_observation import parts_with, with_flat_keys


class TextToCategory(
    gymnasium.ObservationWrapper[Any, Any, Any], gymnasium.utils.RecordConstructorArgs
):
    """Turn the text of an observation key into a category: Discrete(n) for a vocabulary of n texts.

    key: key of the text; of nested observations the flat key (`FlatDictObservation`). "observation" if the observation
        is a text and has no keys.
    vocabulary: all texts that can occur; the category of a text is its place.
    Raises UnsupportedSpaceError if the space of the key is no text, InvalidOptionError for an unknown key or a
    vocabulary with no or repeated texts, and InvalidObservationError for a text outside the vocabulary.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], key: str, vocabulary: Sequence[str]) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self, key=key, vocabulary=vocabulary)
        gymnasium.ObservationWrapper.__init__(self, with_flat_keys(env))
        space = self.env.observation_space
        parts = parts_with(space, key)
        if not is_text(parts[key]):
            raise UnsupportedSpaceError(
                f"observation {key!r} is {parts[key]!s:.200}, expected a Text space"
            )
        texts = [] if isinstance(vocabulary, str) else list(vocabulary)
        if not texts or len(set(texts)) < len(texts) or not all(isinstance(t, str) for t in texts):
            raise InvalidOptionError(
                f"vocabulary is {vocabulary!r:.200}, expected a list of texts, each once"
            )
        self._key, self._numbers = key, {text: number for number, text in enumerate(texts)}
        self._keyed = isinstance(space, spaces.Dict)
        parts[key] = spaces.Discrete(len(texts))
        self.observation_space = spaces.Dict(list(parts.items())) if self._keyed else parts[key]

    def observation(self, observation: Any) -> Any:
        """Return the observation with the number of the text in place of the text."""
        text = observation[self._key] if self._keyed else observation
        if text not in self._numbers:
            raise InvalidObservationError(
                f"observation {self._key!r} is the text {text!r:.200}, which is not in the vocabulary "
                f"{list(self._numbers)!s:.400}: add it to the vocabulary of TextToCategory"
            )
        number = np.int64(self._numbers[text])
        return {**observation, self._key: number} if self._keyed else number
