"""How policies are trained: one configuration for twins and for reality."""

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
"""PPO in many rows: many updates on small batches, because large ones are quick per step and slow per return."""
FEW_ROWS: JSON = MANY_ROWS | {"n_steps": 256, "batch_size": 64}
"""PPO in up to 8 rows, where every step costs a real one."""
_ROWS = 64


@dataclass(frozen=True)
class LearnConfig:
    """How a policy is trained; the same fields in a twin and in reality."""

    algo: str = "PPO"
    """Any Stable-Baselines3 (or sb3-contrib) algorithm."""
    steps: int = 200_000
    """Environment steps."""
    rows: int | None = None
    """Worlds stepped together; None: 64, or 1 for off-policy algorithms, whose `gradient_steps` count for all rows."""
    seed: int = 0
    """Of the policy's weights, its actions and the worlds."""
    options: JSON = field(default_factory=dict)
    """Arguments of the algorithm that differ from the defaults."""
    dataset_starts: float = 0.5
    """Learned worlds: share of episodes that begin from a state inside the data."""
    rollout_length: int | None = None
    """Learned worlds: cap on one learned episode; shorter ones visit more starts, values are bootstrapped."""
    branch_length: int | None = None
    """Learned worlds: the same for episodes that begin inside the data only; those from true starts go on."""
    first_branch_length: int | None = None
    """Learned worlds: branches grow from here to `branch_length` over the first half of the steps; None: no growth."""
    on_uncertain: str = "pessimistic"
    """Learned worlds: "ignore", "truncate", "terminate" or "pessimistic" past the threshold."""
    temperature: float = 1.0
    """Learned worlds: scale of the model's noise."""
    least_noise: float = 0.4
    """Warm starts: deviation that a Gaussian policy's actions have at least when it goes on, in half widths of the
    action space: what has settled down looks for nothing better."""
    observation_mode: str = "pixels"
    """What the policy sees: "pixels", observations as they are (vectors too); "latent", the state of the twin's model,
    which is never decoded; "both". In reality it looks through a twin (`learn(through=...)`)."""
    reward: str = "task"
    """Learned worlds: "task", or "uncertainty": a policy that goes where the twin knows least."""
    normalize: bool = True
    """Learned worlds: put the data's mean and scale into the policy."""
    normalization: JSON | None = None
    """Real worlds, of which no data is known: {"mean", "scale"} of each observation dimension, for the policy."""
    normalize_rewards: bool = True
    """On-policy algorithms learn from rewards over the deviation of discounted returns."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.worlds < 1:
            raise InvalidOptionError(
                f"{self.steps} steps in {self.rows} rows: expected at least 1 of each"
            )
        check_mode(self.observation_mode)
        if self.first_branch_length is not None and (
            self.branch_length is None or self.first_branch_length > self.branch_length
        ):
            raise InvalidOptionError(
                f"branches grow from {self.first_branch_length} to {self.branch_length} steps: give a branch_length, "
                "and a first one that is no longer"
            )
        if self.reward not in ("task", "uncertainty"):
            raise InvalidOptionError(f"reward is {self.reward!r}, expected 'task' or 'uncertainty'")
        gamma = self.discount
        if not isinstance(gamma, int | float) or not 0.0 <= gamma <= 1.0:
            raise InvalidOptionError(f"gamma is {gamma!r}, expected a discount in 0..1")

    @property
    def discount(self) -> float:
        """The algorithm's, as its options name it or by default."""
        gamma: Any = self.options.get("gamma", MANY_ROWS["gamma"])
        return gamma  # type: ignore[no-any-return]

    @property
    def worlds(self) -> int:
        """How many are stepped together."""
        usual = 1 if self.algo in OFF_POLICY else _ROWS
        return usual if self.rows is None else self.rows
