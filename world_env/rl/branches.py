"""Learned episodes that begin inside the data are short at first and grow, as the policy learns what to do there."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stable_baselines3.common.callbacks import BaseCallback


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
