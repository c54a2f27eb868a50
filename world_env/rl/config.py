"""Settings of policy training, the same for twins and for the real environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from world_env.errors import InvalidOptionError
from world_env.simulation.config import check_mode
from world_env.types import JSON

OFF_POLICY = ("SAC", "TD3", "DDPG", "DQN", "TQC", "QRDQN", "CrossQ")
MANY_ROWS: JSON = {
    "n_steps": 64,
    "batch_size": 256,
    "n_epochs": 10,
    "learning_rate": 1e-3,
    "gamma": 0.99,
    "gae_lambda": 0.95,
}
"""PPO arguments for many environments. Small batches reach a given return in less time than large ones."""
FEW_ROWS: JSON = MANY_ROWS | {"n_steps": 256, "batch_size": 64}
"""PPO arguments for up to 8 environments, where each step is usually a real one."""
_NUM_ENVS = 64


@dataclass(frozen=True)
class LearnConfig:
    """How a policy is trained, in a twin or in the real environment."""

    algo: str = "PPO"
    """Stable-Baselines3 or sb3-contrib algorithm, by its class name. PPO and SAC use faster updates on a CPU."""
    steps: int = 200_000
    """Environment steps in total. In a twin they cost time only; in the real environment each one is counted."""
    rows: int | None = None
    """Number of parallel environments (None: 64, or 1 for off-policy algorithms). More environments: more steps per
    second; off-policy algorithms then take fewer gradient steps per environment step."""
    seed: int = 0
    """Random seed of the policy's weights, its actions and the environments. Another seed gives another policy."""
    options: JSON = field(default_factory=dict)
    """Constructor arguments of the algorithm as JSON (empty: the defaults of world-env). Each one replaces a default,
    for example {"gamma": 0.95}."""
    dataset_starts: float = 0.5
    """Twins: fraction of episodes that start from a state inside the data, in [0, 1]. Higher values visit late states
    more often; 0 uses the initial states only."""
    rollout_length: int | None = None
    """Twins: maximum steps of one learned episode (None: the horizon). Shorter rollouts visit more start states and
    limit model error; values are bootstrapped where they end."""
    branch_length: int | None = None
    """Twins: maximum steps of an episode that starts inside the data (None: the horizon). It limits model error and
    leaves episodes from initial states at full length."""
    on_uncertain: str = "pessimistic"
    """Twins: rule for out-of-distribution steps: "ignore", "truncate", "terminate" or "pessimistic"
    (terminate with the lowest reward of the data for all steps left, which keeps policies close to the data)."""
    temperature: float = 1.0
    """Twins: factor of the world model's noise, >= 0. 0 removes the noise; higher values make the twin noisier."""
    least_noise: float = 0.4
    """Warm starts of `refine`: minimum action standard deviation at the start, in half widths of the action space.
    Higher values explore more; 0 keeps that of the earlier policy."""
    observation_mode: str = "observation"
    """Input of the policy: "observation" (of the real environment), "latent" (state of the world model, not decoded) or
    "both". In the real environment the last two need a twin as encoder."""
    reward: str = "task"
    """Twins: "task", or "uncertainty" for the uncertainty of the twin as reward. The latter trains a policy that
    explores states unlike the data."""
    normalize: bool = True
    """Twins: normalise vector observations by the mean and scale of the twin's data. Off: raw values."""
    normalization: JSON | None = None
    """Real environment: {"mean": [...], "scale": [...]}, one number per observation dimension (None: raw values).
    The policy normalises observations by them."""
    normalize_rewards: bool = True
    """On-policy algorithms: divide rewards by the standard deviation of discounted returns. Off: raw rewards, which
    need a learning rate of their own; logged returns are raw in both cases."""

    def __post_init__(self) -> None:
        for name, number in (("steps", self.steps), ("rows", self.rows)):
            if number is not None and number < 1:
                raise InvalidOptionError(f"{name} must be >= 1, got {number}")
        check_mode(self.observation_mode)
        if self.reward not in ("task", "uncertainty"):
            raise InvalidOptionError(f"reward is {self.reward!r}, expected 'task' or 'uncertainty'")
        gamma = self.discount
        if not isinstance(gamma, int | float) or not 0.0 <= gamma <= 1.0:
            raise InvalidOptionError(
                f"options['gamma'] must be a discount factor in [0, 1], got {gamma!r}"
            )

    @property
    def discount(self) -> float:
        """Discount factor: `gamma` of `options`, or the default."""
        gamma: Any = self.options.get("gamma", MANY_ROWS["gamma"])
        return gamma  # type: ignore[no-any-return]

    @property
    def num_envs(self) -> int:
        """Number of parallel environments."""
        default = 1 if self.algo in OFF_POLICY else _NUM_ENVS
        return default if self.rows is None else self.rows
