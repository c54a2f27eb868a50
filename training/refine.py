"""collect -> fit -> learn -> collect with what was learned: a twin and a policy that never saw reality train."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from training.collect import CollectConfig, collect
from training.fit import FitConfig, fit_episodes
from training.learn import LearnConfig, check_counts_from_zero, learn
from training.real import RealConfig, StepLedger, spec_of
from world_env.errors import InvalidOptionError, StageError
from world_env.spec import JSON, WorldSpec
from world_env.twin import Twin

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from training.episodes import Episode

Report = Callable[[str, int, int, JSON], None]
"""(stage, done, wanted, logs): called as stages advance."""


@dataclass(frozen=True)
class RefineConfig:
    """Rounds of collecting, fitting and learning. One round is the plain pipeline."""

    real: RealConfig
    out: Path
    """Folder of all rounds; running again goes on where the last run stopped."""
    steps: int = 2_000
    """Real steps in all, shared evenly among the rounds."""
    rounds: int = 1
    """How often data is collected, each time with the newest policy."""
    exploration: str = "random"
    """Who acts in the first round."""
    later_exploration: str = "policy:{policy}"
    """Who acts later; {policy} is the newest policy's folder."""
    seed: int = 0
    fit: FitConfig = field(default_factory=FitConfig)
    learn: LearnConfig = field(default_factory=LearnConfig)

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.steps < self.rounds:
            raise InvalidOptionError(
                f"{self.steps} steps in {self.rounds} rounds: expected at least 1 of each"
            )


@dataclass(frozen=True)
class Round:
    """What one round left: the twin, the policy trained in it, their folders, and seconds a stage."""

    number: int
    twin: Twin
    policy: BaseAlgorithm
    twin_folder: Path
    policy_folder: Path
    real_steps: int
    seconds: dict[str, float]


def refine(
    config: RefineConfig, *, ledger: StepLedger, report: Report | None = None
) -> list[Round]:
    """All rounds, the last one last. Every finished stage is read back instead of being run again."""
    say = report or (lambda stage, done, wanted, logs: None)
    spec = spec_of(config.real)
    check_counts_from_zero(spec.action_space)  # before a real step is spent
    rounds: list[Round] = []
    episodes: list[Episode] = []
    collected = 0
    for number in range(config.rounds):
        share = (
            config.steps * (number + 1) // config.rounds - config.steps * number // config.rounds
        )
        exploration = config.exploration
        if rounds:
            exploration = config.later_exploration.format(policy=rounds[-1].policy_folder)
        folder = Path(config.out) / f"round-{number}"
        clock = [time.perf_counter()]
        store = collect(
            CollectConfig(
                config.real, folder / "data", share, exploration, seed=config.seed * 1000 + number
            ),
            ledger=ledger,
            progress=lambda done, wanted: say("collect", done, wanted, {}),
        )
        episodes += store.load()
        collected += store.steps
        clock.append(time.perf_counter())
        twin = _twin(config, folder, episodes, spec, exploration, collected, say)
        clock.append(time.perf_counter())
        policy = learn(
            twin,
            dataclasses.replace(config.learn, seed=config.seed),
            out=folder / "policy",
            progress=lambda done, wanted, logs: say("learn", done, wanted, logs),
        )
        clock.append(time.perf_counter())
        seconds = {
            name: round(clock[i + 1] - clock[i], 1)
            for i, name in enumerate(("collect", "fit", "learn"))
        }
        rounds.append(
            Round(number, twin, policy, folder / "twin", folder / "policy", collected, seconds)
        )
    return rounds


def _twin(
    config: RefineConfig,
    folder: Path,
    episodes: list[Episode],
    spec: WorldSpec,
    exploration: str,
    steps: int,
    say: Report,
) -> Twin:
    out = folder / "twin"
    fit_config = dataclasses.replace(config.fit, seed=config.seed)
    if (out / "twin.json").is_file():
        twin = Twin.load(out)
        if twin.provenance.get("fit") != json.loads(json.dumps(dataclasses.asdict(fit_config))):
            raise StageError(
                f"{out} holds a twin of another configuration: choose another folder, or delete it to begin again"
            )
        return twin
    checkpoint = folder / ".twin.fit.pt"
    # A policy's folder is a place on this machine; what counts is who acted.
    shown = "the previous round's policy" if "policy:" in exploration else exploration
    twin = fit_episodes(
        episodes,
        spec,
        fit_config,
        provenance={
            "real": config.real.to_json(),
            "exploration": config.exploration
            if shown == exploration
            else f"{config.exploration}, then {shown}",
            "real_steps": steps,
            "seed": config.seed,
        },
        progress=lambda done, wanted, logs: say("fit", done, wanted, logs),
        checkpoint=checkpoint,
    )
    twin.save(out)
    checkpoint.unlink(missing_ok=True)
    return Twin.load(out)
