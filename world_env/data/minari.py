"""Import and export of Minari data sets."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from world_env.data.episode import Episode
from world_env.data.recording import Recording, checked_episodes
from world_env.errors import DataError, MissingExtraError, StageError, TwinFormatError
from world_env.real.registered import is_learned
from world_env.results.provenance import Provenance
from world_env.spec import EnvConfig, WorldSpec

_SPEC = "world_env_spec"
_ELAPSED = "elapsed"


def to_minari(
    episodes: Sequence[Episode], spec: WorldSpec, dataset_id: str, *, algorithm: str = "unknown"
) -> Any:
    """Write episodes as a local Minari data set and return it; `from_minari` is the inverse.

    dataset_id: id of the new data set.
    algorithm: name of the policy that chose the actions, for the metadata.

    Raises StageError if the data set exists, DataError without episodes, MissingExtraError without Minari.
    """
    minari = _minari()
    from minari.data_collector import EpisodeBuffer

    if not episodes:
        raise DataError("no episodes to write: expected at least 1, collect some first")
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
        # Minari warns about every description that is not given.
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
            raise StageError(f"cannot write the Minari data set {dataset_id!r}: {error}") from error
    # The spec is added afterwards: if Minari receives an environment spec, it makes that environment.
    extra = {_SPEC: json.dumps(spec.to_json(), allow_nan=False)}
    dataset.storage.update_metadata(extra | ({"env_spec": spec.real} if spec.real else {}))
    return minari.load_dataset(dataset_id)


def from_minari(dataset: Any) -> tuple[WorldSpec, list[Episode]]:
    """Read the spec and the episodes of a Minari data set (its id, or the data set itself).

    Raises StageError for an unknown id, DataError for an episode that is not usable, MissingExtraError without
    Minari.
    """
    spec, recordings, _ = read_minari(dataset)
    return spec, checked_episodes(recordings)


def read_minari(dataset: Any) -> tuple[WorldSpec, list[Recording], Provenance]:
    """Read (spec, unchecked episodes, provenance) of a Minari data set, or of the id of a local one.

    The steps count as real steps ("collect"), unless the data set names a learned environment.
    """
    if isinstance(dataset, str):
        try:
            dataset = _minari().load_dataset(dataset)
        except (OSError, ValueError) as error:
            raise StageError(
                f"unknown Minari data set {dataset!r} ({error}): list the local ones with `minari list local`, or get "
                "one with `minari download`"
            ) from error
    numbers = [int(number) for number in dataset.episode_indices]
    seeds = [entry.get("seed") for entry in dataset.storage.get_episode_metadata(numbers)]
    ours = _SPEC in dataset.storage.metadata
    recordings = [
        _recording(data, seed, ours)
        for seed, data in zip(seeds, dataset.iterate_episodes(), strict=True)
    ]
    steps = sum(map(len, recordings))
    recorded_in = dataset.spec.env_spec
    learned = recorded_in is not None and is_learned(recorded_in)
    provenance = Provenance(
        real_steps={} if learned else {"collect": steps},
        stages={"data": {"minari": str(dataset.storage.metadata["dataset_id"])}},
    )
    spec = _spec(dataset)
    if learned:
        spec = dataclasses.replace(spec, real=None)
    real = None if spec.real is None else json.loads(spec.real)
    # An EnvSpec names its wrappers in another form than `EnvConfig`: such an environment cannot be made again.
    if real is not None and not real.get("additional_wrappers"):
        limit = real.get("max_episode_steps")
        kwargs = {**(real.get("kwargs") or {}), **({"max_episode_steps": limit} if limit else {})}
        provenance = provenance.replace(real=EnvConfig(real["id"], kwargs))
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
        # A recording without a flag at its last step was truncated there.
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
            raise DataError(
                f"the metadata {_SPEC!r} of the Minari data set is damaged ({error}): write the data set again"
            ) from error
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
