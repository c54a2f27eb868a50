"""State of an interrupted training that a policy folder does not hold: replay buffer and reward statistics."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from world_env.atomic_io import atomic_path
from world_env.policies.saved_policy import policy_card
from world_env.rl.warm_start import set_reward_statistics

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv


def partial_folder(out: Path) -> Path:
    """Folder of the state of an interrupted training, beside the folder of its policy."""
    return out.with_name(f".{out.name}.partial")


def _replay_file(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.replay.pkl")


def save_replay_buffer(model: BaseAlgorithm, partial: Path) -> None:
    """Save the replay buffer of an off-policy algorithm atomically.

    Call it before the policy is saved: an interruption in between then leaves too many transitions, not too few.
    """
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

    if isinstance(model, OffPolicyAlgorithm):
        with atomic_path(_replay_file(partial)) as temporary:
            model.save_replay_buffer(temporary)


def drop_partial_rollout(model: BaseAlgorithm) -> None:
    """Forget the steps of an interrupted on-policy rollout: the policy was not updated with them."""
    from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

    if isinstance(model, OnPolicyAlgorithm) and not model.rollout_buffer.full:
        model.num_timesteps -= model.rollout_buffer.pos * model.n_envs


def restore(model: BaseAlgorithm, env: VecEnv, partial: Path) -> None:
    """Restore replay buffer and reward statistics of an interrupted training."""
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

    set_reward_statistics(env, policy_card(partial).provenance["learn"]["reward_statistics"])
    if isinstance(model, OffPolicyAlgorithm):
        with warnings.catch_warnings():
            # Hindsight replay drops the last episode if it was interrupted: new episodes follow.
            warnings.filterwarnings("ignore", message=".*last trajectory in the replay buffer")
            model.load_replay_buffer(_replay_file(partial))
        lengths = getattr(model.replay_buffer, "ep_length", None)
        if lengths is not None and not lengths.any():
            # Hindsight replay samples whole episodes: wait for the first one again.
            model.learning_starts += model.num_timesteps


def remove(partial: Path) -> None:
    """Remove the saved state of an interrupted training."""
    shutil.rmtree(partial, ignore_errors=True)
    # The lock of its folder too.
    for path in (_replay_file(partial), partial.with_name(f".{partial.name}.lock")):
        path.unlink(missing_ok=True)
