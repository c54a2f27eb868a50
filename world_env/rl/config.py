"""Settings of policy training, the same for twins and for the real environment."""

from __future__ import annotations

from numbers import Real
from typing import Any, Literal

from world_env.errors import InvalidOptionError
from world_env.simulation.config import (
    OBSERVATION_MODES,
    ON_UNCERTAIN,
    ObservationMode,
    OnUncertain,
    RolloutConfig,
    check_choice,
)
from world_env.spec import WorldSpec
from world_env.struct import Struct
from world_env.types import JSON

_OFF_POLICY = ("SAC", "TD3", "DDPG", "DQN", "TQC", "QRDQN", "CrossQ", "SVG")
MANY_ENVS: JSON = {
    "n_steps": 64,
    "batch_size": 256,
    "n_epochs": 10,
    "learning_rate": 1e-3,
    "gamma": 0.99,
    "gae_lambda": 0.95,
}
"""PPO arguments for many environments. Small batches reach a given return in less time than large ones."""
FEW_ENVS: JSON = MANY_ENVS | {"n_steps": 256, "batch_size": 64}
"""PPO arguments for up to 8 environments, where each step is usually a real one."""
TABLE_ENTROPY = 0.06
"""Default of PPO's `ent_coef` in the twin of a table: a policy keeps searching where no reward was found yet. With half
of it, policies of large tables stay below the optimum in some seeds."""
_NUM_ENVS = 64


class TwinTrainingConfig(RolloutConfig, frozen=True):
    """Learned episodes of a training in a twin."""

    dataset_starts: float = 0.5
    """Fraction of episodes that start from a state inside the data, in [0, 1]. Higher values visit late states more
    often; 0 uses the initial states only."""
    on_uncertain: OnUncertain | None = None
    """Rule for out-of-distribution steps: "ignore", "truncate", "terminate" or "pessimistic" (terminate with the lowest
    reward of the data for all steps left, which keeps policies close to the data). None: "truncate" if state and action
    are categories with few pairs (`WorldSpec.is_table`), otherwise "pessimistic"."""
    reward: Literal["task", "uncertainty"] = "task"
    """Reward of the training. "uncertainty", that of the twin, trains a policy that explores states unlike the data."""
    normalize: bool = True
    """Normalise vector observations by the mean and scale of the twin's data. Off: raw values."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.on_uncertain is not None:
            check_choice("on_uncertain", self.on_uncertain, ON_UNCERTAIN)
        check_choice("reward", self.reward, ("task", "uncertainty"))

    def rule(self, spec: WorldSpec) -> OnUncertain:
        """`on_uncertain`, or its default for a twin of this spec.

        In a table, the steps out of distribution are exactly the pairs that were never trained. A penalty there keeps
        policies away from all states near them, also from those that the data shows well.
        """
        return self.on_uncertain or ("truncate" if spec.is_table else "pessimistic")


class RealTrainingConfig(Struct, frozen=True):
    """Observations of a training in the real environment."""

    normalization: JSON | None = None
    """{"mean": [...], "scale": [...]}, one number per observation dimension, by which the policy normalises real
    observations (None: raw values)."""
    encoder: str | None = None
    """Twin (bundled name or folder) that encodes real observations if `observation_mode` is "latent" or "both"
    (None: observations are not encoded)."""


class LearnConfig(Struct, frozen=True):
    """How a policy is trained, in a twin or in the real environment."""

    algo: str = "PPO"
    """Algorithm of Stable-Baselines3 or sb3-contrib by its class name, such as "SAC" or "RecurrentPPO", or of SBX, such
    as "sbx.PPO". PPO and SAC of Stable-Baselines3 use faster updates on a CPU. "SVG" learns from the gradients of the
    twin's steps (`world_env.rl.SVG`); its policies are those of SAC."""
    steps: int = 200_000
    """Environment steps in total; updates of SVG. In a twin they cost time only; in the real environment each one is
    counted."""
    num_envs: int | None = None
    """Number of parallel environments (None: 64 in a twin, 1 in the real environment and for off-policy algorithms).
    More environments: more steps per second; off-policy algorithms then take fewer gradient steps per environment
    step."""
    seed: int = 0
    """Random seed of the policy's weights, its actions and the environments. Another seed gives another policy."""
    algo_kwargs: JSON = {}
    """Constructor arguments of the algorithm as JSON. Each one replaces a default of world-env, for example
    {"gamma": 0.95}."""
    normalize_rewards: bool = True
    """On-policy algorithms: divide rewards by the standard deviation of discounted returns. Off: raw rewards, which
    need a learning rate of their own; logged returns are raw in both cases."""
    min_action_std: float = 0.4
    """Minimum action standard deviation after a warm start, in half widths of the action space. Higher values explore
    more; 0 keeps that of the earlier policy."""
    device: str = "cpu"
    """Torch device of the networks, such as "cpu" or "cuda"; with SVG also of the model."""
    action_mask_key: str | None = None
    """MaskablePPO: key of the Dict observation that holds 1 for every valid action and 0 for the others (None:
    "action_mask")."""
    observation_mode: ObservationMode = "observation"
    """Input of the policy: "observation" (of the real environment), "latent" (state of the world model, not decoded) or
    "both". In the real environment the last two need an encoder."""
    simulation: TwinTrainingConfig = TwinTrainingConfig()
    """Learned episodes of a training in a twin."""
    real: RealTrainingConfig = RealTrainingConfig()
    """Observations of a training in the real environment."""

    def __post_init__(self) -> None:
        for name, number in (("steps", self.steps), ("num_envs", self.num_envs)):
            if number is not None and number < 1:
                raise InvalidOptionError(f"{name} must be >= 1, got {number}")
        check_choice("observation_mode", self.observation_mode, OBSERVATION_MODES)
        if self.algo == "MaskablePPO" and self.observation_mode != "observation":
            raise InvalidOptionError(
                f"MaskablePPO reads its masks from the observation, but observation_mode is "
                f"{self.observation_mode!r}: use observation_mode='observation'"
            )
        gamma = self.discount
        if not isinstance(gamma, Real) or not 0.0 <= gamma <= 1.0:
            raise InvalidOptionError(
                f"algo_kwargs['gamma'] must be a discount factor in [0, 1], got {gamma!r}"
            )

    @property
    def discount(self) -> float:
        """Discount factor: `gamma` of `algo_kwargs`, or the default."""
        gamma: Any = self.algo_kwargs.get("gamma", MANY_ENVS["gamma"])
        return gamma  # type: ignore[no-any-return]

    @property
    def parallel_envs(self) -> int:
        """`num_envs`, or its default in a twin."""
        default = 1 if self.off_policy else _NUM_ENVS
        return default if self.num_envs is None else self.num_envs

    @property
    def off_policy(self) -> bool:
        """Whether the algorithm has a replay buffer."""
        return self.algo.removeprefix("sbx.") in _OFF_POLICY
