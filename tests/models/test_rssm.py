"""The recurrent state-space model: exact parts, filtering, pixels and Dict observations, and a past that matters."""

import dataclasses
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from world_env.batch import Batch, Context, select
from world_env.codec import Codec, packed
from world_env.models.layers import fused_activation as loops
from world_env.models.layers.dense import PreparedDense, dense
from world_env.models.layers.symlog import symexp, symlog
from world_env.models.rssm.model import RssmConfig, RssmWorldModel, two_hot_loss
from world_env.policy_evaluation.return_prediction import own_starts
from world_env.rng import CounterRNG
from world_env.simulation.simulator import Simulator, SimulatorConfig
from world_env.spec import WorldSpec
from world_env.testing.model_checks import check_world_model
from world_env.twin.twin import Twin

SMALL = RssmConfig(
    deter=16, groups=3, classes=4, hidden=16, depth=2, members=2, window=6, context=3
)
ACTION = spaces.Box(-1.0, 1.0, (2,))
WORLDS = {
    "vector": spaces.Box(-np.inf, np.inf, (3,)),
    "grey": spaces.Box(0, 255, (16, 16), np.uint8),
    "tiny": spaces.Box(0, 255, (3, 7), np.uint8),
    "odd": spaces.Box(0, 255, (21, 30, 3), np.uint8),
    "both": spaces.Dict(
        {
            "eye.left": spaces.Box(0, 255, (16, 16, 1), np.uint8),
            "joints": spaces.Box(-1.0, 1.0, (4,)),
            "gear": spaces.Discrete(3),
        }
    ),
}


def spec_of(world: str, action: gym.Space = ACTION) -> WorldSpec:
    return WorldSpec(WORLDS[world], action, horizon=20)


def model_of(world: str, config: RssmConfig = SMALL) -> RssmWorldModel:
    torch.manual_seed(0)
    return RssmWorldModel(spec_of(world), config)


def batch_of(world: str, rows: int, steps: int, *, seed: int = 0) -> Batch:
    spec = spec_of(world)
    codec, generator = Codec(spec), torch.Generator().manual_seed(seed)
    observations = {
        key: torch.rand(rows, steps + 1, *shape, generator=generator)
        for key, shape in codec.shapes.items()
    }
    return Batch(
        observations,
        torch.rand(rows, steps, 2, generator=generator) * 2 - 1,
        torch.randn(rows, steps, generator=generator),
        (torch.rand(rows, steps, generator=generator) < 0.1).float(),
        torch.ones(rows, steps, dtype=torch.bool),
    )


def context_of(batch: Batch, length: Tensor, most: int) -> Context:
    return Context(
        {key: value[:, :most] for key, value in batch.observations.items()},
        batch.actions[:, : most - 1],
        length,
        length - 1,
    )


@pytest.mark.parametrize("world", ["vector", "grey", "both"])
def test_before_it_learns_its_draws_tell_what_is_seen(world: str) -> None:
    """Else a decoder learns to ignore them first, and sits on the mean of all observations for long."""
    model, rows = model_of(world, RssmConfig()), 64
    generator = torch.Generator().manual_seed(0)
    seen = {
        key: torch.rand(rows, *(1 for _ in shape), generator=generator).expand(rows, *shape)
        for key, shape in Codec(spec_of(world)).shapes.items()
    }
    with torch.no_grad():
        deter = model.initial.tanh().expand(rows, -1)
        shares = model._posterior(deter, model.senses.encode(seen))
    told = (shares * (shares / shares.mean(0)).log()).sum((-1, -2)).mean()
    # Nats that the draws share with what is seen; 64 things are ln 64 = 4.2 apart at most for each group.
    assert told > 1.0


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_prepared_layers_say_what_the_layers_say_and_go_on_with_them(
    dtype: torch.dtype, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr(loops, "compiled_loops", lambda: None)
    torch.manual_seed(0)
    for layers in (dense(5, 7, 2), nn.Sequential(*dense(5, 7, 2), nn.Linear(7, 3))):
        layers.to(dtype)
        prepared = PreparedDense(layers)
        with torch.no_grad():
            for parameter in layers.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
            for rows in (0, 1, 9):
                seen = torch.randn(5, rows, dtype=dtype).T
                kept = seen.clone()
                torch.testing.assert_close(prepared(seen), layers(seen), rtol=1e-5, atol=1e-6)
                assert torch.equal(seen, kept)


@pytest.mark.parametrize("world", WORLDS)
def test_it_keeps_the_protocol_with_every_kind_of_observation(world: str) -> None:
    twin = Twin.untrained(spec_of(world), "rssm", SMALL)
    check_world_model(twin.model, starts=twin.starts)


@pytest.mark.parametrize("world", WORLDS)
def test_what_it_shows_has_the_form_of_what_it_saw(world: str) -> None:
    model, batch = model_of(world), batch_of(world, 5, 2)
    rng = CounterRNG.from_seed(0, 5)
    state = model.encode(Context.from_observation(batch.start(), 2), rng=rng)
    shown = model.decode(state)
    assert {key: value.shape for key, value in shown.items()} == {
        key: value.shape for key, value in batch.start().items()
    }
    assert model.features(state).shape == (5, SMALL.deter + SMALL.groups * SMALL.classes)


def test_symlog_and_its_inverse() -> None:
    values = torch.tensor([-1000.0, -1.0, 0.0, 1e-3, 30.0])
    torch.testing.assert_close(symexp(symlog(values)), values)
    assert symlog(torch.tensor(np.e - 1.0)) == pytest.approx(1.0)


def test_two_hot_losses_are_least_where_the_bins_say_the_mean() -> None:
    bins = symexp(torch.linspace(-3.0, 3.0, 9))
    values = torch.tensor([-30.0, -0.7, 0.0, 2.5, 2.5, 99.0])  # the outer ones lie beyond all bins
    logits = torch.zeros(9, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-9)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = two_hot_loss(logits.expand(len(values), -1), values, bins).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    said = float((logits.detach().softmax(-1) * bins).sum())
    assert said == pytest.approx(float(values.clamp(bins[0], bins[-1]).mean()), abs=0.02)


def test_a_context_is_taken_in_one_observation_after_another() -> None:
    model, batch = model_of("vector"), batch_of("vector", 4, 2)
    length = torch.full((4,), 3)
    rng = CounterRNG.from_seed(7, 4)
    whole = model.encode(context_of(batch, length, 3), rng=rng)
    rng = CounterRNG.from_seed(7, 4)
    state = model.encode(Context.from_observation(batch.start(), 2), rng=rng)
    for place in (0, 1):
        later = {key: value[:, place + 1] for key, value in batch.observations.items()}
        state = model.observe(state, batch.actions[:, place], later, rng=rng)
    for name, value in whole.items():
        assert torch.equal(value, state[name])


def test_what_lies_beyond_a_contexts_length_is_not_seen() -> None:
    model, batch = model_of("both"), batch_of("both", 3, 3)
    length = torch.tensor([1, 2, 4])
    context = context_of(batch, length, 4)
    noise = batch_of("both", 3, 3, seed=1)
    beyond = (torch.arange(4) >= length[:, None])[..., None]
    spoiled = Context(
        {
            key: torch.where(
                beyond.view(3, 4, *[1] * (value.ndim - 2)), noise.observations[key], value
            )
            for key, value in context.observations.items()
        },
        torch.where(beyond[:, 1:], noise.actions, context.actions),
        length,
        length - 1,
    )
    one, other = (model.encode(each, rng=CounterRNG.from_seed(0, 3)) for each in (context, spoiled))
    for name, value in one.items():
        assert torch.equal(value, other[name])


def test_pixels_as_bytes_are_the_same_pixels() -> None:
    batch = batch_of("both", 2, 2)
    bytes_of = packed(batch.start(), ["eye.left"])
    assert bytes_of["eye.left"].dtype == torch.uint8 and bytes_of["joints"].dtype == torch.float32
    back = Context.from_observation(bytes_of, 2).to("cpu", torch.float32)
    exact = (batch.start()["eye.left"] * 255).round() / 255
    assert torch.equal(back.observations["eye.left"][:, 0], exact)


def test_pixels_as_bytes_travel_with_a_twin(tmp_path: Path) -> None:
    twin = Twin.untrained(spec_of("grey"), "rssm", SMALL)
    pixels = torch.randint(0, 256, (3, 1, 16, 16), dtype=torch.uint8)
    starts = Context.from_observation({"observation": pixels}, 2)
    dataclasses.replace(twin, starts=starts, states=starts.padded(2)).save(tmp_path / "twin")
    loaded = Twin.load(tmp_path / "twin")
    assert loaded.starts.observations["observation"].dtype == torch.uint8
    assert np.array_equal(own_starts(loaded, 3), pixels.numpy()[:, 0])
    simulator = Simulator(loaded, 4, seed=0, config=SimulatorConfig(dataset_starts=0.5))
    assert simulator.reset().shape == (4, 16, 16)


def test_padded_contexts_are_the_same_contexts() -> None:
    model, batch = model_of("vector"), batch_of("vector", 4, 2)
    short = Context.from_observation(batch.start(), 2)
    long = short.padded(3)
    assert long.actions.shape == (4, 2, 2) and long.length.tolist() == [1] * 4
    assert short.padded(1) is short
    one, other = (model.encode(each, rng=CounterRNG.from_seed(0, 4)) for each in (short, long))
    for name, value in one.items():
        assert torch.equal(value, other[name])


def test_steps_beyond_an_episodes_end_teach_nothing() -> None:
    model, batch = model_of("both"), batch_of("both", 6, 6)
    valid = torch.arange(6) < torch.tensor([6, 1, 2, 3, 6, 4])[:, None]
    batch = dataclasses.replace(batch, valid=valid)
    noise = batch_of("both", 6, 6, seed=1)
    seen = torch.cat([torch.ones(6, 1, dtype=torch.bool), valid], 1)
    spoiled = Batch(
        {
            key: torch.where(
                seen.view(6, 7, *[1] * (value.ndim - 2)), value, noise.observations[key]
            )
            for key, value in batch.observations.items()
        },
        *(
            torch.where(valid.view(6, 6, *[1] * (value.ndim - 2)), value, other)
            for value, other in (
                (batch.actions, noise.actions),
                (batch.rewards, noise.rewards),
                (batch.terminated, noise.terminated),
            )
        ),
        valid,
    )
    losses = [
        float(model.loss(each, rng=CounterRNG.from_seed(0, 6), progress=0.5)[0].detach())
        for each in (batch, spoiled)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_warm_start_is_the_same_function() -> None:
    older, newer = model_of("vector"), model_of("vector")
    for parameter in newer.parameters():
        parameter.data += 1.0
    newer.senses.scales[0].high.fill_(20.0)
    newer.senses.scales[0].low.fill_(-20.0)
    newer.warm_start(older)
    batch = batch_of("vector", 3, 1)
    context = Context.from_observation(batch.start(), 2)
    shown = [
        model.decode(model.encode(context, rng=CounterRNG.from_seed(0, 3)))["observation"]
        for model in (older, newer)
    ]
    assert torch.equal(*shown)


def test_beyond_the_older_scales_it_begins_anew() -> None:
    older, newer = model_of("vector"), model_of("vector")
    newer.senses.scales[0].high.fill_(20.0)
    newer.senses.scales[0].low.fill_(-20.0)
    older.senses.scales[0].scale[2] = 0.5
    for parameter in older.parameters():
        parameter.data += 1.0
    before = {name: value.clone() for name, value in newer.state_dict().items()}
    with pytest.warns(UserWarning, match="starts from scratch"):
        newer.warm_start(older)
    # 19 would be 38 of the older scales, and look like 20 of them.
    assert all(torch.equal(value, before[name]) for name, value in newer.state_dict().items())


@pytest.mark.parametrize("temperature", [0.01, 0.002])
def test_low_temperatures_draw_the_likeliest(temperature: float) -> None:
    model = model_of("vector")
    shares = torch.tensor([[[0.1, 0.2, 0.3, 0.4]] * 2 + [[0.01, 0.02, 0.45, 0.52]]])
    drawn = model._draw(shares, CounterRNG.from_seed(0, 1), temperature)
    assert drawn.unflatten(-1, (3, 4)).argmax(-1).tolist() == [[3, 3, 3]]
    assert drawn.sum() == 3.0


@pytest.mark.parametrize(
    "wrong", [{"unimix": 0.0}, {"free_nats": -1.0}, {"terminal_weight": 0.5}, {"hidden": 1}]
)
def test_choices_that_would_fail_later_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        SMALL.replace(**wrong)


def test_keys_in_another_order_are_the_same_world(tmp_path: Path) -> None:
    parts = {
        "velocity": spaces.Box(-1.0, 1.0, (2,)),
        "left": spaces.Box(0, 255, (8, 8), np.uint8),
        "angle": spaces.Box(-1.0, 1.0, (3,)),
        "above": spaces.Box(0, 255, (8, 8), np.uint8),
    }
    # Of a plain dict, Gymnasium sorts the keys; of pairs it does not.
    spec = WorldSpec(spaces.Dict(list(parts.items())), ACTION, horizon=20)
    assert list(spec.observation_space.spaces) == list(parts)
    torch.manual_seed(0)
    twin = Twin.untrained(spec, "rssm", SMALL)
    for parameter in twin.model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    back = Twin.load(twin.save(tmp_path / "twin"))
    assert list(back.spec.observation_space.spaces) == list(parts)
    sorted_twin = Twin.untrained(
        dataclasses.replace(spec, observation_space=spaces.Dict(parts)), "rssm", SMALL
    )
    sorted_twin.model.load_state_dict(twin.model.state_dict())
    spec.observation_space.seed(0)
    seen = {key: value[None] for key, value in spec.observation_space.sample().items()}
    shown = []
    for each in (twin, back, sorted_twin):
        simulator = Simulator(each, 1, seed=0)
        simulator.reset(seed=0, options={"observation": seen})
        shown.append(simulator.step(np.zeros((1, 2), np.float32)).observation)
    for other in shown[1:]:
        for key in parts:
            np.testing.assert_array_equal(shown[0][key], other[key])


def drift(rows: int, steps: int, *, seed: int) -> Batch:
    """A number that moves by a velocity which nobody sees: two observations tell it, one does not."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.rand(rows, 1, generator=generator) * 2 - 1
    velocity = (torch.rand(rows, 1, generator=generator) * 2 - 1) * 0.3
    path = place + velocity * torch.arange(steps + 1)
    path = torch.stack([path, torch.zeros_like(path), torch.zeros_like(path)], -1)
    return Batch(
        {"observation": path},
        torch.zeros(rows, steps, 2),
        path[:, 1:, 0],
        torch.zeros(rows, steps),
        torch.ones(rows, steps, dtype=torch.bool),
    )


@pytest.mark.slow
def test_it_learns_what_only_the_past_tells() -> None:
    config = SMALL.replace(deter=48, groups=8, classes=8, hidden=48, window=8)
    model = model_of("vector", config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for update in range(1_500):
        batch = drift(64, 8, seed=update)
        loss, _ = model.loss(batch, rng=CounterRNG.from_seed(update * 64, 64), progress=0.5)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    batch = drift(256, 6, seed=10_000)
    errors = {}
    for known in (1, 3):
        rng = CounterRNG.from_seed(0, 256)
        context = context_of(batch, torch.full((256,), known), known)
        with torch.no_grad():
            state = model.encode(context, rng=rng)
            for place in range(known - 1, 5):
                state, _ = model.step(state, batch.actions[:, place], rng=rng, temperature=0.0)
        arrived = batch.observations["observation"][:, 5, 0]
        shown = model.decode(state)["observation"][:, 0].detach()
        errors[known] = float((shown - arrived).abs().mean())
        still = float((batch.observations["observation"][:, known - 1, 0] - arrived).abs().mean())
    assert errors[3] < 0.5 * errors[1]
    assert errors[3] < 0.5 * still


def test_what_one_observation_does_not_tell_is_drawn_and_kept_to() -> None:
    config = SMALL.replace(deter=32, groups=4, classes=8, hidden=32, window=5)
    model = model_of("vector", config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def either_way(rows: int, seed: int) -> Batch:
        """From the middle up or down, by an even step: the first observation does not say which way."""
        generator = torch.Generator().manual_seed(seed)
        way = torch.randint(0, 2, (rows, 1, 1), generator=generator) * 2.0 - 1.0
        path = way * torch.linspace(0.0, 1.5, 6)[:, None]
        nothing = torch.zeros(rows, 5)
        return Batch(
            {"observation": path.expand(rows, 6, 3).contiguous()},
            torch.zeros(rows, 5, 2),
            nothing,
            nothing,
            torch.ones(rows, 5, dtype=torch.bool),
        )

    for update in range(250):
        batch = either_way(32, update)
        loss, _ = model.loss(batch, rng=CounterRNG.from_seed(update * 32, 32), progress=0.5)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    rng, found = CounterRNG.from_seed(0, 200), []
    start = Context.from_observation({"observation": torch.zeros(200, 3)}, 2)
    with torch.no_grad():
        state = model.encode(start, rng=rng)
        for _ in range(5):
            state, _ = model.step(state, torch.zeros(200, 2), rng=rng)
            found.append(model.decode(state)["observation"][:, 0])
    third, last = found[2], found[4]
    # Nobody stands at the mean of both ways, both are gone, and who goes one way stays on it.
    assert float((last.abs() > 1.0).float().mean()) > 0.9
    assert 0.25 < float((last > 0).float().mean()) < 0.75
    assert float((third.sign() == last.sign()).float().mean()) > 0.9


def test_states_of_rows_can_be_chosen() -> None:
    model, batch = model_of("grey"), batch_of("grey", 4, 1)
    state = model.encode(Context.from_observation(batch.start(), 2), rng=CounterRNG.from_seed(0, 4))
    rows = torch.tensor([2, 0])
    one, _ = model.step(
        select(state, rows), batch.actions[rows, 0], rng=CounterRNG.from_seed(0, 4).select(rows)
    )
    all_rows, _ = model.step(state, batch.actions[:, 0], rng=CounterRNG.from_seed(0, 4))
    for name, value in select(all_rows, rows).items():
        torch.testing.assert_close(one[name], value, rtol=1e-5, atol=1e-6)


def test_some_of_the_images_say_what_all_of_them_would_on_average() -> None:
    batch = batch_of("grey", 3, 7)
    seen = torch.ones(3, 8)
    seen[0, 5:] = 0.0  # a window past its episode's end

    def losses(decoded: float, draws: int) -> Tensor:
        model = model_of("grey", SMALL.replace(decoded=decoded))
        features = torch.randn(3, 8, 28, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            return torch.stack(
                [
                    model._observation_loss(
                        features, batch.observations, seen, CounterRNG.from_seed(3 * draw, 3)
                    )
                    for draw in range(draws)
                ]
            )

    whole = losses(1.0, 3)
    assert torch.allclose(whole, whole[0])
    some = losses(0.25, 300)
    assert len(some.unique()) > 100
    error = float(some.std()) / len(some) ** 0.5
    assert abs(float(some.mean() - whole[0])) < 4 * error + 0.01 * float(whole[0])
