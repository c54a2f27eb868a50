"""Policies on latents: trained without a decoded observation, they act in reality as they learned to in the twin."""

import dataclasses
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from oracle import oracle_twin
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from world_env.collection.collect import collect
from world_env.collection.config import CollectConfig
from world_env.collection.exploration import make_exploration
from world_env.envs.sb3_vec_env import WorldModelSB3VecEnv
from world_env.errors import (
    ConfigMismatchError,
    InvalidActionError,
    InvalidOptionError,
    SpaceMismatchError,
)
from world_env.models.rssm.model import RssmConfig
from world_env.policies.config import PolicyExploration
from world_env.policies.latent_policy import LatentActor, LatentEncoder, attach_encoder, encoder_of
from world_env.policies.latent_vec_env import LatentObservationVecEnv
from world_env.policies.saved_policy import load_policy, policy_card
from world_env.real.real_env import make_real_vec, spec_of
from world_env.real.step_ledger import StepLedger
from world_env.reporting.futures_video import futures
from world_env.rl.learn import LearnConfig, learn
from world_env.rollouts.actors import policy_actor
from world_env.rollouts.learned import run_learned
from world_env.rollouts.real import run_real
from world_env.simulation.state_filter import StateFilter
from world_env.spec import EnvConfig, WorldSpec
from world_env.twin.twin import Twin
from world_env.wrappers.latent_observation import LatentObservation

CARTPOLE = EnvConfig("CartPole-v1")
SMALL = RssmConfig(
    deter=12, groups=2, classes=3, hidden=12, depth=2, members=2, window=4, context=2
)


def on_latents(twin: Twin, out: Path | None = None, steps: int = 2_048, **fields: Any) -> Any:
    config = LearnConfig(steps=steps, observation_mode="latent", **fields)
    return learn(twin, config, out=out)


def watched(model: PPO) -> list[np.ndarray]:
    """All that the policy is shown from now on."""
    shown: list[np.ndarray] = []
    act = model.predict

    def predict(latent: np.ndarray, **kwargs: Any) -> Any:
        shown.append(latent)
        return act(latent, **kwargs)

    model.predict = predict  # type: ignore[method-assign]
    return shown


def test_it_learns_without_decoding_and_acts_in_reality(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = oracle_twin("CartPole-v1")

    def refuse(*_: object) -> None:
        raise AssertionError("decoded")

    with monkeypatch.context() as patched:
        patched.setattr(type(twin.model), "decode", refuse)
        model = on_latents(twin, tmp_path / "policy", 40_000)
    loaded = load_policy(tmp_path / "policy", expect=twin.spec)
    assert loaded.observation_space.shape == (4,)
    seen = encoder_of(loaded)
    assert seen is not None and seen.mode == "latent"
    seeds = range(20)
    for policy in (model, loaded):
        reality = run_real(
            policy_actor(policy), CARTPOLE, seeds, purpose="judge", ledger=StepLedger()
        )
        learned = run_learned(policy_actor(policy), twin, reality.first)
        # An exact twin: the same episodes, but for how starts are rounded.
        assert abs(learned.mean - reality.mean) < 0.03 * reality.mean
        assert reality.mean > 200.0  # random policies: about 22


def test_what_it_sees_through_goes_with_it(tmp_path: Path) -> None:
    twin = Twin.untrained(spec_of(CARTPOLE), "rssm", SMALL)
    model = on_latents(twin, tmp_path / "policy")
    card = policy_card(tmp_path / "policy")
    assert card["sees"] == {"encoder": "encoder", "mode": "latent"}
    loaded = load_policy(tmp_path / "policy", expect=twin.spec)
    carried = encoder_of(loaded)
    assert carried is not None and carried.twin.fingerprint() == twin.fingerprint()
    seeds = list(range(5))
    returns = [
        run_real(policy_actor(p), CARTPOLE, seeds, purpose="judge", ledger=StepLedger()).values
        for p in (model, loaded, loaded)
    ]
    assert np.array_equal(returns[0], returns[1]) and np.array_equal(returns[0], returns[2])
    with pytest.raises(SpaceMismatchError, match="observation_space"):
        load_policy(tmp_path / "policy", expect=spec_of(EnvConfig("Pendulum-v1")))


def test_a_twin_with_known_functions_is_looked_through_without_them(tmp_path: Path) -> None:
    def never(before: np.ndarray, action: np.ndarray, after: np.ndarray) -> np.ndarray:
        return np.zeros(len(after), bool)

    twin = Twin.untrained(spec_of(CARTPOLE), "rssm", SMALL)
    on_latents(dataclasses.replace(twin, termination_fn=never), tmp_path / "policy")
    assert encoder_of(load_policy(tmp_path / "policy", expect=twin.spec)) is not None


@pytest.mark.parametrize("mode", ["latent", "both"])
def test_rows_of_reality_look_as_each_world_by_itself_does(mode: str) -> None:
    twin = Twin.untrained(spec_of(CARTPOLE), "rssm", SMALL)
    together = LatentObservationVecEnv(
        make_real_vec(CARTPOLE, 3, purpose="collect", ledger=StepLedger()),
        LatentEncoder(twin, mode),
    )
    alone = VecMonitor(
        DummyVecEnv([lambda: LatentObservation(gym.make("CartPole-v1"), twin, mode)] * 3)
    )
    worlds = (together, alone)
    assert together.observation_space == alone.observation_space
    for world in worlds:
        world.seed(5)
    rng, ends = np.random.default_rng(0), 0
    same(*(world.reset() for world in worlds))
    for _ in range(80):
        actions = rng.integers(0, 2, 3)
        (seen, rewards, dones, infos), (theirs, pay, over, told) = (
            world.step(actions) for world in worlds
        )
        same(seen, theirs)
        assert (rewards == pay).all() and (dones == over).all()
        for row in np.flatnonzero(dones):
            same(infos[row]["terminal_observation"], told[row]["terminal_observation"])
            ends += 1
    assert ends > 3
    with pytest.raises(InvalidActionError):
        together.step(np.array([0, 1, 2]))


def test_rows_of_another_world_are_refused() -> None:
    twin = Twin.untrained(spec_of(CARTPOLE), "rssm", SMALL)
    other = make_real_vec(EnvConfig("Pendulum-v1"), 2, purpose="collect", ledger=StepLedger())
    with pytest.raises(SpaceMismatchError, match="observation_space"):
        LatentObservationVecEnv(other, LatentEncoder(twin, "latent"))


def same(seen: Any, theirs: Any) -> None:
    """Observations of both are close."""
    if isinstance(seen, dict):
        assert seen.keys() == theirs.keys()
        for key in seen:
            same(seen[key], theirs[key])
    else:
        np.testing.assert_allclose(seen, theirs, rtol=1e-4, atol=1e-5)


def test_rows_are_filtered_each_by_itself() -> None:
    twin = Twin.untrained(spec_of(CARTPOLE), "rssm", SMALL)
    model = PPO("MlpPolicy", WorldModelSB3VecEnv(twin, 2, observation_mode="latent"), seed=0)
    attach_encoder(model, LatentEncoder(twin, "latent"))
    actor = policy_actor(model)
    assert isinstance(actor, LatentActor)
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(3, 4, 4)).astype(np.float32)
    shown = watched(model)
    for step in range(3):
        actor(seen[step], np.arange(4))
    whole = shown[-1][3]
    shown.clear()
    actor.begin()
    actor(seen[0], np.arange(4))
    actor(seen[1][[1, 3]], np.array([1, 3]))
    actor(seen[2][[3]], np.array([3]))
    np.testing.assert_allclose(shown[-1][0], whole, rtol=1e-5, atol=1e-6)


def test_it_collects_like_any_policy(tmp_path: Path) -> None:
    twin = Twin.untrained(spec_of(CARTPOLE), "rssm", SMALL)
    on_latents(twin, tmp_path / "policy")
    stores = [
        collect(
            CollectConfig(
                CARTPOLE,
                tmp_path / name,
                60,
                PolicyExploration(path=str(tmp_path / "policy")),
                seed=3,
            ),
            ledger=StepLedger(),
        ).load()
        for name in ("one", "two")
    ]
    for one, two in zip(*stores, strict=True):
        assert np.array_equal(one.actions, two.actions)
    actor = make_exploration(
        PolicyExploration(path=str(tmp_path / "policy"), deterministic=True), twin.spec
    )
    actor.reset(0)
    assert actor.act(np.zeros(4, np.float32)) in (0, 1)


def test_an_action_that_the_environment_changes_is_remembered_as_it_was(tmp_path: Path) -> None:
    twin = Twin.untrained(spec_of(EnvConfig("Pendulum-v1")), "rssm", SMALL)
    on_latents(twin, tmp_path / "policy")
    actor = make_exploration(PolicyExploration(path=str(tmp_path / "policy")), twin.spec)
    told = []
    for spoiled in (False, True):
        actor.reset(0)
        for _ in range(3):
            action = actor.act(np.ones(3, np.float32))
            told.append(action.copy())
            action *= 0.0 if spoiled else 1.0
    np.testing.assert_array_equal(told[:3], told[3:])


def test_its_futures_branch_off_from_its_past(tmp_path: Path) -> None:
    twin = oracle_twin("CartPole-v1")
    model = on_latents(twin, steps=40_000)
    path = futures(
        twin,
        model,
        tmp_path / "futures.gif",
        real=CARTPOLE,
        after=5,
        steps=4,
        number=3,
        ledger=StepLedger(),
    )
    assert path.is_file()
    actor = policy_actor(model)
    assert isinstance(actor, LatentActor)
    seen = np.random.default_rng(0).normal(scale=0.01, size=(3, 4)).astype(np.float32)
    for observation in seen[:2]:
        actor(observation[None], np.zeros(1, np.int64))
    ahead = actor.fork(2)
    # The same past and the same sight: the same actions, whoever else goes on.
    actions = ahead(seen[[2, 2]], np.arange(2))
    assert actions.tolist() == [actor(seen[2:], np.zeros(1, np.int64))[0]] * 2


def test_it_goes_on_from_another_one(tmp_path: Path) -> None:
    twin = Twin.untrained(spec_of(CARTPOLE), "rssm", SMALL)
    on_latents(twin, tmp_path / "first")
    later = learn(
        twin,
        LearnConfig(steps=2_048, observation_mode="latent", seed=1),
        out=tmp_path / "second",
        warm_start=tmp_path / "first",
    )
    assert encoder_of(later) is not None


def test_it_can_learn_in_reality_through_a_twin(tmp_path: Path) -> None:
    twin, ledger = oracle_twin("CartPole-v1"), StepLedger()
    config = LearnConfig(steps=8_192, num_envs=4, observation_mode="latent")
    model = learn(CARTPOLE, config, out=tmp_path / "policy", ledger=ledger, encoder=twin)
    assert ledger.by_purpose == {"collect": 8_192}
    # An exact twin's latents are the observations themselves: the same training, to the last weight.
    plain = config.replace(observation_mode="observation")
    same = learn(CARTPOLE, plain, ledger=StepLedger())
    pairs = zip(model.policy.parameters(), same.policy.parameters(), strict=True)
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in pairs)
    card = policy_card(tmp_path / "policy")
    assert (card["trained_in"], card["sees"]["mode"]) == ("real", "latent")
    assert card["provenance"]["learn"]["real"]["encoder"] == twin.fingerprint()
    again = learn(CARTPOLE, config, out=tmp_path / "policy", ledger=ledger, encoder=twin)
    carried = encoder_of(again)
    assert carried is not None and carried.twin.fingerprint() == twin.fingerprint()
    assert ledger.by_purpose == {"collect": 8_192}
    with pytest.raises(ConfigMismatchError, match=r"real\.encoder was"):
        learn(
            CARTPOLE,
            config,
            out=tmp_path / "policy",
            ledger=ledger,
            encoder=Twin.untrained(spec_of(CARTPOLE), "rssm", SMALL),
        )


@pytest.mark.parametrize(
    ("shape", "said"), [((40, 40), "no channel axis.*latent"), ((7, 7, 3), "Kernel size")]
)
def test_pictures_that_no_policy_takes_are_refused(shape: tuple[int, ...], said: str) -> None:
    space = gym.spaces.Box(0, 255, shape, np.uint8)
    twin = Twin.untrained(
        WorldSpec(space, gym.spaces.Box(-1.0, 1.0, (1,)), horizon=20), "rssm", SMALL
    )
    with pytest.raises(InvalidOptionError, match=said):
        learn(twin, LearnConfig(steps=64))


def test_a_mistyped_observation_mode_is_refused_at_once() -> None:
    with pytest.raises(
        InvalidOptionError, match=r"'latents', expected one of 'observation', 'latent'"
    ):
        LearnConfig(observation_mode="latents")


def test_reality_has_no_latents_of_its_own() -> None:
    latent, twin = LearnConfig(steps=64, observation_mode="latent"), oracle_twin("CartPole-v1")
    with pytest.raises(InvalidOptionError, match="in the real environment needs a twin"):
        learn(CARTPOLE, latent, ledger=StepLedger())
    with pytest.raises(
        InvalidOptionError, match="`encoder` has no effect with observation_mode='observation'"
    ):
        learn(CARTPOLE, LearnConfig(steps=64), ledger=StepLedger(), encoder=twin)
    with pytest.raises(
        InvalidOptionError, match="`encoder` is for training in the real environment"
    ):
        learn(twin, latent, encoder=twin)
    with pytest.raises(SpaceMismatchError):
        learn(EnvConfig("Pendulum-v1"), latent, ledger=StepLedger(), encoder=twin)


def test_the_model_follows_what_was_done_instead() -> None:
    twin = Twin.untrained(spec_of(CARTPOLE), "rssm", SMALL)
    model = PPO("MlpPolicy", WorldModelSB3VecEnv(twin, 2, observation_mode="latent"), seed=0)
    attach_encoder(model, LatentEncoder(twin, "latent"))
    seen = np.random.default_rng(0).normal(size=(3, 2, 4)).astype(np.float32)
    done = np.array([[1, 0], [0, 0]])
    actor, shown = policy_actor(model), watched(model)
    assert isinstance(actor, LatentActor)
    rows = np.arange(2)
    for observation, taken in zip(seen, [*done, None], strict=True):
        actor(observation, rows)
        if taken is not None:
            actor.took(taken, rows)
    followed = StateFilter(twin)
    wanted = [followed.start(seen[0], [0, 1])]
    wanted += [followed.update(done[step], seen[step + 1], rows) for step in range(2)]
    np.testing.assert_array_equal(shown, wanted)
