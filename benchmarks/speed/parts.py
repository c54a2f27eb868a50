"""Time of one step by part of the work, with and without numba and torch.compile.

    python -m benchmarks.speed.parts

Untrained twins, one thread: microseconds of one step of all environments, minimum of many alternating rounds. `real` is
one real environment. `around` is the environment around a model without computation: the cost of simulator and
environment class. torch.compile gets the networks of one member without noise and state, its best case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.arguments import option, script_parser
from benchmarks.speed.stepping import env, forward, real, vector_env
from benchmarks.speed.steps_per_second import NETWORK, spec_by, twin_of
from benchmarks.speed.timing import JSON, alternate, rate
from world_env.atomic_io import write_json
from world_env.batch import Context, Observation, State
from world_env.models import Prediction, WorldModel
from world_env.models.ensemble import EnsembleConfig, model as ensemble
from world_env.models.layers import fused_activation
from world_env.results import facts
from world_env.rng import CounterRNG
from world_env.twin import Twin

BENCHMARK = "parts"
NETWORKS = {"4 x 200": NETWORK, "default": EnsembleConfig()}
CASES = (
    *(("HalfCheetah-v5", network, rows) for network in NETWORKS for rows in (1, 1000)),
    *((size, "default", 16_384) for size in ("HalfCheetah-v5", "Ant-v5")),
)
"""(size, network, rows)."""


class ConstantModel(WorldModel):
    """World model without computation: constant state, zero rewards."""

    def encode(self, context: Context, *, rng: CounterRNG) -> State:
        """The last observation."""
        return dict(context.last())

    def observe(
        self, state: State, action: Tensor, observation: Observation, *, rng: CounterRNG
    ) -> State:
        """The observation."""
        return dict(observation)

    def step(
        self, state: State, action: Tensor, *, rng: CounterRNG, **options: Any
    ) -> tuple[State, Prediction]:
        """The same state, reward and termination zero."""
        nothing = torch.zeros(len(action))
        return state, Prediction(nothing, nothing)

    def decode(self, state: State) -> Observation:
        """The state itself."""
        return state

    def features(self, state: State) -> Tensor:
        """The observation."""
        return state["observation"]


@contextmanager
def without_numba() -> Iterator[None]:
    """Within the block, models are built as without numba."""
    kept = fused_activation.compiled_loops
    fused_activation.compiled_loops = ensemble.compiled_loops = lambda: None
    try:
        yield
    finally:
        fused_activation.compiled_loops = ensemble.compiled_loops = kept


def by_torch_compile(twin: Twin) -> Callable[[], Any]:
    """The networks of the first member, compiled by torch.compile."""
    model: Any = twin.model

    def run(
        hidden: Tensor, layers: list[tuple[Tensor, ...]], last: tuple[Tensor, Tensor]
    ) -> Tensor:
        for weight, bias, gain, shift in layers:
            hidden = torch.addmm(bias, hidden, weight)
            hidden = functional.silu(functional.layer_norm(hidden, hidden.shape[-1:], gain, shift))
        return torch.addmm(last[1], hidden, last[0])

    compiled = torch.compile(run, dynamic=False)
    work = []
    for network in (model.dynamics, model.heads):
        layers = [
            (w[0].detach(), b[0].detach(), g[0, 0].detach(), s[0, 0].detach())
            for w, b, g, s in zip(
                network.weights, network.biases, network.gains, network.shifts, strict=False
            )
        ]
        last = (network.weights[-1][0].detach(), network.biases[-1][0].detach())
        work.append((torch.randn(1, network.weights[0].shape[1]), layers, last))

    @torch.no_grad()
    def step() -> None:
        for words in work:
            compiled(*words)

    return step


def steps_of(size: str, network: str, rows: int) -> dict[str, Callable[[], Any]]:
    """Cases by name; each steps all environments once (`real`: one environment)."""
    twin = twin_of(spec_by(size), NETWORKS[network])
    off, on = {"uncertainty": False}, {"uncertainty": True}
    shell = env if rows == 1 else vector_env
    rng = CounterRNG.from_seed(0, rows)
    numbers = twin.spec.observation_space.shape[0]
    still = Twin(twin.spec, "constant", ConstantModel(twin.spec, None), twin.starts)
    steps: dict[str, Callable[[], Any]] = {
        "environment": shell(twin, rows, off),
        "environment, default uncertainty": shell(twin, rows, on),
        "bare networks": forward(twin, rows, {}),
        "noise": lambda: rng.normal(numbers),
        "around": shell(still, rows, off),
        "real": real(size),
    }
    with without_numba():
        steps["environment, without numba"] = shell(twin, rows, off)
        steps["bare networks, without numba"] = forward(twin, rows, {})
    if rows == 1:
        steps["bare networks, torch.compile"] = by_torch_compile(twin)
    return steps


def main() -> None:
    """Time everything and write the file."""
    parser = script_parser(__doc__, BENCHMARK)
    option(parser, "--repeats", 20, "rounds, of which the minimum is kept")
    option(parser, "--seconds", 0.1, "duration of a case in a round")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[JSON] = []
    for size, network, count in CASES:
        steps = steps_of(size, network, count)
        for step in steps.values():
            step()
        timed = alternate(
            [partial(rate, step, 1.0) for step in steps.values()],
            repeats=arguments.repeats,
            seconds=arguments.seconds,
        )
        rows += [
            {
                "size": size,
                "network": network,
                "rows": count,
                "what": name,
                "microseconds": round(1e6 / max(rates), 1),
            }
            for name, rates in zip(steps, timed, strict=True)
        ]
    write_json(arguments.out, {"benchmark": BENCHMARK} | facts().to_json() | {"rows": rows})
    for row in rows:
        print(row, flush=True)


if __name__ == "__main__":
    main()
