"""A build announces its real steps, keeps to the limit, repeats none, and needs one environment at a time."""

import json
import logging
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from world_env.data.store import EpisodeStore
from world_env.errors import RealStepLimitError
from world_env.fitting.config import FitConfig
from world_env.pipeline import planned_steps
from world_env.pipeline.build import build
from world_env.pipeline.config import BuildConfig
from world_env.real.api_check import forget_checks
from world_env.real.step_ledger import StepLedger
from world_env.results.step_plan import StepPlan, at_most, exact, of_episodes
from world_env.rl.config import LearnConfig
from world_env.rl.learn import learn
from world_env.spec import EnvConfig
from world_env.twin.twin import Twin

pytestmark = pytest.mark.filterwarnings("ignore::world_env.fitting.preconditions.FitWarning")

FIT = FitConfig(
    gradient_steps=30,
    batch_size=64,
    validate_every=15,
    model={"members": 2, "width": 32, "head_width": 16, "rollout": 2},
)


class SinglePort(gym.Env[Any, Any]):
    """An environment of which one instance can run, as of a simulator with a fixed port.

    fails_at: total steps of all instances after which a step fails.
    """

    observation_space = spaces.Box(-9.0, 9.0, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    running = taken = 0

    def __init__(self, fails_at: int | None = None) -> None:
        if SinglePort.running:
            raise RuntimeError("port 5005 is already in use")
        SinglePort.running += 1
        self.fails_at = fails_at

    def close(self) -> None:
        SinglePort.running = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x = float(self.np_random.uniform(-0.5, 0.5))
        return np.array([self.x], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        SinglePort.taken += 1
        if self.fails_at is not None and SinglePort.taken > self.fails_at:
            raise RuntimeError("the simulator is gone")
        self.x = 0.9 * self.x + 0.1 * float(action[0])
        return np.array([self.x], np.float32), -abs(self.x), False, False, {}


gym.register("SinglePort-v0", entry_point=SinglePort, max_episode_steps=10)


def config(out: Path, **change: Any) -> BuildConfig:
    real = EnvConfig("SinglePort-v0", change.pop("kwargs", {}))
    sizes: dict[str, Any] = {"steps": 200, "learn_steps": 64, "judge_episodes": 5, "fit": FIT}
    return BuildConfig(real, out, **(sizes | change))


@pytest.fixture(autouse=True)
def no_instance_runs() -> None:
    SinglePort.running = SinglePort.taken = 0


def taken(out: Path) -> dict[str, int]:
    return StepLedger(out / "real-steps.json").by_purpose


# -- the plan ------------------------------------------------------------------------------------------------------


def test_a_plan_states_exact_numbers_upper_bounds_and_what_was_taken() -> None:
    plan = StepPlan(
        parts=[
            exact("collect", "data", 2_000),
            of_episodes("judge", "3 policies x 10 episodes", 30, 50, chunk=2),
            at_most("evaluate", "frames", 120),
        ],
        taken={"collect": 12_000},
        max_steps=20_000,
    )
    assert plan.by_purpose == {"collect": 2_000, "judge": 3_000, "evaluate": 120}
    assert plan.total == 5_120
    lines = str(plan).splitlines()
    assert lines[0] == "real environment steps of this command:"
    assert [line.split() for line in lines[1:4]] == [
        ["collect", "2,000", "data"],
        "judge at most 3,000 3 policies x 10 episodes of up to 100 steps".split(),
        "evaluate at most 120 frames".split(),
    ]
    assert "at most 5,120  more; 12,000 taken before (collect 12,000)" in lines[4]
    assert lines[5].split()[:2] == ["limit", "20,000"]
    assert StepPlan.from_json(plan.to_json(), where="plan") == plan
    plan.replace(max_steps=14_030).check("--steps")
    with pytest.raises(
        RealStepLimitError,
        match=r"limit of 14,029: 12,000 taken before, and at least 2,030 more: collect 2,000 \(data\), judge 30 .*"
        r"No step was taken. Lower --steps",
    ):
        plan.replace(max_steps=14_029).check("--steps")
    endless = StepPlan(parts=[of_episodes("judge", "episodes", 5, None)])
    assert endless.total is None and "at least 5" in str(endless)
    assert "none left to take; 7 taken before" in str(StepPlan(parts=[], taken={"judge": 7}))


@pytest.mark.parametrize("algo", ["PPO", "SAC"])
def test_the_plan_is_announced_and_kept(
    algo: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = {"learn_steps": 64} if algo == "PPO" else {"learn_steps": 260, "rounds": 1}
    asked = config(tmp_path / "run", algo=algo, **small)
    plan = planned_steps(asked)
    assert not (tmp_path / "run").exists()
    caplog.set_level(logging.INFO, "world_env.pipeline.build")
    spent_at_the_announcement = []

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "real environment steps" in record.getMessage():
                spent_at_the_announcement.append(SinglePort.taken)

    logger, watch = logging.getLogger("world_env.pipeline.build"), Watch()
    logger.addHandler(watch)
    try:
        built = build(asked)
    finally:
        logger.removeHandler(watch)
    assert spent_at_the_announcement == [0]
    assert str(plan) in caplog.text
    counted = built.comparison.real_steps_by_purpose
    assert counted == taken(tmp_path / "run") and sum(counted.values()) == SinglePort.taken
    # Data and training are exact, and so are episodes that always last until the time limit.
    assert {**counted, "evaluate": 0} == {**plan.by_purpose, "evaluate": 0}
    assert counted["judge"] == 3 * 5 * 10
    assert counted["evaluate"] <= (plan.by_purpose["evaluate"] or 0)
    assert built.comparison.judging_steps == dict.fromkeys(
        ("random", f"{algo.lower()}_twin", f"{algo.lower()}_real_same_steps"), 50
    )
    page = (tmp_path / "run" / "report" / "report.md").read_text(encoding="utf-8")
    assert "| real steps | judging steps |" in page


def test_the_time_of_a_build_is_that_of_all_its_stages_and_few_columns_are_compared_with_least_squares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config(tmp_path, baseline=False)
    fidelity = Twin.load(build(asked).twin_folder).fidelity
    assert fidelity.horizons is not None and fidelity.horizons.observation.linear is not None
    # The columns of a grid world's categories are too many.
    monkeypatch.setattr("world_env.pipeline.build._MAX_LINEAR_COLUMNS", 0)
    log = tmp_path / "round-0" / "round.json"
    tree = json.loads(log.read_text(encoding="utf-8"))
    tree["seconds"] |= {"fit": 1_000.0}
    log.write_text(json.dumps(tree), encoding="utf-8")
    again = build(asked)
    fidelity = Twin.load(again.twin_folder).fidelity
    assert fidelity.horizons is not None and fidelity.horizons.observation.linear is None
    seconds = dict(again.seconds)
    assert seconds["fit (round 0)"] == 1_000.0 and seconds["all"] >= 1_000.0


def test_a_build_run_again_judges_what_is_new_only(tmp_path: Path) -> None:
    asked = config(tmp_path, baseline=False)
    first = build(asked)
    before = SinglePort.taken
    plan = planned_steps(asked)
    again = build(asked)
    # The frames of the page are played again, and that is said.
    assert plan.by_purpose == {"collect": 0, "evaluate": 10, "judge": 0}
    assert SinglePort.taken - before == 10
    assert again.comparison.rows == first.comparison.rows
    assert again.comparison.judging_steps == first.comparison.judging_steps
    stored = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))
    assert [row["policy"] for row in stored["rows"]] == ["random", "ppo_twin"]
    # A baseline is trained and judged; the other policies are not judged again.
    wider = asked.replace(baseline=True)
    forget_checks()  # as in another process
    plan, before = planned_steps(wider), taken(tmp_path)
    assert plan.by_purpose["judge"] == 50 and plan.by_purpose["validate"] == 1
    third = build(wider)
    assert taken(tmp_path)["validate"] == before["validate"] + 1
    assert taken(tmp_path)["judge"] - before["judge"] == 50
    assert third.comparison.rows[:2] == first.comparison.rows
    # Another number of episodes judges all.
    build(asked.replace(judge_episodes=6))
    assert taken(tmp_path)["judge"] - before["judge"] == 50 + 2 * 60


def test_a_build_with_svg_also_trains_ppo_in_the_last_twin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("world_env.refinement.presets._FEWEST_UPDATES", 200)
    asked = config(tmp_path / "run", algo="SVG")
    built = build(asked)
    names = [row.policy for row in built.comparison.rows]
    assert names == ["random", "svg_twin", "ppo_twin", "sac_real_same_steps"]
    # PPO trains in the twin only: it has cost as many real steps as SVG.
    assert [row.real_steps for row in built.comparison.rows] == [0, 200, 200, 200]
    assert (tmp_path / "run" / "ppo-twin" / "policy.json").is_file()
    assert "SVG trained in the twin" in built.page.read_text(encoding="utf-8")
    before = taken(tmp_path / "run")
    assert planned_steps(asked).by_purpose.get("judge", 0) == 0
    again = build(asked)
    assert [row.real_mean for row in again.comparison.rows] == [
        row.real_mean for row in built.comparison.rows
    ]
    assert taken(tmp_path / "run")["judge"] == before["judge"]


# -- the limit -----------------------------------------------------------------------------------------------------


def test_a_plan_beyond_the_limit_fails_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(RealStepLimitError, match="--steps or --judge-episodes, or pass --no-base"):
        build(config(tmp_path / "run", max_real_steps=300))
    assert SinglePort.taken == 0 and not (tmp_path / "run" / "real-steps.json").exists()


def test_a_build_stops_at_the_limit_and_resumes_with_a_larger_one(tmp_path: Path) -> None:
    whole = build(config(tmp_path / "whole", baseline=False))
    SinglePort.taken = 0
    limited = config(tmp_path / "run", baseline=False, max_real_steps=275)
    with pytest.raises(RealStepLimitError, match="limit of 275"):
        build(limited)
    # The first policy is judged, and half of the second one.
    assert SinglePort.taken == 275 and taken(tmp_path / "run") == {"collect": 200, "judge": 75}
    assert EpisodeStore(tmp_path / "run" / "round-0" / "data").steps == 200
    assert planned_steps(limited).by_purpose["judge"] == 50
    built = build(limited.replace(max_real_steps=10_000))
    assert built.comparison.rows == whole.comparison.rows
    # The episodes that the limit cut are played again, and counted.
    assert taken(tmp_path / "run")["judge"] == 100 + 25


def test_a_training_that_stops_at_the_limit_closes_its_environment() -> None:
    training = LearnConfig(steps=100, num_envs=1)
    with pytest.raises(RealStepLimitError):
        learn(EnvConfig("SinglePort-v0"), training, ledger=StepLedger(max_steps=30))
    assert SinglePort.taken == 30 and SinglePort.running == 0


def test_steps_that_an_earlier_run_lost_count_against_the_limit(tmp_path: Path) -> None:
    ledger = StepLedger(tmp_path / "real-steps.json")
    ledger.count("collect", 77)
    ledger.save()
    # The check of the environment, 200 steps of data, and 2 x 5 episodes of at least one step.
    with pytest.raises(RealStepLimitError, match="286: 77 taken before, and at least 211 more"):
        build(config(tmp_path, baseline=False, max_real_steps=286))
    assert SinglePort.taken == 0
    with pytest.raises(RealStepLimitError, match="limit of 288 real steps is reached"):
        build(config(tmp_path, baseline=False, max_real_steps=288))
    assert SinglePort.taken == 211 and EpisodeStore(tmp_path / "round-0" / "data").steps == 200


def test_a_limit_that_leaves_no_step_for_diagnostics_leaves_them_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    built = build(config(tmp_path, baseline=False, max_real_steps=301))
    assert taken(tmp_path) == {"validate": 1, "collect": 200, "judge": 100}
    assert built.page.is_file() and "no effects of actions: the limit of 301" in caplog.text
    # No step is spent on a measure that the limit may stop.
    caplog.clear()
    build(config(tmp_path, baseline=False, max_real_steps=1_000))
    assert taken(tmp_path)["evaluate"] <= 120
    assert "limit of 1,000 real steps leaves 699, and they need up to 2,930" in caplog.text
    # A larger limit adds them.
    built = build(config(tmp_path, baseline=False, max_real_steps=10_000))
    assert taken(tmp_path)["evaluate"] > 100 and taken(tmp_path)["judge"] == 100


# -- what must not stop a late stage -------------------------------------------------------------------------------


def test_the_plan_has_the_effects_of_actions_only_where_the_limit_may_leave_them(
    tmp_path: Path,
) -> None:
    for limit, planned in ((None, True), (10_000, True), (3_000, False)):
        plan = str(planned_steps(config(tmp_path, baseline=False, max_real_steps=limit)))
        assert ("2,930  effects of actions (none where --max-real-steps" in plan) == planned


def test_an_error_of_the_environment_in_a_diagnostic_does_not_lose_the_page(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    built = build(config(tmp_path, baseline=False, kwargs={"fails_at": 320}))
    assert built.page.is_file() and [row.episodes for row in built.comparison.rows] == [5, 5]
    assert "no frames: RuntimeError: the simulator is gone" in caplog.text


@pytest.mark.parametrize(
    ("env_id", "limit"),
    [
        ("CliffWalking-v1", 30),
        pytest.param("FrozenLake-v1", 50, marks=pytest.mark.slow),
        pytest.param("Taxi-v4", 50, marks=pytest.mark.slow),
    ],
)
def test_a_build_of_discrete_observations_reaches_its_page(
    env_id: str, limit: int, tmp_path: Path
) -> None:
    real = EnvConfig(env_id, {"max_episode_steps": limit})
    sizes = {"steps": 400, "learn_steps": 256, "judge_episodes": 5}
    built = build(BuildConfig(real, tmp_path, **sizes, fit=FIT))
    assert built.page.is_file() and len(built.comparison.rows) == 3
