"""`lint` runs before a fit and after a collection: errors stop the fit, warnings stay with the twin."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from world_env.cli.main import main
from world_env.data.episode import Episode
from world_env.data.store import EpisodeStore
from world_env.errors import DataError, LintError
from world_env.fitting.config import FitConfig
from world_env.fitting.fit import fit, fit_episodes
from world_env.spec import WorldSpec
from world_env.twin.twin import Twin
from world_env.twin.warning_rules import warnings_of

SPEC = WorldSpec(
    spaces.Box(-20, 20, (2,), np.float32), spaces.Box(-1, 1, (1,), np.float32), horizon=50
)
NARROW = dataclasses.replace(SPEC, observation_space=spaces.Box(-0.5, 0.5, (2,), np.float32))
TINY = FitConfig(
    model={"members": 2, "width": 16, "layers": 1, "head_width": 8, "rollout": 4},
    gradient_steps=20,
    validate_every=10,
)
pytestmark = pytest.mark.filterwarnings("ignore::world_env.fitting.preconditions.FitWarning")


class Arena(gym.Env[Any, Any]):
    """A point that is pushed; outside the arena the episode is truncated."""

    observation_space = spaces.Box(-20, 20, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, edge: float = 1.0) -> None:
        self.edge = edge

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place, self.speed = self.np_random.uniform(-0.5, 0.5), 0.0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self.speed = 0.9 * self.speed + 0.3 * float(action[0])
        self.place += 0.3 * self.speed
        return self._seen(), -abs(self.place), False, abs(self.place) > self.edge, {}

    def _seen(self) -> Any:
        return np.array([self.place, self.speed], np.float32)


class NarrowArena(Arena):
    """The declared bounds are narrower than the observations."""

    observation_space = spaces.Box(-0.5, 0.5, (2,), np.float32)


def played(env: gym.Env[Any, Any], count: int, horizon: int = 50) -> list[Episode]:
    rng = np.random.default_rng(0)
    episodes = []
    for seed in range(count):
        seen, actions, rewards, truncated = [env.reset(seed=seed)[0]], [], [], False
        while not truncated and len(actions) < horizon:
            actions.append(rng.uniform(-1, 1, 1).astype(np.float32))
            observation, reward, _, truncated, _ = env.step(actions[-1])
            seen.append(observation)
            rewards.append(reward)
        arrays = (np.array(seen), np.array(actions), np.array(rewards))
        episodes.append(Episode(*arrays, False, True, seed=seed))
    return episodes


@pytest.fixture(scope="module")
def arena() -> list[Episode]:
    return played(Arena(), 60)


def test_an_error_stops_a_fit_and_names_the_way_out(arena: list[Episode], tmp_path: Path) -> None:
    store = EpisodeStore.create(tmp_path / "data", NARROW)
    store.append(arena)
    with pytest.raises(
        LintError, match=r"lint found 1 error.*observation\[0\].*--allow-errors"
    ) as caught:
        fit(tmp_path / "data", tmp_path / "twin", TINY)
    assert isinstance(caught.value, DataError)
    assert "space" in str(caught.value) and "correct the bounds" in str(caught.value)
    assert not (tmp_path / "twin").exists()
    # The same folder goes on with the errors allowed, and back.
    twin = fit(tmp_path / "data", tmp_path / "twin", TINY.replace(allow_errors=True))
    assert [issue.check for issue in twin.fidelity.lint if issue.severity == "error"] == ["space"]
    with pytest.raises(LintError):
        fit(tmp_path / "data", tmp_path / "twin", TINY)
    assert Twin.load(tmp_path / "twin").fidelity.lint == twin.fidelity.lint


def test_warnings_are_logged_once_and_stay_with_the_twin(
    arena: list[Episode], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="world_env"):
        twin = fit_episodes(arena, SPEC, TINY)
    lines = [record.getMessage() for record in caplog.records if "lint:" in record.getMessage()]
    assert len(lines) == 1 and "state_truncation" in lines[0] and "--truncations ends" in lines[0]
    (issue,) = twin.fidelity.lint
    assert (issue.check, issue.severity) == ("state_truncation", "warning")
    folder = twin.save(tmp_path / "twin")
    assert Twin.load(folder).fidelity.lint == [issue]
    assert issue.message in (folder / "card.md").read_text("utf-8")
    assert warnings_of(twin.fidelity)[-1] == f"Data {issue}"


def test_a_twin_of_clean_data_stores_no_issue(tmp_path: Path) -> None:
    twin = fit_episodes(played(Arena(edge=np.inf), 12), SPEC, TINY)
    assert twin.fidelity.lint == []
    tree = json.loads((twin.save(tmp_path / "twin") / "twin.json").read_text("utf-8"))
    assert "lint" not in tree["fidelity"]


def test_truncations_of_the_state_are_learned_as_ends_where_asked_for(arena: list[Episode]) -> None:
    config = TINY.replace(gradient_steps=300, validate_every=100, truncations="ends")
    twin = fit_episodes(arena, SPEC, config)
    assert twin.fidelity.lint == [] and twin.fidelity.termination is not None
    assert twin.fidelity.termination.terminal_labels > 0
    assert fit_episodes(arena, SPEC, TINY).fidelity.termination.terminal_labels == 0  # type: ignore[union-attr]


def test_known_functions_and_a_family_with_memory_need_no_warning() -> None:
    blind = [
        dataclasses.replace(e, observations=e.observations[:, :1])
        for e in played(Arena(edge=9), 30)
    ]
    spec = dataclasses.replace(SPEC, observation_space=spaces.Box(-20, 20, (1,), np.float32))
    assert "hidden_state" in [i.check for i in fit_episodes(blind, spec, TINY).fidelity.lint]
    from world_env.fitting.preconditions import check_data

    remembers = FitConfig(family="rssm", preset="small")
    assert "hidden_state" not in [i.check for i in check_data(blind, spec, remembers)]
    same = [dataclasses.replace(e, rewards=np.ones(len(e))) for e in blind]
    assert "constant_reward" in [i.check for i in check_data(same, spec, TINY)]
    assert "constant_reward" not in [i.check for i in check_data(same, spec, TINY, ["reward"])]


@pytest.mark.parametrize(("env", "status"), [(NarrowArena, 1), (Arena, 0)])
def test_collect_keeps_its_data_and_exits_with_1_on_errors(
    env: type[gym.Env[Any, Any]], status: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gym.register("Arena-v0", entry_point=env, max_episode_steps=50)  # type: ignore[arg-type]
    try:
        words = ["collect", "Arena-v0", "--out", str(tmp_path / "data"), "--steps", "600"]
        with caplog.at_level(logging.WARNING, logger="world_env"):
            assert main(words) == status
    finally:
        gym.registry.pop("Arena-v0")
    assert EpisodeStore(tmp_path / "data").steps == 600
    errors = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert len(errors) == status and all("space (observation[0])" in text for text in errors)
