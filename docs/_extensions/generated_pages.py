"""Sphinx extension: parts of pages that are generated from the code at build time.

Directives (use them in Markdown as fenced blocks, ```` ```{name} argument ````):
    diagram NAME           inline SVG of docs/_static/NAME.svg; the content of the block is its caption
    command-help COMMAND   output of `world-env COMMAND --help`
    bundled-environments   one section for each registered id, in the form of Gymnasium's environment pages
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import math
import os
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

STATIC = Path(__file__).resolve().parents[1] / "_static"


def setup(app: Any) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("diagram", Diagram)
    app.add_directive("command-help", CommandHelp)
    app.add_directive("bundled-environments", BundledEnvironments)
    return {"parallel_read_safe": True}


class Diagram(SphinxDirective):
    """An SVG inside the page, so that its colours follow the theme."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """The figure as raw HTML."""
        path = STATIC / f"{self.arguments[0]}.svg"
        self.env.note_dependency(str(path))
        caption = " ".join(self.content)
        svg = re.sub(r"<\?xml.*?\?>", "", path.read_text(encoding="utf-8")).strip()
        html = f'<figure class="diagram">{svg}<figcaption>{caption}</figcaption></figure>'
        return [nodes.raw("", html, format="html")]


class CommandHelp(SphinxDirective):
    """The help text of one command."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """A literal block."""
        text = command_help(self.arguments[0])
        block = nodes.literal_block(text, text, language="text")
        return [nodes.container("", block, classes=["command-help"])]


def command_help(command: str) -> str:
    """What `world-env COMMAND --help` prints on a terminal of 100 columns."""
    from world_env.cli.main import main

    shown = io.StringIO()
    width = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
            main([*command.split(), "--help"])
    finally:
        if width is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = width
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown.getvalue()).strip()
    if not text.startswith("usage:"):
        raise ValueError(f"`world-env {command} --help` printed no usage: {text[:200]!r}")
    return text


class BundledEnvironments(SphinxDirective):
    """A section for each registered id."""

    def run(self) -> list[nodes.Node]:
        """Sections, parsed from Markdown."""
        text = "\n\n".join(environment_page(env_id, twin) for env_id, twin in registered_ids())
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def registered_ids() -> list[tuple[str, str]]:
    """(id, name of the bundled twin) of each registered id but the general `WorldModel-v0`."""
    import gymnasium

    import world_env  # noqa: F401  (its import registers the ids)

    return sorted(
        (env_id, spec.kwargs["twin"])
        for env_id, spec in gymnasium.registry.items()
        if env_id.startswith("WorldModel/")
    )


def environment_page(env_id: str, twin: str) -> str:
    """The page of one id as Markdown, after Gymnasium's template for environments."""
    from safetensors import safe_open

    from world_env.twin import find_twin

    folder = find_twin(twin)
    tree = json.loads((folder / "twin.json").read_text(encoding="utf-8"))
    with safe_open(folder / "starts.safetensors", "np") as file:
        count = {
            name: file.get_slice(f"{name}.length").get_shape()[0]
            for name in ("starts", "states")
            if f"{name}.length" in file.keys()
        }
    spec, provenance, ranges = tree["spec"], tree["provenance"], tree["ranges"]
    real = provenance["real"]
    made = _made_with(real)
    low, high = ranges["reward"]
    parts = [
        f"## {env_id}",
        f"| | |\n|---|---|\n| Twin | `{twin}` |\n| Real environment | `{real['env_id']}`{made} |\n"
        f"| World model | `{tree['family']}` |\n| Action space | `{_short(spec['action_space'])}` |\n"
        f"| Observation space | `{_short(spec['observation_space'])}` |\n"
        f'| Import | `import world_env; gymnasium.make("{env_id}")` |',
        "### Description",
        f"A learned simulator of `{real['env_id']}`, fitted to {provenance['real_steps']:,} real "
        f"environment steps in {provenance['episodes']:,} episodes. One step advances "
        f"{spec['seconds_per_step']:g} seconds of simulated time.",
        "### Action space",
        _action_text(spec["action_space"], real["env_id"]),
        "### Observation space",
        _observation_table(spec["observation_space"], ranges, real),
        "### Rewards",
        f"The world model predicts the reward. In the training data, one step's reward lies in "
        f"[{_number(low)}, {_number(high)}]. Predicted rewards are clipped to this range.",
        "### Starting state",
        f"`reset()` draws one of {count['starts']:,} initial states of real episodes. "
        + (
            f"With `dataset_starts=p`, a share p of the resets begins in one of {count['states']:,} states "
            "from inside the data instead."
            if "states" in count
            else "The twin holds no states from inside the data."
        ),
        "### Episode end",
        _end_text(tree, spec),
        "### Arguments",
        f'```python\nimport gymnasium\nimport world_env\n\nenv = gymnasium.make("{env_id}")\n```',
        "All ids take the arguments of {py:class}`~world_env.WorldModelEnv`.",
        "### Version history",
        f"* v0: initial version, fitted at commit `{provenance['commit'][:12]}`.",
    ]
    return "\n\n".join(parts)


def _made_with(real: dict[str, Any]) -> str:
    notes = []
    if real["kwargs"]:
        notes.append(f"arguments `{json.dumps(real['kwargs'])}`")
    if real["wrappers"]:
        notes.append(
            "wrappers " + ", ".join(f"`{wrapper['name']}`" for wrapper in real["wrappers"])
        )
    return f" with {' and '.join(notes)}" if notes else ""


def _short(space: dict[str, Any]) -> str:
    if space["type"] == "Discrete":
        return f"Discrete({space['n']})"
    low, high = (_bounds(space[side]) for side in ("low", "high"))
    return f"Box({low}, {high}, {tuple(space['shape'])}, {space['dtype']})"


def _bounds(value: Any) -> str:
    if not isinstance(value, list):
        return _number(float(value))
    numbers = {_number(float(each)) for each in value}
    return (
        numbers.pop()
        if len(numbers) == 1
        else "[" + ", ".join(map(_number, map(float, value))) + "]"
    )


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else ("-inf" if value < 0 else "inf")


def _real_table(env_id: str, title: str) -> list[str]:
    """Names of the rows of a table in the docstring of a real environment; empty if there is none."""
    import gymnasium

    try:
        module, _, name = str(gymnasium.spec(env_id).entry_point).partition(":")
        text = getattr(importlib.import_module(module), name).__doc__ or ""
    except ImportError:
        return []
    _, found, rest = text.partition(f"## {title}")
    section = re.split(r"^\s*## ", rest, maxsplit=1, flags=re.M)[0] if found else ""
    return [row[1].strip() for row in re.findall(r"^\s*\| *(\d+) *\|([^|]+)\|", section, re.M)]


def _action_text(space: dict[str, Any], real_id: str) -> str:
    names = _real_table(real_id, "Action Space")
    if space["type"] == "Discrete":
        if len(names) != space["n"]:
            return f"`{_short(space)}`: {space['n']} discrete actions, the same as in `{real_id}`."
        rows = [f"| {number} | {name} |" for number, name in enumerate(names)]
        return "\n".join(["| Num | Action |", "|---|---|", *rows])
    size = math.prod(space["shape"])
    low, high = (_column(space[side], size) for side in ("low", "high"))
    if len(names) != size:
        names = [f"action {number} of `{real_id}`" for number in range(size)]
    rows = [
        f"| {number} | {names[number]} | {_number(low[number])} | {_number(high[number])} |"
        for number in range(size)
    ]
    note = "A finite action outside the bounds is clipped."
    return "\n".join(["| Num | Action | Min | Max |", "|---|---|---|---|", *rows, "", note])


def _column(bound: Any, size: int) -> list[float]:
    return [float(value) for value in bound] if isinstance(bound, list) else [float(bound)] * size


def _observation_table(space: dict[str, Any], ranges: dict[str, Any], real: dict[str, Any]) -> str:
    if space["dtype"] == "uint8" and len(space["shape"]) > 1:
        height, width = space["shape"][:2]
        return f"One image of {height} x {width} pixels, uint8, from 0 to 255."
    size = math.prod(space["shape"])
    names = _real_table(real["env_id"], "Observation Space")[:size]
    if len(names) != size:
        names = [f"dimension {number} of `{real['env_id']}`" for number in range(size)]
    columns = [_column(space[side], size) for side in ("low", "high")]
    columns += [list(side) for side in ranges["observation"]["observation"]]
    rows = [
        f"| {number} | {names[number]} | {' | '.join(_number(c[number]) for c in columns)} |"
        for number in range(size)
    ]
    head = [
        "| Num | Observation | Min | Max | Min in the data | Max in the data |",
        "|---|---|---|---|---|---|",
    ]
    note = (
        "Observations are clipped to the space, then to the range of the data, widened by a margin."
    )
    return "\n".join([*head, *rows, "", note])


def _end_text(tree: dict[str, Any], spec: dict[str, Any]) -> str:
    threshold = tree["termination_threshold"]
    labels = tree["fidelity"]["termination"]["terminal_labels"]
    lines = [
        f"* **Termination**: the predicted probability of termination exceeds {threshold:.3g}. "
        f"The validation split holds {labels:,} terminations."
    ]
    if tree["ranges"].get("ends"):
        low, high = tree["ranges"]["ends"]
        bounds = [f"dimension {n} < {v:.4g}" for n, v in enumerate(low) if v is not None]
        bounds += [f"dimension {n} > {v:.4g}" for n, v in enumerate(high) if v is not None]
        lines.append(
            f"* **Termination**: a hard termination bound is crossed ({', '.join(bounds)})."
        )
    if spec["horizon"] is not None:
        lines.append(f"* **Truncation**: the episode is {spec['horizon']:,} steps long.")
    lines.append(
        "* **Truncation or termination**: the uncertainty exceeds the twin's threshold, if `on_uncertain` is "
        'set to something other than `"ignore"`.'
    )
    return "\n".join(lines)
