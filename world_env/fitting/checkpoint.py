"""Checkpoint of a fit, from which an interrupted fit resumes: one file, written atomically."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from world_env.atomic_io import atomic_path
from world_env.errors import ConfigMismatchError, StageError
from world_env.models.base import TrainableWorldModel
from world_env.run_config import check_same_config
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
    """Write a checkpoint: weights, optimizer state, best weights and the identity of the fit.

    identity: configuration and data of the fit, a JSON tree.
    best, score: best weights and their open-loop error.
    done: gradient steps done.
    Raises StageError if the file cannot be written.
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
    # torch raises RuntimeError for a full disk.
    except RuntimeError as error:
        raise StageError(
            f"cannot write the checkpoint {path}: {error}. Free disk space or choose a writable folder, then run the "
            "same command again to resume."
        ) from error


def read_checkpoint(
    path: Path, identity: JSON, model: TrainableWorldModel, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], float, int, JSON]:
    """Load a checkpoint into the model and the optimizer.

    Returns (best weights, their open-loop error, gradient steps done, last logs).
    Raises StageError if the checkpoint is damaged, ConfigMismatchError if it belongs to another fit.
    """
    try:
        tree = torch.load(path, weights_only=True, map_location="cpu")
        check_same_config(tree["identity"], identity, path)
        model.load_state_dict(tree["model"])
        optimizer.load_state_dict(tree["optimizer"])
    except ConfigMismatchError:
        raise
    # A damaged archive can raise any exception, and the advice in torch's messages does not apply here.
    except Exception as error:
        raise StageError(
            f"the checkpoint {path} of an interrupted fit cannot be read ({type(error).__name__}): delete it to fit "
            "from scratch"
        ) from error
    return tree["best"], tree["score"], tree["done"], tree["logs"]
