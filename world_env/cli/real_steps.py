"""Announcement of the real environment steps of a command, before the first one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from world_env.errors import InvalidOptionError
from world_env.results.step_plan import PlannedSteps, StepPlan, at_most, of_episodes

if TYPE_CHECKING:
    from world_env.real.step_ledger import StepLedger
    from world_env.spec import EnvConfig, WorldSpec
    from world_env.twin.twin import Twin

_log = logging.getLogger(__name__)


def announce(
    parts: Sequence[PlannedSteps], ledger: StepLedger, max_steps: int | None, *, lower: str
) -> None:
    """Show the plan of real steps. Raises RealStepLimitError where it exceeds the limit.

    ledger: of the command, with the steps that were taken before. lower: options that make the plan smaller.
    """
    show_plan(
        StepPlan(parts=list(parts), taken=ledger.by_purpose, max_steps=max_steps), lower=lower
    )


def show_plan(plan: StepPlan, *, lower: str) -> None:
    """Show a plan of real steps. Raises RealStepLimitError where it exceeds its limit."""
    plan.check(lower)
    _log.info("%s", plan)


def check_limit(max_real_steps: int | None) -> None:
    """Raise InvalidOptionError for a limit below 1."""
    if max_real_steps is not None and max_real_steps < 1:
        raise InvalidOptionError(f"max_real_steps must be >= 1, got {max_real_steps}")


def played(
    twin: Twin, real: EnvConfig, policies: int, episodes: int, *, purpose: str = "evaluate"
) -> PlannedSteps:
    """Real steps of whole episodes of several policies, up to the smaller time limit of both sides."""
    horizon, chunk = _limit(twin, real)
    count = "1 policy" if policies == 1 else f"{policies} policies"
    use = f"{count} x {episodes} episodes"
    return of_episodes(purpose, use, policies * episodes, horizon, chunk)


def filmed(twin: Twin, real: EnvConfig, steps: int) -> PlannedSteps:
    """Real steps of one episode in a video of at most `steps` steps."""
    horizon, chunk = _limit(twin, real)
    return at_most("evaluate", "the episode of the video", min(steps, horizon or steps) * chunk)


def _limit(twin: Twin, real: EnvConfig) -> tuple[int | None, int]:
    """(time limit in actions, real steps of one action)."""
    from world_env.real.real_env import spec_of

    spec: WorldSpec = spec_of(real)
    limits = [each.horizon for each in (twin.spec, spec) if each.horizon is not None]
    return min(limits, default=None), spec.action_chunk
