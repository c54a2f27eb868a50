"""Stable-Baselines3 callbacks: save policies during training, report progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from world_env.policies.saved_policy import save_policy

if TYPE_CHECKING:
    from stable_baselines3.common.callbacks import BaseCallback


def milestones(
    stages: Mapping[int, Path],
    *,
    trained_in: Literal["learned", "real"],
    evaluates_twins: bool = False,
) -> BaseCallback:
    """Return a callback that saves the policy after given numbers of training steps.

    stages: steps -> folder of the policy. A folder that exists already, from an interrupted run, is kept.
    trained_in, evaluates_twins: as in `save_policy`.
    """
    from stable_baselines3.common.callbacks import BaseCallback

    class Milestones(BaseCallback):
        def _on_rollout_start(self) -> None:
            for steps, folder in stages.items():
                if self.num_timesteps >= steps and not (folder / "policy.json").is_file():
                    save_policy(
                        self.model, folder, trained_in=trained_in, evaluates_twins=evaluates_twins
                    )

        def _on_step(self) -> bool:
            return True

    return Milestones()


def at_intervals(steps: int, times: int, call: Callable[[int], None]) -> BaseCallback:
    """Return a callback that calls `call(steps done)` between rollouts, about `times` times over `steps`."""
    from stable_baselines3.common.callbacks import BaseCallback

    chunk = -(-steps // times)

    class AtIntervals(BaseCallback):
        def _on_training_start(self) -> None:
            self.chunks = self.model.num_timesteps // chunk

        def _on_rollout_start(self) -> None:
            done = self.model.num_timesteps
            if done // chunk > self.chunks:
                self.chunks = done // chunk
                call(done)

        def _on_step(self) -> bool:
            return True

    return AtIntervals()
