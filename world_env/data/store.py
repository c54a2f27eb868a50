"""Store of episodes on disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from world_env.atomic_io import write_bytes
from world_env.data.episode import Episode
from world_env.errors import DataError, InvalidOptionError, StageError, TwinFormatError
from world_env.spec import WorldSpec
from world_env.struct import converted
from world_env.twin.image_compression import packed_images, unpacked_images
from world_env.types import JSON, OBSERVATION

FORMAT = 2
"""Format version on disk; a store of a newer format is refused. 2: images are compressed."""
_MANIFEST = "manifest.json"
_SHARDS = "episodes-*.safetensors"


class EpisodeStore:
    """Store of episodes: a folder of safetensors shards and a manifest, each written atomically.

    Shards that the manifest does not list, for example after a kill, are ignored.

    Raises StageError if the folder holds no store, DataError if the store is damaged or of a newer format.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        path = self.folder / _MANIFEST
        if not path.is_file():
            what = (
                f"is not an episode store: {_MANIFEST} is missing"
                if self.folder.is_dir()
                else "is not an episode store: there is no such folder"
            )
            raise StageError(
                f"{self.folder} {what}. Pass the folder of an episode store (`world-env collect` makes one), or "
                f"minari:ID."
            )
        try:
            self._manifest: JSON = json.loads(path.read_text(encoding="utf-8"))
            version = self._manifest["format"]
            if type(version) is int and version > FORMAT:
                raise DataError(
                    f"{path} has format {version}, expected at most {FORMAT}: upgrade world-env"
                )
            self.spec = WorldSpec.from_json(self._manifest["spec"])
            converted(self._manifest["real_steps"], dict[str, int], where="real_steps")
            lengths = self.lengths
            totals = (self._manifest["episodes"], self._manifest["steps"])
            if totals != (len(lengths), sum(lengths)):
                raise DataError(
                    f"{path} is damaged: it states {totals[0]} episodes and {totals[1]} steps, but lists shards of "
                    f"{len(lengths)} episodes and {sum(lengths)} steps. Restore it, or collect again."
                )
        except (KeyError, TypeError, AttributeError, InvalidOptionError, TwinFormatError,
                UnicodeDecodeError, json.JSONDecodeError) as error:  # fmt: skip
            raise DataError(
                f"{path} is damaged ({type(error).__name__}: {error}): collect again"
            ) from error

    @classmethod
    def create(
        cls, folder: str | os.PathLike[str], spec: WorldSpec, *, provenance: JSON | None = None
    ) -> EpisodeStore:
        """Create an empty store.

        provenance: origin of the data, a strict JSON tree.

        Raises StageError if the folder holds a store, or shards without a manifest, or cannot be written.
        """
        target = Path(folder)
        if (target / _MANIFEST).exists():
            raise StageError(
                f"{target} already holds an episode store: open it, or choose another folder"
            )
        if shards := sorted(path.name for path in target.glob(_SHARDS)):
            raise StageError(
                f"{target} holds {len(shards)} shards of episodes ({shards[0]}, ...), but no {_MANIFEST}: it was "
                "deleted, or not copied with them. Restore it, choose another folder, or delete this one."
            )
        tree = {
            "format": FORMAT,
            "spec": spec.to_json(),
            "provenance": provenance or {},
            "real_steps": {},
            "episodes": 0,
            "steps": 0,
            "shards": [],
        }
        write_bytes(target / _MANIFEST, _manifest_bytes(tree))
        return cls(target)

    @staticmethod
    def exists(folder: str | os.PathLike[str]) -> bool:
        """Whether the folder holds a store, also a damaged one."""
        return (Path(folder) / _MANIFEST).exists()

    def __len__(self) -> int:
        """Number of stored episodes."""
        return int(self._manifest["episodes"])

    @property
    def steps(self) -> int:
        """Number of stored steps. The number of real steps (`real_steps`) may be larger."""
        return int(self._manifest["steps"])

    @property
    def lengths(self) -> list[int]:
        """Steps of each stored episode, in order."""
        return [int(steps) for shard in self._manifest["shards"] for steps in shard["lengths"]]

    @property
    def provenance(self) -> JSON:
        """Origin of the data, as given to `create`."""
        return dict(self._manifest["provenance"])

    @property
    def real_steps(self) -> dict[str, int]:
        """Real environment steps taken for this data, by purpose."""
        return dict(self._manifest["real_steps"])

    def append(
        self, episodes: Sequence[Episode], *, real_steps: dict[str, int] | None = None
    ) -> None:
        """Add episodes as one shard; after an error the store is unchanged.

        real_steps: real environment steps taken for all data so far, by purpose; None: unchanged.

        Raises DataError for an episode that does not fit the spaces of the store.
        """
        shards = list(self._manifest["shards"])
        if episodes:
            self._check_columns(episodes)
            columns = [episode.columns() for episode in episodes]
            flat = {key: np.concatenate([c[key] for c in columns]) for key in columns[0]}
            content = _safetensors().numpy.save(
                {k: np.ascontiguousarray(v) for k, v in packed_images(flat).items()}
            )
            name = f"episodes-{len(shards):05d}.safetensors"
            write_bytes(self.folder / name, content)
            shards.append({
                "file": name,
                "sha256": hashlib.sha256(content).hexdigest(),
                "lengths": [len(episode) for episode in episodes],
                "terminated": [bool(episode.terminated) for episode in episodes],
                "truncated": [bool(episode.truncated) for episode in episodes],
                "elapsed": [int(episode.elapsed) for episode in episodes],
                "seeds": [None if e.seed is None else int(e.seed) for e in episodes],
            })  # fmt: skip
            if any(episode.conditioning for episode in episodes):
                shards[-1]["conditioning"] = [
                    {
                        name: np.asarray(each, float).tolist()
                        for name, each in e.conditioning.items()
                    }
                    for e in episodes
                ]
        tree = {
            **self._manifest,
            "format": FORMAT,
            "episodes": len(self) + len(episodes),
            "steps": self.steps + sum(map(len, episodes)),
            "shards": shards,
        }
        if real_steps is not None:
            tree["real_steps"] = dict(real_steps)
        write_bytes(self.folder / _MANIFEST, _manifest_bytes(tree))
        # One assignment: an interrupt cannot leave the store half updated.
        self._manifest = tree

    def load(self) -> list[Episode]:
        """All episodes, in the order of their collection. Raises DataError for a damaged shard."""
        return [
            episode for shard in self._manifest["shards"] for episode in self._load_shard(shard)
        ]

    def _check_columns(self, episodes: Sequence[Episode]) -> None:
        spec = self.spec
        spaces = getattr(spec.observation_space, "spaces", None)
        named = {OBSERVATION: spec.observation_space} if spaces is None else {
            f"{OBSERVATION}.{key}": space for key, space in spaces.items()
        }  # fmt: skip
        shapes = {key: space.shape or () for key, space in named.items()}
        shapes |= {"action": spec.action_space.shape or (), "reward": ()}
        for i, episode in enumerate(episodes, len(self)):
            got = {key: value.shape[1:] for key, value in episode.columns().items()}
            if got != shapes:
                raise DataError(
                    f"episode {i} does not fit the spaces of the store: expected entries of the shapes {shapes}, "
                    f"got {got}"
                )

    def _load_shard(self, shard: JSON) -> Iterable[Episode]:
        library = _safetensors()
        try:
            path = self.folder / Path(shard["file"]).name
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != shard["sha256"]:
                raise ValueError("its checksum differs from that in the manifest")
            flat = unpacked_images(library.numpy.load(content))
            return list(_cut_flat(flat, shard))
        except (OSError, KeyError, TypeError, ValueError, library.SafetensorError) as error:
            raise DataError(
                f"{self.folder / str(shard.get('file'))} is damaged ({type(error).__name__}: "
                f"{error}): restore it, or collect again into another folder"
            ) from error


def _cut_flat(flat: dict[str, np.ndarray], shard: JSON) -> Iterable[Episode]:
    prefix = f"{OBSERVATION}."
    step, conditioning = 0, shard.get("conditioning", [{}] * len(shard["lengths"]))
    for number, length in enumerate(shard["lengths"]):
        # Each earlier episode has one more observation than steps.
        first = step + number
        observations = {
            key: value[first : first + length + 1]
            for key, value in flat.items()
            if key.startswith(OBSERVATION)
        }
        parts = {key.removeprefix(prefix): value for key, value in observations.items()}
        yield Episode(
            parts[OBSERVATION] if OBSERVATION in observations else parts,
            flat["action"][step : step + length],
            flat["reward"][step : step + length],
            terminated=shard["terminated"][number],
            truncated=shard["truncated"][number],
            elapsed=shard["elapsed"][number],
            seed=shard["seeds"][number],
            conditioning={
                name: np.array(value, np.float32) for name, value in conditioning[number].items()
            },
        )
        step += length


def _safetensors() -> Any:
    import safetensors.numpy

    return safetensors


def _manifest_bytes(tree: JSON) -> bytes:
    return json.dumps(tree, allow_nan=False).encode()
