"""Seeds that derive from one seed are independent and stay the same for ever."""

import itertools

import numpy as np
import pytest

from world_env.errors import InvalidOptionError
from world_env.refinement.config import RefineConfig
from world_env.seeding import SeedPurpose, derived_seed, derived_seeds
from world_env.spec import EnvConfig


def test_seeds_of_other_runs_purposes_and_numbers_differ() -> None:
    seeds = [
        derived_seed(seed, purpose, number)
        for seed, purpose, number in itertools.product(range(20), SeedPurpose, range(20))
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_a_stored_run_keeps_its_seeds() -> None:
    expected = np.random.SeedSequence([3, 8, 2]).generate_state(1)[0]
    assert derived_seed(3, SeedPurpose.ROUND_DATA, 2) == expected
    assert derived_seeds(3, SeedPurpose.ROUND_DATA, 2, first=1) == [
        derived_seed(3, SeedPurpose.ROUND_DATA, number) for number in (1, 2)
    ]
    assert [(part.name, part.value) for part in SeedPurpose][:3] == [
        ("COLLECT_RESET", 0),
        ("COLLECT_EXPLORATION", 1),
        ("SPLIT", 2),
    ]


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="seed is -1, expected an integer >= 0"):
        derived_seed(-1, SeedPurpose.SPLIT)


def test_the_trainings_of_a_refinement_share_no_seed() -> None:
    config = RefineConfig(
        EnvConfig("CartPole-v1"), "run", rounds=4, explorers={"one": {}, "two": {}}, seed=1
    )
    seeds = [config.learn_of(number).seed for number in range(4)]
    seeds += [config.restart_learn(number).seed for number in range(4)]
    seeds += [config.explorer(name, number).seed for name in ("one", "two") for number in range(4)]
    assert len(set(seeds)) == 16
