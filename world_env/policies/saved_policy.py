"""Saved policies.

A saved policy is a folder with `policy.zip` (Stable-Baselines3) and `policy.json` (algorithm, spaces and provenance,
readable without loading the policy). A zip can execute code when it is loaded: load only policies that you trust.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from world_env.errors import SpaceMismatchError, StageError, TwinFormatError
from world_env.policies.algorithms import algorithm_class
from world_env.policies.latent_policy import LatentEncoder, attach_encoder, encoder_of
from world_env.simulation.config import OBSERVATION_MODES, check_choice
from world_env.spaces import space_from_json, space_to_json
from world_env.spec import WorldSpec
from world_env.twin.twin import load_cached
from world_env.types import JSON

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm


FORMAT = 1
"""Version of the policy folder. A reader refuses folders of a newer version."""
CLOSED = "closed"
"""Provenance key of policies that evaluate twins. They must not collect the data of a twin."""
_ZIP, _JSON = "policy.zip", "policy.json"
_ENCODER = "encoder"
"""Folder of the encoder's twin, inside the folder of a latent policy."""


def save_policy(
    model: BaseAlgorithm,
    folder: str | os.PathLike[str],
    *,
    trained_in: str,
    provenance: JSON | None = None,
) -> Path:
    """Save a policy to a folder. An older policy in the folder is replaced in one atomic step.

    trained_in: "learned" (in a twin) or "real".
    provenance: description of the training, a strict JSON tree.
    Raises StageError if the folder cannot be written or holds other files.
    """
    target = Path(folder)
    if target.exists() and not (target / _JSON).is_file() and (
        not target.is_dir() or any(target.iterdir())
    ):  # fmt: skip
        raise StageError(
            f"{target} exists and is not a policy folder (it has no {_JSON}): choose another folder"
        )
    encoder = encoder_of(model)
    tree = {
        "format": FORMAT,
        "algorithm": type(model).__name__,
        "observation_space": space_to_json(model.observation_space),
        "action_space": space_to_json(model.action_space),
        "sees": None if encoder is None else {"encoder": _ENCODER, "mode": encoder.mode},
        "trained_in": trained_in,
        "seed": model.seed,
        "provenance": provenance or {},
    }
    text = json.dumps(tree, allow_nan=False, indent=2)
    beside = target.with_name(f".{target.name}.{os.getpid()}.new")
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    try:
        beside.mkdir(parents=True, exist_ok=True)
        model.save(beside / _ZIP)
        if encoder is not None:
            # The encoder needs the model only. Without known functions it loads without them.
            encoder_twin = dataclasses.replace(encoder.twin, reward_fn=None, termination_fn=None)
            encoder_twin.save(beside / _ENCODER)
        (beside / _JSON).write_text(text + "\n", encoding="utf-8")
        if target.exists():
            os.replace(target, old)
        os.replace(beside, target)
    except OSError as error:
        if old.exists() and not target.exists():
            os.replace(old, target)
        raise StageError(
            f"cannot write the policy {target}: {error}. The earlier content of the folder is "
            "unchanged. Free disk space or choose another folder."
        ) from error
    finally:
        for temporary in (beside, old):
            shutil.rmtree(temporary, ignore_errors=True)
    return target


def policy_card(folder: str | os.PathLike[str]) -> JSON:
    """Read `policy.json` without loading the policy. Raises StageError if it is missing or damaged."""
    path = Path(folder) / _JSON
    if not path.is_file():
        raise StageError(
            f"{folder} is not a policy folder: {_JSON} is missing. Check the path, or train a "
            "policy with `world-env learn`."
        )
    try:
        tree: JSON = json.loads(path.read_text(encoding="utf-8"))
        version = tree["format"]
        if type(version) is int and version > FORMAT:
            raise StageError(
                f"{path} has format {version}, but this version of world-env reads formats up to "
                f"{FORMAT}: upgrade world-env"
            )
        for name in ("observation_space", "action_space"):
            space_from_json(tree[name])
        if tree.get("sees"):
            check_choice("mode", tree["sees"]["mode"], OBSERVATION_MODES)
        if not isinstance(tree["algorithm"], str):
            raise TypeError(f"algorithm must be a string, got {tree['algorithm']!r}")
    except (ValueError, KeyError, TypeError, TwinFormatError) as error:
        raise StageError(
            f"{path} is damaged ({type(error).__name__}: {error}): restore the file, or train the "
            "policy again"
        ) from error
    return tree


def load_policy(
    folder: str | os.PathLike[str],
    *,
    env: Any = None,
    expect: WorldSpec | None = None,
    device: str = "cpu",
) -> BaseAlgorithm:
    """Load the algorithm from a policy folder. Loading can execute code: load only policies that you trust.

    env: environment for further training.
    expect: spec whose spaces the policy must have.
    device: torch device of the policy.
    Raises StageError if the policy is missing or damaged, SpaceMismatchError if its spaces differ from `expect`.
    """
    card = policy_card(folder)
    stored = {name: space_from_json(card[name]) for name in ("observation_space", "action_space")}
    sees = card.get("sees")
    encoder = sees and LatentEncoder(load_cached(Path(folder) / _ENCODER), sees["mode"])
    if expect is not None:
        required = encoder.twin.spec.observation_space if encoder else stored["observation_space"]
        for name, space in (stored | {"observation_space": required}).items():
            if space != getattr(expect, name):
                raise SpaceMismatchError(
                    f"policy {folder} has {name} {space}, expected {getattr(expect, name)}: choose "
                    "a policy trained for this environment"
                )
    path = Path(folder) / _ZIP
    algorithm = algorithm_class(card["algorithm"])
    try:
        model = algorithm.load(path, env=env, device=device)
    except (OSError, ValueError, KeyError, RuntimeError, AssertionError, AttributeError, EOFError,
            TypeError, ImportError, zipfile.BadZipFile) as error:  # fmt: skip
        raise StageError(
            f"{path} cannot be loaded ({type(error).__name__}: {error}): the file is missing, "
            f"damaged, or not a {card['algorithm']} policy. Restore it, or train the policy again."
        ) from error
    if (
        model.observation_space != stored["observation_space"]
        or model.action_space != stored["action_space"]
    ):
        raise StageError(
            f"{path} and {_JSON} disagree on the spaces: they belong to different policies. "
            "Restore the folder, or train the policy again."
        )
    attach_encoder(model, encoder)
    return model
