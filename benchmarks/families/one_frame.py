"""Can a policy that sees one frame swing the pendulum of the pixel world up? What a frame shows, and the whole state.

    python -m benchmarks.families.one_frame --seeds 0 1 2 --resume

PPO learns in reality from the exact numbers that a frame shows (cosine and sine of the angle, and the last torque,
whose arrow is drawn): no network that sees a single frame knows more. Beside it the same training with the speed in the
torque's place, and on real pictures as the bundled twin's model takes them in (its latents; the twin's own real steps
come on top); and a random policy.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

from benchmarks.families.families_table import LATENTS, ONE_FRAME, RANDOM, STATE
from benchmarks.returns.returns import JUDGE_SEEDS, add_missing
from training.tasks import TASKS, real_of
from world_env import learn
from world_env.real import StepLedger, spec_of
from world_env.rl import LearnConfig
from world_env.rollouts import policy_actor, random_actor, run_real
from world_env.spec import EnvConfig
from world_env.twin import Twin
from world_env.types import JSON

BENCHMARK = "one_frame"
TASK = "Pendulum-v1-pixels"
SEEN = {
    ONE_FRAME: EnvConfig("Pendulum-v1", {}, ("one_frame:OneFrame",)),
    STATE: EnvConfig("Pendulum-v1"),
    LATENTS: real_of(TASK),
}


class OneFrame(gym.ObservationWrapper[Any, Any, Any]):
    """Pendulum as the picture of it shows it: cosine and sine of the angle, and the last torque, 0 where none was."""

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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path(f"benchmarks/results/{BENCHMARK}.json"))
    parser.add_argument("--resume", action="store_true", help="keep the rows of the file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.resume:
        arguments.out.unlink(missing_ok=True)
    for seed in arguments.seeds:
        for seen in (RANDOM, *SEEN):
            key = {"task": TASK, "seed": seed, "policy": seen}
            add_missing(arguments.out, BENCHMARK, key, partial(measured, seen, seed))


def measured(seen: str, seed: int, steps: int = TASKS[TASK].many_steps) -> JSON:
    """The rest of one row: trained in reality as long as the bar of the pixel world, and judged."""
    runs = Path(os.environ.get("WORLD_ENV_RUNS", "runs")) / BENCHMARK
    ledger = StepLedger()
    if seen == RANDOM:
        real, steps = SEEN[STATE], 0
        actor = random_actor(spec_of(real).action_space, JUDGE_SEEDS)
    else:
        real = SEEN[seen]
        config = LearnConfig(steps=steps, seed=seed, options=TASKS[TASK].options)
        out, through = runs / f"{seen.replace(' ', '-')}-{seed}", None
        if seen == LATENTS:
            through = Twin.load(TASKS[TASK].twin)
            config = dataclasses.replace(config, observation_mode="latent")
        policy = learn(real, config, out=out, ledger=ledger, through=through)
        # Stable-Baselines3 finishes its last rollout.
        actor, steps = policy_actor(policy), policy.num_timesteps
    reality = run_real(actor, real, JUDGE_SEEDS, purpose="judge", ledger=ledger)
    return {
        "real_steps": steps,
        "real_mean": reality.mean,
        "real_ci95": list(reality.ci95()),
        "episodes": len(reality.values),
    }


if __name__ == "__main__":
    main()
