"""`world-env`: one command a stage. Only the light core is imported until a stage runs."""

from __future__ import annotations

import json
import os
import sys
import types
from typing import Any, Union, get_args, get_origin

from world_env.errors import WorldEnvError

_PIP = 'pip install "world-env[train]"'


def main(arguments: list[str] | None = None) -> int:
    """Run a stage; returns the exit status. Errors of ours are one clean message, not a traceback."""
    try:
        import tyro

        from world_env.cli import commands as stages
    except ImportError as error:
        print(
            f"world-env: {error.name or error} is not installed, the pipeline needs it: {_PIP}",
            file=sys.stderr,
        )
        return 1
    _set_threads()
    try:
        with json_fields():
            status = tyro.extras.subcommand_cli_from_dict(
                stages.STAGES, prog="world-env", description=_DESCRIPTION, args=arguments
            )
    except WorldEnvError as error:
        print(f"world-env: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "world-env: stopped; run the same command again to go on where it was", file=sys.stderr
        )
        return 130
    return int(status or 0)


_DESCRIPTION = """Digital twins of Gymnasium environments. Threads: one, unless OMP_NUM_THREADS says otherwise;
two busy processes with more threads than cores slow each other down tenfold."""


def _set_threads() -> None:
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def json_fields() -> Any:
    """In this context tyro reads dicts of settings as JSON."""
    import tyro

    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(_json_rule)
    return registry


def _json_rule(info: Any) -> Any:
    """How tyro reads a dict of settings: one argument of JSON, such as '{"gamma": 0.95}'."""
    from tyro.constructors import PrimitiveConstructorSpec

    kinds = {get_origin(kind) or kind for kind in get_args(info.type)}
    # Left to itself, tyro makes subcommands of a dict or None, and fails when it looks for an unknown option in them.
    optional = info.type_origin in (Union, types.UnionType) and kinds == {dict, type(None)}
    if info.type_origin is not dict and not optional:
        return None

    def read(words: list[str]) -> Any:
        if optional and words[0] == "None":
            return None
        tree = json.loads(words[0])
        if not isinstance(tree, dict):
            raise ValueError(
                f"{words[0]} is no JSON object: expected for example '{{\"gamma\": 0.95}}'"
            )
        return tree

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="{None}|JSON" if optional else "JSON",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, dict) or (optional and value is None),
        str_from_instance=lambda value: ["None" if value is None else json.dumps(value)],
    )


if __name__ == "__main__":
    sys.exit(main())
