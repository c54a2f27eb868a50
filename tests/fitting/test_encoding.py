"""A twin of a world with angles steps across their ends, and one of large float64 values loses no change."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from world_env.codec import Codec
from world_env.data.dataset import encode_episodes
from world_env.data.episode import Episode
from world_env.data_range import DataRange
from world_env.envs.env import WorldModelEnv
from world_env.envs.sb3_vec_env import WorldModelSB3VecEnv
from world_env.envs.vector_env import WorldModelVectorEnv
from world_env.errors import TwinFormatError, TwinMismatchError
from world_env.fitting.config import FitConfig
from world_env.fitting.fit import fit_episodes
from world_env.fitting.preconditions import FitWarning
from world_env.model_evaluation.error_by_horizon import measure_horizons
from world_env.model_evaluation.open_loop import one_step
from world_env.policies.normalization import NormalizedFeatures
from world_env.rl.learn import normalization_of
from world_env.simulation.simulator import Simulator
from world_env.spec import Angle, WorldSpec
from world_env.twin.twin import Twin

pytestmark = pytest.mark.filterwarnings("ignore::world_env.fitting.preconditions.FitWarning")

PUSH = spaces.Box(-1, 1, (1,), np.float32)
SMALL = {"members": 2, "width": 64, "layers": 2, "head_width": 16, "rollout": 4}
ENSEMBLE = FitConfig(gradient_steps=300, batch_size=256, model=SMALL)
LINEAR = FitConfig(family="linear", gradient_steps=20, batch_size=256)
RSSM = FitConfig(
    family="rssm",
    gradient_steps=20,
    batch_size=16,
    model={"hidden": 64, "deter": 64, "groups": 8, "classes": 8, "window": 6},
)
UNITS = {
    "radians": (1.0, -np.pi, np.float32),
    "radians from 0": (1.0, 0.0, np.float64),
    "degrees": (180 / np.pi, -np.pi, np.float32),
}


def headings(
    scale: float,
    low: float,
    dtype: type,
    *,
    turns: bool = True,
    count: int = 40,
    bound: float = 9.0,
) -> tuple[list[Episode], WorldSpec]:
    """Episodes of a turning body: heading and speed. Reward: cosine of the heading.

    scale: units of the heading in one radian. low: smallest heading, in radians. turns: whether headings wrap.
    bound: speed above which episodes end.
    """
    rng = np.random.default_rng(0)
    episodes = []
    for seed in range(count):
        angle, speed = (
            rng.uniform(-np.pi, np.pi) if turns else 1.0 + low + np.pi,
            rng.uniform(-1, 1),
        )
        seen, pushes, ended = [(angle, speed)], rng.uniform(-1, 1, (80, 1)), False
        for push in pushes:
            speed = float(np.clip(speed + 0.3 * push[0], -3, 3)) * (1 if turns else 0.8)
            angle += 0.1 * speed * (1 if turns else 0.1)
            seen.append((angle, speed))
            ended = speed > bound
            if ended:
                break
        rows = np.array(seen)
        rewards = np.cos(rows[1:, 0])
        rows[:, 0] = scale * (low + (rows[:, 0] - low) % (2 * np.pi))
        pushes = pushes[: len(rows) - 1].astype(np.float32)
        episodes.append(Episode(rows.astype(dtype), pushes, rewards, ended, not ended, seed=seed))
    bounds = (np.array([scale * end, 8 * sign], dtype) for end, sign in
              ((low, -1), (low + 2 * np.pi, 1)))  # fmt: skip
    return episodes, WorldSpec(spaces.Box(*bounds, dtype=dtype), PUSH, horizon=80)


@pytest.fixture(scope="module", params=UNITS)
def turning(request: pytest.FixtureRequest) -> tuple[Twin, float, float]:
    scale, low, dtype = UNITS[request.param]
    twin = fit_episodes(*headings(scale, low, dtype), ENSEMBLE)
    return twin, scale, low


def crossing(scale: float, low: float, dtype: type, rows: int = 256) -> np.ndarray:
    """Headings within a step of the upper end, moving up with speed 2."""
    angle = low + 2 * np.pi - np.linspace(0.001, 0.18, rows)
    return np.stack([scale * angle, np.full(rows, 2.0)], 1).astype(dtype)


def off(seen: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Distances of angles in radians, at most pi."""
    return np.abs((seen - expected + np.pi) % (2 * np.pi) - np.pi)


def test_a_step_across_the_end_arrives_on_the_other_side(
    turning: tuple[Twin, float, float],
) -> None:
    twin, scale, low = turning
    (angle,) = twin.spec.angles["observation"]
    assert angle == (0, pytest.approx(scale * low), pytest.approx(scale * 2 * np.pi))
    space = twin.spec.observation_space
    begin = crossing(scale, low, space.dtype)
    env = WorldModelVectorEnv(twin, num_envs=len(begin))
    seen, _ = env.reset(seed=0, options={"observation": begin})
    np.testing.assert_allclose(seen, begin, atol=1e-5 * scale)
    seen = env.step(np.zeros((len(begin), 1), np.float32))[0]
    error = off(seen[:, 0] / scale, begin[:, 0] / scale + 0.2)
    assert (error > 0.3).mean() < 0.01 and error.mean() < 0.1
    assert seen.dtype == space.dtype and all(row in space for row in seen)
    for _ in range(30):
        seen = env.step(np.ones((len(begin), 1), np.float32))[0]
        assert all(row in space for row in seen)


def test_snapshots_saved_twins_and_all_environments_agree(
    turning: tuple[Twin, float, float], tmp_path: Path
) -> None:
    twin, scale, low = turning
    begin = crossing(scale, low, twin.spec.observation_space.dtype, 4)
    push = np.full((4, 1), 0.5, np.float32)
    simulator = Simulator(twin, 4, seed=1)
    simulator.reset(options={"observation": begin})
    kept = simulator.snapshot()
    first = simulator.step(push).observation
    simulator.restore(kept)
    np.testing.assert_array_equal(simulator.step(push).observation, first)
    loaded = Twin.load(twin.save(tmp_path / "twin"))
    assert loaded.spec == twin.spec and loaded.fingerprint() == twin.fingerprint()
    assert "| angles | observation[0] in [" in (tmp_path / "twin" / "card.md").read_text()
    again = Simulator(loaded, 4, seed=1)
    again.reset(options={"observation": begin})
    np.testing.assert_array_equal(again.step(push).observation, first)
    env = WorldModelEnv(loaded)
    env.reset(seed=1, options={"observation": begin[0]})
    np.testing.assert_allclose(env.step(push[0])[0], first[0], rtol=1e-5, atol=1e-6)
    sb3 = WorldModelSB3VecEnv(loaded, num_envs=4)
    assert sb3.observation_space == loaded.spec.observation_space
    assert sb3.reset().shape == sb3.step(push)[0].shape == (4, 2)


def test_policies_get_one_scale_for_each_column_of_the_environment(
    turning: tuple[Twin, float, float],
) -> None:
    twin, scale, low = turning
    options = normalization_of(twin)["features_extractor_kwargs"]
    assert len(options["mean"]) == len(options["scale"]) == 2
    # The heading is uniform over the turn.
    assert options["mean"][0] == pytest.approx(scale * (low + np.pi), abs=scale)
    assert options["scale"][0] == pytest.approx(scale * 2 * np.pi / np.sqrt(12), rel=0.2)
    NormalizedFeatures(twin.spec.observation_space, **options)


def test_errors_name_cosine_and_sine(turning: tuple[Twin, float, float]) -> None:
    twin, *unit = turning
    dtype = twin.spec.observation_space.dtype
    episodes, _ = headings(*unit, dtype, count=4)
    measured = measure_horizons(twin, episodes).observation
    assert measured.names == ["cos observation[0]", "observation[1]", "sin observation[0]"]
    assert len(measured.error) == 3


@pytest.mark.parametrize("config", [LINEAR, RSSM], ids=["linear", "rssm"])
def test_other_families_stay_in_the_turn(config: FitConfig, tmp_path: Path) -> None:
    episodes, spec = headings(*UNITS["degrees"])
    twin = Twin.load(fit_episodes(episodes, spec, config).save(tmp_path / "twin"))
    assert twin.spec.angles == {"observation": (Angle(0, -180, 360),)}
    env = WorldModelVectorEnv(twin, num_envs=64)
    begin = crossing(*UNITS["degrees"], 64)
    seen, _ = env.reset(seed=0, options={"observation": begin})
    assert all(row in twin.spec.observation_space for row in seen)
    seen = env.step(np.zeros((64, 1), np.float32))[0]
    if config is LINEAR:
        # The heading is a linear function of heading and speed, whatever the number of turns.
        assert off(np.deg2rad(seen[:, 0]), np.deg2rad(begin[:, 0]) + 0.2).max() < 0.01
    for _ in range(20):
        seen = env.step(np.ones((64, 1), np.float32))[0]
        assert all(row in twin.spec.observation_space for row in seen)


@pytest.mark.slow
def test_rssm_is_as_accurate_across_the_end_as_elsewhere() -> None:
    config = RSSM.replace(gradient_steps=700, batch_size=32)
    twin = fit_episodes(*headings(*UNITS["radians"]), config)
    env, means = WorldModelVectorEnv(twin, num_envs=256), []
    elsewhere = np.stack([np.linspace(-2.8, 2.5, 256), np.full(256, 2.0)], 1).astype(np.float32)
    for begin in (crossing(*UNITS["radians"]), elsewhere):
        env.reset(seed=0, options={"observation": begin})
        seen = env.step(np.zeros((256, 1), np.float32))[0]
        means.append(off(seen[:, 0], begin[:, 0] + 0.2).mean())
    assert means[0] < 0.4 and means[0] < 1.5 * means[1] + 0.05


def test_hard_termination_bounds_are_in_the_units_of_the_environment(tmp_path: Path) -> None:
    episodes, spec = headings(*UNITS["degrees"], bound=1.5, count=80)
    twin = Twin.load(fit_episodes(episodes, spec, LINEAR).save(tmp_path / "twin"))
    assert "observation" in twin.spec.angles
    assert twin.ranges is not None and twin.ranges.ends is not None
    low, high = twin.ranges.ends
    assert low == [None, None] and high[0] is None and high[1] == pytest.approx(1.5, abs=0.05)
    data = encode_episodes(episodes, twin.codec)
    learned, ended, _ = one_step(twin.model, data, ranges=twin.ranges)
    certain = learned == 1.0
    # The speed is a linear function, so nearly all of its limits are met.
    assert float((certain == (ended > 0)).float().mean()) > 0.99
    assert int(certain.sum()) > 20


def test_a_warm_start_keeps_the_angles_of_the_older_twin() -> None:
    episodes, spec = headings(*UNITS["radians"])
    older = fit_episodes(episodes, spec, LINEAR)
    calm, _ = headings(*UNITS["radians"], turns=False)
    newer = fit_episodes(calm, spec, LINEAR, warm_start=older)
    assert newer.spec.angles == older.spec.angles != {}
    assert newer.provenance.warm_start == older.fingerprint()


def test_a_fit_whose_data_show_new_angles_starts_from_scratch() -> None:
    calm, spec = headings(*UNITS["radians"], turns=False)
    older = fit_episodes(calm, spec, LINEAR)
    assert older.spec.angles == {}
    episodes, _ = headings(*UNITS["radians"])
    with pytest.warns(FitWarning, match="no warm start: the new data show angles"):
        newer = fit_episodes([*calm, *episodes], spec, LINEAR, warm_start=older)
    assert newer.spec.angles and newer.provenance.warm_start is None


def test_a_model_to_compare_with_has_the_encoding_of_the_twin() -> None:
    episodes, spec = headings(*UNITS["radians"])
    twin = fit_episodes(episodes, spec, LINEAR)
    calm, _ = headings(*UNITS["radians"], turns=False)
    other = fit_episodes(calm, twin.spec, LINEAR, encoding=twin)
    assert other.codec.shapes == twin.codec.shapes
    plain = dataclasses.replace(twin, spec=spec)
    assert fit_episodes(episodes, spec, LINEAR, encoding=plain).spec.angles == {}


def test_little_data_still_have_unit_vectors_and_no_column_is_in_two() -> None:
    """The heading is there as an angle, and once more as cosine and sine."""
    episodes, _ = headings(*UNITS["radians"])
    wide = WorldSpec(spaces.Box(-9, 9, (4,), np.float32), PUSH)
    both = []
    for episode in episodes:
        angle = episode.observations[:, :1]
        rows = np.concatenate([episode.observations, np.cos(angle), np.sin(angle)], 1)
        both.append(dataclasses.replace(episode, observations=rows.astype(np.float32)))
    angles = {"observation": (Angle(0, -np.pi, 2 * np.pi),)}
    data = encode_episodes(both[:1], Codec(dataclasses.replace(wide, angles=angles)))
    groups = data.statistics().unit_vectors["observation"].tolist()
    assert groups == [0, -1, 1, 1, 0]


def drifting(offset: float) -> tuple[list[Episode], WorldSpec]:
    """Episodes of a position at `offset` + [-1, 1], and its speed."""
    rng = np.random.default_rng(0)
    episodes = []
    for seed in range(30):
        position, speed = rng.uniform(-1, 1), 0.0
        seen, pushes = [(position, speed)], rng.uniform(-1, 1, (60, 1))
        for push in pushes:
            speed = 0.9 * speed + 0.1 * push[0] - 0.05 * position
            position = float(np.clip(position + 0.2 * speed, -1, 1))
            seen.append((position, speed))
        rows = np.array(seen)
        rewards = -np.square(rows[1:, 0])
        rows[:, 0] += offset
        actions = pushes.astype(np.float32)
        episodes.append(Episode(rows, actions, rewards, False, truncated=True, seed=seed))
    space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    return episodes, WorldSpec(space, PUSH, horizon=60)


def test_a_world_of_large_numbers_is_learned_like_the_same_world_at_zero(tmp_path: Path) -> None:
    config, twins = ENSEMBLE.replace(gradient_steps=60), []
    for offset in (0.0, 1.7e9):
        twins.append(fit_episodes(*drifting(offset), config))
    near, far = twins
    assert near.ranges is not None and near.ranges.offset == {}
    assert far.ranges is not None and far.ranges.offset["observation"][1] == 0
    curves = [twin.fidelity.open_loop.error for twin in twins]
    np.testing.assert_allclose(curves[1], curves[0], rtol=0.02)
    far = Twin.load(far.save(tmp_path / "far"))
    push = np.ones((8, 1), np.float32)
    paths = []
    for twin in (near, far):
        simulator = Simulator(twin, 8, seed=3)
        seen = [simulator.reset()]
        kept = simulator.snapshot()
        seen += [simulator.step(push).observation for _ in range(20)]
        simulator.restore(kept)
        np.testing.assert_array_equal(simulator.step(push).observation, seen[1])
        paths.append(np.stack(seen))
    assert paths[1].dtype == np.float64
    np.testing.assert_allclose(paths[1] - [1.7e9, 0], paths[0], atol=0.01)
    changes = [np.abs(np.diff(path[..., 0], axis=0)).mean() for path in paths]
    assert changes[0] > 0.005 and changes[1] == pytest.approx(changes[0], rel=0.02)
    begin = np.tile([1.7e9 + 0.125, 0.5], (8, 1))
    np.testing.assert_allclose(
        Simulator(far, 8, seed=0).reset(options={"observation": begin}), begin, rtol=0, atol=1e-6
    )


def test_known_functions_get_the_large_numbers() -> None:
    given: list[Any] = []

    def reward(observation: Any, action: Any, arrived: Any) -> np.ndarray:
        given.append((observation, arrived))
        return -np.abs(arrived[:, 0] - 1.7e9)

    twin = fit_episodes(*drifting(1.7e9), LINEAR, reward_fn=reward)
    simulator = Simulator(twin, 3, seed=0)
    before = simulator.reset()
    given.clear()
    result = simulator.step(np.ones((3, 1), np.float32))
    np.testing.assert_array_equal(given[-1][0], before)
    np.testing.assert_array_equal(given[-1][1], result.observation)
    assert (result.reward > -1.3).all() and (np.abs(before[:, 0] - 1.7e9) <= 1.2).all()
    assert normalization_of(twin)["features_extractor_kwargs"]["scale"][0] < 2


@pytest.mark.parametrize(
    ("part", "field", "value", "error"),
    [
        ("ranges", "offset", {"observation": [1.7e9]}, TwinFormatError),
        ("ranges", "offset", {"speed": [1.7e9, 0]}, TwinFormatError),
        ("spec", "angles", {"observation": [[7, 0, 360]]}, TwinFormatError),
        ("spec", "angles", {"observation": [[0, 0, 360], [1, 0, 360]]}, TwinMismatchError),
        ("spec", "angles", {}, TwinMismatchError),
    ],
)
def test_a_damaged_encoding_is_named(
    part: str, field: str, value: Any, error: type[Exception], tmp_path: Path
) -> None:
    spec = dataclasses.replace(
        drifting(1.7e9)[1], angles={"observation": (Angle(1, -np.pi, 2 * np.pi),)}
    )
    ranges = DataRange({}, (-1.0, 0.0), offset={"observation": [1.7e9, 0]})
    twin = dataclasses.replace(Twin.untrained(spec, "linear"), ranges=ranges)
    folder = twin.save(tmp_path / "twin")
    assert Twin.load(folder).ranges == ranges
    tree = json.loads((folder / "twin.json").read_text("utf-8"))
    tree[part][field] = value
    (folder / "twin.json").write_text(json.dumps(tree), encoding="utf-8")
    with pytest.raises(error):
        Twin.load(folder)


def test_an_offset_belongs_to_the_identity_of_a_twin() -> None:
    twin = Twin.untrained(drifting(0.0)[1], "linear")
    prints = {
        dataclasses.replace(twin, ranges=DataRange({}, (-1.0, 0.0), offset=offset)).fingerprint()
        for offset in ({}, {"observation": [1.7e9, 0]}, {"observation": [1.6e9, 0]})
    }
    assert len(prints) == 3 and twin.fingerprint() in prints
