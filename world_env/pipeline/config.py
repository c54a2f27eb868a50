"""Settings of a build."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from world_env.errors import InvalidOptionError
from world_env.fitting.config import FitConfig
from world_env.policy_evaluation.config import MIN_EPISODES
from world_env.refinement.config import ALGOS, RefineConfig
from world_env.spec import EnvConfig


@dataclass(frozen=True)
class BuildConfig:
    """Configuration of a build; None takes the default of the algorithm's preset."""

    env_id: str
    """Gymnasium id of the real environment, or "module:Id"."""
    out: Path
    """Folder of the run; running again goes on where it stopped."""
    steps: int | None = None
    """Real steps in all."""
    rounds: int | None = None
    """How often data is collected."""
    exploration: str | None = None
    """Who acts in the first round: random, held:20, mix:0.5*random+0.5*held:20, policy:FOLDER."""
    algo: str = "PPO"
    """Who learns in the twin, "PPO" or "SAC": SAC needs continuous actions, and often fewer real steps there."""
    learn_steps: int | None = None
    """Learned steps a round."""
    episodes: int = 100
    """PolicyReturns real episodes a policy."""
    baseline: bool = True
    """Also train the same algorithm in reality on the same number of real steps."""
    pool: Path | None = None
    """Folder of a pool (`world-env pool`) to judge the twin by: its card then holds agreement and a promise."""
    seed: int = 0
    """Of data, model and policy."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the real environment."""
    wrappers: tuple[str, ...] = ()
    """Wrappers of the real environment, as module:Class, innermost first."""
    family: str | None = None
    """Family of the world model: "ensemble", "rssm", "rssm-large" or "linear" (default: ensemble)."""
    observation_mode: str | None = None
    """What policies see: "pixels", "latent" or "both", as in LearnConfig."""
    fit: FitConfig = field(default_factory=FitConfig)
    """Settings of every fit; a field that differs from its default replaces that of the preset."""
    refinement: RefineConfig | None = None
    """All rounds in full, instead of the preset of `algo`."""

    def __post_init__(self) -> None:
        for name in ("steps", "rounds", "learn_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidOptionError(f"{name} is {value}: expected at least 1, or None")
        if self.algo not in ALGOS:
            raise InvalidOptionError(
                f"algo is {self.algo!r}, expected one of {', '.join(ALGOS)}; `world-env refine` takes others"
            )
        if self.episodes < MIN_EPISODES:
            raise InvalidOptionError(
                f"episodes is {self.episodes}: fewer than {MIN_EPISODES} tell too little"
            )

    @property
    def real(self) -> EnvConfig:
        """The real environment that is meant."""
        if self.refinement is not None:
            return self.refinement.real
        return EnvConfig(self.env_id, self.kwargs, self.wrappers)
