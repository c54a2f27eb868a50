"""Settings of a refinement: real steps, fits, policies and exploration of each round."""

from __future__ import annotations

from pathlib import Path

from gymnasium import spaces

from world_env.errors import InvalidOptionError
from world_env.fitting.config import FitConfig, gradient_steps_for
from world_env.policies.config import (
    ExplorationConfig,
    PolicyExploration,
    RandomExploration,
    check_exploration,
    policies_of,
)
from world_env.real.env_config import take_env
from world_env.rl.config import LearnConfig
from world_env.seeding import SeedPurpose, derived_seed
from world_env.spec import EnvConfig, WorldSpec
from world_env.struct import Struct
from world_env.types import JSON

ALGOS = ("PPO", "SAC", "SVG")
"""Algorithms that `preset` has a configuration for."""
_CONTINUOUS = ("SAC", "TD3", "DDPG", "TQC", "CrossQ", "SVG")
_DISCRETE = ("DQN", "QRDQN")
"""Algorithms for continuous actions only, and for one discrete action only. The others take any action space."""
RESTART = "restart"
"""Name of the policy that is trained from scratch beside the warm-started one."""
ROLES = ("selected", "newest")
"""Names of policies in `later_exploration`, besides those of the explorers."""


class RefineConfig(Struct, frozen=True):
    """Rounds of data collection, fit and policy training. One round is collect, fit, learn."""

    real: EnvConfig
    """The real environment."""
    out: Path
    """Folder of all rounds. Run again with the same folder to resume; finished stages are skipped."""
    steps: int = 2_000
    """Real environment steps in total. More steps make the twin more accurate."""
    first_steps: int | None = None
    """Real steps of the first round. The others are divided evenly among the later rounds (None: among all rounds)."""
    rounds: int = 1
    """Number of rounds. With more rounds, later data comes from policies that were trained in the twin."""
    exploration: ExplorationConfig = RandomExploration()
    """Exploration of the first round."""
    later_exploration: ExplorationConfig = PolicyExploration(path="selected")
    """Exploration of the later rounds. Paths of policies may be "selected" (the selected policy of the last round),
    "newest" (its newest policy, selected or not) or the name of an explorer."""
    explorers: dict[str, JSON] = {}
    """More policies that only collect data, trained from scratch in each round's twin: name -> fields of `learn` that
    differ. {"hasty": {"algo_kwargs": {"gamma": 0.99}}} has another discount. {"curious": {"simulation": {"reward":
    "uncertainty", "on_uncertain": "ignore"}}} visits states where the twin is uncertain. Explorers make the data more
    diverse."""
    real_evaluation_share: float = 0.2
    """Share of the later rounds' real steps used for real evaluation episodes, 0 to 0.5. These episodes correct the
    predicted returns by which a policy is selected, and are training data too."""
    warm_start: bool = False
    """Initialise the model and the policy of each round from the previous round's. Otherwise train from scratch."""
    restart_every: int | None = None
    """Every n-th round also trains a policy from scratch; it replaces the warm-started policy where its discounted
    return in the twin is higher, which helps to leave local optima. Needs warm_start. None: never."""
    restart_steps: int = 1_000_000
    """Learned environment steps of a policy that is trained from scratch by restart_every."""
    max_candidates: int = 8
    """Number of latest policies among which each round selects one. More policies cost more learned episodes."""
    patience: int | None = 5
    """Stop after this many rounds without another selected policy and save the remaining real steps. None: run all
    rounds."""
    later_gradient_steps: int | None = None
    """Gradient steps of the fits after the first round. None: as in the first. A warm-started fit needs fewer."""
    updates_per_step: float | None = None
    """Training steps of each round per real step of the round (None: `learn.steps` in every round)."""
    explorer_steps: int | None = None
    """Learned environment steps of each explorer. None: the steps of `learn`."""
    seed: int = 0
    """Seed of the data, the models and the policies."""
    max_real_steps: int | None = None
    """Limit of the real environment steps of all purposes, those of earlier runs in the folder included. The run stops
    before the step that would exceed it and keeps what was collected. None: no limit."""
    tensorboard: Path | None = None
    """Folder for TensorBoard logs by round; those of each fit and training are in subfolders of it. None: no logs."""
    fit: FitConfig = FitConfig()
    """Settings of every fit."""
    learn: LearnConfig = LearnConfig()
    """Settings of every policy training in the twin."""

    def __post_init__(self) -> None:
        take_env(self)
        for name in ("rounds", "patience", "max_candidates", "restart_every", "restart_steps",
                     "max_real_steps"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidOptionError(f"{name} must be >= 1, got {value}")
        if self.steps < self.rounds:
            raise InvalidOptionError(
                f"steps must be at least one a round, got {self.steps} steps in {self.rounds} rounds: give more steps "
                "or fewer rounds"
            )
        most = self.steps - self.rounds + 1
        if self.first_steps is not None and not 0 < self.first_steps <= most:
            raise InvalidOptionError(
                f"first_steps is {self.first_steps}, expected 1 to {most}: each of the {self.rounds - 1} later rounds "
                "needs at least one step"
            )
        if self.restart_every is not None and not self.warm_start:
            raise InvalidOptionError(
                f"restart_every is {self.restart_every} with warm_start=False, where every policy is trained from "
                "scratch: set warm_start=True, or restart_every=None"
            )
        if not 0.0 <= self.real_evaluation_share <= 0.5:
            raise InvalidOptionError(
                f"real_evaluation_share must be in [0, 0.5], got {self.real_evaluation_share}"
            )
        for name in self.explorers:
            # An explorer's folder is policy-NAME, and its name is a path in `later_exploration`.
            taken = (*ROLES, RESTART)
            if not name.isidentifier() or name in taken:
                raise InvalidOptionError(
                    f"invalid explorer name {name!r}: expected a Python identifier other than {', '.join(taken)}"
                )
            self.explorer(name, 0)  # raises before the first round
        for name, exploration in (
            ("exploration", self.exploration),
            ("later_exploration", self.later_exploration),
        ):
            check_exploration(exploration, name)
        if early := policies_of(self.exploration) & {*ROLES, *self.explorers}:
            raise InvalidOptionError(
                f"exploration names the policy {min(early)!r}, which exists in later rounds only: use it in "
                "later_exploration, or give a folder"
            )

    def steps_after(self, number: int) -> int:
        """Real steps in total after round `number` (from 0); 0 before the first round."""
        if self.first_steps is None or self.rounds == 1:
            return self.steps * (number + 1) // self.rounds
        later = self.steps - self.first_steps
        return 0 if number < 0 else self.first_steps + later * number // (self.rounds - 1)

    def checks_of(self, number: int, horizon: int | None) -> int:
        """Real steps of round `number` that are used for real evaluation episodes."""
        spent, now = 0, 0
        for each in range(1, number + 1):
            share = self.steps_after(each) - self.steps_after(each - 1)
            saved = (
                int(self.real_evaluation_share * (self.steps_after(each) - self.steps_after(0)))
                - spent
            )
            # Where an episode is longer than a round, it is cut at half of the round.
            whole = horizon or 1
            now = saved if saved >= (whole if whole <= share else share // 2) else 0
            spent += now
        return now

    def fit_of(self, number: int) -> FitConfig:
        """Fit of round `number`, with the seed of this run."""
        later = self.later_gradient_steps if number else None
        steps = later or self.fit.gradient_steps or gradient_steps_for(self.steps_after(number))
        return self.fit.replace(seed=self.seed, gradient_steps=steps)

    def explorer(self, name: str, number: int) -> LearnConfig:
        """Training of the explorer `name` in the twin of round `number`.

        Raises InvalidOptionError for fields that LearnConfig does not have.
        """
        index = sorted(self.explorers).index(name)
        seed = derived_seed(self.seed, SeedPurpose.ROUND_EXPLORER, number, index)
        own = self.learn.replace(seed=seed, steps=self.explorer_steps or self.learn.steps)
        own = own.updated(self.explorers[name], where=f"explorer {name!r}")
        return own.replace(algo_kwargs=self.learn.algo_kwargs | own.algo_kwargs)

    def kinds_of(self, number: int) -> tuple[str, ...]:
        """Kinds of policies that round `number` trains: "fresh" or "newest" (warm start), then perhaps "restart"."""
        if number == 0 or not self.warm_start:
            return ("fresh",)
        again = self.restart_every is not None and number % self.restart_every == 0
        return ("newest", RESTART) if again else ("newest",)

    def learn_of(self, number: int) -> LearnConfig:
        """Training of the policy of round `number`, with a seed of its own."""
        seed, steps = derived_seed(self.seed, SeedPurpose.ROUND_POLICY, number), self.learn.steps
        if self.updates_per_step is not None:
            taken = self.steps_after(number) - self.steps_after(number - 1)
            steps = max(1, round(self.updates_per_step * taken))
        return self.learn.replace(seed=seed, steps=steps)

    def restart_learn(self, number: int) -> LearnConfig:
        """Training from scratch of round `number`, with a seed of its own."""
        seed = derived_seed(self.seed, SeedPurpose.ROUND_RESTART, number)
        return self.learn.replace(seed=seed, steps=self.restart_steps)


def check_actions(algo: str, spec: WorldSpec) -> None:
    """Check that an algorithm supports the action space. Raises InvalidOptionError."""
    name, space = algo.removeprefix("sbx."), spec.action_space
    if name in _CONTINUOUS and not isinstance(space, spaces.Box):
        raise InvalidOptionError(
            f"{algo} needs continuous actions, but the action space is {space}: use PPO"
        )
    if name in _DISCRETE and not isinstance(space, spaces.Discrete):
        raise InvalidOptionError(
            f"{algo} needs actions of a Discrete space, but the action space is {space}: use PPO"
        )
