"""The ensemble's loss equals its definition, worked out one window and one number at a time."""

import dataclasses

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn.functional import layer_norm

from world_env.batch import Batch, Statistics
from world_env.models.ensemble.model import EnsembleConfig, EnsembleWorldModel
from world_env.models.layers.ensemble_mlp import MemberMLP
from world_env.rng import CounterRNG
from world_env.spec import WorldSpec

MEMBERS, ROWS, SIZE, ACTIONS, STEPS = 2, 3, 2, 1, 4
CONFIG = EnsembleConfig(members=MEMBERS, width=8, layers=2, head_width=6, rollout=STEPS)
SPEC = WorldSpec(
    spaces.Box(-np.inf, np.inf, (SIZE,), np.float32), spaces.Box(-1, 1, (ACTIONS,), np.float32)
)


TIES = {
    "carried": ([1.0, 1.0], [-1, -1]),
    "one begins at its center": ([1.0, 0.0], [-1, -1]),
    "a unit vector": ([1.0, 1.0], [0, 0]),
}
"""What may tie the dimensions: (carried, number of the unit vector)."""


@pytest.fixture(params=TIES)
def model(request: pytest.FixtureRequest) -> EnsembleWorldModel:
    """In double precision, with random weights everywhere and scales of its own."""
    carried, number = TIES[request.param]
    made = EnsembleWorldModel(SPEC, CONFIG).double()
    one = torch.ones(SIZE)
    made.prepare(
        Statistics(
            center={"observation": 0.3 * one},
            scale={"observation": torch.tensor([0.5, 2.0])},
            change_scale={"observation": torch.tensor([0.2, 0.1])},
            low={"observation": -9.0 * one},
            high={"observation": 9.0 * one},
            carried={"observation": torch.tensor(carried)},
            unit_vectors={"observation": torch.tensor(number)},
            reward_center=-1.0,
            reward_scale=2.0,
            terminal_reward_center=5.0,
            terminal_reward_scale=3.0,
            reward_low=-10.0,
            reward_high=10.0,
            terminal_fraction=0.2,
        )
    )
    generator = torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        parameter.data = 0.4 * torch.randn(parameter.shape, generator=generator).double()
    return made


def windows(steps: int) -> Batch:
    """Some that end early, and one row more than the members can share."""
    generator = torch.Generator().manual_seed(2)
    rows = MEMBERS * ROWS + 1

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).double()

    lengths = torch.tensor([steps, 1, steps, 2, steps, 3, steps]).clamp(max=steps)
    terminated = torch.zeros(rows, steps).double()
    terminated[1, 0] = 1.0
    return Batch(
        {"observation": normal(rows, steps + 1, SIZE)},
        normal(rows, steps, ACTIONS),
        normal(rows, steps),
        terminated,
        torch.arange(steps) < lengths[:, None],
    )


def network(mlp: MemberMLP, member: int, hidden: Tensor) -> Tensor:
    for weight, bias, gain, shift in zip(
        mlp.weights, mlp.biases, mlp.gains, mlp.shifts, strict=False
    ):
        hidden = layer_norm(hidden @ weight[member] + bias[member, 0], weight.shape[-1:])
        hidden = hidden * gain[member, 0] + shift[member, 0]
        hidden = hidden * torch.sigmoid(hidden)
    return hidden @ mlp.weights[-1][member] + mlp.biases[-1][member, 0]


def huber(error: Tensor, most: float = 1.0) -> Tensor:
    return torch.where(error.abs() < most, 0.5 * error**2, most * (error.abs() - 0.5 * most))


def slow_loss(model: EnsembleWorldModel, data: Batch) -> Tensor:
    """The sum of all parts: each is a mean over the windows in which it counts."""
    scales, config = model.normalizer, model.config
    parts: dict[str, list[Tensor]] = {}

    def collect(name: str, value: Tensor) -> None:
        parts.setdefault(name, []).append(value)

    steps = data.actions.shape[1]
    for row in range(MEMBERS * ROWS):
        member, seen = row // ROWS, data.observations["observation"][row]
        ended, reward = bool(data.terminated[row, 0]), data.rewards[row, 0]
        transition = scales.transition(seen[0], data.actions[row, 0], seen[1])
        usual, bonus, logit = network(model.heads, member, transition)
        if ended:
            collect("terminal_reward", huber(bonus - (reward - 5.0) / 3.0))
            collect("end", -model.log_terminal_weight.exp() * torch.sigmoid(logit).log())
        else:
            collect("reward", huber(usual - (reward + 1.0) / 2.0))
            collect("end", -torch.sigmoid(-logit).log())
        vector = seen[0]
        for step in range(steps):
            inputs = torch.cat([scales.normalize(vector), data.actions[row, step]])
            mean, log_std = model._change(network(model.dynamics, member, inputs))
            begin = torch.where(scales.carried > 0, vector, scales.center)
            miss = (seen[step + 1] - begin) / scales.change_scale - mean
            if step == 0:
                weight = (log_std.exp() ** (2 * config.beta)).detach()
                nll = weight * (huber(miss / log_std.exp(), config.huber_delta) + log_std)
                collect("change", nll.mean())
            elif data.valid[row, step]:
                collect(f"rollout {step}", 10.0 * huber(miss).mean() / (steps - 1))
            vector = begin + mean * scales.change_scale
            if scales.together.any():
                vector = vector / vector.norm()
    return torch.stack([torch.stack(values).mean() for values in parts.values()]).sum()


@pytest.mark.parametrize("steps", [1, 2, STEPS])
def test_the_loss_and_its_gradient_equal_a_slow_reference(
    model: EnsembleWorldModel, steps: int
) -> None:
    data = windows(steps)
    parameters = list(model.parameters())
    fast, parts = model.loss(data, rng=CounterRNG.from_seed(0, len(data)), progress=1.0)
    slow = slow_loss(model, data)
    torch.testing.assert_close(fast, slow, rtol=1e-6, atol=1e-6)
    assert ("rollout" in parts) == (steps > 1)
    for mine, reference in zip(
        torch.autograd.grad(fast, parameters), torch.autograd.grad(slow, parameters), strict=True
    ):
        torch.testing.assert_close(mine, reference, rtol=1e-6, atol=1e-6)


def test_some_outputs_are_the_first_of_all_outputs(model: EnsembleWorldModel) -> None:
    inputs = torch.randn(MEMBERS, ROWS, SIZE + ACTIONS).double()
    some, everything = model.dynamics(inputs, outputs=SIZE), model.dynamics(inputs)
    torch.testing.assert_close(some, everything[..., :SIZE])


@pytest.mark.parametrize(("outlier", "grows"), [(5.0, False), (1e9, True)])
def test_a_spike_teaches_the_mean_no_more_than_an_outlier(
    model: EnsembleWorldModel, outlier: float, grows: bool
) -> None:
    model.config = dataclasses.replace(model.config, huber_delta=outlier)
    pulls = []
    for spike in (1e3, 1e6):
        data = windows(1)
        data.observations["observation"][2, 1, 0] = spike
        loss, _ = model.loss(data, rng=CounterRNG.from_seed(0, len(data)), progress=0.0)
        (pull,) = torch.autograd.grad(loss, [model.dynamics.biases[-1]])
        pulls.append(float(pull[..., :SIZE].norm()))
    assert (pulls[1] > 100 * pulls[0]) == grows
    assert grows or pulls[1] == pytest.approx(pulls[0])
