"""Record of the final evaluation of a build, so that a build that is run again does not repeat it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from world_env.atomic_io import write_json
from world_env.errors import InvalidOptionError
from world_env.results.comparison import Comparison
from world_env.struct import Struct

_FILE = "judged.json"


class JudgedPolicy(Struct, frozen=True, kw_only=True):
    """Final evaluation of one policy, with what was evaluated."""

    policy: str
    """Digest of the policy."""
    twin: str
    """Digest of the twin."""
    comparison: Comparison
    """Comparison of this policy alone."""


class Judged(Struct, frozen=True, kw_only=True):
    """Contents of `judged.json`, in the folder of a build."""

    policies: dict[str, JudgedPolicy] = {}
    """Name -> its final evaluation."""
    action_effects_of: str | None = None
    """Digest of the twin whose effects of actions were measured. None: not measured."""

    @classmethod
    def read(cls, out: Path) -> Judged:
        """Read the record of a folder; an empty one where there is none that can be read."""
        try:
            tree = json.loads((out / _FILE).read_text(encoding="utf-8"))
            return cls.from_json(tree, where=_FILE)
        except (OSError, ValueError, InvalidOptionError):
            return cls()

    def write(self, out: Path) -> None:
        """Replace the record of a folder."""
        write_json(out / _FILE, self.to_json())

    def comparison(self, name: str, policy: str, twin: str, episodes: int) -> Comparison | None:
        """The final evaluation of a policy; None if there is none of this twin and number of episodes."""
        found = self.policies.get(name)
        if found is None or (found.policy, found.twin) != (policy, twin):
            return None
        return found.comparison if found.comparison.episodes == episodes else None

    def with_comparison(self, name: str, policy: str, twin: str, comparison: Comparison) -> Judged:
        """The record with one more final evaluation."""
        judged = JudgedPolicy(policy=policy, twin=twin, comparison=comparison)
        return self.replace(policies=self.policies | {name: judged})


def digest_of(folder: Path) -> str:
    """SHA-256 of the files of a folder, with their names."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
