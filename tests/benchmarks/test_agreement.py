"""The agreement benchmark's own parts: where a cell lies, and a fit again to the data of a finished run."""

import argparse
import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from gymnasium import spaces

from world_env.data.episode import Episode
from world_env.fitting.config import FitConfig
from world_env.models.ensemble.model import EnsembleConfig
from world_env.real.step_ledger import StepLedger
from world_env.refinement.config import RefineConfig
from world_env.refinement.refine import refine
from world_env.rl.learn import LearnConfig
from world_env.spec import EnvConfig, WorldSpec
from world_env.twin.twin import Twin

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
TINY = {"members": 2, "width": 8}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return importlib.import_module("benchmarks.agreement.agreement")


def test_every_change_of_a_cell_has_a_folder_of_its_own(script: ModuleType, tmp_path: Path) -> None:
    places = [
        script.place_of(tmp_path, "CartPole-v1", seed, change)
        for seed in (0, 1)
        for change in (
            {},
            {"rounds": 3},
            {"refit": {"gradient_steps": 9}},
            {"rounds": 3, "refit": {"gradient_steps": 9}},
        )
    ]
    assert len(set(places)) == len(places)
    assert {place.parent for place in places} == {tmp_path / "agreement"}


@pytest.mark.filterwarnings("ignore::world_env.fitting.preconditions.FitWarning")
@pytest.mark.slow
def test_a_fit_again_takes_the_same_data_and_no_real_step(
    script: ModuleType, tmp_path: Path
) -> None:
    ledger = StepLedger()
    config = RefineConfig(
        EnvConfig("Pendulum-v1"),
        tmp_path / "base",
        steps=1_200,
        rounds=2,
        seed=3,
        fit=FitConfig(gradient_steps=4, batch_size=20, validate_every=2, model=TINY),
        learn=LearnConfig(
            steps=64, num_envs=8, algo_kwargs={"n_steps": 8, "batch_size": 64, "n_epochs": 1}
        ),
    )
    last = refine(config, ledger=ledger)[-1]
    spent = ledger.total()
    model = TINY | {"width": 12}
    again = script.fitted_again(
        config, last, {"gradient_steps": 6, "model": model}, tmp_path / "cell" / "twin"
    )
    assert ledger.total() == spent == 1_201  # with the step of the check
    assert again.model.config.width == 12
    assert last.twin.model.config.width == 8
    assert again.provenance.recorded("fit", "gradient_steps") == 6
    assert again.provenance.recorded("fit", "seed") == 3
    assert again.provenance.steps == last.twin.provenance.steps
    for side in ("trained_on", "validated_on"):
        assert getattr(again.provenance, side) == getattr(last.twin.provenance, side)
    assert len(again.provenance.trained_on) == 6
    assert again.provenance.stages["refit"] == {"gradient_steps": 6, "model": model}
    # A second call reads it back: nothing is fitted with these settings.
    back = script.fitted_again(config, last, {"gradient_steps": 0}, tmp_path / "cell" / "twin")
    assert isinstance(back, Twin)
    assert back.provenance.recorded("fit", "gradient_steps") == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"updats": 3}', "not a field of FitConfig: updats.*gradient_steps"),
        ("[3]", "3.*object"),
        ("{", "not valid JSON"),
    ],
)
def test_a_wrong_field_is_named_before_anything_is_run(
    script: ModuleType, text: str, message: str
) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        script.fields_of(FitConfig)(text)
    assert script.fields_of(FitConfig)('{"gradient_steps": 3}') == {"gradient_steps": 3}


@pytest.mark.parametrize("reward", [0.0, 2.0])
def test_a_twin_in_which_nothing_moves_misses_what_moved(script: ModuleType, reward: float) -> None:
    misses = importlib.import_module("benchmarks.agreement.misses")
    steps = np.arange(5.0)
    episode = Episode(
        np.stack([3.0 * steps, 0.0 * steps, steps**2], 1).astype(np.float32),
        np.array([[1.0], [-1.0], [-1.0], [1.0]], np.float32),
        np.full(4, reward),
        False,
        True,
    )
    spec = WorldSpec(
        spaces.Box(-np.inf, np.inf, (3,), np.float32), spaces.Box(-1, 1, (1,), np.float32)
    )
    twin = Twin.untrained(spec, config=EnsembleConfig(**TINY))
    row = misses.moved_and_missed([episode, episode], twin, 2)
    assert row["steps"] == 8 and row["reward"] == reward
    assert row["turned"] == pytest.approx(2 / 3)
    assert row["miss"] == pytest.approx(-np.mean([1, 3, 5, 7]), abs=1e-4)
    assert row["change"] == pytest.approx(np.sqrt(np.mean([1, 9, 25, 49])))
    assert row["miss_rms"] == pytest.approx(row["change"], abs=1e-4)
    assert misses.moved_and_missed([episode], twin, 0)["miss"] == pytest.approx(-3.0, abs=1e-4)
