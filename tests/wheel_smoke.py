"""Steps every bundled twin with the core dependencies only; .ci/run runs it on a built wheel."""

import importlib.util
import sys
from pathlib import Path

import gymnasium as gym

import world_env

STEPS = 1_000


def step_twin(name: str) -> int:
    """Takes STEPS random steps, starting again at each end; returns how many episodes ended."""
    env = gym.make("WorldModel-v0", twin=name)
    env.action_space.seed(0)
    env.reset(seed=0)
    ended = 0
    for _ in range(STEPS):
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if observation not in env.observation_space:
            raise SystemExit(f"{name}: {observation} is outside {env.observation_space}")
        if terminated or truncated:
            ended += 1
            env.reset()
    env.close()
    return ended


def main() -> None:
    package = Path(world_env.__file__).resolve().parent
    if not package.is_relative_to(Path(sys.prefix).resolve()):
        raise SystemExit(f"world_env was imported from {package}, not from the installed wheel")
    if importlib.util.find_spec("stable_baselines3"):
        raise SystemExit("stable_baselines3 is installed: this environment is not without extras")
    if not (package / "py.typed").is_file():
        raise SystemExit("the wheel carries no py.typed")
    names = world_env.list_twins()
    for name in names:
        print(f"{name}: {STEPS} steps, {step_twin(name)} episodes ended")
    print(f"{len(names)} bundled twins stepped" if names else "no bundled twins: nothing to step")


if __name__ == "__main__":
    main()
