"""Every planted fault is found, clean data is clean, and no data makes `lint` fail."""

import dataclasses
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import numpy as np
import pytest
from gymnasium import spaces

from world_env.cli.main import main
from world_env.collection.collect import collect
from world_env.collection.config import CollectConfig
from world_env.data.episode import Episode
from world_env.data.recording import Recording
from world_env.data.store import EpisodeStore
from world_env.data.validation.episode_boundaries import duplicate_episodes
from world_env.data.validation.lint import lint, lint_split
from world_env.data.validation.regression import cross_validated_error
from world_env.policies.config import random_and_held
from world_env.spec import EnvConfig, WorldSpec

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SHORT_PENDULUM = EnvConfig("Pendulum-v1", {"max_episode_steps": 60})
SHORT_CARTPOLE = EnvConfig("CartPole-v1", {"max_episode_steps": 25})
FAULTS = [
    *["reward_late", "reward_early", "reward_late_filled", "reward_clock", "glued"],
    *["autoreset_rows", "limit_as_death", "non_finite", "constant", "spikes", "duplicate_episode"],
    *["duplicate_stretch", "outside_observation", "outside_action", "action_unused"],
    *["action_held", "pieces", "same_seeds", "action_late", "action_early", "hidden_velocity"],
    *["chance_ends", "death_as_truncation", "limit_of_log", "offset", "constant_rewards"],
]


@pytest.fixture(scope="module")
def bench() -> dict[str, ModuleType]:
    """The benchmark, which plants the faults, and its table."""
    return {
        name: importlib.import_module(f"benchmarks.diagnostics.{name}")
        for name in ("lint", "lint_table")
    }


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    out = tmp_path_factory.mktemp("lint") / "pendulum"
    # With so few episodes one in seven seeds hides "autoreset_rows".
    return collect(CollectConfig(SHORT_PENDULUM, out, 1200, random_and_held(5), seed=1))


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return collect(
        CollectConfig(SHORT_CARTPOLE, tmp_path_factory.mktemp("lint") / "cartpole", 1200)
    )


def loud(found: Any) -> list[str]:
    return sorted({finding.check for finding in found if finding.severity != "note"})


def test_the_benchmark_has_no_fault_that_is_not_tested(bench: dict[str, ModuleType]) -> None:
    assert list(bench["lint"].FAULTS) == FAULTS
    schema = json.loads((BENCHMARKS / "results" / "lint.schema.json").read_text("utf-8"))
    row = schema["$defs"]["row"]["properties"]
    assert row["fault"]["enum"] == ["clean", *FAULTS]


@pytest.mark.parametrize("fault", ["clean", *FAULTS])
def test_a_planted_fault_is_found_and_nothing_else(
    fault: str, bench: dict[str, ModuleType], pendulum: EpisodeStore
) -> None:
    row = bench["lint"].judge(fault, pendulum.load(), pendulum.spec, 0)
    if fault == "death_as_truncation":
        assert row is None  # no episode terminates
        return
    assert row["found"] is (fault != "clean")
    # Spikes and offsets leave the space as well; half of an episode looks like a time limit of its own.
    others = {"spikes": ["space"], "offset": ["space"], "pieces": ["own_time_limit"]}
    assert row["other_findings"] == others.get(fault, [])


@pytest.mark.parametrize(
    "fault", ["clean", "reward_late_filled", "reward_clock", "glued", "autoreset_rows", "limit_as_death"]
)  # fmt: skip
def test_a_constant_reward_and_real_deaths_hide_no_fault(
    fault: str, bench: dict[str, ModuleType], cartpole: EpisodeStore
) -> None:
    row = bench["lint"].judge(fault, cartpole.load(), cartpole.spec, 0)
    assert (row["found"], row["other_findings"]) == (fault != "clean", [])


def flown(count: int, length: int, *, died: bool = False, clock: bool = False) -> list[Episode]:
    """A point that is pushed about: place and speed, starts near 0, costs its distance."""
    rng = np.random.default_rng(7)
    episodes = []
    for seed in range(count):
        pushes = rng.uniform(-1, 1, (length, 1)).astype(np.float32)
        speed = np.append(0.1 * rng.normal(), 0.3 * pushes).cumsum()
        place = np.append(0.1 * rng.normal(), 0.3 * speed[1:]).cumsum()
        parts = [place, speed, np.arange(length + 1.0)] if clock else [place, speed]
        seen = np.stack(parts, 1).astype(np.float32)
        episodes.append(Episode(seen, pushes, -(place[1:] ** 2), died, not died, seed=seed))
    return episodes


def flat_spec(size: int, horizon: int | None = None) -> WorldSpec:
    box = spaces.Box(-np.inf, np.inf, (size,), np.float32)
    return WorldSpec(box, spaces.Box(-1, 1, (1,), np.float32), horizon)


def test_a_length_that_the_observation_explains_is_no_time_limit() -> None:
    seen = lint(flown(12, 30, died=True, clock=True), flat_spec(3, 30))
    blind = lint(flown(12, 30, died=True), flat_spec(2, 30))
    unnamed = lint(flown(12, 30, died=True), flat_spec(2))
    assert [loud(found) for found in (seen, blind, unnamed)] == [[], ["time_limit"], ["time_limit"]]


def test_a_world_that_throws_one_anywhere_is_not_glued() -> None:
    thrown = []
    for number, episode in enumerate(flown(20, 50)):
        seen = episode.observations.copy()
        seen[25:] += np.random.default_rng(number).choice([-9, 9], 2)
        rewards = -(seen[1:, 0] ** 2)
        thrown.append(Episode(seen, episode.actions, rewards, False, True, seed=number))
    assert loud(lint(thrown, flat_spec(2))) == []


def test_one_pair_of_glued_episodes_is_placed() -> None:
    episodes = flown(20, 50)
    first, second = episodes[3], episodes[4]
    glued = Episode(
        np.concatenate([first.observations[:-1], second.observations]),
        np.concatenate([first.actions, second.actions]),
        np.concatenate([first.rewards, second.rewards]),
        False,
        True,
    )
    (found,) = lint([*episodes[:3], glued, *episodes[5:]], flat_spec(2))
    assert (found.check, found.where) == ("glued", "episode 3, step 49")


def test_relatives_are_told_from_strangers() -> None:
    whole = dict(enumerate(flown(6, 40)))
    assert duplicate_episodes(whole) == ([], [], [])
    whole[6], whole[7] = whole[2].cut(10, 30), whole[3]
    whole[8], whole[9] = (flown(7, 40)[6].cut(*ends) for ends in ((0, 15), (15, 40)))
    twice, overlaps, joined = duplicate_episodes(whole)
    assert (twice, overlaps, joined) == ([(3, 7)], [(6, 2, 20)], [(8, 9)])


def test_a_world_of_few_states_may_repeat_itself() -> None:
    rng = np.random.default_rng(0)
    spec = WorldSpec(spaces.Discrete(4), spaces.Discrete(2))
    walks = [rng.integers(0, 2, 3) for _ in range(300)]
    episodes = [
        Episode(np.append(0, walk.cumsum()), walk, walk.astype(float), False, True)
        for walk in walks
    ]
    assert loud(lint(episodes, spec)) == []


def test_a_split_is_of_episodes_and_of_seeds() -> None:
    episodes = flown(10, 30)
    spec = flat_spec(2)
    assert lint_split(episodes[:8], episodes[8:], spec) == []
    (cut,) = lint_split([*episodes[:8], episodes[9].cut(0, 10)], [episodes[9].cut(10, 30)], spec)[
        :1
    ]
    assert (cut.check, cut.severity, cut.where) == ("split", "error", "episode 0")
    again = [
        Recording(e.observations + 1, e.actions, e.rewards, False, True, seed=e.seed)
        for e in episodes
    ]
    (seeds,) = lint_split(episodes, again, spec)
    assert seeds.severity == "warning" and "10 reset seeds" in seeds.message


def test_a_quadratic_law_is_found_exactly_and_a_smooth_one_closely() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(2_000, 3))
    targets = np.stack([inputs[:, 0] ** 2 - inputs[:, 1] * inputs[:, 2], np.sin(inputs[:, 0])], 1)
    noise = rng.normal(size=(2_000, 1))
    errors = cross_validated_error(inputs, np.hstack([targets, noise]), np.arange(2_000) % 5).mean(
        0
    )
    assert errors[0] < 1e-4 and errors[1] < 0.02 and errors[2] > 0.7


ODD: dict[str, tuple[WorldSpec, list[Recording]]] = {}


def odd(name: str, observation: spaces.Space, action: spaces.Space, *episodes: Any) -> None:
    made = [Recording(*parts, terminated=False, truncated=True) for parts in episodes]
    ODD[name] = (WorldSpec(observation, action), made)


_box, _two = spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2)
_pixels = spaces.Box(0, 255, (8, 8, 3), np.uint8)
_zeros = np.zeros
odd("no episode", _box, _two)
odd("one step", _box, _two, (_zeros((2, 2)), _zeros(1, int), _zeros(1)))
odd("bandits", _box, _two, *[(_zeros((2, 2)), _zeros(1, int), _zeros(1))] * 9)
odd("no step", _box, _two, (_zeros((1, 2)), _zeros(0, int), _zeros(0)))
odd("all NaN", _box, _two, (np.full((9, 2), np.nan), _zeros(8, int), np.full(8, np.inf)))
odd("other shape", _box, _two, (_zeros((9, 3)), _zeros(8, int), _zeros(8)))
odd("too few observations", _box, _two, (_zeros((8, 2)), _zeros(8, int), _zeros(8)))
odd("too few rewards", _box, _two, (_zeros((9, 2)), _zeros(8, int), _zeros(7)))
odd("words", _box, _two, (_zeros((9, 2)), _zeros(8, int), np.array(["x"] * 8)))
odd("a part too many", _box, _two, ({"a": _zeros((9, 2))}, _zeros(8, int), _zeros(8)))
odd("halves of actions", _box, _two, (_zeros((9, 2)), _zeros(8) + 0.5, _zeros(8)))
odd("scalars", spaces.Box(-1, 1, (), np.float32), spaces.Box(-1, 1, (), np.float32),
    *[(_zeros(9), _zeros(8), _zeros(8))] * 3)  # fmt: skip
odd("pixels", _pixels, _two, *[(_zeros((9, 8, 8, 3), np.uint8), _zeros(8, int), _zeros(8))] * 3)
odd("parts", spaces.Dict({"eye": _pixels, "arm": _box, "mode": _two}), spaces.MultiDiscrete([2, 3]),
    *[({"eye": _zeros((40, 8, 8, 3), np.uint8), "arm": _zeros((40, 2)), "mode": _zeros(40, int)},
       _zeros((39, 2), int), _zeros(39))] * 4)  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_nothing_in_the_data_makes_it_fail(name: str) -> None:
    spec, episodes = ODD[name]
    found = lint(episodes, spec)
    json.dumps([finding.to_json() for finding in found], allow_nan=False)
    wrong = {"all NaN": "finite", "halves of actions": "space"}
    if name in ("no step", "other shape", "words", "a part too many") or "too few" in name:
        wrong[name] = "shape"
    if name in wrong:
        assert (found[0].check, found[0].severity) == (wrong[name], "error")
    if name == "pixels":
        assert any("pixels" in finding.message for finding in found)


def test_one_unusable_episode_hides_nothing_of_the_others() -> None:
    episodes: list[Episode] = list(flown(20, 30, died=True))
    first = episodes[0]
    episodes[0] = Recording(first.observations * np.nan, first.actions, first.rewards, True, False)
    assert loud(lint(episodes, flat_spec(2, 30))) == ["finite", "time_limit"]


def wide(**change: np.ndarray) -> tuple[list[Recording], WorldSpec]:
    """12 episodes with 40 observation columns and 6 actions."""
    rng = np.random.default_rng(3)
    observations = rng.normal(size=(12, 21, 40)).astype(np.float32)
    actions = rng.uniform(-1, 1, (12, 20, 6)).astype(np.float32)
    columns = {"observations": observations, "actions": actions, "rewards": observations[:, 1:, 0]}
    columns |= change
    episodes = [
        Recording(**{name: column[i] for name, column in columns.items()}, terminated=False, truncated=True)
        for i in range(12)
    ]  # fmt: skip
    box = spaces.Box(-9, 9, (40,), np.float32)
    return episodes, WorldSpec(box, spaces.Box(-1, 1, (6,), np.float32))


def test_issues_of_one_kind_are_counted_in_one_line() -> None:
    clean, spec = wide()
    data = {
        name: np.stack([getattr(e, name) for e in clean]) for name in ("observations", "actions")
    }

    def issue(check: str, of: list[Any] = clean, **change: np.ndarray) -> Any:
        (found,) = [each for each in lint(wide(**change)[0] if change else of, spec)
                    if each.check == check]  # fmt: skip
        return found

    def changed(name: str, columns: slice, value: float) -> dict[str, np.ndarray]:
        column = data[name].copy()
        column[:, 1::4, columns] = value
        return {name: column}

    constant = issue("constant", observations=data["observations"] * (np.arange(40) < 4))
    assert constant.message.startswith("36 of 40 columns are constant (first: observation[4], ")
    assert constant.where == "observation[4]" and constant.severity == "note"
    outside = issue("space", **changed("observations", slice(2, 35), 50.0))
    assert outside.message.startswith("33 of 40 columns have values out of bounds (first: observ")
    assert (outside.where, outside.severity) == ("observation[2]", "error")
    finite = issue("finite", **changed("observations", slice(5, 25), np.nan))
    # 40 observation columns, 6 actions and the reward.
    assert finite.message.startswith("20 of 47 columns have NaN or infinite values (first: observ")
    assert "the first in episode 0, entry 1" in finite.message
    held = issue("actions", actions=data["actions"] * np.float32([1, 0, 0, 0, 0, 0]))
    assert held.message.startswith("5 of 6 columns are constant (first: action[1], action[2], ")
    narrow = issue("actions", actions=data["actions"] * np.float32([0.01] * 5 + [1]))
    assert narrow.message.startswith("5 of 6 columns cover little of their range (first: action[0]")
    cut = [Recording(e.observations, e.actions, e.rewards[:n], False, True)
           for n, e in enumerate(clean, 3)]  # fmt: skip
    shape = issue("shape", cut)
    assert shape.message.startswith("12 of 12 episodes do not fit the spaces (first: episode 0, ")
    assert "reward has 3 entries, expected 20 for 20 actions" in shape.message
    ended = [dataclasses.replace(e, early_end=4) for e in clean]
    assert issue("early_end", ended).message.startswith("12 of 12 episodes continue after")


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.float32])
def test_bounds_are_checked_in_every_number_type_and_key(kind: type) -> None:
    box = spaces.Box(0, 100, (3,), kind)
    # A key with the name of the action's column hides neither of the two.
    space = spaces.Dict({"action": box, "image": spaces.Box(0, 255, (8, 8), np.uint8)})
    spec = WorldSpec(space, spaces.Box(-1, 1, (1,), np.float32))
    rng = np.random.default_rng(0)
    episodes = [
        Episode(
            {
                "action": rng.integers(0, 120, (21, 3)).astype(kind),
                "image": rng.integers(0, 256, (21, 8, 8), np.uint8),
            },
            rng.uniform(-2, 2, (20, 1)).astype(np.float32),
            rng.normal(size=20),
            False,
            True,
            seed=seed,
        )
        for seed in range(5)
    ]
    found = {i.severity: i.message for i in lint(episodes, spec) if i.check == "space"}
    assert sorted(found) == ["error", "warning"]
    assert found["error"].startswith("3 of 3 columns have values out of bounds (first: action[0]")
    assert "outside [-1, 1]" in found["warning"]


# -- the command --------------------------------------------------------------------------------------------------


def test_the_command_exits_with_1_where_an_error_is(
    pendulum: EpisodeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lint", str(pendulum.folder)]) == 0
    assert "no issues found" in capsys.readouterr().out
    again = EpisodeStore.create(tmp_path / "again", pendulum.spec)
    again.append([*pendulum.load(), pendulum.load()[2]])
    assert main(["lint", str(again.folder), "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["check"], found["where"]) == ("duplicates", "episode 20")
    assert main(["lint", str(pendulum.folder), "--test-data", str(again.folder)]) == 1
    assert "split" in capsys.readouterr().out
    assert main(["lint", str(pendulum.folder), "--test-data", "x", "--twin", "y"]) == 2
    assert "at most one of --test-data DATASET and --twin TWIN" in capsys.readouterr().err
    assert main(["lint", str(pendulum.folder), "--twin", "pendulum"]) == 2
    assert "fit it again" in capsys.readouterr().err


def test_the_benchmark_writes_what_its_schema_and_its_table_say(
    bench: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_ENV_RUNS", str(tmp_path))
    monkeypatch.setitem(bench["lint"].TASKS, "Pendulum-v1", (600, 5, (1.0, 0.0)))
    out = tmp_path / "lint.json"
    monkeypatch.setattr(sys, "argv", [str(BENCHMARKS / "lint.py"), "--out", "lint.json"])
    faults = ["clean", "reward_late", "glued"]
    bench["lint"].main(
        ["--tasks", "Pendulum-v1", "--seeds", "5", "--faults", *faults, "--out", str(out)]
    )
    tree = json.loads(out.read_text("utf-8"))
    schema = json.loads((BENCHMARKS / "results" / "lint.schema.json").read_text("utf-8"))
    for made in (tree, *tree["rows"]):
        made["commit"] = made["commit"][:40]
    jsonschema.validate(tree, schema)
    table = bench["lint_table"].lint_section(tree)
    assert [row["fault"] for row in tree["rows"]] == faults
    assert "| `reward_late` | 1 of 1 |" in table and "1 of 1 clean datasets" in table
    tree["rows"][1] |= {"found": False, "other_findings": ["glued"]}
    table = bench["lint_table"].lint_section(tree)
    assert "**0 of 1**" in table and "`reward_late`: glued (1)." in table
    assert bench["lint_table"].lint_section(None) == "Not measured yet."
