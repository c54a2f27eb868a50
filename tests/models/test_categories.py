"""Categories: exact one-hots in every state, drawn with the row's own noise, groups that depend on one another."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

from world_env.batch import Batch, Context
from world_env.codec import Codec
from world_env.data.dataset import encode_episodes
from world_env.data.episode import Episode
from world_env.fitting.config import FitConfig
from world_env.fitting.fit import fit_episodes
from world_env.models.ensemble.model import EnsembleConfig, EnsembleWorldModel
from world_env.models.layers.categories import Categories, sparsemax
from world_env.models.rssm.encoder_decoder import EncoderDecoder
from world_env.models.rssm.model import RssmConfig, RssmWorldModel
from world_env.rng import CounterRNG
from world_env.simulation.simulator import Simulator
from world_env.spec import WorldSpec
from world_env.testing.model_checks import check_world_model
from world_env.twin.twin import Twin

pytestmark = pytest.mark.filterwarnings("ignore::world_env.fitting.preconditions.FitWarning")

MIXED = spaces.Dict(
    {
        "grid": spaces.MultiDiscrete([3, 2], start=[1, 0]),
        "mode": spaces.Discrete(4, start=-1),
        "switches": spaces.MultiBinary(2),
        "speed": spaces.Box(-np.inf, np.inf, (2,), np.float32),
    }
)
SPEC = WorldSpec(MIXED, spaces.MultiBinary(2), horizon=30)
SIZES = [3, 2, 4, 2, 2]
"""Sizes of the groups in the order of the keys: grid, mode, switches (the columns of speed lie before switches)."""
SMALL = EnsembleConfig(members=2, width=24, layers=2, head_width=12, rollout=3)
QUICK = FitConfig(
    gradient_steps=300,
    batch_size=256,
    validate_every=150,
    learning_rate=1e-2,
    eval_horizon=10,
    eval_windows=32,
    model={"members": 2, "width": 48, "layers": 1, "head_width": 24, "rollout": 2},
)


def awake(model: torch.nn.Module, spread: float = 0.5) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += spread * torch.randn(parameter.shape, generator=generator)
    return model


def mixed_model() -> EnsembleWorldModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return awake(EnsembleWorldModel(SPEC, SMALL))


def contexts(rows: int) -> Context:
    codec, space = Codec(SPEC), spaces.Dict(list(MIXED.spaces.items()))
    space.seed(0)
    drawn = [space.sample() for _ in range(rows)]
    batch = {key: np.stack([each[key] for each in drawn]) for key in MIXED}
    return Context.from_observation(codec.encode_observation(batch), codec.action_size)


def groups_of(observation: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """The one-hots of an encoded observation of MIXED."""
    return [
        part
        for key, sizes in (("grid", [3, 2]), ("mode", [4]), ("switches", [2, 2]))
        for part in observation[key].split(sizes, -1)
    ]


def test_sparsemax_is_the_nearest_point_of_the_simplex() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 6, generator=generator).double()
    fast = sparsemax(logits)
    torch.testing.assert_close(fast.sum(-1), torch.ones(40).double())
    # The threshold by bisection: probabilities max(0, logit - threshold) sum to 1.
    low, high = logits.amin(-1) - 1.0, logits.amax(-1)
    for _ in range(80):
        middle = (low + high) / 2
        above = (logits - middle[:, None]).clamp(min=0).sum(-1) > 1.0
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    torch.testing.assert_close(fast, (logits - low[:, None]).clamp(min=0), atol=1e-9, rtol=0)
    assert (fast == 0).any()
    torch.testing.assert_close(sparsemax(torch.zeros(2, 500)), torch.full((2, 500), 1 / 500))


def test_the_loss_has_the_gradient_of_a_cross_entropy_and_is_zero_only_for_certain_and_right() -> (
    None
):
    parts = {"a": spaces.MultiDiscrete([3, 5])}
    categories = Categories(parts, {"a": (8,)})
    outputs = torch.randn(20, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    target = torch.zeros(20, 8)
    target[torch.arange(20), torch.arange(20) % 3] = 1.0
    target[torch.arange(20), 3 + torch.arange(20) % 5] = 1.0
    loss, probabilities = categories.loss(outputs, target)
    assert loss.shape == (20, 2) and (loss >= 0).all()
    (gradient,) = torch.autograd.grad(loss.sum(), outputs)
    torch.testing.assert_close(gradient, probabilities - target)
    torch.testing.assert_close(probabilities, categories.probabilities(outputs.detach()))
    sure = 3.0 * target
    assert not categories.loss(sure, target)[0].any()
    assert (categories.loss(sure, target.roll(1, 0))[0] > 0).any(1).all()


def test_categories_are_drawn_as_often_as_they_are_likely_and_never_where_they_are_not() -> None:
    categories = Categories({"a": spaces.MultiDiscrete([3, 5])}, {"a": (8,)})
    logits = torch.tensor([0.3, 0.0, -2.0, 0.0, -5.0, 0.6, 0.1, -1.0])
    wanted = categories.probabilities(logits[None])[0]
    assert 0 < wanted[1] < wanted[0] and wanted[2] == 0 and wanted[4] == 0
    rows = 40_000
    fraction = CounterRNG.from_seed(0, rows).uniform(2)
    drawn = categories.draw(logits.expand(rows, -1), [0, 1], fraction, 1.0)
    torch.testing.assert_close(drawn.mean(0), wanted, atol=0.01, rtol=0)
    assert not drawn[:, wanted == 0].any()
    sure = categories.draw(logits.expand(rows, -1), [0, 1], fraction, 0.0)
    assert (sure == sure[0]).all() and sure[0].nonzero().flatten().tolist() == [0, 5]
    cold = categories.draw(logits.expand(rows, -1), [0, 1], fraction, 0.3)
    assert cold[:, 0].mean() > drawn[:, 0].mean() + 0.05


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_every_state_holds_exact_one_hots_beside_numbers(fast: bool, temperature: float) -> None:
    model = mixed_model()
    model = model.for_inference() if fast else model
    rng = CounterRNG.from_seed(3, 50)
    state = model.encode(contexts(50), rng=rng)
    seen = set()
    with torch.no_grad():
        for step in range(6):
            action = torch.eye(2)[(torch.arange(50) + step) % 2].repeat(1, 2)
            state, prediction = model.step(
                state, action, rng=rng, temperature=temperature, uncertainty=True
            )
            observation = model.decode(state)
            for part in groups_of(observation):
                assert ((part == 0) | (part == 1)).all() and (part.sum(-1) == 1).all()
            assert observation["speed"].std() > 0.1 and prediction.uncertainty.isfinite().all()
            back = Codec(SPEC).encode_observation(Codec(SPEC).decode_observation(observation))
            assert all(torch.equal(back[key], observation[key]) for key in MIXED if key != "speed")
            seen |= set(observation["mode"].argmax(-1).tolist())
    assert len(seen) > 1


@pytest.mark.parametrize("family", ["ensemble", "rssm"])
def test_families_keep_the_protocol_with_categories(family: str) -> None:
    configs = {"ensemble": SMALL, "rssm": RssmConfig(deter=16, groups=4, classes=4, hidden=16)}
    twin = Twin.untrained(SPEC, family, configs[family])
    model = awake(twin.model, 0.2).requires_grad_(True)
    check_world_model(model, rebuild=lambda: type(model)(SPEC, configs[family]))
    check_world_model(model.for_inference(), differentiable=False)


def test_the_draws_of_a_row_do_not_depend_on_the_other_rows() -> None:
    model = mixed_model().for_inference()
    rows = contexts(30)
    action = torch.eye(4)[torch.arange(30) % 4]
    with torch.no_grad():
        rng = CounterRNG.from_seed(1, 30)
        state = model.encode(rows, rng=rng)
        together, _ = model.step(state, action, rng=rng.clone())
        for row in (0, 7, 29):
            index = torch.tensor([row])
            one = {name: value[index] for name, value in state.items()}
            alone, _ = model.step(one, action[index], rng=rng.select(index))
            torch.testing.assert_close(alone["observation"], together["observation"][index])


def test_categories_are_never_outside_of_the_data_and_members_that_agree_are_certain() -> None:
    model = mixed_model()
    model.prepare(encode_episodes(walks(), Codec(SPEC)).statistics())
    for parameter in model.parameters():
        parameter.data[:] = parameter.data[:1]
    rng = CounterRNG.from_seed(0, 20)
    state = model.encode(contexts(20), rng=rng)
    action = torch.zeros(20, 4)
    with torch.no_grad():
        inputs = model._with_prefix(
            torch.cat([model.normalizer.normalize(state["observation"]), action], -1)
        )
        assert model._disagreement(inputs).max() < 1e-8
        change = torch.zeros_like(state["observation"])
        numbers = model.categories.numbers
        state["observation"][:, numbers] = model.normalizer.center[numbers]
        assert not model.normalizer.outside(state["observation"], change).any()
    awake(model)
    with torch.no_grad():
        assert model._disagreement(inputs).min() > 1e-4


def walks(number: int = 30, length: int = 12) -> list[Episode]:
    """Random observations of MIXED, in which the second switch is the first one, and both are the mode's parity."""
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(number):
        mode = rng.integers(-1, 3, length + 1)
        switch = (mode % 2).astype(np.int8)
        seen = {
            "grid": np.stack([rng.integers(1, 4, length + 1), switch], 1),
            "mode": mode,
            "switches": np.stack([switch, switch], 1),
            "speed": np.stack([switch * 2.0, rng.normal(size=length + 1)], 1).astype(np.float32),
        }
        actions = rng.integers(0, 2, (length, 2)).astype(np.int8)
        episodes.append(Episode(seen, actions, mode[1:].astype(float), False, True))
    return episodes


def test_groups_and_numbers_of_one_step_depend_on_one_another_as_in_the_data() -> None:
    twin = fit_episodes(walks(300), SPEC, QUICK)
    simulator = Simulator(twin, 400, seed=0)
    simulator.reset()
    agreed, near, modes, rewards = [], [], set(), []
    for _ in range(5):
        result = simulator.step(np.zeros((400, 2), np.int8))
        seen = result.observation
        parity = seen["mode"] % 2
        agreed.append((seen["switches"] == parity[:, None]).all(1) & (seen["grid"][:, 1] == parity))
        near.append(np.abs(seen["speed"][:, 0] - 2.0 * parity) < 0.5)
        rewards.append(np.abs(result.reward - seen["mode"]))
        modes |= set(seen["mode"].tolist())
    # Drawn independently, they would agree in an eighth of the steps.
    assert np.mean(agreed) > 0.99 and np.mean(near) > 0.97 and modes == {-1, 0, 1, 2}
    assert np.median(rewards) < 0.2


def table_episodes(steps: int) -> tuple[list[Episode], np.ndarray]:
    """A random walk on 6 cells that slips; the last cell ends it and pays 1. Returns the table of what can follow."""
    rng = np.random.default_rng(0)
    episodes, taken = [], 0
    while taken < steps:
        place, seen, actions, rewards = 0, [0], [], []
        while place < 5 and len(actions) < 40:
            action = int(rng.integers(2))
            move = rng.choice([2 * action - 1, 0, 1 - 2 * action], p=[0.6, 0.3, 0.1])
            place = int(np.clip(place + move, 0, 5))
            seen.append(place)
            actions.append(action)
            rewards.append(float(place == 5))
        taken += len(actions)
        episodes.append(
            Episode(np.array(seen), np.array(actions), np.array(rewards), place == 5, place < 5)
        )
    follows = np.zeros((6, 2, 6))
    for place in range(5):
        for action in range(2):
            for move, p in ((2 * action - 1, 0.6), (0, 0.3), (1 - 2 * action, 0.1)):
                follows[place, action, np.clip(place + move, 0, 5)] += p
    return episodes, follows


@pytest.mark.parametrize("one_hot", [False, True])
def test_a_table_with_chance_is_learned_without_impossible_moves(one_hot: bool) -> None:
    episodes, follows = table_episodes(4_000)
    space = spaces.Box(0, 1, (6,), np.float32) if one_hot else spaces.Discrete(6)
    if one_hot:
        episodes = [
            Episode(np.eye(6, dtype=np.float32)[e.observations], e.actions, e.rewards, e.terminated,
                    e.truncated)
            for e in episodes
        ]  # fmt: skip
    twin = fit_episodes(episodes, WorldSpec(space, spaces.Discrete(2), horizon=40), QUICK)
    assert twin.fidelity.termination.recall == 1.0 and twin.fidelity.termination.precision == 1.0
    places = lambda seen: seen.argmax(-1) if one_hot else seen  # noqa: E731
    simulator, rng = Simulator(twin, 300, seed=0), np.random.default_rng(0)
    before, counts = places(np.asarray(simulator.reset())), np.zeros((6, 2, 6))
    while not simulator.finished.all():
        rows, actions = ~simulator.finished, rng.integers(0, 2, 300)
        result = simulator.step(actions, rows=rows)
        if one_hot:
            assert ((result.observation == 0) | (result.observation == 1)).all()
            assert (result.observation.sum(1) == 1).all()
        after = places(result.observation)
        for row in np.flatnonzero(rows):
            counts[before[row], actions[row], after[row]] += 1
            assert result.terminated[row] == (after[row] == 5)
            assert abs(result.reward[row] - (after[row] == 5)) < 0.1
        before = after
    assert counts.sum() > 3_000 and not counts[follows == 0].any()
    shares = counts / counts.sum(-1, keepdims=True).clip(1)
    often = counts.sum(-1) > 200
    assert np.abs(shares - follows)[often].max() < 0.12


def test_pairs_that_no_training_episode_shows_are_out_of_distribution(tmp_path: Path) -> None:
    """Action 1 is never taken in place 2. MOReL stops there; members can agree on a wrong successor."""
    episodes, _ = table_episodes(2_000)
    last = [np.flatnonzero((e.observations[:-1] == 2) & (e.actions == 1)) for e in episodes]
    shown = [
        e.cut(0, rows[0]) if len(rows) else e
        for e, rows in zip(episodes, last, strict=True)
        if not len(rows) or rows[0] > 0
    ]
    assert len(shown) > 20
    spec = WorldSpec(spaces.Discrete(6), spaces.Discrete(2), horizon=40)
    twin = fit_episodes(shown, spec, QUICK.replace(gradient_steps=20, validate_every=10))
    assert twin.uncertainty_threshold is not None and twin.uncertainty_threshold < 2.0
    loaded = Twin.load(twin.save(tmp_path / "twin"))
    for each in (twin, loaded):
        model, places = each.model, torch.arange(6).repeat_interleave(2)
        state = model.encode(
            Context.from_observation({"observation": torch.eye(6)[places]}, 2),
            rng=CounterRNG.from_seed(0, 12),
        )
        actions = torch.eye(2).repeat(6, 1)
        _, found = model.step(state, actions, rng=CounterRNG.from_seed(0, 12), uncertainty=True)
        assert found.uncertainty is not None
        flagged = found.uncertainty > each.uncertainty_threshold
        seen = {
            (int(s), int(a)) for e in shown for s, a in zip(e.observations, e.actions, strict=False)
        }
        never = torch.tensor([(int(p), i % 2) not in seen for i, p in enumerate(places)])
        assert never[5] and flagged[never].all() and flagged.sum() < 12
    # Weights of before the pairs were remembered: all of them count as seen.
    weights = {k: v for k, v in twin.model.state_dict().items() if k != "pairs.seen"}
    assert twin.model.completed(weights)["pairs.seen"].all()


@pytest.mark.parametrize("one_hot", [False, True])
def test_episodes_of_one_step_suffice_for_a_table(one_hot: bool) -> None:
    rng = np.random.default_rng(0)
    seen = np.stack([np.zeros(150, int), rng.integers(1, 4, 150)], 1)
    shown = np.eye(4, dtype=np.float32)[seen] if one_hot else seen
    episodes = [
        Episode(each, np.zeros(1, int), np.array([float(end[1] == 3)]), True, False)
        for each, end in zip(shown, seen, strict=True)
    ]
    space = spaces.Box(0, 1, (4,), np.float32) if one_hot else spaces.Discrete(4)
    spec = WorldSpec(space, spaces.Discrete(2), horizon=5)
    twin = fit_episodes(episodes, spec, QUICK.replace(gradient_steps=2, validate_every=1))
    assert twin.model.window(1.0) == 1 and len(twin.model.categories) == 1


def test_weights_of_a_model_without_categories_are_the_same_function() -> None:
    model = mixed_model()
    older = mixed_model()
    older.categories.group.fill_(-1)
    older.categories.look_again()
    weights = older.state_dict()
    prefix = len(model.categories.prefix)
    assert prefix == sum(SIZES)
    name = "dynamics.weights.0"
    kept = {k: v for k, v in weights.items() if k != "categories.group"}
    kept[name] = kept[name][:, :-prefix]
    completed = model.completed(kept)
    assert "categories.group" not in kept and kept[name].shape[1] + prefix == weights[name].shape[1]
    model.load_state_dict(completed)
    assert not len(model.categories) and not model.scored_by_draws
    rng = CounterRNG.from_seed(0, 5)
    state = model.encode(contexts(5), rng=rng)
    arrived, _ = model.step(state, torch.zeros(5, 4), rng=rng.clone())
    expected, _ = older.step(state, torch.zeros(5, 4), rng=rng.clone())
    assert torch.equal(arrived["observation"], expected["observation"])
    # The fast stepper too: it must not read the prefix that these weights never had.
    with torch.no_grad():
        quick, _ = model.for_inference().step(state, torch.zeros(5, 4), rng=rng.clone())
    torch.testing.assert_close(quick["observation"], expected["observation"], atol=1e-5, rtol=1e-4)
    assert model.completed(weights) is weights


def test_a_twin_with_categories_is_stored_with_them(tmp_path) -> None:
    episodes, _ = table_episodes(300)
    spec = WorldSpec(spaces.Discrete(6), spaces.Discrete(2), horizon=40)
    twin = fit_episodes(episodes, spec, QUICK.replace(gradient_steps=2, validate_every=1))
    again = Twin.load(twin.save(tmp_path / "twin"))
    assert again.fingerprint() == twin.fingerprint()
    assert len(again.model.categories) == 1 and again.model.scored_by_draws
    assert again.model.inert_buffers() == twin.model.inert_buffers()


def test_the_decoder_of_an_rssm_shows_exact_categories_and_its_loss_is_their_cross_entropy() -> (
    None
):
    decoder = EncoderDecoder(
        SPEC, hidden=16, patch=4, depth=8, features=5, precision=0.05
    ).requires_grad_(False)
    features = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    shown = decoder.decode(features)
    for part in groups_of(shown):
        assert ((part == 0) | (part == 1)).all() and (part.sum(-1) == 1).all()
    loss = decoder.vector_loss(features, shown)
    # The numbers are those that are shown, so only the categories have a loss.
    written = decoder.write(features)
    starts = {"grid": 0, "mode": 5, "switches": 11}
    expected = torch.zeros(40)
    for key, sizes in (("grid", [3, 2]), ("mode", [4]), ("switches", [2, 2])):
        first = starts[key]
        for size, part in zip(sizes, shown[key].split(sizes, -1), strict=True):
            logits = written[:, first : first + size]
            expected += torch.nn.functional.cross_entropy(logits, part.argmax(-1), reduction="none")
            first += size
    torch.testing.assert_close(loss, expected, atol=1e-3, rtol=1e-3)


def test_an_rssm_learns_categories() -> None:
    config = RssmConfig(
        deter=32, groups=4, classes=4, hidden=32, window=6, context=2, windows=16, members=2
    )
    spec = WorldSpec(spaces.Discrete(5), spaces.Discrete(2), horizon=40)
    codec = Codec(spec)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = RssmWorldModel(spec, config)
        rng = np.random.default_rng(0)
        actions = rng.integers(0, 2, (64, 6))
        places = np.concatenate(
            [np.zeros((64, 1), int), np.cumsum(2 * actions - 1, 1)], 1
        ) % 5  # fmt: skip
        observation = {
            "observation": torch.nn.functional.one_hot(torch.from_numpy(places), 5).float()
        }
        batch = Batch(
            observation,
            torch.nn.functional.one_hot(torch.from_numpy(actions), 2).float(),
            torch.zeros(64, 6),
            torch.zeros(64, 6),
            torch.ones(64, 6, dtype=torch.bool),
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
        for update in range(150):
            loss, _ = model.loss(batch, rng=CounterRNG.from_seed(update, 64), progress=0.5)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        rng = CounterRNG.from_seed(0, 64)
        first = {key: value[:, 0] for key, value in observation.items()}
        state = model.encode(Context.from_observation(first, codec.action_size), rng=rng)
        right = []
        for step in range(6):
            state, _ = model.step(state, batch.actions[:, step], rng=rng)
            shown = codec.decode_observation(model.decode(state))
            right.append((shown == places[:, step + 1]).mean())
    assert np.mean(right) > 0.9


def test_graphs_have_the_same_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = 2.0 * torch.randn(500, 7, generator=torch.Generator().manual_seed(1))
    logits[:, 5] = -1e4
    expected = sparsemax(logits)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert (sparsemax(logits) - expected).abs().max() < 1e-6
