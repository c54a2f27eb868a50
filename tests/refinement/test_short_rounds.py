"""Many short rounds of SVG: model and policy continue, the disk stays small, and a killed run resumes exactly."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from world_env.data.store import EpisodeStore
from world_env.errors import InvalidOptionError, TwinNotFoundError
from world_env.fitting.config import FitConfig
from world_env.fitting.preconditions import check_data
from world_env.pipeline.step_plan import planned_steps
from world_env.policies.saved_policy import load_policy
from world_env.real.step_ledger import StepLedger
from world_env.refinement import Round, preset, rounds
from world_env.refinement.config import RefineConfig
from world_env.refinement.refine import refine
from world_env.rl.svg import SVG
from world_env.spec import EnvConfig

pytestmark = pytest.mark.filterwarnings("ignore::world_env.fitting.preconditions.FitWarning")
ENV = EnvConfig("Pendulum-v1", horizon=20)


@pytest.fixture(autouse=True)
def few_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("world_env.refinement.policy_selection.ESTIMATE_EPISODES", 3)
    monkeypatch.setattr(rounds, "_PREDICTION_EPISODES", 3)
    monkeypatch.setattr(rounds, "_ROUNDS_KEPT", 2)
    monkeypatch.setattr(rounds, "_POLICIES_KEPT", 3)


def tiny(out: Path, **change: Any) -> RefineConfig:
    plain = preset(ENV, out, algo="SVG", steps=400, seed=1)
    model = {"members": 2, "width": 8, "head_width": 8, "rollout": 2}
    fit = FitConfig(gradient_steps=20, batch_size=32, validate_every=10, model=model)
    learn = plain.learn.replace(
        algo_kwargs={"batch_size": 16, "policy_kwargs": {"net_arch": [16, 16]}}
    )
    options = {"rounds": 7, "first_steps": 100, "later_gradient_steps": 10, "updates_per_step": 0.5}
    return plain.replace(**options | change, fit=fit, learn=learn)


def run(config: RefineConfig) -> list[Round]:
    return refine(config, ledger=StepLedger(config.out / "real-steps.json"))


def updates(policy: Path) -> int:
    model = load_policy(policy, kind=SVG)
    state = next(iter(model.policy.actor.optimizer.state.values()))  # type: ignore[attr-defined]
    return int(state["step"])


def test_a_round_continues_from_the_round_before(tmp_path: Path) -> None:
    done = run(tiny(tmp_path / "run"))
    assert [each.real_steps for each in done] == [100, 150, 200, 250, 300, 350, 400]
    # Half an update for each real step of a round, with one optimizer.
    assert updates(tmp_path / "run" / "round-6" / "policy") == 50 + 6 * 25
    assert done[-1].learned_steps == 200
    twins = [each.twin.fingerprint() for each in done[-2:]]
    assert done[-1].twin.provenance.warm_start == twins[0]
    # Only the rounds before real evaluation episodes, and the last one, compare policies.
    checks = [number for number in range(7) if tiny(tmp_path).checks_of(number, 20)]
    estimated = [each.number for each in done if each.log.predicted_return is not None]
    assert estimated == sorted({*(number - 1 for number in checks), 6})


def test_old_twins_and_policies_are_removed_and_those_of_the_curve_stay(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = run(tiny(out, real_evaluation_share=0.0))
    assert sorted(path.parent.name for path in out.glob("round-*/twin")) == ["round-5", "round-6"]
    kept = sorted(path.parent.name for path in out.glob("round-*/policy"))
    assert kept == ["round-0", "round-2", "round-4", "round-5", "round-6"]
    assert all(EpisodeStore.exists(out / f"round-{number}" / "data") for number in range(7))
    with pytest.raises(TwinNotFoundError):
        _ = done[0].twin


def test_the_data_of_rounds_whose_twins_are_removed_is_not_checked_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[int] = []

    def check(episodes: Any, *arguments: Any) -> Any:
        checked.append(sum(map(len, episodes)))
        return check_data(episodes, *arguments)

    monkeypatch.setattr("world_env.fitting.fit.check_data", check)
    done = run(tiny(tmp_path / "run", real_evaluation_share=0.0))
    assert checked == [100, 350, 400]
    # Twins that stay are measured to the end of an episode.
    assert len(done[-1].twin.fidelity.open_loop.error) == 20


def test_an_evaluation_episode_as_long_as_a_round_is_all_its_data(tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = tiny(out, steps=160, rounds=4, real_evaluation_share=0.5)
    assert [config.checks_of(number, 20) for number in range(4)] == [0, 0, 20, 0]
    plan = planned_steps(config)
    done = run(config)
    assert [each.real_steps for each in done] == [100, 120, 140, 160]
    assert StepLedger(out / "real-steps.json").by_purpose == {
        part.purpose: part.steps for part in plan.parts
    }
    assert done[2].log.reality is not None
    assert EpisodeStore(out / "round-2" / "checks").steps == 20
    assert not EpisodeStore.exists(out / "round-2" / "data")
    assert planned_steps(config).parts[-1].steps == 0
    assert [each.log for each in run(config)] == [each.log for each in done]


@pytest.mark.parametrize("stage", ["collect", "fit", "learn"])
def test_a_killed_run_has_the_same_numbers(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tiny(tmp_path / "whole"))[-1]
    name = {"collect": "collect", "fit": "fit_episodes", "learn": "learn"}[stage]
    original, calls = getattr(rounds, name), []

    def killed(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(rounds, name, killed)
    with pytest.raises(KeyboardInterrupt):
        run(tiny(tmp_path / "run"))
    monkeypatch.undo()
    again = run(tiny(tmp_path / "run"))[-1]
    assert again.twin.fingerprint() == whole.twin.fingerprint()
    for mine, other in zip(
        again.policy.policy.parameters(), whole.policy.policy.parameters(), strict=True
    ):
        np.testing.assert_array_equal(mine.detach().numpy(), other.detach().numpy())
    steps = [StepLedger(tmp_path / run / "real-steps.json").by_purpose for run in ("whole", "run")]
    for taken in steps:
        taken.pop("validate", None)  # one step in the first process that makes the environment
    assert steps[0] == steps[1]


@pytest.mark.parametrize("first", [0, 395])
def test_a_first_round_that_leaves_no_steps_is_refused(first: int, tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match=f"first_steps is {first}, expected 1 to 394"):
        tiny(tmp_path, first_steps=first)
