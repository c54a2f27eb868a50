"""One results file out of several of the same benchmark, which other processes or machines filled.

    python -m benchmarks.join benchmarks/results/learn_table.json other.json another.json

The first file is written; it may not exist yet. Rows, pairs, cells and rounds keep their own commits and dates; the
head names all commands, and the newest file's commit. Rows that are there already are not added twice.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from world_env.atomic_io import write_json
from world_env.types import JSON

LISTS = ("rows", "pairs", "cells", "rounds")


def main() -> None:
    """Join and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("target", type=Path)
    parser.add_argument("others", type=Path, nargs="+")
    arguments = parser.parse_args()
    paths = [path for path in (arguments.target, *arguments.others) if path.is_file()]
    trees = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    write_json(arguments.target, joined(trees))


def joined(trees: list[JSON]) -> JSON:
    """The files' trees as one. Raises ValueError where they are of different benchmarks or machines."""
    for name in ("benchmark", "machine"):
        found = sorted({tree[name] for tree in trees})
        if len(found) > 1:
            raise ValueError(f"files of several {name}s cannot be joined: {', '.join(found)}")
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
