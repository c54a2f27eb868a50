"""`lint` finds actions beside their step and hidden state, and is silent on noise, held actions and controllers."""

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from world_env.data.episode import Episode
from world_env.data.validation.lint import lint
from world_env.real.real_env import spec_of
from world_env.spec import EnvConfig, WorldSpec, WrapperConfig

BOX = spaces.Box(-5, 5, (1,), np.float32)


def spec(size: int, action: spaces.Space[Any] = BOX) -> WorldSpec:
    return WorldSpec(spaces.Box(-np.inf, np.inf, (size,), np.float32), action, 100)


def plant(
    *,
    noise: float = 0.02,
    measured: float = 0.0,
    explore: float = 0.0,
    gains: tuple[float, float, float] = (2.0, 0.0, 0.0),
    hold: int = 1,
    dead: int = 0,
    seed: int = 0,
) -> list[Episode]:
    """A tank whose level follows the valve; a PID controller on a set point, with exploration; level, set point."""
    rng = np.random.default_rng(seed)
    episodes = []
    for number in range(20):
        level, total, last, pending = rng.normal(), 0.0, 0.0, [0.0] * dead
        seen, actions, goal, action = [], [], rng.normal(), 0.0
        for step in range(101):
            goal = rng.normal() if step == 50 else goal
            shown = level + measured * rng.normal()
            seen.append([shown, goal])
            error, last = goal - shown, goal - shown if step == 0 else last
            total += 0.1 * error
            if step % hold == 0:
                parts = np.dot(gains, [error, total, error - last])
                action = float(np.clip(parts + explore * rng.normal(), -5, 5))
            last = error
            actions.append([action])
            pending.append(action)
            level += 0.1 * (pending.pop(0) - level) + noise * rng.normal()
        observations = np.array(seen, np.float32)
        done = np.array(actions[:-1], np.float32)
        rewards = -np.abs(observations[1:, 0] - observations[1:, 1])
        episodes.append(Episode(observations, done, rewards, False, True, seed=number))
    return episodes


def late(episodes: list[Episode], rows: int = 1) -> list[Episode]:
    """The actions one row late; rows=-1: early."""
    return [dataclasses.replace(e, actions=np.roll(e.actions, rows, axis=0)) for e in episodes]


def found(episodes: list[Episode], spec: WorldSpec) -> dict[str, str]:
    return {
        issue.check: issue.severity for issue in lint(episodes, spec) if issue.severity != "note"
    }


EXPLORATIONS: list[dict[str, Any]] = [
    {"gains": (0.0, 0.0, 0.0), "explore": 1.5},
    {"gains": (0.0, 0.0, 0.0), "explore": 1.5, "noise": 0.1},
    {"gains": (0.0, 0.0, 0.0), "explore": 1.5, "hold": 5},
    {"gains": (1.0, 0.0, 0.0), "explore": 1.0},
]


@pytest.mark.parametrize("how", EXPLORATIONS)
def test_actions_one_row_late_are_an_error_and_one_row_early_a_warning(how: dict[str, Any]) -> None:
    episodes = plant(**how)
    assert found(episodes, spec(2)) == {}
    assert found(late(episodes), spec(2))["action_shift"] == "error"
    assert found(late(episodes, -1), spec(2))["action_shift"] == "warning"


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "gains", [(2.0, 0.0, 0.0), (2.0, 2.0, 0.0), (2.0, 0.0, 3.0), (0.2, 0.0, 8.0), (0.5, 0.0, 3.0)]
)
def test_a_controller_that_reacts_to_the_observation_is_no_shift(
    gains: tuple[float, float, float], seed: int
) -> None:
    # The next action tells the next observation, because the controller has read it.
    for noise, measured in ((0.02, 0.0), (0.2, 0.0), (0.02, 0.1)):
        episodes = plant(gains=gains, noise=noise, measured=measured, seed=seed)
        assert "action_shift" not in found(episodes, spec(2))


@pytest.mark.parametrize("frames", [2, 4])
def test_stacked_frames_are_no_shift(frames: int) -> None:
    config = EnvConfig(
        "CartPole-v1",
        wrappers=(
            WrapperConfig("gymnasium.wrappers:FrameStackObservation", {"stack_size": frames}),
            WrapperConfig("gymnasium.wrappers:FlattenObservation"),
        ),
    )
    env, seen = gym.make("CartPole-v1"), spec_of(config)
    env.action_space.seed(0)
    episodes = []
    for number in range(100):
        observation, done = env.reset(seed=number)[0], False
        rows, actions = [observation] * frames, []
        while not done:
            actions.append(env.action_space.sample())
            observation, _, done, _, _ = env.step(actions[-1])
            rows.append(observation)
        stacked = np.stack([np.concatenate(rows[i : i + frames]) for i in range(len(actions) + 1)])
        rewards = np.ones(len(actions), np.float32)
        episodes.append(Episode(stacked, np.array(actions), rewards, True, False, seed=number))
    assert found(episodes, seen) == {}


def test_a_dead_time_is_a_warning_that_names_both_causes() -> None:
    (issue,) = lint(plant(gains=(0.0, 0.0, 0.0), explore=1.5, dead=1), spec(2))
    assert (issue.check, issue.severity) == ("action_shift", "warning")
    assert "recorded one step early, or take effect one step late" in issue.message
    assert "--family rssm" in issue.message


@pytest.mark.parametrize("kind", ["vector", "discrete", "two held"])
def test_late_actions_of_any_space_are_found(kind: str) -> None:
    rng = np.random.default_rng(5)
    push = rng.normal(size=(3, 4))
    episodes = []
    for number in range(20):
        choice = rng.integers(0, 3, 80)
        if kind == "two held":  # the last action again in about half of the steps
            choice = np.repeat(rng.integers(0, 2, 80), rng.integers(1, 3, 80))[:80]
        vector = rng.uniform(-1, 1, (80, 3)) if kind == "vector" else np.eye(3)[choice]
        seen = [rng.normal(size=4)]
        for each in vector:
            seen.append(0.9 * seen[-1] + 0.3 * each @ push + 0.02 * rng.normal(size=4))
        observations = np.array(seen, np.float32)
        actions = vector.astype(np.float32) if kind == "vector" else choice
        rewards = -np.abs(observations[1:]).sum(1)
        episodes.append(Episode(observations, actions, rewards, False, True, seed=number))
    number_of = {"discrete": 3, "two held": 2}
    space = (
        spaces.Box(-1, 1, (3,), np.float32)
        if kind == "vector"
        else spaces.Discrete(number_of[kind])
    )
    of_80_steps = dataclasses.replace(spec(4, space), horizon=80)
    assert found(episodes, of_80_steps) == {}
    assert found(late(episodes), spec(4, space))["action_shift"] == "error"


def springs(*, noise: float = 0.0, sensor: float = 0.0) -> list[Episode]:
    """A mass on a spring, pushed at random: place and velocity."""
    rng = np.random.default_rng(2)
    episodes = []
    for number in range(20):
        state = rng.normal(size=2)
        seen, pushes = [state], rng.uniform(-5, 5, (100, 1))
        for push in pushes[:, 0]:
            place, speed = state
            speed = speed + 0.2 * (push - place) + noise * rng.normal()
            state = np.array([place + 0.2 * speed, speed])
            seen.append(state)
        observations = np.array(seen) + sensor * rng.normal(size=(101, 2))
        arrays = (
            observations.astype(np.float32),
            pushes.astype(np.float32),
            -(observations[1:, 0] ** 2),
        )
        episodes.append(Episode(*arrays, False, True, seed=number))
    return episodes


def test_unobserved_velocities_are_hidden_state_and_noise_is_not() -> None:
    whole = springs()
    blind = [dataclasses.replace(e, observations=e.observations[:, :1]) for e in whole]
    (issue,) = [each for each in lint(blind, spec(1)) if each.check == "hidden_state"]
    assert issue.severity == "warning" and "--family rssm" in issue.message
    assert issue.where == "observation"
    for episodes in (whole, springs(noise=0.2), springs(noise=1.0), springs(sensor=0.05)):
        assert found(episodes, spec(2)) == {}


def test_a_heading_that_wraps_is_no_hidden_state() -> None:
    rng = np.random.default_rng(0)
    episodes = []
    for number in range(30):
        x, y, heading = (*rng.uniform(-1, 1, 2), rng.uniform(-np.pi, np.pi))
        seen, turns = [[x, y, heading]], []
        while len(turns) < 100 and np.hypot(x, y) < 3:
            turns.append([rng.uniform(-0.5, 0.5)])
            heading = (heading + 0.3 * turns[-1][0] + 0.05 + np.pi) % (2 * np.pi) - np.pi
            x, y = x + 0.12 * np.cos(heading), y + 0.12 * np.sin(heading)
            seen.append([x, y, heading])
        observations, actions = np.array(seen, np.float32), np.array(turns, np.float32)
        rewards = -np.hypot(*observations[1:, :2].T)
        ended = bool(np.hypot(x, y) >= 3)
        episodes.append(Episode(observations, actions, rewards, ended, not ended, seed=number))
    checks = {issue.check for issue in lint(episodes, spec(3))}
    assert "wrapped_angle" in checks
    assert "hidden_state" not in checks
    blind = [dataclasses.replace(e, observations=e.observations[:, :2]) for e in episodes]
    assert "hidden_state" in {issue.check for issue in lint(blind, spec(2))}
