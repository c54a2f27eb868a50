"""Steps a second of `ModelEnv` of mbrl-lib, with the network of `steps_per_second.py`, in a process of its own.

mbrl-lib needs other versions of some packages and is installed into a temporary virtual environment; torch, gymnasium
and numpy are those of this one. In that environment, this file is the worker process.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MEMBERS, WIDTH, LAYERS = 5, 200, 4
_PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
_PACKAGES = ("hydra-core", "omegaconf", "termcolor", "tqdm")


class MbrlError(RuntimeError):
    """mbrl-lib cannot be timed; the message holds the reason in one line."""


@contextmanager
def mbrl_python() -> Iterator[Path]:
    """Python of a temporary environment with mbrl-lib. Raises MbrlError if it cannot be made."""
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "bin" / "python"
        pip = [str(python), *_PIP]
        _run("make a virtual environment", sys.executable, "-m", "venv", folder)
        _run("install mbrl-lib", *pip, "--no-deps", "mbrl")
        _run("install what mbrl-lib needs", *pip, *_PACKAGES)
        own = _run("ask for its folder", str(python), "-c", _WHERE).strip()
        # Packages of the temporary environment take precedence.
        shared = Path(own) / "shared.pth"
        shared.write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
        yield python


_WHERE = "import sysconfig; print(sysconfig.get_path('purelib'))"


def _run(what: str, *command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MbrlError(f"could not {what}: {type(error).__name__}") from error
    if done.returncode != 0:
        # The output of pip may contain hosts and paths: the failed step is enough.
        raise MbrlError(f"could not {what}: exit status {done.returncode}")
    return done.stdout


class Worker:
    """Process with the environment of mbrl-lib of one size."""

    def __init__(self, python: Path, observations: int, actions: int) -> None:
        self._process = subprocess.Popen(
            [str(python), __file__, str(observations), str(actions)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def rate(self, rows: int, seconds: float) -> float:
        """Steps a second over about `seconds`. Raises MbrlError if the process ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(f"{rows} {seconds}\n")
            self._process.stdin.flush()
            return float(self._process.stdout.readline())
        except (OSError, ValueError) as error:
            raise MbrlError("the process of mbrl-lib ended without an answer") from error

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.communicate()


def whole_rows(rows: int) -> int:
    """Number of environments rounded up to a multiple of the members, as mbrl-lib requires."""
    return -(-rows // MEMBERS) * MEMBERS


def _serve(observations: int, actions: int) -> None:
    """Answer each line "environments seconds" with the steps a second."""
    made: dict[int, Any] = {}
    for line in sys.stdin:
        rows, seconds = int(line.split()[0]), float(line.split()[1])
        if rows not in made:
            made[rows] = _stepper(observations, actions, rows)
            made[rows]()
        calls, began = 0, time.perf_counter()
        while (spent := time.perf_counter() - began) < seconds or not calls:
            made[rows]()
            calls += 1
        print(rows * calls / spent, flush=True)


def _stepper(observations: int, actions: int, rows: int) -> Any:
    """Function that steps all environments of `ModelEnv` once."""
    import gymnasium as gym
    import numpy as np
    import omegaconf
    import torch
    from mbrl.models import GaussianMLP, ModelEnv, OneDTransitionRewardModel

    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = GaussianMLP(
        observations + actions,
        observations + 1,
        torch.device("cpu"),
        num_layers=LAYERS,
        ensemble_size=MEMBERS,
        hid_size=WIDTH,
        propagation_method="fixed_model",
        activation_fn_cfg=omegaconf.OmegaConf.create({"_target_": "torch.nn.SiLU"}),
    )
    network.set_elite(range(MEMBERS))
    model = OneDTransitionRewardModel(
        network, target_is_delta=True, normalize=True, learned_rewards=True
    )
    model.input_normalizer.update_stats(
        rng.standard_normal((1000, observations + actions)).astype(np.float32)
    )
    env = gym.Env()
    env.observation_space = gym.spaces.Box(-np.inf, np.inf, (observations,), np.float32)
    env.action_space = gym.spaces.Box(-1.0, 1.0, (actions,), np.float32)

    def never(action: torch.Tensor, observation: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(observation), 1, dtype=torch.bool)

    world = ModelEnv(env, model, never, generator=torch.Generator().manual_seed(0))
    start = 0.1 * rng.standard_normal((rows, observations)).astype(np.float32)
    state = world.reset(start, return_as_np=True)
    action = rng.uniform(-1.0, 1.0, (rows, actions)).astype(np.float32)
    # Always from a copy of the same state: `step` writes into it, and an untrained network diverges.
    return lambda: world.step(action, dict(state), sample=True)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
