"""collect -> fit -> learn -> collect with what was learned: a twin and a policy that never saw reality train."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from world_env.errors import InvalidOptionError, StageError
from world_env.fitting.config import FitConfig
from world_env.real.real_env import spec_of
from world_env.real.step_ledger import StepLedger
from world_env.refinement.config import ALGOS, RefineConfig, check_actions
from world_env.refinement.rounds import CHECKPOINT, Known, Report, Round, Rounds, episodes_until
from world_env.rl.learn import check_counts_from_zero
from world_env.twin.serialization import read_json
from world_env.twin.twin import KnownFunction

__all__ = ["ALGOS", "RefineConfig", "Report", "Round", "check_actions", "refine"]


def refine(
    config: RefineConfig,
    *,
    ledger: StepLedger,
    report: Report | None = None,
    reward_fn: KnownFunction | None = None,
    termination_fn: KnownFunction | None = None,
) -> list[Round]:
    """All rounds, the last one last. Every finished stage is read back instead of being run again.

    A round collects with the policies of the last one, fits the twin (and its judge) to all data, trains policies in it
    (`candidates`), and chooses among all policies so far by what twin and judge think of them now. It stops before its
    budget is spent where that choice has not changed for `patience` rounds.
    reward_fn, termination_fn: known functions of every round's twin, as in `world_env.fitting.fit.fit_episodes`.
    Raises StageError, before a real step is spent, where the folder holds a run of other settings.
    """
    say = report or (lambda stage, done, wanted, logs: None)
    known: Known = {"reward_fn": reward_fn, "termination_fn": termination_fn}
    spec = spec_of(config.real)
    check_counts_from_zero(spec.action_space)  # before a real step is spent
    if spec.horizon is None and config.rounds > 1:
        raise InvalidOptionError(
            f"{config.real.env_id} has no time limit, so that no policy can be judged in a twin of it, and rounds "
            'choose by that: give it one, as an argument ("max_episode_steps") or by a wrapper, or run one round'
        )
    _check_folder(config, known)
    run = Rounds(config, ledger, say, known, spec)
    while run.next_round():
        pass
    return run.rounds


def _check_folder(config: RefineConfig, known: Known) -> None:
    """Whether what lies in the folder is the beginning of this very run."""
    # A setting that came later had its default when older rounds ran.
    plain = json.loads(json.dumps(dataclasses.asdict(FitConfig())))
    usual = RefineConfig(config.real, config.out).settings()
    names = [name.removesuffix("_fn") for name, function in known.items() if function]
    advice = "choose another folder, or delete it to begin again"
    for number in range(config.rounds):
        folder = Path(config.out) / f"round-{number}"
        twin, wanted = folder / "twin", config.steps_after(number)
        fit = json.loads(json.dumps(dataclasses.asdict(config.fit_of(number))))
        if (folder / "round.json").is_file():
            log = json.loads((folder / "round.json").read_text(encoding="utf-8"))
            other = [
                name
                for name, value in config.settings().items()
                if log["settings"].get(name, usual[name]) != value
            ]
            if other:
                raise StageError(
                    f"{folder} is a round of another configuration ({', '.join(other)}): {advice}"
                )
            if "contender" not in log:
                raise StageError(
                    f"{folder} is a round of an older version, which chose its policies otherwise: {advice}"
                )
        if (twin / "twin.json").is_file():
            tree = read_json(twin)
            steps = tree["provenance"].get("steps")
            warm = "warm_start" in tree["provenance"]
            fitted = plain | (tree["provenance"].get("fit") or {})
            if fitted != fit or warm != (config.warm_start and number > 0):
                raise StageError(f"{twin} holds a twin of another configuration: {advice}")
            if tree["known"] != names:
                raise StageError(
                    f"{twin} holds a twin with the known functions {tree['known']}, this run has {names}: {advice}"
                )
        elif (folder / f".twin{CHECKPOINT}").is_file():
            # A killed fit: its data was complete.
            steps = sum(map(len, episodes_until(Path(config.out), number)))
        else:
            continue
        if steps != wanted:
            raise StageError(
                f"{folder} belongs to a run with another number of steps: after this round it had {steps}, this run "
                f"wants {wanted}. No real step was taken; {advice}"
            )
