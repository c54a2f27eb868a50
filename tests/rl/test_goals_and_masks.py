"""Algorithms that ask an environment more than a step: rewards of goals (HER) and masks of actions (MaskablePPO)."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from small_twin import small
from stable_baselines3 import SAC, HerReplayBuffer
from stable_baselines3.common.vec_env import VecMonitor

from world_env.batch import Context
from world_env.envs.env import WorldModelEnv
from world_env.envs.sb3_vec_env import WorldModelSB3VecEnv
from world_env.envs.vector_env import WorldModelVectorEnv
from world_env.errors import InvalidOptionError, KnownFunctionError, SpaceMismatchError
from world_env.models.base import Prediction, WorldModel
from world_env.policies.loading import as_policy
from world_env.policies.saved_policy import load_policy, policy_card
from world_env.real.step_ledger import StepLedger
from world_env.rl.learn import LearnConfig, learn
from world_env.rollouts.learned import run_learned
from world_env.rollouts.real import run_real
from world_env.spec import EnvConfig, WorldSpec
from world_env.twin.goals import GoalReward
from world_env.twin.twin import Twin

BOX = spaces.Box(-1.0, 1.0, (1,), np.float32)
GOALS = spaces.Dict(dict.fromkeys(("observation", "achieved_goal", "desired_goal"), BOX))
MASK = spaces.Box(0, 1, (3,), np.int8)
MASKED = spaces.Dict({"place": BOX, "valid": MASK})


class Exact(WorldModel):
    """World model of a formula: its state is the observation."""

    def encode(self, context, *, rng):  # type: ignore[no-untyped-def]
        return dict(context.last())

    def observe(self, state, action, observation, *, rng):  # type: ignore[no-untyped-def]
        return dict(observation)

    def decode(self, state):  # type: ignore[no-untyped-def]
        return dict(state)

    def features(self, state):  # type: ignore[no-untyped-def]
        return torch.cat(list(state.values()), -1)

    def step(self, state, action, *, rng, temperature=1.0, uncertainty=False):  # type: ignore[no-untyped-def]
        arrived, reward = self.move(state, action)
        return arrived, Prediction(reward=reward, terminated=torch.zeros(len(reward)))


class Reach(Exact):
    """A point moves; the model predicts a reward that is no use."""

    def move(self, state, action):  # type: ignore[no-untyped-def]
        place = (state["observation"] + 0.2 * action).clamp(-1, 1)
        arrived = state | {"observation": place, "achieved_goal": place}
        return arrived, torch.full((len(action),), -7.0)


def reached(achieved: Any, desired: Any, info: Any) -> Any:
    return -(np.linalg.norm(achieved - desired, axis=-1) > 0.1).astype(np.float32)


def goal_twin(**known: Any) -> Twin:
    spec = WorldSpec(GOALS, BOX, horizon=10)
    rng = np.random.default_rng(0)
    places, wanted = (torch.from_numpy(rng.uniform(-0.9, 0.9, (200, 1))).float() for _ in range(2))
    first = {"observation": places, "achieved_goal": places, "desired_goal": wanted}
    begun = Context.from_observation(first, action_size=1)
    return Twin(spec, "reach", Reach(spec, None).eval(), starts=begun, **known)


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


# -- masks -------------------------------------------------------------------------------------------------------


def valid_at(place: Any) -> Any:
    """Left of 0 the actions 0 and 1 are valid, right of it 1 and 2. (B,) -> (B, 3)."""
    left = place < 0
    return np.stack([left, np.ones_like(left), ~left], -1)


class Masked(gym.Env):
    """Actions move left, stay and move right. A step with an invalid action fails."""

    observation_space, action_space = MASKED, spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.place = float(self.np_random.uniform(-0.5, 0.5))
        return self.seen(), {}

    def seen(self) -> dict[str, Any]:
        place = np.array([self.place], np.float32)
        return {"place": place, "valid": valid_at(place)[0].astype(np.int8)}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        assert self.seen()["valid"][int(action)], "invalid action"
        self.place = float(np.clip(self.place + 0.1 * (int(action) - 1), -1, 1))
        return self.seen(), 1.0, False, False, {}


gym.register("Masked-v0", entry_point=Masked, max_episode_steps=12)


class MaskedModel(Exact):
    """World model of `Masked`: the mask of the next observation is a number near 0 or 1."""

    def move(self, state, action):  # type: ignore[no-untyped-def]
        place = (state["place"] + 0.1 * (action.argmax(-1, keepdim=True) - 1)).clamp(-1, 1)
        valid = torch.from_numpy(valid_at(place[:, 0].numpy())).float() * 0.8 + 0.1
        return {"place": place, "valid": valid}, torch.ones(len(action))


def masked_twin() -> Twin:
    spec = WorldSpec(MASKED, spaces.Discrete(3), horizon=12)
    place = np.random.default_rng(0).uniform(-0.5, 0.5, (200, 1)).astype(np.float32)
    first = {"place": place, "valid": valid_at(place[:, 0]).astype(np.float32)}
    begun = Context.from_observation({k: torch.from_numpy(v) for k, v in first.items()}, 3)
    return Twin(spec, "masked", MaskedModel(spec, None).eval(), starts=begun)


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
