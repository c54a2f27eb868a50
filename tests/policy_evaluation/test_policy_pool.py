"""A pool: spread over returns and runs, counted, resumable, and closed to whoever makes twins."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from training.tasks import TASKS, pool_task
from world_env.collection.exploration import make_exploration
from world_env.errors import InvalidOptionError, StageError, TwinNotFoundError
from world_env.models.rssm.model import RssmConfig
from world_env.policies.config import PolicyExploration, StuckSensorsExploration
from world_env.policies.saved_policy import policy_card
from world_env.policy_evaluation.config import PoolConfig
from world_env.policy_evaluation.evaluate_twin import evaluate_twin
from world_env.policy_evaluation.policy_pool import Pool, crowding, plan, pool as make_pool
from world_env.policy_evaluation.pool_selection import MAX_OF_A_RUN, Member, choose, range_shares
from world_env.real.real_env import spec_of
from world_env.real.step_ledger import StepLedger
from world_env.rollouts.real import run_real
from world_env.rollouts.returns import Returns
from world_env.spec import EnvConfig
from world_env.twin.twin import Twin

REAL = EnvConfig("CartPole-v1", {"max_episode_steps": 40})


def tiny(out: Path, **change: Any) -> PoolConfig:
    options = {
        "policies": 20,
        "on_policy_steps": 64,
        "off_policy_steps": 64,
        "episodes": 8,
        "scripted": "training.scripted_policies:balance",
    }
    return PoolConfig(REAL, out, **(options | change))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "world_env.policy_evaluation.policy_pool._SELECT_EPISODES", 2
        )  # ten would only take longer
        return make_pool(tiny(tmp_path_factory.mktemp("pool") / "cartpole"))


def members(*runs: int) -> list[Member]:
    return [Member(f"p{i}", f"r{run}", "random") for i, run in enumerate(runs)]


def test_the_choice_is_spread_over_returns_and_runs() -> None:
    # Eight runs of ten stages: most of them end at the top.
    candidates = members(*(i // 10 for i in range(80)))
    values = [100.0 * min(1.0, (i % 10) / 5.0) for i in range(80)]
    chosen = choose(candidates, values, 24)
    assert len(chosen) == 24
    assert len({member.run for member in chosen}) == 8
    assert max(sum(m.run == f"r{r}" for m in chosen) for r in range(8)) <= MAX_OF_A_RUN
    kept = [values[int(member.name[1:])] for member in chosen]
    assert max(range_shares(kept)) <= 0.4
    assert kept == sorted(kept)
    assert (min(kept), max(kept)) == (0.0, 100.0)


def test_a_crowd_is_thinned_but_never_below_twenty() -> None:
    candidates = members(*(i // 4 for i in range(40)))
    values = [100.0] * 30 + [10.0 * i for i in range(10)]
    chosen = choose(candidates, values, 24)
    assert len(chosen) >= 20
    top = sum(values[int(member.name[1:])] >= 80.0 for member in chosen)
    assert top <= 12  # as few as the others allow


def test_fifths_are_shares_of_the_range() -> None:
    assert range_shares([0.0, 1.0, 100.0]) == [0.6667, 0.0, 0.0, 0.0, 0.3333]
    assert range_shares([5.0, 5.0]) == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_where_one_slip_decides_each_runs_best_policy_slips_rarely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A candidate without any noise earns 100 or 10; noise costs 10 a percent, so that much of it leaves nothing."""

    def estimates(config: Any, folder: Any, candidates: list[Member], *_: Any) -> list[float]:
        return [
            max(0.0, (100.0 if "closed" in m.source else 10.0) - 1000.0 * m.noise)
            for m in candidates
        ]

    monkeypatch.setattr("world_env.policy_evaluation.policy_pool._estimates", estimates)
    made = make_pool(tiny(tmp_path / "cartpole"))
    rare = [member for member in made.members if 0 < member.noise < 0.25]
    assert {member.source.partition("/")[2] for member in rare} == {"closed"}
    assert {member.noise for member in rare} >= {0.02, 0.05}
    assert all(m.name == f"{m.run} last, {m.noise:.0%} random" for m in rare)
    values = estimates(None, None, made.members)
    assert max(range_shares(values)) <= 0.4


@pytest.mark.parametrize(
    ("space", "algorithms"),
    [
        (spaces.Discrete(3), {"PPO", "A2C", "DQN"}),
        (spaces.MultiDiscrete([2, 3]), {"PPO", "A2C"}),
        (spaces.Box(-1.0, 1.0, (2,)), {"PPO", "SAC", "TD3"}),
    ],
)
def test_the_plan_has_eight_runs_of_several_algorithms(
    space: spaces.Space[Any], algorithms: set[str], tmp_path: Path
) -> None:
    runs = plan(tiny(tmp_path), space)
    assert len(runs) == 8
    assert {run.algo for run in runs.values()} == algorithms
    assert len({(run.algo, run.seed) for run in runs.values()}) == 8


def test_a_pool_of_a_simulator_of_which_one_can_be_open_opens_one(tmp_path: Path) -> None:
    space = spec_of(REAL).action_space
    alone = plan(tiny(tmp_path, num_envs=1), space).values()
    assert {run.parallel_envs for run in alone} == {1}
    usual = plan(tiny(tmp_path), space).values()
    assert {run.parallel_envs for run in usual} == {1, 8}
    assert "num_envs" not in tiny(tmp_path).to_json()  # pools without the setting are resumed
    with pytest.raises(InvalidOptionError, match="num_envs must be >= 1, got 0"):
        tiny(tmp_path, num_envs=0)


def test_a_pool_holds_what_it_promises(made: Pool) -> None:
    assert len(made.members) >= 20
    runs = {member.run for member in made.members}
    assert len(runs) >= 8
    assert {"random", "scripted"} <= runs
    assert all(sum(member.run == run for member in made.members) <= MAX_OF_A_RUN for run in runs)
    assert all(len(part.values) == 8 for part in made.returns)
    # CartPole pays one a step.
    assert all(np.array_equal(part.values, part.lengths) for part in made.returns)
    assert np.mean([r.mean for r in made.returns]) > 9.0


def test_every_real_step_of_a_pool_is_counted(made: Pool) -> None:
    assert set(made.real_steps) == {"collect", "select", "judge", "validate"}
    assert made.real_steps["judge"] == sum(int(part.lengths.sum()) for part in made.returns)
    # Eight runs of 64 steps each, on-policy ones in whole rollouts.
    assert made.real_steps["collect"] >= 8 * 64


def test_a_member_acts_the_same_again(made: Pool) -> None:
    from world_env.real.step_ledger import StepLedger
    from world_env.rollouts.real import run_real

    noisy = next(member for member in made.members if member.noise)
    again = run_real(
        made.policy(noisy, spec_of(REAL)), REAL, made.seeds, purpose="judge", ledger=StepLedger()
    )
    assert np.array_equal(again.values, made.returns[made.members.index(noisy)].values)


def test_a_finished_pool_is_read_back_and_another_one_refused(made: Pool) -> None:
    before = json.loads((made.folder / "real-steps.json").read_text())
    again = make_pool(tiny(made.folder))
    assert again.members == made.members
    assert json.loads((made.folder / "real-steps.json").read_text()) == before
    with pytest.raises(StageError, match="seed was 0, now 7"):
        make_pool(tiny(made.folder, seed=7))


def test_no_twin_learns_from_a_pool(made: Pool) -> None:
    kept = [path.parent for path in made.folder.glob("*/*/policy.json")]
    assert kept
    for folder in kept:
        for kind in (PolicyExploration, StuckSensorsExploration):
            with pytest.raises(InvalidOptionError, match="belongs to a policy pool"):
                make_exploration(kind(path=str(folder)), spec_of(REAL))


def test_what_is_no_pool_is_named(tmp_path: Path, made: Pool) -> None:
    with pytest.raises(StageError, match="is no finished pool"):
        Pool.load(tmp_path)
    tree = json.loads((made.folder / "pool.json").read_text())
    for spoiled in ({"format": 99}, {"members": []}, {"seeds": [0, 1]}):
        (tmp_path / "pool.json").write_text(json.dumps(tree | spoiled))
        with pytest.raises(StageError, match=r"format 99|is no finished pool"):
            Pool.load(tmp_path)
    with pytest.raises(InvalidOptionError, match="expected at least 20"):
        tiny(tmp_path, policies=10)


def test_a_tasks_pool_has_the_values_of_its_row(tmp_path: Path) -> None:
    task, real = TASKS["Acrobot-v1"], EnvConfig("Acrobot-v1")
    config = pool_task(task, real, tmp_path)
    assert config.episodes == task.pool_episodes > PoolConfig(real, tmp_path).episodes == 100
    assert (config.on_policy_steps, config.off_policy_steps) == task.pool_steps
    assert config.scripted == task.scripted
    assert config.off_policy_algo_kwargs == task.off_policy_algo_kwargs


@pytest.mark.parametrize(
    ("values", "said"), [([0.0] * 9 + [100.0] * 11, "55 % of"), (range(20), "")]
)
def test_a_pool_that_is_not_spread_says_so(
    values: Sequence[float], said: str, tmp_path: Path
) -> None:
    returns = [Returns(np.full(2, value), np.ones(2, np.int64), None) for value in values]
    found = Pool(tmp_path, REAL, members(*range(20)), returns, range(2))
    assert (crowding(found) or "").startswith(said)
    assert bool(crowding(found)) is bool(said)


@pytest.mark.slow
def test_policies_can_see_through_a_twin_that_the_pool_does_not_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("world_env.policy_evaluation.policy_pool._SELECT_EPISODES", 2)
    monkeypatch.setattr("world_env.policy_evaluation.policy_pool._NOISE", (0.5,))
    monkeypatch.setattr("world_env.policy_evaluation.policy_pool._STAGES", (0.5,))
    small = RssmConfig(
        deter=12, groups=2, classes=3, hidden=12, depth=2, members=2, window=4, context=2
    )
    eyes = Twin.untrained(spec_of(REAL), "rssm", small)
    eyes.save(tmp_path / "eyes")
    config = tiny(tmp_path / "pool", encoder=str(tmp_path / "eyes"))
    found = make_pool(config)
    assert found.encoder == eyes.fingerprint() == Pool.load(tmp_path / "pool").encoder
    kept = policy_card(tmp_path / "pool" / "ppo-0" / "closed")
    assert (kept.trained_in, kept.latent_mode) == ("real", "latent")
    with pytest.raises(InvalidOptionError, match="act on latent observations of this twin"):
        evaluate_twin(eyes, found)
    weak = next(member for member in found.members if member.noise)
    actors = [found.policy(weak, spec_of(REAL)) for _ in range(2)]
    runs = [
        run_real(actor, REAL, found.seeds, purpose="judge", ledger=StepLedger()) for actor in actors
    ]
    # With its noise, and with the model following what was really done, a member repeats what it was judged by.
    for again in runs:
        assert again.values.tolist() == found.returns[found.members.index(weak)].values.tolist()
    with pytest.raises(StageError, match="other settings"):
        make_pool(tiny(tmp_path / "pool"))
    with pytest.raises(TwinNotFoundError):
        make_pool(tiny(tmp_path / "other", encoder=str(tmp_path / "mistyped")))
    assert not (tmp_path / "other").exists()
