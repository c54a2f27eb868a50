"""Open-loop errors: exact models have none, and thresholds lie where they should."""

import math
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from gymnasium import spaces
from oracle import still_twin
from torch import Tensor

from world_env.batch import Context, Observation, State, unpacked
from world_env.codec import Codec
from world_env.data import dataset as windows
from world_env.data.dataset import EncodedEpisodes, encode_episodes
from world_env.data.episode import Episode
from world_env.model_evaluation import open_loop as fidelity
from world_env.model_evaluation.errors import significant
from world_env.model_evaluation.open_loop import (
    evaluate_open_loop,
    evaluation_windows,
    one_step,
)
from world_env.model_evaluation.termination import auroc, termination_scores, termination_threshold
from world_env.models.base import Prediction, WorldModel
from world_env.models.ensemble.model import EnsembleConfig, EnsembleWorldModel
from world_env.rng import CounterRNG
from world_env.spec import WorldSpec
from world_env.types import OBSERVATION

BOUND = 8.0


def walk_spec() -> WorldSpec:
    """One number on a line; the action is added to it, the reward is where it arrives."""
    return WorldSpec(
        spaces.Box(-np.inf, np.inf, (1,), np.float32), spaces.Box(-1, 1, (1,), np.float32), 50
    )


class ExactWalk(WorldModel):
    """The walk's own equations. lag: reads the reward from the state left instead."""

    def __init__(self, spec: WorldSpec, config: object = None, *, lag: bool = False) -> None:
        super().__init__(spec, config)
        self.lag = lag

    def encode(self, context: Context, *, rng: CounterRNG) -> State:
        return {"x": context.last()[OBSERVATION]}

    def observe(
        self, state: State, action: Tensor, observation: Observation, *, rng: CounterRNG
    ) -> State:
        return {"x": observation[OBSERVATION]}

    def step(
        self,
        state: State,
        action: Tensor,
        *,
        rng: CounterRNG,
        temperature: float = 1.0,
        uncertainty: bool = False,
    ) -> tuple[State, Prediction]:
        arrived = state["x"] + action
        reward = (state["x"] if self.lag else arrived)[:, 0]
        ended = (arrived[:, 0].abs() > BOUND).float()
        return {"x": arrived}, Prediction(reward, ended)

    def decode(self, state: State) -> Observation:
        return {OBSERVATION: state["x"]}

    def features(self, state: State) -> Tensor:
        return state["x"]


def walk_episodes(episodes: int = 20, seed: int = 0) -> list[Episode]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(episodes):
        places, actions, terminated = [rng.normal()], [], False
        drift = rng.choice([-0.3, 0.3])
        while not terminated and len(actions) < 50:
            action = float(np.clip(drift + rng.normal(), -1, 1))
            actions.append([action])
            places.append(places[-1] + action)
            terminated = abs(places[-1]) > BOUND
        observations = np.array(places, np.float32)[:, None]
        made.append(
            Episode(
                observations,
                np.array(actions, np.float32),
                observations[1:, 0].copy(),
                terminated=terminated,
                truncated=not terminated,
            )
        )
    return made


def encoded(episodes: list[Episode]) -> EncodedEpisodes:
    return encode_episodes(episodes, Codec(walk_spec()))


def test_an_exact_model_has_no_error_at_any_horizon() -> None:
    curve = evaluate_open_loop(ExactWalk(walk_spec()), encoded(walk_episodes()), horizon=50)
    assert len(curve.error) == 50
    assert curve.error.max() < 1e-5 and curve.score < 1e-5
    assert curve.reward_error < 1e-4
    assert curve.hold_last[-1] > 0.5


def test_the_number_of_windows_is_limited() -> None:
    data = encoded(walk_episodes())
    model = ExactWalk(walk_spec())
    whole, few = (evaluate_open_loop(model, data, horizon=2, windows=n) for n in (256, 5))
    assert few.rows <= 5 < whole.rows <= 256


def test_a_reward_read_from_the_state_left_is_seen_as_an_error() -> None:
    data = encoded(walk_episodes())
    late = evaluate_open_loop(ExactWalk(walk_spec(), lag=True), data, horizon=10)
    assert late.error.max() < 1e-5
    assert late.reward_error > 0.3


def test_hold_last_equals_its_hand_computation() -> None:
    episode = walk_episodes(1)[0]
    place = episode.observations[:, 0]
    assert len(episode) < 256  # below that every step begins a window
    horizon = 3
    curve = evaluate_open_loop(ExactWalk(walk_spec()), encoded([episode]), horizon=horizon)
    starts = np.arange(len(episode))
    if (len(episode) - starts >= horizon).sum() >= 32:
        starts = starts[len(episode) - starts >= horizon]
    for ahead in range(1, horizon + 1):
        seen = starts[starts + ahead <= len(episode)]
        moved = place[seen + ahead] - place[seen]
        expected = math.sqrt(np.mean(moved**2)) / place.std(ddof=1)
        assert curve.hold_last[ahead - 1] == pytest.approx(expected, rel=1e-4)


def test_a_model_that_leaves_the_numbers_scores_infinity() -> None:
    class Wild(ExactWalk):
        def decode(self, state: State) -> Observation:
            return {OBSERVATION: state["x"] * float("nan")}

    assert evaluate_open_loop(
        Wild(walk_spec()), encoded(walk_episodes()), horizon=5
    ).score == float("inf")


class Coin(ExactWalk):
    """Where a coin decides which way one goes: `wide` tosses it and goes so far, 0 says the mean of both ways."""

    def __init__(self, wide: float) -> None:
        super().__init__(walk_spec())
        self.wide, self.scored_by_draws = wide, wide > 0.0

    def step(
        self, state: State, action: Tensor, *, rng: CounterRNG, **options: object
    ) -> tuple[State, Prediction]:
        way = rng.uniform(1).round() * 2.0 - 1.0
        arrived = state["x"] + self.wide * bool(options["temperature"]) * way
        zero = torch.zeros(len(arrived))
        return {"x": arrived}, Prediction(zero, zero)


def tossed(lengths: Iterable[int]) -> EncodedEpisodes:
    """Steps left or right, as a coin says."""
    rng, made = np.random.default_rng(0), []
    for seed, length in enumerate(lengths):
        ways = rng.choice([-1.0, 1.0], length).astype(np.float32)
        places = np.concatenate([np.zeros(1, np.float32), ways.cumsum()])
        nothing = np.zeros((length, 1), np.float32)
        arrays = (places[:, None].astype(np.float32), nothing, nothing[:, 0])
        made.append(Episode(*arrays, terminated=False, truncated=True, seed=seed))
    return encoded(made)


def test_energy_scores_prefer_what_may_be_to_the_mean_of_it_and_to_what_is_too_wide(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fidelity, "_MAX_WINDOWS", 4_000)
    monkeypatch.setattr(fidelity, "_ENERGY_WINDOWS", 4_000)
    data, unit = tossed([1] * 4_000), {OBSERVATION: torch.ones(1)}
    mean, fair, wide = (
        evaluate_open_loop(Coin(wide), data, horizon=1, scale=unit) for wide in (0.0, 1.0, 1.5)
    )
    assert fair.energy is not None and fair.hold_energy is not None and wide.energy is not None
    # E|X - y| is 1 either way; half of what two tosses are apart, 1/2, is what tossing may be off.
    assert fair.energy[0] == pytest.approx(0.5, abs=0.05)
    assert wide.energy[0] == pytest.approx(1.5 - 0.75, abs=0.05)
    assert mean.energy is None and mean.error[0] == fair.hold_energy[0] == 1.0
    asked = evaluate_open_loop(Coin(0.0), data, horizon=1, scale=unit, energies=True)
    assert (
        asked.energy is not None and asked.energy[0] == 1.0
    )  # the mean of both ways is never there
    assert asked.score == mean.score
    tossing = evaluate_open_loop(Coin(1.0), data, horizon=1, scale=unit, temperature=1.0)
    assert tossing.error[0] == pytest.approx(math.sqrt(2.0), abs=0.05)
    # Distances of 2 saturate at 2/3: half of them, less a quarter of them.
    assert fair.score == pytest.approx(1 / 6, abs=0.02)
    assert fair.score < wide.score < mean.score == 0.5
    assert fair.rounded().energy and fair.rounded().hold_energy and not mean.rounded().energy


@pytest.mark.parametrize(
    "lengths", [[170, 201, 200, 199, 150], [50] * 3 + [199] + [31] * 4, [1, 2, 3]]
)
@pytest.mark.parametrize("horizon", [20, 400])
def test_energy_scores_reach_as_far_as_the_errors(lengths: list[int], horizon: int) -> None:
    curve = evaluate_open_loop(Coin(1.0), tossed(lengths), horizon=horizon)
    assert curve.energy is not None and curve.hold_energy is not None
    assert len(curve.energy) == len(curve.hold_energy) == len(curve.error)
    assert np.isfinite(curve.energy).all() and np.isfinite(curve.hold_energy).all()
    assert math.isfinite(curve.score)


def test_no_more_pixels_are_unpacked_at_once_than_there_are_windows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = WorldSpec(spaces.Box(0, 255, (8, 8), np.uint8), spaces.Box(-1.0, 1.0, (1,)), horizon=60)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (61, 8, 8)).astype(np.uint8)
    nothing = np.zeros((60, 1), np.float32)
    episode = Episode(frames, nothing, nothing[:, 0], terminated=False, truncated=True)
    twin, most = still_twin(spec), []
    data = encode_episodes([episode], twin.codec)

    def spied(value: Tensor) -> Tensor:
        most.append(math.prod(value.shape[:-3]))
        return unpacked(value)

    monkeypatch.setattr(windows, "unpacked", spied)
    curve = evaluate_open_loop(twin.model, data, horizon=20, energies=True)
    # 41 whole windows, and two rollouts of each for energy scores.
    assert curve.rows == 41 and max(most) == 2 * 41
    assert curve.error.tolist() == curve.hold_last.tolist()


def test_one_step_gives_every_transition_its_label() -> None:
    episodes = walk_episodes()
    data = encoded(episodes)
    probability, label, uncertainty = one_step(ExactWalk(walk_spec()), data)
    assert len(probability) == len(label) == sum(map(len, episodes))
    assert int(label.sum()) == sum(episode.terminated for episode in episodes) > 0
    torch.testing.assert_close(probability, label)
    assert bool(uncertainty.isnan().all())


def test_ends_are_judged_as_a_simulator_draws_them() -> None:
    class Cliff(Coin):
        """One way there is the end, and `temperature` 0 always goes the other way."""

        def step(
            self, state: State, action: Tensor, *, rng: CounterRNG, **options: object
        ) -> tuple[State, Prediction]:
            arrived, said = super().step(state, action, rng=rng, **options)
            return arrived, Prediction(said.reward, (arrived["x"][:, 0] > state["x"][:, 0]).float())

    probability, _, _ = one_step(Cliff(1.0), tossed([1] * 400))
    assert set(probability.tolist()) == {0.0, 1.0}
    assert 0.4 < float(probability.mean()) < 0.6
    assert not one_step(Cliff(0.0), tossed([1] * 400))[0].any()


def ensemble() -> EnsembleWorldModel:
    """Untrained, with random weights everywhere."""
    model = EnsembleWorldModel(walk_spec(), EnsembleConfig(width=8, head_width=8))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def test_transitions_judged_in_chunks_are_judged_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    data, model = encoded(walk_episodes()), ensemble()
    at_once = one_step(model, data, seed=3)
    assert len(data) > 2 * 64
    monkeypatch.setattr(fidelity, "_CHUNK", 64)
    for part, whole in zip(one_step(model, data, seed=3), at_once, strict=True):
        torch.testing.assert_close(part, whole)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_window_that_ends_leaves_the_others_errors_alone(temperature: float) -> None:
    data, model = encoded(walk_episodes()), ensemble()
    batch = evaluation_windows(data, 50)
    curve = evaluate_open_loop(model, data, horizon=50, seed=2, temperature=temperature)
    assert bool(batch.valid[:, 0].all()) and not bool(batch.valid[:, -1].all())
    # All windows rolled on to the end, and the ended ones left out of each mean afterwards.
    rng = CounterRNG.from_seed(2, len(batch))
    with torch.no_grad():
        state = model.encode(Context.from_observation(batch.start(), 1), rng=rng)
        for step in range(batch.actions.shape[1]):
            action = batch.actions[:, step]
            state, _ = model.step(state, action, rng=rng, temperature=temperature)
            real = batch.observations[OBSERVATION][:, step + 1]
            miss = (model.decode(state)[OBSERVATION] - real)[batch.valid[:, step]]
            expected = float(miss.square().mean().sqrt() / data.observations[OBSERVATION].std())
            assert curve.error[step] == pytest.approx(expected, rel=1e-4)
    assert curve.rows == len(batch)


def test_evaluation_windows_are_few_and_whole_where_there_are_enough() -> None:
    data = encoded(walk_episodes(60))
    batch = evaluation_windows(data, 5)
    assert 32 <= len(batch) <= 256
    assert bool(batch.valid.all())


def test_every_step_of_the_curve_rests_on_a_window() -> None:
    # One episode is longer than the rest, and the stride over so many steps skips its first one.
    rng = np.random.default_rng(0)
    episodes = [
        Episode(
            rng.normal(size=(steps + 1, 1)).astype(np.float32),
            np.zeros((steps, 1), np.float32),
            np.zeros(steps, np.float32),
            terminated=False,
            truncated=True,
        )
        for steps in (9, 40, *[9] * 50)
    ]
    data = encoded(episodes)
    assert int(evaluation_windows(data, 200).valid[:, -1].sum()) > 0
    assert np.isfinite(evaluate_open_loop(ExactWalk(walk_spec()), data, horizon=200).score)


def test_the_threshold_lies_between_perfectly_separated_classes() -> None:
    probability = torch.tensor([0.01, 0.02, 0.03, 0.9, 0.95])
    label = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0])
    threshold = termination_threshold(probability, label)
    assert 0.03 < threshold < 0.9
    scores = termination_scores(probability, label, threshold)
    assert scores.precision == scores.recall == 1.0
    assert scores.terminal_labels == 2


def test_the_threshold_of_timid_probabilities_is_low() -> None:
    probability = torch.tensor([0.01, 0.02, 0.03, 0.2, 0.25])
    threshold = termination_threshold(probability, torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0]))
    assert 0.03 < threshold < 0.2


def test_without_an_end_the_threshold_is_even_odds() -> None:
    assert termination_threshold(torch.rand(10), torch.zeros(10)) == 0.5


def test_scores_that_nothing_defines_are_none() -> None:
    scores = termination_scores(torch.zeros(4), torch.zeros(4), 0.5)
    assert scores.precision is None and scores.recall is None
    assert scores.brier == 0.0 and scores.terminal_labels == 0


def test_auroc_is_the_chance_of_the_right_order() -> None:
    label = np.array([False, False, True, True])
    assert auroc(np.array([1.0, 2.0, 3.0, 4.0]), label) == 1.0
    assert auroc(np.array([4.0, 3.0, 2.0, 1.0]), label) == 0.0
    assert auroc(np.array([1.0, 3.0, 2.0, 4.0]), label) == 0.75
    assert auroc(np.ones(4), label) == 0.5


def test_numbers_are_told_at_five_digits_and_only_if_they_are_numbers() -> None:
    values = [1.23456789, 123456.789, 1.5e-7, float("nan"), -float("inf")]
    assert significant(values) == [1.2346, 123460.0, 1.5e-7, None, None]
