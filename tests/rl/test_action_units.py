"""Policies train with actions in [-1, 1] and act in the units of the action space, whatever these are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch
from exact_twins import Exact
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback

from world_env.batch import Context
from world_env.data_range import DataRange
from world_env.policies.action_units import ActionUnits
from world_env.policies.loading import as_policy
from world_env.policies.saved_policy import load_policy, policy_card
from world_env.real.step_ledger import StepLedger
from world_env.rl.callbacks import milestones
from world_env.rl.config import TwinTrainingConfig
from world_env.rl.learn import LearnConfig, learn
from world_env.rollouts.learned import run_learned
from world_env.rollouts.real import run_real
from world_env.spec import EnvConfig, WorldSpec
from world_env.twin.twin import Twin

SEEN = spaces.Box(0, 1, (2,), np.float32)
TINY = LearnConfig(
    steps=512,
    num_envs=8,
    algo_kwargs={"n_steps": 32, "batch_size": 64, "n_epochs": 1},
    simulation=TwinTrainingConfig(dataset_starts=0.0),
)


class Dose(gym.Env):
    """A level follows the dose; the reward is the distance to a set point."""

    def __init__(self, low: float = 0.0, high: float = 1000.0) -> None:
        self.observation_space, self.action_space = SEEN, spaces.Box(low, high, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.state = self.np_random.uniform([0, 0.2], [1, 0.9]).astype(np.float32)
        return self.state.copy(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        assert self.action_space.contains(action), action
        low, high = self.action_space.low[0], self.action_space.high[0]
        self.state[0] = 0.5 * self.state[0] + 0.5 * (float(action[0]) - low) / (high - low)
        return self.state.copy(), -abs(float(self.state[0] - self.state[1])), False, False, {}


gym.register("Dose-v0", entry_point=Dose, max_episode_steps=20)


class DoseModel(Exact):
    """The exact world model of `Dose`."""

    def move(self, state, action):  # type: ignore[no-untyped-def]
        level, wanted = state["observation"].unbind(-1)
        level = 0.5 * level + 0.25 * (action.mean(-1) + 1.0)
        reward = -(level - wanted).abs()
        arrived = {"observation": torch.stack([level, wanted], -1)}
        return arrived, reward


def dose_twin(space: spaces.Box, ranges: DataRange | None = None) -> Twin:
    spec = WorldSpec(SEEN, space, horizon=20)
    seen = np.random.default_rng(0).uniform([0, 0.2], [1, 0.9], (200, 2)).astype(np.float32)
    begun = Context.from_observation({"observation": torch.from_numpy(seen)}, space.shape[0])
    return Twin(spec, "dose", DoseModel(spec, None), starts=begun, ranges=ranges)


def box(low: Any, high: Any, size: int = 1) -> spaces.Box:
    return spaces.Box(np.full(size, low, np.float32), np.full(size, high, np.float32))


WIDE = box(0, 1000)
SOME = np.random.default_rng(1).uniform(0, 1, (40, 2)).astype(np.float32)


class LastPrediction(BaseCallback):
    """Predictions at the end of the training, before the policy is finished."""

    def _on_training_end(self) -> None:
        self.found = predicted(self.model)

    def _on_step(self) -> bool:
        return True


def predicted(model: Any) -> np.ndarray:
    return np.asarray(model.predict(SOME, deterministic=True)[0])


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def test_a_wide_box_is_learned_as_well_as_any(tmp_path: Path) -> None:
    config = LearnConfig(steps=24_000, num_envs=32)
    model = learn(dose_twin(WIDE), config, out=tmp_path / "policy")
    assert model.action_space == WIDE
    for policy in (model, tmp_path / "policy", tmp_path / "policy" / "policy.zip"):
        real = run_real(
            as_policy(policy), EnvConfig("Dose-v0"), range(20), purpose="judge", ledger=StepLedger()
        )
        # Random doses: -4.5. The best ones: about -0.7, the way from the first level.
        assert real.mean > -1.6
    learned = run_learned(model, dose_twin(WIDE), real.first)
    assert learned.mean == pytest.approx(real.mean, abs=0.05)


def test_units_that_floats_hold_exactly_give_the_same_training() -> None:
    unit, wide = (learn(dose_twin(box(-size, size)), TINY) for size in (1, 4))
    expected, found = weights(unit), weights(wide)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        if name == "log_std":
            torch.testing.assert_close(found[name], value + np.log(4.0))
        else:
            assert torch.equal(found[name], value * 4.0 if "action_net" in name else value)


def test_bounds_of_one_are_not_mapped() -> None:
    assert ActionUnits.of(box(-1, 1)) is None
    assert ActionUnits.of(spaces.Discrete(3)) is None
    assert ActionUnits.of(box(-np.inf, np.inf)) is None
    model = learn(dose_twin(box(-1, 1)), TINY)
    env: Any = model.get_env()
    while hasattr(env, "venv"):
        assert type(env).__name__ != "ScaledActions"
        env = env.venv


def test_actions_reach_both_bounds_and_not_beyond() -> None:
    space = spaces.Box(np.array([0.1, -3], np.float32), np.array([0.7, 1e4], np.float32))
    units = ActionUnits.of(space)
    assert units is not None
    ends = units.to_task(np.array([[-1.0, -1.0], [1.0, 1.0], [7.0, -7.0]]))
    assert ends.dtype == np.float32 and all(map(space.contains, ends))
    np.testing.assert_array_equal(ends[:2], np.stack([space.low, space.high]))
    integers = ActionUnits.of(spaces.Box(0, 255, (1,), np.uint8))
    assert integers is not None
    np.testing.assert_allclose(integers.to_task(np.array([[0.5]])), 191.25)


def test_actions_without_bounds_have_the_range_of_the_data() -> None:
    space = box(-np.inf, np.inf)
    ranges = DataRange({}, (-1.0, 0.0), action=([-50.0], [150.0]))
    last = LastPrediction()
    model = learn(dose_twin(space, ranges), TINY, callbacks=[last])
    assert model.action_space == space
    np.testing.assert_allclose(predicted(model), last.found, rtol=1e-4, atol=1e-2)
    # The first deviation is a half width of the range.
    assert model.policy.log_std.exp().item() == pytest.approx(100.0, rel=0.2)


KINDS: dict[str, dict[str, Any]] = {
    "PPO": {"n_steps": 32, "batch_size": 64, "n_epochs": 2},
    "A2C": {"n_steps": 32},
    "TRPO": {"n_steps": 32, "batch_size": 64},
    "RecurrentPPO": {"n_steps": 32, "batch_size": 64, "n_epochs": 1},
    "sbx.PPO": {"n_steps": 32, "batch_size": 64, "n_epochs": 2},
    "gSDE": {"n_steps": 32, "batch_size": 64, "n_epochs": 1, "use_sde": True},
}


@pytest.mark.parametrize(
    "algo",
    # The compiler of JAX takes most of the time of this test.
    [pytest.param(a, marks=[pytest.mark.slow] if a.startswith("sbx") else []) for a in KINDS],
)
def test_the_finished_policy_is_the_trained_one_in_the_units_of_the_task(
    algo: str, tmp_path: Path
) -> None:
    if algo == "sbx.PPO":
        pytest.importorskip("sbx")
    name = "PPO" if algo == "gSDE" else algo
    config = TINY.replace(algo=name, algo_kwargs=KINDS[algo], steps=256)
    last = LastPrediction()
    twin = dose_twin(box(200, 1000, 2))
    model = learn(twin, config, out=tmp_path / "policy", callbacks=[last])
    assert last.found.min() >= 200 and last.found.max() > 300
    np.testing.assert_allclose(predicted(model), last.found, rtol=1e-4)
    np.testing.assert_allclose(predicted(load_policy(tmp_path / "policy")), last.found, rtol=1e-4)
    assert model.action_space == twin.spec.action_space
    assert policy_card(tmp_path / "policy").spaces[1] == twin.spec.action_space
    noisy, _ = model.predict(np.repeat(SOME[:1], 400, 0), deterministic=False)
    if algo == "gSDE":  # one noise matrix for all observations, until it is drawn again
        assert np.abs(noisy[:1] - predicted(model)[:1]).max() > 20
    else:
        # One standard deviation is about a half width, much of which is clipped.
        assert 150 < noisy.std(0).mean() < 400
    model.learn(256, reset_num_timesteps=False)
    assert np.isfinite(predicted(model)).all()


def test_plain_stable_baselines3_loads_the_finished_policy(tmp_path: Path) -> None:
    config = TINY.replace(simulation=TwinTrainingConfig(dataset_starts=0.0, normalize=False))
    model = learn(dose_twin(WIDE), config, out=tmp_path / "policy")
    plain = stable_baselines3.PPO.load(tmp_path / "policy" / "policy.zip")
    np.testing.assert_array_equal(predicted(plain), predicted(model))
    assert plain.action_space == WIDE


def test_algorithms_with_squashed_actions_stay_as_they_are() -> None:
    config = LearnConfig(algo="SAC", steps=40, algo_kwargs={"learning_starts": 20})
    model = learn(dose_twin(WIDE), config)
    assert model.get_env().action_space == WIDE
    squashed = TINY.replace(
        algo_kwargs=TINY.algo_kwargs | {"use_sde": True, "policy_kwargs": {"squash_output": True}}
    )
    assert learn(dose_twin(WIDE), squashed).get_env().action_space == WIDE


def test_a_policy_that_cannot_be_mapped_is_trained_as_it_is_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    noise = {"use_sde": True, "policy_kwargs": {"full_std": False}}
    model = learn(dose_twin(WIDE), TINY.replace(algo_kwargs=TINY.algo_kwargs | noise))
    assert model.action_space == WIDE
    assert "RescaleAction" in caplog.text


class Killed(Exception):
    pass


def killed_after(steps: int, look: Callable[[], None]) -> Callable[[int, int, Any], None]:
    def progress(done: int, wanted: int, logs: Any) -> None:
        if done >= steps:
            look()
            raise Killed

    return progress


def test_an_interrupted_training_resumes_with_exactly_its_weights(tmp_path: Path) -> None:
    class Look(BaseCallback):
        first: dict[str, torch.Tensor] | None = None

        def _on_training_start(self) -> None:
            self.first = weights(self.model)

        def _on_step(self) -> bool:
            return True

        def state(self) -> list[Any]:
            moments = self.model.policy.optimizer.state_dict()["state"]
            return [weights(self.model), *[each["exp_avg"].clone() for each in moments.values()]]

    twin, look, kept = dose_twin(box(0, 999)), Look(), []
    with pytest.raises(Killed):
        learn(
            twin,
            TINY,
            out=tmp_path / "policy",
            callbacks=[look],
            progress=killed_after(256, lambda: kept.extend(look.state())),
        )
    again = Look()
    model = learn(twin, TINY, out=tmp_path / "policy", callbacks=[again])
    assert again.first is not None
    for name, value in kept[0].items():
        assert torch.equal(again.first[name], value)
    assert model.num_timesteps == TINY.steps and model.action_space == twin.spec.action_space


def test_policies_saved_during_a_training_act_in_the_units_of_the_task(tmp_path: Path) -> None:
    twin = dose_twin(box(0, 999))
    plain = learn(twin, TINY)
    saved = [milestones({256: tmp_path / "half"}, trained_in="learned")]
    model = learn(twin, TINY, callbacks=saved)
    half = load_policy(tmp_path / "half", expect=twin.spec)
    assert predicted(half).max() > 300
    # Saving changed nothing.
    for name, value in weights(plain).items():
        assert torch.equal(weights(model)[name], value)


def test_evaluations_during_a_training_are_in_the_units_of_the_task() -> None:
    twin, played = dose_twin(box(0, 999)), []

    class Evaluate(BaseCallback):
        def _on_rollout_end(self) -> None:
            policy = as_policy(self.model, twin.spec)
            played.append(run_learned(policy, twin, SOME[:4], record=["action"]).recorded["action"])

        def _on_step(self) -> bool:
            return True

    learn(twin, TINY, callbacks=[Evaluate()])
    assert min(each.max() for each in played) > 300


def test_a_warm_start_goes_on_as_the_same_policy_in_other_units(tmp_path: Path) -> None:
    class First(BaseCallback):
        def _on_training_start(self) -> None:
            self.found = predicted(self.model)
            self.std = self.model.policy.log_std.exp().tolist()

        def _on_step(self) -> bool:
            return True

    older = learn(dose_twin(WIDE), TINY, out=tmp_path / "older")
    older.policy.log_std.data.fill_(np.log(50.0))
    older.save(tmp_path / "older" / "policy.zip")
    for least, expected in ((0.0, 0.1), (0.3, 0.3)):
        first = First()
        learn(
            dose_twin(WIDE),
            TINY.replace(min_action_std=least),
            warm_start=tmp_path / "older",
            callbacks=[first],
        )
        np.testing.assert_allclose(first.found, predicted(older), rtol=1e-4)
        assert first.std == pytest.approx([expected])


def test_training_in_the_real_environment_maps_its_actions_too() -> None:
    ledger = StepLedger()
    config = LearnConfig(
        steps=128, num_envs=2, algo_kwargs={"n_steps": 64, "batch_size": 64, "n_epochs": 1}
    )
    last = LastPrediction()
    model = learn(EnvConfig("Dose-v0"), config, ledger=ledger, callbacks=[last])
    assert ledger.total() >= 128
    np.testing.assert_allclose(predicted(model), last.found, rtol=1e-4)
    assert predicted(model).max() > 300
