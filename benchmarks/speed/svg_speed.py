"""Time of one update of SVG in the bundled HalfCheetah twin, by part of the work.

    python -m benchmarks.speed.svg_speed

One thread, rollouts of 5 steps, networks of Stable-Baselines3's SAC: median of alternating rounds for each batch size.
`gflop` counts the matrix products of an update: model, actor and critics, and the gradients through them. Its share of
the rate of square matrix products is the share of the limit. Parts: `rollout` is the model's steps and the actor's
calls, `critics` their values and gradient step, `actor` the gradient of the actor back through the rollout, `refresh`
the rollouts that renew the initial states.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.arguments import option, script_parser
from benchmarks.speed.timing import JSON, Watch, alternate, median, rate
from world_env import Twin
from world_env.atomic_io import write_json
from world_env.envs import WorldModelSB3VecEnv
from world_env.results import facts
from world_env.rl.svg import SVG, DifferentiableTwin
from world_env.rl.svg_networks import FlatNetworks

BENCHMARK = "svg_speed"
BATCHES = (64, 128, 256)
STEPS = 5
UPDATES = 20
"""Updates between two renewals of the initial states: one timed call."""


def main() -> None:
    """Time all batch sizes and write the file."""
    parser = script_parser(__doc__, BENCHMARK)
    parser.add_argument("--twin", default="half-cheetah", help="bundled twin or folder")
    option(parser, "--repeats", 10, "rounds, of which the median is kept")
    option(parser, "--seconds", 2.0, "duration of a case in a round")
    option(parser, "--square", 256, "rows and columns of the matrix product of the limit")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    twin = Twin.load(arguments.twin)
    trainings = [training(twin, batch) for batch in BATCHES]
    measures = [partial(rate, partial(update, each), UPDATES) for each in trainings]
    square = torch.randn(arguments.square, arguments.square)
    products = partial(rate, partial(torch.mm, square, square), 2e-9 * arguments.square**3)
    *timed, limit = alternate(
        [*measures, products], repeats=arguments.repeats, seconds=arguments.seconds
    )
    gflops = median(limit)
    rows = []
    for batch, algorithm, rates in zip(BATCHES, trainings, timed, strict=True):
        milliseconds, gflop = median([1e3 / median(rates)]), gflop_of(algorithm, batch)
        rows.append(
            {
                "batch_size": batch,
                "milliseconds": milliseconds,
                "gflop": median([gflop]),
                "share_of_limit": median([gflop / gflops / milliseconds * 1e3]),
                "parts": parts_of(algorithm, arguments.seconds),
            }
        )
    write_json(
        arguments.out,
        {"benchmark": BENCHMARK}
        | facts().to_json()
        | {"twin": arguments.twin, "repeats": arguments.repeats, "gflops": gflops, "rows": rows},
    )
    for row in rows:
        print(row, flush=True)


def training(twin: Twin, batch: int) -> SVG:
    """SVG that has made its first updates, and compiled its loops."""
    env = WorldModelSB3VecEnv(twin, num_envs=1)
    algorithm = SVG("MlpPolicy", env, rollout_steps=STEPS, batch_size=batch, seed=0, device="cpu")
    algorithm.learn(UPDATES)
    return algorithm


def update(algorithm: SVG) -> None:
    """Renew the initial states, and make the updates before the next renewal."""
    algorithm.learn(UPDATES, reset_num_timesteps=False)


def gflop_of(algorithm: SVG, batch: int) -> float:
    """Matrix products of one update in 10^9 operations, without the rollouts that renew the initial states.

    A product of the forward pass has one of the same size for the gradient of its inputs, and another one for that of
    its weights.
    """
    model: Any = algorithm.env.get_attr("twin")[0].model
    member = sum(products(network) for network in (model.dynamics, model.heads)) / (
        model.config.members
    )
    actor, critics = products(algorithm.actor), products(algorithm.critic)
    forward = STEPS * member + (STEPS + 1) * actor + 3 * critics
    # Inputs and weights of the actor; inputs of the model, of one value, and both of the critics.
    backward = STEPS * member + 2 * (STEPS + 1) * actor + 3 * critics
    return 2e-9 * batch * (forward + backward)


def products(network: nn.Module) -> int:
    """Multiplications of one row: the number of weights in matrices."""
    return sum(
        each.numel() for each in network.parameters() if each.ndim > 1 and min(each.shape[-2:]) > 1
    )


def parts_of(algorithm: SVG, seconds: float) -> JSON:
    """Part of the work -> milliseconds of an update."""
    watch = Watch()
    with (
        watch.of(DifferentiableTwin, "rollout", "rollout"),
        watch.of(FlatNetworks, "least_target", "critics"),
        watch.of(FlatNetworks, "step_critics", "critics"),
        watch.of(FlatNetworks, "value", "critics"),
        watch.of(FlatNetworks, "step_actor", "actor"),
        watch.of(SVG, "_refresh", "refresh"),
    ):
        whole = rate(partial(update, algorithm), UPDATES, seconds)
    counted = watch.spent["actor"].calls
    parts = {name: 1e3 * spent.seconds / counted for name, spent in watch.spent.items()}
    parts["rest"] = 1e3 / whole - sum(parts.values())
    return {name: median([value]) for name, value in parts.items()}


if __name__ == "__main__":
    main()
