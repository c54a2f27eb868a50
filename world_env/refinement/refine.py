"""Refinement of a twin and a policy: rounds of collect, fit and learn."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from world_env.device import torch_defaults
from world_env.real.step_ledger import StepLedger
from world_env.refinement.config import RefineConfig
from world_env.refinement.preconditions import check_folder, checked_spec
from world_env.refinement.rounds import Known, Report, Round, Rounds
from world_env.refinement.step_plan import planned_rounds
from world_env.results.step_plan import StepPlan
from world_env.run_config import check_same_config, keep_config, one_at_a_time
from world_env.spec import WorldSpec
from world_env.twin.serialization import read_json
from world_env.twin.twin import KnownFunction
from world_env.types import JSON

LOWER = "--steps"
"""Setting that makes a refinement's plan of real steps smaller."""
_RESULTS = ("round-*",)

_log = logging.getLogger(__name__)


@torch_defaults()
@one_at_a_time(lambda config, **_: config.out)
def refine(
    config: RefineConfig,
    *,
    ledger: StepLedger,
    report: Report | None = None,
    reward_fn: KnownFunction | None = None,
    termination_fn: KnownFunction | None = None,
) -> list[Round]:
    """Collect data, fit a twin and train policies in it, for several rounds; the last round comes last.

    Each round collects data with policies of the previous one, fits a twin to all data, trains policies in it, and
    selects one of all policies so far. Policies train only in twins. Finished stages are skipped. The refinement stops
    early where the same policy was selected for `patience` rounds. The plan of the real steps is logged before the
    first one.

    ledger: counts the real steps under "collect" and "evaluate" (real evaluation episodes).
    report: progress callback, (stage, steps done, steps in total, values to log).
    reward_fn, termination_fn: known functions of every twin, as in `fit`.
    Raises, before a real step: the errors of `checked_spec`, ConfigMismatchError for a folder of a run with other
    settings, StageBusyError while another process uses the folder, RealStepLimitError if the rounds need more steps
    than `max_real_steps`. At that limit, or the limit of `ledger`, RealStepLimitError stops the run; it can be resumed.
    """
    ledger = ledger.limited(config.max_real_steps)
    spec = checked_spec(config, reward_fn)
    plan = StepPlan(
        parts=planned_rounds(config, spec),
        taken=ledger.by_purpose,
        max_steps=config.max_real_steps,
    )
    plan.check(LOWER)
    known: Known = {"reward_fn": reward_fn, "termination_fn": termination_fn}
    check_folder(Path(config.out), spec, config.steps)
    prepare(config, known, config.to_json(), may_change=("patience", "fit.allow_errors"))
    _log.info("%s", plan)
    return run_rounds(config, spec, ledger, report, known)


def prepare(
    config: RefineConfig,
    known: Known,
    record: JSON,
    *,
    may_change: Collection[str] = (),
    results: Collection[str] = (),
) -> None:
    """Check the folder of a run against its settings, and store them.

    record: settings to store. may_change: names of settings in it that may differ when the run is resumed.
    results: patterns of results besides the rounds, as in `keep_config`.
    Raises ConfigMismatchError, and StageError for results of a run whose settings are missing.
    """
    _check_functions(config, known)
    keep_config(config.out, record, may_change=may_change, results=(*_RESULTS, *results))


def run_rounds(
    config: RefineConfig,
    spec: WorldSpec,
    ledger: StepLedger,
    report: Report | None,
    known: Known,
) -> list[Round]:
    """Run the rounds that are not finished, without checks, and return all of them."""
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
