"""Settings of a build."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from world_env.errors import InvalidOptionError
from world_env.fitting.config import FitConfig
from world_env.policies.config import ExplorationConfig, check_exploration
from world_env.policy_evaluation.config import MIN_EPISODES
from world_env.real.env_config import take_env
from world_env.refinement.config import ALGOS, RefineConfig
from world_env.simulation.config import ObservationMode
from world_env.spec import EnvConfig
from world_env.struct import Struct
from world_env.types import JSON


class BuildConfig(Struct, frozen=True):
    """Settings of a build. None takes the default of the algorithm's preset."""

    real: EnvConfig
    """The real environment."""
    out: Path
    """Folder of all results. Run again with the same folder to resume; finished stages are skipped."""
    steps: int | None = None
    """Real environment steps in total (None: 10,000). More steps make the twin more accurate."""
    rounds: int | None = None
    """Number of rounds of collect, fit and learn (None: from the algorithm and `steps`). With more rounds, later data
    comes from policies trained in the twin."""
    exploration: ExplorationConfig | None = None
    """Exploration of the first round (None: random, and from 50,000 steps random and held actions)."""
    algo: Literal["PPO", "SAC", "SVG"] = "PPO"
    """Algorithm that trains in the twin: "PPO", "SAC" or "SVG". SAC and SVG need continuous actions, and often fewer
    real steps. With SVG, PPO is trained too, from scratch in the last round's twin."""
    learn_steps: int | None = None
    """Environment steps that the algorithm trains in the twin each round; with SVG those of PPO in the last twin (None:
    from the preset). These are not real steps."""
    max_real_steps: int | None = None
    """Limit of the real environment steps of all purposes, the final comparison and earlier runs in the folder
    included. The build stops before the step that would exceed it and keeps what was collected. None: no limit."""
    judge_episodes: int = 100
    """Real episodes per policy in the final comparison, at least 5. More episodes narrow the intervals; each one costs
    real steps."""
    allow_errors: bool = False
    """Fit twins although `lint` finds errors in the data. They are stored in the twin and shown on its card."""
    truncations: Literal["limits", "ends"] | None = None
    """Meaning of truncations before the time limit: "limits": the episode would continue. "ends": they are learned as
    terminations where they follow from the state (None: that of `fit`)."""
    baseline: bool = True
    """Also train the same algorithm (for SVG: SAC) in the real environment on the same number of real steps, for
    comparison. This doubles the real steps."""
    baseline_algo_kwargs: JSON = {}
    """Constructor arguments of the baseline's algorithm (empty: the defaults of `learn`)."""
    pool: Path | None = None
    """Folder of a policy pool made by `world-env pool`. The twin's card then has the agreement of learned and real
    returns, and the twin can predict real returns. None: no pool."""
    seed: int = 0
    """Seed of the data, the models and the policies."""
    tensorboard: Path | None = None
    """Folder for TensorBoard logs, as in a refinement. None: no logs."""
    family: str | None = None
    """Family of the world model: "ensemble" (vectors), "rssm" (images, hidden state), "linear", or a registered or
    installed one. None: ensemble."""
    observation_mode: ObservationMode | None = None
    """Input of the policy: "observation" (of the real environment), "latent" (the state of the twin's model) or "both".
    None: observation."""
    fit: FitConfig = FitConfig()
    """Settings of every fit. Fields that differ from their defaults replace those of the preset."""
    refinement: RefineConfig | None = None
    """All settings of the rounds, in place of the preset. None: the preset."""

    def __post_init__(self) -> None:
        take_env(self)
        for name in ("steps", "rounds", "learn_steps", "max_real_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidOptionError(
                    f"{name} is {value}: expected at least 1, or None for the default"
                )
        if self.algo not in ALGOS:
            raise InvalidOptionError(
                f"algo is {self.algo!r}, expected one of {', '.join(ALGOS)}: use `world-env refine` for others"
            )
        if self.judge_episodes < MIN_EPISODES:
            raise InvalidOptionError(
                f"judge_episodes is {self.judge_episodes}, expected at least {MIN_EPISODES}: intervals of fewer are "
                "too wide"
            )
        if self.exploration is not None:
            check_exploration(self.exploration)
        if self.refinement is not None:
            own, other = (self.real, Path(self.out)), (self.refinement.real, self.refinement.out)
            if own != (other[0], Path(other[1])):
                raise InvalidOptionError(
                    f"real and out are {own}, but those of refinement are {other}: pass the same ones"
                )
