"""Saved policies.

A saved policy is a folder with `policy.zip` (Stable-Baselines3) and `policy.json` (algorithm, spaces and provenance,
readable without loading the policy). A zip can execute code when it is loaded: load only policies that you trust.
"""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from gymnasium import spaces

from world_env.atomic_io import FolderError, replaced_folder, restore_folder
from world_env.device import torch_defaults
from world_env.errors import SpaceMismatchError, StageError
from world_env.policies.action_units import acted_space, folded
from world_env.policies.algorithms import algorithm_class, algorithm_name, algorithm_of_zip
from world_env.policies.latent_policy import LatentEncoder, attach_encoder, encoder_of
from world_env.policies.sb3_policy import attach_mask_key, mask_key_of
from world_env.simulation.config import OBSERVATION_MODES, check_choice
from world_env.spaces import is_image, space_from_json, space_to_json
from world_env.spec import WorldSpec
from world_env.struct import Struct
from world_env.twin.twin import load_cached
from world_env.types import JSON

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm


FORMAT = 2
"""Version of the policy folder. A reader refuses folders of a newer version."""
_FILES = _JSON, _ZIP = ("policy.json", "policy.zip")
_ENCODER = "encoder"
"""Folder of the encoder's twin, inside the folder of a latent policy."""


class PolicyCard(Struct, kw_only=True):
    """Description of a saved policy, the content of `policy.json`."""

    format: int
    """Version of the folder."""
    kind: str = "sb3"
    """Kind of the policy, which names its loader."""
    algorithm: str
    """Name of the algorithm, as in `LearnConfig.algo`."""
    observation_space: JSON
    """Space of the policy's input as JSON: of latents for a latent policy."""
    action_space: JSON
    """Action space as JSON."""
    latent_mode: str | None = None
    """Observation mode of a latent policy, "latent" or "both". Its folder holds the encoder."""
    action_mask_key: str | None = None
    """Key of the observations that holds the action masks. None: a policy without masks."""
    trained_in: Literal["learned", "real"]
    """Whether the policy was trained in a twin or in the real environment."""
    evaluates_twins: bool = False
    """Whether the policy belongs to a pool that evaluates twins. Such a policy must not collect the data of a twin."""
    seed: int | None = None
    """Seed of the training."""
    provenance: JSON = {}
    """Description of the training."""

    def __post_init__(self) -> None:
        if self.latent_mode is not None:
            check_choice("latent_mode", self.latent_mode, OBSERVATION_MODES)
        for tree in (self.observation_space, self.action_space):
            space_from_json(tree)

    @property
    def spaces(self) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
        """Observation and action space."""
        return space_from_json(self.observation_space), space_from_json(self.action_space)


@torch_defaults()
def save_policy(
    model: BaseAlgorithm,
    folder: str | os.PathLike[str],
    *,
    trained_in: Literal["learned", "real"],
    provenance: JSON | None = None,
    evaluates_twins: bool = False,
) -> Path:
    """Save a policy to a folder. An older policy in the folder is replaced in one atomic step.

    trained_in: "learned" (in a twin) or "real".
    provenance: description of the training, a strict JSON tree.
    evaluates_twins: whether the policy belongs to a policy pool; `collect` then refuses it.
    Raises StageError if the folder cannot be written or holds other files.
    """
    encoder = encoder_of(model)
    card = PolicyCard(
        format=FORMAT,
        algorithm=algorithm_name(type(model)),
        observation_space=space_to_json(model.observation_space),
        action_space=space_to_json(acted_space(model)),
        latent_mode=None if encoder is None else encoder.mode,
        action_mask_key=mask_key_of(model.policy),
        trained_in=trained_in,
        evaluates_twins=evaluates_twins,
        seed=model.seed,
        provenance=provenance or {},
    )
    text = json.dumps(card.to_json(), allow_nan=False, indent=2)
    target = Path(folder)
    try:
        with replaced_folder(target, files=_FILES, noun="policy folder") as fresh:
            with folded(model):
                model.save(fresh / _ZIP)
            if encoder is not None:
                # The encoder needs the model only. Without known functions it loads without them.
                twin = dataclasses.replace(encoder.twin, reward_fn=None, termination_fn=None)
                twin.save(fresh / _ENCODER)
            (fresh / _JSON).write_text(text + "\n", encoding="utf-8")
    except FolderError as error:
        raise StageError(str(error)) from error
    except OSError as error:
        raise StageError(
            f"cannot write the policy {target}: {error}. The earlier content of the folder is "
            "unchanged. Free disk space or choose another folder."
        ) from error
    return target


def policy_card(folder: str | os.PathLike[str]) -> PolicyCard:
    """Read `policy.json` without loading the policy. Raises StageError if it is missing or damaged."""
    path = Path(folder) / _JSON
    restore_folder(path.parent, files=_FILES)
    if not path.is_file():
        raise StageError(
            f"{folder} is not a policy folder: {_JSON} is missing. Check the path, or train a policy with "
            "`world-env learn`. A policy is a folder, the .zip of a model or, in Python, also a model, a function or a "
            "world_env.policies.Policy, such as RandomPolicy(action_space)."
        )
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(path, error) from error
    version = tree.get("format") if isinstance(tree, dict) else None
    if type(version) is int and version != FORMAT:
        advice = "upgrade world-env" if version > FORMAT else "train the policy again"
        raise StageError(
            f"{path} has format {version}, but this version of world-env reads format {FORMAT}: {advice}"
        )
    try:
        return PolicyCard.from_json(tree, where=str(path), error=StageError)
    except StageError as error:
        raise _damaged(path, error) from error


@torch_defaults()
def load_policy(
    folder: str | os.PathLike[str],
    *,
    env: Any = None,
    expect: WorldSpec | None = None,
    device: str = "cpu",
    kind: type[BaseAlgorithm] | None = None,
) -> BaseAlgorithm:
    """Load the algorithm of a policy. Loading can execute code: load only policies that you trust.

    folder: of a saved policy, or the .zip of a model of Stable-Baselines3, sb3-contrib or SBX.
    env: environment for further training.
    expect: spec whose spaces the policy must have.
    device: torch device of the policy.
    kind: class of the algorithm; None: the one that the folder names.
    Raises StageError if the policy is missing or damaged, SpaceMismatchError if its spaces differ from `expect`.
    """
    path = Path(folder)
    if path.suffix == ".zip" and not path.is_dir():
        model = _load(path, algorithm_of_zip(path), env, device)
        if expect is not None:
            _check_spaces(str(path), model.observation_space, model.action_space, expect)
        return model
    card = policy_card(folder)
    encoder = None
    observed, acted = card.spaces
    if card.latent_mode is not None:
        encoder = LatentEncoder(load_cached(path / _ENCODER), card.latent_mode)
    if expect is not None:
        seen = observed if encoder is None else encoder.twin.spec.observation_space
        _check_spaces(str(folder), seen, acted, expect)
    model = _load(path / _ZIP, kind or algorithm_class(card.algorithm), env, device)
    if (model.observation_space, model.action_space) != (observed, acted):
        raise StageError(
            f"{path / _ZIP} and {_JSON} disagree on the spaces: they belong to different policies. "
            "Restore the folder, or train the policy again."
        )
    attach_encoder(model, encoder)
    attach_mask_key(model, card.action_mask_key)
    return model


def check_policy_spaces(model: Any, spec: WorldSpec) -> None:
    """Raise SpaceMismatchError if a model has other spaces than `spec`; a latent policy observes as its encoder."""
    encoder = encoder_of(model)
    observer = model if encoder is None else encoder.twin.spec
    observed = getattr(observer, "observation_space", spec.observation_space)
    acted = acted_space(model) or spec.action_space
    _check_spaces(f"of {type(model).__name__}", observed, acted, spec)


def _check_spaces(
    name: str, observed: spaces.Space[Any], acted: spaces.Space[Any], spec: WorldSpec
) -> None:
    pairs = {
        "observation_space": (observed, spec.observation_space),
        "action_space": (acted, spec.action_space),
    }
    for label, (found, expected) in pairs.items():
        if found != expected and found != _channels_first(expected):
            raise SpaceMismatchError(
                f"policy {name} has {label} {found}, expected {expected}: choose a policy trained for this environment"
            )


def _channels_first(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The space with images as Stable-Baselines3 transposes them for its convolutions."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: _channels_first(part) for key, part in space.spaces.items()})
    if not is_image(space) or len(space.shape or ()) != 3:
        return space
    low, high = (np.transpose(bound, (2, 0, 1)) for bound in (space.low, space.high))  # type: ignore[attr-defined]
    return spaces.Box(low, high, dtype=space.dtype)  # type: ignore[arg-type]


def _load(path: Path, kind: type[BaseAlgorithm], env: Any, device: str) -> BaseAlgorithm:
    # A replay buffer with hindsight needs its environment; a policy that only plays needs no such buffer.
    plain: dict[str, Any] | None = (
        {"replay_buffer_class": None, "replay_buffer_kwargs": {}} if env is None else None
    )
    try:
        return kind.load(path, env=env, device=device, custom_objects=plain)
    except (OSError, ValueError, KeyError, RuntimeError, AssertionError, AttributeError, EOFError,
            TypeError, ImportError, zipfile.BadZipFile) as error:  # fmt: skip
        raise StageError(
            f"{path} cannot be loaded ({type(error).__name__}: {error}): the file is missing, "
            f"damaged, or not a {kind.__name__} policy. Restore it, or train the policy again."
        ) from error


def _damaged(path: Path, error: Exception) -> StageError:
    return StageError(
        f"{path} is damaged ({type(error).__name__}: {error}): restore the file, or train the policy again"
    )
