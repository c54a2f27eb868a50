"""Real environments and the ledger of their steps."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.real.real_env import make_real, make_real_vec, spec_of
    from world_env.real.step_ledger import PURPOSES, StepLedger

__all__ = [
    "PURPOSES",
    "StepLedger",
    "make_real",
    "make_real_vec",
    "spec_of",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "real_env": (
            "make_real",
            "make_real_vec",
            "spec_of",
        ),
        "step_ledger": (
            "PURPOSES",
            "StepLedger",
        ),
    },
)
