"""Which policy is the best one, as far as that can be told without reality; and when more learning no longer helps.

A policy's own twin is where it looks best: it has learned what that twin gets wrong. Another twin, a judge, is wrong
elsewhere. Members kept out as judges: Kurutach et al. 2018 (ME-TRPO, arXiv:1802.10592); here the judge is a twin fitted
with another seed, as for the alarm (world_env/policy_evaluation/exploitation_alarm.py), because every family has seeds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback

from world_env.policies.saved_policy import load_policy, save_policy
from world_env.policy_evaluation.rollout_statistics import starts_of
from world_env.rollouts.actors import Actor, policy_actor
from world_env.rollouts.learned import run_learned
from world_env.twin.twin import Twin

EPISODES = 32
"""Learned episodes in each twin that an estimate is of."""
_LOG = "estimates.json"


def estimate(
    actor: Actor,
    twins: Sequence[Twin],
    *,
    on_uncertain: str = "ignore",
    seed: int = 0,
    discount: float = 1.0,
) -> float:
    """The least of what the twins say that a policy earns, task units: each over the same number of episodes.

    on_uncertain: of SimulatorConfig, as the policy was trained. discount: of the returns, step by step.
    """
    return min(
        run_learned(
            actor,
            twin,
            starts_of(twin, EPISODES, seed),
            seed=seed,
            on_uncertain=on_uncertain,
            discount=discount,
        ).mean
        for twin in twins
    )


class Keeper(BaseCallback):
    """Asks the twins from time to time, keeps the policy that they think best, ends a training that no longer helps.

    When the training is over, the algorithm has the kept policy's weights. What was found so far lies in `folder`, so
    that a killed training that goes on has forgotten nothing.

    estimates: (learned steps, estimate) of every look.
    """

    def __init__(
        self,
        twins: Sequence[Twin],
        folder: Path,
        *,
        every: int,
        patience: int,
        on_uncertain: str = "ignore",
        seed: int = 0,
    ) -> None:
        """A look every `every` learned steps and at the end, which comes after `patience` without a better one."""
        super().__init__()
        self.twins, self.folder = list(twins), Path(folder)
        self.every, self.patience = every, patience
        self.on_uncertain, self.seed = on_uncertain, seed
        self.estimates: list[tuple[int, float]] = []

    def _on_training_start(self) -> None:
        path = self.folder / _LOG
        if path.is_file() and self.model.num_timesteps:
            self.estimates = [(steps, value) for steps, value in json.loads(path.read_text())]
            # Looks at steps that a kill took back will be taken again.
            self.estimates = [each for each in self.estimates if each[0] <= self.num_timesteps]

    def _on_rollout_start(self) -> None:
        if self._since() >= self.every:
            self._look()

    def _on_step(self) -> bool:
        return self._best() > len(self.estimates) - 1 - self.patience if self.estimates else True

    def _on_training_end(self) -> None:
        if not self.estimates or self._since() > self.every // 2:
            self._look()
        kept = load_policy(self.folder)
        self.model.policy.load_state_dict(kept.policy.state_dict())

    def _since(self) -> int:
        return self.num_timesteps - (self.estimates[-1][0] if self.estimates else 0)

    def _best(self) -> int:
        values = [value for _, value in self.estimates]
        return values.index(max(values))

    def _look(self) -> None:
        value = estimate(
            policy_actor(self.model), self.twins, on_uncertain=self.on_uncertain, seed=self.seed
        )
        self.estimates.append((self.num_timesteps, value))
        self.logger.record("keeper/estimate", value)
        if self._best() == len(self.estimates) - 1:
            save_policy(self.model, self.folder, trained_in="learned")
        (self.folder / _LOG).write_text(json.dumps(self.estimates))
