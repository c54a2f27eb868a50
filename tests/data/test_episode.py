"""Episodes keep their alignment through cutting, splitting, disk, Minari and windows."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from world_env import CollectConfig, collect
from world_env.codec import Codec
from world_env.data.dataset import EncodedEpisodes, dataset_states, encode_episodes, starts
from world_env.data.episode import Episode, split, split_pieces
from world_env.data.minari import from_minari, to_minari
from world_env.data.statistics import column_notes, data_range
from world_env.data.store import EpisodeStore
from world_env.errors import DataError, InitialStatesError, StageError, TooLittleDataError
from world_env.real.real_env import make_real, spec_of
from world_env.real.step_ledger import StepLedger
from world_env.spec import EnvConfig, WorldSpec

PLAIN = EnvConfig("counting:Counting-v0")
PARTS = EnvConfig("counting:Counting-v0", {"parts": True})


def counted(number: int, real: EnvConfig = PLAIN) -> list[Episode]:
    """`number` real episodes of the counting environment."""
    env = make_real(real, purpose="collect", ledger=StepLedger())
    episodes = []
    for seed in range(number):
        seen, actions, rewards, over = [env.reset(seed=seed)[0]], [], [], False
        while not over:
            actions.append(seed % 3)
            observation, reward, terminated, truncated, _ = env.step(actions[-1])
            seen.append(observation)
            rewards.append(reward)
            over = terminated or truncated
        whole: Any = np.stack(seen) if real is PLAIN else {
            key: np.stack([entry[key] for entry in seen]) for key in seen[0]
        }  # fmt: skip
        episodes.append(
            Episode(whole, np.array(actions), rewards, terminated, truncated, seed=seed)
        )
    return episodes


def columns_of(values: np.ndarray, length: int = 100) -> EncodedEpisodes:
    """Values (M, D) as encoded episodes of `length` steps, with one Discrete action."""
    from gymnasium import spaces

    box = spaces.Box(-np.inf, np.inf, values.shape[1:], np.float32)
    codec = Codec(WorldSpec(box, spaces.Discrete(2)))
    pieces = [values[i : i + length + 1] for i in range(0, len(values) - length, length + 1)]
    return encode_episodes(
        [Episode(p.astype(np.float32), np.zeros(length, int), np.ones(length), False, True)
         for p in pieces],
        codec,
    )  # fmt: skip


def assert_same(left: list[Episode], right: list[Episode]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert (a.terminated, a.truncated, a.elapsed, a.seed) == (
            b.terminated, b.truncated, b.elapsed, b.seed)  # fmt: skip
        assert a.columns().keys() == b.columns().keys()
        for key, column in a.columns().items():
            np.testing.assert_array_equal(column, b.columns()[key])
            assert column.dtype == b.columns()[key].dtype


def test_an_episode_shows_its_shapes_and_keeps_float32_rewards() -> None:
    episode = counted(1)[0]
    assert f"({len(episode) + 1}, 3)" in repr(episode)
    assert episode.rewards.dtype == np.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": np.zeros(2)}, "'reward'.*expected 3"),
        ({"observations": np.zeros((3, 2))}, "'observation'.*expected 4"),
        ({"observations": {"a": np.zeros((4, 2)), "b": np.zeros((9, 2))}}, "'observation.b'"),
        ({"observations": np.array([[0, 0], [0, np.nan], [0, 0], [0, 0]])}, "dimension 1.*entry 1"),
        ({"rewards": np.array([0, np.inf, 0])}, "'reward'.*inf"),
        ({"actions": np.zeros((0, 1))}, "no step"),
        ({"terminated": "no"}, "terminated is 'no', expected True or False"),
    ],
)
def test_a_wrong_episode_names_its_column(change: dict[str, Any], message: str) -> None:
    right = {
        "observations": np.zeros((4, 2)),
        "actions": np.zeros((3, 1)),
        "rewards": np.zeros(3),
        "terminated": False,
        "truncated": True,
        "seed": 41,
    }
    with pytest.raises(DataError, match=message) as caught:
        Episode(**{**right, **change})
    assert "seed 41" in str(caught.value)


def test_lists_become_arrays_and_what_is_no_number_is_named() -> None:
    episode = Episode({"x": [[0.0], [1.0]]}, [[1]], [2], False, True)  # type: ignore
    assert {name: each.shape for name, each in episode.columns().items()} == {
        "observation.x": (2, 1), "action": (1, 1), "reward": (1,)}  # fmt: skip
    for observations, actions, words in (
        ([[0.0], [1.0, 2.0]], [1], r"column 'observation' have different shapes"),
        ([[0.0], [1.0]], ["left"], r"column 'action' holds values of type <U4, expected numbers"),
        ([[None], [1.0]], [1], r"column 'observation' holds values of type object"),
    ):
        with pytest.raises(DataError, match=words):
            Episode(observations, actions, [0.0], False, True)  # type: ignore


def test_a_piece_knows_how_far_in_it_begins_and_claims_no_end() -> None:
    episode = counted(1)[0]
    piece = episode.cut(2, 4)
    np.testing.assert_array_equal(piece.observations[:, 0], [2, 3, 4])
    assert (piece.elapsed, piece.terminated, piece.truncated) == (2, False, True)
    last = episode.cut(2, len(episode))
    assert (last.terminated, last.truncated) == (episode.terminated, episode.truncated)


def test_many_episodes_are_split_whole_and_few_by_blocks() -> None:
    many = counted(20)
    train, validation = split(many, 0.1, seed=1)
    assert (len(train), len(validation)) == (18, 2)
    assert {id(e) for e in train} | {id(e) for e in validation} == {id(e) for e in many}
    few = counted(3)
    train, validation = split(few, 0.2, seed=1)
    assert sum(map(len, train)) + sum(map(len, validation)) == sum(map(len, few))
    assert len(validation) == 3
    for piece in train + validation:
        assert piece.observations[0, 0] == piece.elapsed
    with pytest.raises(TooLittleDataError, match="at least one episode"):
        split([few[0].cut(0, 1)])


@pytest.mark.parametrize("real", [PLAIN, PARTS], ids=["box", "dict"])
def test_a_store_gives_back_what_it_was_given(tmp_path: Path, real: EnvConfig) -> None:
    episodes = counted(7, real)
    store = EpisodeStore.create(tmp_path / "s", spec_of(real), provenance={"who": "test"})
    store.append(episodes[:3], real_steps={"collect": 40})
    store.append(episodes[3:])
    again = EpisodeStore(tmp_path / "s")
    assert (len(again), again.steps) == (7, sum(map(len, episodes)))
    assert (again.provenance, again.real_steps) == ({"who": "test"}, {"collect": 40})
    assert again.spec == spec_of(real)
    assert_same(again.load(), episodes)


def test_a_shard_that_the_manifest_does_not_name_is_ignored(tmp_path: Path) -> None:
    episodes = counted(4)
    store = EpisodeStore.create(tmp_path, spec_of(PLAIN))
    store.append(episodes[:2])
    manifest = (tmp_path / "manifest.json").read_bytes()
    store.append(episodes[:1])
    # As if the process had been killed between the shard and the manifest.
    (tmp_path / "manifest.json").write_bytes(manifest)
    again = EpisodeStore(tmp_path)
    assert_same(again.load(), episodes[:2])
    again.append(episodes[2:])
    assert_same(EpisodeStore(tmp_path).load(), episodes)


def test_a_store_refuses_episodes_of_other_spaces(tmp_path: Path) -> None:
    store = EpisodeStore.create(tmp_path, spec_of(PLAIN))
    with pytest.raises(DataError, match="episode 0 does not fit"):
        store.append(counted(1, PARTS))
    assert len(EpisodeStore(tmp_path)) == 0


def test_what_is_no_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"manifest\.json is missing"):
        EpisodeStore(tmp_path)
    EpisodeStore.create(tmp_path, spec_of(PLAIN))
    with pytest.raises(StageError, match="already holds"):
        EpisodeStore.create(tmp_path, spec_of(PLAIN))
    (tmp_path / "file").write_text("")
    with pytest.raises(StageError, match="cannot write"):
        EpisodeStore.create(tmp_path / "file", spec_of(PLAIN))


def edit(folder: Path, **change: Any) -> None:
    tree = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**tree, **change}))


def test_a_newer_or_damaged_manifest_is_refused(tmp_path: Path) -> None:
    EpisodeStore.create(tmp_path, spec_of(PLAIN)).append(counted(2))
    edit(tmp_path, format=99)
    with pytest.raises(DataError, match=r"99.*upgrade"):
        EpisodeStore(tmp_path)
    edit(tmp_path, format=1, steps=3)
    with pytest.raises(DataError, match="damaged"):
        EpisodeStore(tmp_path)
    edit(tmp_path, steps=2, real_steps={"collect": "many"})
    with pytest.raises(DataError, match=r"damaged.*real_steps"):
        EpisodeStore(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        EpisodeStore(tmp_path)


@pytest.mark.parametrize("fault", ["truncated", "edited", "huge header", "missing"])
def test_a_damaged_shard_is_named(tmp_path: Path, fault: str) -> None:
    EpisodeStore.create(tmp_path, spec_of(PLAIN)).append(counted(3))
    (shard,) = tmp_path.glob("*.safetensors")
    content = shard.read_bytes()
    if fault == "missing":
        shard.unlink()
    else:
        shard.write_bytes({
            "truncated": content[:-5],
            "edited": content[:-1] + b"x",
            "huge header": struct.pack("<Q", 2**62) + content[8:],
        }[fault])  # fmt: skip
    with pytest.raises(DataError, match=shard.name):
        EpisodeStore(tmp_path).load()


def test_a_huge_header_is_refused_even_with_a_matching_checksum(tmp_path: Path) -> None:
    import hashlib

    EpisodeStore.create(tmp_path, spec_of(PLAIN)).append(counted(3))
    (shard,) = tmp_path.glob("*.safetensors")
    content = struct.pack("<Q", 2**62) + shard.read_bytes()[8:]
    shard.write_bytes(content)
    tree = json.loads((tmp_path / "manifest.json").read_text())
    tree["shards"][0]["sha256"] = hashlib.sha256(content).hexdigest()
    edit(tmp_path, shards=tree["shards"])
    with pytest.raises(DataError, match="damaged"):
        EpisodeStore(tmp_path).load()


@pytest.mark.parametrize("real", [PLAIN, PARTS], ids=["box", "dict"])
def test_minari_gives_back_what_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real: EnvConfig
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    episodes = counted(4, real)
    episodes[3] = episodes[3].cut(1, 3)
    dataset = to_minari(episodes, spec_of(real), "counting-v0", algorithm="constant")
    assert dataset.total_episodes == 4
    spec, again = from_minari("counting-v0")
    assert spec == spec_of(real)
    assert_same(again, episodes)
    with pytest.raises(StageError, match="counting-v0"):
        to_minari(episodes, spec, "counting-v0")
    with pytest.raises(StageError, match="no-such-v0"):
        from_minari("no-such-v0")


def test_windows_are_aligned_and_stop_at_the_episode() -> None:
    episodes = counted(12)
    encoded = encode_episodes(episodes, Codec(spec_of(PLAIN)))
    batch = encoded.windows(500, 4, torch.Generator().manual_seed(0))
    number = batch.observations["observation"]
    action = batch.actions.argmax(-1)
    ok = batch.valid
    assert ok[:, 0].all() and not ok.all()
    assert torch.equal(number[:, 1:, 0][ok], number[:, :-1, 0][ok] + 1)
    # The start stays the same: no window runs over into another episode.
    begun = number[..., 1] - number[..., 0]
    assert torch.equal(begun, begun[:, :1].expand_as(begun))
    assert torch.equal(batch.rewards[ok], 100 * number[:, :-1, 0][ok] + action[ok])
    for part in (batch.rewards, batch.terminated, batch.actions.sum(-1)):
        assert (part[~ok] == 0).all()
    # Where a window is cut short, its last valid step terminated, unless the time limit cut it.
    assert (batch.terminated.sum(1)[~ok.all(1)] <= 1).all()


@pytest.mark.parametrize("number", [12, 4], ids=["whole episodes", "blocks"])
@pytest.mark.parametrize("real", [PLAIN, PARTS], ids=["box", "dict"])
def test_the_parts_of_encoded_episodes_are_those_of_the_encoded_split(
    number: int, real: EnvConfig
) -> None:
    episodes, codec = counted(number, real), Codec(spec_of(real))
    everything = encode_episodes(episodes, codec)
    pieces = split_pieces([len(episode) for episode in episodes], 0.3, seed=1)
    for side, expected in zip(pieces, split(episodes, 0.3, seed=1), strict=True):
        encoded, part = encode_episodes(expected, codec), everything.part(side)
        assert part.fingerprint() == encoded.fingerprint()
        assert torch.equal(part.left, encoded.left)
        assert torch.equal(part.elapsed, encoded.elapsed)
        shared = everything.windows_of(side)
        assert shared.actions is everything.actions
        assert shared.observations is everything.observations
        one, other = (
            each.windows(200, 5, torch.Generator().manual_seed(3)) for each in (encoded, shared)
        )
        for name in ("actions", "rewards", "terminated", "valid"):
            assert torch.equal(getattr(one, name), getattr(other, name))
        for key, value in one.observations.items():
            assert torch.equal(value, other.observations[key])


def test_every_step_is_drawn() -> None:
    encoded = encode_episodes(counted(12), Codec(spec_of(PLAIN)))
    generator = torch.Generator().manual_seed(0)
    drawn = encoded.windows(5000, 1, generator)
    assert len(torch.unique(drawn.rewards)) == len(torch.unique(encoded.rewards))
    again = encoded.windows(9, 3, torch.Generator().manual_seed(5))
    same = encoded.windows(9, 3, torch.Generator().manual_seed(5))
    assert torch.equal(again.rewards, same.rewards)


def test_an_action_outside_the_space_names_its_episode() -> None:
    episodes = counted(2)
    wrong = Episode(
        episodes[1].observations, episodes[1].actions + 7, episodes[1].rewards, True, False
    )
    with pytest.raises(DataError, match="episode 1"):
        encode_episodes([episodes[0], wrong], Codec(spec_of(PLAIN)))
    with pytest.raises(DataError, match="no episode"):
        encode_episodes([], Codec(spec_of(PLAIN)))


def test_ordinary_columns_are_scaled_by_their_standard_deviation() -> None:
    rng = np.random.default_rng(0)
    rows = 20 * 101
    flag = rng.random(rows) < 0.1
    values = np.stack([rng.normal(3, 2, rows), rng.uniform(-1, 1, rows), flag], 1)
    statistics = columns_of(values).statistics()
    scale = statistics.scale["observation"].numpy()
    np.testing.assert_allclose(scale, values.std(0), rtol=0.1)
    np.testing.assert_allclose(statistics.center["observation"], [3, 0, 0], atol=0.2)
    low, high = statistics.low["observation"], statistics.high["observation"]
    assert low[1] == pytest.approx(-1.2, abs=0.01) and high[1] == pytest.approx(1.2, abs=0.01)


def test_spikes_and_constants_are_tamed_and_reported() -> None:
    rng = np.random.default_rng(0)
    rows = 40 * 101
    spikes = np.where(rng.random(rows) < 0.001, 1000.0, rng.normal(0, 0.01, rows))
    values = np.stack([rng.normal(0, 1, rows), np.full(rows, 7.0), spikes], 1)
    encoded = columns_of(values)
    statistics = encoded.statistics()
    scale = statistics.scale["observation"]
    assert scale[1] == 1
    normalized = (encoded.observations["observation"] - statistics.center["observation"]) / scale
    assert normalized.abs().max() <= 20.1
    assert (statistics.change_scale["observation"] > 0).all()
    assert (
        encoded.changes("observation") / statistics.change_scale["observation"]
    ).abs().max() < 21
    notes = column_notes(encoded)
    assert any("observation[1] is constant at 7" in note for note in notes)
    assert any("observation[2] has rare outliers: values from" in note for note in notes)
    assert not any("observation[0]" in note for note in notes)


def test_columns_of_one_kind_share_one_note() -> None:
    rng = np.random.default_rng(0)
    values = np.zeros((5 * 101, 2835))
    values[:, 2812:] = rng.normal(size=(len(values), 23))
    notes = column_notes(columns_of(values))
    first = ", ".join(f"observation[{i}]" for i in range(3))
    assert notes == [
        f"2,812 of 2,835 columns are constant (first: {first}): they hold no information",
        "reward is constant at 1: it holds no information",
    ]
    spiking = rng.normal(0, 0.01, (40 * 101, 4))
    spiking[::1001, 1:3] = 1000.0
    note = column_notes(columns_of(spiking))[0]
    assert note.startswith("2 of 4 columns have rare outliers (first: observation[1], observation")
    assert "observation[1] has values from" in note


def test_a_clock_is_scaled_by_its_pace_not_by_its_rounding() -> None:
    rng = np.random.default_rng(0)
    clock = np.tile(np.arange(101, dtype=np.float32) / np.float32(30), 40)
    encoded = columns_of(np.stack([rng.normal(0, 1, len(clock)), clock], 1))
    assert np.ptp(encoded.changes("observation")[:, 1].numpy()) > 0
    scale = encoded.statistics().change_scale["observation"]
    targets = encoded.changes("observation") / scale
    np.testing.assert_allclose(targets[:, 1], 1.0, atol=1e-3)


def test_terminal_rewards_have_a_scale_of_their_own() -> None:
    statistics = encode_episodes(counted(12), Codec(spec_of(PLAIN))).statistics()
    assert statistics.terminal_reward_center > statistics.reward_center
    assert 0 < statistics.terminal_fraction < 1
    assert statistics.reward_low == 0


def test_pixels_and_one_hots_keep_their_unit_range() -> None:
    statistics = encode_episodes(counted(12, PARTS), Codec(spec_of(PARTS))).statistics()
    assert statistics.scale["pixels"].tolist() == [1.0] * 12
    assert statistics.high["mode"].tolist() == [1.0] * 3
    assert set(data_range(counted(2, PARTS), spec_of(PARTS)).observation) == {"box"}


def test_the_data_range_is_in_the_environments_units() -> None:
    episodes = counted(12)
    ranges = data_range(episodes, spec_of(PLAIN))
    low, high = ranges.observation["observation"]
    assert (low[0], high[0]) == (0, max(map(len, episodes)))
    assert ranges.reward[0] == 0 and ranges.action is None
    assert ranges == type(ranges).from_json(json.loads(json.dumps(ranges.to_json())))


def test_starts_are_real_starts_and_states_are_never_ends() -> None:
    episodes = counted(5)
    codec = Codec(spec_of(PLAIN))
    pieces = [piece for episode in episodes for piece in (episode.cut(0, 2), episode.cut(2, 4))]
    begun = starts(encode_episodes(pieces, codec))
    assert len(begun) == 5 and begun.elapsed.tolist() == [0] * 5
    assert (begun.last()["observation"][:, 0] == 0).all()
    states = dataset_states(encode_episodes(episodes, codec), limit=10_000)
    assert len(states) == sum(map(len, episodes))
    assert torch.equal(states.elapsed, states.last()["observation"][:, 0].long())
    assert len(dataset_states(encode_episodes(pieces, codec), limit=3, seed=4)) == 3
    with pytest.raises(InitialStatesError, match=r"none of the 5 episodes starts at a reset"):
        starts(encode_episodes(pieces[1::2], codec))


def test_rare_states_of_a_table_are_taken_as_often_as_usual_ones(tmp_path: Path) -> None:
    lake = EnvConfig("FrozenLake-v1")
    store = collect(CollectConfig(lake, tmp_path / "data", steps=400), on_issues=None).load()
    encoded = encode_episodes(store, Codec(spec_of(lake)))
    before = {int(state) for episode in store for state in episode.observations[:-1]}
    assert len(before) > 8
    states = dataset_states(encoded, limit=2_000)
    assert sorted(states.last()["observation"].argmax(-1).tolist()) == sorted(before)
    few = dataset_states(encoded, limit=5).last()["observation"].argmax(-1)
    assert len(few) == 5 and set(few.tolist()) <= before
