"""The speed scripts run at tiny sizes and write what their schemas say; how fast anything is, no test asks."""

import importlib
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
import torch

from world_env.fitting.config import FitConfig
from world_env.policies.config import RandomExploration
from world_env.twin import Twin

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
JSON = dict[str, Any]
MODULES = (
    *["join", "returns.returns", "returns.tuning", "speed.timing", "speed.stepping"],
    *[
        "speed.mbrl_speed",
        "speed.speed_plot",
        "speed.speed_tables",
        "diagnostics.scales_table",
        "speed.fit_memory",
    ],
)
SCRIPTS = (
    *["speed.steps_per_second", "speed.fit_speed", "speed.gpu", "speed.ppo_speed"],
    "speed.svg_speed",
    *["learning.learn_table", "diagnostics.uncertainty", "diagnostics.scales"],
)
KINDS = ("off", "default", "full")
SHORT = ("--seconds", "0.01", "--repeats", "1", "--square", "64")
FIT = {
    "gradient_steps": 4,
    "batch_size": 20,
    "validate_every": 2,
    "model": {"members": 2, "width": 8},
}


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    names = (*MODULES, *SCRIPTS)
    return {
        name.rpartition(".")[2]: importlib.import_module(f"benchmarks.{name}") for name in names
    }


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The scripts choose their threads and filter warnings; other tests should not notice."""
    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        yield
    torch.set_num_threads(threads)


def run(script: ModuleType, out: Path, monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> JSON:
    """Runs the script as a command and returns its results, checked against its schema."""
    name = script.__name__.rpartition(".")[2]
    command = [str(BENCHMARKS / f"{name}.py"), *map(str, words), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    script.main()
    tree: JSON = json.loads(out.read_text(encoding="utf-8"))
    assert tree["benchmark"] == name
    assert problems(tree) == []
    return tree


def problems(tree: JSON) -> list[str]:
    """What the schema says against a tree; a changed checkout's commit is nobody's fault here."""
    path = BENCHMARKS / "results" / f"{tree['benchmark']}.schema.json"
    schema = json.loads(path.read_text(encoding="utf-8"))
    errors = jsonschema.Draft202012Validator(schema).iter_errors(tree)
    return [f"{error.json_path}: {error.message}" for error in errors if "commit" not in error.path]


def test_steps_are_timed_in_every_shell(
    scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--sizes", "CartPole-v1", "--rows", "1", "4", *SHORT]
    words += ["--skip-mbrl", "--memory-rows", "4", "--memory-steps", "2", "--plot"]
    out, picture = tmp_path / "s.json", tmp_path / "s.png"
    tree = run(scripts["steps_per_second"], out, monkeypatch, *words, picture)
    found = {(row["what"], row["rows"], row["uncertainty"]) for row in tree["rows"]}
    shells = {"core", "vector_env", "vector_env_restarts", "vec_env"}
    expected = {(what, rows, word) for what in shells for rows in (1, 4) for word in KINDS}
    expected |= {("env", 1, word) for word in KINDS} | {("real", 1, "off")}
    expected |= {(what, rows, "off") for what in ("forward", "dynamics") for rows in (1, 4)}
    assert found == expected
    assert len(tree["rows"]) == len(found)
    shares = {row["what"]: row["share_of_bare"] for row in tree["rows"]}
    assert shares["forward"] == 1.0 and shares["real"] is None
    assert {(limit["size"], limit["dtype"]) for limit in tree["limits"]} == {
        ("CartPole-v1", "float32")
    }
    shapes = {(product["shape"], product["dtype"]) for product in tree["matrix"]}
    assert {("64x64x64", "float32"), ("64x64x64", "bfloat16")} <= shapes
    assert tree["notes"] == ["mbrl-lib was not selected"]
    assert picture.stat().st_size > 10_000
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".new"] == []


def test_one_thing_alone_needs_no_bare_network(
    scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--sizes", "CartPole-v1", "--rows", "4", *SHORT]
    words += ["--what", "core", "--memory-steps", "0"]
    tree = run(scripts["steps_per_second"], tmp_path / "s.json", monkeypatch, *words)
    assert [row["share_of_bare"] for row in tree["rows"]] == [None] * len(KINDS)
    assert tree["memory"] is None


def test_scaling_covers_members_and_observation_size(scripts: dict[str, ModuleType]) -> None:
    script = scripts["steps_per_second"]
    keys = [key for key, _ in script.scaling_cases(4)]
    assert {key.members for key in keys if key.observation_size == 17} == {2, 5, 10}
    assert {key.observation_size for key in keys if key.members == 5} == {4, 17, 105, 376}
    rates = {key: [100.0] for key in keys}
    assert {script.row_of(key, rates)["share_of_bare"] for key in keys} == {1.0}


def test_a_number_type_that_fails_is_reported_and_skipped(
    scripts: dict[str, ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    script = scripts["steps_per_second"]

    def make() -> Any:
        raise TypeError("no such numbers")

    assert script.prepared(script.Key("a", "core", 4, "bfloat16"), make) == []
    assert capsys.readouterr().out == "failed: core in bfloat16: no such numbers\n"
    with pytest.raises(TypeError):
        script.prepared(script.Key("a", "core", 4, "float32"), make)


def test_without_mbrl_lib_the_run_goes_on_with_a_note(
    scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mbrl = scripts["mbrl_speed"]
    words = ["--sizes", "CartPole-v1", "--rows", "1", *SHORT]
    words += ["--what", "dynamics", "mbrl", "--memory-steps", "0"]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(tmp_path / "python"))
        tree = run(scripts["steps_per_second"], tmp_path / "s.json", patch, *words)
    assert {row["what"] for row in tree["rows"]} == {"dynamics"}
    assert tree["notes"] == ["no mbrl-lib: could not make a virtual environment: FileNotFoundError"]
    worker = mbrl.Worker(Path(sys.executable), 3, 1)
    with pytest.raises(mbrl.MbrlError, match="ended without an answer"):
        worker.rate(5, 0.01)
    worker.close()
    assert [mbrl.whole_rows(rows) for rows in (1, 5, 1000, 1024)] == [5, 5, 1000, 1025]


def test_rounds_alternate(scripts: dict[str, ModuleType]) -> None:
    order: list[str] = []

    def measure(name: str, seconds: float) -> float:
        order.append(name)
        return seconds * len(order)

    measures = [lambda seconds: measure("a", seconds), lambda seconds: measure("b", seconds)]
    assert scripts["timing"].alternate(measures, repeats=2, seconds=1.0) == [[1, 3], [2, 4]]
    assert order == ["a", "b", "a", "b"]


def test_a_watch_counts_and_leaves_no_trace(scripts: dict[str, ModuleType]) -> None:
    class Parent:
        def work(self) -> int:
            return 3

    class Child(Parent):
        pass

    watch = scripts["timing"].Watch()
    original = Parent.work
    with watch.of(Child, "work", "work"), watch.of(Parent, "work", "other"):
        assert Child().work() == 3
    assert Parent.work is original and "work" not in vars(Child)
    assert watch.spent["work"].calls == 1 and watch.spent["other"].calls == 0
    assert watch.seconds().keys() == {"work", "other"}


def test_a_fit_is_timed_part_by_part(
    scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_ENV_RUNS", str(tmp_path / "runs"))
    words = ["--task", "CartPole-v1", "--transitions", "300", "--change", json.dumps(FIT)]
    words += ["--levels", "1.0", "0.0"]
    out = tmp_path / "f.json"
    run(scripts["fit_speed"], out, monkeypatch, *words)
    tree = run(scripts["fit_speed"], out, monkeypatch, *words, "--seed", "1")
    assert [row["seed"] for row in tree["rows"]] == [0, 1]
    row = tree["rows"][1]
    assert [point["updates"] for point in row["curve"]] == [2, 4]
    assert [each["seconds"] for each in row["reached"]] == [row["curve"][0]["seconds"], None]
    assert all(row["milliseconds_per_update"][name] > 0 for name in ("windows", "loss", "backward"))
    assert row["milliseconds_per_update"]["optimizer"] > 0 and row["seconds"]["validation"] > 0
    spent = [seconds for name, seconds in row["seconds"].items() if name != "total"]
    assert sum(spent) == pytest.approx(row["seconds"]["total"], abs=0.01)


def test_the_memory_of_a_fit_is_measured_and_its_twin_is_named(
    scripts: dict[str, ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--steps", "400", "--size", "5", "--episodes", "20", "--gradient-steps", "2"]
    monkeypatch.setattr(sys, "argv", ["fit_memory", *words])
    twins = set()
    for _ in range(2):
        scripts["fit_memory"].main()
        row = json.loads(capsys.readouterr().out)
        assert (row["steps"], row["size"]) == (400, 5) and row["peak_above_data_mb"] >= 0
        twins.add(row["twin"])
    assert len(twins) == 1


def test_devices_are_timed_on_the_same_worlds_and_fits(
    scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = scripts["gpu"]
    monkeypatch.setattr(script, "WORLDS", {"ensemble": ("17 numbers", ("observation",))})
    monkeypatch.setattr(script.os, "cpu_count", lambda: 1)
    words = ["--devices", "cpu", "--rows", "2", "--seconds", "0.01", "--updates", "20"]
    rows = run(script, tmp_path / "gpu.json", monkeypatch, *words)["rows"]
    assert [row["what"] for row in rows] == ["steps", "updates"]
    assert rows[0]["rows"] == 2 and rows[1]["threads"] == 1


def test_scalings_are_compared_on_the_same_episodes(
    scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, task = scripts["scales"], "InvertedDoublePendulum-v5"
    monkeypatch.setenv("WORLD_ENV_RUNS", str(tmp_path))
    monkeypatch.setitem(script.TASKS, task, (300, RandomExploration()))
    models: list[dict[str, float]] = []

    def small(**options: Any) -> FitConfig:
        models.append(options.pop("model"))
        return FitConfig(
            **options | FIT | {"gradient_steps": 2, "model": FIT["model"] | models[-1]}
        )

    monkeypatch.setattr(script, "FitConfig", small)
    now = script.world_env.fitting.fit.evaluate_open_loop
    words = ["--tasks", task, "--seeds", "0", "--gradient-steps", "2"]
    tree = run(script, tmp_path / "s.json", monkeypatch, *words, "--scalings", "before")
    words += ["--scalings", *script.SCALINGS, "--resume"]
    tree = run(script, tmp_path / "s.json", monkeypatch, *words)
    assert {row["scaling"] for row in tree["rows"]} == set(script.SCALINGS) and len(models) == 3
    assert models == [{"huber_delta": 1e9}, {"huber_delta": 1e9}, {}]
    assert script.world_env.fitting.fit.evaluate_open_loop is now
    still = {row["errors"][0]["ordinary"]["hold_last"] for row in tree["rows"]}
    assert len(still) == 1
    written = scripts["scales_table"].scales_section(tree)
    assert f"| {task} | " in written and "too few seeds" in written


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        ((0.5, 0.5, 0.5), "better"),
        ((2.0, 2.0, 2.0), "**worse**"),
        ((1.001, 1.002, 1.001), "the same"),
        ((0.5, 1.0, 0.5), "no clear change"),
    ],
)
@pytest.mark.parametrize("moves", [1.0, 0.0])
def test_a_scaling_is_better_only_where_every_seed_says_so(
    scripts: dict[str, ModuleType], after: tuple[float, ...], verdict: str, moves: float
) -> None:
    def row(scaling: str, seed: int, error: float) -> dict[str, Any]:
        part = {"error": error, "relative": error / moves if moves else None}
        errors = [{"horizon": 10, "ordinary": part, "spiking": None}]
        return {"task": "A", "scaling": scaling, "seed": seed, "errors": errors, "commit": "c",
                "gradient_steps": 1, "columns": {"ordinary": 4, "spiking": 0}}  # fmt: skip

    rows = [row("before", seed, 0.1) for seed in range(3)]
    rows += [row("after", seed, 0.1 * after[seed]) for seed in range(3)]
    tree = {"rows": rows, "machine": "m", "command": "python a.py"}
    written = scripts["scales_table"].scales_section(tree)
    means = f"0.100 -> {0.1 * sum(after) / 3:.3f}" if moves else "- -> -"
    assert "| task | columns | step 10 |" in written
    assert f"| A | 4 ordinary | {means} ({verdict}) |" in written
    assert "spiking" not in written


def test_an_update_of_svg_is_timed_by_its_parts(
    scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = scripts["svg_speed"]
    monkeypatch.setattr(script, "BATCHES", (4, 8))
    monkeypatch.setattr(script, "UPDATES", 2)
    tree = run(script, tmp_path / "s.json", monkeypatch, *SHORT)
    assert [row["batch_size"] for row in tree["rows"]] == [4, 8]
    few, many = (row["gflop"] for row in tree["rows"])
    # 17 observation columns, 6 actions, and 2 layers of 256 units.
    assert many == pytest.approx(2 * few, rel=1e-3)
    twin = Twin.load("half-cheetah")
    algorithm = script.training(twin, 4)
    assert script.products(algorithm.actor) == 17 * 256 + 256 * 256 + 2 * 256 * 6
    assert script.products(algorithm.critic) == 2 * (23 * 256 + 256 * 256)
    written = scripts["speed_tables"].svg_speed_section(
        tree | {"rows": [tree["rows"][0] | {"batch_size": 256}]}
    )
    assert "| 256 |" in written and "30 ms" in written


PPO_WORDS = ["--task", "CartPole-v1", "--rows", "4", "--rollout", "32", "--batch-size", "16"]
PPO_WORDS += ["--epochs", "1", "--repeats", "1", "--model", '{"members": 2, "width": 8}']


def test_ppo_is_timed_in_both_worlds(
    scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = run(scripts["ppo_speed"], tmp_path / "p.json", monkeypatch, *PPO_WORDS, "--steps", "64")
    (row,) = tree["rows"]
    assert [training["world"] for training in row["trainings"]] == ["twin", "real"]
    for training in row["trainings"]:
        parts = [training[f"{name}_seconds"] for name in ("environment", "policy", "update")]
        assert training["steps"] == 64 and min(parts) > 0
        assert sum(parts) == pytest.approx(training["seconds"], abs=0.01)
    assert row["ratio"] > 0


def test_ppo_runs_until_a_real_return_or_its_last_step(
    scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*PPO_WORDS, "--steps", "96", "--check-every", "32", "--episodes", "1"]
    script, out = scripts["ppo_speed"], tmp_path / "p.json"
    run(script, out, monkeypatch, *words, "--to-return", "1")
    tree = run(script, out, monkeypatch, *words, "--to-return", "1000")
    easy, impossible = tree["rows"]
    assert easy["ratio"] > 0 and impossible["ratio"] is None
    for training in easy["trainings"]:
        assert training["reached"] and training["steps"] == 32
    for training in impossible["trainings"]:
        assert not training["reached"]
        assert [check["steps"] for check in training["checks"]] == [32, 64, 96]


def test_settings_are_learned_and_judged_in_reality(
    scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--tasks", "CartPole-v1", "--steps", "64", "--settings", "4x8/16/1", "2x16/8/2"]
    script, out = scripts["learn_table"], tmp_path / "l.json"
    monkeypatch.setattr(script, "RESET_SEEDS", range(50_000, 50_003))
    run(script, out, monkeypatch, *words)
    tree = run(script, out, monkeypatch, *words, "--change", '{"learning_rate": 0.0001}')
    found = [(row["setting"], bool(row["change"])) for row in tree["rows"]]
    assert sorted(found) == [(s, c) for s in ("2x16/8/2", "4x8/16/1") for c in (False, True)]
    assert all(row["world"] == "learned" and row["seconds"] > 0 for row in tree["rows"])
    assert all(0 < row["environment_seconds"] <= row["seconds"] + 0.1 for row in tree["rows"])
    # What is there is not done again.
    before = out.read_text(encoding="utf-8")
    script.main()
    assert out.read_text(encoding="utf-8") == before


def test_kinds_of_uncertainty_are_compared_on_one_twin(
    scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_ENV_RUNS", str(tmp_path / "runs"))
    script = scripts["uncertainty"]
    monkeypatch.setattr(script, "TASKS", {"Pendulum-v1": (600, RandomExploration())})
    monkeypatch.setattr(script, "FitConfig", lambda seed: FitConfig(seed=seed, **FIT))
    tree = run(script, tmp_path / "u.json", monkeypatch)
    kinds = [row["kind"] for row in tree["rows"]]
    assert kinds[:2] == ["full", "fixed"] and len(kinds) == 2 + len(script.EVERY)
    assert tree["rows"][0]["gap_half"] == tree["rows"][0]["gap_worst_tenth"] == 0.0
    # Two members: the other one at every step is all there is.
    assert tree["rows"][1]["auroc_half"] == tree["rows"][0]["auroc_half"]


@pytest.mark.parametrize("name", [name.rpartition(".")[2] for name in SCRIPTS])
def test_a_spoiled_file_is_refused(name: str) -> None:
    assert problems({"benchmark": name, "rows": []})


def test_joined_files_keep_every_row_once_and_all_commands(
    scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def file(name: str, *seeds: int, machine: str = "m") -> Path:
        rows = [{"task": "a", "seed": seed, "commit": name} for seed in seeds]
        head = {"benchmark": "b", "machine": machine, "commit": name, "date": "2026-01-0" + name}
        tree = head | {"command": f"python {name}", "rows": rows}
        (tmp_path / name).write_text(json.dumps(tree), encoding="utf-8")
        return tmp_path / name

    files = [file("2", 3, 1), file("1", 2)]
    for _ in range(2):
        words = ["join.py", str(tmp_path / "whole.json"), *map(str, files)]
        monkeypatch.setattr(sys, "argv", words)
        scripts["join"].main()
    whole = json.loads((tmp_path / "whole.json").read_text(encoding="utf-8"))
    assert [row["seed"] for row in whole["rows"]] == [1, 2, 3] and whole["commit"] == "2"
    assert {"python 1", "python 2"} <= set(whole["command"].split("; "))
    monkeypatch.setattr(sys, "argv", [*words, str(file("3", 4, machine="other"))])
    with pytest.raises(ValueError, match="machines"):
        scripts["join"].main()
