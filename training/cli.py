"""`world-env`: one command a stage. Only the light core is imported until a stage runs."""

from __future__ import annotations

import os
import sys

from world_env.errors import WorldEnvError

_PIP = 'pip install "world-env[train]"'


def main(arguments: list[str] | None = None) -> int:
    """Run a stage; returns the exit status. Errors of ours are one clean message, not a traceback."""
    try:
        import tyro

        from training import stages
    except ImportError as error:
        print(
            f"world-env: {error.name or error} is not installed, the pipeline needs it: {_PIP}",
            file=sys.stderr,
        )
        return 1
    _set_threads()
    try:
        tyro.extras.subcommand_cli_from_dict(
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
    return 0


_DESCRIPTION = """Digital twins of Gymnasium environments. Threads: one, unless OMP_NUM_THREADS says otherwise;
two busy processes with more threads than cores slow each other down tenfold."""


def _set_threads() -> None:
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


if __name__ == "__main__":
    sys.exit(main())
