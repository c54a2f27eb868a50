"""The same policies in a twin and in the real environment: with an exact twin, learned and real returns are equal."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from oracle import oracle_twin
from small_twin import SMALL
from stable_baselines3 import PPO

from world_env.atomic_io import write_json
from world_env.errors import InvalidOptionError, SpaceMismatchError, StageError
from world_env.policies.random_policy import RandomPolicy
from world_env.policies.saved_policy import save_policy
from world_env.policy_evaluation.compare import compare
from world_env.real.real_env import make_real_vec, spec_of
from world_env.real.step_ledger import StepLedger
from world_env.reporting.report import read_comparison, write_report
from world_env.results import Comparison, Fidelity, PolicyComparison
from world_env.results.formatting import show
from world_env.results.provenance import Facts
from world_env.rl.config import TwinTrainingConfig
from world_env.rl.learn import LearnConfig, learn
from world_env.rollouts.learned import run_learned
from world_env.rollouts.real import first_observations, run_real
from world_env.rollouts.returns import bootstrap_mean
from world_env.spec import EnvConfig
from world_env.twin.twin import Twin

SEEDS = range(500, 560)


@pytest.fixture(scope="module", params=["CartPole-v1", "Pendulum-v1"])
def real_id(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def exact(real_id: str) -> Twin:
    return oracle_twin(real_id)


def untrained(real_id: str) -> PPO:
    env = make_real_vec(EnvConfig(real_id), 1, purpose="collect", ledger=StepLedger())
    return PPO("MlpPolicy", env, seed=0, device="cpu")


def policies_of(real_id: str, twin: Twin) -> dict[str, Any]:
    return {"random": RandomPolicy(twin.spec.action_space), "ppo": untrained(real_id)}


@pytest.mark.parametrize("policy", ["random", "ppo"])
def test_an_exact_twin_returns_what_reality_returns(policy: str, real_id: str, exact: Twin) -> None:
    played = policies_of(real_id, exact)[policy]
    ledger = StepLedger()
    reality = run_real(played, EnvConfig(real_id), SEEDS, purpose="judge", ledger=ledger)
    learned = run_learned(played, exact, reality.first, policy_seeds=SEEDS)
    assert ledger.by_purpose == {"judge": int(reality.lengths.sum())}
    np.testing.assert_array_equal(learned.lengths, reality.lengths)
    if real_id == "CartPole-v1":
        np.testing.assert_array_equal(learned.values, reality.values)
    else:
        np.testing.assert_allclose(learned.values, reality.values, rtol=2e-3)
    assert np.corrcoef(learned.values, reality.values)[0, 1] > 0.9999
    assert abs(learned.mean - reality.mean) < 2e-3 * abs(reality.mean)


def test_a_comparison_holds_both_sides_of_every_policy() -> None:
    twin = oracle_twin("CartPole-v1")
    ledger = StepLedger()
    table = compare(
        twin,
        policies_of("CartPole-v1", twin),
        real=EnvConfig("CartPole-v1"),
        ledger=ledger,
        episodes=50,
        seed=500,
        real_steps={"ppo": 7},
    )
    assert table.env_id == "CartPole-v1"
    assert table.episodes == 50 and table.seeds == (500, 549)
    assert [row.policy for row in table.rows] == ["random", "ppo"]
    assert [row.real_steps for row in table.rows] == [None, 7]
    assert set(ledger.by_purpose) == {"judge", "validate"} and ledger.total() == 1
    for row in table.rows:
        assert row.real_ci95[0] <= row.real_mean <= row.real_ci95[1]
        assert row.return_gap == row.learned_mean - row.real_mean
        assert row.past_threshold_share is None
    assert table.rows[1].return_gap == 0.0


def test_the_share_of_steps_past_the_threshold_is_reported() -> None:
    # The exact cart-pole is as uncertain as it is far from the middle.
    twin = dataclasses.replace(oracle_twin("CartPole-v1"), uncertainty_threshold=0.05)
    actor = RandomPolicy(twin.spec.action_space)
    reality = run_real(actor, EnvConfig("CartPole-v1"), SEEDS, purpose="judge", ledger=StepLedger())
    learned = run_learned(actor, twin, reality.first)
    assert learned.past_threshold is not None and 0.0 < learned.past_threshold < 1.0


def test_a_discounted_return_is_the_sum_of_what_each_step_weighs() -> None:
    twin = oracle_twin("CartPole-v1")
    first = first_observations(EnvConfig("CartPole-v1"), SEEDS)
    policy = RandomPolicy(twin.spec.action_space)
    plain, told = run_learned(policy, twin, first), run_learned(policy, twin, first, discount=0.9)
    assert (plain.lengths == told.lengths).all() and (plain.values == plain.lengths).all()
    # Every step pays 1.
    np.testing.assert_allclose(told.values, (1.0 - 0.9**told.lengths) / (1.0 - 0.9))


def test_any_number_of_episodes_has_its_interval() -> None:
    policy = RandomPolicy(oracle_twin("CartPole-v1").spec.action_space)
    widths = []
    for episodes in (2, 8, 64):
        row = compare("cartpole", policy, episodes=episodes).rows[0]
        assert row.real_ci95 is not None
        low, high = row.real_ci95
        assert low <= row.real_mean <= high
        widths.append(high - low)
    assert widths[0] > widths[2]
    with pytest.raises(InvalidOptionError, match="episodes must be >= 1, got 0"):
        compare("cartpole", policy, episodes=0)


def test_one_episode_has_no_interval_on_disk_and_on_the_page(tmp_path: Path) -> None:
    policy = RandomPolicy(oracle_twin("CartPole-v1").spec.action_space)
    found = compare("cartpole", policy, episodes=1)
    write_json(tmp_path / "comparison.json", found.to_json())
    read = read_comparison(tmp_path / "comparison.json")
    assert read == found and read.rows[0].real_ci95 is read.rows[0].learned_ci95 is None
    assert read.rows[0].real_text == show(read.rows[0].real_mean)
    page = write_report(tmp_path / "page", title="T", comparison=read, fidelity=Fidelity())
    assert show(read.rows[0].real_mean) in page.read_text(encoding="utf-8")


def test_a_twin_without_horizon_is_refused() -> None:
    twin = oracle_twin("CartPole-v1")
    endless = dataclasses.replace(twin, spec=dataclasses.replace(twin.spec, horizon=None))
    first = np.zeros((2, 4), np.float32)
    with pytest.raises(InvalidOptionError, match="no time limit"):
        run_learned(RandomPolicy(twin.spec.action_space), endless, first)


@pytest.mark.parametrize(
    "real", [EnvConfig("Pendulum-v1"), EnvConfig("CartPole-v1", action_chunk=2)]
)
def test_a_twin_of_other_spaces_costs_no_episode(real: EnvConfig) -> None:
    twin, ledger = oracle_twin("CartPole-v1"), StepLedger()
    actor = RandomPolicy(twin.spec.action_space)
    with pytest.raises(SpaceMismatchError, match="real environment's"):
        compare(twin, {"random": actor}, real=real, ledger=ledger, episodes=50)
    assert ledger.by_purpose == {}


@pytest.mark.parametrize(
    ("own", "real", "limit", "text"),
    [
        (500, EnvConfig("CartPole-v1", horizon=12), 12, "(twin: 500, real environment: 12)"),
        (12, EnvConfig("CartPole-v1"), 12, "(twin: 12, real environment: 500)"),
        (12, EnvConfig(CartPoleEnv), 12, "(twin: 12, real environment: none)"),
        (None, EnvConfig(CartPoleEnv, horizon=12), 12, "(twin: none, real environment: 12)"),
        (12, EnvConfig("CartPole-v1", horizon=12), 12, "Time limit 12 steps."),
    ],
)
def test_both_sides_play_to_the_smaller_time_limit(
    own: int | None, real: EnvConfig, limit: int, text: str
) -> None:
    exact = oracle_twin("CartPole-v1")
    twin = dataclasses.replace(exact, spec=dataclasses.replace(exact.spec, horizon=own))
    ledger = StepLedger()
    random = RandomPolicy(twin.spec.action_space)
    found = compare(twin, random, real=real, ledger=ledger, episodes=20)
    row = found.rows[0]
    # Every step pays 1, and random actions hold the pole for about 22 steps.
    assert 9 < row.real_mean < limit + 1 and row.return_gap == 0.0
    assert ledger.by_purpose["judge"] <= 20 * limit
    assert found.horizon == limit and text in str(found)
    assert Comparison.from_json(found.to_json(), where="it") == found


def test_the_time_limit_of_chunks_is_that_of_the_smaller_side() -> None:
    spec = spec_of(EnvConfig("CartPole-v1", action_chunk=4))
    twin = Twin.untrained(dataclasses.replace(spec, horizon=3), config=SMALL)
    real = EnvConfig("CartPole-v1", action_chunk=4)
    ledger = StepLedger()
    policy = RandomPolicy(spec.action_space)
    found = compare(twin, policy, real=real, ledger=ledger, episodes=10)
    assert (found.horizon, found.limits) == (3, (3, 125))
    assert ledger.by_purpose["judge"] <= 10 * 12


def test_a_twin_of_a_python_object_asks_for_it_in_another_process() -> None:
    twin = oracle_twin("CartPole-v1")
    of_object = dataclasses.replace(
        twin, provenance=twin.provenance.replace(real=EnvConfig("python:their.make"))
    )
    with pytest.raises(StageError, match=r"'python:their.make' is a Python object.*\(`real=`\)"):
        compare(of_object, RandomPolicy(twin.spec.action_space), episodes=2)


class RoundedCartPole(CartPoleEnv):
    """Begins where its first observation says, to the last bit: float32, as a twin is told."""

    def reset(self, **options: Any) -> Any:
        observation, info = super().reset(**options)
        self.state = tuple(observation.astype(np.float64))
        return observation, info


gym.register("RoundedCartPole-v1", entry_point=RoundedCartPole, max_episode_steps=500)


def test_what_is_learned_in_an_exact_twin_is_what_reality_pays() -> None:
    twin, ledger = oracle_twin("CartPole-v1"), StepLedger()
    model = learn(
        twin, LearnConfig(steps=10_000, simulation=TwinTrainingConfig(dataset_starts=0.0))
    )
    actors = {"random": RandomPolicy(twin.spec.action_space), "ppo": model}
    world = EnvConfig("RoundedCartPole-v1")
    real = {
        name: run_real(actor, world, SEEDS, purpose="judge", ledger=ledger)
        for name, actor in actors.items()
    }
    assert real["ppo"].mean > 3 * real["random"].mean
    learned = run_learned(actors["ppo"], twin, real["ppo"].first)
    np.testing.assert_array_equal(learned.values, real["ppo"].values)


def test_a_comparison_that_cannot_be_written_is_a_named_error(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "comparison.json", {"rows": []})
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["comparison.json"]
    with pytest.raises(StageError, match="cannot write"):
        write_json(tmp_path / "new" / "comparison.json" / "below", {"rows": []})


def test_random_rows_do_not_depend_on_which_others_act() -> None:
    space = spaces.Discrete(5)
    together, alone = RandomPolicy(space), RandomPolicy(space)
    everyone, seen = np.arange(3), np.zeros((3, 1))
    together.reset(everyone, range(3))
    drawn = np.stack([together.act(seen, everyone) for _ in range(20)])
    only: Any = np.array([1])
    alone.reset(only, [1])
    np.testing.assert_array_equal(drawn[:, 1], [alone.act(seen[:1], only)[0] for _ in range(20)])


def test_bootstrap_intervals_cover_the_mean() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(100):
        low, high = bootstrap_mean(rng.exponential(10.0, size=60), seed=trial)
        covered += low <= 10.0 <= high
    assert 85 <= covered <= 100


def test_the_interval_of_equal_values_is_a_point() -> None:
    assert bootstrap_mean(np.full(5, 3.0)) == (3.0, 3.0)
    assert bootstrap_mean(np.array([2.0])) == (2.0, 2.0)


def test_models_folders_and_names_are_taken_as_they_are(tmp_path: Path) -> None:
    model = untrained("CartPole-v1")
    folder = save_policy(model, tmp_path / "policy", trained_in="real")
    model.save(tmp_path / "model.zip")
    given = {"model": model, "folder": folder, "text": str(folder), "zip": tmp_path / "model.zip"}
    found = compare("cartpole", given, episodes=5)
    first, *others = found.rows
    assert all(row.replace(policy="model") == first for row in others)
    assert found.env_id == "CartPole-v1" and found.real_steps_by_purpose["judge"] > 0


@pytest.mark.parametrize(
    ("policies", "error", "words"),
    [
        (lambda: {"p": untrained("Pendulum-v1")}, SpaceMismatchError, "policy of PPO has observation_space"),
        (lambda: {"p": 3}, InvalidOptionError, "policy is int, expected a Stable-Baselines3 model"),
        (lambda: None, InvalidOptionError, "policy is NoneType"),
    ],
)  # fmt: skip
def test_what_is_no_policy_of_the_twin_costs_no_real_step(
    policies: Callable[[], Any], error: type[Exception], words: str
) -> None:
    ledger = StepLedger()
    with pytest.raises(error, match=words):
        compare("cartpole", policies(), ledger=ledger, episodes=50)
    assert ledger.total(exclude=()) == 0


def test_a_comparison_prints_as_a_table_of_at_most_100_columns() -> None:
    long = PolicyComparison(
        policy="runs/some/where/far/away/policy", real_mean=-1165.84, real_ci95=(-1218.5, -1112.3),
        learned_mean=-1173.6, learned_ci95=(-1223.3, -1123.5), past_threshold_share=0.123, episodes=100,
    )  # fmt: skip
    plain = PolicyComparison(policy="random", real_mean=22.1, real_ci95=(20.3, 24.0), episodes=100)
    table = Comparison(env_id="Some/World-v3", episodes=100, rows=[long, plain])
    head, first, second, note = str(table).splitlines()
    assert head.split("  ")[0] == "policy" and "learned return [95 %]" in head
    assert first.startswith("…e/where/far/away/policy  -1,166 [-1,218, -1,112]  -1,174 [")
    assert first.endswith(" -7.76  12.3 %")
    assert second.split() == ["random", "actions", "22.1", "[20.3,", "24]", "–", "–", "–"]  # noqa: RUF001
    assert "100 episodes" in note and len({len(line) for line in (head, first, second)}) == 1
    assert max(map(len, str(table).splitlines())) <= 100


def test_a_comparison_is_read_back() -> None:
    row = PolicyComparison(policy="p", real_mean=1.0, real_ci95=(0.0, 2.0), episodes=50)
    table = Comparison(env_id="X-v0", episodes=50, rows=[row], provenance=Facts(commit="0a"))
    assert Comparison.from_json(table.to_json(), where="here") == table
    broken = table.to_json() | {"episodes": "many"}
    with pytest.raises(InvalidOptionError, match=r"here: Expected `int`, got `str` - at `\$.epis"):
        Comparison.from_json(broken, where="here")
