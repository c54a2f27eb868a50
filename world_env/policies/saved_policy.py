"""TrainedPolicy policies on disk.

A policy on disk is a folder: `policy.zip` (Stable-Baselines3) and `policy.json` (what it is,
readable without loading it). A zip can execute code when loaded: load only what you trust.
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
from world_env.simulation.config import OBSERVATION_MODES
from world_env.spaces import space_from_json, space_to_json
from world_env.spec import WorldSpec
from world_env.twin.twin import load_cached
from world_env.types import JSON

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm


FORMAT = 1
"""Version of the policy folder; older readers refuse newer folders."""
CLOSED = "closed"
"""Provenance of policies that judge twins: none may collect the data of one."""


_ZIP, _JSON = "policy.zip", "policy.json"


_ENCODER = "encoder"
"""Folder of the twin that a policy sees through, inside its own."""


def save_policy(
    model: BaseAlgorithm,
    folder: str | os.PathLike[str],
    *,
    trained_in: str,
    provenance: JSON | None = None,
) -> Path:
    """Write the policy's folder in one move; an older policy there is replaced.

    trained_in: "learned" or "real".
    provenance: anything worth knowing of its training, a strict JSON tree.
    Raises StageError if the folder cannot be written, or holds something else.
    """
    target = Path(folder)
    if target.exists() and not (target / _JSON).is_file() and (
        not target.is_dir() or any(target.iterdir())
    ):  # fmt: skip
        raise StageError(f"{target} exists and is no policy: choose another folder")
    encoder = encoder_of(model)
    tree = {
        "format": FORMAT,
        "algorithm": type(model).__name__,
        "observation_space": space_to_json(model.observation_space),
        "action_space": space_to_json(model.action_space),
        "sees": None if encoder is None else {"through": _ENCODER, "mode": encoder.mode},
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
            # Its model is all that is looked through: without known functions it loads without them.
            model_alone = dataclasses.replace(encoder.twin, reward_fn=None, termination_fn=None)
            model_alone.save(beside / _ENCODER)
        (beside / _JSON).write_text(text + "\n", encoding="utf-8")
        if target.exists():
            os.replace(target, old)
        os.replace(beside, target)
    except OSError as error:
        if old.exists() and not target.exists():
            os.replace(old, target)
        raise StageError(
            f"cannot write the policy {target}: {error}. What was there before is untouched; free "
            "some space, or choose another folder."
        ) from error
    finally:
        for left_over in (beside, old):
            shutil.rmtree(left_over, ignore_errors=True)
    return target


def policy_card(folder: str | os.PathLike[str]) -> JSON:
    """What `policy.json` says, without loading the policy. Raises StageError on a bad folder."""
    path = Path(folder) / _JSON
    if not path.is_file():
        raise StageError(
            f"{folder} is no policy: {_JSON} is missing. Train one with `world-env learn`, or "
            "check the path."
        )
    try:
        tree: JSON = json.loads(path.read_text(encoding="utf-8"))
        version = tree["format"]
        if type(version) is int and version > FORMAT:
            raise StageError(
                f"{path} has the format {version}, this version reads up to {FORMAT}: upgrade "
                "world-env"
            )
        for name in ("observation_space", "action_space"):
            space_from_json(tree[name])
        if tree.get("sees") and tree["sees"]["mode"] not in OBSERVATION_MODES:
            raise ValueError(f"it sees {tree['sees']}, expected a mode of {OBSERVATION_MODES}")
        if not isinstance(tree["algorithm"], str):
            raise TypeError(f"algorithm is {tree['algorithm']!r}, expected a name")
    except (ValueError, KeyError, TypeError, TwinFormatError) as error:
        raise StageError(
            f"{path} is damaged ({type(error).__name__}: {error}): train again"
        ) from error
    return tree


def load_policy(
    folder: str | os.PathLike[str],
    *,
    env: Any = None,
    expect: WorldSpec | None = None,
    device: str = "cpu",
) -> BaseAlgorithm:
    """The trained algorithm in a folder. It can execute code: load only what you trust.

    env: an environment to go on training in.
    expect: whose spaces the policy must have, else SpaceMismatchError.
    Raises StageError for a missing or damaged policy.
    """
    card = policy_card(folder)
    named = {name: space_from_json(card[name]) for name in ("observation_space", "action_space")}
    sees = card.get("sees")
    encoder = sees and LatentEncoder(load_cached(Path(folder) / _ENCODER), sees["mode"])
    if expect is not None:
        shown = encoder.twin.spec.observation_space if encoder else named["observation_space"]
        for name, space in (named | {"observation_space": shown}).items():
            if space != getattr(expect, name):
                raise SpaceMismatchError(
                    f"the policy {folder} has the {name} {space}, expected "
                    f"{getattr(expect, name)}: choose a policy trained for this environment"
                )
    path = Path(folder) / _ZIP
    algorithm = algorithm_class(card["algorithm"])
    try:
        model = algorithm.load(path, env=env, device=device)
    except (OSError, ValueError, KeyError, RuntimeError, AssertionError, AttributeError, EOFError,
            TypeError, ImportError, zipfile.BadZipFile) as error:  # fmt: skip
        raise StageError(
            f"{path} cannot be loaded ({type(error).__name__}: {error}): it is missing, damaged, "
            f"or not a policy of {card['algorithm']}. Train again, or restore it."
        ) from error
    if (
        model.observation_space != named["observation_space"]
        or model.action_space != named["action_space"]
    ):
        raise StageError(
            f"{path} and {_JSON} beside it disagree on the spaces: they are of two policies"
        )
    attach_encoder(model, encoder)
    return model
