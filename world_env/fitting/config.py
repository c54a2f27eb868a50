"""Settings of a fit."""

from __future__ import annotations

from dataclasses import dataclass, field

from world_env.errors import InvalidOptionError
from world_env.types import JSON

MIN_UPDATES, MAX_UPDATES = 3_000, 30_000
"""How many a fit takes of itself: enough for small data, and for large data to be seen often enough."""


_STEPS_AN_UPDATE = 10


@dataclass(frozen=True)
class FitConfig:
    """How a world model is fitted. The defaults serve every bundled task."""

    family: str = "ensemble"
    """Name in world_env.models.registry.FAMILIES."""
    model: JSON = field(default_factory=dict)
    """Fields of the family's own config that differ from its defaults."""
    updates: int | None = None
    """Gradient updates; None: a tenth of the data's steps, at least 3,000 and at most 30,000."""
    batch_size: int | None = None
    """Windows an update, shared among an ensemble's members; None: as many as the family wants."""
    learning_rate: float | None = None
    """Peak step size of AdamW; it warms up, then falls to nothing along a cosine. None: as the family wants."""
    weight_decay: float = 1e-5
    """Decoupled decay of AdamW."""
    max_gradient_norm: float = 10.0
    """Gradients are scaled down to this norm."""
    held_out: float = 0.1
    """Share of the episodes kept from training, to select and to calibrate by."""
    validate_every: int = 250
    """Updates between two looks at the held-out open-loop error, and between two checkpoints."""
    states: int = 2_000
    """Observations from inside the data, at most, that the twin keeps for learned episodes to begin from. Short
    branches need many: what lies further than a branch from all of them is never seen."""
    sharp_ends: bool = True
    """Whether the twin ends episodes where single dimensions pass bounds beyond which nothing ever went on in the data,
    whatever its model thinks."""
    seed: int = 0
    """Of the weights, the windows and the split."""
    device: str = "cpu"
    """Where the model learns and is measured, its data beside it; the twin comes back to the CPU."""

    def __post_init__(self) -> None:
        updates = MIN_UPDATES if self.updates is None else self.updates
        batch = 1 if self.batch_size is None else self.batch_size
        least = min(updates, batch, self.validate_every, self.states)
        if least < 1 or not 0.0 < self.held_out < 1.0:
            raise InvalidOptionError(
                f"updates is {self.updates}, batch_size {self.batch_size}, validate_every {self.validate_every}, "
                f"states {self.states} and held_out {self.held_out}: expected at least 1 of each, and a share between "
                "0 and 1"
            )


def updates_for(steps: int) -> int:
    """Gradient updates of a fit to so many real steps, where nobody says another number."""
    return min(max(MIN_UPDATES, steps // _STEPS_AN_UPDATE), MAX_UPDATES)
