"""Wrappers of real environments: latent observations, action chunks, and changes of spaces and attributes."""

from world_env.wrappers.action_chunk import ActionChunk
from world_env.wrappers.drop_keys import DropKeys
from world_env.wrappers.flat_dict_observation import FlatDictObservation
from world_env.wrappers.image_to_categories import ImageToCategories
from world_env.wrappers.latent_observation import LatentObservation
from world_env.wrappers.select_columns import SelectColumns
from world_env.wrappers.set_attributes import SetAttributes
from world_env.wrappers.text_to_category import TextToCategory
from world_env.wrappers.zero_based_actions import ZeroBasedActions
from world_env.wrappers.zero_based_observations import ZeroBasedObservations

__all__ = [
    "ActionChunk",
    "DropKeys",
    "FlatDictObservation",
    "ImageToCategories",
    "LatentObservation",
    "SelectColumns",
    "SetAttributes",
    "TextToCategory",
    "ZeroBasedActions",
    "ZeroBasedObservations",
]
