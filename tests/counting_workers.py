"""Processes that step Counting-v0: spawned workers import their functions from here."""

import os
import signal
from multiprocessing.sharedctypes import Synchronized
from threading import Barrier

from world_env.errors import RealStepLimitError
from world_env.real.real_env import make_real
from world_env.real.step_ledger import StepLedger
from world_env.spec import EnvConfig


def play(ledger: StepLedger, start: Barrier, purpose: str, steps: int) -> None:
    """Take `steps` real steps as soon as all workers are ready."""
    env = make_real(EnvConfig("counting:Counting-v0"), purpose=purpose, ledger=ledger)
    env.reset(seed=0)
    start.wait(60)
    for _ in range(steps):
        if env.step(0)[2]:
            env.reset()
    ledger.save()


def play_until_killed(ledger: StepLedger, taken: Synchronized, steps: int) -> None:
    """Take `steps` real steps, write how many into shared memory, and die without a save."""
    env = make_real(EnvConfig("counting:Counting-v0"), purpose="collect", ledger=ledger)
    env.reset(seed=0)
    for _ in range(steps):
        taken.value += 1
        if env.step(0)[2]:
            env.reset()
    os.kill(os.getpid(), signal.SIGKILL)


def play_until_the_limit(ledger: StepLedger, start: Barrier, taken: Synchronized) -> None:
    """Take real steps until the limit of the ledger, and add how many into shared memory."""
    env = make_real(EnvConfig("counting:Counting-v0"), purpose="collect", ledger=ledger)
    env.reset(seed=0)
    start.wait(60)
    try:
        while True:
            if env.step(0)[2]:
                env.reset()
    except RealStepLimitError:
        ledger.save()
    with taken.get_lock():
        taken.value += env.unwrapped.total  # type: ignore[attr-defined]
