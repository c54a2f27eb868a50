"""Past steps as inputs: the contract holds, a context is the same as its steps, and a dead time is learned."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from oracle import real_spec

from world_env.batch import Context, Statistics
from world_env.data.episode import Episode
from world_env.fitting.config import FitConfig
from world_env.fitting.fit import fit_episodes
from world_env.models.ensemble.config import EnsembleConfig
from world_env.models.ensemble.model import EnsembleWorldModel
from world_env.rng import CounterRNG
from world_env.spec import WorldSpec
from world_env.testing.model_checks import check_world_model
from world_env.twin.twin import Twin

SMALL = EnsembleConfig(members=2, width=16, layers=2, head_width=8, rollout=3, history=3)
SPEC = WorldSpec(
    spaces.Box(-3.0, 3.0, (1,), np.float32), spaces.Box(-1.0, 1.0, (1,), np.float32), horizon=40
)
DEAD_TIME = 2


def awake(model: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_the_contract_holds(env_id: str) -> None:
    twin = Twin.untrained(real_spec(env_id), "ensemble", SMALL)
    awake(twin.model)
    check_world_model(twin.model, rebuild=lambda: EnsembleWorldModel(twin.spec, twin.model.config))
    check_world_model(twin.model.frozen())


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_a_context_gives_the_state_of_its_steps(length: int) -> None:
    model = EnsembleWorldModel(SPEC, SMALL)
    generator = torch.Generator().manual_seed(0)
    observations = torch.randn(4, 6, 1, generator=generator)
    actions = torch.rand(4, 5, 1, generator=generator)
    rng = CounterRNG.from_seed(0, 4)
    lengths = torch.full((4,), length)
    context = Context({"observation": observations}, actions, lengths, lengths - 1)
    whole = model.encode(context, rng=rng.clone())
    first = Context.from_observation({"observation": observations[:, 0]}, 1)
    state = model.encode(first, rng=rng.clone())
    for step in range(1, length):
        after = {"observation": observations[:, step]}
        state = model.observe(state, actions[:, step - 1], after, rng=rng)
    torch.testing.assert_close(state["history"], whole["history"])
    # The oldest observation stands for those before it, with actions 0.
    if length == 1:
        expected = torch.cat([observations[:, :1], torch.zeros(4, 1, 1)], -1).expand(-1, 2, -1)
        torch.testing.assert_close(whole["history"], expected)


def dead_time_episodes(count: int = 40, steps: int = 40) -> list[Episode]:
    """x' = .8 x + the action of two steps before."""
    found = []
    for number in range(count):
        rng = np.random.default_rng(number)
        actions = rng.uniform(-1.0, 1.0, (steps, 1)).astype(np.float32)
        states = [rng.uniform(-1.0, 1.0)]
        for step in range(steps):
            acted = float(actions[step - DEAD_TIME, 0]) if step >= DEAD_TIME else 0.0
            states.append(0.8 * states[-1] + 0.4 * acted)
        observations = np.array(states, np.float32)[:, None]
        rewards = -np.abs(observations[1:, 0])
        found.append(Episode(observations, actions, rewards, terminated=False, truncated=True))
    return found


@pytest.mark.filterwarnings("ignore::world_env.fitting.preconditions.FitWarning")
def test_a_dead_time_is_learned_with_a_history() -> None:
    errors = {}
    for history in (1, 3):
        model = {"members": 2, "width": 32, "head_width": 16, "history": history}
        config = FitConfig(gradient_steps=600, batch_size=256, validate_every=300, model=model)
        twin = fit_episodes(dead_time_episodes(), SPEC, config, issues=[])
        errors[history] = twin.fidelity.loss.parts["per_dimension"][0]
    assert errors[3] < 0.15 * errors[1]


def test_a_warm_start_is_the_same_function() -> None:
    older = awake(EnsembleWorldModel(SPEC, SMALL))
    newer = EnsembleWorldModel(SPEC, SMALL)

    def statistics(center: float, scale: float) -> Statistics:
        one = {"observation": torch.ones(1)}
        return Statistics(
            center={"observation": torch.tensor([center])},
            scale={"observation": torch.tensor([scale])},
            change_scale={"observation": torch.tensor([scale / 3.0])},
            low={"observation": torch.tensor([-50.0])},
            high={"observation": torch.tensor([50.0])},
            carried=one,
            unit_vectors={"observation": torch.tensor([-1])},
            reward_center=0.0,
            reward_scale=1.0,
            terminal_reward_center=0.0,
            terminal_reward_scale=1.0,
            reward_low=-100.0,
            reward_high=100.0,
            terminal_fraction=0.0,
        )

    older.prepare(statistics(0.2, 1.5))
    awake(older)
    newer.prepare(statistics(-0.4, 0.9))
    newer.warm_start(older)
    rng = CounterRNG.from_seed(0, 5)
    context = Context.from_observation({"observation": torch.linspace(-1, 1, 5)[:, None]}, 1)
    states = [model.encode(context, rng=rng.clone()) for model in (older, newer)]
    for step in range(4):
        action = torch.full((5, 1), 0.3 * step - 0.4)
        states = [
            model.step(state, action, rng=CounterRNG.from_seed(step, 5), temperature=0.0)[0]
            for model, state in zip((older, newer), states, strict=True)
        ]
    torch.testing.assert_close(
        states[1]["observation"], states[0]["observation"], rtol=1e-3, atol=1e-4
    )


def test_a_model_without_history_has_the_state_of_before() -> None:
    model = EnsembleWorldModel(SPEC, SMALL.replace(history=1))
    context = Context.from_observation({"observation": torch.zeros(2, 1)}, 1)
    state = model.encode(context, rng=CounterRNG.from_seed(0, 2))
    assert set(state) == {"observation", "member", "disagreement", "looks"}


def test_an_impossible_history_is_refused() -> None:
    with pytest.raises(ValueError, match="history is 0, expected at least 1 observation"):
        EnsembleConfig(history=0)
