"""A half-trained policy on disk: what its folder does not hold by itself, so that a killed training goes on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from world_env.atomic_io import atomic_path
from world_env.policies.saved_policy import policy_card
from world_env.rl.warm_start import set_reward_statistics

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv


def _replay_file(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.replay.pkl")


def keep_replay(model: BaseAlgorithm, partial: Path) -> None:
    """Beside and renamed, before the policy that goes with it: a kill in between leaves a little more, not less."""
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

    if isinstance(model, OffPolicyAlgorithm):
        with atomic_path(_replay_file(partial)) as temporary:
            model.save_replay_buffer(temporary)


def take_back(model: BaseAlgorithm, env: VecEnv, partial: Path) -> None:
    """What a half-trained policy's folder does not hold by itself."""
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

    set_reward_statistics(env, policy_card(partial)["provenance"]["learn"]["reward_statistics"])
    if isinstance(model, OffPolicyAlgorithm):
        model.load_replay_buffer(_replay_file(partial))


def forget(partial: Path) -> None:
    """Remove a half-trained policy and what belongs to it."""
    shutil.rmtree(partial, ignore_errors=True)
    _replay_file(partial).unlink(missing_ok=True)
