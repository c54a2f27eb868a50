"""Refinement of a twin and a policy: rounds of collect, fit and learn."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from world_env.device import torch_defaults
from world_env.real.real_env import spec_of
from world_env.real.step_ledger import StepLedger
from world_env.refinement.config import RefineConfig
from world_env.refinement.preconditions import check_settings
from world_env.refinement.rounds import Known, Report, Round, Rounds
from world_env.run_config import check_same_config, keep_config
from world_env.twin.serialization import read_json
from world_env.twin.twin import KnownFunction
from world_env.types import JSON


@torch_defaults()
def refine(
    config: RefineConfig,
    *,
    ledger: StepLedger,
    report: Report | None = None,
    reward_fn: KnownFunction | None = None,
    termination_fn: KnownFunction | None = None,
    record: JSON | None = None,
    may_change: Collection[str] = ("patience",),
) -> list[Round]:
    """Collect data, fit a twin and train policies in it, for several rounds; the last round comes last.

    Each round collects data with policies of the previous one, fits a twin to all data, trains policies in it, and
    selects one of all policies so far. Policies train only in twins. Finished stages are skipped. The refinement stops
    early where the same policy was selected for `patience` rounds.

    ledger: counts the real steps under "collect" and "evaluate" (real evaluation episodes).
    report: progress callback, (stage, steps done, steps in total, values to log).
    reward_fn, termination_fn: known functions of every twin, as in `fit`.
    record: settings to store in the folder (None: those of `config`), for a caller that has more of them.
    may_change: names of settings in it that may differ when the run is resumed.
    Raises, before a real step: the errors of `check_settings`, and ConfigMismatchError for a folder of a run with other
    settings.
    """
    known: Known = {"reward_fn": reward_fn, "termination_fn": termination_fn}
    spec = spec_of(config.real)
    check_settings(config, spec)
    _check_functions(config, known)
    keep_config(config.out, config.to_json() if record is None else record, may_change=may_change)
    run = Rounds(config, ledger, report or (lambda *_: None), known, spec)
    while run.next_round():
        pass
    return run.rounds


def _check_functions(config: RefineConfig, known: Known) -> None:
    """Raises ConfigMismatchError where the folder holds a twin of other known functions."""
    names = [name.removesuffix("_fn") for name, function in known.items() if function]
    for number in range(config.rounds):
        twin = Path(config.out) / f"round-{number}" / "twin"
        if (twin / "twin.json").is_file():
            stored = {"known functions": read_json(twin)["known"]}
            check_same_config(stored, {"known functions": names}, twin)
