"""A fit and a training that go on from older ones begin as the same functions, in new scales."""

import dataclasses
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from oracle import oracle_twin, real_episodes, real_spec
from stable_baselines3 import SAC
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from world_env.batch import Context
from world_env.envs.sb3_vec_env import WorldModelSB3VecEnv
from world_env.errors import InvalidOptionError
from world_env.fitting.config import FitConfig
from world_env.fitting.fit import fit_episodes
from world_env.models.ensemble.model import EnsembleConfig, EnsembleWorldModel
from world_env.policies.algorithms import algorithm_class
from world_env.policies.feature_readers import runs_of, with_other_features
from world_env.policies.normalization import NormalizedFeatures, Scale
from world_env.policies.saved_policy import policy_card
from world_env.rl.learn import LearnConfig, learn, normalization_of
from world_env.rl.svg import SVG
from world_env.rl.warm_start import load_warm_start
from world_env.rng import CounterRNG
from world_env.spec import WorldSpec
from world_env.twin.twin import Twin

pytestmark = pytest.mark.filterwarnings("ignore::world_env.fitting.preconditions.FitWarning")

SPEC = WorldSpec(spaces.Box(-9, 9, (3,)), spaces.Discrete(2), horizon=10)
SMALL = EnsembleConfig(members=2, width=16, head_width=16)
FIT = FitConfig(
    gradient_steps=20,
    batch_size=32,
    validate_every=10,
    model={"members": 2, "width": 8, "head_width": 8},
)
TINY = LearnConfig(
    steps=512, num_envs=8, algo_kwargs={"n_steps": 32, "batch_size": 64, "n_epochs": 1}
)


def wild(seed: int) -> EnsembleWorldModel:
    """A model of random weights and scales."""
    torch.manual_seed(seed)
    model = EnsembleWorldModel(SPEC, SMALL)
    for parameter in model.parameters():
        parameter.data.normal_(0.0, 0.3)
    scales = model.normalizer
    scales.center.normal_()
    scales.scale.uniform_(0.5, 2.0)
    scales.change_scale.uniform_(0.1, 0.5)
    scales.reward.copy_(torch.rand(2, 2) + 0.5)
    model.log_terminal_weight.fill_(1.0 + seed)
    return model.eval().requires_grad_(False)


def test_an_ensemble_in_other_scales_is_the_same_function() -> None:
    older, newer = wild(0), wild(1)
    older.normalizer.carried.copy_(torch.tensor([1.0, 0.0, 1.0]))
    older.normalizer.look_again()
    for model in (older, newer):  # no change so large that the heads see it cut off
        model.normalizer.change_scale[1] += 2.0
    newer.warm_start(older)
    assert not torch.equal(older.normalizer.scale, newer.normalizer.scale)
    vectors, action = torch.randn(64, 3), torch.eye(2)[torch.randint(2, (64,))]
    context = Context.from_observation({"observation": vectors}, 2)
    said = []
    for model in (older, newer):
        state = model.encode(context, rng=CounterRNG.from_seed(0, 64))
        arrived, prediction = model.step(
            state, action, rng=CounterRNG.from_seed(1, 64), temperature=0.0
        )
        said.append([arrived["observation"], prediction.reward, prediction.terminated,
                     prediction.terminal_reward])  # fmt: skip
    for left, right in zip(*said, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)
    # Its noise is the older one's too, in the middle of what a logarithm of it may be.
    quiet = torch.full((4, 3), -2.0)
    change = older.normalizer.change_scale / newer.normalizer.change_scale
    torch.testing.assert_close(
        older._deviation(quiet) * older.normalizer.change_scale,
        newer._deviation(quiet + change.log()) * newer.normalizer.change_scale,
        rtol=0.2, atol=0.0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def first() -> Twin:
    return fit_episodes(real_episodes("CartPole-v1", 20), real_spec("CartPole-v1"), FIT)


def test_a_fit_goes_on_from_a_twin_of_less_data(first: Twin) -> None:
    episodes = real_episodes("CartPole-v1", 40)
    few = FIT.replace(gradient_steps=1, validate_every=1, learning_rate=1e-9)
    later = fit_episodes(episodes, first.spec, few, warm_start=first)
    anew = fit_episodes(episodes, first.spec, few)
    assert later.provenance.warm_start == first.fingerprint()
    assert anew.provenance.warm_start is None
    # An update too small to change anything: what is left of the older twin, seen with the new data's scales.
    assert later.fidelity.loss.best_open_loop == pytest.approx(fit_error(first, later), rel=1e-3)
    assert later.fidelity.loss.best_open_loop != anew.fidelity.loss.best_open_loop


def fit_error(older: Twin, later: Twin) -> float:
    """The error that the older twin's own weights and scales have on the later twin's held-out data."""
    from world_env.data.dataset import encode_episodes
    from world_env.data.episode import split
    from world_env.model_evaluation.errors import scales_of
    from world_env.model_evaluation.open_loop import evaluate_open_loop

    episodes = real_episodes("CartPole-v1", 40)
    _, held_out = split(episodes, FIT.validation_fraction, FIT.seed)
    scale = scales_of(encode_episodes(episodes, later.codec))
    return evaluate_open_loop(
        older.model, encode_episodes(held_out, later.codec), horizon=200, scale=scale
    ).score


@pytest.mark.parametrize(
    ("change", "words"),
    [({"family": "linear", "model": {}}, "family"), ({"model": {"members": 3}}, "model options")],
)
def test_a_fit_goes_on_only_from_its_own_kind(
    first: Twin, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidOptionError, match=words):
        fit_episodes(
            real_episodes("CartPole-v1", 20), first.spec, FIT.replace(**change), warm_start=first
        )  # fmt: skip
    with pytest.raises(InvalidOptionError, match="observation space"):
        fit_episodes(
            real_episodes("Pendulum-v1", 5), real_spec("Pendulum-v1"), FIT, warm_start=first
        )


def test_a_killed_fit_that_went_on_from_a_twin_is_not_resumed_without_it(
    first: Twin, tmp_path: Path
) -> None:
    from world_env.errors import StageError

    class Killed(Exception):
        pass

    def die(*_: Any) -> None:
        raise Killed

    episodes, checkpoint = real_episodes("CartPole-v1", 20), tmp_path / "fit.pt"
    with pytest.raises(Killed):
        fit_episodes(
            episodes, first.spec, FIT, warm_start=first, progress=die, checkpoint=checkpoint
        )
    with pytest.raises(StageError):
        fit_episodes(episodes, first.spec, FIT, checkpoint=checkpoint)
    assert fit_episodes(episodes, first.spec, FIT, warm_start=first, checkpoint=checkpoint)


@pytest.mark.parametrize(
    ("algo", "task"),
    [
        *(("PPO", "CartPole-v1"), ("DQN", "CartPole-v1"), ("QRDQN", "CartPole-v1")),
        *((each, "Pendulum-v1") for each in ("SAC", "SVG", "TD3", "TQC", "RecurrentPPO", "CrossQ")),
    ],
)
def test_a_policy_goes_on_as_the_same_one_in_other_scales(
    algo: str, task: str, tmp_path: Path
) -> None:
    twin, small = oracle_twin(task), {"n_steps": 8, "batch_size": 8}
    narrow = dataclasses.replace(twin, states=spread(twin, 0.5))
    wide = dataclasses.replace(twin, states=spread(twin, 2.0))
    config = LearnConfig(algo=algo, steps=32, num_envs=4)
    if algo.endswith("PPO"):
        config = config.replace(algo_kwargs=small)
    older = learn(narrow, config, out=tmp_path / "older")
    newer = learn(wide, config.replace(seed=7))
    before = [each.clone() for each in outputs(older)]
    load_warm_start(newer, tmp_path / "older", WorldModelSB3VecEnv(wide, 4))
    for left, right in zip(before, outputs(newer), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-4)
    scale = normalization_of(wide)["features_extractor_kwargs"]["scale"]
    for module in newer.policy.modules():
        if isinstance(module, NormalizedFeatures):
            np.testing.assert_allclose(module.scale, scale, rtol=1e-5)


def outputs(model: Any) -> list[torch.Tensor]:
    """Actions and values of a policy, of random observations."""
    policy, space = model.policy, model.observation_space
    seen = torch.randn(64, *space.shape, generator=torch.Generator().manual_seed(3)) * 0.3
    policy.set_training_mode(False)
    with torch.no_grad():
        if hasattr(policy, "lstm_actor"):
            return [part for _, run in runs_of(policy) for part in run(seen)]
        found = [policy._predict(seen, deterministic=True).float()]
        if hasattr(policy, "critic"):
            names = [each for each in ("critic", "critic_target") if hasattr(policy, each)]
            return found + [
                q for each in names for q in getattr(policy, each)(seen, torch.zeros(64, 1))
            ]
        if hasattr(policy, "predict_values"):
            return [*found, policy.predict_values(seen)]
        network = policy.q_net if hasattr(policy, "q_net") else policy.quantile_net
        return [*found, network(seen)]


class Squashed(BaseFeaturesExtractor):
    """Features that no linear layer reads as they are normalised."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space, 3)
        self.normalized = NormalizedFeatures(space, [0.0] * 3, [1.0] * 3)

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.normalized(observation))


def test_layers_that_read_other_features_are_not_rewritten() -> None:
    policy_kwargs = {"features_extractor_class": Squashed}
    policy = SAC("MlpPolicy", gym.make("Pendulum-v1"), policy_kwargs=policy_kwargs).policy
    with pytest.raises(InvalidOptionError, match="no layer of the policy reads"):
        with_other_features(policy, torch.full((3,), 2.0), torch.zeros(3))


def spread(twin: Twin, width: float) -> Context:
    """States all over a box of this width."""
    shape = (256, *(twin.spec.observation_space.shape or ()))
    values = (torch.rand(shape, generator=torch.Generator().manual_seed(0)) - 0.4) * width
    return Context.from_observation({"observation": values}, twin.starts.actions.shape[-1])


def test_the_scale_of_the_rewards_goes_on(tmp_path: Path) -> None:
    twin = oracle_twin("Pendulum-v1")
    learn(twin, TINY, out=tmp_path / "older")
    known = policy_card(tmp_path / "older").provenance["learn"]["reward_statistics"]
    assert known["var"] > 1.0
    one = TINY.replace(steps=256)
    learn(twin, one, out=tmp_path / "later", warm_start=tmp_path / "older")
    later = policy_card(tmp_path / "later").provenance["learn"]["reward_statistics"]
    assert later["count"] == pytest.approx(known["count"] + 256)


def test_a_policy_goes_on_only_from_its_own_kind(tmp_path: Path) -> None:
    twin = oracle_twin("Pendulum-v1")
    learn(twin, TINY, out=tmp_path / "older")
    with pytest.raises(InvalidOptionError, match="same algorithm"):
        learn(twin, LearnConfig(algo="SAC", steps=10), warm_start=tmp_path / "older")
    wider = TINY.algo_kwargs | {"policy_kwargs": {"net_arch": [8, 8]}}
    with pytest.raises(InvalidOptionError, match="policy_kwargs"):
        learn(twin, TINY.replace(algo_kwargs=wider), warm_start=tmp_path / "older")


def test_a_gaussian_policy_goes_on_with_as_much_noise_as_asked_for(tmp_path: Path) -> None:
    twin = oracle_twin("Pendulum-v1")
    older = learn(twin, TINY, out=tmp_path / "older")
    older.policy.log_std.data.fill_(-3.0)
    older.save(tmp_path / "older" / "policy.zip")
    env = WorldModelSB3VecEnv(twin, 4)
    options = {"policy_kwargs": normalization_of(twin)}
    # The pendulum's torque reaches from -2 to 2.
    for least, wanted in ((0.0, np.exp(-3.0)), (0.01, np.exp(-3.0)), (0.2, 0.4)):
        newer = algorithm_class("PPO")("MlpPolicy", env, **options)
        load_warm_start(newer, tmp_path / "older", env, min_action_std=least)
        assert newer.policy.log_std.exp().tolist() == pytest.approx([wanted])


def test_sac_goes_on_with_the_temperature_that_it_had_learned(tmp_path: Path) -> None:
    twin = oracle_twin("Pendulum-v1")
    config = LearnConfig(algo="SAC", steps=150, num_envs=4, algo_kwargs={"learning_starts": 40})
    older: Any = learn(twin, config, out=tmp_path / "older")
    older.log_ent_coef.data.fill_(-1.5)
    older.save(tmp_path / "older" / "policy.zip")
    still = config.replace(algo_kwargs={"learning_starts": 1_000})
    newer: Any = learn(twin, still, warm_start=tmp_path / "older")
    assert newer.log_ent_coef.tolist() == pytest.approx([-1.5])
    # Rows add up to the steps that were asked for, and every one of them is learned from.
    assert older.n_envs == 4
    assert 150 <= older.num_timesteps < 154


def test_critics_go_on_with_the_same_values_in_another_unit(tmp_path: Path) -> None:
    twin = oracle_twin("Pendulum-v1")
    options = {"batch_size": 8, "policy_kwargs": {"net_arch": [8]}}
    older = learn(twin, LearnConfig(algo="SVG", steps=3, algo_kwargs=options), out=tmp_path / "it")
    world = WorldModelSB3VecEnv(twin, 1)
    newer = SVG("MlpPolicy", world, **options)
    newer.policy.value_scale = 25.0
    for module in newer.policy.modules():
        if isinstance(module, Scale):
            module.factor = 25.0
    load_warm_start(newer, tmp_path / "it", world)
    rows, actions = torch.randn(9, 3), torch.rand(9, 1)
    for name in ("critic", "critic_target"):
        before, after = (getattr(each, name)(rows, actions)[1] for each in (older, newer))
        torch.testing.assert_close(after, before)
