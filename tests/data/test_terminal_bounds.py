"""Sharp ends are found where the data has them, and only there."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from oracle import still_twin

from world_env.batch import Context
from world_env.collection.collect import collect
from world_env.collection.config import CollectConfig
from world_env.data.episode import Episode
from world_env.data.terminal_bounds import MIN_COUNT, end_bounds
from world_env.data_range import DataRange
from world_env.fitting.config import FitConfig
from world_env.fitting.fit import fit_episodes
from world_env.real.real_env import spec_of
from world_env.simulation.simulator import Simulator, SimulatorConfig
from world_env.simulation.termination import TerminalBounds
from world_env.spec import EnvConfig, WorldSpec
from world_env.twin.twin import Twin

pytestmark = pytest.mark.filterwarnings("ignore::world_env.fitting.preconditions.FitWarning")
SPEC = WorldSpec(
    gym.spaces.Box(-np.inf, np.inf, (3,), np.float64), gym.spaces.Box(-1, 1, (1,)), horizon=200
)


def walks(count: int, *, limit: float | None, seed: int = 0) -> list[Episode]:
    """Three numbers that wander; where the second passes `limit` it is over, and the third is high just then."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        rows, terminated = [np.zeros(3)], False
        while len(rows) <= 50 and not terminated:
            after = rows[-1] + draw.normal(0.0, 0.1, 3)
            terminated = bool(after[1] > limit) if limit is not None else draw.random() < 0.05
            after[2] = 3.0 if terminated and draw.random() < 0.5 else after[2]
            rows.append(after)
        observations = np.stack(rows)
        steps = len(rows) - 1
        found.append(
            Episode(
                observations,
                np.zeros((steps, 1), np.float32),
                np.ones(steps),
                terminated,
                not terminated,
            )
        )
    return found


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_bounds_of_small_integers_do_not_overflow(dtype: type) -> None:
    spec = WorldSpec(gym.spaces.Box(0, 127, (1,), dtype), gym.spaces.Discrete(2), horizon=50)
    column = np.array([[90], [100], [120]], dtype)
    episode = Episode(column, np.zeros(2, np.int64), np.ones(2), True, False)
    assert end_bounds([episode] * MIN_COUNT, spec) == ([None], [110.0])


def test_the_limit_of_one_number_is_found_and_what_happens_beside_it_is_not() -> None:
    bounds = end_bounds(walks(200, limit=0.4), SPEC)
    assert bounds is not None
    low, high = bounds
    assert low == [None] * 3
    assert high == [None, pytest.approx(0.4, abs=0.005), None]


def test_where_ends_have_no_limit_or_are_few_there_is_none() -> None:
    plain = walks(200, limit=None)
    for episode in plain:
        episode.observations[:, 2] = 0.0
    assert end_bounds(plain, SPEC) is None
    assert end_bounds(walks(MIN_COUNT - 1, limit=0.4), SPEC) is None


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_bounds_of_real_data_are_those_of_the_task(env_id: str, tmp_path: Path) -> None:
    real = EnvConfig(env_id)
    episodes = collect(CollectConfig(real, tmp_path / "data", 3_000, seed=1)).load()
    bounds = end_bounds(episodes, spec_of(real))
    if env_id == "Pendulum-v1":  # which never ends
        assert bounds is None
        return
    assert bounds is not None
    (low, high), angle = bounds, 12 * np.pi / 180
    assert (low[2], high[2]) == pytest.approx((-angle, angle), abs=0.01)
    assert [low[d] for d in (0, 1, 3)] + [high[d] for d in (0, 1, 3)] == [None] * 6


def test_a_twin_ends_beyond_them_whatever_its_model_thinks(tmp_path: Path) -> None:
    ends: tuple[list[float | None], list[float | None]] = ([None] * 3, [None, 0.5, None])
    twin = still_twin(SPEC)  # which ends nothing itself
    wide = {"observation": ([-9.0] * 3, [9.0] * 3)}
    inside, outside = 0.49, 0.51
    for bounds, value, over in [
        (ends, outside, True),
        (ends, inside, False),
        (None, outside, False),
    ]:
        shown = {"observation": torch.tensor([[0.0, value, 0.0]])}
        bounded = Twin(
            SPEC,
            twin.family,
            twin.model,
            Context.from_observation(shown, 1),
            ranges=DataRange(wide, (0.0, 1.0), ends=bounds),
        )
        for rule in ("threshold", "sample"):
            simulator = Simulator(bounded, 1, config=SimulatorConfig(termination=rule))
            simulator.reset(seed=0)
            result = simulator.step(np.zeros((1, 1), np.float32))
            assert result.terminated.tolist() == [over]
    assert bounded.fingerprint() == twin.fingerprint()


def test_bounds_are_stored_with_the_twin_and_measured_on_episodes_that_did_not_make_them(
    tmp_path: Path,
) -> None:
    model = {"members": 2, "width": 8, "head_width": 8, "rollout": 2}
    fitted = fit_episodes(
        walks(200, limit=0.4),
        SPEC,
        FitConfig(gradient_steps=200, batch_size=32, validate_every=50, model=model),
    )
    fitted.save(tmp_path / "twin")
    loaded = Twin.load(tmp_path / "twin")
    assert loaded.ranges is not None and fitted.ranges is not None
    assert loaded.ranges.ends == fitted.ranges.ends is not None
    assert loaded.fingerprint() == fitted.fingerprint()
    bounds = TerminalBounds(loaded.ranges)
    assert bounds.beyond(np.array([[0.0, 0.41, 0.0], [0.0, 0.39, 9.0]])).tolist() == [True, False]
    assert "- dimension 1 above 0.4" in (tmp_path / "twin" / "card.md").read_text()


def test_a_fit_can_do_without_them() -> None:
    config = FitConfig(
        gradient_steps=20,
        batch_size=32,
        model={"members": 2, "width": 8, "head_width": 8, "rollout": 2},
        hard_termination_bounds=False,
    )
    fitted = fit_episodes(walks(200, limit=0.4), SPEC, config)
    assert fitted.ranges is not None and fitted.ranges.ends is None
    assert fitted.fidelity.termination.bounds == []
