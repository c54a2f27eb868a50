"""How the ensemble learns: each member from its own rows, ends at their own rate, and nothing from padding."""

import dataclasses
import math

import pytest
import torch
from small_ensemble import ACTIONS, CONFIG, MEMBERS, SIZE, STEPS, awake, statistics, stepped
from torch import Tensor

from world_env.batch import Batch
from world_env.models.ensemble.model import EnsembleWorldModel
from world_env.rng import CounterRNG


def batch(rows: int = 12, steps: int = STEPS, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    actions = torch.eye(ACTIONS)[torch.randint(ACTIONS, (rows, steps), generator=generator)]
    ends = torch.zeros(rows, steps)
    ends[::4] = 1.0
    return Batch(
        {"observation": 0.3 * normal(rows, steps + 1, SIZE)},
        actions,
        normal(rows, steps),
        ends,
        torch.ones(rows, steps, dtype=torch.bool),
    )


def loss(model: EnsembleWorldModel, data: Batch) -> Tensor:
    return model.loss(data, rng=CounterRNG.from_seed(0, len(data)), progress=1.0)[0]


def gradients(model: EnsembleWorldModel, data: Batch) -> dict[str, Tensor]:
    names = dict(model.named_parameters())
    return dict(
        zip(names, torch.autograd.grad(loss(model, data), list(names.values())), strict=True)
    )


@pytest.mark.parametrize("member", range(MEMBERS))
@pytest.mark.parametrize("steps", [1, STEPS])
def test_a_members_loss_touches_no_other_member(
    model: EnsembleWorldModel, member: int, steps: int
) -> None:
    data = batch(steps=steps)
    mine = torch.arange(len(data)) // (len(data) // MEMBERS) == member
    only_mine = dataclasses.replace(data, valid=data.valid & mine[:, None])
    for name, gradient in gradients(awake(model), only_mine).items():
        others = torch.arange(MEMBERS) != member
        assert not gradient[others].any(), f"{name} of another member"
        assert gradient[member].any(), f"{name} of the member itself"


def test_other_members_rows_teach_a_member_nothing(model: EnsembleWorldModel) -> None:
    data, other = batch(), batch(seed=9)
    rows = torch.arange(len(data))[:, None, None] < len(data) // MEMBERS
    vectors = (one.observations["observation"] for one in (data, other))
    mixed = dataclasses.replace(data, observations={"observation": torch.where(rows, *vectors)})
    awake(model)
    first, second = gradients(model, data), gradients(model, mixed)
    for name, gradient in first.items():
        torch.testing.assert_close(gradient[0], second[name][0])
        assert not torch.allclose(gradient[1:], second[name][1:])


def test_untrained_nothing_moves(model: EnsembleWorldModel) -> None:
    vector = batch().observations["observation"][:, 0].clamp(-1.0, 1.0)
    assert model.dynamics.weights[-1].abs().max() == 0 and model.heads.weights[-1].abs().max() == 0
    assert model.dynamics.weights[0].abs().max() > 0
    for member in range(MEMBERS):
        arrived, prediction = stepped(model, vector, member=member)
        assert torch.equal(arrived, vector)
        # The head says the usual reward, and how often the data ended.
        torch.testing.assert_close(prediction.reward, torch.full((len(vector),), -1.0))
        torch.testing.assert_close(prediction.terminal_reward, torch.full((len(vector),), 5.0))
        torch.testing.assert_close(prediction.terminated, torch.full((len(vector),), 0.1))
    moved, _ = stepped(model, vector, temperature=1.0)
    assert (moved != vector).any(1).all()


@pytest.mark.parametrize("last", [1, 3])
def test_steps_after_the_end_do_not_change_the_loss(model: EnsembleWorldModel, last: int) -> None:
    """Row 0 ended after `last` steps: what lies behind is padding, whatever it holds."""
    awake(model)
    data, garbage = batch(), batch(seed=5)
    valid = data.valid.clone()
    valid[0, last:] = False
    padded = dataclasses.replace(data, valid=valid)
    behind = torch.zeros(len(data), STEPS, dtype=torch.bool)
    behind[0, last:] = True
    later = torch.cat([torch.zeros(len(data), 1, dtype=torch.bool), behind], 1)[..., None]
    other = dataclasses.replace(
        padded,
        observations={
            "observation": torch.where(
                later,
                50.0 * garbage.observations["observation"],
                padded.observations["observation"],
            )
        },
        actions=torch.where(behind[..., None], 1.0 - data.actions, data.actions),
        rewards=torch.where(behind, 1e3, data.rewards),
        terminated=torch.where(behind, 1.0 - data.terminated, data.terminated),
    )
    assert torch.equal(loss(model, padded), loss(model, other))
    first, second = gradients(model, padded), gradients(model, other)
    assert all(torch.equal(first[name], second[name]) for name in first)
    # The same garbage in steps that count is seen.
    seen = dataclasses.replace(other, valid=data.valid)
    assert not torch.allclose(loss(model, seen), loss(model, padded))


@pytest.mark.parametrize("share", [0.01, 0.1, 0.25])
def test_the_class_weight_is_taken_off_the_probability(
    model: EnsembleWorldModel, share: float
) -> None:
    """The logit that the weighted loss wants gives back the data's own share of ends: no fit needed."""
    model.prepare(statistics(terminal_fraction=share))
    weight = model.log_terminal_weight.exp().item()
    assert 1.0 < weight <= CONFIG.terminal_weight + 1e-4
    rows = 100 * MEMBERS
    data = batch(rows=rows, steps=1)
    ends = torch.zeros(MEMBERS, 100, 1)
    ends[:, : round(100 * share)] = 1.0
    data = dataclasses.replace(data, terminated=ends.reshape(rows, 1))
    wanted = math.log(weight * share / (1.0 - share))
    with torch.no_grad():
        model.heads.biases[-1][:, :, 2] = wanted
    pull = gradients(model, data)["heads.biases.2"][:, 0, 2]
    assert pull.abs().max() < 1e-6
    with torch.no_grad():
        model.heads.biases[-1][:, :, 2] = wanted + 0.5
    assert (gradients(model, data)["heads.biases.2"][:, 0, 2] > 1e-4).all()
    with torch.no_grad():
        model.heads.biases[-1][:, :, 2] = wanted
    _, prediction = stepped(model, data.observations["observation"][:, 0])
    torch.testing.assert_close(prediction.terminated, torch.full((rows,), share))


def test_preparing_says_what_is_common(model: EnsembleWorldModel) -> None:
    vector = torch.zeros(2, SIZE)
    for share in (0.0, 0.02, 0.3):
        model.prepare(statistics(terminal_fraction=share))
        probability = stepped(model, vector)[1].terminated
        torch.testing.assert_close(probability, torch.full((2,), share), atol=2e-6, rtol=1e-4)


def test_the_loss_is_reported_for_each_dimension(model: EnsembleWorldModel) -> None:
    data = batch()
    for steps in (1, STEPS):
        cut = batch(steps=steps)
        _, logs = model.loss(cut, rng=CounterRNG.from_seed(0, len(cut)), progress=1.0)
        assert set(logs) >= {"change", "reward", "terminal_reward", "terminated", "per_dimension"}
        assert ("rollout" in logs) == (steps > 1)
        assert not any(value.requires_grad for value in logs.values())
    # Untrained, the error is the change itself, in units of the dimension's typical change.
    vectors = data.observations["observation"]
    change = (vectors[:, 1] - vectors[:, 0]) / model.normalizer.change_scale
    _, logs = model.loss(data, rng=CounterRNG.from_seed(0, len(data)), progress=1.0)
    torch.testing.assert_close(logs["per_dimension"], change.square().mean(0).sqrt())


def test_each_window_is_as_long_as_the_fit_wants(model: EnsembleWorldModel) -> None:
    assert model.window(0.0) == 1 and model.window(1.0) == STEPS
