"""The alarm: silent in exact twins, and each planted exploit seen by the signal that should see it."""

import dataclasses
import json
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from oracle import CartPoleOracle, OracleConfig, oracle_twin
from stable_baselines3.common.logger import Logger

from training.alarm import AlarmConfig, ExploitationAlarm, ExploitationWarning
from training.learn import LearnConfig, learn
from training.lived import lower_gap
from training.real import RealConfig, StepLedger
from world_env.errors import InvalidOptionError, SpaceMismatchError, StageError
from world_env.spec import DataRange
from world_env.twin import Twin

HORIZON = 60
gym.register(
    "ShortCartPole-v1",
    entry_point="gymnasium.envs.classic_control.cartpole:CartPoleEnv",
    max_episode_steps=HORIZON,
)
gym.register(
    "ShortPendulum-v1",
    entry_point="gymnasium.envs.classic_control.pendulum:PendulumEnv",
    max_episode_steps=20,
)
SHORT = RealConfig("ShortCartPole-v1")
TINY = LearnConfig(
    steps=512, rows=8, options={"n_steps": 32, "batch_size": 64, "n_epochs": 1}, dataset_starts=0.0
)
LOOK = AlarmConfig(every=200, rows=8)
SPEND = dataclasses.replace(
    LOOK, spot_check_steps=20 * HORIZON, spot_check_every=200, spot_check_episodes=8
)
SEEN = DataRange({"observation": ([-2.4, -3.0, -0.21, -3.0], [2.4, 3.0, 0.21, 3.0])}, (1.0, 1.0))


class Planted(CartPoleOracle):
    """The exact cart-pole with one fault."""

    fault = ""

    def step(self, state: Any, action: Any, **options: Any) -> Any:
        arrived, said = super().step(state, action, **options)
        if self.fault == "pays":
            said = dataclasses.replace(said, reward=said.reward + 1.0)
        if self.fault == "frozen":
            arrived, said = state, dataclasses.replace(said, terminated=0.0 * said.terminated)
        if self.fault == "deathless":
            said = dataclasses.replace(said, terminated=0.0 * said.terminated)
        return arrived, said


def twin(fault: str = "") -> Twin:
    sound = oracle_twin("CartPole-v1", horizon=HORIZON)
    model = Planted(sound.spec, OracleConfig()).eval()
    model.fault = fault
    # Rewards have room, so that no clipping hides the planted one from the policy.
    ranges = dataclasses.replace(SEEN, reward=(0.0, 3.0) if fault == "pays" else SEEN.reward)
    return dataclasses.replace(sound, model=model, ranges=ranges)


@pytest.fixture(scope="module")
def clumsy() -> Any:
    """A policy that always pushes to the left and soon falls."""
    model = learn(twin(), dataclasses.replace(TINY, steps=8))
    with torch.no_grad():
        model.policy.action_net.bias[0] = 100.0
    return model


def looked(alarm: ExploitationAlarm, model: Any, *steps: int) -> ExploitationAlarm:
    """The alarm after checks of this policy, after so many learned steps each."""
    model.set_logger(Logger(None, []))
    alarm.init_callback(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExploitationWarning)
        for step in steps or (200,):
            alarm.num_timesteps = step
            alarm.check()
    return alarm


def watched(alarm: ExploitationAlarm, config: LearnConfig = TINY) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExploitationWarning)
        return learn(alarm.twin, config, callbacks=[alarm])


def weights(model: Any) -> np.ndarray:
    return np.concatenate([p.detach().numpy().ravel() for p in model.policy.parameters()])


def test_an_exact_twin_raises_nothing_and_training_is_untouched() -> None:
    ledger = StepLedger()
    alarm = ExploitationAlarm(twin(), SPEND, judge=twin(), real=SHORT, ledger=ledger)
    model = watched(alarm)
    assert not alarm.raised and alarm.signals == []
    assert [check["step"] for check in alarm.checks] == [200, 400, 512]
    for check in alarm.checks:
        assert check["judge_gap"] == 0.0 and check["spot_check_gap"] == 0.0
        assert check["learned_motion"] == check["judge_motion"] > 0.0
    np.testing.assert_array_equal(weights(model), weights(learn(twin(), TINY)))


@pytest.mark.parametrize(
    ("fault", "judge", "signals"),
    [
        ("pays", True, ["reward", "judge"]),
        ("frozen", False, ["frozen"]),
        ("frozen", True, ["frozen", "judge"]),
        ("deathless", True, ["judge"]),
        ("deathless", False, []),
    ],
)
def test_a_planted_fault_is_seen(fault: str, judge: bool, signals: list[str], clumsy: Any) -> None:
    alarm = ExploitationAlarm(twin(fault), LOOK, judge=twin() if judge else None)
    looked(alarm, clumsy)
    assert alarm.signals == signals
    assert [(finding["step"], finding["signal"]) for finding in alarm.findings] == [
        (200, signal) for signal in signals
    ]
    assert json.loads(json.dumps(alarm.findings, allow_nan=False)) == alarm.findings
    assert json.loads(json.dumps(alarm.checks, allow_nan=False)) == alarm.checks


def test_a_reward_that_clipping_hides_from_the_policy_is_seen_all_the_same(clumsy: Any) -> None:
    clipped = dataclasses.replace(twin("pays"), ranges=SEEN)
    alarm = looked(ExploitationAlarm(clipped, LOOK), clumsy)
    assert alarm.signals == ["reward"]
    assert alarm.findings[0]["value"] == 1.0
    assert alarm.checks[0]["learned_mean"] == alarm.checks[0]["learned_length"]


def test_steps_past_the_datas_uncertainty_are_seen(clumsy: Any) -> None:
    # The exact cart-pole is as uncertain as it is far from the middle.
    for threshold, signals in ((1e-4, ["uncertainty"]), (2.0, [])):
        unsure = dataclasses.replace(twin(), uncertainty_threshold=threshold)
        alarm = looked(ExploitationAlarm(unsure, LOOK), clumsy)
        assert alarm.signals == signals
        assert (alarm.checks[0]["learned_uncertainty"] > 1.0) == bool(signals)


def test_reality_sees_what_no_judge_was_there_to_see(clumsy: Any) -> None:
    ledger = StepLedger()
    alarm = ExploitationAlarm(twin("deathless"), SPEND, real=SHORT, ledger=ledger)
    looked(alarm, clumsy)
    assert alarm.signals == ["spot_check"]
    assert ledger.by_purpose == {"spot_check": alarm.real_steps}
    assert alarm.checks[-1]["spot_check_learned"] == HORIZON > alarm.checks[-1]["spot_check_real"]


@pytest.mark.parametrize(("low", "raised"), [(0.0, False), (HORIZON - 1.0, True)])
def test_a_promise_decides_what_is_below_it(low: float, raised: bool, clumsy: Any) -> None:
    alarm = ExploitationAlarm(
        twin("deathless"),
        SPEND,
        real=SHORT,
        ledger=StepLedger(),
        interval=lambda mean: (low, mean),
    )
    looked(alarm, clumsy)
    assert alarm.raised is raised
    assert alarm.checks[0]["promise_low"] == low and alarm.checks[0]["promise_high"] == HORIZON


def test_spot_checks_never_cost_more_than_their_budget() -> None:
    # Pendulum's episodes all last as long as they can: five and a third of one may be spent.
    ledger, world = StepLedger(), oracle_twin("Pendulum-v1", horizon=20)
    config = dataclasses.replace(
        LOOK, rows=2, spot_check_steps=106, spot_check_every=64, spot_check_episodes=3
    )
    alarm = ExploitationAlarm(world, config, real=RealConfig("ShortPendulum-v1"), ledger=ledger)
    looked(alarm, learn(world, dataclasses.replace(TINY, steps=8)), 63, 64, 127, 128, 192, 256)
    asked = [check.get("spot_check_episodes") for check in alarm.checks]
    assert asked == [None, 3, None, 2, None, None]
    assert ledger.by_purpose == {"spot_check": 100} and alarm.real_steps == 100


def test_without_a_budget_no_real_environment_is_made(
    monkeypatch: pytest.MonkeyPatch, clumsy: Any
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a real environment was made")

    watch, ledger = twin("deathless"), StepLedger()
    monkeypatch.setattr(gym, "make", refuse)
    alarm = ExploitationAlarm(watch, LOOK, real=SHORT, ledger=ledger)
    looked(alarm, clumsy, 200, 1_000_000)
    assert ledger.by_purpose == {} and alarm.real_steps == 0


@pytest.mark.parametrize("stop", [True, False])
def test_the_first_finding_stops_the_training_if_asked(stop: bool) -> None:
    alarm = ExploitationAlarm(twin("frozen"), dataclasses.replace(LOOK, stop=stop))
    assert watched(alarm).num_timesteps == (200 if stop else 512)
    assert len(alarm.checks) == (1 if stop else 3)


def test_each_signal_warns_once(clumsy: Any) -> None:
    alarm = looked(ExploitationAlarm(twin(), LOOK, judge=twin()), clumsy, 100)
    alarm.twin = twin("frozen")
    with pytest.warns(ExploitationWarning) as caught:
        for _ in range(3):
            alarm.check()
    said = [str(one.message) for one in caught]
    assert len(said) == 2 and len(alarm.findings) == 6
    assert "after 100 learned steps" in said[0] and "(frozen)" in said[0] and "(judge)" in said[1]


@pytest.mark.parametrize("algo", ["SAC", "DQN"])
def test_it_watches_off_policy_algorithms_too(algo: str) -> None:
    world = twin() if algo == "DQN" else oracle_twin("Pendulum-v1", horizon=HORIZON)
    options = {"learning_starts": 30, "batch_size": 8, "buffer_size": 200}
    config = LearnConfig(algo=algo, steps=60, options=options, dataset_starts=0.0)
    alarm = ExploitationAlarm(world, dataclasses.replace(LOOK, every=25), judge=world)
    model = watched(alarm, config)
    assert [check["step"] for check in alarm.checks] == [25, 50, 60]
    assert not alarm.raised
    np.testing.assert_array_equal(weights(model), weights(learn(world, config)))


def test_measures_reach_the_logger(clumsy: Any) -> None:
    alarm = looked(ExploitationAlarm(twin("frozen"), LOOK, judge=twin()), clumsy)
    said = clumsy.logger.name_to_value
    assert said["alarm/findings"] == 2 and said["alarm/learned_motion"] == 0.0
    assert said["alarm/judge_gap"] == alarm.checks[0]["judge_gap"] > LOOK.gap


def other_task() -> Twin:
    return oracle_twin("Pendulum-v1")


def endless() -> Twin:
    return dataclasses.replace(twin(), spec=dataclasses.replace(twin().spec, horizon=None))


BUDGET = {"config": SPEND, "real": SHORT, "ledger": StepLedger()}
POOR = dataclasses.replace(SPEND, spot_check_steps=2 * HORIZON - 1)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: {"twin": endless()}, InvalidOptionError, "no horizon"),
        (lambda: {"judge": endless()}, InvalidOptionError, "no horizon"),
        (lambda: {"judge": other_task()}, SpaceMismatchError, "judge's observation_space"),
        (lambda: {"config": SPEND}, StageError, "real steps are to be spent.*pass `real`"),
        (lambda: BUDGET | {"ledger": None}, StageError, "ledger"),
        (lambda: BUDGET | {"config": POOR}, InvalidOptionError, "two episodes may take 120"),
        (lambda: BUDGET | {"real": RealConfig("Pendulum-v1")}, SpaceMismatchError, "real env"),
    ],
)
def test_what_cannot_be_watched_is_refused(
    make: Callable[[], dict[str, Any]], error: type[Exception], words: str
) -> None:
    options = {"twin": twin(), "config": LOOK} | make()
    with pytest.raises(error, match=words):
        ExploitationAlarm(options.pop("twin"), options.pop("config"), **options)


@pytest.mark.parametrize(
    "change", [{"every": 0}, {"rows": 1}, {"gap": -0.1}, {"spot_check_steps": -1}]
)
def test_settings_without_meaning_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptionError, match="expected"):
        AlarmConfig(**change)


def test_a_gap_is_the_share_that_is_sure() -> None:
    other = np.array([10.0, 30.0])
    assert lower_gap(other, other) == 0.0
    assert lower_gap(other + 20.0, other) == pytest.approx(0.5)
    assert lower_gap(other + 20.0, other, least=80.0) == pytest.approx(0.25)
    # One episode of two says nothing.
    assert lower_gap(np.array([10.0, 300.0]), other) < 0.0
    assert lower_gap(np.zeros(2), np.zeros(2)) == 0.0


def test_a_twin_that_knows_nothing_of_its_data_is_watched_as_far_as_that_goes(clumsy: Any) -> None:
    unknown = dataclasses.replace(twin("frozen"), ranges=None)
    alarm = looked(ExploitationAlarm(unknown, LOOK, judge=twin()), clumsy)
    bare = looked(ExploitationAlarm(unknown, LOOK), clumsy)
    assert alarm.signals == ["frozen", "judge"] and bare.signals == []
    assert bare.checks[0]["learned_motion"] is bare.checks[0]["learned_odd_rewards"] is None
