"""Data sets of episodes: in memory, on disk, and as training tensors."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.data.dataset import (
        EncodedEpisodes as EncodedEpisodes,
        encode_episodes as encode_episodes,
    )
    from world_env.data.episode import Episode as Episode, split as split
    from world_env.data.minari import from_minari as from_minari, to_minari as to_minari
    from world_env.data.recording import Recording as Recording
    from world_env.data.sources import open_dataset as open_dataset
    from world_env.data.statistics import robust_scale as robust_scale
    from world_env.data.store import EpisodeStore as EpisodeStore
    from world_env.data.truncations import (
        truncations_as_terminations as truncations_as_terminations,
    )
    from world_env.data.validation.issue import LintIssue as LintIssue
    from world_env.data.validation.lint import lint as lint, lint_split as lint_split

__all__, __getattr__, __dir__ = lazy_names(__name__, __file__)
