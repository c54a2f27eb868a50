"""The ensemble: independent members, calibrated ends, honest uncertainty, and a loss that stops where data stops."""

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load_file, save_file
from torch import Tensor

from world_env.batch import Batch, Context, Statistics
from world_env.models import ensemble, networks
from world_env.models.base import Prediction, Uncertainty
from world_env.models.ensemble import EnsembleConfig, EnsembleWorldModel
from world_env.models.networks import MemberMLP, RowGroups
from world_env.random import RowRandom
from world_env.spec import WorldSpec
from world_env.twin import Twin

MEMBERS, SIZE, ACTIONS, STEPS = 3, 4, 2, 5
SPEC = WorldSpec(spaces.Box(-np.inf, np.inf, (SIZE,), np.float32), spaces.Discrete(ACTIONS))
CONFIG = EnsembleConfig(members=MEMBERS, width=16, layers=2, head_width=12, rollout=STEPS)


def awake(model: EnsembleWorldModel) -> EnsembleWorldModel:
    """Random weights everywhere, the last layers included."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture
def model() -> EnsembleWorldModel:
    """Untrained, with scales of its own: the data lies in -1..1 in every dimension."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = EnsembleWorldModel(SPEC, CONFIG)
    made.prepare(statistics())
    return made


def tied() -> Statistics:
    """Of data whose dimensions 0 and 2 are a unit vector, and whose dimension 1 says nothing of its next value."""
    return statistics(
        center={"observation": torch.full((SIZE,), 0.3)},
        carried={"observation": torch.tensor([1.0, 0.0, 1.0, 1.0])},
        unit_vectors={"observation": torch.tensor([5, -1, 5, -1])},
    )


def statistics(**changes: Any) -> Statistics:
    wide = {"observation": torch.full((SIZE,), 1.2)}
    defaults = Statistics(
        center={"observation": torch.zeros(SIZE)},
        scale={"observation": torch.full((SIZE,), 0.5)},
        change_scale={"observation": torch.tensor([0.1, 0.2, 0.05, 0.1])},
        low={"observation": -wide["observation"]},
        high=wide,
        carried={"observation": torch.ones(SIZE)},
        unit_vectors={"observation": torch.full((SIZE,), -1)},
        reward_center=-1.0,
        reward_scale=2.0,
        terminal_reward_center=5.0,
        terminal_reward_scale=1.0,
        reward_low=-10.0,
        reward_high=10.0,
        terminal_fraction=0.1,
    )
    return dataclasses.replace(defaults, **changes)


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
    return model.loss(data, random=RowRandom.from_seed(0, len(data)), progress=1.0)[0]


def gradients(model: EnsembleWorldModel, data: Batch) -> dict[str, Tensor]:
    names = dict(model.named_parameters())
    return dict(
        zip(names, torch.autograd.grad(loss(model, data), list(names.values())), strict=True)
    )


def stepped(
    model: EnsembleWorldModel, vector: Tensor, temperature: float = 0.0, member: int = 0
) -> tuple[Tensor, Prediction]:
    rows = len(vector)
    state = model._fresh(vector, torch.full((rows,), member))
    action = torch.eye(ACTIONS)[torch.arange(rows) % ACTIONS]
    noise = RowRandom.from_seed(3, rows)
    arrived, prediction = model.step(
        state, action, random=noise, temperature=temperature, uncertainty=True
    )
    return arrived["observation"], prediction


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
        _, logs = model.loss(cut, random=RowRandom.from_seed(0, len(cut)), progress=1.0)
        assert set(logs) >= {"change", "reward", "terminal_reward", "terminated", "per_dimension"}
        assert ("rollout" in logs) == (steps > 1)
        assert not any(value.requires_grad for value in logs.values())
    # Untrained, the error is the change itself, in units of the dimension's typical change.
    vectors = data.observations["observation"]
    change = (vectors[:, 1] - vectors[:, 0]) / model.normalizer.change_scale
    _, logs = model.loss(data, random=RowRandom.from_seed(0, len(data)), progress=1.0)
    torch.testing.assert_close(logs["per_dimension"], change.square().mean(0).sqrt())


def test_each_window_is_as_long_as_the_fit_wants(model: EnsembleWorldModel) -> None:
    assert model.window(0.0) == 1 and model.window(1.0) == STEPS


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
    noise = RowRandom.from_seed(0, 64)
    state = awake(model).encode(context, random=noise)
    assert set(state["member"].tolist()) == set(range(MEMBERS))
    action = torch.eye(ACTIONS)[torch.zeros(64, dtype=torch.int64)]
    arrived, _ = model.step(state, action, random=noise, temperature=0.0)
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
    noise = RowRandom.from_seed(0, 1)
    assert model.step(state, torch.eye(ACTIONS)[:1], random=noise)[1].uncertainty is None


def looked(model: EnsembleWorldModel, kind: Uncertainty, steps: int, rows: int = 6) -> list[Tensor]:
    """The disagreement after each of some steps, always from the same place, for rows of all members."""
    random = RowRandom.from_seed(5, rows)
    state = model._fresh(torch.zeros(rows, SIZE), torch.arange(rows) % MEMBERS)
    action = torch.eye(ACTIONS)[torch.zeros(rows, dtype=torch.int64)]
    shown = []
    for _ in range(steps):
        arrived, _ = model.step(state, action, random=random, uncertainty=kind)
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
        random = RowRandom.from_seed(1, 12)
        state = model._fresh(torch.zeros(12, SIZE), torch.arange(12) % MEMBERS)
        for step in range(5):
            action = torch.eye(ACTIONS)[(torch.arange(12) + step) % ACTIONS]
            state, _ = model.step(state, action, random=random, uncertainty=kind)
        ends.append(state["observation"])
    assert torch.equal(ends[0], ends[1]) and torch.equal(ends[0], ends[2])


@pytest.mark.parametrize("kind", [False, True, "full"])
@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("scales", [statistics, tied])
def test_the_stepper_steps_as_the_model_does(
    model: EnsembleWorldModel, scales: Callable[[], Statistics], rows: int, kind: Uncertainty
) -> None:
    model.prepare(scales())
    awake(model)
    fast = model.stepper()
    assert fast._few is not None, "numba is missing: the compiled step would go untested"
    random = RowRandom.from_seed(2, rows)
    state = model._fresh(0.5 * random.normal(SIZE), random.integers(MEMBERS))
    for step in range(5):
        action = torch.eye(ACTIONS)[(torch.arange(rows) + step) % ACTIONS]
        given = {name: value.clone() for name, value in state.items()}
        with torch.no_grad():
            results = [
                one.step(state, action, random=random.clone(), temperature=0.7, uncertainty=kind)
                for one in (model, fast)
            ]
        (arrived, said), (quick, quickly) = results
        for name, value in arrived.items():
            torch.testing.assert_close(quick[name], value, rtol=1e-4, atol=1e-5)
        for name in ("reward", "terminated", "terminal_reward", "uncertainty"):
            pair = getattr(quickly, name), getattr(said, name)
            torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-5)
        assert all(torch.equal(given[name], state[name]) for name in given)
        random.normal(SIZE)
        state = arrived


def test_unit_vectors_stay_unit_vectors_and_what_is_not_carried_leaves_no_trace(
    model: EnsembleWorldModel,
) -> None:
    model.prepare(tied())
    awake(model)
    random = RowRandom.from_seed(4, 20)
    start = 0.5 * random.normal(SIZE)
    other = start.clone()
    other[:, 1] += 0.4
    state = model._fresh(start, random.integers(MEMBERS))
    action = torch.eye(ACTIONS)[torch.arange(20) % ACTIONS]
    arrived, _ = model.step(state, action, random=random)
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
    assert len(kept) == len(load_file(weights)) - 2
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
    assert not again.model.normalizer.plain and not again.model.inert_buffers()
    assert again.fingerprint() != known


def test_without_numba_a_stepper_takes_the_way_of_torch(
    model: EnsembleWorldModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    awake(model)
    compiled = model.stepper()
    monkeypatch.setattr(networks, "compiled_loops", lambda: None)
    monkeypatch.setattr(ensemble, "compiled_loops", lambda: None)
    plain = model.stepper()
    assert compiled._few is not None and plain._few is None
    for rows in (1, 100):
        state = model._fresh(torch.zeros(rows, SIZE), torch.arange(rows) % MEMBERS)
        action = torch.eye(ACTIONS)[torch.arange(rows) % ACTIONS]
        with torch.no_grad():
            futures = [
                one.step(state, action, random=RowRandom.from_seed(0, rows))[0]["observation"]
                for one in (compiled, plain)
            ]
        torch.testing.assert_close(*futures, rtol=1e-4, atol=1e-5)


def test_a_stepper_says_what_is_no_number(model: EnsembleWorldModel) -> None:
    fast = awake(model).stepper()
    state = model._fresh(torch.full((2, SIZE), math.nan), torch.zeros(2, dtype=torch.int64))
    with torch.no_grad():
        arrived, said = fast.step(state, torch.eye(ACTIONS), random=RowRandom.from_seed(0, 2))
    assert arrived["observation"].isnan().all() and said.reward.isnan().all()


def test_a_stepper_follows_weights_that_learn(model: EnsembleWorldModel) -> None:
    awake(model)
    fast = model.stepper()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
        for rows in (2, 100):
            state = model._fresh(torch.zeros(rows, SIZE), torch.arange(rows) % MEMBERS)
            action = torch.eye(ACTIONS)[torch.arange(rows) % ACTIONS]
            futures = [
                one.step(state, action, random=RowRandom.from_seed(0, rows))[0]["observation"]
                for one in (model, fast)
            ]
            torch.testing.assert_close(*futures)


def test_bfloat16_rounds_the_hidden_layers_and_nothing_else(model: EnsembleWorldModel) -> None:
    awake(model)
    rows = 40
    state = model._fresh(torch.zeros(rows, SIZE), torch.arange(rows) % MEMBERS)
    action = torch.eye(ACTIONS)[torch.arange(rows) % ACTIONS]
    with torch.no_grad():
        (exact, said), (rounded, roughly) = (
            one.step(state, action, random=RowRandom.from_seed(0, rows), uncertainty=True)
            for one in (model, model.stepper("bfloat16"))
        )
    difference = (exact["observation"] - rounded["observation"]).abs().max()
    assert 0.0 < difference < 0.05
    dtypes = {value.dtype for value in (*rounded.values(), roughly.reward, roughly.uncertainty)}
    assert dtypes == {torch.float32, torch.int64}
    torch.testing.assert_close(roughly.reward, said.reward, rtol=0.05, atol=0.1)


@pytest.mark.parametrize(
    "wrong",
    [{"members": 1}, {"rollout": 0}, {"one_step_share": 1.5}, {"partner_every": 0}],
    ids=str,
)
def test_impossible_sizes_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EnsembleConfig(**wrong)
