"""Steps a second of a twin on one thread: networks alone, simulator, environment classes, and comparisons.

    python -m benchmarks.speed.steps_per_second --scaling --plot benchmarks/results/steps_per_second.png
    python -m benchmarks.speed.steps_per_second --sizes HalfCheetah-v5 --rows 1000 --dtypes float32 bfloat16
    python -m benchmarks.speed.steps_per_second --images --rows 1 16 64

Twins are untrained (5 members of 4 x 200 units). All cases of one size and number of environments are timed in
alternating rounds, and the median is kept. No episode ends during the measurement, except in `vector_env_restarts`. One
thread, because more are slower if anything else runs. `--images` measures twins with image observations instead
(recurrent family, default size), with and without decoding.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from benchmarks.arguments import option, script_parser
from benchmarks.speed.mbrl_speed import MbrlError, Worker, mbrl_python, whole_rows
from benchmarks.speed.speed_plot import plot
from benchmarks.speed.stepping import NETWORKS, PARTS, WORLDS, Step, core, real
from benchmarks.speed.timing import JSON, Measure, alternate, median, rate, resident_mb
from world_env.atomic_io import write_json
from world_env.models.ensemble import EnsembleConfig
from world_env.real import spec_of
from world_env.results import facts
from world_env.spec import EnvConfig, WorldSpec
from world_env.twin import Twin

SIZES = ("CartPole-v1", "HalfCheetah-v5", "Ant-v5")
ROWS = (1, 4, 16, 64, 256, 1000, 4096, 16384)
NETWORK = EnsembleConfig(members=5, width=200, layers=4)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
UNCERTAINTY: dict[str, JSON] = {
    "off": {"uncertainty": False},
    "default": {"uncertainty": True},
    "full": {"uncertainty": "full"},
}
"""Value in the results file -> options of a simulator."""
SCALING = tuple(
    dict.fromkeys(
        [*((members, 17) for members in (2, 5, 10)), *((5, n) for n in (4, 17, 105, 376))]
    )
)
"""(members, observation size) pairs."""
IMAGES = {"64x64": (64, 64), "64x64x3": (64, 64, 3)}
WHAT = (*NETWORKS, *WORLDS, "real", "mbrl")


@dataclass(frozen=True)
class Key:
    """Fields that identify a case."""

    size: str
    what: str
    rows: int
    dtype: str = "float32"
    uncertainty: str = "off"
    members: int | None = None
    observation_size: int | None = None


Case = tuple[Key, Measure]
Rates = dict[Key, list[float]]
"""Case -> measured steps a second, one a round."""


# -- cases ---------------------------------------------------------------------------------------------------------


def twin_of(spec: WorldSpec, network: EnsembleConfig = NETWORK) -> Twin:
    """Untrained twin, by default with the network of all sizes."""
    return Twin.untrained(spec, "ensemble", network)


def prepared(key: Key, make: Callable[[], Step]) -> list[Case]:
    """The case after one step; none, with a printed reason, if the number type is not supported."""
    try:
        step = make()
        step()
    except (TypeError, RuntimeError) as error:
        if key.dtype == "float32":
            raise
        _say_once(f"failed: {key.what} in {key.dtype}: {error}")
        return []
    return [(key, partial(rate, step, key.rows))]


@cache
def _say_once(line: str) -> None:
    print(line, flush=True)


@cache
def spec_by(env_id: str) -> WorldSpec:
    """Spaces and horizon of a real environment."""
    return spec_of(EnvConfig(env_id))


def cases_of(key: Key, spec: WorldSpec, what: list[str], network: EnsembleConfig) -> list[Case]:
    """Networks, simulator and environment classes of one size and number of environments."""
    twin = twin_of(spec, network)
    scaling = "scaling_" if key.members else ""
    cases: list[Case] = []
    for name, make in {**NETWORKS, **WORLDS}.items():
        if name not in what or (name == "env" and key.rows > 1):
            continue
        for word, options in UNCERTAINTY.items():
            if name in WORLDS or word == "off":
                own = replace(key, what=scaling + name, uncertainty=word)
                cases += prepared(own, partial(make, twin, key.rows, options))
    return cases


def matrix_cases(shape: tuple[int, int, int], dtypes: Iterable[str]) -> list[Case]:
    """Matrix products, in GFLOP/s."""
    cases: list[Case] = []
    for name in dtypes:
        left, right = (torch.rand(pair).to(DTYPES[name]) for pair in (shape[:2], shape[1:]))
        out = torch.empty(shape[0], shape[2], dtype=DTYPES[name])
        key = Key("x".join(map(str, shape)), "matrix", shape[0], name)
        step = partial(torch.mm, left, right, out=out)
        cases.append((key, partial(rate, step, 2e-9 * math.prod(shape))))
    return cases


def scaling_cases(rows: int) -> list[Case]:
    """Simulator and networks alone by members and observation size."""
    cases: list[Case] = []
    for members, size in SCALING:
        spec = WorldSpec(
            observation_space=spaces.Box(-np.inf, np.inf, (size,), np.float64),
            action_space=spaces.Box(-1.0, 1.0, (6,), np.float32),
            horizon=None,
        )
        key = Key("synthetic", "", rows, members=members, observation_size=size)
        network = NETWORK.replace(members=members)
        cases += cases_of(key, spec, ["forward", "core"], network)
    return cases


def image_cases(rows: int) -> list[Case]:
    """Twins with image observations, and the parts of their step."""
    cases: list[Case] = []
    for size, shape in IMAGES.items():
        spec = WorldSpec(
            observation_space=spaces.Box(0, 255, shape, np.uint8),
            action_space=spaces.Box(-1.0, 1.0, (1,), np.float32),
            horizon=None,
        )
        twin = Twin.untrained(spec, "rssm")
        for what, make in PARTS.items():
            cases += prepared(Key(size, what, rows), partial(make, twin, rows))
    return cases


def memory(size: str, rows: int, steps: int) -> JSON:
    """Memory of a simulator, and its growth over `steps` steps of all environments."""
    twin = twin_of(spec_by(size))
    before = resident_mb()
    step = core(twin, rows, UNCERTAINTY["off"])
    for _ in range(3):
        step()
    held, times = resident_mb(), []
    for _ in range(steps):
        began = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - began))
    tenth, after = max(1, steps // 10), resident_mb()
    return {
        "size": size,
        "rows": rows,
        "steps": steps,
        "before_mb": before,
        "simulator_mb": round(held - before, 1),
        "growth_mb": round(after - held, 1),
        "milliseconds_first_tenth": median(times[:tenth]),
        "milliseconds_last_tenth": median(times[-tenth:]),
    }


# -- results -------------------------------------------------------------------------------------------------------


def row_of(key: Key, rates: Rates) -> JSON:
    """One row of the results file."""
    bare_name = "scaling_forward" if key.members else "forward"
    bare = rates.get(replace(key, what=bare_name, uncertainty="off"))
    speed = statistics.median(rates[key])
    share = None if bare is None or key.what == "real" else speed / statistics.median(bare)
    return {name: value for name, value in asdict(key).items() if value is not None} | {
        "steps_per_second": median([speed]),
        "milliseconds": median([1e3 * key.rows / speed]),
        "share_of_bare": None if share is None else round(share, 4),
    }


def limits(sizes: list[str], dtypes: list[str], rates: Rates) -> list[JSON]:
    """Upper bound of steps a second by matrix products alone, at the best rate of this run."""
    found = []
    for size, dtype in itertools.product(sizes, dtypes):
        model: Any = twin_of(spec_by(size)).model
        weights = [*model.dynamics.weights, *model.heads.weights]
        flops = 2 * sum(weight[0].numel() for weight in weights)
        measured = [
            statistics.median(values)
            for key, values in rates.items()
            if key.what == "matrix" and key.dtype == dtype
        ]
        if measured:
            limit = {"gflops": median([max(measured)]), "flops_per_step": flops}
            speed = median([max(measured) * 1e9 / flops])
            found.append({"size": size, "dtype": dtype, **limit, "steps_per_second": speed})
    return found


def tree_of(arguments: argparse.Namespace, head: JSON, rates: Rates) -> JSON:
    """The results file."""
    matrix = [
        {"shape": key.size, "dtype": key.dtype, "gflops": median(values)}
        for key, values in rates.items()
        if key.what == "matrix"
    ]
    network = {name: getattr(NETWORK, name) for name in ("members", "width", "layers")}
    return head | {
        "threads": torch.get_num_threads(),
        "repeats": arguments.repeats,
        "seconds": arguments.seconds,
        "network": network | {"head_width": NETWORK.head_width},
        "matrix": matrix,
        "limits": limits(arguments.sizes, arguments.dtypes, rates),
        "rows": [row_of(key, rates) for key in rates if key.what != "matrix"],
    }


def image_tree(arguments: argparse.Namespace, head: JSON, rates: Rates) -> JSON:
    """The results file of `--images`."""
    kept = ("size", "what", "rows", "steps_per_second", "milliseconds")
    whole = [row_of(key, rates) for key in rates]
    return head | {
        "threads": torch.get_num_threads(),
        "repeats": arguments.repeats,
        "seconds": arguments.seconds,
        "rows": [{name: row[name] for name in kept} for row in whole],
    }


# -- the run -------------------------------------------------------------------------------------------------------


def main() -> None:
    """Time the selected cases and write the file after each group."""
    arguments = parse()
    torch.set_num_threads(1)
    if arguments.images:
        return time_images(arguments)
    # Before the measurement: the commit of the loaded code, also if another commit is made meanwhile.
    head: JSON = (
        {"benchmark": "steps_per_second"} | facts().to_json() | {"memory": None, "notes": []}
    )
    if arguments.memory_steps:
        size = "HalfCheetah-v5" if "HalfCheetah-v5" in arguments.sizes else arguments.sizes[0]
        head["memory"] = memory(size, arguments.memory_rows, arguments.memory_steps)
        print(f"memory: {head['memory']}", flush=True)
    rates: Rates = {}

    def time_group(name: str, cases: list[Case]) -> None:
        measures = [measure for _, measure in cases]
        timed = alternate(measures, repeats=arguments.repeats, seconds=arguments.seconds)
        for (key, _), values in zip(cases, timed, strict=True):
            rates.setdefault(key, []).extend(values)
        write_json(arguments.out, tree_of(arguments, head, rates))
        print(name, flush=True)
        for row in (row_of(key, rates) for key, _ in cases if key.what != "matrix"):
            words = f"{row['what']}, {row['dtype']}, uncertainty {row['uncertainty']}"
            share = "" if row["share_of_bare"] is None else f", {row['share_of_bare']:.0%} of bare"
            print(f"  {words}: {row['steps_per_second']:,.0f} steps/s{share}", flush=True)

    with ExitStack() as stack:
        workers = open_workers(arguments, head, stack)
        for size in arguments.sizes:
            spec = spec_by(size)
            for rows in arguments.rows:
                # The product of one hidden layer, and a large square once a size: without bfloat16 instructions
                # one such product takes seconds.
                cases = matrix_cases((rows, NETWORK.width, NETWORK.width), arguments.dtypes)
                if rows == arguments.rows[0]:
                    cases += matrix_cases((arguments.square,) * 3, DTYPES)
                cases += cases_of(Key(size, "", rows), spec, arguments.what, NETWORK)
                if "real" in arguments.what:
                    cases += prepared(Key(size, "real", 1), partial(real, size))
                if size in workers:
                    whole = whole_rows(rows)
                    measure = partial(workers[size].rate, whole)
                    cases.append((Key(size, "mbrl", whole), measure))
                time_group(f"{size}, {rows} environments", cases)
    if arguments.scaling:
        time_group("scaling", scaling_cases(arguments.scaling_rows))
    if arguments.plot is not None:
        plot(tree_of(arguments, head, rates), arguments.plot)


def time_images(arguments: argparse.Namespace) -> None:
    """Time twins with image observations and write their file."""
    head, rates = {"benchmark": "image_steps"} | facts().to_json(), Rates()
    for rows in arguments.rows:
        cases = image_cases(rows)
        measures = [measure for _, measure in cases]
        timed = alternate(measures, repeats=arguments.repeats, seconds=arguments.seconds)
        rates |= {key: values for (key, _), values in zip(cases, timed, strict=True)}
    tree = image_tree(arguments, head, rates)
    write_json(arguments.out, tree)
    for row in tree["rows"]:
        print(
            f"{row['size']}, {row['rows']} environments, {row['what']}: "
            f"{row['steps_per_second']:,.0f} steps/s"
        )


def open_workers(arguments: argparse.Namespace, head: JSON, stack: ExitStack) -> dict[str, Worker]:
    """Process of mbrl-lib for each size with continuous actions; none, and a note, if it cannot be installed."""
    workers: dict[str, Worker] = {}
    if arguments.skip_mbrl or "mbrl" not in arguments.what:
        head["notes"].append("mbrl-lib was not selected")
        return workers
    try:
        python = stack.enter_context(mbrl_python())
        for size in arguments.sizes:
            spec = spec_by(size)
            if isinstance(spec.action_space, spaces.Box):
                lengths = (spec.observation_space.shape[0], spec.action_space.shape[0])
                worker = Worker(python, *lengths)
                stack.callback(worker.close)
                worker.rate(whole_rows(1), 0.0)
                workers[size] = worker
    except MbrlError as error:
        head["notes"].append(f"no mbrl-lib: {error}")
        print(head["notes"][-1], flush=True)
        return {}
    return workers


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = script_parser(__doc__)
    option(parser, "--sizes", SIZES, "real environment ids, for their spaces")
    option(parser, "--what", WHAT, "cases to time (default: all)", WHAT)
    option(parser, "--rows", ROWS, "numbers of environments")
    option(parser, "--dtypes", ["float32"], "number types of the matrix products", DTYPES)
    option(parser, "--repeats", 5, "rounds, of which the median is kept")
    option(parser, "--seconds", 0.5, "duration of a case in a round")
    option(parser, "--square", 1024, "side of the large matrices")
    parser.add_argument(
        "--scaling", action="store_true", help="also by members and observation size"
    )
    option(parser, "--scaling-rows", 1000, "environments of --scaling")
    option(parser, "--memory-rows", 16384, "environments of the memory measurement")
    option(parser, "--memory-steps", 1000, "steps of the memory measurement; 0: none")
    parser.add_argument("--skip-mbrl", action="store_true", help="do not install and time mbrl-lib")
    parser.add_argument(
        "--images", action="store_true", help="time twins with image observations instead"
    )
    parser.add_argument("--plot", type=Path, help="PNG to draw (default: none)")
    parser.add_argument(
        "--out",
        type=Path,
        help="results file to write (default: steps_per_second.json or image_steps.json)",
    )
    arguments = parser.parse_args()
    if arguments.out is None:
        name = "image_steps" if arguments.images else "steps_per_second"
        arguments.out = Path(f"benchmarks/results/{name}.json")
    return arguments


if __name__ == "__main__":
    main()
