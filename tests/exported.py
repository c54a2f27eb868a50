"""Environments, policies and graphs that the tests of exports share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import onnx
from gymnasium import spaces

from world_env.export.onnx_graph import Arrays, run_graph
from world_env.policies.normalization import NormalizedFeatures
from world_env.types import JSON

VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
WIDE = spaces.Box(np.array([0, -5], np.float32), np.array([1, 2000], np.float32))
CHOICE = spaces.Discrete(4)
MEAN, SCALE = np.array([1.0, -2.0, 30.0]), np.array([0.5, 0.1, 4.0])
NORMALIZED = {
    "features_extractor_class": NormalizedFeatures,
    "features_extractor_kwargs": {"mean": MEAN.tolist(), "scale": SCALE.tolist()},
}


class Still(gym.Env[Any, Any]):
    """An environment of any spaces, in which nothing happens."""

    def __init__(self, seen: spaces.Space[Any], acted: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = seen, acted

    def reset(self, *, seed: int | None = None, options: JSON | None = None) -> tuple[Any, JSON]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, JSON]:
        return self.observation_space.sample(), 0.0, False, False, {}

    def action_masks(self) -> np.ndarray:
        return np.ones(4, bool)


def trained(
    kind: Any,
    seen: spaces.Space[Any] = VECTOR,
    acted: spaces.Space[Any] = WIDE,
    policy: str = "MlpPolicy",
    options: JSON | None = None,
    **policy_kwargs: Any,
) -> Any:
    """An algorithm with random weights that are no special case: biases and standard deviations differ."""
    import torch

    given = {"n_steps": 64} if "PPO" in kind.__name__ else {}
    if issubclass(kind, _off_policy()):
        given["buffer_size"] = 100
    model = kind(
        policy, Still(seen, acted), seed=0, device="cpu", policy_kwargs=policy_kwargs or None,
        **given, **(options or {}),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for parameter in model.policy.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def _off_policy() -> Any:
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

    return OffPolicyAlgorithm


def normal(limit: float, rows: int = 64) -> np.ndarray:
    """Observations of VECTOR up to `limit` scales from the mean."""
    far = np.random.default_rng(3).uniform(-limit, limit, (rows, 3))
    return (MEAN + SCALE * far).astype(np.float32)


def graph(path: Path) -> tuple[Callable[[Arrays], Arrays], JSON]:
    """The function of an exported file, and the metadata in it."""
    content = path.read_bytes()
    entries = {
        each.key.removeprefix("world_env."): each.value
        for each in onnx.load_from_string(content).metadata_props
        if each.key.startswith("world_env.")
    }
    facts = {k: json.loads(v) if v[:1] in "[{" else v for k, v in entries.items()}
    return run_graph(content), facts
