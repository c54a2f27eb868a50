"""Evaluation of a twin by a policy pool: agreement of learned and real returns, calibration of predicted returns."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from world_env.device import torch_defaults
from world_env.errors import InvalidOptionError
from world_env.policies.protocol import Policy
from world_env.policy_evaluation.correlation import (
    EVALUATION,
    OPTIMISATION,
    PolicyReturns,
    statistics,
)
from world_env.policy_evaluation.policy_pool import Pool
from world_env.policy_evaluation.pool_selection import Member
from world_env.policy_evaluation.return_prediction import (
    ReturnPrediction,
    calibrate,
    coverage,
    interval,
    learned_return_of,
    learned_returns,
    leave_one_run_out,
)
from world_env.real.real_env import spec_of
from world_env.results.fidelity import (
    Agreement,
    KindAgreement,
    PolicyPoint,
    PoolSummary,
    ReturnCalibration,
)
from world_env.rollouts.learned import run_learned
from world_env.rollouts.real import first_observations
from world_env.rollouts.returns import Returns, bootstrap_mean
from world_env.spec import check_same_spaces
from world_env.twin.twin import Twin

Report = Callable[[int, int], None]
"""Progress callback: (policies done, policies in total)."""


@dataclass(frozen=True)
class TrainedPolicy:
    """A policy that was trained in the twin, with its real returns over the reset seeds of the pool."""

    name: str
    run: str
    policy: Policy
    real: Returns


@torch_defaults()
def evaluate_twin(
    twin: Twin,
    pool: Pool,
    trained: Sequence[TrainedPolicy] = (),
    *,
    seed: int = 0,
    progress: Report | None = None,
) -> list[PolicyReturns]:
    """Play all policies of a pool (kind "evaluation") and the trained policies ("optimisation") in a twin.

    Takes no real step: real returns come from the pool, and learned episodes have the first observations of the same
    reset seeds. Uncertainty is ignored (`on_uncertain="ignore"`).
    Raises SpaceMismatchError for a pool of another environment, InvalidOptionError for a pool with latent observations
    of this twin and for real returns over other seeds.
    """
    spec = spec_of(pool.real)
    check_same_spaces(spec, twin.spec)
    if pool.encoder == twin.fingerprint():
        raise InvalidOptionError(
            f"the policies of {pool.folder} act on latent observations of this twin, so they cannot evaluate it: make "
            "a pool with another encoder of the same environment, fitted to other data with another seed"
        )
    first = first_observations(pool.real, pool.seeds)
    # Pool policies are loaded one at a time: a pool may hold many large ones.
    entries: list[tuple[str, str, str, Member | Policy, Returns]] = [
        (member.name, member.run, EVALUATION, member, real)
        for member, real in zip(pool.members, pool.returns, strict=True)
    ]
    entries += [(part.name, part.run, OPTIMISATION, part.policy, part.real) for part in trained]
    evaluated = []
    for number, (name, run, kind, source, real) in enumerate(entries):
        if len(real.values) != len(pool.seeds):
            raise InvalidOptionError(
                f"policy {name!r} has {len(real.values)} real returns, but the pool has {len(pool.seeds)} reset seeds: "
                "evaluate it on the seeds of the pool"
            )
        policy = pool.policy(source, spec) if isinstance(source, Member) else source
        # The time limit of the real returns.
        learned = run_learned(
            policy, twin, first, seed=seed, policy_seeds=pool.seeds, horizon=spec.horizon
        )
        own = learned_returns(policy, twin, len(pool.seeds), seed=seed)
        evaluated.append(
            PolicyReturns(
                name, run, kind, real.values, learned.values, own.mean, own.past_threshold
            )
        )
        if progress is not None:
            progress(number + 1, len(entries))
    return evaluated


def agreement(
    evaluated: Sequence[PolicyReturns], pool: Pool
) -> tuple[Agreement, ReturnCalibration | None]:
    """(agreement of a twin, calibration for `predict_return`) over the evaluated policies.

    The calibration is None where too few policies are supported.
    """
    means = [policy.real.mean() for policy in evaluated if policy.kind == EVALUATION]
    span = float(np.ptp(means))
    kinds: dict[str, KindAgreement] = {}
    points: list[PolicyPoint] = []
    for kind, policies, predictions in predictions_by_kind(evaluated):
        supported = [
            policy
            for policy, predicted in zip(policies, predictions, strict=True)
            if not predicted.reason
        ]
        kinds[kind] = KindAgreement(
            **msgspec.structs.asdict(statistics(policies, span=span)),
            **coverage(policies, predictions, span=span),
            supported=statistics(supported, span=span) if supported else None,
        )
        points += [_point(*pair) for pair in zip(policies, predictions, strict=True)]
    calibration = calibrate([policy for policy in evaluated if policy.kind == EVALUATION])
    if calibration is not None:
        calibration = calibration.replace(
            coverage={kind: stats.coverage90 for kind, stats in kinds.items()},
            width_fraction=kinds[EVALUATION].width_fraction,
        )
    described = PoolSummary(
        policies=len(pool.members),
        runs=len({member.run for member in pool.members}),
        episodes=len(pool.seeds),
        real_steps=sum(pool.real_steps.values()),
        range=(float(min(means)), float(max(means))),
    )
    found = Agreement(
        pool=described,
        evaluation=kinds[EVALUATION],
        optimisation=kinds.get(OPTIMISATION),
        points=points,
    )
    return found, calibration


def predictions_by_kind(
    evaluated: Sequence[PolicyReturns],
) -> list[tuple[str, list[PolicyReturns], list[ReturnPrediction]]]:
    """(kind, policies, predicted returns): pool policies are calibrated on the other runs, trained ones on the pool."""
    pool = [policy for policy in evaluated if policy.kind == EVALUATION]
    found = [(EVALUATION, pool, leave_one_run_out(pool))]
    others = [policy for policy in evaluated if policy.kind == OPTIMISATION]
    if others:
        calibration = calibrate(pool)
        predictions = [
            interval(calibration, learned_return_of(policy), policy.past_threshold)
            for policy in others
        ]
        found.append((OPTIMISATION, others, predictions))
    return found


def with_agreement(twin: Twin, found: Agreement, calibration: ReturnCalibration | None) -> Twin:
    """Return a copy of the twin with the result of `agreement` in its fidelity."""
    fidelity = twin.fidelity.replace(agreement=found, return_prediction=calibration)
    return dataclasses.replace(twin, fidelity=fidelity)


def _point(policy: PolicyReturns, predicted: ReturnPrediction) -> PolicyPoint:
    low, high = (None if math.isinf(end) else end for end in (predicted.low, predicted.high))
    return PolicyPoint(
        policy=policy.policy,
        run=policy.run,
        kind=policy.kind,
        real=float(policy.real.mean()),
        real_ci95=bootstrap_mean(policy.real),
        learned=float(policy.learned.mean()),
        learned_ci95=bootstrap_mean(policy.learned),
        learned_return=policy.learned_return,
        past_threshold_share=policy.past_threshold,
        supported=not predicted.reason,
        low=low,
        high=high,
    )
