"""SVG learns from the exact gradients of a twin's steps, and its policies are those of SAC."""

import dataclasses
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from oracle import OracleConfig, PendulumOracle, oracle_twin, real_starts, still_twin
from stable_baselines3 import SAC

from world_env.batch import State
from world_env.codec import Codec
from world_env.data_range import DataRange
from world_env.envs.sb3_vec_env import WorldModelSB3VecEnv
from world_env.errors import InvalidOptionError, StageError
from world_env.models.base import Prediction
from world_env.policies.saved_policy import load_policy, policy_card
from world_env.real.step_ledger import StepLedger
from world_env.rl.config import LearnConfig
from world_env.rl.learn import learn
from world_env.rl.svg import SVG, DifferentiableTwin
from world_env.rl.svg_networks import FlatNetworks, PlainNetworks
from world_env.rng import CounterRNG
from world_env.rollouts.real import run_real
from world_env.spec import Angle, EnvConfig, WorldSpec
from world_env.twin.twin import Twin

SMALL = LearnConfig(
    algo="SVG", steps=60, algo_kwargs={"batch_size": 32, "policy_kwargs": {"net_arch": [32, 32]}}
)


@pytest.fixture
def pendulum() -> Twin:
    return oracle_twin("Pendulum-v1")


def small(twin: Twin, **options: Any) -> SVG:
    options = {"batch_size": 32, "policy_kwargs": {"net_arch": [32, 32]}, "seed": 0} | options
    return SVG("MlpPolicy", WorldModelSB3VecEnv(twin, 1), **options)


def weights(model: Any) -> np.ndarray:
    return np.concatenate([p.detach().numpy().ravel() for p in model.policy.parameters()])


def test_gradient_steps_written_by_hand_are_those_of_autograd() -> None:
    twin = Twin.load("half-cheetah")
    context = twin.starts.select(torch.arange(40) % len(twin.starts))
    state = twin.model.encode(context, rng=CounterRNG.from_seed(0, len(context)))
    found = []
    for kind in (PlainNetworks, FlatNetworks):
        model = small(twin, policy_kwargs={"net_arch": [32, 32], "activation_fn": torch.nn.SiLU})
        world, networks = DifferentiableTwin(twin, model), kind(model)
        for update in range(3):
            torch.manual_seed(update)
            rng = CounterRNG.from_seed(update, len(context))
            rollout = world.rollout(networks, state, rng, 0.1, 5)
            action, log_prob = networks.act(rollout.last)
            target = rollout.returns.detach() + networks.least_target(rollout.last, action)
            observation, first = rollout.observation.detach(), rollout.action.detach()
            loss, finite = networks.step_critics(observation, first, target, 2.0)
            assert finite
            networks.average_target(0.1)
            value = networks.value(rollout.last, action) - log_prob
            assert networks.step_actor(-(rollout.returns + rollout.weight * value).mean())
        moments = model.actor.optimizer.state_dict()["state"][0]["exp_avg"]
        found.append([weights(model), loss.numpy(), value.detach().numpy(), moments.numpy()])
    for plain, flat in zip(*found, strict=True):
        np.testing.assert_allclose(flat, plain, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("kind", [PlainNetworks, FlatNetworks])
def test_entropy_has_its_slope_where_actions_saturate(kind: Any, pendulum: Twin) -> None:
    model = small(pendulum)
    networks, means = kind(model), model.actor.mu
    with torch.no_grad():
        means.weight.zero_()
        means.bias.fill_(12.0)
    before = means.bias.item()
    for _ in range(50):
        _, log_prob = networks.act(torch.ones(64, 3))
        assert networks.step_actor(log_prob.mean())
    # d log_prob / d mean = 2 tanh(mean): each step of Adam is a full one.
    assert log_prob.mean().item() == pytest.approx(24.0, abs=8.0)
    assert means.bias.item() < before - 0.01


@pytest.mark.parametrize("bounded", [False, True])
def test_hard_termination_bounds_end_the_rollouts(bounded: bool) -> None:
    twin = Twin.load("half-cheetah")
    context = twin.starts.select(torch.arange(64) % len(twin.starts))
    state = twin.model.encode(context, rng=CounterRNG.from_seed(0, 64))
    if bounded:
        assert twin.ranges is not None
        free = [None] * 16
        ranges = dataclasses.replace(twin.ranges, ends=([None, *free], [0.0, *free]))
        twin = dataclasses.replace(twin, ranges=ranges)
    world = DifferentiableTwin(twin, model := small(twin))
    rollout = world.rollout(PlainNetworks(model), state, CounterRNG.from_seed(1, 64), 0.1, 1)
    beyond = rollout.last[:, 0] > 0.0
    assert beyond.any() and not beyond.all()
    np.testing.assert_array_equal(rollout.weight == 0.0, beyond if bounded else False & beyond)


@pytest.mark.parametrize(("threshold", "stops"), [(-1.0, True), (1e6, False)])
def test_gradients_stop_at_uncertain_steps(threshold: float, stops: bool) -> None:
    twin = dataclasses.replace(Twin.load("pendulum"), uncertainty_threshold=threshold)
    world = DifferentiableTwin(twin, model := small(twin, stop_uncertain=True))
    context = twin.starts.select(torch.arange(9) % len(twin.starts))
    state = twin.model.encode(context, rng=CounterRNG.from_seed(0, 9))
    rollout = world.rollout(PlainNetworks(model), state, CounterRNG.from_seed(1, 9), 0.1, 5)
    weights = [*model.actor.parameters()]
    last = torch.autograd.grad(rollout.last.sum(), weights, retain_graph=True, allow_unused=True)
    assert all(each is None or not each.any() for each in last) == stops
    rewards = torch.autograd.grad(rollout.returns.sum(), weights)
    assert all(each.any() for each in rewards)


@pytest.mark.parametrize("known_ends", [False, True])
def test_the_gradient_of_a_rollout_is_that_of_finite_differences(
    known_ends: bool, pendulum: Twin
) -> None:
    if known_ends:

        def turned(before: Any, action: Any, after: Any) -> np.ndarray:
            return after[:, 0] > 0.99

        pendulum = dataclasses.replace(pendulum, termination_fn=turned)
    model = small(pendulum)
    world = DifferentiableTwin(pendulum, model)
    context = pendulum.starts.to("cpu", torch.float64)
    state = pendulum.model.encode(context, rng=CounterRNG.from_seed(0, len(context)))

    def value() -> torch.Tensor:
        torch.manual_seed(5)
        rng = CounterRNG.from_seed(1, len(context))
        rollout = world.rollout(PlainNetworks(model), state, rng, 0.1, 5)
        return (rollout.returns - 0.1 * rollout.log_prob).mean()

    parameters = [*model.actor.parameters()]
    gradient = torch.autograd.grad(value(), parameters, allow_unused=True)
    generator = torch.Generator().manual_seed(0)
    ahead = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    slope = sum(float((g * a).sum()) for g, a in zip(gradient, ahead, strict=True) if g is not None)
    found = []
    with torch.no_grad():
        for sign in (1.0, -1.0):
            for each, direction in zip(parameters, ahead, strict=True):
                each.add_(direction, alpha=sign * 3e-3)
            found.append(float(value()))
            for each, direction in zip(parameters, ahead, strict=True):
                each.sub_(direction, alpha=sign * 3e-3)
    assert abs(slope) > 1e-3
    assert (found[0] - found[1]) / 6e-3 == pytest.approx(slope, rel=0.02)


@pytest.mark.slow
def test_svg_reaches_the_optimum_of_an_exact_pendulum(pendulum: Twin) -> None:
    model = learn(pendulum, LearnConfig(algo="SVG", steps=3_000))
    seeds = list(range(1_000, 1_030))
    returns = run_real(model, "Pendulum-v1", seeds, purpose="evaluate", ledger=StepLedger())
    # Long trainings of SAC and PPO in reality reach -140 to -160.
    assert returns.mean > -170.0


def test_a_policy_of_svg_is_stored_as_one_of_sac(pendulum: Twin, tmp_path: Path) -> None:
    before = weights(small(pendulum))
    model = learn(pendulum, SMALL, out=tmp_path / "policy")
    assert isinstance(model, SVG) and model.num_timesteps == 60 and model._n_updates == 60
    assert not np.array_equal(weights(model), before)
    assert policy_card(tmp_path / "policy").algorithm == "SAC"
    loaded = load_policy(tmp_path / "policy")
    assert isinstance(loaded, SAC) and not isinstance(loaded, SVG)
    np.testing.assert_array_equal(weights(loaded), weights(model))
    plain = SAC.load(tmp_path / "policy" / "policy.zip")
    np.testing.assert_array_equal(weights(plain), weights(model))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_value_of_an_episode_that_ends_soon_is_within_the_bounds(
    sign: float, pendulum: Twin
) -> None:
    model = small(pendulum)
    for _ in range(1_000):
        low, high = model._updated_bounds(sign * torch.linspace(1.0, 2.0, 50))
    # Rewards of 1 to 2 are worth 200 to 400 in an episode without end.
    assert (low, high) == pytest.approx((0.0, 396.0) if sign > 0 else (-396.0, 0.0), rel=0.02)


def test_values_begin_as_those_of_episodes_without_end_and_follow_the_rewards(
    pendulum: Twin,
) -> None:
    model = small(pendulum)
    seen, acted = torch.randn(64, 3), torch.zeros(64, 1)

    def values() -> torch.Tensor:
        with torch.no_grad():
            return torch.stack([*model.critic(seen, acted), *model.critic_target(seen, acted)])

    start = values()
    model._updated_bounds(torch.linspace(1.0, 3.0, 50))
    # A reward of 2 in every step, discounted by 0.995.
    torch.testing.assert_close(values() - start, torch.full_like(start, 400.0), rtol=0.01, atol=0.0)
    for _ in range(1_000):
        model._updated_bounds(torch.linspace(-1.0, 0.0, 50))
    followed = 400.0 + (1.0 - 0.999**1_000) * (-100.0 - 400.0)
    torch.testing.assert_close(
        values() - start, torch.full_like(start, followed), rtol=0.02, atol=0.0
    )


def test_the_same_seed_gives_the_same_policy(pendulum: Twin) -> None:
    one, same, other = (learn(pendulum, SMALL.replace(seed=seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(weights(one), weights(same))
    assert not np.array_equal(weights(one), weights(other))


def test_a_killed_training_goes_on_in_the_middle(
    pendulum: Twin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("world_env.rl.learn._UPDATES_PER_SAVE", 20)

    class Killed(Exception):
        pass

    def progress(done: int, wanted: int, logs: Any) -> None:
        if done >= 40:
            raise Killed

    with pytest.raises(Killed):
        learn(pendulum, SMALL, out=tmp_path / "policy", progress=progress)
    done = []
    model = learn(
        pendulum, SMALL, out=tmp_path / "policy", progress=lambda d, w, logs: done.append(d)
    )
    assert isinstance(model, SVG) and model.num_timesteps == 60 and min(done) > 40
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_the_weights_of_the_model_get_no_gradients() -> None:
    spec = WorldSpec(spaces.Box(-1, 1, (3,), np.float32), spaces.Box(-1, 1, (2,), np.float32), 20)
    twin = Twin.untrained(spec, "ensemble")
    twin.model.requires_grad_(True)
    small(twin).learn(3)
    assert all(each.grad is None for each in twin.model.parameters())
    assert all(each.requires_grad for each in twin.model.parameters())
    assert not any(each.requires_grad for each in twin.model.frozen().parameters())


def test_worlds_without_gradients_are_refused_by_name(pendulum: Twin) -> None:
    with pytest.raises(InvalidOptionError, match=r"the action space is Discrete\(2\).*SAC or PPO"):
        small(oracle_twin("CartPole-v1"))
    with pytest.raises(InvalidOptionError, match="vectors of numbers"):
        learn(Twin.untrained(WorldSpec(spaces.Discrete(3), spaces.Box(-1, 1, (1,)))), SMALL)
    still = still_twin(WorldSpec(spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,))))
    with pytest.raises(InvalidOptionError, match="those of the family 'still' have none"):
        small(still).learn(1)
    known = dataclasses.replace(pendulum, reward_fn=lambda obs, action, after: obs[:, 0])
    with pytest.raises(InvalidOptionError, match="known reward function"):
        small(known).learn(1)
    with pytest.raises(InvalidOptionError, match=r"Pendulum-v1 is a real environment"):
        learn(EnvConfig("Pendulum-v1"), SMALL, ledger=StepLedger())
    with pytest.raises(
        InvalidOptionError, match="the environment is a TimeLimit: pass a WorldModelSB3VecEnv"
    ):
        SVG("MlpPolicy", gym.make("Pendulum-v1")).learn(1)
    with pytest.raises(InvalidOptionError, match="rollout_steps is 0"):
        small(pendulum, rollout_steps=0)
    latent = SMALL.replace(observation_mode="latent")
    with pytest.raises(InvalidOptionError, match="observation_mode='observation'"):
        learn(pendulum, latent)


def test_gradients_that_are_not_finite_change_nothing_and_stop_the_training(
    pendulum: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cracked(PendulumOracle):
        broken = False

        def step(self, state: State, action: torch.Tensor, **rest: Any) -> Any:
            arrived, prediction = super().step(state, action, **rest)
            reward = prediction.reward * float("nan") if self.broken else prediction.reward
            return arrived, Prediction(reward, prediction.terminated)

    cracked = Cracked(pendulum.spec, OracleConfig())
    model = small(Twin(pendulum.spec, "cracked", cracked, real_starts("Pendulum-v1")))
    model.learn(20)
    before = weights(model)
    cracked.broken = True
    with pytest.raises(StageError, match=r"50 successive updates .* not finite.*rollout_steps"):
        model.learn(200, reset_num_timesteps=False)
    np.testing.assert_array_equal(weights(model), before)


@pytest.mark.parametrize("kind", ["plain", "angle", "centred", "scalar"])
def test_a_decoded_tensor_is_the_observation_of_the_environment(kind: str) -> None:
    shape = () if kind == "scalar" else (3,)
    space = spaces.Box(-np.inf, np.inf, shape, np.float64)
    angles = {"observation": (Angle(1, 0.0, 360.0),)} if kind == "angle" else {}
    spec = WorldSpec(space, spaces.Box(-1, 1, (1,)), angles=angles)
    ranges = None
    if kind == "centred":
        ends = (np.full(3, -10.0), np.full(3, 10.0))
        ranges = DataRange({"observation": ends}, reward=None, offset={"observation": [5.0] * 3})
    codec = Codec(spec, ranges)
    values = np.random.default_rng(0).uniform(1.0, 350.0 if kind == "angle" else 9.0, (7, *shape))
    encoded = codec.encode_observation(values)["observation"].requires_grad_(True)
    decoded = codec.decoded_tensor(encoded)
    np.testing.assert_allclose(decoded.detach().numpy().reshape(values.shape), values, rtol=1e-5)
    decoded.sum().backward()
    assert encoded.grad is not None and torch.isfinite(encoded.grad).all()
