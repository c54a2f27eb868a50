"""Policies learn in a twin without touching reality, in reality on counted steps, and resume."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from oracle import oracle_twin
from stable_baselines3 import PPO
from tensorboard_curves import curves

from world_env.envs.sb3_vec_env import WorldModelSB3VecEnv
from world_env.errors import ConfigMismatchError, InvalidOptionError, StageError
from world_env.policies.saved_policy import policy_card
from world_env.real.real_env import spec_of
from world_env.real.step_ledger import StepLedger
from world_env.rl.config import TwinTrainingConfig
from world_env.rl.learn import LearnConfig, learn
from world_env.seeding import SeedPurpose, derived_seed
from world_env.spec import EnvConfig
from world_env.twin.twin import Twin

CARTPOLE = EnvConfig("CartPole-v1")
TINY = LearnConfig(
    steps=512,
    num_envs=8,
    algo_kwargs={"n_steps": 32, "batch_size": 64, "n_epochs": 1},
    simulation=TwinTrainingConfig(dataset_starts=0.0),
)
TINY_SAC = LearnConfig(
    algo="SAC", steps=60, algo_kwargs={"learning_starts": 30, "batch_size": 8, "buffer_size": 200}
)


@pytest.fixture(scope="module")
def cartpole() -> Twin:
    return oracle_twin("CartPole-v1")


@pytest.fixture(scope="module")
def pendulum() -> Twin:
    return oracle_twin("Pendulum-v1")


@pytest.fixture
def no_reality(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a real environment was made")

    monkeypatch.setattr(gym, "make", refuse)


class Killed(Exception):
    pass


def killed_after(steps: int) -> Callable[[int, int, Any], None]:
    def progress(done: int, wanted: int, logs: Any) -> None:
        if done >= steps:
            raise Killed

    return progress


def weights(model: Any) -> np.ndarray:
    return np.concatenate([p.detach().numpy().ravel() for p in model.policy.parameters()])


def test_a_policy_learned_in_a_twin_touches_no_reality(
    cartpole: Twin, no_reality: None, tmp_path: Path
) -> None:
    seen: list[int] = []
    model = learn(
        cartpole,
        TINY,
        out=tmp_path / "policy",
        progress=lambda done, wanted, logs: seen.append(done),
    )
    assert isinstance(model, PPO)
    assert seen == sorted(seen) and seen[-1] == TINY.steps
    card = policy_card(tmp_path / "policy")
    assert card.trained_in == "learned"
    assert card.provenance["learn"]["steps"] == TINY.steps
    assert model.num_timesteps == TINY.steps
    assert {path.name for path in tmp_path.iterdir()} == {
        "policy",
        ".policy.lock",
        ".policy.stage.lock",
    }


def test_sac_learns_in_a_twin_too(pendulum: Twin, no_reality: None) -> None:
    model = learn(pendulum, TINY_SAC)
    assert model.num_timesteps == TINY_SAC.steps
    assert model._n_updates > 0
    # Pendulum has one action: half of the usual -1, unless another is asked for.
    assert model.target_entropy == -0.5
    asked = TINY_SAC.replace(algo_kwargs=TINY_SAC.algo_kwargs | {"target_entropy": -2.0})
    assert learn(pendulum, asked).target_entropy == -2.0


def test_the_same_seed_gives_the_same_policy(cartpole: Twin) -> None:
    first, again = (weights(learn(cartpole, TINY)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, weights(learn(cartpole, TINY.replace(seed=1))))


def test_the_seeds_of_the_environments_derive_from_that_of_the_training(
    cartpole: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(WorldModelSB3VecEnv, "seed", lambda self, seed=None: seeds.append(seed))
    learn(cartpole, TINY)
    # Stable-Baselines3 seeds them too, with the seed of the algorithm.
    assert seeds[-1] == derived_seed(TINY.seed, SeedPurpose.TRAINING_ENV, 0)


def test_a_finished_policy_is_loaded_instead_of_trained_again(
    cartpole: Twin, tmp_path: Path
) -> None:
    first = learn(cartpole, TINY, out=tmp_path / "policy")

    def never(*_: Any) -> None:
        raise AssertionError("trained again")

    again = learn(cartpole, TINY, out=tmp_path / "policy", progress=never)
    np.testing.assert_array_equal(weights(first), weights(again))


def test_a_policy_whose_settings_were_edited_is_refused(cartpole: Twin, tmp_path: Path) -> None:
    learn(cartpole, TINY, out=tmp_path / "p")
    card = json.loads((tmp_path / "p" / "policy.json").read_text())
    del card["provenance"]["learn"]["simulation"]["reward"]
    (tmp_path / "p" / "policy.json").write_text(json.dumps(card))
    with pytest.raises(ConfigMismatchError, match=r'simulation\.reward was null, now "task"'):
        learn(cartpole, TINY, out=tmp_path / "p")


def test_a_policy_of_another_configuration_is_not_taken_for_this_one(
    cartpole: Twin, tmp_path: Path
) -> None:
    learn(cartpole, TINY, out=tmp_path / "policy")
    with pytest.raises(ConfigMismatchError, match=r"\bseed was 0, now 1"):
        learn(cartpole, TINY.replace(seed=1), out=tmp_path / "policy")


def test_a_policy_of_the_other_world_is_not_taken_for_this_one(
    cartpole: Twin, tmp_path: Path
) -> None:
    learn(cartpole, TINY, out=tmp_path / "policy")
    with pytest.raises(
        StageError, match="trained in a twin, but this training is in the real environment"
    ):
        learn(CARTPOLE, TINY, out=tmp_path / "policy", ledger=StepLedger())


def test_a_policy_of_another_twin_is_not_taken_for_this_one(cartpole: Twin, tmp_path: Path) -> None:
    learn(cartpole, TINY, out=tmp_path / "policy")
    other = dataclasses.replace(cartpole, termination_threshold=0.4)
    with pytest.raises(StageError, match="trained in another twin"):
        learn(other, TINY, out=tmp_path / "policy")


def test_a_policy_of_another_real_environment_is_not_taken_for_this_one(tmp_path: Path) -> None:
    config = TINY.replace(steps=64, num_envs=2)
    learn(CARTPOLE, config, out=tmp_path / "policy", ledger=StepLedger())
    changed = EnvConfig("CartPole-v1", kwargs={"max_episode_steps": 40})
    with pytest.raises(StageError, match="trained in another real environment"):
        learn(changed, config, out=tmp_path / "policy", ledger=StepLedger())


def test_a_killed_training_goes_on_in_the_middle(cartpole: Twin, tmp_path: Path) -> None:
    config = TINY.replace(steps=2048)
    with pytest.raises(Killed):
        learn(cartpole, config, out=tmp_path / "policy", progress=killed_after(1024))
    assert not (tmp_path / "policy").exists()
    seen: list[int] = []
    model = learn(
        cartpole,
        config,
        out=tmp_path / "policy",
        progress=lambda done, wanted, logs: seen.append(done),
    )
    assert seen[0] > 512 and seen[-1] == config.steps
    assert model.num_timesteps == config.steps
    assert {path.name for path in tmp_path.iterdir()} == {
        "policy",
        ".policy.lock",
        ".policy.stage.lock",
    }


def test_a_killed_off_policy_training_keeps_the_transitions_it_paid_for(tmp_path: Path) -> None:
    ledger, config = StepLedger(), TINY_SAC.replace(steps=200)
    real = EnvConfig("Pendulum-v1")
    with pytest.raises(Killed):
        learn(real, config, out=tmp_path / "policy", ledger=ledger, progress=killed_after(100))
    before = ledger.total()
    model = learn(real, config, out=tmp_path / "policy", ledger=ledger)
    assert 100 <= before < 200
    assert ledger.total() <= 210
    assert model.replay_buffer.size() >= 190
    assert {path.name for path in tmp_path.iterdir()} == {
        "policy",
        ".policy.lock",
        ".policy.stage.lock",
    }


def test_a_killed_training_keeps_the_scale_of_its_rewards(
    cartpole: Twin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stable_baselines3.common.vec_env import VecNormalize

    config = TINY.replace(steps=2048)
    with pytest.raises(Killed):
        learn(cartpole, config, out=tmp_path / "policy", progress=killed_after(1024))
    stored = policy_card(tmp_path / ".policy.partial").provenance["learn"]["reward_statistics"]
    assert stored["count"] > 512 and stored["var"] != 1.0
    begun: list[float] = []
    reset = VecNormalize.reset
    monkeypatch.setattr(
        VecNormalize, "reset", lambda env: (begun.append(env.ret_rms.count), reset(env))[1]
    )
    learn(cartpole, config, out=tmp_path / "policy")
    assert begun == [stored["count"]]


def test_a_half_trained_policy_of_another_configuration_is_refused(
    cartpole: Twin, tmp_path: Path
) -> None:
    config = TINY.replace(steps=2048)
    with pytest.raises(Killed):
        learn(cartpole, config, out=tmp_path / "policy", progress=killed_after(1024))
    with pytest.raises(ConfigMismatchError, match="num_envs was 8, now 4"):
        learn(cartpole, config.replace(num_envs=4), out=tmp_path / "policy")


def test_a_damaged_half_trained_policy_is_refused(cartpole: Twin, tmp_path: Path) -> None:
    config = TINY.replace(steps=2048)
    with pytest.raises(Killed):
        learn(cartpole, config, out=tmp_path / "policy", progress=killed_after(1024))
    (tmp_path / ".policy.partial" / "policy.zip").write_bytes(b"half")
    with pytest.raises(StageError, match="cannot be loaded"):
        learn(cartpole, config, out=tmp_path / "policy")


@pytest.mark.parametrize("config", [TINY, TINY_SAC], ids=["PPO", "SAC"])
def test_a_training_writes_its_curves_by_environment_steps(
    cartpole: Twin, config: LearnConfig, tmp_path: Path
) -> None:
    # SAC logs after every fourth episode.
    twin = cartpole if config.algo == "PPO" else oracle_twin("Pendulum-v1", horizon=10)
    plain = learn(twin, config)
    model = learn(twin, config, tensorboard=tmp_path)
    found = curves(tmp_path)
    own = "learn/entropy_loss" if config.algo == "PPO" else "learn/ent_coef"
    assert {"learn/episode_return", "learn/episode_length", "learn/learning_rate", own} <= {*found}
    assert all(name.startswith("learn/") and "time/" not in name for name in found)
    for points in found.values():
        steps = [step for step, _ in points]
        assert steps == sorted(steps) and 0 < steps[0] <= steps[-1] <= model.num_timesteps
    assert found["learn/episode_length"][-1][1] > 1
    # Watching a training leaves it as it is.
    for ours, its in zip(plain.policy.parameters(), model.policy.parameters(), strict=True):
        assert torch.equal(ours, its)


@pytest.mark.parametrize("place", ["file/policy", "full"])
def test_a_place_that_cannot_be_written_is_refused_before_a_step(
    place: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "twin.json").write_text("not a policy")
    ledger = StepLedger()
    with pytest.raises(StageError, match=r"cannot write|exists and is not a policy folder"):
        learn("CartPole-v1", TINY, out=tmp_path / place, ledger=ledger)
    assert ledger.total() == 0


def test_learning_in_reality_needs_a_ledger() -> None:
    with pytest.raises(StageError, match=r"real steps.*ledger"):
        learn(CARTPOLE, TINY)


def test_real_steps_are_counted_and_no_more_than_one_rollout_above_the_wanted(
    tmp_path: Path,
) -> None:
    config = LearnConfig(steps=200, num_envs=1, algo_kwargs={"n_steps": 64, "batch_size": 32})
    ledger = StepLedger(tmp_path / "steps.json")
    model = learn(CARTPOLE, config, out=tmp_path / "policy", ledger=ledger)
    # Stable-Baselines3 finishes its rollouts: 4 of 64 steps.
    assert ledger.by_purpose == {"collect": 256}
    assert StepLedger(tmp_path / "steps.json").by_purpose == {"collect": 256}
    assert model.num_timesteps == 256
    assert policy_card(tmp_path / "policy").trained_in == "real"


def test_off_policy_learning_in_reality_costs_exactly_the_wanted_steps() -> None:
    ledger = StepLedger()
    learn(EnvConfig("Pendulum-v1"), TINY_SAC, ledger=ledger, purpose="collect")
    assert ledger.by_purpose == {"collect": TINY_SAC.steps}


def test_schedules_run_once_over_the_whole_training(cartpole: Twin) -> None:
    remaining: list[float] = []

    def falling(share: float) -> float:
        remaining.append(share)
        return 1e-3 * share

    learn(
        cartpole,
        TINY.replace(steps=1024, algo_kwargs=TINY.algo_kwargs | {"learning_rate": falling}),
    )
    assert remaining == sorted(remaining, reverse=True)
    assert remaining[-1] == 0.0


def test_the_data_normalises_the_policy_inside_it(cartpole: Twin, tmp_path: Path) -> None:
    with_states = dataclasses.replace(cartpole, states=cartpole.starts)
    model = learn(with_states, TINY, out=tmp_path / "policy")
    flat = cartpole.starts.last()["observation"]
    np.testing.assert_allclose(
        model.policy.features_extractor.mean.numpy(), flat.mean(0).numpy(), rtol=1e-5
    )


@pytest.mark.parametrize("change", [{"steps": 0}, {"num_envs": 0}])
def test_nothing_to_learn_from_is_refused(change: dict[str, int]) -> None:
    ((name, value),) = change.items()
    with pytest.raises(InvalidOptionError, match=f"^{name} must be >= 1, got {value}$"):
        TINY.replace(**change)


@pytest.mark.parametrize("gamma", ["x", 1.5, None])
def test_a_discount_that_is_none_is_refused(gamma: Any) -> None:
    with pytest.raises(InvalidOptionError, match=rf"'gamma'\] must be a discount.*got {gamma!r}"):
        TINY.replace(algo_kwargs={"gamma": gamma})


@pytest.mark.parametrize("given", [{}, {"on_uncertain": "ignore"}])
def test_the_defaults_of_a_table_are_its_own(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = []

    class Told(WorldModelSB3VecEnv):
        def __init__(self, *args: Any, **options: Any) -> None:
            rules.append(options["on_uncertain"])
            super().__init__(*args, **options)

    monkeypatch.setattr("world_env.envs.sb3_vec_env.WorldModelSB3VecEnv", Told)
    config = TINY.replace(steps=256, simulation=TwinTrainingConfig(dataset_starts=0.0, **given))
    entropy = {}
    for env_id in ("FrozenLake-v1", "CartPole-v1"):
        twin = Twin.untrained(spec_of(EnvConfig(env_id)), "ensemble")
        twin = dataclasses.replace(twin, uncertainty_threshold=1.0)
        entropy[env_id] = learn(twin, config).ent_coef
    assert entropy == {"FrozenLake-v1": 0.06, "CartPole-v1": 0.0}
    assert rules == (["ignore"] * 2 if given else ["truncate", "pessimistic"])
    own = config.replace(algo_kwargs=TINY.algo_kwargs | {"ent_coef": 0.01})
    lake = Twin.untrained(spec_of(EnvConfig("FrozenLake-v1")), "ensemble")
    assert learn(lake, own).ent_coef == 0.01


def test_an_option_that_the_algorithm_lacks_is_named(cartpole: Twin) -> None:
    with pytest.raises(
        InvalidOptionError, match=r"^unknown options \['no_such'\] for PPO: expected.*n_steps"
    ):
        learn(cartpole, TINY.replace(algo_kwargs={"no_such": 1}))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (TINY.replace(algo_kwargs={"n_steps": -1}), "^cannot train PPO.*'n_steps': -1"),
        (TINY_SAC, "^cannot train SAC.*action spaces.*Discrete"),
        (
            TINY.replace(algo_kwargs={"policy_kwargs": {"activation_fn": "Relu"}}),
            "activation_fn 'Relu'.*'ReLU'",
        ),
    ],
)
def test_an_option_that_cannot_be_is_named(cartpole: Twin, config: LearnConfig, words: str) -> None:
    with pytest.raises(InvalidOptionError, match=words):
        learn(cartpole, config)


def test_options_that_were_not_given_are_not_blamed(cartpole: Twin) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        learn(cartpole, LearnConfig(algo="SAC", steps=60))
    assert "cannot train SAC" in str(caught.value)
    assert not any(
        word in str(caught.value) for word in ("buffer_size", "target_entropy", "Options")
    )


def test_an_unknown_algorithm_lists_the_known_ones(cartpole: Twin) -> None:
    with pytest.raises(InvalidOptionError, match=r"'PPPO'.*PPO"):
        learn(cartpole, TINY.replace(algo="PPPO"))


def test_what_a_policy_was_learned_with_can_be_read_without_loading_it(
    cartpole: Twin, tmp_path: Path
) -> None:
    learn(cartpole, TINY, out=tmp_path / "policy")
    tree = json.loads((tmp_path / "policy" / "policy.json").read_text())
    assert tree["provenance"]["learn"]["algo_kwargs"] == TINY.algo_kwargs
