"""What goes into a real environment and what comes out of it is checked, at every step."""

import pickle
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hand_written import Looked, OnePort, Plain, Shows, faulty

from world_env.collection.collect import collect
from world_env.collection.config import CollectConfig
from world_env.data.store import EpisodeStore
from world_env.errors import (
    EnvApiError,
    InvalidActionError,
    StageError,
    UnsupportedSpaceError,
)
from world_env.policies.config import HeldExploration
from world_env.real.gate import environment_note
from world_env.real.real_env import make_real, make_real_vec, spec_of
from world_env.real.step_ledger import StepLedger
from world_env.spec import EnvConfig, WrapperConfig

BOX = np.zeros(2, np.float32)


def gate(real: Any, ledger: StepLedger | None = None, **settings: Any) -> gym.Env:
    config = EnvConfig(real, **({"horizon": 50} | settings))
    return make_real(config, purpose="collect", ledger=ledger or StepLedger())


def after(step: Any) -> Any:
    return {"step": lambda self, action: step}


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        ({"reset": lambda self: BOX}, r"does not take seed and options.*write def reset"),
        ({"reset": lambda self, seed=None: (BOX, {})}, r"does not take options"),
        ({"reset": lambda self, seed=None, options=None: BOX}, r"expected \(observation, info\)"),
        ({"reset": lambda self, seed=None, options=None: None}, r"returned None"),
        ({"reset": lambda self, seed=None, options=None: (BOX, None)}, r"None .* as info.*dict"),
        ({"reset": lambda self, seed=None, options=None: (None, {})}, r"observation None"),
        ({"reset": lambda self, seed=None, options=None: (BOX, {}, 1)}, r"3 values"),
        (after((BOX, 1.0, False, {})), r"4 values .*expected 5.*truncated"),
        (after(None), r"returned None"),
        (after((BOX, np.array([1.0]), False, False, {})), r"reward array\(\[1\.\]\).*one number"),
        (after((BOX, np.ones(2), False, False, {})), r"the reward .*one number"),
        (after((BOX, None, False, False, {})), r"the reward None"),
        (after((BOX, "1.0", False, False, {})), r"the reward '1.0'"),
        (after((BOX, float("nan"), False, False, {})), r"the reward nan, expected a finite"),
        (after((BOX, np.float32("-inf"), False, False, {})), r"the reward -inf"),
        (after((BOX, 1.0, None, False, {})), r"None .*as `terminated`"),
        (after((BOX, 1.0, False, "no", {})), r"'no' .*as `truncated`"),
        (after((BOX, 1.0, np.array([True]), False, {})), r"as `terminated`, expected True"),
        (after((BOX, 1.0, False, False, [])), r"\[\] .*as info"),
        (after((np.zeros(3, np.float32), 1.0, False, False, {})), r"shape \(3,\), expected \(2,\)"),
        (after((None, 1.0, False, False, {})), r"observation None"),
        (after((["a", "b"], 1.0, False, False, {})), r"expected an array of float32"),
        (after(({"x": BOX}, 1.0, False, False, {})), r"expected an array of float32"),
        (after(([[1], [2, 3]], 1.0, False, False, {})), r"expected an array of float32"),
        ({"observation_space": None}, r"observation_space of Faulty is None, expected a space"),
        ({"action_space": None}, r"action_space of Faulty is None, expected a space"),
    ],
)
def test_another_api_is_named_in_words(methods: dict[str, Any], words: str) -> None:
    ledger = StepLedger()
    with pytest.raises(EnvApiError, match=words):
        env = gate(faulty(methods), ledger)
        env.reset(seed=0)
        env.step(np.zeros(1, np.float32))
    assert ledger.total() <= 1


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        ({"reset": lambda self: BOX}, r"does not take seed and options \(TypeError"),
        (after((BOX, 1.0, False, {})), r"step\(\) of Faulty returned another number of values"),
    ],
)
def test_the_wrappers_of_gymnasium_do_not_hide_the_fault(
    methods: dict[str, Any], words: str
) -> None:
    gym.register("OldApi-v0", entry_point=faulty(methods), max_episode_steps=9)
    try:
        env = gate("OldApi-v0")
        with pytest.raises(EnvApiError, match=words):
            env.reset(seed=0)
            env.step(np.zeros(1, np.float32))
    finally:
        del gym.registry["OldApi-v0"]


def test_numbers_and_flags_of_other_types_are_taken() -> None:
    ends = [np.True_, 1]
    for end in ends:
        env = gate(faulty(after((list(BOX), np.float32(2), end, np.False_, {}))))
        env.reset(seed=0)
        observation, reward, terminated, truncated, _ = env.step(np.zeros(1))
        assert (type(reward), reward, terminated, truncated) == (float, 2.0, True, False)
        assert observation.dtype == np.float32 and observation.shape == (2,)


class Result(NamedTuple):
    observation: Any
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]


def test_a_named_tuple_of_five_values_is_taken() -> None:
    env = gate(faulty(after(Result(BOX, 1.0, False, False, {}))))
    env.reset(seed=np.int64(0))
    assert env.step(np.zeros(1))[1:4] == (1.0, False, False)


def test_an_error_inside_a_later_step_is_the_environments_own() -> None:
    def step(self: Plain, action: Any) -> Any:
        return {}["late"] if self.count == 3 else Plain.step(self, action)

    env = gate(faulty({"step": step}))
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.zeros(1))
    with pytest.raises(KeyError, match="late") as raised:
        env.step(np.zeros(1))
    note, inside = environment_note(raised.value) or ("", "")
    assert "step() number 4 of the episode" in note
    assert note in raised.value.__notes__  # type: ignore[attr-defined]
    assert "in step" in inside and "real/gate.py" not in inside
    assert environment_note(pickle.loads(pickle.dumps(raised.value))) == (note, "")


def test_an_environment_that_sets_no_spaces_is_named() -> None:
    class Bare(gym.Env):
        pass

    with pytest.raises(EnvApiError, match="observation_space of Bare is None, expected a space"):
        gate(Bare)


def test_a_dict_without_keys_is_refused() -> None:
    with pytest.raises(UnsupportedSpaceError, match="a Dict without keys"):
        gate(faulty({"observation_space": spaces.Dict()}))


def test_a_second_environment_that_cannot_be_open_names_num_envs() -> None:
    OnePort.open_now = 0
    ledger, real = StepLedger(), EnvConfig(OnePort, horizon=20)
    with pytest.raises(StageError, match=r"5005 is already in use.*use num_envs=1"):
        make_real_vec(real, 2, purpose="collect", ledger=ledger)
    assert OnePort.open_now == 0  # the first one is closed
    make_real_vec(real, 1, purpose="collect", ledger=ledger).close()
    assert ledger.total() == 0


IMAGE, WHOLE = spaces.Box(0, 255, (4, 4), np.uint8), spaces.Box(-9, 9, (1,), np.int64)
FLAT, EMPTY = spaces.Box(-9, 9, (2,), np.float32), spaces.Box(-1, 1, (0,), np.float32)


@pytest.mark.parametrize(
    ("space", "shown", "words"),
    [
        (IMAGE, lambda x, n: np.full((4, 4), 0.9), r"0\.9 of type float64.*scaled to 0\.\.1.*255"),
        (IMAGE, lambda x, n: np.full((4, 4), 17.5), r"uint8 cannot hold"),
        (IMAGE, lambda x, n: np.full((4, 4), 256), r"256 of type int64"),
        (IMAGE, lambda x, n: np.full((4, 4), -1.0), r"-1\.0"),
        (WHOLE, lambda x, n: np.array([2.5]), r"2\.5 of type float64"),
        (WHOLE, lambda x, n: [np.nan], r"nan of type float64"),
        (WHOLE, lambda x, n: [1e19], r"int64 cannot hold"),
        (WHOLE, lambda x, n: np.array([2**63], np.uint64), r"int64 cannot hold"),
        (spaces.Box(-9, 9, (1,), np.float32), lambda x, n: [1e300], r"float32 cannot hold"),
        (
            FLAT,
            lambda x, n: np.float32([0, np.nan]),
            r"nan in the observation\[1\], expected finite",
        ),
        (FLAT, lambda x, n: [-np.inf, 0], r"-inf in the observation\[0\]"),
        (spaces.Dict(a=FLAT), lambda x, n: {"a": [0, np.nan]}, r"nan in observation 'a'\[1\]"),
        (
            spaces.Box(0, 1, (), np.float64),
            lambda x, n: np.nan,
            r"nan in the observation, expected",
        ),
        (spaces.Discrete(4), lambda x, n: 4, r"outside of Discrete\(4\)"),
        (spaces.Discrete(4), lambda x, n: 2.5, r"2\.5"),
        (spaces.Discrete(4), lambda x, n: np.array([1]), r"shape \(1,\)"),
        (spaces.MultiDiscrete([2, 3]), lambda x, n: [1, 3], r"\[1, 3\], which is outside"),
        (spaces.Dict(a=WHOLE), lambda x, n: {"b": [1]}, r"keys \['b'\], expected .*\['a'\]"),
        (spaces.Dict(a=WHOLE), lambda x, n: {"a": [1], "b": [1]}, r"keys \['a', 'b'\]"),
        (spaces.Dict(a=WHOLE), lambda x, n: np.zeros(1), r"expected a dict with the keys"),
        (spaces.Dict(a=WHOLE), lambda x, n: {"a": [0.5]}, r"observation 'a' with the value 0\.5"),
    ],
)
def test_an_observation_that_is_not_finite_or_that_a_cast_would_change_is_refused(
    space: spaces.Space[Any], shown: Any, words: str
) -> None:
    with pytest.raises(EnvApiError, match=words):
        gate(lambda: Shows(shown, space)).reset(seed=0)
    # The same fault at a later step.
    late = gate(lambda: Shows(lambda x, n: shown(x, n) if n == 2 else space.sample(), space))
    late.reset(seed=7)
    late.step(np.zeros(1))
    with pytest.raises(EnvApiError, match=r"step\(\) number 2 of the episode \(reset seed 7\)"):
        late.step(np.zeros(1))


@pytest.mark.parametrize(
    ("space", "given", "expected"),
    [
        (spaces.Discrete(4), 3, 3),
        (spaces.Discrete(4, start=-1), np.array(-1), -1),
        (spaces.Discrete(2), True, 1),
        (spaces.Discrete(4), np.float32(3.0), 3),
        (spaces.MultiDiscrete([4, 4]), (1, 2), [1, 2]),
        (IMAGE, np.full((4, 4), 255.0), np.full((4, 4), 255)),
        (WHOLE, np.array([7], np.uint8), [7]),
        (spaces.Box(-9, 9, (2,), np.float32), [1, 2.5], [1, 2.5]),
        (spaces.Box(-9, 9, (2,), np.float32), np.array([0.1, 1e9 + 0.3]), np.float32([0.1, 1e9])),
    ],
)
def test_values_that_a_cast_keeps_are_taken(
    space: spaces.Space[Any], given: Any, expected: Any
) -> None:
    observation, _ = gate(lambda: Shows(lambda x, n: given, space)).reset(seed=0)
    np.testing.assert_array_equal(observation, expected)
    assert observation.dtype == space.dtype and np.shape(observation) == space.shape


def test_complete_episodes_before_another_shape_are_kept(tmp_path: Path) -> None:
    class Grows(Plain):
        episodes = 0

        def reset(self, **given: Any) -> Any:
            self.episodes += 1
            return super().reset(**given)

        def seen(self) -> Any:
            late = self.episodes == 4 and self.count == 7
            return np.zeros(3, np.float32) if late else super().seen()

    config = CollectConfig(EnvConfig(Grows, horizon=10), tmp_path / "d", steps=200)
    with pytest.raises(EnvApiError, match=r"shape \(3,\), expected \(2,\)"):
        collect(config)
    store = EpisodeStore(tmp_path / "d")
    assert store.lengths == [10, 10, 10]
    assert store.real_steps == {"collect": 37, "validate": 1}


@pytest.mark.parametrize("action", [1, np.int64(1), np.array(1), np.uint8(1), True])
def test_discrete_actions_arrive_as_int(action: Any) -> None:
    env = gate(Looked)
    env.reset(seed=0)
    env.step(action)


@pytest.mark.parametrize("action", [3, -1, 1.0, np.array([1]), None, "1", np.int64(7)])
def test_other_discrete_actions_cost_no_step(action: Any) -> None:
    ledger = StepLedger()
    env = gate(Looked, ledger)
    env.reset(seed=0)
    with pytest.raises(InvalidActionError, match=r"invalid action .*Discrete\(3\).*No step"):
        env.step(action)
    assert ledger.by_purpose == {}


@pytest.mark.parametrize(
    ("space", "action"),
    [
        (spaces.Box(-1, 1, (2,), np.float32), np.zeros(3)),
        (spaces.Box(-1, 1, (2,), np.float32), 0.5),
        (spaces.Box(-1, 1, (2,), np.float32), ["a", "b"]),
        (spaces.Box(-1, 1, (2,), np.float32), [0.0, np.nan]),
        (spaces.MultiDiscrete([2, 2]), [0, 2]),
        (spaces.MultiDiscrete([2, 2]), [0.5, 1]),
    ],
)
def test_other_actions_cost_no_step(space: spaces.Space[Any], action: Any) -> None:
    ledger = StepLedger()
    env = gate(faulty({"action_space": space}), ledger)
    env.reset(seed=0)
    with pytest.raises(InvalidActionError, match=r"[Nn]o step was taken"):
        env.step(action)
    assert ledger.by_purpose == {}


def test_the_environment_may_change_the_action_that_it_receives() -> None:
    def step(self: Plain, action: Any) -> Any:
        action += 5
        return Plain.step(self, action)

    env, action = gate(faulty({"step": step})), np.zeros(1, np.float32)
    env.reset(seed=0)
    env.step(action)
    assert action == 0.0


def test_chunks_of_discrete_actions_arrive_as_int() -> None:
    ledger = StepLedger()
    env = gate(Looked, ledger, action_chunk=3, horizon=7)
    env.reset(seed=0)
    ends = [env.step(np.array([0, 1, 2]))[3] for _ in range(3)]
    # Seven steps, the last chunk is cut short.
    assert ends == [False, False, True] and ledger.by_purpose == {"collect": 7}
    assert spec_of(EnvConfig(Looked, horizon=7, action_chunk=3)).horizon == 3


TABULAR = {"FrozenLake", "CliffWalking", "Taxi"}


@pytest.mark.parametrize(
    "env_id", sorted(name for name in gym.registry if name.rpartition("-")[0] in TABULAR)
)
def test_held_actions_play_tabular_environments(env_id: str, tmp_path: Path) -> None:
    real = EnvConfig(env_id, horizon=30)
    exploration = HeldExploration(steps=5)
    store = collect(CollectConfig(real, tmp_path / "d", steps=80, exploration=exploration))
    assert store.steps == 80
    env = make_real_vec(real, 2, purpose="collect", ledger=StepLedger())
    env.reset()
    env.step(np.array([1, 2]))
    env.close()


# -- time limit ------------------------------------------------------------------------------------------------------


def played(real: EnvConfig) -> int:
    env = make_real(real, purpose="collect", ledger=StepLedger())
    env.reset(seed=0)
    for steps in range(1, 1000):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            assert truncated and not terminated
            return steps
    raise AssertionError("it plays for ever")


@pytest.mark.parametrize(
    ("real", "limit"),
    [
        (EnvConfig("Plain-v0"), 50),
        (EnvConfig("Plain-v0", horizon=20), 20),
        (EnvConfig("Plain-v0", horizon=80), 50),
        (EnvConfig("Endless-v0", horizon=80), 80),
        (EnvConfig("Endless-v0", {"max_episode_steps": 30}), 30),
        (EnvConfig(lambda: gym.wrappers.TimeLimit(Plain(), 25)), 25),
        (EnvConfig(Plain, horizon=1), 1),
        (
            EnvConfig(
                "Plain-v0",
                wrappers=(
                    WrapperConfig("gymnasium.wrappers:TimeLimit", {"max_episode_steps": 70}),
                ),
            ),
            50,
        ),
    ],
)
def test_the_smallest_time_limit_counts(real: EnvConfig, limit: int) -> None:
    assert spec_of(real).horizon == limit
    assert spec_of(real).horizon == played(real) == limit


def test_without_a_time_limit_no_step_is_taken(tmp_path: Path) -> None:
    ledger = StepLedger()
    words = r"Endless-v0 has no time limit.*--horizon STEPS"
    for stage in (
        lambda: spec_of("Endless-v0"),
        lambda: make_real("Endless-v0", purpose="judge", ledger=ledger),
        lambda: collect(CollectConfig("Endless-v0", tmp_path / "d", steps=10), ledger=ledger),
    ):
        with pytest.raises(StageError, match=words):
            stage()
    assert ledger.by_purpose == {} and not (tmp_path / "d").exists()
    # A limit of the environment itself is named.
    with pytest.raises(StageError, match=r"has the attribute max_steps=70"):
        spec_of(faulty({"max_steps": 70}))


def test_episodes_of_one_step_are_collected(tmp_path: Path) -> None:
    store = collect(CollectConfig(EnvConfig(Plain, horizon=1), tmp_path / "d", steps=5))
    assert store.lengths == [1] * 5


# -- wrappers and spaces ---------------------------------------------------------------------------------------------


class Scaled(gym.ObservationWrapper):
    """Normalises by statistics of its own, under names of its own."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.scale_of_it = gym.wrappers.utils.RunningMeanStd(shape=(2,))


@pytest.mark.parametrize("name", ["NormalizeObservation", "NormalizeReward"])
def test_running_statistics_are_refused_by_name(name: str) -> None:
    wrapper = WrapperConfig(f"gymnasium.wrappers:{name}")
    with pytest.raises(StageError, match=rf"{name} normalises with running statistics"):
        spec_of(EnvConfig("Plain-v0", wrappers=(wrapper,)))
    inside = getattr(gym.wrappers, name)(gym.make("Plain-v0"))
    with pytest.raises(StageError, match=rf"{name} normalises with running statistics"):
        spec_of(inside)
    with pytest.raises(StageError, match="Scaled normalises with running statistics"):
        spec_of(lambda: gym.wrappers.TimeLimit(Scaled(Plain()), 9))


def test_frozen_statistics_are_constants() -> None:
    env = gym.wrappers.NormalizeObservation(gym.make("Plain-v0"))
    env.update_running_mean = False
    assert spec_of(env).horizon == 50


def double(reward: float) -> float:
    return 2.0 * reward


@pytest.mark.parametrize("text", ["lambda r: 2 * r", "double", "np.square", "a:b:c", "2 * x: y"])
def test_a_function_as_text_is_named(text: str) -> None:
    wrapper = WrapperConfig("gymnasium.wrappers:TransformReward", {"func": text})
    with pytest.raises(
        StageError, match=r"'func' of the wrapper .*expected a function.*module:fun"
    ):
        spec_of(EnvConfig("Plain-v0", wrappers=(wrapper,)))


def test_the_name_of_a_function_is_taken() -> None:
    wrapper = WrapperConfig("gymnasium.wrappers:TransformReward", {"func": "math:fabs"})
    env = gate("Plain-v0", wrappers=(wrapper,))
    env.reset(seed=0)
    assert env.step(np.ones(1))[1] > 0.0


class Untyped(gym.RewardWrapper):
    def __init__(self, env: gym.Env, rule) -> None:
        super().__init__(env)
        self.rule = rule

    def reward(self, reward: Any) -> Any:
        return self.rule(reward)


def test_the_first_step_names_the_arguments_of_wrappers(monkeypatch: pytest.MonkeyPatch) -> None:
    import hand_written

    monkeypatch.setattr(hand_written, "Untyped", Untyped, raising=False)
    wrapper = WrapperConfig("hand_written:Untyped", {"rule": "double"})
    env = gate("Plain-v0", wrappers=(wrapper,))
    env.reset(seed=0)
    with pytest.raises(EnvApiError, match=r"not callable.*hand_written:Untyped with .*'double'"):
        env.step(np.zeros(1))


@pytest.mark.parametrize(
    ("name", "space", "words"),
    [
        ("observation_space", EMPTY, r"observation_space has the shape \(0,\).*one number\.$"),
        ("observation_space", spaces.Dict(a=EMPTY), r"observation 'a' has .*DropKeys.*--config"),
        ("action_space", EMPTY, r"action_space has the shape \(0,\)"),
    ],
)
def test_a_space_without_numbers_is_named(name: str, space: spaces.Space[Any], words: str) -> None:
    with pytest.raises(UnsupportedSpaceError, match=words):
        gate(faulty({name: space}))


class Mapped(Plain):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.map = options["map"]
        return super().reset(seed=seed)


def test_reset_options_are_passed_to_every_reset() -> None:
    env = gate(Mapped, reset_options={"map": "ice"})
    for _ in range(2):
        env.reset(seed=0)
        assert env.unwrapped.map == "ice"
    for options in (None, {"mop": 1}):
        with pytest.raises(EnvApiError, match=r"reset_options \(--reset-options JSON\)"):
            gate(Mapped, reset_options=options).reset(seed=0)
