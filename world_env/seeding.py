"""Seeds of the parts of a run, derived from one seed.

Seeds of different purposes, or of different numbers within a purpose, are independent. Adding an offset to a seed is
not enough: runs with neighbouring seeds would share random numbers.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from world_env.errors import InvalidOptionError


class SeedPurpose(IntEnum):
    """Purpose of a derived seed. The numbers are part of every stored run: add new ones at the end."""

    COLLECT_RESET = 0
    COLLECT_EXPLORATION = 1
    SPLIT = 2
    WEIGHTS = 3
    WINDOWS = 4
    LOSS_NOISE = 5
    DATASET_STATES = 6
    TRAINING_ENV = 7
    ROUND_DATA = 8
    ROUND_CHECKS = 9
    ROUND_POLICY = 10
    ROUND_RESTART = 11
    ROUND_EXPLORER = 12
    POOL_TRAINING = 13
    POOL_SELECTION = 14
    ALARM_STARTS = 15
    ALARM_EPISODES = 16


def derived_seed(seed: int, purpose: SeedPurpose, *numbers: int) -> int:
    """Derive a seed of 32 bits. numbers: integers >= 0 that distinguish seeds of the same purpose.

    Raises InvalidOptionError for a negative seed.
    """
    if seed < 0:
        raise InvalidOptionError(f"seed is {seed}, expected an integer >= 0")
    return int(np.random.SeedSequence([seed, purpose, *numbers]).generate_state(1)[0])


def derived_seeds(seed: int, purpose: SeedPurpose, count: int, *, first: int = 0) -> list[int]:
    """Derive `count` seeds, numbered from `first`."""
    return [derived_seed(seed, purpose, number) for number in range(first, first + count)]
