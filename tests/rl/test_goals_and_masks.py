"""Algorithms that ask an environment more than a step: rewards of goals (HER) and masks of actions (MaskablePPO)."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from exact_twins import BOX, GOALS, goal_twin, masked_twin, reached, valid_at
from small_twin import small
from stable_baselines3 import SAC, HerReplayBuffer
from stable_baselines3.common.vec_env import VecMonitor

from world_env.envs.env import WorldModelEnv
from world_env.envs.sb3_vec_env import WorldModelSB3VecEnv
from world_env.envs.vector_env import WorldModelVectorEnv
from world_env.errors import (
    InvalidOptionError,
    KnownFunctionError,
    NoGoalRewardError,
    SpaceMismatchError,
)
from world_env.policies.loading import as_policy
from world_env.policies.saved_policy import load_policy, policy_card
from world_env.real.step_ledger import StepLedger
from world_env.refinement.config import RefineConfig
from world_env.refinement.refine import refine
from world_env.rl.learn import LearnConfig, learn
from world_env.rollouts.learned import run_learned
from world_env.rollouts.real import run_real
from world_env.spec import EnvConfig
from world_env.twin.goals import GoalReward
from world_env.twin.twin import Twin

HER = LearnConfig(
    algo="SAC",
    steps=60,
    algo_kwargs={"replay_buffer_class": "HerReplayBuffer", "batch_size": 32},
)


def test_the_rewards_of_goals_are_those_of_the_given_function() -> None:
    env = WorldModelEnv(goal_twin(), compute_reward=reached)
    observation, _ = env.reset(seed=0)
    for _ in range(5):
        observation, reward, *_ = env.step(np.ones(1, np.float32))
        assert reward == reached(observation["achieved_goal"], observation["desired_goal"], {})
    assert env.compute_reward(np.zeros((4, 1)), np.ones((4, 1)), {}).tolist() == [-1.0] * 4
    vector = WorldModelVectorEnv(goal_twin(), 3, compute_reward=reached)
    assert vector.call("compute_reward", np.zeros((2, 1)), np.zeros((2, 1)), {})[0].tolist() == [
        0,
        0,
    ]
    made = gym.make("WorldModel-v0", twin=goal_twin(), compute_reward=reached)
    assert made.get_wrapper_attr("compute_reward")(np.zeros((1, 1)), np.ones((1, 1)), {}) == -1.0


def test_hindsight_replay_of_stable_baselines3_trains_in_a_twin() -> None:
    seen: list[int] = []

    def counted(achieved: Any, desired: Any, info: Any) -> Any:
        seen.append(len(achieved))
        return reached(achieved, desired, info)

    env = VecMonitor(WorldModelSB3VecEnv(goal_twin(), 2, compute_reward=counted))
    model = SAC(
        "MultiInputPolicy", env, replay_buffer_class=HerReplayBuffer, learning_starts=30, seed=0
    )
    model.learn(60)
    assert model.num_timesteps >= 60 and max(seen) > 2


@pytest.mark.parametrize("buffer", ["HerReplayBuffer", HerReplayBuffer])
def test_learn_takes_hindsight_replay_by_name_and_by_class(buffer: Any) -> None:
    twin = goal_twin(reward_fn=GoalReward(reached))
    assert twin.known == ["reward"]
    config = HER.replace(algo_kwargs=HER.algo_kwargs | {"replay_buffer_class": buffer})
    model = learn(twin, config)
    assert isinstance(model.replay_buffer, HerReplayBuffer)
    sample = model.replay_buffer.sample(64)
    goals, arrived = sample.observations["desired_goal"], sample.next_observations["achieved_goal"]
    expected = reached(arrived.numpy(), goals.numpy(), {})
    np.testing.assert_array_equal(sample.rewards.numpy().ravel(), expected)
    # New goals were reached by the episodes themselves.
    assert (expected == 0).mean() > 0.2


def test_hindsight_replay_is_saved_and_resumed(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def progress(done: int, wanted: int, logs: Any) -> None:
        if done >= 40:
            raise Killed

    twin = goal_twin(reward_fn=GoalReward(reached))
    with pytest.raises(Killed):
        learn(twin, HER, out=tmp_path / "policy", progress=progress)
    model = learn(twin, HER, out=tmp_path / "policy")
    assert model.num_timesteps == HER.steps
    # Strict JSON: the settings name the class.
    settings = policy_card(tmp_path / "policy").provenance["learn"]
    assert "HerReplayBuffer" in json.dumps(settings)
    # A finished policy is read back without an environment: to play, and by the same call again.
    played = load_policy(tmp_path / "policy")
    again = learn(twin, HER, out=tmp_path / "policy")
    seen = {key: np.zeros((1, 1), np.float32) for key in twin.spec.observation_space.spaces}  # type: ignore[attr-defined]
    for policy in (played, again):
        np.testing.assert_array_equal(
            policy.predict(seen, deterministic=True)[0], model.predict(seen, deterministic=True)[0]
        )


def test_without_rewards_of_goals_the_error_says_how_to_give_them() -> None:
    text = r"no compute_reward: its rewards are predicted.*compute_reward=FUNCTION"
    with pytest.raises(KnownFunctionError, match=text):
        learn(goal_twin(), HER)
    env = WorldModelSB3VecEnv(goal_twin(), 1)
    assert not hasattr(env, "compute_reward") and not env.has_attr("compute_reward")
    model = SAC("MultiInputPolicy", env, replay_buffer_class=HerReplayBuffer, learning_starts=20)
    with pytest.raises(KnownFunctionError, match=text):
        model.learn(60)
    other = goal_twin(reward_fn=lambda before, action, after: np.zeros(len(action)))
    with pytest.raises(KnownFunctionError, match="those of a reward_fn without goals"):
        learn(other, HER)
    with pytest.raises(SpaceMismatchError, match=r"keys observation, achieved_goal, desired_goal"):
        learn(Twin.load("pendulum"), HER)
    with pytest.raises(InvalidOptionError, match="both given"):
        WorldModelEnv(goal_twin(), compute_reward=reached, reward_fn=GoalReward(reached))
    with pytest.raises(KnownFunctionError, match="GoalReward needs Dict observations"):
        env = WorldModelEnv("pendulum", compute_reward=reached)
        env.reset()
        env.step(np.zeros(1, np.float32))


class RealReach(gym.Env):
    """The real environment of `goal_twin`, whose episodes last as long as a training may."""

    observation_space, action_space = GOALS, BOX
    places: dict[str, Any]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        drawn = self.np_random.uniform(-0.9, 0.9, (2, 1)).astype(np.float32)
        self.places = dict(zip(GOALS.spaces, (drawn[0], drawn[1], drawn[0]), strict=True))
        return dict(self.places), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        place = np.clip(self.places["observation"] + 0.2 * action, -1, 1).astype(np.float32)
        self.places |= {"observation": place, "achieved_goal": place}
        return (
            dict(self.places),
            float(reached(place, self.places["desired_goal"], {})),
            False,
            False,
            {},
        )


class RealGoals(RealReach):
    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        return reached(achieved, desired, info)


def test_hindsight_replay_in_the_real_environment_waits_for_a_whole_episode(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def progress(done: int, wanted: int, logs: Any) -> None:
        raise Killed

    # The default of SAC would sample after 100 steps; the training is interrupted in its first episode, too.
    real, ledger = EnvConfig(RealGoals, horizon=120), StepLedger()
    config = HER.replace(steps=260)
    with pytest.raises(Killed):
        learn(real, config, out=tmp_path / "policy", ledger=ledger, progress=progress)
    assert 0 < ledger.total() < 120
    model = learn(real, config, out=tmp_path / "policy", ledger=ledger)
    assert model.num_timesteps == 260 and model._n_updates > 0


def test_hindsight_replay_without_rewards_of_goals_is_refused_before_a_real_step(
    tmp_path: Path,
) -> None:
    ledger = StepLedger()
    real = EnvConfig(RealReach, horizon=20)
    with pytest.raises(NoGoalRewardError, match=r"RealReach has no method compute_reward\("):
        learn(real, HER, ledger=ledger)
    for config in (
        RefineConfig(real, tmp_path / "run", steps=200, learn=HER),
        RefineConfig(
            real,
            tmp_path / "run",
            steps=200,
            explorers={"far": {"algo": "SAC", "algo_kwargs": HER.algo_kwargs}},
        ),
    ):
        with pytest.raises(NoGoalRewardError, match="predicted by the model"):
            refine(config, ledger=ledger)
        with pytest.raises(NoGoalRewardError, match="rewards are those of a reward_fn without"):
            refine(config, ledger=ledger, reward_fn=lambda before, action, after: before)
    other = RefineConfig(EnvConfig("Pendulum-v1"), tmp_path / "run", steps=200, learn=HER)
    with pytest.raises(SpaceMismatchError, match="keys observation, achieved_goal"):
        refine(other, ledger=ledger, reward_fn=GoalReward(reached))
    assert ledger.total() == 0 and not list(tmp_path.iterdir())


# -- masks -------------------------------------------------------------------------------------------------------

TINY = LearnConfig(
    algo="MaskablePPO",
    steps=512,
    num_envs=4,
    action_mask_key="valid",
    algo_kwargs={"n_steps": 32, "batch_size": 64, "n_epochs": 1},
)


def test_environments_give_the_masks_of_their_observations() -> None:
    single = WorldModelEnv(masked_twin(), action_mask_key="valid")
    observation, _ = single.reset(seed=1)
    for _ in range(5):
        mask = single.action_masks()
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, valid_at(observation["place"])[0])
        observation, *_ = single.step(1 if mask[0] else 2)
    vector = WorldModelVectorEnv(masked_twin(), 5, action_mask_key="valid")
    observations, _ = vector.reset(seed=1)
    expected = valid_at(observations["place"][:, 0])
    np.testing.assert_array_equal(vector.action_masks(), expected)
    np.testing.assert_array_equal(np.stack(vector.call("action_masks")), expected)
    envs = WorldModelSB3VecEnv(masked_twin(), 5, action_mask_key="valid", seed=1)
    envs.reset()
    np.testing.assert_array_equal(envs.env_method("action_masks"), expected)
    np.testing.assert_array_equal(envs.env_method("action_masks", indices=[3]), expected[3:4])


def valid_share(policy: Any, twin: Twin) -> float:
    """Share of valid actions of a sampled policy in a twin."""
    record = ["observation", "action"]
    first = {
        key: value[:40] for key, value in WorldModelVectorEnv(twin, 40).reset(seed=2)[0].items()
    }
    played = run_learned(
        as_policy(policy, twin.spec, deterministic=False), twin, first, record=record
    )
    allowed = played.recorded["observation"]["valid"] > 0
    taken = np.take_along_axis(allowed, played.recorded["action"][..., None], -1)
    return float(taken.mean())


def test_maskable_ppo_trains_in_a_twin_and_takes_valid_actions_only(tmp_path: Path) -> None:
    sb3_contrib = pytest.importorskip("sb3_contrib")
    twin = masked_twin()
    model = learn(twin, TINY, out=tmp_path / "policy")
    assert isinstance(model, sb3_contrib.MaskablePPO)
    assert policy_card(tmp_path / "policy").action_mask_key == "valid"
    for policy in (model, tmp_path / "policy"):
        assert valid_share(policy, twin) == 1.0
        # An invalid action would fail.
        played = as_policy(policy, twin.spec, deterministic=False)
        real = run_real(
            played, EnvConfig("Masked-v0"), range(5), purpose="judge", ledger=StepLedger()
        )
        assert real.mean == 12.0
    # Without the key of the masks, the same policy takes invalid actions.
    del model.policy.action_mask_key
    assert valid_share(model, twin) < 1.0


def test_maskable_ppo_trains_in_the_real_environment() -> None:
    pytest.importorskip("sb3_contrib")
    ledger = StepLedger()
    model = learn(EnvConfig("Masked-v0"), TINY.replace(steps=128), ledger=ledger)
    assert model.num_timesteps == ledger.total() == 128


def test_maskable_ppo_of_sb3_contrib_takes_the_masks_of_a_twin() -> None:
    sb3_contrib = pytest.importorskip("sb3_contrib")
    env = WorldModelSB3VecEnv(masked_twin(), 4, action_mask_key="valid")
    model = sb3_contrib.MaskablePPO("MultiInputPolicy", env, n_steps=16, batch_size=32)
    model.learn(64)
    masks, actions = (getattr(model.rollout_buffer, name) for name in ("action_masks", "actions"))
    assert np.take_along_axis(masks.reshape(-1, 3), actions.astype(int).reshape(-1, 1), 1).all()


def test_without_masks_the_error_names_the_key_and_the_option() -> None:
    pytest.importorskip("sb3_contrib")
    with pytest.raises(
        SpaceMismatchError, match=r"key 'action_mask'.*keys \['place', 'valid'\].*by"
    ):
        learn(masked_twin(), TINY.replace(action_mask_key=None))
    with pytest.raises(SpaceMismatchError, match=r"Dict observation with the key 'action_mask'"):
        learn(Twin.load("cartpole"), LearnConfig(algo="MaskablePPO", steps=64))
    with pytest.raises(SpaceMismatchError, match=r"shape \(1,\), expected.*the shape \(3,\)"):
        learn(masked_twin(), TINY.replace(action_mask_key="place"))
    with pytest.raises(SpaceMismatchError, match="action_mask_key"):
        WorldModelEnv("cartpole").action_masks()
    with pytest.raises(InvalidOptionError, match="observation_mode"):
        TINY.replace(observation_mode="latent")


@pytest.mark.parametrize("kind", [str, Path])
def test_a_policy_trains_in_the_folder_of_a_twin(tmp_path: Path, kind: Any) -> None:
    small().save(tmp_path / "twin")
    model = learn(kind(tmp_path / "twin"), LearnConfig(steps=64, num_envs=64))
    assert model.num_timesteps >= 64
