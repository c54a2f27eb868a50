"""Wrappers of real environments that change what is seen."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from world_env.errors import InvalidOptionError, UnsupportedSpaceError
from world_env.real.real_env import make_real, spec_of
from world_env.real.step_ledger import StepLedger
from world_env.spec import EnvConfig, WrapperConfig
from world_env.wrappers.select_columns import SelectColumns
from world_env.wrappers.set_attributes import SetAttributes


def test_selected_columns_are_those_of_the_environment_in_the_order_asked_for() -> None:
    whole, some = gym.make("Pendulum-v1"), SelectColumns(gym.make("Pendulum-v1"), (2, 0))
    assert some.observation_space.low.tolist() == [-8.0, -1.0]
    assert some.observation_space.dtype == np.float32
    before, _ = whole.reset(seed=3)
    seen, _ = some.reset(seed=3)
    assert seen.tolist() == before[[2, 0]].tolist()
    for _ in range(3):
        action = whole.action_space.sample()
        after = [env.step(action)[:2] for env in (whole, some)]
        assert after[1][0].tolist() == after[0][0][[2, 0]].tolist()
        assert after[1][1] == after[0][1]


@pytest.mark.filterwarnings("ignore")
def test_it_passes_gymnasiums_checker() -> None:
    check_env(SelectColumns(gym.make("Pendulum-v1").unwrapped, [0]), skip_render_check=True)


def test_it_is_named_in_a_real_config() -> None:
    real = EnvConfig(
        "Pendulum-v1", {}, (WrapperConfig("world_env.wrappers:SelectColumns", {"columns": [0, 1]}),)
    )
    assert spec_of(real).observation_space.shape == (2,)
    env = make_real(real, purpose="judge", ledger=StepLedger())
    assert env.reset(seed=0)[0].shape == (2,)


@pytest.mark.parametrize("columns", [(), (0, 0), (3,), (-1,)])
def test_columns_that_are_not_there_are_refused(columns: tuple[int, ...]) -> None:
    with pytest.raises(InvalidOptionError, match=r"expected at least one of 0..2, each once"):
        SelectColumns(gym.make("Pendulum-v1"), columns)


def test_only_vectors_have_columns() -> None:
    with pytest.raises(UnsupportedSpaceError, match="no columns"):
        SelectColumns(gym.make("FrozenLake-v1"), (0,))


def test_set_attributes_change_the_environment_underneath_before_its_first_episode() -> None:
    real = EnvConfig(
        "Pendulum-v1",
        {"render_mode": "rgb_array"},
        (
            WrapperConfig("world_env.wrappers:SetAttributes", {"screen_dim": 32, "g": 0}),
            WrapperConfig("gymnasium.wrappers:AddRenderObservation", {"render_only": True}),
        ),
    )
    assert spec_of(real).observation_space.shape == (32, 32, 3)
    env = make_real(real, purpose="judge", ledger=StepLedger())
    env.reset(seed=0)
    inner = env.unwrapped
    inner.state = np.array([0.5, 0.0])
    env.step(np.zeros(1, np.float32))
    # Nothing pulls where there is no gravity.
    assert inner.state.tolist() == [0.5, 0.0]


@pytest.mark.parametrize(
    "attributes", [{"screen_size": 32}, {"screen_dim": "32"}, {"screen": 3}, {"screen_dim": True}]
)
def test_attributes_that_are_not_there_or_of_another_kind_are_refused(
    attributes: dict[str, object],
) -> None:
    with pytest.raises(InvalidOptionError, match=r"PendulumEnv\.screen.* cannot become"):
        SetAttributes(gym.make("Pendulum-v1"), **attributes)


def test_attributes_that_cannot_be_set_are_refused() -> None:
    class Fixed(gym.Wrapper):
        @property
        def unwrapped(self):
            return self

        size = property(lambda self: 3)

    with pytest.raises(InvalidOptionError, match=r"Fixed\.size cannot be set"):
        SetAttributes(Fixed(gym.make("Pendulum-v1")), size=4)
