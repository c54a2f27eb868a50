"""Wrappers that change the keys of observations: flat keys, texts as categories, keys left out, grids of symbols."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tomllib
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from world_env.codec import Codec
from world_env.collection.collect import collect
from world_env.collection.config import CollectConfig
from world_env.data.dataset import encode_episodes
from world_env.data.episode import Episode
from world_env.data.sources import open_dataset
from world_env.errors import (
    InvalidObservationError,
    InvalidOptionError,
    UnsupportedSpaceError,
    WorldEnvError,
)
from world_env.fitting.preconditions import FitWarning, fit_notes
from world_env.models.layers.vector_layout import VectorLayout
from world_env.real.real_env import make_real, spec_of
from world_env.real.step_ledger import StepLedger
from world_env.spec import EnvConfig, WorldSpec, WrapperConfig
from world_env.wrappers import DropKeys, FlatDictObservation, ImageToCategories, TextToCategory
from world_env.wrappers.flat_dict_observation import with_flat_keys

HERE = spaces.Box(-1.0, 1.0, (2,), np.float32)
NESTED = spaces.Dict(
    {
        "inner": spaces.Dict({"x": spaces.Discrete(3), "pair": spaces.Tuple([HERE, spaces.MultiBinary(2)])}),
        "mission": spaces.Text(20),
    }
)  # fmt: skip
TEXTS = ["go", "stop"]


class Shows(gym.Env[Any, Any]):
    """Shows samples of a space; texts are of TEXTS."""

    action_space = spaces.Discrete(2)

    def __init__(self, space: Any = NESTED) -> None:
        self.observation_space = space

    def _seen(self, space: Any) -> Any:
        if isinstance(space, spaces.Dict):
            return {key: self._seen(part) for key, part in space.spaces.items()}
        if isinstance(space, spaces.Tuple):
            return tuple(self._seen(part) for part in space.spaces)
        if isinstance(space, spaces.Text):
            return TEXTS[self.np_random.integers(2)]
        space.seed(int(self.np_random.integers(1 << 30)))
        return space.sample()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._seen(self.observation_space), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self._seen(self.observation_space), 0.0, False, False, {}


gym.register("Shows-v0", entry_point=Shows, max_episode_steps=20)
gym.register(
    "ShowsTuple-v0",
    entry_point=lambda: Shows(spaces.Tuple([spaces.Discrete(4), HERE])),
    max_episode_steps=20,
)


def test_nested_parts_have_flat_keys_and_keep_their_values() -> None:
    env = FlatDictObservation(Shows())
    assert list(env.observation_space.spaces) == [
        "inner/pair/0", "inner/pair/1", "inner/x", "mission"
    ]  # fmt: skip
    flat, _ = env.reset(seed=3)
    inner, _ = Shows().reset(seed=3)
    assert env.observation_space.contains(flat)
    assert flat["inner/x"] == inner["inner"]["x"]
    for index in range(2):
        assert (flat[f"inner/pair/{index}"] == inner["inner"]["pair"][index]).all()
    env = FlatDictObservation(Shows(spaces.Tuple([HERE, spaces.Discrete(2)])))
    assert set(env.reset(seed=0)[0]) == {"0", "1"}


def test_only_nested_observations_are_flattened() -> None:
    for space in (HERE, spaces.Dict({"a": HERE, "b/c": HERE}), spaces.Discrete(2)):
        env = Shows(space)
        assert with_flat_keys(env) is env
    for space in (spaces.Tuple([HERE]), spaces.Dict({"a": spaces.Dict({"b": HERE})})):
        assert isinstance(with_flat_keys(Shows(space)), FlatDictObservation)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Dict({"a/b": HERE, "a": spaces.Dict({"b": HERE})}),
        spaces.Dict({"a/0": HERE, "a": spaces.Tuple([HERE])}),
        spaces.Dict({"a": spaces.Dict({"b/c": HERE, "b": spaces.Dict({"c": HERE})})}),
    ],
)
def test_two_parts_with_one_flat_key_are_refused(space: spaces.Dict) -> None:
    with pytest.raises(UnsupportedSpaceError, match=r"flat key 'a/.*rename one of them"):
        with_flat_keys(Shows(space))


@pytest.mark.parametrize("space", [HERE, spaces.Dict({}), spaces.Tuple([])])
def test_what_has_no_parts_is_not_flattened(space: Any) -> None:
    with pytest.raises(UnsupportedSpaceError, match="has no parts"):
        FlatDictObservation(Shows(space))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "wrapped",
    [
        lambda: FlatDictObservation(Shows()),
        lambda: DropKeys(Shows(), ["mission"]),
        lambda: TextToCategory(Shows(), "mission", TEXTS),
        lambda: ImageToCategories(Shows(spaces.Box(0, 5, (2, 3), np.uint8)), 6),
    ],
)
def test_they_pass_gymnasiums_checker(wrapped: Callable[[], gym.Env[Any, Any]]) -> None:
    check_env(wrapped(), skip_render_check=True)


def test_a_text_is_the_place_in_its_vocabulary() -> None:
    env, plain = TextToCategory(Shows(), "mission", TEXTS), Shows()
    assert env.observation_space["mission"] == spaces.Discrete(2)
    seen, _ = env.reset(seed=1)
    shown, _ = plain.reset(seed=1)
    numbers = set()
    for _ in range(20):
        assert TEXTS[seen["mission"]] == shown["mission"]
        assert seen["inner/x"] == shown["inner"]["x"]
        numbers.add(int(seen["mission"]))
        seen, shown = env.step(0)[0], plain.step(0)[0]
    assert numbers == {0, 1}
    alone = TextToCategory(Shows(spaces.Text(9)), "observation", TEXTS)
    assert alone.observation_space == spaces.Discrete(2)
    assert alone.observation_space.contains(alone.reset(seed=0)[0])


def test_a_text_outside_of_the_vocabulary_is_named() -> None:
    env = TextToCategory(Shows(), "mission", ["go"])
    with pytest.raises(InvalidObservationError, match=r"'mission' is the text 'stop'.*\['go'\]"):
        for seed in range(20):
            env.reset(seed=seed)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: TextToCategory(Shows(), "missing", TEXTS), InvalidOptionError, "key is 'missing'"),
        (lambda: TextToCategory(Shows(), "inner/x", TEXTS), UnsupportedSpaceError, "a Text space"),
        (lambda: TextToCategory(Shows(), "mission", []), InvalidOptionError, "vocabulary"),
        (lambda: TextToCategory(Shows(), "mission", ["a", "a"]), InvalidOptionError, "each once"),
        (lambda: TextToCategory(Shows(), "mission", "go"), InvalidOptionError, "list of texts"),
        (lambda: DropKeys(Shows(), ["missing"]), InvalidOptionError, "keys has 'missing'"),
        (lambda: DropKeys(Shows(), ["inner", "mission"]), InvalidOptionError, "leaves no key"),
        (lambda: DropKeys(Shows(HERE), ["a"]), UnsupportedSpaceError, "has no keys"),
        (lambda: ImageToCategories(Shows(HERE), 3), UnsupportedSpaceError, "Box of integers"),
        (lambda: ImageToCategories(Shows(), 3), InvalidOptionError, "key is 'observation'"),
        (lambda: ImageToCategories(Shows(spaces.Box(0, 5, (2, 3), np.uint8)), [1, 2]),
         InvalidOptionError, "each of the 3 channels"),
        (lambda: ImageToCategories(Shows(spaces.Box(0, 5, (2,), np.uint8)), 0),
         InvalidOptionError, "integers >= 1"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(
    make: Callable[[], Any], error: type[WorldEnvError], words: str
) -> None:
    with pytest.raises(error, match=words):
        make()


def test_keys_are_left_out_by_name_or_by_the_name_above() -> None:
    env = DropKeys(Shows(), ["mission"])
    assert set(env.observation_space.spaces) == set(env.reset(seed=0)[0])
    assert set(env.observation_space.spaces) == {"inner/x", "inner/pair/0", "inner/pair/1"}
    assert set(DropKeys(Shows(), ["inner/pair"]).observation_space) == {"inner/x", "mission"}
    assert set(DropKeys(Shows(), ["inner"]).observation_space) == {"mission"}


def test_a_grid_of_symbols_becomes_categories_cell_by_cell() -> None:
    grid = spaces.Box(0, 255, (4, 4, 3), np.uint8)
    env = ImageToCategories(
        Shows(spaces.Dict({"image": grid, "at": HERE})), [256, 256, 255], "image"
    )
    assert env.observation_space["image"].nvec.tolist() == [256, 256, 255] * 16
    shown, _ = Shows(spaces.Dict({"image": grid, "at": HERE})).reset(seed=1)
    assert shown["image"][..., 2].max() < 255
    seen, _ = env.reset(seed=1)
    assert (seen["image"].reshape(4, 4, 3) == shown["image"]).all()
    few = ImageToCategories(Shows(spaces.Box(0, 255, (4, 4, 3), np.uint8)), [256, 256, 2])
    with pytest.raises(InvalidObservationError, match=r"at \(\d, \d, 2\), expected .* \[0, 1\]"):
        few.reset(seed=1)


def test_real_environments_show_flat_keys_by_themselves(tmp_path: Any) -> None:
    real = EnvConfig("ShowsTuple-v0")
    assert spec_of(real).observation_space == spaces.Dict({"0": spaces.Discrete(4), "1": HERE})
    collect(CollectConfig(real, tmp_path / "data", steps=60))
    spec, episodes, _ = open_dataset(str(tmp_path / "data"))
    assert set(episodes[0].observations) == {"0", "1"}
    assert spec.observation_space == spec_of(real).observation_space
    with pytest.raises(UnsupportedSpaceError, match=r"TextToCategory.*DropKeys"):
        make_real(EnvConfig("Shows-v0"), purpose="collect", ledger=StepLedger())
    dropped = EnvConfig(
        "Shows-v0", {}, (WrapperConfig("world_env.wrappers:DropKeys", {"keys": ["mission"]}),)
    )
    env = make_real(dropped, purpose="collect", ledger=StepLedger())
    assert env.observation_space.contains(env.reset(seed=0)[0])


@pytest.mark.parametrize(("side", "named"), [(7, True), (15, True), (16, False), (64, False)])
def test_a_tiny_image_is_met_with_the_wrapper_for_symbols(side: int, named: bool) -> None:
    spec = WorldSpec(spaces.Box(0, 255, (side, side + 1, 3), np.uint8), spaces.Discrete(2))
    with pytest.raises(UnsupportedSpaceError) as raised:
        VectorLayout(spec, family="ensemble")
    message = str(raised.value)
    assert ("ImageToCategories" in message) == named
    if named:
        wrapper = tomllib.loads(message[message.index("wrappers = [") :])["wrappers"][0]
        grid = Shows(spec.observation_space)
        assert ImageToCategories(grid, **wrapper["kwargs"]).observation_space.nvec.max() == 16


@pytest.mark.parametrize(
    ("side", "top", "named"), [(7, 10, True), (32, 10, True), (32, 25, False), (7, 255, False)]
)
def test_a_fit_to_symbols_as_images_warns(side: int, top: int, named: bool) -> None:
    rng = np.random.default_rng(0)
    space = spaces.Box(0, 255, (side, side), np.uint8)
    seen = rng.integers(0, top + 1, (30, side, side)).astype(np.uint8)
    actions = rng.integers(0, 2, 29)
    spec = WorldSpec(space, spaces.Discrete(2), horizon=50)
    data = encode_episodes([Episode(seen, actions, rng.normal(size=29), True, False)], Codec(spec))
    with pytest.warns(FitWarning) as warned:
        notes = fit_notes(data, data, spec)
    assert any("ImageToCategories" in note for note in notes) == named
    assert notes == [str(each.message) for each in warned]
