"""A family with a nested config, two parameter groups, an averaged copy, conditioning and extras, as a plug-in."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from world_env import (
    FitConfig,
    Twin,
    WorldModelEnv,
    WorldModelSB3VecEnv,
    WorldModelVectorEnv,
    WorldSpec,
    check_world_model,
    fit,
    register_world_model,
)
from world_env.data import Episode, EpisodeStore
from world_env.errors import (
    CheckError,
    DataError,
    InvalidOptionError,
    PluginError,
    TwinFormatError,
    TwinMismatchError,
    UnknownFamilyError,
)
from world_env.fitting import fit_episodes
from world_env.models import PluginWarning, list_families, load_family
from world_env.models.registry import FAMILIES
from world_env.seeding import SeedPurpose, derived_seed
from world_env.simulation.simulator import Simulator, SimulatorConfig
from world_env.simulation.state_filter import StateFilter

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MODEL = "conditioned_family:ConditionedModel"
SPEC = WorldSpec(
    spaces.Box(-50.0, 50.0, (2,), np.float32), spaces.Box(-1.0, 1.0, (1,), np.float32), 30
)
CONFIG = FitConfig(
    family="conditioned",
    gradient_steps=600,
    batch_size=128,
    validate_every=100,
    learning_rate=1e-2,
    eval_horizon=10,
    eval_windows=32,
)
TASKS = np.eye(2, dtype=np.float32)

pytestmark = pytest.mark.filterwarnings("ignore::world_env.fitting.preconditions.FitWarning")


def real_episode(seed: int, steps: int = 30) -> Episode:
    """A point that moves with the action (task 0) or against it (task 1), and is pushed along."""
    rng = np.random.default_rng(seed)
    task, push = TASKS[seed % 2], np.float32(rng.uniform(-1.0, 1.0))
    observations = [rng.normal(size=2).astype(np.float32)]
    actions = rng.uniform(-1.0, 1.0, (steps, 1)).astype(np.float32)
    for action in actions:
        move = 0.2 * action[0] * (task[0] - task[1])
        observations.append(observations[-1] + np.array([move, 0.1 * push], np.float32))
    rewards = np.array([-abs(each[0]) for each in observations[1:]], np.float32)
    conditioning = {"task": task, "push": push}
    return Episode(
        np.array(observations), actions, rewards, False, True, seed=seed, conditioning=conditioning
    )


EPISODES = [real_episode(seed) for seed in range(40)]


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setitem(FAMILIES, "conditioned", MODEL)


@pytest.fixture(scope="module")
def fitted() -> Twin:
    before = dict(FAMILIES)
    sys.path.insert(0, str(HERE))
    try:
        register_world_model("conditioned", MODEL)
        return fit_episodes(EPISODES, SPEC, CONFIG)
    finally:
        sys.path.remove(str(HERE))
        FAMILIES.clear()
        FAMILIES.update(before)


def test_an_untrained_and_a_fitted_model_keep_the_protocol(fitted: Twin) -> None:
    twin = Twin.untrained(SPEC, "conditioned")
    rebuild = lambda: type(twin.model)(SPEC, twin.model.config)  # noqa: E731
    check_world_model(twin.model, rebuild=rebuild)
    check_world_model(fitted.model, starts=fitted.starts, rebuild=rebuild)


def test_the_fit_learns_what_the_conditioning_says(fitted: Twin) -> None:
    simulator = Simulator(fitted, 3, seed=0)
    start = {"observation": np.zeros((3, 2), np.float32)}
    given = {"task": TASKS[[0, 1, 0]], "push": np.array([0.0, 0.0, 1.0])}
    simulator.reset(options={**start, "conditioning": given})
    moved = simulator.step(np.ones((3, 1), np.float32)).observation
    np.testing.assert_allclose(moved, [[0.2, 0.0], [-0.2, 0.0], [0.2, 0.1]], atol=0.08)


def test_parts_of_the_model_learn_as_their_groups_say(fitted: Twin) -> None:
    seed = derived_seed(CONFIG.seed, SeedPurpose.WEIGHTS)
    before = Twin.untrained(SPEC, "conditioned", seed=seed).model.state_dict()
    after = fitted.model.state_dict()
    assert torch.equal(after["projection.weight"], torch.eye(len(after["projection.weight"])))
    assert not torch.equal(after["embedding.weight"], before["embedding.weight"])
    assert not torch.equal(after["average.0.weight"], after["dynamics.0.weight"])
    still = CONFIG.replace(
        model={"lr_scale": 0.0, "average_decay": 0.0}, gradient_steps=20, validate_every=20
    )
    kept = fit_episodes(EPISODES, SPEC, still).model.state_dict()
    assert torch.equal(kept["embedding.weight"], before["embedding.weight"])
    torch.testing.assert_close(kept["average.0.weight"], kept["dynamics.0.weight"])


class Killed(Exception):
    pass


def test_an_interrupted_fit_resumes_exactly_with_its_average(tmp_path: Path) -> None:
    config = CONFIG.replace(gradient_steps=40, validate_every=10)
    whole = fit_episodes(EPISODES, SPEC, config)

    def kill(done: int, total: int, logs: Any) -> None:
        if done == 20:
            raise Killed

    checkpoint = tmp_path / "fit.pt"
    with pytest.raises(Killed):
        fit_episodes(EPISODES, SPEC, config, progress=kill, checkpoint=checkpoint)
    resumed = fit_episodes(EPISODES, SPEC, config, checkpoint=checkpoint)
    assert resumed.fingerprint() == whole.fingerprint()


def test_a_saved_twin_steps_the_same(fitted: Twin, tmp_path: Path) -> None:
    back = Twin.load(fitted.save(tmp_path / "twin"))
    assert back.model.config == fitted.model.config and back.fingerprint() == fitted.fingerprint()
    actions = np.linspace(-1, 1, 4, dtype=np.float32)[:, None]
    shown = []
    for twin in (fitted, back):
        simulator = Simulator(twin, 4, seed=5, config=SimulatorConfig(dataset_starts=0.5))
        simulator.reset()
        shown.append([simulator.step(actions).observation for _ in range(5)])
    np.testing.assert_array_equal(*shown)
    tree = json.loads((tmp_path / "twin" / "twin.json").read_text(encoding="utf-8"))
    tree["config"]["dynamics"]["depth"] = 3
    (tmp_path / "twin" / "twin.json").write_text(json.dumps(tree), encoding="utf-8")
    with pytest.raises(TwinFormatError, match=r"\$\.dynamics\.depth"):
        Twin.load(tmp_path / "twin")


def test_a_twin_without_a_newer_conditioning_of_its_family_is_named(
    fitted: Twin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fitted.save(tmp_path / "twin")
    model = load_family("conditioned")
    monkeypatch.setattr(model, "conditioning", model.conditioning | {"wind": ()})
    with pytest.raises(TwinMismatchError, match="starts has no value of the conditioning 'wind'"):
        Twin.load(folder)


def test_a_preset_is_named_settings(tmp_path: Path) -> None:
    config = CONFIG.replace(preset="tiny", gradient_steps=2, model={"average_decay": 0.5})
    model: Any = fit_episodes(EPISODES, SPEC, config).model
    assert model.config.dynamics.widths == (4,) and model.config.embedding == 2
    assert model.config.average_decay == 0.5
    with pytest.raises(InvalidOptionError, match=r"'huge'.*'conditioned'.*tiny"):
        fit_episodes(EPISODES, SPEC, config.replace(preset="huge"))
    with pytest.raises(InvalidOptionError, match=r"dynamics.*widths"):
        options = {"dynamics": {"widths": "wide"}}
        fit_episodes(EPISODES, SPEC, CONFIG.replace(model=options))


# -- conditioning ------------------------------------------------------------------------------------------------


def state(simulator: Simulator, name: str) -> list[Any]:
    return simulator.snapshot().state[name].tolist()


def test_each_environment_keeps_its_conditioning_under_autoreset(fitted: Twin) -> None:
    envs = WorldModelVectorEnv(fitted, 3, horizon=2, autoreset_mode=AutoresetMode.SAME_STEP)
    envs.reset(seed=0, options={"conditioning": {"push": np.array([0.1, 0.2, 0.3])}})
    drawn = []
    for _ in range(8):
        envs.step(np.zeros((3, 1), np.float32))
        np.testing.assert_allclose(state(envs.simulator, "push"), [0.1, 0.2, 0.3], rtol=1e-6)
        drawn.append(state(envs.simulator, "task"))
    # What is not given is that of the drawn initial state.
    assert any(each != drawn[0] for each in drawn)
    mask = np.array([False, True, False])
    envs.reset(options={"reset_mask": mask, "conditioning": {"push": np.array([0.9])}})
    np.testing.assert_allclose(state(envs.simulator, "push"), [0.1, 0.9, 0.3], rtol=1e-6)


def test_snapshots_and_forks_carry_the_conditioning(fitted: Twin) -> None:
    simulator = Simulator(fitted, 2, seed=0)
    simulator.reset(options={"conditioning": {"push": np.array([0.25, 0.75])}})
    snapshot = simulator.snapshot()
    simulator.reset(options={"conditioning": {"push": np.array([0.0, 0.0])}})
    simulator.restore(snapshot)
    assert state(simulator, "push") == [0.25, 0.75]
    simulator.reset()
    assert state(simulator, "push") == [0.25, 0.75]
    fork = simulator.fork([1], 3)
    fork.reset()
    assert state(fork, "push") == [0.75] * 3


def test_a_default_holds_for_all_environments(fitted: Twin) -> None:
    env = WorldModelEnv(fitted, conditioning={"task": [0.0, 1.0], "push": 0.5})
    env.reset(seed=0)
    assert state(env.simulator, "task") == [[0.0, 1.0]] and state(env.simulator, "push") == [0.5]
    env.reset(options={"conditioning": {"push": -0.5}})
    assert state(env.simulator, "task") == [[0.0, 1.0]] and state(env.simulator, "push") == [-0.5]


def test_sb3_options_hold_conditioning() -> None:
    envs = WorldModelSB3VecEnv(Twin.untrained(SPEC, "conditioned"), 2)
    envs.set_options([{"conditioning": {"push": 0.1}}, {"conditioning": {"push": 0.4}}])
    envs.reset()
    np.testing.assert_allclose(state(envs.simulator, "push"), [0.1, 0.4], rtol=1e-6)


@pytest.mark.parametrize(
    ("conditioning", "message"),
    [
        ({"tusk": np.zeros((2, 2))}, "tusk.*knows: task, push"),
        ({"task": np.zeros((2, 3))}, r"'task'[\s\S]*\(2, 3\).*\(2, 2\)"),
        ({"push": np.array([0.0, np.nan])}, r"'push'.*finite"),
        ({"push": ["a", "b"]}, r"'push'.*finite"),
        (3, "int, expected a dict"),
    ],
)
def test_wrong_conditioning_is_named_before_anything_is_reset(
    fitted: Twin, conditioning: Any, message: str
) -> None:
    simulator = Simulator(fitted, 2, seed=0)
    simulator.reset()
    simulator.step(np.zeros((2, 1), np.float32))
    before, episodes = simulator.observe(), simulator.snapshot().counters
    with pytest.raises(InvalidOptionError, match=message):
        simulator.reset(options={"conditioning": conditioning})
    np.testing.assert_array_equal(simulator.observe(), before)
    np.testing.assert_array_equal(simulator.snapshot().counters, episodes)


def test_unknown_and_missing_conditioning_are_named(fitted: Twin) -> None:
    plain = Twin.untrained(SPEC, "linear")
    with pytest.raises(InvalidOptionError, match=r"push.*knows: none"):
        Simulator(plain, 2).reset(options={"conditioning": {"push": np.zeros(2)}})
    with pytest.raises(InvalidOptionError, match=r"push.*knows: none"):
        WorldModelEnv(plain, conditioning={"push": 0.0})
    simulator = Simulator(fitted, 1)
    with pytest.raises(InvalidOptionError, match=r"'task'.*pass options"):
        simulator.reset(options={"observation": np.zeros((1, 2), np.float32)})
    with pytest.raises(InvalidOptionError, match=r"'task'.*needs"):
        StateFilter(fitted).start(np.zeros((1, 2), np.float32), [0])
    with pytest.raises(InvalidOptionError, match=r"starts.*'task'"):
        dataclasses.replace(fitted, starts=plain.starts)
    snapshot = Simulator(fitted, 1)
    snapshot.reset()
    with pytest.raises(InvalidOptionError, match="not with 'snapshot'"):
        simulator.reset(options={"snapshot": snapshot.snapshot(), "conditioning": {"push": [0.0]}})


def test_data_must_have_the_conditioning_of_the_family() -> None:
    bare = [dataclasses.replace(episode, conditioning={}) for episode in EPISODES]
    with pytest.raises(InvalidOptionError, match=r"the data.*'task'"):
        fit_episodes(bare, SPEC, CONFIG)
    with pytest.raises(InvalidOptionError, match=r"the data.*knows: none"):
        fit_episodes(EPISODES, SPEC, FitConfig(family="linear", gradient_steps=2))
    with pytest.raises(DataError, match="episode 1 has conditioning"):
        fit_episodes([EPISODES[0], *bare[1:]], SPEC, CONFIG)
    with pytest.raises(DataError, match=r"conditioning 'push'.*finite"):
        dataclasses.replace(EPISODES[0], conditioning={"push": np.array(np.inf)})


def test_a_store_keeps_the_conditioning(tmp_path: Path) -> None:
    store = EpisodeStore.create(tmp_path / "data", SPEC)
    store.append(EPISODES[:3])
    for episode, back in zip(EPISODES, EpisodeStore(tmp_path / "data").load(), strict=False):
        assert back.digest() == episode.digest()
        np.testing.assert_array_equal(back.conditioning["task"], episode.conditioning["task"])
    other = dataclasses.replace(EPISODES[0], conditioning={})
    assert other.digest() != EPISODES[0].digest()


# -- extras ------------------------------------------------------------------------------------------------------


def test_scalars_are_in_info_and_frames_are_rendered(fitted: Twin) -> None:
    env = WorldModelEnv(fitted, render_mode="rgb_array")
    env.reset(seed=0)
    drawn = env.render()
    observation, *_, info = env.step(np.ones(1, np.float32))
    assert info["energy"] == pytest.approx(float(np.square(observation).sum()), rel=1e-5)
    assert type(info["energy"]) is float and info.keys() == {"end", "energy"}
    frame = env.render()
    assert frame.shape == (6, 8, 3) and frame.dtype == np.uint8
    shade = 255.0 / (1.0 + np.exp(-observation[0]))
    assert abs(float(frame.mean()) - shade) < 1.0
    env.reset(seed=0)
    np.testing.assert_array_equal(env.render(), drawn)


def test_an_extra_with_the_name_of_another_info_is_refused(
    fitted: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = type(fitted.model)
    step = model.step

    def clashing(self: Any, state: Any, action: Any, **kwargs: Any) -> Any:
        arrived, prediction = step(self, state, action, **kwargs)
        return arrived, dataclasses.replace(prediction, extras={"end": prediction.reward})

    monkeypatch.setattr(model, "step", clashing)
    env = WorldModelEnv(fitted)
    env.reset(seed=0)
    with pytest.raises(CheckError, match="'end', which `info` uses"):
        env.step(np.ones(1, np.float32))


def test_batched_extras_are_masked_and_frames_are_per_environment(fitted: Twin) -> None:
    envs = WorldModelVectorEnv(fitted, 2, horizon=2, render_mode="rgb_array")
    envs.reset(seed=0)
    for step in range(3):
        *_, infos = envs.step(np.ones((2, 1), np.float32))
        resets = step == 2
        assert infos["_energy"].tolist() == [not resets] * 2
        assert infos["energy"].dtype == np.float64
        frames = envs.render()
        assert frames is not None and (frames[0].shape == (6, 8, 3)) is not resets
    vec_env = WorldModelSB3VecEnv(fitted, 2, horizon=2)
    vec_env.reset()
    *_, infos = vec_env.step(np.ones((2, 1), np.float32))
    assert all(type(info["energy"]) is float for info in infos)
    *_, infos = vec_env.step(np.ones((2, 1), np.float32))
    assert all({"energy", "terminal_observation"} <= info.keys() for info in infos)


# -- installed plug-ins ------------------------------------------------------------------------------------------


def install(folder: Path, package: str, entries: dict[str, str]) -> Path:
    """Make the metadata of an installed package with entry points."""
    metadata = folder / f"{package}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = ["[world_env.models]", *(f"{name} = {value}" for name, value in entries.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_an_installed_plug_in_needs_no_registration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(FAMILIES, "conditioned")
    with pytest.raises(UnknownFamilyError, match=r"conditioned.*linear.*world_env\.models"):
        load_family("conditioned")
    monkeypatch.syspath_prepend(str(install(tmp_path, "world-plugin", {"conditioned": MODEL})))
    assert load_family("conditioned").__name__ == "ConditionedModel"
    assert "conditioned" in list_families()


def test_a_broken_plug_in_is_named_and_the_others_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(FAMILIES, "conditioned")
    (tmp_path / "broken_plugin.py").write_text("raise RuntimeError('no such library')\n")
    install(tmp_path, "broken-plugin", {"broken": "broken_plugin:Model"})
    install(tmp_path, "world-plugin", {"conditioned": MODEL})
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PluginError, match=r"'broken'.*broken-plugin.*no such library"):
        load_family("broken")
    with pytest.warns(PluginWarning, match=r"'broken'.*broken-plugin"):
        assert list_families() == ["conditioned", *sorted(set(list(FAMILIES)))]
    assert load_family("conditioned").__name__ == "ConditionedModel"
    install(tmp_path, "another-plugin", {"conditioned": "nowhere:Model"})
    with pytest.raises(PluginError, match="another-plugin and world-plugin"):
        load_family("conditioned")


def test_the_command_line_takes_an_installed_plug_in(tmp_path: Path) -> None:
    store = EpisodeStore.create(tmp_path / "data", SPEC)
    store.append(EPISODES)
    row = {"policy": "random", "real_mean": 1.0, "real_ci95": [0.0, 2.0], "episodes": 50}
    comparison = {"env_id": "Point", "episodes": 50, "rows": [row]}
    (tmp_path / "comparison.json").write_text(json.dumps(comparison), encoding="utf-8")
    paths = [install(tmp_path / "packages", "world-plugin", {"conditioned": MODEL}), HERE, ROOT]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}

    def world_env(*words: str) -> str:
        command = [sys.executable, "-m", "world_env.cli.main", *words]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    options = ["--gradient-steps", "100", "--preset", "tiny", "--model", '{"average_decay": 0.5}']
    world_env("fit", "--data", "data", "--out", "twin", "--family", "conditioned", *options)
    world_env("report", "--comparison", "comparison.json", "--out", "page", "--twin", "./twin")
    assert "Point" in (tmp_path / "page" / "report.html").read_text(encoding="utf-8")
    assert "conditioned" in (tmp_path / "twin" / "card.md").read_text(encoding="utf-8")
    twin = Twin.load(tmp_path / "twin")
    assert twin.provenance.recorded("fit", "preset") == "tiny"
    again = fit(tmp_path / "data", tmp_path / "again", FitConfig(
        family="conditioned", gradient_steps=100, preset="tiny", model={"average_decay": 0.5}
    ))  # fmt: skip
    assert again.fingerprint() == twin.fingerprint()
