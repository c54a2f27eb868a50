"""Wrappers that give a real environment the interface of a twin."""

from world_env.wrappers.action_chunk import ActionChunk
from world_env.wrappers.latent_observation import LatentObservation
from world_env.wrappers.select_columns import SelectColumns
from world_env.wrappers.set_attributes import SetAttributes
from world_env.wrappers.zero_based_actions import ZeroBasedActions

__all__ = [
    "ActionChunk",
    "LatentObservation",
    "SelectColumns",
    "SetAttributes",
    "ZeroBasedActions",
]
