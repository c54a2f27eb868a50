"""Columns that wrap are found, and columns that jump otherwise are not."""

import numpy as np
import pytest
from gymnasium import spaces

from world_env.data.angles import find_angles, merged_angles, wrapped_columns
from world_env.data.episode import Episode
from world_env.data.validation.lint import lint
from world_env.spec import Angle, WorldSpec

PI, TURN = np.pi, 2 * np.pi
EPISODES, STEPS = 20, 200


def turning(seed: int = 0, speed: float = 3.0) -> list[np.ndarray]:
    """Headings of a body with a changing speed, in radians, not wrapped."""
    rng = np.random.default_rng(seed)
    speeds = np.clip(rng.normal(0, 0.3, (EPISODES, STEPS)).cumsum(1), -speed, speed)
    first = rng.uniform(-PI, PI, (EPISODES, 1))
    return list(np.concatenate([first, first + (0.1 * speeds).cumsum(1)], 1))


def wrapped(turns: list[np.ndarray], low: float, period: float) -> list[np.ndarray]:
    return [low + (x / TURN * period - low) % period for x in turns]


def found(parts: list[np.ndarray], low: float = -np.inf, high: float = np.inf, dtype=np.float32):
    spec = WorldSpec(spaces.Box(low, high, (1,), dtype), spaces.Discrete(2))
    return wrapped_columns([episode(part.astype(dtype)[:, None]) for part in parts], spec)


def episode(observations: np.ndarray) -> Episode:
    steps = len(observations) - 1
    actions = np.random.default_rng(steps).integers(2, size=steps)
    return Episode(observations, actions, np.zeros(steps), terminated=False, truncated=True)


@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize(
    ("low", "period"), [(-PI, TURN), (0, TURN), (-180, 360), (0, 360), (0, 1), (0, 24), (2, 7.3)]
)
def test_an_angle_is_found_in_any_unit(low: float, period: float, declared: bool) -> None:
    bounds = (low, low + period) if declared else ()
    (column,) = found(wrapped(turning(), low, period), *bounds)
    assert column.certain and column.jumps >= 10
    assert column.angle.column == 0
    assert column.angle.low == pytest.approx(low, abs=5e-3 * period)
    assert column.angle.period == pytest.approx(period, rel=5e-3)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [(np.int64, 0, 360), (np.uint16, 0, 359), (np.int32, -180, 180), (np.int16, -180, 179)],
)
def test_an_angle_of_whole_degrees_is_found(dtype: type, low: int, high: int) -> None:
    degrees = [low + (np.rint(np.rad2deg(x)) - low) % 360 for x in turning()]
    (column,) = found(degrees, low, high, dtype)
    assert column.certain and column.angle == (0, low, 360)
    # The end may belong to either side: (-180, 180] has no value -180.
    (column,) = found([180 - (180 - each) % 360 for each in degrees], -180, 180, np.int32)
    assert column.certain and column.angle == (0, -179, 360)


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param(
            [
                -PI + (x + np.random.default_rng(i).normal(0, 0.05, x.shape) + PI) % TURN
                for i, x in enumerate(turning())
            ],
            id="noise before wrapping",
        ),
        pytest.param(
            [
                -PI + (x + PI) % TURN + np.random.default_rng(i).normal(0, 0.05, x.shape)
                for i, x in enumerate(turning())
            ],
            id="noise after wrapping",
        ),
        pytest.param(
            [
                (np.random.default_rng(i).normal(0, 0.3, 200).cumsum() + PI) % TURN - PI
                for i in range(EPISODES)
            ],
            id="random walk",
        ),
        pytest.param(
            [(0.2 * np.sin(np.arange(200) / 7 + i) + TURN) % TURN - PI for i in range(EPISODES)],
            id="only near the seam",
        ),
    ],
)
def test_an_angle_is_found_through_noise_and_in_a_part_of_the_turn(parts: list[np.ndarray]) -> None:
    (column,) = found(parts)
    assert column.certain and column.angle == (0, pytest.approx(-PI), pytest.approx(TURN))


@pytest.mark.parametrize("step", [30, 45, 90])
def test_a_heading_that_turns_by_a_few_fixed_angles_is_found(step: int) -> None:
    rng = np.random.default_rng(0)
    degrees = [step * rng.integers(-1, 2, STEPS).cumsum() % 360 for _ in range(EPISODES)]
    radians = [np.deg2rad((each + 180) % 360 - 180) for each in degrees]
    for parts, low, period in ((degrees, 0, 360), (radians, -PI, TURN)):
        (column,) = found(parts)
        assert column.certain and column.angle == (0, pytest.approx(low), pytest.approx(period))


def test_the_ends_may_lie_anywhere() -> None:
    (column,) = found(wrapped(turning(), -PI / 2, TURN))
    assert column.certain and column.angle.period == pytest.approx(TURN)
    assert column.angle.low == pytest.approx(-PI / 2, abs=0.02)


def test_a_clock_and_a_direction_wrap_as_well() -> None:
    clocks = [np.arange(first, first + STEPS) % 50 for first in range(EPISODES)]
    (column,) = found(clocks, 0, 1000, np.int64)
    assert column.certain and column.angle == (0, 0, 50)
    rng = np.random.default_rng(0)
    directions = [rng.integers(-1, 2, STEPS).cumsum() % 8 for _ in range(EPISODES)]
    (column,) = found(directions, 0, 7, np.int64)
    assert column.certain and column.angle == (0, 0, 8)


def bouncing(rng: np.random.Generator) -> np.ndarray:
    position, speed, seen = rng.uniform(), rng.normal(0, 0.05), []
    for _ in range(STEPS):
        position, speed = position + speed, speed + rng.normal(0, 0.01)
        if not 0 <= position <= 1:
            position, speed = np.clip(2 * (position > 1) - position, 0, 1), -speed
        seen.append(position)
    return np.array(seen)


def gripper(rng: np.random.Generator) -> np.ndarray:
    """Opens and closes, at times within one step and at times slowly, and rests at both ends."""
    position, goal, rate, seen = 0.0, 0.0, 1.0, []
    for _ in range(STEPS):
        if rng.uniform() < 0.05:
            goal, rate = float(rng.integers(2)), float(rng.choice([1.0, 0.1, 0.05]))
        position = float(np.clip(position + np.clip(goal - position, -rate, rate), 0, 1))
        seen.append(np.clip(position + rng.normal(0, 0.003), 0, 1))
    return np.array(seen)


JUMPING = {
    "bouncing position": (bouncing, 0, 1),
    "gripper": (gripper, 0, 1),
    "flag": (lambda rng: rng.integers(0, 2, STEPS), 0, 1),
    "noisy flag": (
        lambda rng: np.clip(rng.integers(0, 2, STEPS) + rng.normal(0, 0.05, STEPS), 0, 1),
        *(0, 1),
    ),
    "last action": (lambda rng: rng.uniform(-1, 1, STEPS), -1, 1),
    "held action": (lambda rng: rng.uniform(-1, 1, 40).repeat(5), -1, 1),
    "random goal": (lambda rng: rng.uniform(-PI, PI, STEPS), -PI, PI),
    "teleports": (
        lambda rng: np.concatenate([rng.uniform() + np.linspace(0, 0.1, 40) for _ in range(5)]),
        *(0, 1.2),
    ),
    "distance sensor": (
        lambda rng: np.where(
            rng.uniform(size=STEPS) < 0.1, 30, 5 + rng.normal(0, 0.1, STEPS).cumsum()
        ),
        *(-100, 100),
    ),
    "fuel": (
        lambda rng: np.concatenate([np.linspace(1, rng.uniform(0, 0.7), 40) for _ in range(5)]),
        *(0, 1),
    ),
    "steps since an event": (
        lambda rng: np.concatenate([np.arange(rng.integers(5, 40)) for _ in range(8)]),
        *(0, 1000),
    ),
    "cosine": (lambda rng: np.cos(rng.normal(0, 0.3, STEPS).cumsum()), -1, 1),
    "fast sine": (lambda rng: np.sin(2.5 * np.arange(STEPS) + rng.uniform(0, 6)), -1, 1),
    "contact force": (
        lambda rng: np.where(np.arange(STEPS) % 20 < 3, rng.uniform(2, 10, STEPS), 0),
        *(-np.inf, np.inf),
    ),
    "switching speed": (
        lambda rng: np.clip(
            3 * rng.choice([-1, 1], 20).repeat(10) + rng.normal(0, 0.05, STEPS), -3, 3
        ),
        *(-3, 3),
    ),
    "noisy switching speed": (
        lambda rng: 3 * rng.choice([-1, 1], 20).repeat(10) + rng.normal(0, 0.01, STEPS),
        *(-np.inf, np.inf),
    ),
    "extreme values": (lambda rng: rng.choice([-1.7e308, 1.7e308, 0, 1], STEPS), -np.inf, np.inf),
    "random walk": (lambda rng: rng.normal(size=STEPS).cumsum(), -np.inf, np.inf),
}


@pytest.mark.parametrize("name", JUMPING)
def test_a_column_that_jumps_otherwise_is_no_angle(name: str) -> None:
    make, low, high = JUMPING[name]
    rng = np.random.default_rng(0)
    parts = [make(rng) for _ in range(EPISODES)]
    assert found(parts, low, high, np.float64) == []


def test_resets_between_episodes_are_no_jumps() -> None:
    rng = np.random.default_rng(0)
    ends = [np.linspace(*((-3, 3) if rng.integers(2) else (3, -3)), 50) for _ in range(200)]
    assert found(ends, -PI, PI) == []


def test_every_key_and_column_is_searched() -> None:
    rng = np.random.default_rng(0)
    heading, wheel = (wrapped(turning(seed), -PI, TURN) for seed in (0, 1))
    spec = WorldSpec(
        spaces.Dict(
            {
                "pose": spaces.Box(-10, 10, (2, 2), np.float64),
                "lamp": spaces.Discrete(2),
                "photo": spaces.Box(0, 255, (4, 4, 3), np.uint8),
                "wheel": spaces.Box(-4, 4, (), np.float32),
            }
        ),
        spaces.Discrete(2),
    )
    episodes = []
    for one, other in zip(heading, wheel, strict=True):
        rows = len(one)
        pose = np.stack([np.linspace(0, 1, rows), one, np.sin(one), other], 1).reshape(-1, 2, 2)
        photo = rng.integers(0, 255, (rows, 4, 4, 3)).astype(np.uint8)
        lamp = rng.integers(0, 2, rows)
        parts = {"pose": pose, "lamp": lamp, "photo": photo, "wheel": other.astype(np.float32)}
        episodes.append(
            Episode(parts, np.zeros(rows - 1, int), np.zeros(rows - 1), False, truncated=True)
        )
    angle = Angle(1, -PI, TURN)
    assert find_angles(episodes, spec) == {
        "pose": (angle, angle._replace(column=3)),
        "wheel": (angle._replace(column=0),),
    }


def test_the_first_of_two_definitions_of_a_column_is_kept() -> None:
    one, other, third = Angle(1, 0, 360), Angle(1, -180, 360), Angle(0, 0, 1)
    assert merged_angles({"a": (one,)}, {"a": (third, other), "b": (third,)}) == {
        "a": (third, one),
        "b": (third,),
    }


def test_lint_names_angles_and_warns_where_the_evidence_is_weak() -> None:
    spec = WorldSpec(spaces.Box(-10, 10, (2,), np.float32), spaces.Discrete(2), horizon=STEPS)

    def issues(parts: list[np.ndarray]) -> list[tuple[str, str]]:
        rng = np.random.default_rng(0)
        rows = [np.stack([x, rng.normal(size=len(x)).cumsum() / 10], 1) for x in parts]
        checked = lint([episode(each.astype(np.float32)) for each in rows], spec)
        return [(i.severity, i.message) for i in checked if i.check == "wrapped_angle"]

    ((severity, message),) = issues(wrapped(turning(), -PI, TURN))
    assert severity == "note"
    assert message.startswith(
        "observation[0] is an angle that wraps (from 3.142 to -3.142 and back"
    )
    assert message.endswith("a twin encodes it as cosine and sine")
    # Three crossings in all.
    few = [
        np.linspace(2 + 0.01 * i, 4, STEPS) if i < 3 else np.linspace(0, 1, STEPS)
        for i in range(EPISODES)
    ]
    ((severity, message),) = issues(wrapped(few, -PI, TURN))
    assert severity == "warning" and "Return cosine and sine" in message and "3 jumps" in message
    assert issues([np.linspace(0, 1, STEPS)] * EPISODES) == []
