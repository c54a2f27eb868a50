"""Where a fit stood, so that a killed one goes on: one file, written beside and renamed."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from world_env.atomic_io import atomic_path
from world_env.errors import StageError
from world_env.models.base import TrainableWorldModel
from world_env.types import JSON


def write_checkpoint(
    path: Path,
    identity: JSON,
    model: TrainableWorldModel,
    optimizer: torch.optim.Optimizer,
    best: dict[str, Tensor],
    score: float,
    done: int,
    logs: JSON,
) -> None:
    """Write all that a fit needs to go on: weights, optimiser, the best so far, and whose fit it is.

    Raises StageError where it cannot be written.
    """
    tree = {
        "identity": identity,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "best": best,
        "score": score,
        "done": done,
        "logs": logs,
    }
    try:
        with atomic_path(path) as temporary:
            torch.save(tree, temporary)
    # torch says RuntimeError for a full disk.
    except RuntimeError as error:
        raise StageError(
            f"cannot write the checkpoint {path}: {error}. Free some space, or choose a folder that can be written."
        ) from error


def read_checkpoint(
    path: Path, identity: JSON, model: TrainableWorldModel, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], float, int, JSON]:
    """Put weights and optimiser back; returns (best weights, their score, updates done, last logs).

    Raises StageError for a checkpoint that is damaged or belongs to another fit.
    """
    try:
        tree = torch.load(path, weights_only=True, map_location="cpu")
        same = tree["identity"] == identity
        if same:
            model.load_state_dict(tree["model"])
            optimizer.load_state_dict(tree["optimizer"])
    # A torch archive can break in many ways; each means the same here, and torch's own advice would mislead.
    except Exception as error:
        raise StageError(
            f"the checkpoint {path} cannot be read ({type(error).__name__}): delete it to begin again"
        ) from error
    if not same:
        raise StageError(
            f"the checkpoint {path} belongs to a fit with another configuration or other data: delete it to begin "
            "again, or use what it was begun with"
        )
    return tree["best"], tree["score"], tree["done"], tree["logs"]
