"""Join results files of one benchmark that several processes wrote.

    python -m benchmarks.join benchmarks/results/learn_table.json other.json another.json

The first file is written; it need not exist. Rows, pairs, cells and rounds keep their commits and dates; the head holds
all commands, and the commit of the newest file. Equal rows are written once.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.arguments import script_parser
from world_env.atomic_io import write_json
from world_env.types import JSON

LISTS = ("rows", "pairs", "cells", "rounds")


def main() -> None:
    """Join the files and write the first one."""
    parser = script_parser(__doc__)
    parser.add_argument("target", type=Path, help="results file to write, and to join if it exists")
    parser.add_argument("others", type=Path, nargs="+", help="results files to add")
    arguments = parser.parse_args()
    paths = [path for path in (arguments.target, *arguments.others) if path.is_file()]
    trees = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    write_json(arguments.target, joined(trees))


def joined(trees: list[JSON]) -> JSON:
    """Contents of several files as one. Raises ValueError for different benchmarks or machines."""
    for name in ("benchmark", "machine"):
        found = sorted({tree[name] for tree in trees})
        if len(found) > 1:
            raise ValueError(
                f"files of different {name}s cannot be joined: {', '.join(found)}; pass files of one {name}"
            )
    head = max(trees, key=lambda tree: tree["date"])
    whole = {name: value for name, value in head.items() if name not in LISTS}
    whole["command"] = "; ".join(dict.fromkeys(tree["command"] for tree in trees))
    for name in LISTS:
        parts = [part for tree in trees for part in tree.get(name, [])]
        if parts:
            different = list({json.dumps(part, sort_keys=True): part for part in parts}.values())
            different.sort(key=lambda part: (part["task"], part["seed"]))
            whole[name] = different
    return whole


if __name__ == "__main__":
    main()
