"""Real episodes in worker processes: each plays whole episodes in an environment of its own.

The steps of a worker are counted by the parent before they are taken, in blocks that the worker asks for: a killed run
has counted up to one block per worker too many, never a step too few. What a block did not need is returned when its
episode has ended. If a worker dies, the steps that it took stay counted, and its episode is played again.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import signal
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import cloudpickle
import gymnasium as gym
import torch

from world_env.errors import RealStepLimitError, StageError, WorldEnvError
from world_env.policies.protocol import Policy
from world_env.real.real_env import make_real
from world_env.real.step_ledger import StepLedger
from world_env.rollouts.real import RealEpisode, play_episode
from world_env.spec import EnvConfig

_BLOCK = 100
"""Real steps that a worker may take before it asks for more."""
_ATTEMPTS = 3
"""Deaths of a worker in the same episode after which the run stops."""


class _BlockLedger(StepLedger):
    """Ledger of a worker: asks the parent to count a block of steps whenever the last block is used up."""

    def __init__(self, parent: Connection, taken: Any) -> None:
        super().__init__()
        self._connection, self._taken, self._left = parent, taken, 0
        self._seed: int | None = None

    def count(self, purpose: str, n: int = 1) -> None:
        """Count steps that the environment is about to take."""
        while n > self._left:
            self._connection.send(("block", _BLOCK))
            kind, content = self._connection.recv()
            if kind == "seed":
                # A wrapper that takes steps while it is made, before the first episode.
                self._seed = content
                content = self._connection.recv()[1]
            self._left += content
        self._left -= n
        # Read by the parent if this process dies.
        self._taken.value += n

    def next_seed(self) -> int:
        """Return the reset seed of the next episode, once it has arrived."""
        seed = self._connection.recv()[1] if self._seed is None else self._seed
        self._seed = None
        return int(seed)

    def end_block(self) -> None:
        """Give up what is left of the block: the parent returns it when an episode ends."""
        self._left = 0


@dataclass
class _Worker:
    """A process, its connection, and the episode that it plays."""

    process: Any
    connection: Connection
    taken: Any
    counted: int = 0
    episode: int | None = None


def play_in_workers(
    policy: Policy,
    real: EnvConfig,
    seeds: Sequence[int],
    purpose: str,
    ledger: StepLedger,
    workers: int,
    progress: Callable[[int], None] | None = None,
) -> list[RealEpisode]:
    """Play one episode per seed in `workers` processes; the results have the order of the seeds.

    Raises StageError for an episode whose workers died `_ATTEMPTS` times, RealStepLimitError at the limit of the
    ledger, and the errors of the environment.
    """
    job = _job(policy, real, purpose)
    left, done = deque(range(len(seeds))), dict[int, RealEpisode]()
    deaths = [0] * len(seeds)
    running: list[_Worker] = []
    waiting: list[_Worker] = []
    try:
        running = [_started(job) for _ in range(workers)]
        for worker in running:
            _give(worker, left, seeds)
        while len(done) < len(seeds):
            ready = wait([worker.connection for worker in running])
            for worker in [each for each in running if each.connection in ready]:
                try:
                    kind, content = worker.connection.recv()
                except (EOFError, ConnectionError):
                    _settle(worker, purpose, ledger)
                    running.remove(worker)
                    waiting = [each for each in waiting if each is not worker]
                    worker.connection.close()
                    _reassign(worker, deaths, left, seeds)
                    if left:
                        running.append(_started(job))
                        _give(running[-1], left, seeds)
                    continue
                if kind == "block":
                    waiting.append(worker)
                    continue
                _settle(worker, purpose, ledger)
                if kind == "error":
                    raise content
                done[worker.episode if worker.episode is not None else -1] = content
                if progress is not None:
                    progress(len(done))
                worker.episode = None
                _give(worker, left, seeds)
            _grant(waiting, running, purpose, ledger)
    finally:
        for worker in running:
            worker.process.terminate()
            worker.process.join()
            _settle(worker, purpose, ledger)
            worker.connection.close()
    return [done[i] for i in range(len(seeds))]


def _job(policy: Policy, real: EnvConfig, purpose: str) -> bytes:
    """What a worker needs. cloudpickle takes functions of a script and lambdas too."""
    try:
        cloudpickle.dumps(real)
    except Exception as error:
        raise StageError(
            f"{real.env_id} cannot be sent to worker processes ({type(error).__name__}: {error}): use a function that "
            'makes the environment and holds no open files, locks or environments, the id "module:Id", or workers=1'
        ) from error
    return cloudpickle.dumps((policy.fork(1), real, purpose, torch.get_num_threads()))


def _started(job: bytes) -> _Worker:
    context = multiprocessing.get_context("spawn")
    own, other = context.Pipe()
    taken = context.Value("q", 0, lock=False)
    process = context.Process(target=_work, args=(job, other, taken), daemon=True)
    process.start()
    # The parent's copy of the other end is closed, so that the end of the process closes the connection.
    other.close()
    return _Worker(process, own, taken)


def _give(worker: _Worker, left: deque[int], seeds: Sequence[int]) -> None:
    """Give the next episode to an idle worker."""
    if left:
        worker.episode = left.popleft()
        _send(worker, ("seed", int(seeds[worker.episode])))


def _grant(
    waiting: list[_Worker], running: list[_Worker], purpose: str, ledger: StepLedger
) -> None:
    """Count a block for each worker that waits for one.

    At the limit of the ledger a worker waits until others return what their episodes did not need. Raises
    RealStepLimitError where all of them wait.
    """
    while waiting:
        try:
            block = ledger.take(purpose, _BLOCK)
        except RealStepLimitError:
            if all(each in waiting for each in running if each.episode is not None):
                raise
            return
        worker = waiting.pop(0)
        worker.counted += block
        _send(worker, ("block", block))


def _send(worker: _Worker, message: tuple[str, int]) -> None:
    # Where the process died, the next `recv` reports it.
    with contextlib.suppress(ConnectionError):
        worker.connection.send(message)


def _settle(worker: _Worker, purpose: str, ledger: StepLedger) -> None:
    """Return the counted steps that a worker did not take."""
    ledger.release(purpose, worker.counted - worker.taken.value)
    worker.counted = worker.taken.value


def _reassign(worker: _Worker, deaths: list[int], left: deque[int], seeds: Sequence[int]) -> None:
    """Put the episode of a dead worker back. Raises StageError after too many deaths."""
    worker.process.join()
    if worker.episode is None:
        return
    deaths[worker.episode] += 1
    if deaths[worker.episode] >= _ATTEMPTS:
        code = worker.process.exitcode
        reason = (
            f"signal {signal.Signals(-code).name}" if code and code < 0 else f"exit code {code}"
        )
        raise StageError(
            f"{_ATTEMPTS} processes died while they played the real episode of reset seed {seeds[worker.episode]} "
            f"({reason}; {worker.taken.value} steps taken by the last one): play it with workers=1 to see the error "
            'of the environment. If a script starts the processes, it must do so under `if __name__ == "__main__"`'
        )
    left.appendleft(worker.episode)


def _work(job: bytes, parent: Connection, taken: Any) -> None:
    """Play the episodes whose seeds arrive, until the parent ends this process."""
    # An interrupt reaches the parent too, which ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        policy, real, purpose, threads = cloudpickle.loads(job)
        torch.set_num_threads(threads)
        ledger = _BlockLedger(parent, taken)
        env = _environment(real, purpose, ledger)
        while True:
            episode = play_episode(policy, env, ledger.next_seed())
            ledger.end_block()
            parent.send(("episode", episode))
    except (EOFError, ConnectionError):
        return
    except Exception as error:
        _report(parent, error)


def _environment(real: EnvConfig, purpose: str, ledger: StepLedger) -> gym.Env:
    try:
        return make_real(real, purpose=purpose, ledger=ledger)
    except WorldEnvError as error:
        raise type(error)(
            f"{error} (A worker process has only the environments of importable modules: use the id "
            '"module:Id", or workers=1.)'
        ) from error


def _report(parent: Connection, error: Exception) -> None:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        # It cannot be pickled, or its class takes other arguments than its message.
        error = StageError(f"in a worker process: {type(error).__name__}: {error}")
    parent.send(("error", error))
