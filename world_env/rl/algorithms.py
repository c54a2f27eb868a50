"""Algorithms that `learn` trains: those of the libraries, and SVG, which learns in twins only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from world_env.policies.algorithms import algorithm_class

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

SVG_NAME = "SVG"


def training_class(name: str) -> type[BaseAlgorithm]:
    """Return the class that trains an algorithm. Raises what `algorithm_class` raises."""
    if name == SVG_NAME:
        algorithm_class("SAC")  # raises MissingExtraError without Stable-Baselines3
        from world_env.rl.svg import SVG

        return SVG
    return algorithm_class(name)
