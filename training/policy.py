"""Who acts: exploration policies for the real environment, and trained policies on disk.

A policy on disk is a folder: `policy.zip` (Stable-Baselines3) and `policy.json` (what it is,
readable without loading it). A zip can execute code when loaded: load only what you trust.
"""

from __future__ import annotations

import copy
import importlib
import json
import os
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from world_env.batch import OBSERVATION, Statistics
from world_env.codec import is_image
from world_env.errors import (
    InvalidOptionError,
    MissingExtraError,
    SpaceMismatchError,
    StageError,
    TwinFormatError,
)
from world_env.spec import JSON, WorldSpec, space_from_json, space_to_json

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

FORMAT = 1
"""Version of the policy folder; older readers refuse newer folders."""

_ZIP, _JSON = "policy.zip", "policy.json"
_LIBRARIES = ("stable_baselines3", "sb3_contrib")
_EXTREME = 0.5
"""Share of held Box targets that lie at a bound: full force reaches further than its mean does."""
_NORMALIZED_LIMIT = 10.0


class Exploration(Protocol):
    """Chooses real actions. After `reset` with the same seed it acts the same again."""

    def reset(self, seed: int) -> None:
        """Begin an episode."""

    def act(self, observation: Any) -> Any:
        """An action of the environment's action space for one unbatched observation."""


class RandomPolicy:
    """Every action drawn afresh, uniform over the action space."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        # A copy: the environment's own sampler belongs to the environment.
        self._space = copy.deepcopy(space)

    def reset(self, seed: int) -> None:
        """Begin an episode."""
        self._space.seed(seed)

    def act(self, observation: Any) -> Any:
        """A fresh random action."""
        return self._space.sample()


class CorrelatedNoise:
    """Random actions that last: each dimension keeps its target for a geometric time.

    hold: mean steps that a target is held, at least 1. Half of bounded Box targets are extremes.
    """

    def __init__(self, space: spaces.Space[Any], hold: float) -> None:
        if not hold >= 1:
            raise InvalidOptionError(f"actions are held for {hold} steps on average, expected >= 1")
        self._space = copy.deepcopy(space)
        self._hold = hold
        self._rng = np.random.default_rng(0)
        self._held: np.ndarray | None = None

    def reset(self, seed: int) -> None:
        """Begin an episode with fresh targets."""
        self._space.seed(seed)
        self._rng = np.random.default_rng(seed)
        self._held = None

    def act(self, observation: Any) -> Any:
        """The held action, each dimension replaced with probability 1 / hold."""
        target = self._target()
        switch = self._rng.random(target.shape) < 1.0 / self._hold
        self._held = target if self._held is None else np.where(switch, target, self._held)
        return self._held.astype(self._space.dtype)

    def _target(self) -> np.ndarray:
        target = np.asarray(self._space.sample())
        if not isinstance(self._space, spaces.Box):
            return target
        low, high = self._space.low, self._space.high
        extreme = np.where(self._rng.random(target.shape) < 0.5, low, high)
        chosen = (self._rng.random(target.shape) < _EXTREME) & np.isfinite(extreme)
        return np.where(chosen, extreme, target)


class Mixture:
    """One of several explorations for each whole episode, drawn by weight."""

    def __init__(self, parts: Sequence[Exploration], weights: Sequence[float]) -> None:
        total = sum(weights)
        if not parts or len(parts) != len(weights) or min(weights) < 0 or not total > 0:
            raise InvalidOptionError(
                f"a mixture of {len(parts)} parts got the weights {list(weights)}: expected one "
                "weight >= 0 a part, and one above 0"
            )
        self._parts = list(parts)
        self._chances = np.asarray(weights, np.float64) / total
        self._current = self._parts[0]

    def reset(self, seed: int) -> None:
        """Begin an episode with a part drawn by this seed."""
        rng = np.random.default_rng([seed, len(self._parts)])
        self._current = self._parts[rng.choice(len(self._parts), p=self._chances)]
        self._current.reset(seed)

    def act(self, observation: Any) -> Any:
        """What the drawn part does."""
        return self._current.act(observation)


class SavedPolicy:
    """A trained Stable-Baselines3 policy that acts with noise of its own."""

    def __init__(self, model: BaseAlgorithm, *, deterministic: bool = False) -> None:
        self._policy = model.policy
        self._sde = bool(getattr(model, "use_sde", False))
        self._deterministic = deterministic
        self._memory: Any = None
        self._first = True
        self._noise = torch.Generator().manual_seed(0).get_state()

    def reset(self, seed: int) -> None:
        """Begin an episode: fresh noise, no memory."""
        self._noise = torch.Generator().manual_seed(seed).get_state()
        self._memory, self._first = None, True
        if self._sde:
            self._with_own_noise(self._policy.reset_noise)

    def act(self, observation: Any) -> Any:
        """What the policy does, sampled unless deterministic."""
        action, self._memory = self._with_own_noise(
            lambda: self._policy.predict(
                observation,
                state=self._memory,
                episode_start=np.array([self._first]),
                deterministic=self._deterministic,
            )
        )
        self._first = False
        return action

    def _with_own_noise(self, act: Any) -> Any:
        # SB3 draws from torch's global generator: ours is lent to it, then the old one put back.
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._noise)
            result = act()
            self._noise = torch.get_rng_state()
        return result


def parse_exploration(text: str, spec: WorldSpec) -> Exploration:
    """The exploration that a text names.

    "random"; "held:STEPS"; "policy:FOLDER" (sampled actions); "greedy:FOLDER" (most likely ones);
    "mix:WEIGHT*PART+WEIGHT*PART" of these. Raises InvalidOptionError for anything else.
    """
    kind, _, rest = text.strip().partition(":")
    space = spec.action_space
    if kind == "random" and not rest:
        return RandomPolicy(space)
    if kind == "held" and rest:
        return CorrelatedNoise(space, _number(rest, text))
    if kind in ("policy", "greedy") and rest:
        return SavedPolicy(load_policy(rest, expect=spec), deterministic=kind == "greedy")
    if kind == "mix" and rest:
        pairs = [part.partition("*") for part in rest.split("+")]
        weights = [_number(weight, text) for weight, _, _ in pairs]
        return Mixture([parse_exploration(part, spec) for _, _, part in pairs], weights)
    raise InvalidOptionError(
        f'unknown exploration {text!r}: expected "random", "held:20" (mean steps), '
        '"policy:FOLDER", "greedy:FOLDER", or a mixture such as "mix:0.5*random+0.5*held:20"'
    )


def _number(text: str, whole: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InvalidOptionError(
            f"{text!r} in the exploration {whole!r} is no number: expected for example "
            '"held:20" or "mix:0.5*random+0.5*held:20"'
        ) from error


class NormalizedFeatures(nn.Module):
    """Flat observations as (x - mean) / scale, clipped: a Stable-Baselines3 features extractor.

    The normalisation travels inside the policy, so no pickle of a wrapper is needed to use it.
    mean, scale: D numbers each, in the observation's own units.
    """

    def __init__(
        self, observation_space: spaces.Box, mean: Sequence[float], scale: Sequence[float]
    ) -> None:
        super().__init__()
        self.features_dim = int(np.prod(observation_space.shape, dtype=int))
        if not len(mean) == len(scale) == self.features_dim:
            raise SpaceMismatchError(
                f"{len(mean)} means and {len(scale)} scales for {self.features_dim} observation "
                "dimensions: take the statistics from data of this environment"
            )
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(list(scale), dtype=torch.float32))

    def forward(self, observation: Tensor) -> Tensor:
        """(B, *O) to (B, D)."""
        normalized = (observation.flatten(1) - self.mean) / self.scale
        return normalized.clamp(-_NORMALIZED_LIMIT, _NORMALIZED_LIMIT)


def policy_kwargs_for(space: spaces.Space[Any], statistics: Statistics) -> dict[str, Any]:
    """`policy_kwargs` that normalise a vector observation; nothing for others, where SB3's fit."""
    if not isinstance(space, spaces.Box) or is_image(space):
        return {}
    return {
        "features_extractor_class": NormalizedFeatures,
        "features_extractor_kwargs": {
            "mean": statistics.center[OBSERVATION].tolist(),
            "scale": statistics.scale[OBSERVATION].tolist(),
        },
    }


def algorithm_class(name: str) -> type[BaseAlgorithm]:
    """A Stable-Baselines3 (or sb3-contrib) algorithm by its name, such as "PPO".

    Raises MissingExtraError without Stable-Baselines3, InvalidOptionError for an unknown name.
    """
    known: dict[str, type[BaseAlgorithm]] = {}
    for library in _LIBRARIES:
        try:
            module = importlib.import_module(library)
        except ImportError as error:
            if library == _LIBRARIES[0]:
                raise MissingExtraError(
                    'Stable-Baselines3 is not installed: pip install "world-env[train]"'
                ) from error
            continue

        known |= {n: c for n, c in vars(module).items() if (hasattr(c, "learn") and n.isupper())
                  or n in ("RecurrentPPO", "MaskablePPO", "CrossQ")}  # fmt: skip
    # The same algorithm and files, with a cheaper update.
    from training.ppo import PPO

    known["PPO"] = PPO
    if name not in known:
        raise InvalidOptionError(
            f"unknown algorithm {name!r}: expected one of {', '.join(sorted(known))}. More come "
            "with: pip install sb3-contrib"
        )
    return known[name]


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
    tree = {
        "format": FORMAT,
        "algorithm": type(model).__name__,
        "observation_space": space_to_json(model.observation_space),
        "action_space": space_to_json(model.action_space),
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
    if expect is not None:
        for name, space in named.items():
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
    return model
