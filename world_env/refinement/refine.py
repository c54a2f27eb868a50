"""Refinement of a twin and a policy: rounds of collect, fit and learn."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from world_env.errors import StageError
from world_env.fitting.config import FitConfig
from world_env.real.real_env import spec_of
from world_env.real.step_ledger import StepLedger
from world_env.refinement.config import RefineConfig
from world_env.refinement.preconditions import check_settings
from world_env.refinement.rounds import CHECKPOINT, Known, Report, Round, Rounds, episodes_of_rounds
from world_env.twin.serialization import read_json
from world_env.twin.twin import KnownFunction


def refine(
    config: RefineConfig,
    *,
    ledger: StepLedger,
    report: Report | None = None,
    tensorboard: Path | None = None,
    reward_fn: KnownFunction | None = None,
    termination_fn: KnownFunction | None = None,
) -> list[Round]:
    """Collect data, fit a twin and train policies in it, for several rounds; the last round comes last.

    Each round collects data with policies of the previous one, fits a twin to all data, trains policies in it, and
    selects one of all policies so far. Policies train only in twins. Finished stages are skipped. The refinement stops
    early where the same policy was selected for `patience` rounds.

    ledger: counts the real steps under "collect" and "spot_check" (real evaluation episodes).
    report: progress callback, (stage, steps done, steps in total, values to log).
    tensorboard: folder for TensorBoard logs by round; those of each fit and training are in subfolders of it.
    reward_fn, termination_fn: known functions of every twin, as in `fit`.
    Raises, before a real step: the errors of `check_settings`, and StageError for a folder of a run with other
    settings.
    """
    known: Known = {"reward_fn": reward_fn, "termination_fn": termination_fn}
    spec = spec_of(config.real)
    check_settings(config, spec)
    _check_folder(config, known)
    run = Rounds(config, ledger, report or (lambda *_: None), known, spec, tensorboard)
    while run.next_round():
        pass
    return run.rounds


def _check_folder(config: RefineConfig, known: Known) -> None:
    """Raises StageError where the folder holds rounds of another run."""
    # Settings that an older round does not store had their defaults.
    fit_defaults = json.loads(json.dumps(dataclasses.asdict(FitConfig())))
    defaults = RefineConfig(config.real, config.out).settings()
    names = [name.removesuffix("_fn") for name, function in known.items() if function]
    advice = "choose another folder, or delete this one to start again"
    for number in range(config.rounds):
        folder = Path(config.out) / f"round-{number}"
        twin, wanted = folder / "twin", config.steps_after(number)
        fit = json.loads(json.dumps(dataclasses.asdict(config.fit_of(number))))
        if (folder / "round.json").is_file():
            log = json.loads((folder / "round.json").read_text(encoding="utf-8"))
            other = [
                name
                for name, value in config.settings().items()
                if log["settings"].get(name, defaults[name]) != value
            ]
            if other:
                raise StageError(
                    f"{folder} holds a round with other settings ({', '.join(other)}): {advice}"
                )
            if "contender" not in log:
                raise StageError(
                    f"{folder} holds a round of an older version, with another selection of policies: {advice}"
                )
        if (twin / "twin.json").is_file():
            tree = read_json(twin)
            steps = tree["provenance"].get("steps")
            warm = "warm_start" in tree["provenance"]
            fitted = fit_defaults | (tree["provenance"].get("fit") or {})
            if fitted != fit or warm != (config.warm_start and number > 0):
                raise StageError(f"{twin} holds a twin with other settings of the fit: {advice}")
            if tree["known"] != names:
                raise StageError(
                    f"{twin} holds a twin with the known functions {tree['known']}, but this run has {names}: {advice}"
                )
        elif (folder / f".twin{CHECKPOINT}").is_file():
            # An interrupted fit: the data of its round is complete.
            steps = sum(map(len, episodes_of_rounds(Path(config.out), number)))
        else:
            continue
        if steps != wanted:
            raise StageError(
                f"{folder} belongs to a run with another number of steps: it has {steps} real steps after this round, "
                f"this run has {wanted}. No real step was taken; {advice}"
            )
