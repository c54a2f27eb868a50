"""Plot of `results/steps_per_second.json`.

python -m benchmarks.speed.speed_plot benchmarks/results/steps_per_second.json steps_per_second.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = {
    "forward": "black",
    "dynamics": "grey",
    "core": "tab:blue",
    "env": "tab:purple",
    "vector_env": "tab:orange",
    "vector_env_restarts": "tab:brown",
    "vec_env": "tab:green",
    "mbrl": "tab:pink",
    "scaling_forward": "black",
    "scaling_core": "tab:blue",
}
_LIMIT_COLOURS = {"float32": "dimgrey", "bfloat16": "darkkhaki"}
_MARKERS = {"off": "o", "default": "o", "full": "x"}
_WIDTHS = {"off": 1.8, "default": 1.0, "full": 0.6}
_BARE = ("forward", "dynamics", "scaling_forward")
JSON = dict[str, Any]


def plot(tree: JSON, path: Path) -> None:
    """Draw steps a second by number of environments, one panel a size, and by members and observation size."""
    sizes = list(dict.fromkeys(row["size"] for row in tree["rows"] if "members" not in row))
    scaling = [row for row in tree["rows"] if "members" in row]
    panels = len(sizes) + (2 if scaling else 0)
    columns = min(panels, 3)
    lines = -(-panels // columns)
    figure = Figure(figsize=(6.0 * columns, 4.5 * lines + 1.5), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for size, axis in zip(sizes, axes, strict=False):
        rows = [row for row in tree["rows"] if row["size"] == size and "members" not in row]
        _panel(axis, [row for row in rows if row["what"] != "real"], "rows")
        levels = [
            ("real", row["steps_per_second"], "tab:red") for row in rows if row["what"] == "real"
        ]
        for limit in tree["limits"]:
            if limit["size"] == size:
                words = f"matrix limit, {limit['dtype']}"
                levels.append((words, limit["steps_per_second"], _LIMIT_COLOURS[limit["dtype"]]))
        for words, level, colour in levels:
            axis.axhline(level, color=colour, linestyle=":", label=words)
        axis.set_title(size)
    if scaling:
        by_members, by_size = axes[panels - 2 : panels]
        _panel(by_members, [row for row in scaling if row["observation_size"] == 17], "members")
        _panel(by_size, [row for row in scaling if row["members"] == 5], "observation_size")
        for axis in (by_members, by_size):
            axis.set_title(f"{scaling[0]['rows']} environments")
    for axis in axes[panels:]:
        axis.remove()
    shown = [axis.get_legend_handles_labels() for axis in axes[:panels]]
    legend = {
        words: line for lines, labels in shown for words, line in zip(labels, lines, strict=True)
    }
    figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=5, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _panel(axis: Axes, rows: list[JSON], along: str) -> None:
    """One line for each case, number type and uncertainty, log-log."""
    lines: dict[tuple[str, str, str], list[tuple[int, float]]] = {}
    for row in rows:
        name = (row["what"], row["dtype"], row["uncertainty"])
        lines.setdefault(name, []).append((row[along], row["steps_per_second"]))
    for (what, dtype, uncertainty), points in lines.items():
        label = what.replace("_", " ")
        if uncertainty != "off":
            label += f", {uncertainty} uncertainty"
        axis.plot(
            *zip(*sorted(points), strict=True),
            label=label if dtype == "float32" else f"{label}, {dtype}",
            color=COLOURS.get(what),
            linestyle="--" if what in _BARE else "-",
            marker=_MARKERS[uncertainty] if dtype == "float32" else "s",
            markersize=4,
            linewidth=_WIDTHS[uncertainty],
            fillstyle="full" if uncertainty == "off" else "none",
        )
    axis.set_xscale("log")
    # Numbers of environments of mbrl-lib are multiples of its members.
    ticks = sorted({row[along] for row in rows if row["what"] != "mbrl"})
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.set_xticks([], minor=True)
    axis.set_yscale("log")
    axis.set_xlabel({"rows": "environments"}.get(along, along.replace("_", " ")))
    axis.set_ylabel("steps a second, one thread")
    axis.grid(alpha=0.3)


if __name__ == "__main__":
    plot(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2]))
