"""Fit a world model to a Gymnasium environment: collect real episodes, fit, save a twin.

    python -m training.train_world_model CartPole-v1 --steps 2000 --out runs/cartpole

Leaves `data` (the episodes), `twin` (the world model with its card) and `real-steps.json` in the folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import world_env
from world_env.policies import ExplorationConfig, HeldExploration, RandomExploration
from world_env.real import StepLedger


def main() -> None:
    """Collect and fit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("env_id", help="Gymnasium id of the real environment, or module:Id")
    parser.add_argument("--steps", type=int, default=2_000, help="real steps (default: 2000)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the data and the twin")
    parser.add_argument(
        "--held",
        type=float,
        help="mean number of steps that a random action is held (default: a new action at each step)",
    )
    parser.add_argument(
        "--gradient-steps",
        type=int,
        default=2_000,
        help="gradient steps of the fit (default: 2000)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of data and model (default: 0)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    exploration: ExplorationConfig = RandomExploration()
    if arguments.held is not None:
        exploration = HeldExploration(steps=arguments.held)
    store = world_env.collect(
        world_env.CollectConfig(
            world_env.EnvConfig(arguments.env_id),
            arguments.out / "data",
            steps=arguments.steps,
            exploration=exploration,
            seed=arguments.seed,
        ),
        ledger=StepLedger(arguments.out / "real-steps.json"),
    )
    print(f"{store.steps} real steps in {len(store)} episodes")

    config = world_env.FitConfig(gradient_steps=arguments.gradient_steps, seed=arguments.seed)
    twin = world_env.fit(str(arguments.out / "data"), arguments.out / "twin", config)
    print(f"open-loop score on the validation split: {twin.fidelity.loss.best_open_loop:.3g}")
    print(f"twin: {arguments.out / 'twin'}")


if __name__ == "__main__":
    main()
