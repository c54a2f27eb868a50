"""Plan of the real environment steps of a command, before the first one is taken."""

from __future__ import annotations

from world_env.errors import RealStepLimitError
from world_env.struct import Struct


class PlannedSteps(Struct, frozen=True, kw_only=True):
    """Real steps that one part of a command still takes."""

    purpose: str
    """Purpose under which the ledger counts them."""
    use: str
    """Use of the steps, in words."""
    steps: int | None
    """Largest number of steps: of episodes, their number times the time limit. None: no limit is known."""
    at_least: int
    """Smallest number of steps; equal to `steps` where the number is exact."""

    @property
    def text(self) -> str:
        """The number in words."""
        if self.steps is None:
            return f"at least {self.at_least:,}"
        return f"{self.steps:,}" if self.at_least == self.steps else f"at most {self.steps:,}"


class StepPlan(Struct, frozen=True, kw_only=True):
    """Real steps of a command by purpose. `print` shows them as a table."""

    parts: list[PlannedSteps]
    """Steps still to take, in the order of the stages."""
    taken: dict[str, int] = {}
    """Purpose -> steps that the ledger of the run has counted already."""
    max_steps: int | None = None
    """Limit of all steps together, those already taken included. None: no limit."""

    @property
    def by_purpose(self) -> dict[str, int | None]:
        """Purpose -> largest number of steps still to take; None where no limit is known."""
        found: dict[str, int | None] = {}
        for part in self.parts:
            before = found.get(part.purpose, 0)
            unknown = before is None or part.steps is None
            found[part.purpose] = None if unknown else (before or 0) + (part.steps or 0)
        return found

    @property
    def total(self) -> int | None:
        """Largest number of steps still to take, of all purposes; None where no limit is known."""
        return self._sum.steps

    @property
    def _sum(self) -> PlannedSteps:
        known = [part.steps for part in self.parts if part.steps is not None]
        return PlannedSteps(
            purpose="total",
            use="",
            steps=sum(known) if len(known) == len(self.parts) else None,
            at_least=sum(part.at_least for part in self.parts),
        )

    def check(self, lower: str) -> None:
        """Raise RealStepLimitError where even the smallest number of steps exceeds the limit.

        lower: settings that make the plan smaller, in words.
        """
        taken, least = sum(self.taken.values()), self._sum.at_least
        if self.max_steps is None or taken + least <= self.max_steps:
            return
        needed = ", ".join(
            f"{part.purpose} {part.at_least:,} ({part.use})" for part in self.parts if part.at_least
        )
        before = f"{taken:,} taken before, and " if taken else ""
        raise RealStepLimitError(
            f"this run needs more real steps than the limit of {self.max_steps:,}: {before}at least {least:,} more: "
            f"{needed}. No step was taken. Lower {lower}, or raise --max-real-steps."
        )

    def __str__(self) -> str:
        parts = [part for part in self.parts if part.steps != 0]
        taken = sum(self.taken.values())
        by_purpose = ", ".join(f"{purpose} {steps:,}" for purpose, steps in self.taken.items())
        before = f"{taken:,} taken before ({by_purpose})" if taken else ""
        if not parts:
            return f"real environment steps: none left to take{before and '; '}{before}"
        rows = [(part.purpose, part.text, part.use) for part in parts]
        rows.append(("total", self._sum.text, f"more; {before}" if taken else ""))
        if self.max_steps is not None:
            rows.append(
                ("limit", f"{self.max_steps:,}", "of all steps together (--max-real-steps)")
            )
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        lines = [f"  {a:{widths[0]}}  {b:>{widths[1]}}  {c}".rstrip() for a, b, c in rows]
        return "\n".join(["real environment steps of this command:", *lines])


def exact(purpose: str, use: str, steps: int) -> PlannedSteps:
    """A part with a known number of steps."""
    return PlannedSteps(purpose=purpose, use=use, steps=steps, at_least=steps)


def at_most(purpose: str, use: str, steps: int, *, at_least: int = 0) -> PlannedSteps:
    """A part that may need fewer steps."""
    return PlannedSteps(purpose=purpose, use=use, steps=steps, at_least=min(at_least, steps))


def of_episodes(
    purpose: str, use: str, episodes: int, horizon: int | None, chunk: int = 1
) -> PlannedSteps:
    """Steps of whole episodes, each of one step up to the time limit.

    horizon: time limit in actions of the policy; None: not known. chunk: real steps of one action.
    """
    if horizon is None:
        return PlannedSteps(
            purpose=purpose, use=f"{use} without a time limit", steps=None, at_least=episodes
        )
    longest = horizon * chunk
    return at_most(
        purpose, f"{use} of up to {longest:,} steps", episodes * longest, at_least=episodes
    )
