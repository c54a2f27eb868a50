"""Judge a twin by a pool: the same policies in both worlds, how well their returns agree, and a calibrated promise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from world_env.errors import InvalidOptionError
from world_env.policy_evaluation.correlation import (
    EVALUATION,
    OPTIMISATION,
    PolicyReturns,
    statistics,
)
from world_env.policy_evaluation.policy_pool import Pool
from world_env.policy_evaluation.return_prediction import (
    ReturnPrediction,
    calibrate,
    coverage,
    interval,
    learned_return,
    learned_return_of,
    leave_one_run_out,
)
from world_env.real.real_env import spec_of
from world_env.rollouts.actors import Actor
from world_env.rollouts.learned import run_learned
from world_env.rollouts.real import first_observations
from world_env.rollouts.returns import Returns, bootstrap_mean
from world_env.spec import check_same_spaces
from world_env.twin.twin import Twin
from world_env.types import JSON

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class TrainedPolicy:
    """A policy that was trained in the twin, and what it earned in reality over the pool's seeds."""

    name: str
    run: str
    actor: Callable[[], Actor]
    real: Returns


def judge(
    twin: Twin,
    pool: Pool,
    trained: Sequence[TrainedPolicy] = (),
    *,
    seed: int = 0,
    progress: Report | None = None,
) -> list[PolicyReturns]:
    """Every policy of the pool (kind "evaluation") and every trained one ("optimisation") in the twin.

    The twin is judged as it is, with `on_uncertain="ignore"`. Takes no real step: what a policy earns in reality is
    known, and the twin begins from the first observations of the same reset seeds.
    Raises SpaceMismatchError for a pool of another environment, InvalidOptionError for one that sees through this twin.
    """
    spec = spec_of(pool.real)
    check_same_spaces(spec, twin.spec)
    if pool.through == twin.fingerprint():
        raise InvalidOptionError(
            f"the policies of {pool.folder} see through this very twin, so that they cannot judge it: make a pool "
            "through another twin of the same environment, of other data and seeds"
        )
    first = first_observations(pool.real, pool.seeds)
    entries: list[tuple[str, str, str, Callable[[], Actor], Returns]] = [
        (
            member.name,
            member.run,
            EVALUATION,
            lambda member=member: pool.actor(member, spec),  # type: ignore[misc]
            real,
        )
        for member, real in zip(pool.members, pool.returns, strict=True)
    ]
    entries += [(part.name, part.run, OPTIMISATION, part.actor, part.real) for part in trained]
    judged = []
    for number, (name, run, kind, actor, real) in enumerate(entries):
        if len(real.values) != len(pool.seeds):
            raise InvalidOptionError(
                f"policy {name!r} was judged over {len(real.values)} real episodes, the pool over {len(pool.seeds)}: "
                "judge it on the pool's seeds"
            )
        learned = run_learned(actor(), twin, first, seed=seed)
        mean, past = learned_return(actor(), twin, len(pool.seeds), seed=seed)
        judged.append(PolicyReturns(name, run, kind, real.values, learned.values, mean, past))
        if progress is not None:
            progress(number + 1, len(entries))
    return judged


def agreement(judged: Sequence[PolicyReturns], pool: Pool) -> JSON:
    """What a twin stores of it, keys of its `fidelity`: {"agreement", "return_prediction"}.

    agreement: "pool", "evaluation", "optimisation" (`statistics` and `coverage` of a kind, and the same of its
    supported policies under "supported"), "points" (one a policy). promise: what `predict_return` needs, its measured
    "coverage" by kind and its "width_fraction"; None where too few policies stay in the data.
    """
    means = [policy.real.mean() for policy in judged if policy.kind == EVALUATION]
    span = float(np.ptp(means))
    kinds: JSON = {}
    points: list[JSON] = []
    for kind, policies, promises in predictions_by_kind(judged):
        supported = [p for p, promise in zip(policies, promises, strict=True) if not promise.reason]
        kinds[kind] = (
            statistics(policies, span=span)
            | coverage(policies, promises, span=span)
            | {"supported": statistics(supported, span=span) if supported else None}
        )
        points += [_point(*pair) for pair in zip(policies, promises, strict=True)]
    calibration = calibrate([policy for policy in judged if policy.kind == EVALUATION])
    if calibration is not None:
        calibration |= {
            "coverage": {kind: kinds[kind]["coverage90"] for kind in kinds},
            "width_fraction": kinds[EVALUATION]["width_fraction"],
        }
    described = {
        "policies": len(pool.members),
        "runs": len({member.run for member in pool.members}),
        "episodes": len(pool.seeds),
        "real_steps": sum(pool.real_steps.values()),
        "range": [float(min(means)), float(max(means))],
    }
    return {
        "agreement": {"pool": described, OPTIMISATION: None} | kinds | {"points": points},
        "return_prediction": calibration,
    }


def predictions_by_kind(
    judged: Sequence[PolicyReturns],
) -> list[tuple[str, list[PolicyReturns], list[ReturnPrediction]]]:
    """(kind, its policies, their promises): of the pool by leaving their run out, of others by the whole pool."""
    pool = [policy for policy in judged if policy.kind == EVALUATION]
    found = [(EVALUATION, pool, leave_one_run_out(pool))]
    others = [policy for policy in judged if policy.kind == OPTIMISATION]
    if others:
        calibration = calibrate(pool)
        promises = [
            interval(calibration, learned_return_of(policy), policy.past_threshold)
            for policy in others
        ]
        found.append((OPTIMISATION, others, promises))
    return found


def with_agreement(twin: Twin, found: JSON) -> Twin:
    """The twin with what `agreement` found in its fidelity."""
    return dataclasses.replace(twin, fidelity=twin.fidelity | found)


def _point(policy: PolicyReturns, promise: ReturnPrediction) -> JSON:
    ends = [None if math.isinf(end) else end for end in (promise.low, promise.high)]
    return {
        "policy": policy.policy,
        "run": policy.run,
        "kind": policy.kind,
        "real": float(policy.real.mean()),
        "real_ci95": list(bootstrap_mean(policy.real)),
        "learned": float(policy.learned.mean()),
        "learned_ci95": list(bootstrap_mean(policy.learned)),
        "learned_return": policy.learned_return,
        "past_threshold_share": policy.past_threshold,
        "supported": not promise.reason,
        "low": ends[0],
        "high": ends[1],
    }
