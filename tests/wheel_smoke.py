"""Steps every bundled twin with the core dependencies only; .ci/run runs it on a built wheel.

A wheel without any twin fails, unless `--without-twins` says that none is expected.
"""

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


def check_names(names: list[str], words: list[str]) -> None:
    """Stops where the wheel carries no twin and nobody said so, or where it carries one and somebody said not."""
    if set(words) - {"--without-twins"}:
        raise SystemExit(f"unknown arguments {words}: expected --without-twins or nothing")
    if not names and not words:
        raise SystemExit("the wheel carries no bundled twin: build them, or pass --without-twins")
    if names and words:
        raise SystemExit(f"--without-twins was passed, but the wheel carries {', '.join(names)}")


def main(words: list[str]) -> None:
    package = Path(world_env.__file__).resolve().parent
    if not package.is_relative_to(Path(sys.prefix).resolve()):
        raise SystemExit(f"world_env was imported from {package}, not from the installed wheel")
    if importlib.util.find_spec("stable_baselines3"):
        raise SystemExit("stable_baselines3 is installed: this environment is not without extras")
    if not (package / "py.typed").is_file():
        raise SystemExit("the wheel carries no py.typed")
    names = world_env.list_twins()
    check_names(names, words)
    for name in names:
        print(f"{name}: {STEPS} steps, {step_twin(name)} episodes ended")
    print(f"{len(names)} bundled twins stepped")


if __name__ == "__main__":
    main(sys.argv[1:])
