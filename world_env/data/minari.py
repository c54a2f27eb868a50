"""Episodes from and to Minari datasets."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from world_env.data.episode import Episode
from world_env.data.recording import Recording, checked_episodes
from world_env.errors import DataError, MissingExtraError, StageError, TwinFormatError
from world_env.spec import EnvConfig, WorldSpec
from world_env.types import JSON

_SPEC = "world_env_spec"
_ELAPSED = "elapsed"


def to_minari(
    episodes: Sequence[Episode], spec: WorldSpec, dataset_id: str, *, algorithm: str = "unknown"
) -> Any:
    """Write a Minari dataset under its usual folder and return it; `from_minari` gives all back.

    algorithm: what chose the actions.
    Raises StageError if the dataset exists, DataError without episodes, MissingExtraError.
    """
    minari = _minari()
    from minari.data_collector import EpisodeBuffer

    if not episodes:
        raise DataError("there is no episode to write: collect some first")
    buffers = [
        EpisodeBuffer(
            seed=episode.seed,
            observations=episode.observations,
            actions=episode.actions,
            rewards=episode.rewards,
            terminations=_last(len(episode), episode.terminated),
            truncations=_last(len(episode), episode.truncated),
            infos={_ELAPSED: np.arange(len(episode) + 1) + episode.elapsed},
        )
        for episode in episodes
    ]
    with warnings.catch_warnings():
        # Minari warns once for every description that is not given.
        warnings.simplefilter("ignore", UserWarning)
        try:
            dataset = minari.create_dataset_from_buffers(
                dataset_id,
                buffers,
                observation_space=spec.observation_space,
                action_space=spec.action_space,
                algorithm_name=algorithm,
                **({"jpeg_encoding": False} if _has_pixels(spec.observation_space) else {}),
            )
        except ValueError as error:
            raise StageError(f"cannot write the Minari dataset {dataset_id!r}: {error}") from error
    # Added afterwards: given the environment, Minari would make one.
    extra = {_SPEC: json.dumps(spec.to_json(), allow_nan=False)}
    dataset.storage.update_metadata(extra | ({"env_spec": spec.real} if spec.real else {}))
    return minari.load_dataset(dataset_id)


def from_minari(dataset: Any) -> tuple[WorldSpec, list[Episode]]:
    """The interface and the episodes of a Minari dataset (its id, or the dataset itself).

    Raises StageError for an unknown id, DataError for an episode that is not usable.
    """
    spec, recordings, _ = read_minari(dataset)
    return spec, checked_episodes(recordings)


def read_minari(dataset: Any) -> tuple[WorldSpec, list[Recording], JSON]:
    """(spec, episodes, provenance) of a Minari dataset or the id of a local one."""
    if isinstance(dataset, str):
        try:
            dataset = _minari().load_dataset(dataset)
        except (OSError, ValueError) as error:
            raise StageError(
                f"no local Minari dataset {dataset!r} ({error}): list them with `minari list local`, get one with "
                "`minari download`"
            ) from error
    numbers = [int(number) for number in dataset.episode_indices]
    seeds = [entry.get("seed") for entry in dataset.storage.get_episode_metadata(numbers)]
    ours = _SPEC in dataset.storage.metadata
    recordings = [
        _recording(data, seed, ours)
        for seed, data in zip(seeds, dataset.iterate_episodes(), strict=True)
    ]
    steps = sum(map(len, recordings))
    provenance: JSON = {
        "data": {"minari": str(dataset.storage.metadata["dataset_id"])},
        "real_steps": {"collect": steps},
    }
    spec = _spec(dataset)
    real = None if spec.real is None else json.loads(spec.real)
    # Wrappers that an EnvSpec records are not named as ours are: such an environment is not made by guessing.
    if real is not None and not real.get("additional_wrappers"):
        limit = real.get("max_episode_steps")
        kwargs = {**(real.get("kwargs") or {}), **({"max_episode_steps": limit} if limit else {})}
        provenance["real"] = EnvConfig(real["id"], kwargs).to_json()
    return spec, recordings, provenance


def _recording(data: Any, seed: Any, ours: bool) -> Recording:
    elapsed = (data.infos or {}).get(_ELAPSED) if ours else None
    flags = np.asarray(data.terminations, bool), np.asarray(data.truncations, bool)
    terminated, truncated = (bool(len(flag) and flag[-1]) for flag in flags)
    early = np.flatnonzero(flags[0][:-1] | flags[1][:-1])
    return Recording(
        data.observations,
        data.actions,
        data.rewards,
        terminated=terminated,
        # A recording that just stops was cut, whatever it says.
        truncated=truncated or not terminated,
        elapsed=0 if elapsed is None else int(elapsed[0]),
        seed=None if seed is None else int(seed),
        early_end=int(early[0]) if len(early) else None,
    )


def _spec(dataset: Any) -> WorldSpec:
    text = dataset.storage.metadata.get(_SPEC)
    if text is not None:
        try:
            return WorldSpec.from_json(json.loads(text))
        except (ValueError, TwinFormatError) as error:
            raise DataError(f"the dataset's {_SPEC} is damaged: {error}") from error
    real = dataset.spec.env_spec
    return WorldSpec(
        dataset.observation_space,
        dataset.action_space,
        horizon=None if real is None else real.max_episode_steps,
        real=None if real is None else real.to_json(),
    )


def _last(steps: int, flag: bool) -> np.ndarray:
    flags = np.zeros(steps, bool)
    flags[-1] = flag
    return flags


def _has_pixels(space: spaces.Space) -> bool:
    if isinstance(space, spaces.Dict):
        return any(_has_pixels(part) for part in space.spaces.values())
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) > 1


def _minari() -> Any:
    try:
        import minari
    except ImportError as error:
        raise MissingExtraError(
            'Minari is not installed: pip install "world-env[train]"'
        ) from error
    return minari
