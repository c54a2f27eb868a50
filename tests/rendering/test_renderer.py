"""Pictures: a posed real environment shows what it showed when it was really there."""

import json
import os
import re
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from world_env.rendering.poses import POSES
from world_env.rendering.renderer import Renderer
from world_env.spec import WorldSpec

CLASSIC = [name for name in POSES if not name.endswith("-v5")]
MUJOCO = [name for name in POSES if name.endswith("-v5")]


def spec_of(env: gym.Env) -> WorldSpec:
    return WorldSpec(env.observation_space, env.action_space, real=env.spec.to_json())


def played(env: gym.Env, steps: int = 7) -> np.ndarray:
    """The observation after a few random steps."""
    observation, _ = env.reset(seed=3)
    env.action_space.seed(3)
    for _ in range(steps):
        observation, *_ = env.step(env.action_space.sample())
    return observation


@pytest.mark.parametrize("real_id", CLASSIC)
def test_a_posed_observation_looks_like_the_real_frame(real_id: str) -> None:
    with gym.make(real_id, render_mode="rgb_array") as env:
        observation = played(env)
        if hasattr(env.unwrapped, "last_u"):
            # The torque arrow shows the last action, which no observation holds.
            env.unwrapped.last_u = None
        expected = env.render()
        first = env.reset(seed=4)[0]
        renderer = Renderer(spec_of(env))
        frame = renderer.frame(observation)
        assert frame.dtype == np.uint8 and frame.shape == expected.shape
        # float32 observations may move an edge by one anti-aliased pixel.
        assert np.mean(frame != expected) < 1e-3
        assert np.abs(frame.astype(int) - expected).mean() < 0.05
        assert not np.array_equal(renderer.frame(first), frame)
        renderer.close()
        renderer.close()


@pytest.mark.parametrize("real_id", MUJOCO)
def test_a_posed_body_has_the_real_joint_positions(real_id: str) -> None:
    with gym.make(real_id) as env, gym.make(real_id) as posed:
        observation = played(env, steps=5)
        posed.reset(seed=9)
        POSES[real_id](posed.unwrapped, observation)
        expected = env.unwrapped.data.qpos.copy()
        hidden = getattr(env.unwrapped, "observation_structure", None) or {}
        expected[: hidden.get("skipped_qpos", 0)] = 0.0
        # Velocities are clipped by some of these environments, positions never.
        np.testing.assert_allclose(posed.unwrapped.data.qpos, expected, atol=1e-6)


NO_GL = "no OpenGL here: MuJoCo cannot draw"

DRAW = """
import gymnasium as gym
env = gym.make("InvertedPendulum-v5", render_mode="rgb_array")
env.reset(seed=0)
env.render()
"""


@pytest.fixture
def can_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips where MuJoCo cannot draw; asked in a process of its own, because a failed try leaves debris."""
    if not os.environ.get("DISPLAY"):
        monkeypatch.setenv("MUJOCO_GL", os.environ.get("MUJOCO_GL", "egl"))
    tried = subprocess.run([sys.executable, "-c", DRAW], capture_output=True, text=True)
    if tried.returncode:
        gl = re.search(r"OpenGL|EGL|GLFW|glfw|OSMesa|osmesa|gl[A-Z]\w+", tried.stderr)
        assert gl, f"this is no missing OpenGL: {tried.stderr[-2000:]}"
        pytest.skip(NO_GL)


def test_a_posed_body_looks_like_the_real_frame(can_draw: None) -> None:
    """The one body without a hidden root: its observation says all that a picture shows."""
    with gym.make("InvertedPendulum-v5", render_mode="rgb_array") as env:
        observation = played(env, steps=4)
        expected = env.render()
        renderer = Renderer(spec_of(env))
        frame = renderer.frame(observation)
        assert frame.dtype == np.uint8 and frame.shape == expected.shape
        assert np.abs(frame.astype(int) - expected).mean() < 0.05
        elsewhere = renderer.frame(observation + np.array([0.5, 0.3, 0.0, 0.0]))
        assert np.abs(elsewhere.astype(int) - expected).mean() > 1.0
        renderer.close()


WITHOUT = """
import json
import sys
for name in ("pygame", "mujoco", "PIL"):
    sys.modules[name] = None
import numpy as np
from world_env.errors import MissingExtraError
from world_env.rendering.renderer import Renderer
from world_env.spec import WorldSpec
for tree in json.loads(sys.argv[1]):
    spec = WorldSpec.from_json(tree)
    renderer = Renderer(spec)
    try:
        renderer.frame(np.zeros(spec.observation_space.shape, np.float32))
    except MissingExtraError as error:
        print(error)
    renderer.close()
"""


def test_missing_extras_are_named_with_their_pip_lines() -> None:
    specs = []
    for real_id in ("CartPole-v1", "HalfCheetah-v5"):
        with gym.make(real_id) as env:
            specs.append(spec_of(env).to_json())
    specs.append({**specs[0], "real": None})
    command = [sys.executable, "-c", WITHOUT, json.dumps(specs)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    classic, mujoco, plot = done.stdout.splitlines()
    assert "CartPole-v1" in classic and 'pip install "world-env[classic]"' in classic
    assert "HalfCheetah-v5" in mujoco and 'pip install "world-env[mujoco]"' in mujoco
    assert "Pillow" in plot and 'pip install "world-env[train]"' in plot


def test_a_wrapped_observation_is_plotted_instead_of_posed() -> None:
    with gym.make("CartPole-v1") as plain:
        scaled = gym.wrappers.NormalizeObservation(gym.make("CartPole-v1"))
        unrecorded = WorldSpec(
            spaces.Box(-1, 1, (4,), np.float32), plain.action_space, real=plain.spec.to_json()
        )
        for spec in (spec_of(scaled), unrecorded):
            renderer = Renderer(spec)
            assert renderer.frame(np.zeros(4, np.float32)).shape == (360, 480, 3)
            assert renderer._env is None


def test_no_entry_point_of_a_twin_is_called() -> None:
    with gym.make("CartPole-v1") as env:
        tree = json.loads(env.spec.to_json())
        tree["entry_point"] = "os:abort"
        spec = WorldSpec(env.observation_space, env.action_space, real=json.dumps(tree))
        assert Renderer(spec).frame(np.zeros(4, np.float32)).shape == (400, 600, 3)


@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_an_image_observation_is_its_own_picture(channels: int | None) -> None:
    shape = (8, 6) if channels is None else (8, 6, channels)
    space = spaces.Box(0, 255, shape, np.uint8)
    space.seed(0)
    image = space.sample()
    for whole in (space, spaces.Dict({"camera": space, "speed": spaces.Box(-1, 1, (1,))})):
        observation = image if whole is space else {"camera": image, "speed": np.zeros(1)}
        frame = Renderer(WorldSpec(whole, spaces.Discrete(2))).frame(observation)
        assert frame.shape == (8, 6, 3)
        np.testing.assert_array_equal(frame[..., 0], image if channels is None else
                                      image[..., -1 if channels == 1 else 0])  # fmt: skip


@pytest.mark.parametrize("frames", [1, 3, 4])
def test_of_stacked_frames_the_newest_is_shown(frames: int) -> None:
    space = spaces.Box(0, 255, (frames, 8, 10), np.uint8)
    space.seed(0)
    seen = space.sample()
    shown = Renderer(WorldSpec(space, spaces.Discrete(2))).frame(seen)
    # Three are the colours of one.
    expected = np.moveaxis(seen, 0, -1) if frames == 3 else np.repeat(seen[-1][..., None], 3, -1)
    np.testing.assert_array_equal(shown, expected)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-np.inf, np.inf, (5,), np.float64),
        spaces.Box(-2, 2, (700,), np.float32),
        spaces.Discrete(5, start=2),
        spaces.MultiDiscrete([3, 4]),
        spaces.Dict({"joint": spaces.Box(-1, 1, (3,)), "room": spaces.Discrete(4)}),
    ],
    ids=["box", "wide", "discrete", "multidiscrete", "dict"],
)
def test_anything_else_is_plotted(space: spaces.Space) -> None:
    space.seed(1)
    renderer = Renderer(WorldSpec(space, spaces.Discrete(2)))
    frames = [renderer.frame(space.sample()) for _ in range(8)]
    assert all(frame.shape == (360, 480, 3) and frame.dtype == np.uint8 for frame in frames)
    assert any(not np.array_equal(frames[0], frame) for frame in frames)


def test_numbers_that_are_no_numbers_are_still_plotted() -> None:
    renderer = Renderer(WorldSpec(spaces.Box(-np.inf, np.inf, (2,)), spaces.Discrete(2)))
    assert renderer.frame(np.array([np.nan, np.inf], np.float32)).shape == (360, 480, 3)
