"""A twin as ONNX graphs: with the noise of the simulator, its steps are those of the simulator."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exported import WIDE, graph
from exported_models import Branching, Copying, Counted, Double, Global, Mixed, Noisy
from gymnasium import spaces

from world_env.batch import Context
from world_env.errors import ExportError
from world_env.export import export_twin
from world_env.export.onnx_graph import Arrays
from world_env.models.ensemble.config import EnsembleConfig
from world_env.models.linear import LinearConfig, LinearWorldModel
from world_env.models.registry import register_world_model
from world_env.models.rssm.config import RssmConfig
from world_env.rng import CounterRNG
from world_env.simulation.simulator import Simulator
from world_env.spec import Angle, WorldSpec
from world_env.twin.twin import Twin
from world_env.types import JSON

ROWS, STEPS = 3, 100
VECTOR = spaces.Box(-5.0, 5.0, (4,), np.float32)
MIXED = spaces.Dict(
    {
        "picture": spaces.Box(0, 255, (8, 8, 3), np.uint8),
        "place": spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
        "kind": spaces.Discrete(3, start=2),
        "parts": spaces.MultiDiscrete([2, 4]),
        "count": spaces.Box(0, 9, (2,), np.int32),
    }
)
TABLE = spaces.Dict(
    {
        "kind": spaces.Discrete(3, start=2),
        "lamps": spaces.MultiBinary(2),
        "parts": spaces.MultiDiscrete([2, 4]),
        "place": spaces.Box(-5.0, 5.0, (2,), np.float32),
    }
)
RSSM = RssmConfig(deter=16, groups=3, classes=4, hidden=16, depth=4, members=2)
ENSEMBLE = EnsembleConfig(members=3, width=16, layers=2, head_width=12)
FAMILIES: dict[str, tuple[str, Any, spaces.Space[Any], spaces.Space[Any]]] = {
    "linear": ("linear", LinearConfig(), VECTOR, spaces.Discrete(3, start=1)),
    "ensemble": ("ensemble", ENSEMBLE, VECTOR, WIDE),
    "categories": ("ensemble", ENSEMBLE, TABLE, spaces.MultiBinary(2)),
    "rssm": ("rssm", RSSM, MIXED, spaces.MultiDiscrete([2, 3])),
}  # fmt: skip


def awake(spec: WorldSpec, family: str, config: Any) -> Twin:
    """An untrained twin whose predictions move, stay small, and never end an episode."""
    twin = Twin.untrained(spec, family, config)
    generator = torch.Generator().manual_seed(1)
    for parameter in twin.model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    if hasattr(twin.model, "normalizer"):
        twin.model.normalizer.low.fill_(-2.0)
        twin.model.normalizer.high.fill_(2.0)
        twin.model.normalizer.change_scale.fill_(0.1)
    return dataclasses.replace(twin, termination_threshold=1.0)


def noise_of(facts: list[JSON], rng: CounterRNG) -> Arrays:
    """The next numbers of random streams, as the metadata of a graph describe them."""
    return {
        each["name"]: getattr(rng, each["distribution"])(
            *each["shape"], dtype=getattr(torch, each["dtype"])
        ).numpy()
        for each in facts
    }


def named(observation: Any) -> Arrays:
    parts = observation if isinstance(observation, dict) else {"": observation}
    return {f"observation.{key}".rstrip("."): np.asarray(value) for key, value in parts.items()}


@pytest.fixture(scope="module", params=FAMILIES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A twin of a family, and its file."""
    family, config, seen, acted = FAMILIES[request.param]
    twin = awake(WorldSpec(seen, acted, horizon=500), family, config)
    path = tmp_path_factory.mktemp(family) / "twin.onnx"
    result = export_twin(twin, path)
    assert [file.name for file in result.files] == ["twin.onnx", "twin-start.onnx"]
    assert result.max_error <= 1e-5
    return twin, path


def test_a_hundred_steps_of_the_graph_are_those_of_the_simulator(exported: Any) -> None:
    follows_the_simulator(*exported, STEPS)


def follows_the_simulator(twin: Twin, path: Path, steps: int, close: float = 1e-5) -> None:
    run, facts = graph(path)
    simulator = Simulator(twin, ROWS, seed=4)
    simulator.reset()
    actions = twin.spec.action_space
    actions.seed(0)
    state = {f"state.{n}": v.numpy() for n, v in simulator.snapshot().state.items()}
    moved = 0.0
    for _ in range(steps):
        before = simulator.snapshot()
        noise = noise_of(facts["noise"], CounterRNG(before.seeds, before.draws))
        action = np.stack([actions.sample() for _ in range(ROWS)])
        expected = simulator.step(action)
        found = run(state | noise | {"action": action})
        for key, value in named(expected.observation).items():
            moved += float(np.abs(found[key].astype(np.float64) - value.mean()).sum())
            # A pixel may be rounded to the other side.
            room = 1.0 if value.dtype == np.uint8 else close
            np.testing.assert_allclose(found[key], value, rtol=close, atol=room, err_msg=key)
            assert (found[key] == value).mean() > 0.99 or value.dtype.kind == "f"
        np.testing.assert_allclose(found["reward"], expected.reward, rtol=close, atol=close)
        assert (found["termination_probability"] <= twin.termination_threshold).all()
        state = {n.removeprefix("next_"): v for n, v in found.items() if n.startswith("next_")}
    assert moved > 0.0
    assert facts["twin"]["fingerprint"] == twin.fingerprint()
    assert facts["twin"]["spec"] == twin.spec.to_json()
    assert facts["twin"]["horizon"] == twin.spec.horizon
    assert facts["twin"]["termination_threshold"] == twin.termination_threshold


def test_an_episode_starts_from_given_observations(exported: Any) -> None:
    twin, path = exported
    run, facts = graph(path.with_name("twin-start.onnx"))
    space = twin.spec.observation_space
    space.seed(0)
    seen = [space.sample() for _ in range(20)]
    batch = (
        {key: np.stack([each[key] for each in seen]) for key in space.spaces}
        if isinstance(space, spaces.Dict)
        else np.stack(seen)
    )
    given = {k: v.astype(np.float32) if v.dtype.kind == "f" else v for k, v in named(batch).items()}
    found = run(given | noise_of(facts["noise"], CounterRNG.from_seed(2, 20)))
    context = Context.from_observation(twin.codec.encode_observation(batch), twin.codec.action_size)
    expected = twin.model.encode(context, rng=CounterRNG.from_seed(2, 20))
    assert {f"state.{name}" for name in expected} == set(found)
    for name, value in expected.items():
        np.testing.assert_allclose(found[f"state.{name}"], value.numpy(), rtol=1e-5, atol=1e-5)


def test_angles_are_steps_of_the_simulator_too(tmp_path: Path) -> None:
    angles = {"observation": (Angle(1, -3.0, 6.0), Angle(3, 0.0, 360.0))}
    box = spaces.Box(np.array([-5, -5, -5, 0], np.float32), np.array([5, 5, 5, 400], np.float32))
    twin = awake(WorldSpec(box, spaces.Discrete(2), angles=angles), "ensemble", ENSEMBLE)
    export_twin(twin, tmp_path / "twin.onnx")
    follows_the_simulator(twin, tmp_path / "twin.onnx", STEPS)


def test_categories_are_drawn_as_by_the_simulator(tmp_path: Path) -> None:
    seen = spaces.Dict(
        {
            "place": spaces.Box(-9.0, 9.0, (2,), np.float32),
            "kind": spaces.Discrete(3, start=2),
            "parts": spaces.MultiDiscrete([2, 4]),
            "lamps": spaces.MultiBinary(2),
        }
    )
    twin = awake(WorldSpec(seen, spaces.MultiDiscrete([2, 3])), "ensemble", ENSEMBLE)
    export_twin(twin, tmp_path / "twin.onnx")
    follows_the_simulator(twin, tmp_path / "twin.onnx", STEPS)


def test_rewards_and_observations_stay_within_the_data(tmp_path: Path) -> None:
    from world_env.data_range import DataRange

    twin = awake(WorldSpec(VECTOR, spaces.Discrete(2)), "ensemble", ENSEMBLE)
    ends: Any = ([None, -1.0, None, None], [None] * 4)
    ranges = DataRange({"observation": ([-0.1] * 4, [0.1] * 4)}, (0.0, 0.01), None, ends)
    twin = dataclasses.replace(twin, ranges=ranges)
    export_twin(twin, tmp_path / "twin.onnx")
    run, facts = graph(tmp_path / "twin.onnx")
    state = {
        "state.observation": np.full((5, 4), 1.5, np.float32),
        "state.member": np.zeros(5, np.int64),
        "state.disagreement": np.full(5, -1, np.float32),
        "state.looks": np.zeros(5, np.int64),
    }
    noise = noise_of(facts["noise"], CounterRNG.from_seed(0, 5))
    found = run(state | noise | {"action": np.zeros(5, np.int64)})
    np.testing.assert_allclose(found["observation"], 0.12, rtol=1e-5)
    assert (found["next_state.observation"] > 1.0).all()
    for name in ("reward", "terminal_reward"):
        assert ((found[name] >= 0.0) & (found[name] <= np.float32(0.01))).all()
    assert facts["twin"]["ranges"]["ends"] == [[None, -1.0, None, None], [None] * 4]


def test_values_that_float32_does_not_resolve_are_named(tmp_path: Path) -> None:
    from world_env.data_range import DataRange

    far = spaces.Dict(clock=spaces.Box(-np.inf, np.inf, (1,), np.float64))
    twin = awake(WorldSpec(far, spaces.Discrete(2)), "ensemble", ENSEMBLE)
    bounds = {"clock": ([1.7e9], [1.7e9 + 9])}
    ranges = DataRange(bounds, (0.0, 1.0), None, offset={"clock": [1.7e9]})
    with pytest.raises(ExportError, match=r"\['clock'\] have values that float32 does not resolve"):
        export_twin(dataclasses.replace(twin, ranges=ranges), tmp_path / "twin.onnx")


def test_known_functions_are_no_part_of_the_graph(tmp_path: Path) -> None:
    twin = awake(WorldSpec(VECTOR, spaces.Discrete(2)), "linear", LinearConfig())
    twin = dataclasses.replace(twin, reward_fn=lambda before, action, after: after[:, 0])
    result = export_twin(twin, tmp_path / "twin.onnx")
    run, facts = graph(tmp_path / "twin.onnx")
    found = run(
        {"state.observation": np.zeros((2, 4), np.float32), "action": np.zeros(2, np.int64)}
    )
    assert "reward" not in found and "termination_probability" in found
    assert facts["twin"]["known"] == ["reward"] and "reward is computed" in result.notes[0]


def own(kind: type[LinearWorldModel]) -> Twin:
    name = f"export-{kind.__name__.lower()}"
    register_world_model(name, f"exported_models:{kind.__name__}")
    return awake(WorldSpec(VECTOR, spaces.Discrete(2)), name, LinearConfig())


def test_normal_draws_are_one_input_and_others_one_each(tmp_path: Path) -> None:
    export_twin(own(Noisy), tmp_path / "noisy.onnx")
    run, facts = graph(tmp_path / "noisy.onnx")
    assert facts["noise"] == [
        {"name": "noise", "distribution": "normal", "shape": [8], "dtype": "float32"}
    ]
    inputs = {"state.observation": np.zeros((2, 4), np.float32), "action": np.zeros(2, np.int64)}
    drawn = np.arange(16, dtype=np.float32).reshape(2, 8)
    still = run(inputs | {"noise": 0 * drawn})["next_state.observation"]
    found = run(inputs | {"noise": drawn})["next_state.observation"]
    np.testing.assert_allclose(found - still, drawn[:, :4] + 2 * drawn[:, 4:], rtol=1e-5)
    export_twin(own(Mixed), tmp_path / "mixed.onnx")
    _, facts = graph(tmp_path / "mixed.onnx")
    assert [(each["name"], each["distribution"]) for each in facts["noise"]] == [
        ("noise_0", "normal"),
        ("noise_1", "uniform"),
    ]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Branching, "`step` of the family 'export-branching' cannot be exported.*depends on the"),
        (Global, "differs from its source.*do not come from `rng`"),
        (Counted, "number of rows|len"),
        (Copying, "copies its random streams"),
        (Double, "onnxruntime cannot run the graph"),
    ],
)
def test_a_model_that_no_graph_can_hold_is_named(
    kind: type[LinearWorldModel], words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExportError, match=words):
        export_twin(own(kind), tmp_path / "twin.onnx")
    assert not list(tmp_path.iterdir())
    # torch prints the graph of a model that it cannot export.
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_every_bundled_twin_follows_its_simulator(bundled: list[str], tmp_path: Path) -> None:
    for name in bundled:
        twin = Twin.load(name)
        # No end before the last step: the graph has no resets.
        ranges = None if twin.ranges is None else dataclasses.replace(twin.ranges, ends=None)
        twin = dataclasses.replace(twin, termination_threshold=1.0, ranges=ranges)
        export_twin(twin, tmp_path / f"{name}.onnx")
        # Differences of rounding grow in a chaotic system.
        follows_the_simulator(twin, tmp_path / f"{name}.onnx", 20, close=1e-4)
