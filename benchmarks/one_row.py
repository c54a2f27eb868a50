"""Where the time of one row goes, and what was tried to make it less.

    python benchmarks/one_row.py

One world of HalfCheetah's size, untrained, one thread: microseconds a step, the least of many rounds in alternation.
`around` is the environment around a model that computes nothing: what the core and the shell cost by themselves.
torch.compile is given the bare network of one member, the best case for it: no other member, no noise, no state.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from stepping import env, forward
from steps_per_second import NETWORK, spec_by, twin_of
from timing import JSON, alternate, rate
from torch import Tensor
from torch.nn import functional

from training.provenance import facts, write_results
from world_env.batch import Context, Observation, State
from world_env.models import ensemble
from world_env.models.base import Prediction, WorldModel
from world_env.models.ensemble import EnsembleConfig
from world_env.random import RowRandom
from world_env.twin import Twin

BENCHMARK = "one_row"
SIZE = "HalfCheetah-v5"
NETWORKS = {"4 x 200": NETWORK, "default": EnsembleConfig()}


class Nothing(WorldModel):
    """A world that stands still and pays nothing."""

    def encode(self, context: Context, *, random: RowRandom) -> State:
        """The start."""
        return dict(context.last())

    def observe(
        self, state: State, action: Tensor, observation: Observation, *, random: RowRandom
    ) -> State:
        """What was seen."""
        return dict(observation)

    def step(
        self, state: State, action: Tensor, *, random: RowRandom, **options: Any
    ) -> tuple[State, Prediction]:
        """Nothing happens."""
        nothing = torch.zeros(len(action))
        return state, Prediction(nothing, nothing)

    def decode(self, state: State) -> Observation:
        """The state itself."""
        return state

    def features(self, state: State) -> Tensor:
        """The observation."""
        return state["observation"]


@contextmanager
def call_by_call() -> Iterator[None]:
    """Within the block, one row takes the way of many."""
    few, ensemble._FEW = ensemble._FEW, 0
    try:
        yield
    finally:
        ensemble._FEW = few


def in_calls(step: Callable[[], Any]) -> None:
    """One step in calls of torch."""
    with call_by_call():
        step()


def by_torch_compile(twin: Twin) -> Callable[[], Any]:
    """The bare networks of the first member, each compiled whole."""
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


def steps_of(name: str) -> dict[str, Callable[[], Any]]:
    """What is timed for one network, by name."""
    twin = twin_of(spec_by(SIZE), NETWORKS[name])
    off, on = {"uncertainty": False}, {"uncertainty": True}
    steps: dict[str, Callable[[], Any]] = {
        "environment, compiled step": env(twin, 1, off),
        "environment, compiled step, uncertainty": env(twin, 1, on),
        "environment, torch call by call": partial(in_calls, env(twin, 1, off)),
        "bare networks, torch": forward(twin, 1, {}),
        "bare networks, torch.compile": by_torch_compile(twin),
    }
    if name == "default":
        still = Twin(twin.spec, "nothing", Nothing(twin.spec, None), twin.starts)
        steps["around"] = env(still, 1, off)
    return steps


def main() -> None:
    """Time everything and write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=20, help="rounds; the quickest is kept")
    parser.add_argument("--seconds", type=float, default=0.1, help="of each in each round")
    parser.add_argument("--out", type=Path, default=Path(f"benchmarks/results/{BENCHMARK}.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[JSON] = []
    for network in NETWORKS:
        steps = steps_of(network)
        for step in steps.values():
            step()
        timed = alternate(
            [partial(rate, step, 1.0) for step in steps.values()],
            repeats=arguments.repeats,
            seconds=arguments.seconds,
        )
        rows += [
            {"network": network, "what": name, "microseconds": round(1e6 / max(rates), 1)}
            for name, rates in zip(steps, timed, strict=True)
        ]
    write_results(arguments.out, {"benchmark": BENCHMARK} | facts() | {"rows": rows})
    for row in rows:
        print(row, flush=True)


if __name__ == "__main__":
    main()
