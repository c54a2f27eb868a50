"""The commands: whole stages from the command line, their help, and their errors."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_lines import TINY_LEARNING
from stable_baselines3 import PPO

from world_env.cli.main import main
from world_env.data.store import EpisodeStore
from world_env.errors import InvalidOptionError
from world_env.fitting.config import FitConfig
from world_env.pipeline.build import Built, build, refine_config
from world_env.pipeline.config import BuildConfig
from world_env.policies.config import CountBasedExploration, HeldExploration
from world_env.policies.saved_policy import load_policy, policy_card, save_policy
from world_env.real.real_env import spec_of
from world_env.real.step_ledger import StepLedger
from world_env.refinement.config import RefineConfig
from world_env.refinement.presets import MANY_STEPS
from world_env.reporting import read_comparison
from world_env.reporting.report import DASH
from world_env.results import Comparison, PolicyComparison, Provenance
from world_env.spec import EnvConfig, WrapperConfig
from world_env.twin.serialization import list_twins
from world_env.twin.twin import Twin

pytestmark = pytest.mark.filterwarnings("ignore::world_env.fitting.preconditions.FitWarning")

TINY_FIT = FitConfig(
    gradient_steps=20,
    batch_size=32,
    validate_every=10,
    model={"members": 2, "width": 8, "head_width": 8, "rollout": 2},
)


BALANCE = "training.scripted_policies:balance"


def test_the_bundled_twins_are_listed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["twins"]) == 0
    shown = capsys.readouterr().out
    for name in list_twins():
        assert name in shown


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["build", "CartPol-v1", "--out", "{}/run"], "StageError", "CartPole-v1"),
        (["compare", "CartPole-v1", "--twin", "no-such", "--policies", "{}"],
         "TwinNotFoundError", "no-such"),
        (["fit", "--data", "{}", "--out", "{}/twin"], "StageError", "is not an episode store"),
        (["learn", "--out", "{}/policy"], "InvalidOptionError", "either --twin"),
        (["learn", "--twin", "cartpole", "--out", "{}/policy", "--action-chunk", "2"],
         "InvalidOptionError", "belong to a real environment"),
        (["build", "CartPole-v1", "--out", "{}/run", "--steps", "0"], "InvalidOptionError", "steps is 0"),
        (["build", "CartPole-v1", "--out", "{}/run", "--judge-episodes", "4"], "InvalidOptionError",
         "judge_episodes is 4, expected at least 5"),
        (["compare", "--twin", "cartpole", "--policies", "{}/none.zip", "--out", "{}/out"], "StageError",
         "none.zip: no such file"),
        (["compare", "--twin", "cartpole", "--policies", "--episodes", "4"], "InvalidOptionError",
         "episodes is 4, expected at least 5"),
        (["compare", "Acrobot-v1", "--twin", "cartpole", "--policies", "--out", "{}"],
         "SpaceMismatchError", "real environment's"),
        (["report", "--comparison", "{}/nothing.json", "--out", "{}/page"], "StageError",
         "is not a comparison"),
        (["collect", "CartPole-v1", "--out", "{}/data", "--steps", "10", "exploration:policy",
          "--exploration.path", "{}/no-such"], "StageError", "no-such is not a policy folder"),
        (["learn", "CartPole-v1", "--twin", "cartpole", "--out", "{}/policy"], "InvalidOptionError",
         "both are given"),
    ],
)  # fmt: skip
def test_a_bad_argument_is_one_line_and_status_2(
    arguments: list[str],
    error: str,
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([word.format(tmp_path) for word in arguments]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"world-env: {error}: ") and words in said[0]


@pytest.mark.parametrize(
    ("words", "wrong", "meant"),
    [
        ("watch --twin cartpole --out x --mod open_loop", "--mod", "--mode {"),
        ("learn --out x --observation-mod latent", "--observation-mod", "--observation-mode {"),
        ("build CartPole-v1 --step 5", "--step", "--steps"),
    ],
)
def test_an_unknown_option_is_named_with_one_like_it(
    words: str, wrong: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words.split())
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert f"Unrecognized options: {wrong}" in said and meant in said


def test_a_dict_or_none_is_an_option_and_no_subcommand(tmp_path: Path) -> None:
    scales = {"mean": [0.0] * 4, "scale": [1.0, 2.0, 3.0, 4.0]}
    words = [
        "learn",
        "CartPole-v1",
        "--out",
        str(tmp_path / "policy"),
        "--steps",
        "64",
    ]
    assert main([*words, "--normalization", json.dumps(scales)]) == 0
    features = load_policy(tmp_path / "policy").policy.features_extractor
    assert features.scale.tolist() == scales["scale"]


def test_an_impossible_number_is_refused_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["collect", "CartPole-v1", "--out", str(tmp_path), "--steps", "0"]
    try:
        status = main(arguments)
    except SystemExit as left:
        status = int(left.code or 0)
    assert status == 2
    assert "steps must be at least 1, got 0" in capsys.readouterr().err.replace("\n", " ")


def test_dict_fields_are_given_as_json(tmp_path: Path) -> None:
    learning = [
        "learn",
        "--twin",
        "cartpole",
        "--out",
        str(tmp_path / "policy"),
        "--steps",
        "64",
        "--num-envs",
        "4",
    ]
    assert main([*learning, "--algo-kwargs", '{"gamma": 0.5, "n_steps": 16}']) == 0
    provenance = policy_card(tmp_path / "policy").provenance["learn"]
    assert provenance["algo_kwargs"] == {"gamma": 0.5, "n_steps": 16}
    collecting = [
        "collect",
        "CartPole-v1",
        "--steps",
        "60",
        "--out",
        str(tmp_path / "data"),
    ]
    assert main([*collecting, "--env-kwargs", '{"max_episode_steps": 20}']) == 0
    assert max(len(episode) for episode in EpisodeStore(tmp_path / "data").load()) <= 20


@pytest.mark.parametrize("text", ["[3]", "{gamma: 3}", "gamma=3"])
def test_a_bad_json_field_is_refused(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(
            [
                "learn",
                "--twin",
                "cartpole",
                "--out",
                str(tmp_path / "policy"),
                "--algo-kwargs",
                text,
            ]
        )
    assert left.value.code == 2
    assert "--algo-kwargs" in capsys.readouterr().err


@pytest.mark.parametrize("compiled", [False, True])
def test_ctrl_c_in_a_stage_is_status_130(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    compiled: bool,
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        if compiled:  # as numba reports it
            raise SystemError("returned a result with an exception set") from KeyboardInterrupt()
        raise KeyboardInterrupt

    monkeypatch.setattr("world_env.fitting.fit.fit", interrupted)
    assert main(["fit", "--data", str(tmp_path), "--out", str(tmp_path / "twin")]) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_the_stages_pass_their_folders_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("WORLD_ENV_RUNS", str(tmp_path / "runs"))
    data, twin, policy = (str(tmp_path / name) for name in ("data", "twin", "policy"))
    collecting = ["collect", "CartPole-v1", "--steps", "250", "--out", data]
    assert main(collecting) == 0
    assert EpisodeStore(data).steps == 250
    assert (
        main(["fit", "--data", data, "--out", twin, "--gradient-steps", "10", "--family", "linear"])
        == 0
    )
    assert Twin.load(tmp_path / "twin").provenance.steps == 250
    learning = ["--twin", twin, "--out", policy, *TINY_LEARNING]
    assert main(["learn", *learning]) == 0
    assert policy_card(policy).trained_in == "learned"
    comparing = ["CartPole-v1", "--twin", twin, "--policies", policy, "--episodes", "50"]
    assert main(["compare", *comparing]) == 0
    shown = capsys.readouterr().out
    assert "250 real steps" in shown and "return gap" in shown
    # A policy's real steps are not known here.
    assert "None" not in shown and DASH in shown
    found = tmp_path / "runs" / "compare" / f"{tmp_path.name}-twin"
    assert set(StepLedger(found / "real-steps.json").by_purpose) == {"evaluate"}
    reporting = ["--comparison", str(found / "comparison.json"), "--twin", twin]
    assert main(["report", *reporting, "--out", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page" / "report.md").read_text(encoding="utf-8")
    assert "# CartPole-v1: learned and real" in page and "last observation held" in page


def test_a_twin_of_a_wrapped_environment_is_compared_and_watched_as_it_was_made(
    tmp_path: Path,
) -> None:
    wrapped = EnvConfig("CartPole-v1", {"max_episode_steps": 30}, (), 2)
    twin = str(
        dataclasses.replace(
            Twin.untrained(spec_of(wrapped), "linear"), provenance=Provenance(real=wrapped)
        ).save(tmp_path / "twin")
    )
    for spent, real in ((1, []), (2, ["CartPole-v1"])):
        out = ["--out", str(tmp_path / "compared"), "--episodes", "50", "--policies"]
        assert main(["compare", "--twin", twin, *real, *out]) == 0
        # What was spent before is not forgotten.
        counted = StepLedger(tmp_path / "compared" / "real-steps.json").by_purpose["evaluate"]
        assert spent * 50 * 8 < counted <= spent * 50 * 30
    film = ["--out", str(tmp_path / "film.gif"), "--real", "--steps", "3"]
    assert main(["watch", "--twin", twin, *film]) == 0
    assert StepLedger(tmp_path / "film-real-steps.json").by_purpose == {"evaluate": 6}


def test_a_policy_is_learned_in_a_wrapped_reality(tmp_path: Path) -> None:
    out = str(tmp_path / "policy")
    wrapping = ["counting:Counting-v0", "--wrapper", "counting:Doubled"]
    options = ["--env-kwargs", '{"lengths": [5, 6]}', "--action-chunk", "2"]
    sizes = [
        "--steps",
        "16",
        "--num-envs",
        "1",
        "--algo-kwargs",
        '{"n_steps": 16, "batch_size": 16}',
    ]
    assert main(["learn", *wrapping, *options, *sizes, "--out", out]) == 0
    world = EnvConfig.from_json(policy_card(out).provenance["world"], where="the test")
    assert world == EnvConfig(
        "counting:Counting-v0", {"lengths": [5, 6]}, (WrapperConfig("counting:Doubled"),), 2
    )
    # Every episode is 5 steps long, played as 2 + 2 + 1.
    assert StepLedger(tmp_path / "policy-real-steps.json").total() == 5 * (2 + 2 + 1) + 2


def test_a_twin_that_does_not_say_where_it_comes_from_needs_an_id(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = spec_of(EnvConfig("CartPole-v1"))
    twin = str(Twin.untrained(spec, "linear").save(tmp_path / "twin"))
    assert main(["compare", "--twin", twin, "--policies", "--out", str(tmp_path / "out")]) == 2
    assert "pass one (`real`, ENV_ID)" in capsys.readouterr().err


def test_a_page_of_a_comparison_in_another_environment_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "comparison.json"
    row = PolicyComparison(policy="random", real_mean=1.0, real_ci95=None, episodes=1)
    for env_id, status in (("Acrobot-v1", 2), ("CartPole-v1", 0), ("gymnasium:CartPole-v1", 0)):
        found = Comparison(env_id=env_id, episodes=1, rows=[row])
        path.write_text(json.dumps(found.to_json()), encoding="utf-8")
        words = ["report", "--comparison", str(path), "--out", str(tmp_path / "page")]
        assert main([*words, "--twin", "cartpole"]) == status
        assert main(words) == 0
    assert "comparison is of Acrobot-v1, but the twin cartpole was fitted to CartPole-v1" in (
        capsys.readouterr().err
    )


# -- build -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change", [{"steps": 0}, {"rounds": 0}, {"learn_steps": -1}, {"judge_episodes": 4}]
)
def test_an_impossible_build_is_refused(change: dict[str, int], tmp_path: Path) -> None:
    ((name, value),) = change.items()
    with pytest.raises(InvalidOptionError, match=f"{name} is {value}"):
        BuildConfig(EnvConfig("CartPole-v1"), tmp_path, **change)


def test_the_fields_of_a_fit_that_are_named_replace_those_of_the_preset(tmp_path: Path) -> None:
    for fit, wanted in ((FitConfig(), 3_000), (FitConfig(gradient_steps=7), 7)):
        config = refine_config(BuildConfig(EnvConfig("CartPole-v1"), tmp_path, fit=fit))
        assert {config.fit_of(number).gradient_steps for number in range(config.rounds)} == {wanted}
    own = RefineConfig(
        EnvConfig("CartPole-v1"), tmp_path, steps=40, rounds=2, exploration=HeldExploration(steps=5)
    )
    config = refine_config(
        BuildConfig(EnvConfig("CartPole-v1"), tmp_path, refinement=own, rounds=4)
    )
    assert (config.steps, config.rounds, config.exploration) == (40, 4, HeldExploration(steps=5))


@pytest.mark.parametrize("steps", [None, MANY_STEPS, MANY_STEPS - 1])
def test_a_build_of_many_steps_is_refined_in_small_rounds(
    steps: int | None, tmp_path: Path
) -> None:
    config = refine_config(BuildConfig(EnvConfig("CartPole-v1"), tmp_path, steps=steps))
    assert config.steps == (steps or 10_000)
    many = config.steps >= MANY_STEPS
    assert (config.rounds > 5, config.warm_start, bool(config.explorers)) == (many, many, many)
    assert (config.restart_every is not None, config.patience is None) == (many, many)
    rule = config.learn.simulation.rule(spec_of(config.real))
    assert rule == ("ignore" if many else "pessimistic")


def test_few_pairs_of_categories_are_shown_by_one_round(tmp_path: Path) -> None:
    table = refine_config(BuildConfig(EnvConfig("FrozenLake-v1"), tmp_path, steps=MANY_STEPS))
    assert (table.rounds, table.exploration) == (1, CountBasedExploration())
    assert table.learn.simulation.rule(spec_of(table.real)) == "truncate"
    large = EnvConfig("FrozenLake-v1", {"map_name": None, "desc": ["S" * 40 + "G"] * 41})
    assert refine_config(BuildConfig(large, tmp_path, steps=MANY_STEPS)).rounds > 5


def test_a_build_can_let_sac_learn_where_actions_are_continuous(tmp_path: Path) -> None:
    config = refine_config(BuildConfig(EnvConfig("Hopper-v5"), tmp_path, algo="SAC"))
    assert config.learn.algo == "SAC" and config.learn.simulation.dataset_rollout_length == 10
    with pytest.raises(InvalidOptionError, match=r"SAC needs continuous actions.*Discrete\(2\)"):
        build(BuildConfig(EnvConfig("CartPole-v1"), tmp_path / "run", algo="SAC"))
    assert not (tmp_path / "run" / "round-0").exists()
    with pytest.raises(InvalidOptionError, match="algo is 'A2C', expected one of PPO, SAC"):
        BuildConfig(EnvConfig("Hopper-v5"), tmp_path, algo="A2C")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[BuildConfig, Built]:
    out = tmp_path_factory.mktemp("build") / "run"
    config = BuildConfig(
        EnvConfig("CartPole-v1", {"max_episode_steps": 40}),
        out,
        steps=300,
        learn_steps=100,
        judge_episodes=50,
        fit=TINY_FIT,
    )
    seen: list[str] = []
    result = build(config, report=lambda stage, done, wanted, logs: seen.append(stage))
    assert list(dict.fromkeys(seen)) == ["collect", "fit", "learn", "baseline", "compare"]
    return config, result


@pytest.mark.filterwarnings("default::world_env.fitting.preconditions.FitWarning")
def test_a_build_leaves_a_twin_a_card_a_page_and_a_comparison(
    built: tuple[BuildConfig, Built],
) -> None:
    config, result = built
    out = config.out
    twin = Twin.load(out / "twin")
    assert [row.episodes for row in twin.fidelity.comparison] == [50] * 3
    assert "| PPO trained in the twin |" in (out / "twin" / "card.md").read_text(encoding="utf-8")
    page = result.page.read_text(encoding="utf-8")
    assert "CartPole-v1" in page and "No policy pool was evaluated" in page
    horizons = twin.fidelity.horizons
    assert np.shape(horizons.observation.linear) == (4, len(horizons.observation.steps))
    assert twin.fidelity.action_effects.pairs[0] > 0
    stored = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    assert [row["policy"] for row in stored["rows"]] == [
        "random",
        "ppo_twin",
        "ppo_real_same_steps",
    ]
    assert read_comparison(out / "comparison.json") == result.comparison
    assert twin.fidelity.comparison == result.comparison.rows


def test_a_build_counts_every_real_step(built: tuple[BuildConfig, Built]) -> None:
    result = built[1]
    rows = {row.policy: row for row in result.comparison.rows}
    counted = result.comparison.real_steps_by_purpose
    assert rows["random"].real_steps == 0
    assert rows["ppo_twin"].real_steps == 300
    in_reality = rows["ppo_real_same_steps"].real_steps
    assert counted["collect"] == 300 + in_reality
    assert set(counted) == {"collect", "judge", "evaluate", "validate"}
    out = built[0].out
    stored = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    assert stored["real_steps_by_purpose"] == counted
    assert StepLedger(out / "real-steps.json").by_purpose == counted


def test_known_functions_stay_with_a_built_twin(tmp_path: Path) -> None:
    def one(observation: Any, action: Any, next_observation: Any) -> np.ndarray:
        return np.ones(len(action))

    real = EnvConfig("CartPole-v1", {"max_episode_steps": 20})
    sizes = {"steps": 200, "learn_steps": 64, "judge_episodes": 50}
    config = BuildConfig(real, tmp_path, **sizes, baseline=False, fit=TINY_FIT)
    build(config, reward_fn=one)
    assert Twin.load(tmp_path / "twin", reward_fn=one).known == ["reward"]


def small_pool(folder: Path, config: BuildConfig) -> Path:
    """The manifest of a pool: the scripted policy with more and more noise."""
    members = [
        {"name": f"p{i}", "run": f"run {i // 2}", "source": "scripted", "noise": i / 20,
         "returns": [40.0 - i] * 8, "lengths": [40 - i] * 8}
        for i in range(20)
    ]  # fmt: skip
    tree = {"format": 1, "real": config.real.to_json(), "seeds": [70, 77],
            "real_steps": {"judge": 1}, "provenance": {}, "members": members, "scripted": BALANCE}  # fmt: skip
    (folder / "pool.json").write_text(json.dumps(tree), encoding="utf-8")
    return folder


def test_a_build_run_again_evaluates_what_is_new_only(
    built: tuple[BuildConfig, Built], tmp_path: Path
) -> None:
    config, first = built
    again = build(config.replace(pool=small_pool(tmp_path, config)))
    found = Twin.load(config.out / "twin").fidelity
    assert found.agreement.evaluation.policies == 20
    assert found.agreement.optimisation.policies == 1
    assert "## Agreement" in (config.out / "twin" / "card.md").read_text(encoding="utf-8")
    before, after = (part.comparison.real_steps_by_purpose for part in (first, again))
    assert before["collect"] == after["collect"]
    # The policies are not judged again; the trained one plays the eight episodes of the pool.
    assert 8 <= after["judge"] - before["judge"] <= 8 * 40
    assert [row.real_mean for row in again.comparison.rows] == [
        row.real_mean for row in first.comparison.rows
    ]


def test_nothing_that_a_build_writes_names_this_machine(built: tuple[BuildConfig, Built]) -> None:
    out = built[0].out
    for path in (out / "twin" / "twin.json", out / "twin" / "card.md", out / "comparison.json"):
        assert str(out) not in path.read_text(encoding="utf-8")
    assert str(out) not in built[1].page.read_text(encoding="utf-8")


def test_a_policy_in_a_folder_called_random_is_compared_with_the_random_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8)
    save_policy(model, tmp_path / "random", trained_in="real")
    words = ["--policies", "random", "--episodes", "5", "--out", "compared"]
    assert main(["compare", "--twin", "cartpole", *words]) == 0
    rows = read_comparison(tmp_path / "compared" / "comparison.json").rows
    assert [row.policy for row in rows] == ["random", str(tmp_path / "random")]
