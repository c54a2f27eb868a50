"""Real environment steps of a refinement, before they are taken."""

from __future__ import annotations

from pathlib import Path

from world_env.data.store import EpisodeStore
from world_env.real.api_check import check_step
from world_env.refinement.config import RefineConfig
from world_env.refinement.rounds import read_log
from world_env.results.step_plan import PlannedSteps
from world_env.spec import WorldSpec


def planned_rounds(config: RefineConfig, spec: WorldSpec) -> list[PlannedSteps]:
    """Real steps that the rounds still take: the stores of finished and interrupted rounds need no more."""
    data, checks, new = _Sum(), _Sum(), False
    for number in range(config.rounds):
        if stopped_before(config, number):
            break
        # With `patience`, later rounds may not be run.
        certain = config.patience is None or number <= config.patience
        folder = Path(config.out) / f"round-{number}"
        evaluated = config.checks_of(number, spec.horizon)
        share = config.steps_after(number) - config.steps_after(number - 1)
        new = new or not _stored(folder / "data")
        data.add(share - evaluated - _stored(folder / "data"), certain, spec.action_chunk)
        checks.add(evaluated - _stored(folder / "checks"), certain, spec.action_chunk)
    rounds = f" in {config.rounds} rounds" if config.rounds > 1 else ""
    return [
        *([check_step(config.real)] if new else []),
        data.part("collect", f"data of the twin{rounds}"),
        checks.part(
            "evaluate", "real evaluation episodes between the rounds, data of the twin too"
        ),
    ]


def stopped_before(config: RefineConfig, number: int) -> bool:
    """Whether the finished rounds end the refinement before round `number`, by `patience`."""
    first = -1 if config.patience is None else number - config.patience - 1
    folders = [Path(config.out) / f"round-{n}" for n in range(max(first, 0), number)]
    if first < 0 or not all((folder / "round.json").is_file() for folder in folders):
        return False
    return len({read_log(folder).chosen for folder in folders}) == 1


def _stored(folder: Path) -> int:
    return EpisodeStore(folder).steps if EpisodeStore.exists(folder) else 0


class _Sum:
    """Smallest and largest number of real steps of one kind in all rounds."""

    def __init__(self) -> None:
        self.least = self.most = 0

    def add(self, actions: int, certain: bool, chunk: int) -> None:
        # The last action of an episode may hold fewer real steps than its chunk.
        self.most += max(0, actions) * chunk
        self.least += max(0, actions) if certain else 0

    def part(self, purpose: str, use: str) -> PlannedSteps:
        return PlannedSteps(purpose=purpose, use=use, steps=self.most, at_least=self.least)
