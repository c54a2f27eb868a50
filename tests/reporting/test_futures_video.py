"""Learned rollouts from one real state, beside the real episode, truncated where they go out of distribution."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle import oracle_twin
from PIL import Image
from stable_baselines3 import PPO

from world_env.cli.main import main
from world_env.errors import InvalidOptionError, StageError
from world_env.policies.saved_policy import save_policy
from world_env.real.real_env import spec_of
from world_env.real.step_ledger import StepLedger
from world_env.reporting import futures_video as module
from world_env.reporting.futures_video import futures
from world_env.spec import EnvConfig
from world_env.twin.twin import Twin

CARTPOLE = EnvConfig("CartPole-v1")


@pytest.fixture(scope="module")
def policy() -> PPO:
    return PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, seed=0, device="cpu")


def frames_of(path: Path) -> int:
    with Image.open(path) as film:
        return int(getattr(film, "n_frames", 1))


def test_exact_futures_are_what_reality_does(
    policy: PPO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    compose = module._compose
    monkeypatch.setattr(
        module,
        "_compose",
        lambda panels, renderer, step: (
            seen.append([np.array(panel.observation) for panel in panels]),
            compose(panels, renderer, step),
        )[1],
    )
    ledger = StepLedger()
    path = futures(oracle_twin("CartPole-v1"), policy, tmp_path / "new" / "a.gif", real=CARTPOLE,
                   after=3, steps=4, number=5, ledger=ledger)  # fmt: skip
    assert ledger.by_purpose == {"evaluate": 7}
    assert frames_of(path) == len(seen) == 5
    for shown in seen:
        assert len(shown) == 6
        for learned in shown[1:]:
            np.testing.assert_allclose(learned, shown[0], atol=1e-4)
    assert not np.allclose(seen[0][0], seen[-1][0])


def test_a_future_is_cut_where_its_uncertainty_passes_the_threshold(
    policy: PPO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[list[str]] = []
    monkeypatch.setattr(
        module,
        "_compose",
        lambda panels, renderer, step: (
            ends.append([panel.end for panel in panels]),
            np.zeros((4, 4, 3), np.uint8),
        )[1],
    )
    twin = dataclasses.replace(
        Twin.untrained(spec_of(CARTPOLE), "ensemble"), uncertainty_threshold=0.0
    )
    torch.manual_seed(0)
    for parameter in twin.model.dynamics.parameters():
        parameter.data.normal_(0.0, 0.01)  # untrained members agree: each says that nothing moves
    futures(twin, policy, tmp_path / "a.gif", real=CARTPOLE, after=2, steps=3, number=2,
            ledger=StepLedger())  # fmt: skip
    assert ends[0] == ["", "", ""]
    assert ends[1] == ["", "uncertainty", "uncertainty"]


def test_a_moment_that_reality_never_reaches_is_an_error(policy: PPO, tmp_path: Path) -> None:
    twin = oracle_twin("CartPole-v1")
    with pytest.raises(
        InvalidOptionError, match=r"ended after \d+ steps, before step 490: choose a smaller value"
    ):
        futures(twin, policy, tmp_path / "a.gif", real=CARTPOLE, after=490, ledger=StepLedger())
    with pytest.raises(InvalidOptionError, match=r"\.gif or \.mp4"):
        futures(twin, policy, tmp_path / "a.png", real=CARTPOLE, ledger=StepLedger())
    with pytest.raises(InvalidOptionError, match="number must be >= 1, got 0"):
        futures(twin, policy, tmp_path / "a.gif", real=CARTPOLE, number=0, ledger=StepLedger())
    with pytest.raises(StageError, match="cannot write"):
        (tmp_path / "b.gif").mkdir()
        futures(twin, policy, tmp_path / "b.gif", real=CARTPOLE, after=1, ledger=StepLedger())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.gif"]


def test_the_command_writes_the_picture_and_counts_what_it_cost(
    policy: PPO, tmp_path: Path
) -> None:
    folder = save_policy(policy, tmp_path / "policy", trained_in="real")
    out = tmp_path / "film.gif"
    words = ["futures", "--twin", "cartpole", "--policy", str(folder), "--out", str(out)]
    assert main([*words, "--after", "2", "--steps", "4", "--every", "2", "--number", "2"]) == 0
    assert frames_of(out) == 3
    assert StepLedger(tmp_path / "film-real-steps.json").by_purpose == {"evaluate": 6}
