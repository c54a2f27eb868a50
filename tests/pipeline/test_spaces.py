"""The whole pipeline over action and observation spaces that the bundled tasks do not have."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from world_env.envs.vector_env import WorldModelVectorEnv
from world_env.errors import SpaceMismatchError
from world_env.fitting.config import FitConfig
from world_env.pipeline.build import build
from world_env.pipeline.config import BuildConfig
from world_env.policies.loading import as_policy
from world_env.policies.saved_policy import load_policy
from world_env.real.step_ledger import StepLedger
from world_env.rl.learn import LearnConfig, learn
from world_env.spaces import one_row
from world_env.spec import EnvConfig, WrapperConfig
from world_env.twin.twin import Twin
from world_env.wrappers.zero_based_actions import ZeroBasedActions

pytestmark = pytest.mark.filterwarnings("ignore::world_env.fitting.preconditions.FitWarning")

ACTIONS: dict[str, spaces.Space[Any]] = {
    "MultiDiscrete": spaces.MultiDiscrete([3, 3], start=[-1, -1]),
    "Discrete": spaces.Discrete(3, start=-1),
    "Box": spaces.Box(-1.0, 1.0, (2,), np.float32),
}
POSITION = spaces.Box(-2.0, 2.0, (2,), np.float32)
FROM_ZERO = "world_env.wrappers:ZeroBasedActions"
FIT = FitConfig(
    gradient_steps=300,
    batch_size=128,
    validate_every=50,
    model={"members": 2, "width": 32, "head_width": 16, "rollout": 2},
)
RSSM = FitConfig(
    family="rssm",
    gradient_steps=1_500,
    validate_every=750,
    model={"window": 6, "context": 2},
)


class Field(gym.Env[Any, Any]):
    """A point moved by .1 times the action in each direction; near the middle pays, outside ends.

    grouped: it sees the turn too. drawn: and a picture of where the point is.
    """

    def __init__(
        self, actions: str = "MultiDiscrete", grouped: bool = False, drawn: bool = False
    ) -> None:
        self.action_space = ACTIONS[actions]
        self.grouped, self.drawn = grouped or drawn, drawn
        parts = {"turn": spaces.Box(0.0, 1.0, (1,), np.float32), "here": POSITION}
        if drawn:
            parts["picture"] = spaces.Box(0, 255, (16, 16), np.uint8)
        # Of pairs, so that the keys stay in another order than the alphabet's.
        self.observation_space = spaces.Dict(list(parts.items())) if self.grouped else POSITION
        self._at, self._turn = np.zeros(2), 0

    def _observation(self) -> Any:
        here = self._at.astype(np.float32)
        if not self.grouped:
            return here
        seen = {"here": here, "turn": np.array([self._turn / 30], np.float32)}
        if self.drawn:
            seen["picture"] = np.zeros((16, 16), np.uint8)
            row, column = np.clip(8 + 6 * self._at, 1, 14).astype(int)
            seen["picture"][row - 1 : row + 2, column - 1 : column + 2] = 255
        return seen

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._at, self._turn = self.np_random.uniform(-0.8, 0.8, 2), 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._at = self._at + 0.1 * np.broadcast_to(np.asarray(action, float), 2)
        self._turn += 1
        reward = 1.0 - float(np.linalg.norm(self._at))
        return self._observation(), reward, bool(np.abs(self._at).max() > 1.0), False, {}


gym.register("Field-v0", entry_point=Field, max_episode_steps=30)


def batched(value: Any, rows: int) -> Any:
    """The same for each of so many rows."""
    if isinstance(value, dict):
        return {key: batched(part, rows) for key, part in value.items()}
    return np.repeat(np.asarray(value)[None], rows, 0)


@pytest.mark.parametrize(
    ("actions", "grouped", "fit"),
    [
        ("MultiDiscrete", False, FIT),
        ("Discrete", True, FIT),
        ("Box", True, FIT),
        pytest.param("MultiDiscrete", True, RSSM, marks=pytest.mark.slow),
    ],
)
def test_a_twin_is_built_of_other_action_and_observation_spaces(
    actions: str, grouped: bool, fit: FitConfig, tmp_path: Path
) -> None:
    kwargs = {"actions": actions, "grouped": grouped}
    wrappers = () if actions == "Box" else (WrapperConfig(FROM_ZERO),)
    out = tmp_path / "run"
    built = build(
        BuildConfig(
            EnvConfig("Field-v0", kwargs, wrappers),
            out,
            steps=3_000 if fit is RSSM else 900,
            learn_steps=256,
            judge_episodes=50,
            fit=fit,
            observation_mode="latent" if fit is RSSM else None,
        )
    )
    twin = Twin.load(out / "twin")
    real = gym.make("Field-v0", **kwargs)
    real = ZeroBasedActions(real) if wrappers else real
    assert twin.spec.action_space == real.action_space
    assert twin.spec.observation_space == real.observation_space
    # One future of a twin that draws them says little: the mean of many.
    rows = 64
    learned = WorldModelVectorEnv(twin, rows)
    start, _ = real.reset(seed=3)
    learned.reset(seed=3, options={"observation": batched(start, rows)})
    right = real.action_space.sample() * 0 + (2 if wrappers else 1)
    for _ in range(2):
        real_observation = real.step(right)[0]
        learned_observation = learned.step(batched(right, rows))[0]
    here, there, begun = (
        value["here"] if grouped else value
        for value in (real_observation, learned_observation, start)
    )
    assert np.linalg.norm(here - there.mean(0)) < 0.5 * np.linalg.norm(here - begun)
    policy = load_policy(out / "round-0" / "policy", expect=twin.spec)
    actor, one = as_policy(policy), np.zeros(1, np.int64)
    actor.reset(one, [0])
    action = actor.act(one_row(start), one)[0]
    assert real.action_space.contains(action)
    judged = {row.policy: row.real_mean for row in built.comparison.rows}
    assert set(judged) == {"random", "ppo_twin", "ppo_real_same_steps"}


def test_a_build_measures_and_shows_what_is_drawn(tmp_path: Path) -> None:
    built = build(
        BuildConfig(
            EnvConfig("Field-v0", {"actions": "Box", "drawn": True}),
            tmp_path / "run",
            steps=300,
            learn_steps=64,
            judge_episodes=50,
            baseline=False,
            fit=FitConfig(family="rssm", gradient_steps=4, validate_every=2, model={"window": 6}),
            observation_mode="latent",
        )
    )
    twin = Twin.load(built.twin_folder)
    seen = twin.fidelity.horizons.observation
    assert sorted(seen.names) == ["here[0]", "here[1]", "picture", "turn[0]"]
    # Least squares would need a number for each pair of pixels: there "nothing moves" stands alone.
    assert seen.linear is None
    assert len(seen.hold_last) == len(seen.error) == 4
    card = (built.twin_folder / "card.md").read_text(encoding="utf-8")
    assert "last observation held" in card and "linear model" not in card
    assert "Frames" in built.page.read_text(encoding="utf-8")


@pytest.mark.parametrize("actions", ["MultiDiscrete", "Discrete"])
def test_actions_that_do_not_count_from_zero_are_refused_before_a_real_step(
    actions: str, tmp_path: Path
) -> None:
    kwargs, ledger = {"actions": actions}, StepLedger()
    with pytest.raises(SpaceMismatchError, match="ZeroBasedActions"):
        build(BuildConfig(EnvConfig("Field-v0", kwargs), tmp_path / "run", steps=900, fit=FIT))
    assert not (tmp_path / "run" / "round-0").exists()
    with pytest.raises(SpaceMismatchError, match="ZeroBasedActions"):
        learn(EnvConfig("Field-v0", kwargs), LearnConfig(steps=100), ledger=ledger)
    assert ledger.total() == 0
