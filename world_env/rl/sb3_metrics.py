"""Metrics of a Stable-Baselines3 training, under the names of this package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from world_env.metrics import MetricsWriter

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

_NAMES = {"rollout/ep_rew_mean": "episode_return", "rollout/ep_len_mean": "episode_length"}


@contextmanager
def training_metrics(model: BaseAlgorithm, folder: Path | None) -> Iterator[None]:
    """Write what a model logs while it trains to TensorBoard, by environment steps; None: nothing is written.

    Tags: `learn/episode_return` and `learn/episode_length` (means of the last 100 episodes), and `learn/NAME` for each
    "train/NAME" of the algorithm.
    """
    if folder is None:
        yield
        return
    from stable_baselines3.common.logger import KVWriter
    from stable_baselines3.common.utils import configure_logger

    class Forward(KVWriter):
        def write(self, key_values: dict[str, Any], key_excluded: Any, step: int = 0) -> None:
            named = {_NAMES.get(k, k.removeprefix("train/")): v for k, v in key_values.items()}
            metrics.write(step, {k: v for k, v in named.items() if not k.startswith("time/")})

    with MetricsWriter(folder, "learn") as metrics:
        logger, forward = configure_logger(model.verbose, model.tensorboard_log), Forward()
        logger.output_formats.append(forward)
        model.set_logger(logger)
        try:
            yield
        finally:
            logger.output_formats.remove(forward)
