"""Tables of speed for tables.py, one function a results file."""

from __future__ import annotations

import itertools
import statistics

from benchmarks.markdown import grouped, paragraphs, source, table, verdict
from world_env.types import JSON

IMAGE_ROWS = 16
IMAGE_GOALS = {("64x64", "core, images"): 5_000, ("64x64", "core, latents"): 25_000}
"""(observation, measure) -> smallest steps a second in `IMAGE_ROWS` environments."""
SVG_GOALS = {256: 30.0}
"""Batch size -> largest milliseconds of an update of SVG."""
LAYERS = {
    "forward": "networks alone",
    "core": "simulator",
    "env": "`Env`",
    "vector_env": "`VectorEnv`",
    "vector_env_restarts": "`VectorEnv`, with resets",
    "vec_env": "SB3 `VecEnv`",
    "mbrl": "mbrl-lib",
    "real": "real environment",
}
"""Value in the results file -> column."""


def steps_per_second_section(tree: JSON) -> str:
    """Steps a second by environment, number of environments and uncertainty estimate."""
    network = tree["network"]
    rows = [row for row in tree["rows"] if "members" not in row]
    kinds = list(dict.fromkeys((row["dtype"], row["uncertainty"]) for row in rows))
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    lines = []
    for size, count, (dtype, uncertainty) in itertools.product(sizes, (1, 1000), kinds):
        found = {
            row["what"]: row
            for row in rows
            if (row["size"], row["dtype"], row["uncertainty"]) == (size, dtype, uncertainty)
            and _about(row, count)
        }
        if any(name in found for name in LAYERS):
            kind = uncertainty if dtype == "float32" else f"{uncertainty}, {dtype}"
            lines.append([size, f"{count:,}", kind, *(_rate(found.get(name)) for name in LAYERS)])
    header = ["environment", "num_envs", "uncertainty", *LAYERS.values()]
    limits = "; ".join(
        f"{limit['size']} {limit['steps_per_second']:,.0f} ({limit['dtype']})"
        for limit in tree["limits"]
    )
    bound = f" Upper bound by matrix products alone: {limits}." if limits else ""
    return paragraphs(
        table(header, lines),
        f"{network['members']} members of {network['layers']} x {network['width']} units, one thread, median of "
        f"{tree['repeats']} alternating rounds. {source(tree)}{bound}{_memory(tree['memory'])}",
    )


def _memory(memory: JSON | None) -> str:
    if memory is None:
        return ""
    total = memory["rows"] * memory["steps"]
    return (
        f" Memory: {memory['rows']:,} environments of {memory['size']} use {memory['simulator_mb']:,.0f} MB; after "
        f"{total:,} steps {memory['growth_mb']:+,.1f} MB, and one step of all takes "
        f"{memory['milliseconds_last_tenth']:.1f} ms instead of {memory['milliseconds_first_tenth']:.1f} ms."
    )


def _about(row: JSON, count: int) -> bool:
    """Numbers of environments of mbrl-lib are rounded up to a multiple of the members."""
    return count <= row["rows"] < count + 5


def _rate(row: JSON | None) -> str:
    if row is None:
        return ""
    share = row["share_of_bare"]
    return f"{row['steps_per_second']:,.0f}" + ("" if share in (None, 1.0) else f" ({share:.0%})")


def image_steps_section(tree: JSON) -> str:
    """Steps a second of twins with image observations, with their goals."""
    counts = sorted({row["rows"] for row in tree["rows"]})
    found = {(row["size"], row["what"], row["rows"]): row for row in tree["rows"]}
    lines = []
    for size, what in dict.fromkeys((row["size"], row["what"]) for row in tree["rows"]):
        if what.startswith("vec_env"):
            continue  # within a few percent of the simulator
        cells = [found.get((size, what, count)) for count in counts]
        shown = [
            f"{row['steps_per_second']:,.0f} ({row['milliseconds']:.2f} ms)" if row else ""
            for row in cells
        ]
        goal, row = IMAGE_GOALS.get((size, what)), found.get((size, what, IMAGE_ROWS))
        word = ""
        if goal is not None and row is not None:
            met = verdict(row["steps_per_second"] >= goal)
            word = f"{goal:,} in {IMAGE_ROWS} environments: {met}"
        lines.append([size, what, *shown, word])
    header = ["observation", "measured", *(f"num_envs {count}" for count in counts), "goal"]
    end = f"Median of {tree['repeats']} alternating rounds. {source(tree)}"
    return paragraphs(table(header, lines), end)


def gpu_section(tree: JSON) -> str:
    """Steps a second by number of environments, and gradient steps a second, one line a family and device."""
    steps = [row for row in tree["rows"] if row["what"] == "steps"]
    fits = {
        (row["family"], row["device"]): row["per_second"]
        for row in tree["rows"]
        if row["what"] == "updates"
    }
    counts = sorted({row["rows"] for row in steps})
    found = grouped(
        steps, lambda row: (row["family"], row["size"], row["mode"], row["device"], row["threads"])
    )
    lines = []
    for (family, size, mode, device, threads), rows in found.items():
        rates = {row["rows"]: row["per_second"] for row in rows}
        place = f"{device}, {threads} thread{'s' * (threads > 1)}"
        what = f"{size}, {'latents' if mode == 'latent' else 'observations'}"
        cells = [*(rates.get(count) for count in counts), fits.get((family, device))]
        lines.append([family, what, place, *map(_amount, cells)])
    header = ["family", "observation, output", "device", *(f"num_envs {n:,}" for n in counts)]
    return paragraphs(table([*header, "gradient steps of a fit"], lines), source(tree))


def _amount(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def parts_section(tree: JSON) -> str:
    """Time of one step by part of the work."""
    names = ("size", "network", "rows")
    columns = list(dict.fromkeys(tuple(row[name] for name in names) for row in tree["rows"]))
    found = {
        (row["what"], *(row[name] for name in names)): row["microseconds"] for row in tree["rows"]
    }
    lines = []
    for what in dict.fromkeys(row["what"] for row in tree["rows"]):
        cells = [found.get((what, *column)) for column in columns]
        name = f"{what} (option removed)" if "bfloat16" in what else what
        lines.append([name, *("" if cell is None else f"{cell:,.0f}" for cell in cells)])
    times = [
        f"{column[2] * found[('real', *column)] / found[('environment', *column)]:.1f}"
        for column in columns
    ]
    lines.append(["**speed relative to one real environment**", *times])
    header = [f"{size}, {network} network, num_envs {rows:,}" for size, network, rows in columns]
    return paragraphs(table(["microseconds", *header], lines), source(tree))


def fit_speed_section(tree: JSON) -> str:
    """One line a fit, in the order of the runs."""
    phases = ("prepare", "updates", "validation", "finish", "total")
    return paragraphs(
        table(
            [
                *("data", "change", "threads", "gradient steps a second", " + ".join(phases[:-1])),
                *("total (s)", "open-loop error", "peak memory (MB)", "commit"),
            ],
            [
                [
                    f"{row['task']}, {row['transitions']:,} steps",
                    f"`{row['change']}`" if row["change"] else "none",
                    str(row["threads"]),
                    f"{row['updates_per_second']:.0f}",
                    " + ".join(f"{row['seconds'][name]:.1f}" for name in phases[:-1]),
                    f"**{row['seconds']['total']:.1f}**",
                    f"{row['open_loop']:.4f}",
                    f"{row['peak_mb']:,.0f}",
                    f"`{row['commit'][:8]}`",
                ]
                for row in tree["rows"]
            ],
        ),
        source(tree),
    )


def ppo_speed_section(tree: JSON) -> str:
    """One line a comparison of PPO in the twin and in the real environment."""
    lines = []
    for row in tree["rows"]:
        until = f"{max(training['steps'] for training in row['trainings']):,} steps"
        if row["to_return"] is not None:
            until = f"a real return of {row['to_return']:g}"
        ratio = "not reached" if row["ratio"] is None else f"**{row['ratio']:.2f}**"
        settings = f"{row['rows_together']}, {row['batch_size']}, {row['n_epochs']}"
        sides = [_training(row, world) for world in ("twin", "real")]
        end = [*sides, ratio, f"`{row['commit'][:8]}`"]
        lines.append([f"{row['task']}, {row['twin']}", until, settings, *end])
    split = "s (env, policy, update)"
    header = ["task, twin", "trained for", "environments, batch size, epochs", f"twin: {split}"]
    return paragraphs(
        table([*header, f"real environment: {split}", "real / twin", "commit"], lines), source(tree)
    )


def svg_speed_section(tree: JSON) -> str:
    """Time of an update of SVG by batch size, its parts, and its share of the limit."""
    lines = []
    for row in tree["rows"]:
        most, milliseconds = SVG_GOALS.get(row["batch_size"]), row["milliseconds"]
        lines.append(
            [
                str(row["batch_size"]),
                f"**{milliseconds:.1f}**",
                *(f"{part:.1f}" for part in row["parts"].values()),
                f"{row['gflop']:.2f}",
                f"{row['share_of_limit']:.0%}",
                "" if most is None else f"<= {most:.0f} ms: {verdict(milliseconds <= most)}",
            ]
        )
    parts = [f"{name} (ms)" for name in tree["rows"][0]["parts"]]
    header = ["batch size", "update (ms)", *parts, "GFLOP", "share of the limit", "goal"]
    end = (
        f"Twin `{tree['twin']}`, rollouts of 5 steps, one thread, median of {tree['repeats']} rounds. The limit is the "
        f"rate of square matrix products, {tree['gflops']:.0f} GFLOP/s. {source(tree)}"
    )
    return paragraphs(table(header, lines), end)


def _training(row: JSON, world: str) -> str:
    """Median training time in seconds, split if it was measured."""
    trainings = grouped(row["trainings"], lambda training: (training["world"],))[world,]
    seconds = statistics.median(training["seconds"] for training in trainings)
    if row["to_return"] is not None:
        steps = statistics.median(training["steps"] for training in trainings)
        return f"{seconds:.0f} ({steps:,.0f} steps)"
    parts = [
        statistics.median(training[f"{name}_seconds"] for training in trainings)
        for name in ("environment", "policy", "update")
    ]
    return f"{seconds:.1f} ({', '.join(f'{part:.1f}' for part in parts)})"
