"""What is learned on a GPU is what is learned on the CPU: skipped where there is none."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

from world_env.data.episode import Episode
from world_env.fitting.config import FitConfig
from world_env.fitting.fit import fit_episodes
from world_env.spec import WorldSpec
from world_env.twin.twin import Twin

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")

SMALL: dict[str, dict[str, object]] = {
    "linear": {},
    "ensemble": {"members": 2, "width": 32, "head_width": 32},
    "rssm": {"deter": 16, "groups": 4, "classes": 4, "hidden": 16, "window": 8, "context": 3},
}


def episodes(number: int = 15, length: int = 30) -> list[Episode]:
    """A point that the action turns, and one column that rests."""
    rng = np.random.default_rng(1)
    made = []
    for seed in range(number):
        actions = rng.uniform(-1, 1, (length, 1)).astype(np.float32)
        angle = np.concatenate([rng.uniform(-3, 3, 1), 0.3 * actions[:, 0]]).cumsum()
        seen = np.stack([np.cos(angle), np.sin(angle), np.full(length + 1, 7.0)], 1)
        made.append(
            Episode(
                seen.astype(np.float32),
                actions,
                np.cos(angle[1:]).astype(np.float32),
                terminated=seed % 3 == 0,
                truncated=seed % 3 != 0,
                seed=seed,
            )
        )
    return made


SPEC = WorldSpec(
    spaces.Box(-np.inf, np.inf, (3,), np.float32), spaces.Box(-1, 1, (1,), np.float32), 30
)


def config_of(family: str, device: str) -> FitConfig:
    return FitConfig(
        family, SMALL[family], gradient_steps=60, batch_size=32, validate_every=20, device=device
    )


@pytest.mark.filterwarnings("ignore::world_env.fitting.preconditions.FitWarning")
@pytest.mark.parametrize("family", SMALL)
def test_a_fit_there_is_the_fit_here_and_comes_back(family: str, tmp_path: Path) -> None:
    here, there = (
        fit_episodes(episodes(), SPEC, config_of(family, device)) for device in ("cpu", "cuda")
    )
    assert {value.device.type for value in there.model.state_dict().values()} == {"cpu"}
    assert there.starts.length.device.type == "cpu"
    first, second = (twin.fidelity["open_loop"]["error"][0] for twin in (here, there))
    assert second == pytest.approx(first, rel=0.2, abs=1e-3)
    there.save(tmp_path / "twin")
    assert Twin.load(tmp_path / "twin").fingerprint() == there.fingerprint()


@pytest.mark.filterwarnings("ignore::world_env.fitting.preconditions.FitWarning")
def test_a_killed_fit_goes_on_there(tmp_path: Path) -> None:
    config, checkpoint = config_of("ensemble", "cuda"), tmp_path / "fit.pt"

    class Killed(Exception):
        pass

    def kill(done: int, wanted: int, logs: object) -> None:
        raise Killed

    with pytest.raises(Killed):
        fit_episodes(episodes(), SPEC, config, progress=kill, checkpoint=checkpoint)
    begun: list[int] = []
    fit_episodes(
        episodes(),
        SPEC,
        config,
        progress=lambda done, *_: begun.append(done),
        checkpoint=checkpoint,
    )
    assert begun == [40, 60]


@pytest.mark.filterwarnings("ignore::world_env.fitting.preconditions.FitWarning")
def test_twins_of_either_device_are_warm_there(tmp_path: Path) -> None:
    fit_episodes(episodes(), SPEC, config_of("ensemble", "cpu")).save(tmp_path / "twin")
    config = config_of("ensemble", "cuda").replace(gradient_steps=20)
    for device in ("cpu", "cuda"):
        older = Twin.load(tmp_path / "twin", device=device)
        assert fit_episodes(episodes(20), SPEC, config, warm_start=older).provenance["warm_start"]
