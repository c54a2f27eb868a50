"""Data sets of episodes: in memory, on disk, and as training tensors."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.data.dataset import EncodedEpisodes, encode_episodes
    from world_env.data.episode import Episode, split
    from world_env.data.minari import from_minari, to_minari
    from world_env.data.recording import Recording
    from world_env.data.sources import open_dataset
    from world_env.data.statistics import robust_scale
    from world_env.data.store import EpisodeStore
    from world_env.data.validation.issue import LintIssue
    from world_env.data.validation.lint import lint, lint_split

__all__ = [
    "EncodedEpisodes",
    "Episode",
    "EpisodeStore",
    "LintIssue",
    "Recording",
    "encode_episodes",
    "from_minari",
    "lint",
    "lint_split",
    "open_dataset",
    "robust_scale",
    "split",
    "to_minari",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "dataset": (
            "EncodedEpisodes",
            "encode_episodes",
        ),
        "episode": (
            "Episode",
            "split",
        ),
        "minari": (
            "from_minari",
            "to_minari",
        ),
        "recording": ("Recording",),
        "sources": ("open_dataset",),
        "statistics": ("robust_scale",),
        "store": ("EpisodeStore",),
        "validation.issue": ("LintIssue",),
        "validation.lint": (
            "lint",
            "lint_split",
        ),
    },
)
