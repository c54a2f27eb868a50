"""Policies are chosen, and their training ended, by what twins think that they did not learn to please."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import oracle_twin

from training.scripted_policies import balance
from world_env.errors import InvalidOptionError
from world_env.policies.saved_policy import load_policy
from world_env.refinement.keeper import Keeper, estimate
from world_env.rl.callbacks import growing_branches
from world_env.rl.learn import LearnConfig, learn
from world_env.rollouts.learned import run_learned
from world_env.simulation.simulator import Simulator, SimulatorConfig

CARTPOLE = "CartPole-v1"
TINY = {"n_steps": 32, "batch_size": 64, "n_epochs": 1}


def scripted(observation: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return balance(observation)


def left(observation: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.zeros(len(observation), np.int64)


def test_an_estimate_is_the_least_that_the_twins_think() -> None:
    long, short = (oracle_twin(CARTPOLE, horizon=horizon) for horizon in (60, 20))
    assert estimate(scripted, [long]) == 60.0
    assert estimate(scripted, [long, short]) == estimate(scripted, [short, long]) == 20.0
    assert estimate(left, [long, short]) < 12.0


class Planned:
    """Estimates as they come, one a look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
        self.values, self.looks = values, 0
        monkeypatch.setattr("world_env.refinement.keeper.estimate", self)

    def __call__(self, *arguments: Any, **options: Any) -> float:
        self.looks += 1
        return self.values[self.looks - 1]


def trained(folder: Path, **change: Any) -> tuple[Any, Keeper, list[np.ndarray]]:
    """(algorithm, its keeper, the first weights before each rollout)."""
    from stable_baselines3.common.callbacks import BaseCallback

    twin = oracle_twin(CARTPOLE, horizon=30)
    keeper = Keeper([twin], folder / "kept", every=256, **{"patience": 2, **change})
    seen: list[np.ndarray] = []

    class Weights(BaseCallback):
        def _on_rollout_start(self) -> None:
            first = next(iter(self.model.policy.parameters()))
            seen.append(first.detach().numpy().copy())

        def _on_step(self) -> bool:
            return True

    config = LearnConfig(steps=2_048, rows=8, options=TINY)
    return learn(twin, config, callbacks=[Weights(), keeper]), keeper, seen


def test_the_policy_that_is_thought_best_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Planned(monkeypatch, [1.0, 3.0, 2.0, 2.5, 2.9, 0.0, 0.0, 0.0])
    model, keeper, seen = trained(tmp_path, patience=100)
    assert [steps for steps, _ in keeper.estimates] == list(range(256, 2_049, 256))
    kept = next(iter(load_policy(tmp_path / "kept").policy.parameters())).detach().numpy()
    np.testing.assert_array_equal(kept, next(iter(model.policy.parameters())).detach().numpy())
    # The second look was before the third rollout, and after the second.
    np.testing.assert_array_equal(kept, seen[2])


def test_a_training_that_no_longer_helps_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = Planned(monkeypatch, [1.0, 3.0, 2.0, 2.0, 9.0, 9.0])
    model, keeper, _ = trained(tmp_path, patience=2)
    assert planned.looks == 4
    assert model.num_timesteps < 2_048
    assert max(value for _, value in keeper.estimates) == 3.0


def test_branches_end_where_they_may_and_rollouts_from_real_starts_go_on() -> None:
    twin = oracle_twin(CARTPOLE)
    simulator = Simulator(twin, 2, seed=0, config=SimulatorConfig(branch_length=5))
    context = {
        "observations": np.zeros((2, 1, 4), np.float32),
        "actions": np.zeros((2, 0), np.int64),
        "elapsed": np.array([0, 7]),
    }
    simulator.reset(options={"context": context})
    ends = []
    for step in range(8):
        running = ~simulator.finished
        result = simulator.step(np.full(2, step % 2), rows=running)
        ends.append([result.end[row] if running[row] else None for row in range(2)])
    rollout = 3
    assert ends == [[0, 0]] * 4 + [[0, rollout]] + [[0, None]] * 3


def test_a_branch_that_terminates_is_no_truncation() -> None:
    twin = oracle_twin(CARTPOLE)
    simulator = Simulator(twin, 1, seed=0, config=SimulatorConfig(branch_length=1))
    fallen = {
        "observations": np.array([[[0.0, 0.0, 0.5, 0.0]]], np.float32),
        "actions": np.zeros((1, 0), np.int64),
        "elapsed": np.array([3]),
    }
    simulator.reset(options={"context": fallen})
    result = simulator.step(np.zeros(1, np.int64))
    assert bool(result.terminated[0])
    assert not bool(result.truncated[0])


def test_branches_grow_while_a_policy_learns() -> None:
    from stable_baselines3.common.callbacks import BaseCallback

    lengths: list[int] = []

    class Lengths(BaseCallback):
        def _on_step(self) -> bool:
            (simulator,) = self.training_env.get_attr("simulator", indices=[0])
            lengths.append(simulator.config.branch_length)
            return True

    twin = oracle_twin(CARTPOLE, horizon=30)
    config = LearnConfig(steps=2_048, rows=8, options=TINY, first_branch_length=2, branch_length=10)
    learn(twin, config, callbacks=[Lengths()])
    grown = sorted(set(lengths))
    assert lengths == sorted(lengths)
    assert (grown[0], grown[-1]) == (2, 10)
    assert len(grown) == 5  # a rollout is a quarter of the first half


@pytest.mark.parametrize("change", [{}, {"branch_length": 4}])
def test_branches_cannot_shrink(change: dict[str, int]) -> None:
    with pytest.raises(InvalidOptionError, match="grow from 5"):
        LearnConfig(first_branch_length=5, **change)  # type: ignore[arg-type]


def test_what_is_unknown_counts_as_the_rule_says() -> None:
    twin = oracle_twin(CARTPOLE, horizon=30)
    first = twin.codec.decode_observation(twin.starts.last())
    assert twin.uncertainty_threshold is None
    assert run_learned(scripted, twin, first, on_uncertain="pessimistic").mean == 30.0


def test_a_callback_is_made_without_a_training() -> None:
    assert growing_branches(1, 2, 0) is not None
