"""Real return of PPO with the information of one frame of the pixel task, compared with the full state.

    python -m benchmarks.families.one_frame --seeds 0 1 2 --resume

PPO trains in the real environment on the numbers that one frame shows: cosine and sine of the angle, and the last
torque, which is drawn as an arrow. A policy with single frames cannot have more information. Compared with the same
training with the velocity instead of the torque, training on latents of the bundled twin (whose real steps are
additional), and a random policy.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

from benchmarks.arguments import script_parser
from benchmarks.families.families_table import LATENTS, ONE_FRAME, RANDOM, STATE
from benchmarks.returns.returns import EVALUATION_SEEDS, add_missing
from training.tasks import TASKS, real_of
from world_env import learn
from world_env.policies import RandomPolicy
from world_env.real import StepLedger, spec_of
from world_env.rl import LearnConfig
from world_env.rollouts import run_real
from world_env.spec import EnvConfig, WrapperConfig
from world_env.twin import Twin
from world_env.types import JSON

BENCHMARK = "one_frame"
TASK = "Pendulum-v1-pixels"
ENVIRONMENTS = {
    ONE_FRAME: EnvConfig(
        "Pendulum-v1", {}, (WrapperConfig("benchmarks.families.one_frame:OneFrame"),)
    ),
    STATE: EnvConfig("Pendulum-v1"),
    LATENTS: real_of(TASK),
}


class OneFrame(gym.ObservationWrapper[Any, Any, Any]):
    """Pendulum observed as one frame: cosine and sine of the angle, and the last torque (0 after a reset)."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        high = np.array([1.0, 1.0, 2.0], np.float32)
        self.observation_space = spaces.Box(-high, high)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """(3,) float32."""
        torque = getattr(self.env.unwrapped, "last_u", None)
        return np.array([*observation[:2], 0.0 if torque is None else torque], np.float32)


def main() -> None:
    """Run the missing rows and write the file after each."""
    parser = script_parser(__doc__, BENCHMARK, seeds=range(3), resume=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.resume:
        arguments.out.unlink(missing_ok=True)
    for seed in arguments.seeds:
        for sight in (RANDOM, *ENVIRONMENTS):
            key = {"task": TASK, "seed": seed, "policy": sight}
            add_missing(arguments.out, BENCHMARK, key, partial(measured, sight, seed))


def measured(sight: str, seed: int, steps: int = TASKS[TASK].many_steps) -> JSON:
    """Rest of one row: training with as many steps as the baseline of the pixel task, and evaluation."""
    runs = Path(os.environ.get("WORLD_ENV_RUNS", "runs")) / BENCHMARK
    ledger = StepLedger()
    if sight == RANDOM:
        real, steps = ENVIRONMENTS[STATE], 0
        policy = RandomPolicy(spec_of(real).action_space)
    else:
        real = ENVIRONMENTS[sight]
        options = TASKS[TASK].algo_kwargs
        config = LearnConfig(steps=steps, num_envs=64, seed=seed, algo_kwargs=options)
        out, encoder = runs / f"{sight.replace(' ', '-')}-{seed}", None
        if sight == LATENTS:
            encoder = Twin.load(TASKS[TASK].twin)
            config = config.replace(observation_mode="latent")
        policy = learn(real, config, out=out, ledger=ledger, encoder=encoder)
        # Stable-Baselines3 finishes the last rollout.
        steps = policy.num_timesteps
    real_returns = run_real(policy, real, EVALUATION_SEEDS, purpose="judge", ledger=ledger)
    return {
        "real_steps": steps,
        "real_mean": real_returns.mean,
        "real_ci95": list(real_returns.ci95()),
        "episodes": len(real_returns.values),
    }


if __name__ == "__main__":
    main()
