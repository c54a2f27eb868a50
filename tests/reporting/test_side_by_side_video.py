"""Watching: both worlds from the same first observation, every real step paid for."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image
from stable_baselines3 import PPO

from world_env.errors import (
    InvalidOptionError,
    MissingExtraError,
    SpaceMismatchError,
    StageError,
)
from world_env.models.rssm.model import RssmConfig
from world_env.policies.function_policy import FunctionPolicy
from world_env.policies.random_policy import RandomPolicy
from world_env.real.real_env import make_real, spec_of
from world_env.real.step_ledger import StepLedger
from world_env.reporting import side_by_side_video as watch_module
from world_env.reporting.side_by_side_video import side_by_side, watch
from world_env.simulation.simulator import Simulator
from world_env.spec import EnvConfig, WrapperConfig
from world_env.twin.twin import Twin

CARTPOLE = EnvConfig("CartPole-v1")
SMALL_PICTURES = EnvConfig(
    "Pendulum-v1",
    {"render_mode": "rgb_array"},
    (
        WrapperConfig("gymnasium.wrappers:AddRenderObservation", {"render_only": True}),
        WrapperConfig("gymnasium.wrappers:ResizeObservation", {"shape": [32, 32]}),
        WrapperConfig("gymnasium.wrappers:GrayscaleObservation"),
    ),
)


@pytest.fixture(scope="module")
def twin() -> Twin:
    return Twin.untrained(spec_of(CARTPOLE), "linear")


def left(observations: np.ndarray) -> np.ndarray:
    return np.zeros(len(observations), np.int64)


@pytest.mark.parametrize("mode", ["closed_loop", "open_loop"])
def test_a_gif_shows_both_worlds_for_every_step(twin: Twin, tmp_path: Path, mode: str) -> None:
    ledger = StepLedger()
    policy = RandomPolicy(twin.spec.action_space)
    path = watch(twin, policy, tmp_path / "new" / "film", real=CARTPOLE, steps=8, seed=1,
                 ledger=ledger, mode=mode)  # fmt: skip
    assert path == tmp_path / "new" / "film.gif"
    assert [p.name for p in path.parent.iterdir()] == ["film.gif"]
    with Image.open(path) as film:
        assert film.n_frames == 9
        assert film.width == 2 * 450 + 6
    assert ledger.by_purpose == {"evaluate": 8}


def test_both_worlds_begin_with_the_same_picture(twin: Twin) -> None:
    frames = side_by_side(twin, left, real=CARTPOLE, steps=3, seed=5, ledger=StepLedger())
    learned, real = frames[0][26:-26, :450], frames[0][26:-26, 456:]
    np.testing.assert_array_equal(learned, real)
    assert not np.array_equal(frames[0][:, 456:], frames[-1][:, 456:])


def test_of_pixels_the_difference_is_shown_too() -> None:
    twin = Twin.untrained(spec_of(SMALL_PICTURES), "rssm")
    policy = RandomPolicy(twin.spec.action_space)
    ledger = StepLedger()
    frames = {
        mode: side_by_side(
            twin, policy, real=SMALL_PICTURES, steps=2, seed=1, ledger=ledger, mode=mode
        )
        for mode in ("open_loop", "closed_loop")
    }
    assert frames["closed_loop"][0].shape[1] == 2 * 300 + 6
    shown = frames["open_loop"][-1][26:-26].astype(int)
    assert shown.shape[1] == 3 * 300 + 2 * 6
    learned, real, apart = (shown[:, begin : begin + 300] for begin in (0, 306, 612))
    assert apart.any()
    np.testing.assert_array_equal(apart, abs(real - learned))


def test_a_model_with_a_memory_is_shown_reality_first(monkeypatch: pytest.MonkeyPatch) -> None:
    real = EnvConfig(
        "Pendulum-v1", {}, (WrapperConfig("world_env.wrappers:SelectColumns", {"columns": [0, 1]}),)
    )
    config = RssmConfig(context=4, window=8, hidden=16, deter=16, members=2)
    twin = Twin.untrained(spec_of(real), "rssm", config)
    begun, reset = [], Simulator.reset

    def spied(self: Simulator, **rest: Any) -> Any:
        begun.append(rest["options"])
        return reset(self, **rest)

    monkeypatch.setattr(Simulator, "reset", spied)
    ledger = StepLedger()
    frames = side_by_side(
        twin,
        RandomPolicy(twin.spec.action_space),
        real=real,
        steps=6,
        ledger=ledger,
        mode="open_loop",
    )
    assert len(frames) == 7 and ledger.total() == 6
    assert [list(options) for options in begun] == [["observation"], *[["context"]] * 3]
    past = begun[-1]["context"]
    assert (past["observations"].shape, past["actions"].shape) == ((1, 4, 2), (1, 3, 1))
    # What it was shown is what the same actions do in a world that nobody watches.
    env = make_real(real, purpose="judge", ledger=ledger)
    seen = [env.reset(seed=0)[0], *[env.step(action)[0] for action in past["actions"][0]]]
    np.testing.assert_array_equal(past["observations"][0], seen)


def test_an_environment_that_fills_the_same_array_again_spoils_no_past(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Reusing(gym.ObservationWrapper):
        def __init__(self, env: gym.Env) -> None:
            super().__init__(env)
            self.shown = np.zeros(2, np.float32)

        def observation(self, observation: np.ndarray) -> np.ndarray:
            self.shown[:] = observation[:2]
            return self.shown

    real = EnvConfig(
        "Pendulum-v1", {}, (WrapperConfig("world_env.wrappers:SelectColumns", {"columns": [0, 1]}),)
    )
    config = RssmConfig(context=4, window=8, hidden=16, deter=16, members=2)
    twin = Twin.untrained(spec_of(real), "rssm", config)
    world = Reusing(gym.make("Pendulum-v1"))
    pushing = FunctionPolicy(lambda seen: np.ones((1, 1), np.float32))
    reality = watch_module._Real(world, pushing, 0)
    learned = watch_module._Learned(twin, pushing, 0, reality.side.observation, temperature=0.0)
    expected = [reality.side.observation.copy()]
    for _ in range(3):
        learned.follow(reality.step(), reality.side)
        expected.append(reality.side.observation.copy())
    np.testing.assert_array_equal(learned._observations, expected)
    assert not np.array_equal(expected[0], expected[1])


def test_a_finished_world_waits_for_the_other(twin: Twin) -> None:
    # One push, over and over, fells the real pole in about ten steps; the untrained twin stays up.
    ledger = StepLedger()
    frames = side_by_side(twin, left, real=CARTPOLE, steps=20, ledger=ledger)
    fallen = ledger.total()
    assert 7 <= fallen <= 12
    assert len(frames) == 21
    right = [frame[26:, 456:] for frame in frames]
    np.testing.assert_array_equal(right[fallen], right[-1])
    together = side_by_side(
        twin, left, real=CARTPOLE, steps=20, ledger=StepLedger(), mode="open_loop"
    )
    assert len(together) == fallen + 1


def test_a_trained_policy_acts_and_the_twin_can_be_watched_alone(twin: Twin) -> None:
    ledger = StepLedger()
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu", seed=0)
    for policy in (model, RandomPolicy(twin.spec.action_space)):
        frames = side_by_side(twin, policy, steps=3, ledger=ledger)
        again = side_by_side(twin, policy, steps=3, ledger=ledger)
        assert frames[0].shape == (352, 450, 3)
        np.testing.assert_array_equal(frames, again)
    assert ledger.total() == 0


def test_bad_input_is_a_named_error(twin: Twin, tmp_path: Path) -> None:
    ledger = StepLedger()
    with pytest.raises(InvalidOptionError, match=r"\.gif or \.mp4"):
        watch(twin, left, tmp_path / "film.avi", ledger=ledger)
    for wrong in ({"mode": "open_loop"}, {"steps": 0}, {"mode": "sideways", "real": CARTPOLE}):
        with pytest.raises(InvalidOptionError, match="expected one of closed_loop, open_loop"):
            side_by_side(twin, left, ledger=ledger, **wrong)
    with pytest.raises(SpaceMismatchError, match="wrappers"):
        side_by_side(twin, left, real=EnvConfig("Acrobot-v1"), ledger=ledger)
    assert ledger.total() == 0


@pytest.mark.parametrize("place", ["file/film.gif", "folder.gif"])
def test_a_film_that_cannot_be_written_costs_no_real_step(
    place: str, twin: Twin, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.gif").mkdir()
    before = sorted(tmp_path.iterdir())
    ledger = StepLedger()
    with pytest.raises(StageError, match="cannot write"):
        watch(twin, left, tmp_path / place, real=CARTPOLE, steps=5, ledger=ledger)
    assert ledger.by_purpose == {}
    assert sorted(tmp_path.iterdir()) == before


def test_an_mp4_without_ffmpeg_names_the_package(
    twin: Twin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="imageio-ffmpeg"):
        watch(twin, left, tmp_path / "film.mp4", ledger=StepLedger())
