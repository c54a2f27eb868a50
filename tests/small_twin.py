"""A small untrained twin, quick to make, save and load."""

from oracle import real_spec

from world_env.models.ensemble.model import EnsembleConfig
from world_env.twin.twin import Twin

SMALL = EnsembleConfig(members=2, width=8, layers=1, head_width=8)


def small(seed: int = 0) -> Twin:
    return Twin.untrained(real_spec("CartPole-v1"), config=SMALL, seed=seed)
