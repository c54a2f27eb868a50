"""Train Stable-Baselines3's PPO in a twin. No real environment is made.

    python -m training.train_ppo --twin runs/cartpole/twin --out runs/cartpole/ppo.zip

The twin is an ordinary environment: with one, `gym.make("WorldModel-v0", twin=...)`; with many, a VecEnv that steps all
of them in one call of the model.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

import world_env


def make_envs(twin: Path, num_envs: int) -> Any:
    """One or many learned environments of a twin."""
    # Half of the episodes begin inside the data; outside of it they end with the lowest reward.
    options: dict[str, Any] = {"dataset_starts": 0.5, "on_uncertain": "pessimistic"}
    if num_envs == 1:
        return gym.make("WorldModel-v0", twin=twin, **options)
    envs = VecMonitor(world_env.WorldModelSB3VecEnv(twin, num_envs=num_envs, **options))
    return VecNormalize(envs, norm_obs=False)


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--twin", type=Path, required=True, help="folder of the twin")
    parser.add_argument("--out", type=Path, required=True, help="the policy: an SB3 zip file")
    parser.add_argument(
        "--steps", type=int, default=150_000, help="steps in the twin (default: 150000)"
    )
    parser.add_argument("--num-envs", type=int, default=64, help="environments (default: 64)")
    parser.add_argument("--seed", type=int, default=0, help="seed of PPO (default: 0)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    model = PPO(
        "MlpPolicy",
        make_envs(arguments.twin, arguments.num_envs),
        n_steps=max(64, 2048 // arguments.num_envs),
        batch_size=256,
        learning_rate=1e-3,
        seed=arguments.seed,
        verbose=1,
    )
    model.learn(arguments.steps, log_interval=10)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    model.save(arguments.out)
    print(f"policy: {arguments.out}")


if __name__ == "__main__":
    main()
