"""A dimension that spikes rarely costs the others nothing: not in learning, not in choosing, not in uncertainty."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

import world_env.data.dataset
import world_env.fitting.fit
from world_env.batch import Context
from world_env.codec import Codec
from world_env.data.column_structure import unit_vectors
from world_env.data.dataset import EncodedEpisodes, encode_episodes
from world_env.data.episode import Episode
from world_env.data.statistics import floored_deviation
from world_env.fitting.config import FitConfig
from world_env.fitting.fit import fit_episodes
from world_env.model_evaluation.errors import scales_of
from world_env.model_evaluation.open_loop import OpenLoop, evaluate_open_loop
from world_env.rng import CounterRNG
from world_env.spec import WorldSpec
from world_env.twin.twin import Twin
from world_env.types import OBSERVATION

pytestmark = pytest.mark.filterwarnings("ignore::world_env.fitting.preconditions.FitWarning")

SPIKE = 1000.0
LENGTH = 50
SMALL = FitConfig(
    gradient_steps=250,
    batch_size=128,
    learning_rate=3e-3,
    validate_every=125,
    seed=1,
    model={"members": 2, "width": 32, "layers": 2, "head_width": 16, "rollout": 2},
)


def spec_of(size: int) -> WorldSpec:
    box = spaces.Box(-np.inf, np.inf, (size,), np.float32)
    return WorldSpec(box, spaces.Box(-1, 1, (1,), np.float32), LENGTH)


def swings(spiking: bool, constant: bool = False, episodes: int = 40) -> list[Episode]:
    """A pushed spring, exactly linear; beside it what spikes in one row of each tenth episode, and what never moves."""
    made = []
    for number in range(episodes):
        rng = np.random.default_rng(number)
        rows, actions = [rng.normal(0, 1, 2)], rng.uniform(-1, 1, (LENGTH, 1))
        for (push,) in actions:
            place, speed = rows[-1]
            rows.append(np.array([place + 0.2 * speed, speed - 0.2 * place + 0.2 * push]))
        columns = [np.array(rows)]
        if spiking:
            spikes = np.zeros((LENGTH + 1, 1))
            spikes[rng.integers(5, LENGTH - 5)] = SPIKE * (number % 10 == 0)
            columns.append(spikes)
        if constant:
            columns.append(np.full((LENGTH + 1, 1), 7.0))
        observations = np.concatenate(columns, 1).astype(np.float32)
        made.append(
            Episode(
                observations,
                actions.astype(np.float32),
                observations[1:, 0].copy(),
                terminated=False,
                truncated=True,
            )
        )
    return made


def encoded(episodes: list[Episode]) -> EncodedEpisodes:
    return encode_episodes(episodes, Codec(spec_of(episodes[0].observations.shape[1])))


@pytest.fixture(scope="module")
def plain() -> Twin:
    return fitted(swings(spiking=False))


@pytest.fixture(scope="module")
def spiked() -> Twin:
    return fitted(swings(spiking=True, constant=True))


def fitted(episodes: list[Episode], **model: float) -> Twin:
    config = SMALL.replace(model=SMALL.model | model)
    return fit_episodes(episodes, spec_of(episodes[0].observations.shape[1]), config)


@torch.no_grad()
def errors_after(twin: Twin, data: EncodedEpisodes, steps: int) -> torch.Tensor:
    """(D,) root mean square errors after some steps of calm, task units."""
    batch = data.gather(torch.nonzero(data.left >= steps).squeeze(1), steps)
    calm = (batch.observations[OBSERVATION][..., 2:3] != SPIKE).all(-1).all(-1)
    batch = data.gather(torch.nonzero(data.left >= steps).squeeze(1)[calm], steps)
    rng = CounterRNG.from_seed(0, len(batch))
    state = twin.model.encode(Context.from_observation(batch.start(), 1), rng=rng)
    for step in range(steps):
        state, _ = twin.model.step(state, batch.actions[:, step], rng=rng, temperature=0.0)
    missed = twin.model.decode(state)[OBSERVATION] - batch.observations[OBSERVATION][:, -1]
    return missed.square().mean(0).sqrt()


def test_units_are_floored_deviation_with_a_floor_and_one_where_nothing_moves() -> None:
    data = encoded(swings(spiking=True, constant=True))
    values, scale = data.observations[OBSERVATION], scales_of(data)[OBSERVATION]
    torch.testing.assert_close(scale[:2], values[:, :2].std(0))
    assert values[:, 2].std() < 0.045 * SPIKE and scale[2] == 0.05 * SPIKE
    assert scale[3] == 1


def test_a_unit_of_few_rows_is_finite() -> None:
    assert floored_deviation(torch.tensor([[3.0, -2.0]])).tolist() == [1.0, 1.0]
    torch.testing.assert_close(
        floored_deviation(torch.tensor([[1.0], [3.0]])), torch.tensor([2.0**0.5])
    )


def test_other_dimensions_are_learned_as_well_beside_a_spiking_and_a_constant_one(
    plain: Twin, spiked: Twin
) -> None:
    episodes = swings(spiking=True, constant=True)
    reference = errors_after(plain, encoded(swings(spiking=False)), 5)
    errors = errors_after(spiked, encoded(episodes), 5)
    assert (errors[:2] / reference).mean() < 1.4
    assert errors[3] == 0
    # The fault: a likelihood under which a spike counts by the square of its surprise.
    faulty = errors_after(fitted(episodes, huber_delta=1e9), encoded(episodes), 5)
    assert (faulty[:2] / reference).mean() > 1.4


def test_held_out_episodes_without_a_spike_still_tell_models_apart(
    spiked: Twin,
) -> None:
    calm = [episode for episode in swings(True, True) if episode.observations[:, 2].max() == 0]
    data, scale = encoded(calm), scales_of(encoded(swings(True, True)))
    in_old_units = {OBSERVATION: data.observations[OBSERVATION].std(0).clamp(min=1e-6)}
    old = evaluate_open_loop(spiked.model, data, horizon=20, scale=in_old_units)
    assert old.score > 0.9  # the fault: one column that never moved here decides alone
    assert evaluate_open_loop(spiked.model, data, horizon=20, scale=scale).score < 0.4
    assert evaluate_open_loop(spiked.model, data, horizon=20).hold_last[-1] < 5


def test_a_fit_measures_in_the_units_of_all_its_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watched(*arguments: Any, **options: Any) -> OpenLoop:
        seen.append(options["scale"][OBSERVATION])
        return evaluate_open_loop(*arguments, **options)

    monkeypatch.setattr(world_env.fitting.fit, "evaluate_open_loop", watched)
    episodes = swings(spiking=True)
    config = SMALL.replace(gradient_steps=2, validate_every=1)
    fit_episodes(episodes, spec_of(3), config)
    wanted = scales_of(encoded(episodes))[OBSERVATION]
    assert len(seen) == 3 and all(torch.equal(scale, wanted) for scale in seen)


@torch.no_grad()
def test_uncertainty_is_not_about_the_spike(spiked: Twin) -> None:
    data = encoded(swings(spiking=True, constant=True))
    model: Any = spiked.model
    batch = data.gather(torch.arange(len(data)), 1)
    normalized = model.normalizer.normalize(batch.start()[OBSERVATION])
    mean, _ = model.dynamics(torch.cat([normalized, batch.actions[:, 0]], -1)[None]).chunk(2, -1)
    calm = (batch.observations[OBSERVATION][..., 2] == 0).all(-1)
    share = mean.var(0)[calm].mean(0)
    assert share[2:].sum() < share[:2].sum()


def columns_of(*columns: np.ndarray) -> Episode:
    observations = np.stack(columns, 1).astype(np.float32)
    steps = len(observations) - 1
    return Episode(
        observations,
        np.zeros((steps, 1), np.float32),
        np.zeros(steps, np.float32),
        terminated=False,
        truncated=True,
    )


def test_unit_vectors_are_found_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.uniform(-4, 4, (2, 500))
    turn = rng.normal(size=(500, 4))
    turn /= np.linalg.norm(turn, axis=1, keepdims=True)
    way = turn[:, :3] / np.linalg.norm(turn[:, :3], axis=1, keepdims=True)
    nearly = np.sin(one) + 0.01
    columns = [one, np.cos(one), np.sin(other), *turn.T, np.sin(one), np.cos(other), nearly, *way.T]
    values = np.stack([*columns, np.ones(500), np.zeros(500)], 1).astype(np.float32)
    assert sorted(unit_vectors(values)) == [(1, 7), (2, 8), (3, 4, 5, 6), (10, 11, 12)]
    assert unit_vectors(rng.uniform(-1, 1, (500, 6)).astype(np.float32)) == []
    # A constant pair tells nothing, and a quaternion that hardly turns fits many others.
    assert unit_vectors(np.ones((50, 2), np.float32) * np.float32(np.sqrt(0.5))) == []
    small = np.column_stack([np.ones(500), 7e-4 * turn[:, 1:], 1e-4 * one]).astype(np.float32)
    small[:, 0] = np.sqrt(1.0 - np.square(small[:, 1:4]).sum(1))
    assert unit_vectors(small) == []
    # One of several classes is no direction.
    assert unit_vectors(np.eye(3, dtype=np.float32)[rng.integers(3, size=500)]) == []


def test_many_columns_are_looked_through_at_once() -> None:
    rng = np.random.default_rng(2)
    values = rng.uniform(-1, 1, (200, 1200)).astype(np.float32)
    values[:, 1100] = np.sqrt(1.0 - np.square(values[:, 3]))
    assert unit_vectors(values) == [(3, 1100)]


def test_a_table_of_numbers_is_as_good_as_a_row_of_them() -> None:
    table = spaces.Box(-np.inf, np.inf, (2, 1), np.float32)
    spec = WorldSpec(table, spaces.Box(-1, 1, (1,), np.float32), LENGTH)
    episodes = [
        dataclasses.replace(episode, observations=episode.observations[:, :, None])
        for episode in swings(spiking=False)
    ]
    twin = fit_episodes(episodes, spec, SMALL.replace(gradient_steps=2, validate_every=1))
    flat = encoded(swings(spiking=False)).statistics()
    torch.testing.assert_close(
        twin.model.normalizer.scale, flat.scale[OBSERVATION], rtol=0.1, atol=0.0
    )


def test_what_comes_back_to_rest_is_not_carried_but_a_flag_and_a_place_are() -> None:
    rng = np.random.default_rng(1)
    steps = np.arange(2001)
    spikes = np.where(rng.random(2001) < 0.1, rng.normal(0, 5, 2001), 0.0)
    flag = (steps // 400 % 3 == 2).astype(float)
    place = np.cumsum(rng.normal(0, 0.1, 2001))
    episode = columns_of(spikes, flag, place, np.full(2001, 3.0), np.cos(place), np.sin(place))
    found = encoded([episode]).statistics()
    assert found.carried[OBSERVATION].tolist() == [0, 1, 1, 1, 1, 1]
    assert found.change_scale[OBSERVATION][0] == found.scale[OBSERVATION][0]
    assert found.unit_vectors[OBSERVATION].tolist() == [-1, -1, -1, -1, 0, 0]


def test_an_angle_keeps_its_length_over_a_long_time() -> None:
    """A pendulum's sine and cosine: without the tie, small errors make circles larger or smaller."""
    lengths = []
    for tied in (True, False):
        episodes = [turning(number) for number in range(20)]
        with pytest.MonkeyPatch.context() as patch:
            if not tied:
                patch.setattr(world_env.data.dataset, "unit_vectors", lambda values: [])
            twin = fit_episodes(episodes, spec_of(3), SMALL.replace(gradient_steps=125))
        rng = CounterRNG.from_seed(0, 20)
        first = torch.as_tensor(np.stack([e.observations[0] for e in episodes]))
        model = twin.model
        state = model.encode(Context.from_observation({OBSERVATION: first}, 1), rng=rng)
        with torch.no_grad():
            for _ in range(300):
                state, _ = model.step(state, torch.zeros(20, 1), rng=rng)
        lengths.append(state["observation"][:, :2].norm(dim=1))
    torch.testing.assert_close(lengths[0], torch.ones(20))
    assert (lengths[1] - 1.0).abs().mean() > 0.02


def turning(number: int) -> Episode:
    """A wheel at a speed of its own, as cosine, sine and speed."""
    speed = np.random.default_rng(number).uniform(0.05, 0.2)
    angle = number + speed * np.arange(LENGTH + 1)
    return columns_of(np.cos(angle), np.sin(angle), np.full(LENGTH + 1, speed))
