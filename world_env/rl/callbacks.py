"""Policies kept on the way: what a run knew after a share of its steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from world_env.policies.saved_policy import save_policy
from world_env.types import JSON

if TYPE_CHECKING:
    from stable_baselines3.common.callbacks import BaseCallback


def milestones(
    stages: Mapping[int, Path], *, trained_in: str, provenance: JSON | None = None
) -> BaseCallback:
    """A Stable-Baselines3 callback that saves the policy as soon as it has trained for a stage's steps.

    stages: steps -> folder of the policy; what is there already (from before a kill) is left alone.
    trained_in, provenance: as in `save_policy`.
    """
    from stable_baselines3.common.callbacks import BaseCallback

    class Milestones(BaseCallback):
        def _on_rollout_start(self) -> None:
            for steps, folder in stages.items():
                if self.num_timesteps >= steps and not (folder / "policy.json").is_file():
                    save_policy(self.model, folder, trained_in=trained_in, provenance=provenance)

        def _on_step(self) -> bool:
            return True

    return Milestones()


def at_marks(steps: int, times: int, mark: Callable[[int], None]) -> BaseCallback:
    """Calls `mark` with the steps done, between two rollouts, about so many times over `steps`."""
    from stable_baselines3.common.callbacks import BaseCallback

    chunk = -(-steps // times)

    class Marks(BaseCallback):
        def _on_training_start(self) -> None:
            self.marked = self.model.num_timesteps // chunk

        def _on_rollout_start(self) -> None:
            done = self.model.num_timesteps
            if done // chunk > self.marked:
                self.marked = done // chunk
                mark(done)

        def _on_step(self) -> bool:
            return True

    return Marks()


def growing_branches(first: int, last: int, steps: int) -> BaseCallback:
    """A callback: `branch_length` from `first` to `last`, evenly over the first `steps` of a training.

    MBPO (Janner et al. 2019, arXiv:1906.08253) lets branches grow over real steps, because its model gets better; here
    the model stands still, and it is the values at the branches' ends that do.
    """
    from stable_baselines3.common.callbacks import BaseCallback

    class Growing(BaseCallback):
        def _on_rollout_start(self) -> None:
            share = min(1.0, self.num_timesteps / max(1, steps))
            length = round(first + (last - first) * share)
            for simulator in self.training_env.get_attr("simulator", indices=[0]):
                simulator.set_branch_length(length)

        def _on_step(self) -> bool:
            return True

    return Growing()
