"""A fit learns, resumes bit for bit, and says clearly what it cannot use."""

import dataclasses
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from oracle import real_spec
from tensorboard_curves import curves

from world_env.codec import Codec
from world_env.collection.collect import collect
from world_env.collection.config import CollectConfig
from world_env.data.dataset import EncodedEpisodes, encode_episodes
from world_env.data.episode import Episode, split
from world_env.data.statistics import column_traits
from world_env.errors import (
    ConfigMismatchError,
    DataError,
    InvalidOptionError,
    KnownFunctionError,
    StageError,
    TooLittleDataError,
    UnknownFamilyError,
)
from world_env.fitting.config import FitConfig, gradient_steps_for
from world_env.fitting.fit import fit, fit_episodes
from world_env.fitting.preconditions import MIN_STEPS, FitWarning, fit_notes
from world_env.model_evaluation.open_loop import evaluate_open_loop
from world_env.models.linear import LinearWorldModel
from world_env.real.real_env import spec_of
from world_env.rng import CounterRNG
from world_env.simulation.simulator import Simulator
from world_env.spec import EnvConfig, WorldSpec
from world_env.twin.twin import Twin

# CartPole's reward is constant, which every fit of it mentions.
pytestmark = pytest.mark.filterwarnings("ignore::world_env.fitting.preconditions.FitWarning")

CARTPOLE = EnvConfig("CartPole-v1")
TINY = FitConfig(
    gradient_steps=40,
    batch_size=64,
    validate_every=10,
    model={"members": 2, "width": 16, "head_width": 16, "rollout": 3},
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fit") / "data"
    collect(CollectConfig(CARTPOLE, folder, 400, seed=3))
    return folder


@pytest.fixture(scope="module")
def episodes(data: Path) -> list[Episode]:
    from world_env.data.store import EpisodeStore

    return EpisodeStore(data).load()


@pytest.fixture(scope="module")
def spec() -> WorldSpec:
    return spec_of(CARTPOLE)


class Killed(Exception):
    pass


def killed_after(updates: int) -> Callable[[int, int, Any], None]:
    def progress(done: int, wanted: int, logs: Any) -> None:
        if done >= updates:
            raise Killed

    return progress


def assert_same_twin(left: Twin, right: Twin) -> None:
    theirs = right.model.state_dict()
    for name, value in left.model.state_dict().items():
        assert torch.equal(value, theirs[name]), name
    assert left.termination_threshold == right.termination_threshold
    assert left.uncertainty_threshold == right.uncertainty_threshold


def toy_spec(size: int = 3) -> WorldSpec:
    return WorldSpec(
        spaces.Box(-np.inf, np.inf, (size,), np.float32), spaces.Box(-1, 1, (1,), np.float32), 40
    )


def toy_episodes(
    count: int = 15, *, terminals: int = 15, length: int = 20, late_reward: bool = False
) -> list[Episode]:
    """A line walked by the actions; reward is where a step arrives, or with `late_reward` one step older."""
    rng = np.random.default_rng(1)
    made = []
    for number in range(count):
        actions = rng.uniform(-1, 1, (length, 1)).astype(np.float32)
        place = np.concatenate([[rng.normal()], actions[:, 0]]).cumsum()
        observations = np.stack([place, rng.normal(size=length + 1), np.full(length + 1, 7.0)], 1)
        # The reward is the move itself, so that only the right transition explains it.
        rewards = np.roll(actions[:, 0], 1) if late_reward else actions[:, 0]
        ends = number < terminals
        made.append(
            Episode(
                observations.astype(np.float32),
                actions,
                rewards,
                terminated=ends,
                truncated=not ends,
                seed=number,
            )
        )
    return made


# -- learning ----------------------------------------------------------------------------------------------------


def linear_episodes(count: int = 20, length: int = 40) -> list[Episode]:
    """A spiral pushed by the action, and a reward that is a sum of what is seen and done."""
    rng = np.random.default_rng(3)
    turn = np.array([[0.95, -0.2, 0.0], [0.2, 0.95, 0.05], [0.0, 0.0, 0.9]])
    push = np.array([0.0, 0.3, 0.5])
    made = []
    for number in range(count):
        actions = rng.uniform(-1, 1, (length, 1))
        seen = [rng.normal(size=3)]
        for action in actions[:, 0]:
            seen.append(turn @ seen[-1] + push * action)
        observations = np.stack(seen)
        rewards = observations[:-1] @ [1.0, -2.0, 0.5] + 3.0 * actions[:, 0] - 1.0
        arrays = (observations, actions, rewards)
        made.append(
            Episode(
                *(array.astype(np.float32) for array in arrays),
                terminated=number % 4 == 0,
                truncated=number % 4 != 0,
                seed=number,
            )
        )
    return made


def test_the_linear_family_finds_the_least_squares_solution(
    episodes: list[Episode], spec: WorldSpec
) -> None:
    config = FitConfig(family="linear", gradient_steps=100, validate_every=50, allow_errors=True)
    # A linear world is known exactly, however far one looks.
    exact = fit_episodes(linear_episodes(), toy_spec(), config)
    assert max(exact.fidelity.open_loop.error) < 1e-3
    assert exact.fidelity.reward_error < 1e-3
    # CartPole is not linear: the best line through its data is what numpy finds.
    twin = fit_episodes(episodes, spec, config)
    training, held_out = (
        encode_episodes(part, twin.codec)
        for part in split(episodes, config.validation_fraction, config.seed)
    )

    def transitions(data: EncodedEpisodes) -> tuple[np.ndarray, np.ndarray]:
        seen = data.observations["observation"]
        step = torch.arange(len(data)) + data.episode
        ones = np.ones((len(data), 1))
        return np.hstack([seen[step], data.actions, ones]), data.changes("observation").numpy()

    weight = np.linalg.lstsq(*transitions(training), rcond=None)[0]
    inputs, change = transitions(held_out)
    scale = held_out.observations["observation"].std(0).numpy()
    best = np.sqrt((((inputs @ weight - change) / scale) ** 2).mean())
    batch = held_out.gather(torch.arange(len(held_out)), 1)
    vector = batch.observations["observation"]
    with torch.no_grad():
        model = twin.model
        assert isinstance(model, LinearWorldModel)
        arrived, _ = model.step(
            {"observation": vector[:, 0]}, batch.actions[:, 0], rng=CounterRNG.from_seed(0, 1)
        )
    error = ((arrived["observation"] - vector[:, 1]).numpy() / scale) ** 2
    assert np.sqrt(error.mean()) < 1.25 * best < 0.01


@pytest.mark.parametrize("family", ["ensemble", "linear"])
def test_the_same_loop_fits_every_family_and_its_loss_falls(
    family: str, episodes: list[Episode], spec: WorldSpec
) -> None:
    seen: list[dict[str, Any]] = []
    config = TINY.replace(
        family=family, gradient_steps=80, model={} if family == "linear" else TINY.model
    )
    twin = fit_episodes(
        episodes, spec, config, progress=lambda done, wanted, logs: seen.append(logs)
    )
    # Least squares has nothing left to fall: it is as good as it gets from its first batch on.
    assert seen[-1]["change"] < (0.05 if family == "linear" else seen[0]["change"])
    assert twin.fidelity.loss.best_open_loop in [logs["open_loop"] for logs in seen]
    assert twin.family == family
    assert twin.provenance.episodes == len(episodes) and twin.provenance.steps == 400


@pytest.mark.parametrize(
    ("steps", "gradient_steps"), [(100, 3_000), (30_000, 3_000), (100_000, 10_000), (10**6, 30_000)]
)
def test_large_data_is_looked_at_longer(steps: int, gradient_steps: int) -> None:
    assert gradient_steps_for(steps) == gradient_steps


def test_a_twin_says_how_many_updates_it_took(
    episodes: list[Episode], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("world_env.fitting.config.MIN_GRADIENT_STEPS", 3)
    twin = fit_episodes(episodes, real_spec("CartPole-v1"), TINY.replace(gradient_steps=None))
    steps = sum(map(len, episodes))
    assert twin.provenance.recorded("fit", "gradient_steps") == max(3, steps // 10)


def test_a_fitted_twin_is_saved_whole_and_loads(data: Path, tmp_path: Path) -> None:
    twin = fit(data, tmp_path / "twin", TINY)
    loaded = Twin.load(tmp_path / "twin")
    assert_same_twin(twin, loaded)
    assert loaded.provenance.real_steps == {"validate": 1, "collect": 400}
    assert loaded.provenance.real == CARTPOLE
    assert loaded.fidelity.termination.terminal_labels >= 1
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")) == [
        "twin"
    ]


def test_a_twin_keeps_as_many_states_as_asked(episodes: list[Episode], spec: WorldSpec) -> None:
    few = fit_episodes(episodes, spec, TINY.replace(max_dataset_states=7))
    every = fit_episodes(episodes, spec, TINY)
    assert few.states is not None and every.states is not None
    assert len(few.states.length) == 7
    assert len(every.states.length) == sum(map(len, episodes))


def test_known_functions_go_with_the_twin(data: Path, tmp_path: Path) -> None:
    def twice(observation: Any, action: Any, next_observation: Any) -> np.ndarray:
        return np.full(len(action), 2.0)

    twin = fit(data, tmp_path / "twin", TINY, reward_fn=twice)
    assert twin.known == ["reward"]
    with pytest.raises(KnownFunctionError, match="reward_fn="):
        Twin.load(tmp_path / "twin")
    loaded = Twin.load(tmp_path / "twin", reward_fn=twice)
    simulator = Simulator(loaded, 3, seed=0)
    simulator.reset()
    assert simulator.step(np.zeros(3, int)).reward.tolist() == [2.0, 2.0, 2.0]


def test_tensorboard_gets_the_logs(data: Path, tmp_path: Path) -> None:
    fit(data, tmp_path / "twin", TINY, tensorboard=tmp_path / "board")
    found = curves(tmp_path / "board")
    # By gradient steps; entries of the logs that are no single numbers are left out.
    steps = [
        *range(TINY.validate_every, TINY.gradient_steps, TINY.validate_every),
        TINY.gradient_steps,
    ]
    for name in ("fit/loss", "fit/open_loop"):
        assert [step for step, _ in found[name]] == steps
    assert all(name.startswith("fit/") for name in found)


def test_the_same_seed_gives_the_same_twin_and_another_seed_another(
    episodes: list[Episode], spec: WorldSpec
) -> None:
    first, again = (fit_episodes(episodes, spec, TINY) for _ in range(2))
    assert_same_twin(first, again)
    other = fit_episodes(episodes, spec, TINY.replace(seed=1))
    weight = next(iter(first.model.parameters()))
    assert not torch.equal(weight, next(iter(other.model.parameters())))


def test_no_transition_of_a_held_out_episode_is_trained_on(episodes: list[Episode]) -> None:
    training, held_out = split(episodes, 0.1, 0)
    assert {e.seed for e in training}.isdisjoint({e.seed for e in held_out})
    assert sum(map(len, training)) + sum(map(len, held_out)) == 400


def test_a_fit_encodes_each_episode_once(
    episodes: list[Episode], spec: WorldSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    encode = Codec.encode_observation

    def watched(codec: Codec, observation: object, **options: object) -> object:
        encoded.append(id(observation))
        return encode(codec, observation, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Codec, "encode_observation", watched)
    fit_episodes(episodes, spec, TINY)
    # Rollouts that choose the rule of terminations also encode first observations.
    whole = {id(episode.observations) for episode in episodes}
    assert sorted(each for each in encoded if each in whole) == sorted(whole)


def test_planted_off_by_one_rewards_are_seen() -> None:
    config = TINY.replace(
        gradient_steps=150, validate_every=50, learning_rate=3e-3, allow_errors=True
    )
    error = {}
    for late in (False, True):
        episodes = toy_episodes(late_reward=late)
        twin = fit_episodes(episodes, toy_spec(), config)
        _, held_out = split(episodes, config.validation_fraction, config.seed)
        data = encode_episodes(held_out, twin.codec)
        error[late] = evaluate_open_loop(twin.model, data, horizon=1).reward_error
    assert error[True] > 2 * error[False]


# -- resuming ----------------------------------------------------------------------------------------------------


def test_a_killed_fit_goes_on_to_the_same_twin_bit_for_bit(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = fit(data, tmp_path / "whole", TINY)
    for updates in (10, 30):
        with pytest.raises(Killed):
            fit(data, tmp_path / "killed", TINY, progress=killed_after(updates))
        assert not (tmp_path / "killed").exists()
    seen: list[int] = []
    caplog.clear()
    with caplog.at_level("INFO", logger="world_env"):
        resumed = fit(
            data, tmp_path / "killed", TINY, progress=lambda done, wanted, logs: seen.append(done)
        )
    assert caplog.messages == ["resuming an interrupted fit at gradient step 30 of 40"]
    assert seen == [40]
    assert_same_twin(whole, resumed)
    assert whole.fidelity == resumed.fidelity


def test_a_fit_killed_after_its_last_update_still_gives_its_twin(
    data: Path, tmp_path: Path
) -> None:
    whole = fit(data, tmp_path / "whole", TINY)
    with pytest.raises(Killed):
        fit(data, tmp_path / "killed", TINY, progress=killed_after(TINY.gradient_steps))
    assert_same_twin(whole, fit(data, tmp_path / "killed", TINY))


def test_a_checkpoint_of_another_configuration_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        fit(data, tmp_path / "twin", TINY, progress=killed_after(10))
    with pytest.raises(ConfigMismatchError, match=r"learning_rate was null, now 0\.002"):
        fit(data, tmp_path / "twin", TINY.replace(learning_rate=2e-3))


def test_a_checkpoint_of_other_data_is_refused(
    episodes: list[Episode], spec: WorldSpec, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "fit.pt"
    with pytest.raises(Killed):
        fit_episodes(episodes, spec, TINY, checkpoint=checkpoint, progress=killed_after(10))
    with pytest.raises(ConfigMismatchError, match="data was"):
        fit_episodes(episodes[:-1], spec, TINY, checkpoint=checkpoint)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_damaged_checkpoint_is_refused(content: bytes | None, data: Path, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        fit(data, tmp_path / "twin", TINY, progress=killed_after(10))
    checkpoint = tmp_path / ".twin.fit.pt"
    half = checkpoint.read_bytes()[: checkpoint.stat().st_size // 2]
    checkpoint.write_bytes(half if content is None else content)
    with pytest.raises(StageError, match=r"cannot be read.*delete it"):
        fit(data, tmp_path / "twin", TINY)


# -- what it cannot use ------------------------------------------------------------------------------------------


def test_too_little_data_says_how_much_there_is_and_how_much_is_needed() -> None:
    with pytest.raises(
        TooLittleDataError, match=rf"60 steps in 3 episodes.*at least {MIN_STEPS} steps"
    ):
        fit_episodes(toy_episodes(3), toy_spec(), TINY)


def test_a_window_longer_than_any_episode_is_cut_to_the_longest_one() -> None:
    longer, whole = (
        fit_episodes(
            toy_episodes(),
            toy_spec(),
            TINY.replace(model=TINY.model | {"rollout": n}, allow_errors=True),
        )
        for n in (21, 20)
    )
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, longer.model.state_dict()[name])


def test_data_in_which_nothing_ended_is_fitted_with_a_warning() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        twin = fit_episodes(toy_episodes(terminals=0), toy_spec(), TINY)
    assert any(
        issubclass(w.category, FitWarning) and "no episode ever terminated" in str(w.message)
        for w in caught
    )
    assert twin.termination_threshold == 0.5
    assert any("no episode ever" in note for note in twin.fidelity.notes)


@pytest.mark.parametrize(
    ("space", "most", "said"),
    [
        (spaces.Box(0, 255, (6, 5), np.uint8), 255, None),
        (spaces.Box(0, 255, (6, 5), np.uint8), 10, "differ by at most 10 of 255"),
        (spaces.Box(0, 1, (6, 5), np.uint8), 1, None),  # numbers, each in its own units
        (
            spaces.Box(0.0, 1.0, (6, 5, 3)),
            1,
            r"fitted as 90 single numbers.*\(6, 5, 3\), float32",
        ),
        (spaces.Box(0, 255, (2, 6, 5, 3), np.uint8), 255, "fitted as 180 single numbers"),
    ],
)
def test_pictures_that_would_not_be_seen_as_such_are_told(
    space: spaces.Box, most: int, said: str | None
) -> None:
    shown = np.zeros((11, *space.shape), space.dtype)
    shown[::2] = most
    episode = Episode(shown, np.zeros((10, 1), np.float32), np.zeros(10), False, True)
    spec = WorldSpec(space, spaces.Box(-1.0, 1.0, (1,)), horizon=10)
    data = encode_episodes([episode], Codec(spec))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        notes = [note for note in fit_notes(data, data, spec) if note.startswith("observation")]
    assert len(notes) == (said is not None)
    assert said is None or re.search(said, notes[0])


def test_notes_of_a_kind_are_one_counted_line() -> None:
    keys = {f"camera{i}": spaces.Box(0, 255, (6, 5), np.uint8) for i in range(6)}
    keys |= {f"map{i}": spaces.Box(0.0, 1.0, (2, 3, 4)) for i in range(2)}
    space = spaces.Dict(keys)
    shown = {key: np.zeros((11, *keys[key].shape), keys[key].dtype) for key in space.spaces}
    shown["camera3"][::2] = 9
    episode = Episode(shown, np.zeros((10, 1), np.float32), np.zeros(10), True, False)
    data = encode_episodes(
        [episode], Codec(spec := WorldSpec(space, spaces.Box(-1.0, 1.0, (1,)), horizon=10))
    )
    with pytest.warns(FitWarning) as caught:
        notes = fit_notes(data, data, spec)
    cameras, maps = (note for note in notes if "pixels" in note or "single" in note)
    assert re.match(r"6 observations \(first: camera0, camera1, camera2\): .* 9 of 255", cameras)
    assert re.match(r"map0, map1: .* 48 single numbers.*\(2, 3, 4\)", maps)
    assert [str(warning.message) for warning in caught] == notes


def test_few_terminal_labels_and_constant_columns_are_warned_of() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        twin = fit_episodes(toy_episodes(terminals=2), toy_spec(), TINY)
    said = [str(warning.message) for warning in caught]
    assert any("only 2 terminal labels" in text for text in said)
    assert any("observation[2] is constant at 7" in text for text in said)
    assert set(twin.fidelity.notes) <= set(said)


def test_a_reward_that_differs_only_at_terminations_is_not_constant() -> None:
    columns = {"observation": np.random.default_rng(0).normal(size=(40, 1))}
    ended = np.arange(40) % 10 == 9
    differs = column_traits(columns, np.where(ended, 1.0, 0.0), ended)
    assert not differs
    assert [trait.kind for trait in column_traits(columns, np.zeros(40), ended)] == ["constant"]


def test_unknown_model_options_name_the_ones_there_are(
    episodes: list[Episode], spec: WorldSpec
) -> None:
    config = TINY.replace(model={"depth": 3})
    with pytest.raises(InvalidOptionError, match=r"'depth': 3.*'ensemble'.*'members', 'width'"):
        fit_episodes(episodes, spec, config)


@pytest.mark.parametrize(("name", "value"), [("members", 1), ("width", -5)])
def test_an_impossible_model_option_is_named(
    name: str, value: int, episodes: list[Episode], spec: WorldSpec
) -> None:
    config = TINY.replace(model={name: value})
    with pytest.raises(InvalidOptionError, match=f"{name} is {value}"):
        fit_episodes(episodes, spec, config)


@pytest.mark.parametrize(
    "change",
    [
        {"gradient_steps": 0},
        {"batch_size": 0},
        {"validate_every": 0},
        {"validation_fraction": 1.0},
        {"learning_rate": float("nan")},
        {"weight_decay": -1.0},
    ],
)
def test_impossible_numbers_are_refused(change: dict[str, Any]) -> None:
    ((name, value),) = change.items()
    with pytest.raises(InvalidOptionError, match=rf"^{name} is {value}, expected"):
        TINY.replace(**change)


def test_an_unknown_family_lists_the_known_ones(episodes: list[Episode], spec: WorldSpec) -> None:
    with pytest.raises(UnknownFamilyError, match=r"'crystal'.*ensemble.*linear"):
        fit_episodes(episodes, spec, TINY.replace(family="crystal"))


def test_data_that_is_no_number_is_refused() -> None:
    good = toy_episodes(1)[0]
    observations = np.array(good.observations)
    observations[3, 1] = np.nan
    with pytest.raises(DataError, match="dimension 1, is nan at entry 3"):
        dataclasses.replace(good, observations=observations)


@pytest.mark.parametrize("place", ["file/twin", "full"])
def test_a_place_that_cannot_be_written_is_refused_before_the_fit(
    place: str, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("not a twin")

    def never(*_: Any) -> None:
        raise AssertionError("fitted")

    with pytest.raises(StageError, match=r"cannot write a twin|exists and is not a twin"):
        fit(data, tmp_path / place, TINY, progress=never)


def test_a_checkpoint_that_cannot_be_written_is_a_named_error(
    episodes: list[Episode], spec: WorldSpec, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StageError, match="cannot write the checkpoint"):
        fit_episodes(episodes, spec, TINY, checkpoint=tmp_path / "file" / "fit.pt")


def test_a_fit_that_explodes_says_so(episodes: list[Episode], spec: WorldSpec) -> None:
    config = TINY.replace(learning_rate=1e18)
    with pytest.raises(DataError, match=r"diverged.*finite.*learning_rate"):
        fit_episodes(episodes, spec, config)


def test_a_device_that_is_not_there_is_named_before_anything_is_fitted(
    episodes: list[Episode], spec: WorldSpec
) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    config = TINY.replace(device="cuda:99")
    with pytest.raises(InvalidOptionError, match=r"device is 'cuda:99'.*pass 'cpu'"):
        fit_episodes(episodes, spec, config, progress=never)


@pytest.mark.parametrize("name", ["eval_horizon", "eval_windows"])
def test_the_validation_rollout_is_a_setting(
    episodes: list[Episode], spec: WorldSpec, name: str
) -> None:
    """A shorter or smaller rollout measures other errors, of the same weights."""
    whole = fit_episodes(episodes, spec, TINY)
    other = fit_episodes(episodes, spec, TINY.replace(**{name: 3}))
    first, second = (twin.fidelity.loss for twin in (whole, other))
    assert first.parts["change"] == second.parts["change"]
    assert first.open_loop != second.open_loop
    with pytest.raises(InvalidOptionError, match=f"{name} is 0"):
        FitConfig(**{name: 0})


def test_a_finished_fit_of_other_settings_is_not_replaced(data: Path, tmp_path: Path) -> None:
    config = FitConfig(family="linear", gradient_steps=2)
    first = fit(data, tmp_path / "twin", config)
    with pytest.raises(ConfigMismatchError, match="gradient_steps was 2, now 3"):
        fit(data, tmp_path / "twin", config.replace(gradient_steps=3))
    assert fit(data, tmp_path / "twin", config).fingerprint() == first.fingerprint()
    # Without a number of gradient steps it follows from the data.
    with pytest.raises(ConfigMismatchError, match="seed was 0, now 1"):
        fit(data, tmp_path / "twin", FitConfig(family="linear", seed=1))
