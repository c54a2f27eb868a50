"""The ensemble: a member for each row, honest uncertainty, and what ties the dimensions of an observation."""

import dataclasses
import hashlib
import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_ensemble import ACTIONS, CONFIG, MEMBERS, SIZE, SPEC, awake, stepped, tied
from torch import Tensor

from world_env.batch import Context
from world_env.models.ensemble.model import EnsembleConfig, EnsembleWorldModel
from world_env.models.layers.ensemble_mlp import MemberMLP, RowGroups
from world_env.rng import CounterRNG
from world_env.twin.twin import Twin
from world_env.types import Uncertainty


def test_the_log_std_stays_within_its_bounds_and_keeps_its_gradient(
    model: EnsembleWorldModel,
) -> None:
    low, high = CONFIG.log_std_min, CONFIG.log_std_max
    raw = torch.cat([torch.linspace(-15.0, 15.0, 61), torch.tensor([-1e4, 1e4])])
    raw.requires_grad_()
    outputs = torch.stack([torch.zeros(63), raw], -1)
    mean, log_std = model._change(outputs)
    assert not mean.any() and log_std.shape == (63, 1)
    # Clamped twice, softly: the upper bound is overstepped by what the lower one adds.
    slack = math.log1p(math.exp(low - high)) + 1e-6
    assert log_std.min() >= low and log_std.max() <= high + slack
    assert log_std[-2].item() == pytest.approx(low, abs=1e-5)
    assert log_std[-1].item() == pytest.approx(high, abs=2 * slack)
    inside = log_std[:-2].squeeze(-1)
    assert (inside.diff() >= 0).all()
    middle = (raw[:-2] > low + 2) & (raw[:-2] < high - 2)
    torch.testing.assert_close(inside[middle], raw[:-2][middle], atol=0.2, rtol=0)
    (gradient,) = torch.autograd.grad(inside.sum(), raw)
    assert (gradient[:-2] > 0).all()


@pytest.mark.parametrize("rows", [[0], [2, 2, 2], [2, 0, 1, 1, 0, 2, 0]])
def test_own_is_forward_row_by_row(rows: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    network = MemberMLP(MEMBERS, 5, 8, 2, 3)
    for parameter in network.parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator)
    member, inputs = torch.tensor(rows), torch.randn(len(rows), 5, generator=generator)
    everyone = network(inputs[None])
    assert everyone.shape == (MEMBERS, len(rows), 3)
    expected = torch.stack([everyone[index, row] for row, index in enumerate(rows)])
    torch.testing.assert_close(network.own(inputs, RowGroups(member, MEMBERS)), expected)
    assert not torch.allclose(everyone[0], everyone[2])


def test_rows_follow_the_member_they_drew(model: EnsembleWorldModel) -> None:
    context = Context.from_observation({"observation": torch.zeros(64, SIZE)}, ACTIONS)
    noise = CounterRNG.from_seed(0, 64)
    state = awake(model).encode(context, rng=noise)
    assert set(state["member"].tolist()) == set(range(MEMBERS))
    action = torch.eye(ACTIONS)[torch.zeros(64, dtype=torch.int64)]
    arrived, _ = model.step(state, action, rng=noise, temperature=0.0)
    assert torch.equal(arrived["member"], state["member"])
    # Same start, same action, no noise: rows differ exactly where their members do.
    futures = {tuple(row) for row in arrived["observation"].tolist()}
    assert len(futures) == MEMBERS


def test_leaving_the_data_is_uncertain_even_where_members_agree(model: EnsembleWorldModel) -> None:
    vector = torch.zeros(4, SIZE)
    vector[:, 1] = torch.tensor([0.9, 1.05, 1.15, -1.15])
    _, prediction = stepped(model, vector)
    assert prediction.uncertainty is not None
    inside, near, far, below = prediction.uncertainty.tolist()
    assert inside == 0.0 and 0.0 < near < far
    # 0.15 past the data's edge at 1, in units of the typical change of 0.2.
    assert far == pytest.approx(0.75, rel=1e-4) and below == pytest.approx(far)


def test_disagreement_is_uncertain_even_inside_the_data(model: EnsembleWorldModel) -> None:
    inside = torch.zeros(3, SIZE)
    _, agreed = stepped(model, inside)
    _, split = stepped(awake(model), inside)
    assert agreed.uncertainty is not None and split.uncertainty is not None
    assert not agreed.uncertainty.any() and (split.uncertainty > 0).all()
    for parameter in model.parameters():
        parameter.data[:] = parameter.data[:1]
    _, same = stepped(model, inside)
    assert same.uncertainty is not None
    assert same.uncertainty.max() < 1e-3 < split.uncertainty.min()


def test_uncertainty_is_computed_only_on_demand(model: EnsembleWorldModel) -> None:
    state = model._fresh(torch.zeros(1, SIZE), torch.zeros(1, dtype=torch.int64))
    noise = CounterRNG.from_seed(0, 1)
    assert model.step(state, torch.eye(ACTIONS)[:1], rng=noise)[1].uncertainty is None


def looked(model: EnsembleWorldModel, kind: Uncertainty, steps: int, rows: int = 6) -> list[Tensor]:
    """The disagreement after each of some steps, always from the same place, for rows of all members."""
    rng = CounterRNG.from_seed(5, rows)
    state = model._fresh(torch.zeros(rows, SIZE), torch.arange(rows) % MEMBERS)
    action = torch.eye(ACTIONS)[torch.zeros(rows, dtype=torch.int64)]
    shown = []
    for _ in range(steps):
        arrived, _ = model.step(state, action, rng=rng, uncertainty=kind)
        state = {**arrived, "observation": state["observation"]}
        shown.append(state["disagreement"])
    return shown


def test_the_default_uncertainty_begins_with_all_members_and_asks_one_at_a_time(
    model: EnsembleWorldModel,
) -> None:
    awake(model)
    cheap, full = looked(model, True, 60), looked(model, "full", 60)
    assert torch.equal(cheap[0], full[0])
    # Every second step only: in between, a row keeps what it knew.
    changed = [not torch.equal(*pair) for pair in itertools.pairwise(cheap)]
    assert changed[1::2] == [True] * 29 and not any(changed[0::2])
    # Half the squared distance to the others, averaged over whose distance it is, is the variance.
    settled = torch.stack(cheap[40:]).mean()
    torch.testing.assert_close(settled, full[0].mean(), rtol=1e-2, atol=0.0)


def test_asking_for_uncertainty_does_not_change_the_future(model: EnsembleWorldModel) -> None:
    awake(model)
    ends = []
    for kind in (False, True, "full"):
        rng = CounterRNG.from_seed(1, 12)
        state = model._fresh(torch.zeros(12, SIZE), torch.arange(12) % MEMBERS)
        for step in range(5):
            action = torch.eye(ACTIONS)[(torch.arange(12) + step) % ACTIONS]
            state, _ = model.step(state, action, rng=rng, uncertainty=kind)
        ends.append(state["observation"])
    assert torch.equal(ends[0], ends[1]) and torch.equal(ends[0], ends[2])


def test_unit_vectors_stay_unit_vectors_and_what_is_not_carried_leaves_no_trace(
    model: EnsembleWorldModel,
) -> None:
    model.prepare(tied())
    awake(model)
    rng = CounterRNG.from_seed(4, 20)
    start = 0.5 * rng.normal(SIZE)
    other = start.clone()
    other[:, 1] += 0.4
    state = model._fresh(start, rng.integers(MEMBERS))
    action = torch.eye(ACTIONS)[torch.arange(20) % ACTIONS]
    arrived, _ = model.step(state, action, rng=rng)
    vector = arrived["observation"]
    torch.testing.assert_close(vector[:, [0, 2]].norm(dim=1), torch.ones(20))
    assert (vector[:, 3] - start[:, 3]).abs().max() > 0.01
    # Beside the networks, which see the old value, nothing hands it on.
    scales = model.normalizer
    change = torch.zeros(20, SIZE)
    ends = [scales.arrive(begin, change) for begin in (start, other)]
    torch.testing.assert_close(ends[0], ends[1])
    torch.testing.assert_close(ends[0][:, 1], torch.full((20,), 0.3))
    aimed = scales.change(start, vector)
    torch.testing.assert_close(scales.arrive(start, aimed), vector)


def test_a_unit_vector_of_no_length_stays_finite(model: EnsembleWorldModel) -> None:
    model.prepare(tied())
    nothing = torch.zeros(1, SIZE, requires_grad=True)
    (gradient,) = torch.autograd.grad(model.normalizer.hold_together(nothing).sum(), nothing)
    assert gradient.isfinite().all()


def test_a_twin_of_before_there_were_ties_has_none(
    model: EnsembleWorldModel, tmp_path: Path
) -> None:
    awake(model)
    twin = dataclasses.replace(Twin.untrained(SPEC), model=model)
    folder = twin.save(tmp_path / "twin")
    known = Twin.load(folder).fingerprint()
    weights, tree = folder / "weights.safetensors", json.loads((folder / "twin.json").read_text())
    kept = {k: value for k, value in load_file(weights).items() if k not in model.inert_buffers()}
    assert len(kept) == len(load_file(weights)) - 4
    save_file(kept, weights)
    tree["format"] = 1
    tree["files"][weights.name] = hashlib.sha256(weights.read_bytes()).hexdigest()
    (folder / "twin.json").write_text(json.dumps(tree))
    # What was trained in it goes on being its own.
    assert Twin.load(folder).fingerprint() == known
    older = Twin.load(folder).model
    assert older.normalizer.plain and older.inert_buffers()
    for name, value in model.state_dict().items():
        assert torch.equal(older.state_dict()[name], value)
    model.prepare(tied())
    again = Twin.load(twin.save(tmp_path / "tied"))
    assert not again.model.normalizer.plain
    assert again.model.inert_buffers() == ("categories.group", "pairs.seen")
    assert again.fingerprint() != known


@pytest.mark.parametrize(
    "wrong",
    [{"members": 1}, {"rollout": 0}, {"one_step_share": 1.5}, {"partner_every": 0}],
    ids=str,
)
def test_impossible_sizes_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EnsembleConfig(**wrong)
