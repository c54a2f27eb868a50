"""Episodes that end by chance end by chance in the twin, at the same rate, and only those."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from oracle import CartPoleOracle, OracleConfig, oracle_twin, real_episodes

from world_env.collection.collect import collect
from world_env.collection.config import CollectConfig
from world_env.data.episode import Episode
from world_env.data.sources import open_dataset
from world_env.envs.sb3_vec_env import WorldModelSB3VecEnv
from world_env.errors import InvalidOptionError, TwinFormatError
from world_env.fitting.config import FitConfig
from world_env.fitting.fit import fit, fit_episodes
from world_env.model_evaluation.survival import survival
from world_env.model_evaluation.termination_rule import (
    calibrating_shift,
    choose_termination_rule,
    miscounts_ends,
)
from world_env.policy_evaluation.compare import compare
from world_env.real.step_ledger import StepLedger
from world_env.results.fidelity import Fidelity, TerminationRule
from world_env.rl.learn import LearnConfig, learn
from world_env.rollouts.learned import run_learned
from world_env.simulation.simulator import Simulator, SimulatorConfig
from world_env.spec import EnvConfig, WorldSpec
from world_env.twin.twin import Twin
from world_env.twin.warning_rules import warnings_of

pytestmark = pytest.mark.filterwarnings("ignore::world_env.fitting.preconditions.FitWarning")

BOX = spaces.Box(-1, 1, (1,), np.float32)
SPEC = WorldSpec(spaces.Box(-10, 10, (1,), np.float32), BOX, horizon=200)
FIT = FitConfig(
    gradient_steps=300, validate_every=100, model={"members": 2, "width": 32, "head_width": 32}
)
End = Callable[[np.random.Generator, float, float], bool]
"""(random numbers, position, action) -> whether the step ends the episode."""


def walks(steps: int, end: End, seed: int = 0, limit: int = 200) -> list[Episode]:
    """Random walks of at least `steps` steps in all."""
    rng, episodes = np.random.default_rng(seed), []
    while sum(map(len, episodes)) < steps:
        places, actions, ended = [rng.uniform(-0.5, 0.5)], [], False
        while not ended and len(actions) < limit:
            actions.append(rng.uniform(-1, 1))
            places.append(places[-1] + 0.1 * actions[-1])
            ended = end(rng, places[-1], actions[-1])
        episodes.append(
            Episode(
                np.array(places, np.float32)[:, None],
                np.array(actions, np.float32)[:, None],
                np.ones(len(actions), np.float32),
                terminated=ended,
                truncated=not ended,
            )
        )
    return episodes


def chance(probability: float) -> End:
    return lambda rng, place, action: bool(rng.random() < probability)


def lengths(twin: Twin, action: float, episodes: int = 300) -> np.ndarray:
    """Lengths of learned episodes that start in the middle, under a constant action."""
    policy = lambda seen: np.full((len(seen), 1), action, np.float32)  # noqa: E731
    return run_learned(policy, twin, np.zeros((episodes, 1), np.float32)).lengths


@pytest.fixture(scope="module")
def hazard() -> Twin:
    return fit_episodes(walks(2_000, chance(0.2)), SPEC, FIT)


def test_ends_by_chance_are_sampled_at_their_rate(hazard: Twin) -> None:
    assert hazard.termination == "sample"
    # The mean of 300 lengths of mean 5 has a standard error of 0.26.
    assert lengths(hazard, 0.0).mean() == pytest.approx(5.0, abs=1.2)
    forced = SimulatorConfig(termination="threshold")
    assert Simulator(hazard, 2, config=forced)._samples_ends is False


def test_the_choice_is_recorded_with_its_lengths_and_shown_on_the_card(hazard: Twin) -> None:
    rule = hazard.fidelity.termination_rule
    assert rule is not None and rule.rule == "sample"
    assert rule.learned_length == rule.sample_length
    assert rule.real_length == pytest.approx(5.0, abs=1.5)
    assert rule.sample_gap < 0.2 < rule.threshold_gap
    assert "Terminations are sampled from the predicted probability" in hazard.card()
    assert not [text for text in warnings_of(hazard.fidelity) if "number of terminations" in text]


def test_every_stage_reads_the_rule_of_the_twin(hazard: Twin, tmp_path: Path) -> None:
    loaded = Twin.load(hazard.save(tmp_path / "twin"))
    assert loaded.termination == "sample"
    assert loaded.fingerprint() == hazard.fingerprint()
    threshold = dataclasses.replace(hazard, termination="threshold")
    assert threshold.fingerprint() != hazard.fingerprint()
    env = WorldModelSB3VecEnv(loaded, 50, seed=0)
    env.reset()
    ended = sum(int(env.step(np.zeros((50, 1), np.float32))[2].sum()) for _ in range(40))
    # 2,000 steps with a probability of 0.2.
    assert ended == pytest.approx(400, abs=120)
    real = walks(600, chance(0.2), seed=5)
    curves, missed = survival(loaded, real), survival(threshold, real)
    assert curves is not None and missed is not None

    def gap(found: Any) -> float:
        return max(abs(a - b) for a, b in zip(found.real, found.learned, strict=True))

    assert gap(curves) < 0.15 < gap(missed)


def test_rare_ends_of_few_episodes_are_sampled_on_all_data() -> None:
    episodes = walks(4_000, chance(0.01))
    assert sum(episode.terminated for episode in episodes) < 60
    twin = fit_episodes(episodes, SPEC, FIT)
    assert twin.termination == "sample"
    kept = np.mean(lengths(twin, 0.0) == 200)
    assert kept == pytest.approx(0.99**200, abs=0.15)


def edge(rng: np.random.Generator, place: float, action: float) -> bool:
    """End that the state tells."""
    return abs(place) > 0.6


def test_ends_that_the_state_tells_keep_the_threshold() -> None:
    twin = fit_episodes(walks(2_000, edge), SPEC, FIT)
    assert twin.termination == "threshold"
    assert twin.fidelity.termination_rule is None
    assert "termination_rule" not in twin.fidelity.to_json()
    assert np.ptp(lengths(twin, 1.0)) <= 3


def test_likely_ends_by_chance_are_not_certain_ones() -> None:
    twin = fit_episodes(walks(800, chance(0.65)), SPEC, FIT)
    assert twin.termination == "sample"
    # The threshold would end every episode after its first step.
    assert 1.2 < lengths(twin, 0.0).mean() < 2.0


@pytest.mark.slow
def test_learned_ends_that_the_state_tells_keep_the_threshold() -> None:
    config = FIT.replace(hard_termination_bounds=False, gradient_steps=1_000)
    twin = fit_episodes(walks(2_000, edge), SPEC, config)
    assert twin.termination == "threshold"
    assert np.ptp(lengths(twin, 1.0)) <= 3


def test_chance_and_hard_bounds_hold_together() -> None:
    both: End = lambda rng, place, action: abs(place) > 0.5 or rng.random() < 0.04  # noqa: E731
    twin = fit_episodes(walks(3_000, both), SPEC, FIT)
    assert twin.termination == "sample"
    assert twin.fidelity.termination is not None and len(twin.fidelity.termination.bounds) == 2
    # The bound ends every episode after at most 6 steps to the right; in the middle, chance ends them.
    assert lengths(twin, 1.0).max() <= 6
    assert 15 < lengths(twin, 0.0).mean() < 45


def test_too_few_ends_tell_nothing() -> None:
    assert not miscounts_ends(torch.full((900,), 0.01), torch.arange(900) < 9, 0.5)
    assert miscounts_ends(torch.full((900,), 0.01), torch.arange(900) < 10, 0.5)
    # A region in which most steps are terminal: the threshold calls all of them.
    assert miscounts_ends(torch.full((50,), 0.6), torch.arange(50) % 5 < 3, 0.5)
    # As many false terminations as missed ones: the edge of a region, no chance.
    probability = torch.where(torch.arange(900) % 90 == 45, 0.9, 0.1)
    assert not miscounts_ends(probability, torch.arange(900) % 90 == 44, 0.5)


class Leaky(CartPoleOracle):
    """The right ends, and a small probability everywhere else."""

    def step(self, state, action, **options):  # type: ignore[no-untyped-def]
        arrived, prediction = super().step(state, action, **options)
        leaking = prediction.terminated.clamp(min=0.003)
        return arrived, dataclasses.replace(prediction, terminated=leaking)


def test_a_small_probability_everywhere_is_no_reason_to_sample() -> None:
    exact = oracle_twin("CartPole-v1")
    twin = dataclasses.replace(exact, model=Leaky(exact.spec, OracleConfig()).eval())
    sampling = dataclasses.replace(twin, termination="sample")
    rule = choose_termination_rule(twin, sampling, real_episodes("CartPole-v1", 60))
    assert rule is not None and rule.rule == "threshold"
    assert rule.threshold_gap == 0.0 and rule.learned_length == rule.real_length
    assert rule.sample_length < rule.real_length


def test_probabilities_are_shifted_until_they_sum_up_to_the_ends() -> None:
    label = (torch.arange(1_000) % 10 == 0).float()
    probability = torch.linspace(0.1, 0.5, 1_000)
    shift = calibrating_shift(probability, label)
    assert float((probability.logit() + shift).sigmoid().sum()) == pytest.approx(100.0, abs=1e-3)
    assert calibrating_shift(torch.full((1_000,), 0.11), label) == 0.0
    # What a hard bound ends is no matter of the probability.
    beyond = torch.cat([torch.ones(50), torch.full((1_000,), 0.1)])
    assert calibrating_shift(beyond, torch.cat([torch.ones(50), label])) == 0.0


def test_a_shift_of_the_log_odds_shifts_the_model_exactly(hazard: Twin) -> None:
    from copy import deepcopy

    from world_env.data.dataset import encode_episodes
    from world_env.model_evaluation.open_loop import one_step

    model: Any = deepcopy(hazard.model)
    assert model.shift_termination(-1.5)
    data = encode_episodes(walks(200, chance(0.2)), hazard.codec)
    before, after = (one_step(each, data)[0].logit() for each in (hazard.model, model))
    torch.testing.assert_close(after, before - 1.5, atol=1e-4, rtol=1e-4)


def test_a_rule_that_leaves_a_gap_is_a_warning() -> None:
    def warned(gap: float) -> bool:
        rule = TerminationRule(
            rule="threshold", episodes=100, real_length=5.0, threshold_length=20.0,
            sample_length=21.0, threshold_gap=gap, sample_gap=gap,
        )  # fmt: skip
        texts = warnings_of(Fidelity(termination_rule=rule))
        return any(
            "is 20 steps in the twin and 5 steps in the real environment" in t for t in texts
        )

    assert warned(0.16) and not warned(0.14)


def test_twins_on_disk_have_a_known_rule(hazard: Twin, tmp_path: Path) -> None:
    threshold = dataclasses.replace(hazard, termination="threshold").save(tmp_path / "old")
    assert "termination" not in json.loads((threshold / "twin.json").read_text())
    folder = hazard.save(tmp_path / "twin")
    tree = json.loads((folder / "twin.json").read_text())
    assert tree["termination"] == "sample"
    (folder / "twin.json").write_text(json.dumps(tree | {"termination": "never"}))
    with pytest.raises(TwinFormatError, match="'never', expected one of 'threshold', 'sample'"):
        Twin.load(folder)
    with pytest.raises(InvalidOptionError, match="termination is 'never'"):
        dataclasses.replace(hazard, termination="never")  # type: ignore[arg-type]


class Bandit(gym.Env):
    """Contextual bandit: each episode has one step. The reward is 1 for the action with the sign of the context."""

    observation_space, action_space = BOX, spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.context = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.context.copy(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        return self.context.copy(), float((self.context[0] > 0) == action), True, False, {}


gym.register("Bandit-v0", entry_point=Bandit, max_episode_steps=5)


def test_episodes_of_one_step_go_through_every_stage(tmp_path: Path) -> None:
    ledger = StepLedger()
    store = collect(CollectConfig(EnvConfig("Bandit-v0"), tmp_path / "data", 400), ledger=ledger)
    assert (store.steps, len(store)) == (400, 400)
    twin = fit(tmp_path / "data", tmp_path / "twin", FIT)
    model = learn(twin, LearnConfig(steps=12_000, num_envs=32))
    (row,) = compare(twin, {"ppo": model}, ledger=ledger, episodes=50).rows
    assert row.real_mean > 0.85
    assert row.learned_mean == pytest.approx(row.real_mean, abs=0.2)
    _, episodes, _ = open_dataset(str(tmp_path / "data"))
    curves = survival(twin, list(episodes)[:50])
    assert curves is not None and curves.learned == [0.0]


@pytest.mark.parametrize("family", ["ensemble", "linear"])
def test_episodes_of_one_step_are_fitted(family: str) -> None:
    """A contextual bandit: the reward is 1 for the action with the sign of the observation."""
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(400):
        seen, action = rng.uniform(-1, 1, (1, 1)), rng.uniform(-1, 1, (1, 1))
        reward = (seen * action > 0).astype(np.float32)[0]
        both = np.repeat(seen, 2, 0).astype(np.float32)
        episodes.append(Episode(both, action.astype(np.float32), reward, True, False))
    config = FIT if family == "ensemble" else FIT.replace(family=family, model={})
    twin = fit_episodes(episodes, SPEC, config)
    assert (lengths(twin, 0.5) == 1).all()
    if family == "ensemble":
        first = np.tile(np.array([[-0.8], [0.8]], np.float32), (20, 1))
        right = lambda seen: np.sign(seen)  # noqa: E731
        wrong = lambda seen: -np.sign(seen)  # noqa: E731
        good, bad = (run_learned(policy, twin, first).values.mean() for policy in (right, wrong))
        assert good > 0.7 > 0.3 > bad
    assert math.isfinite(twin.fidelity.loss.best_open_loop or 0.0)
