"""The report page, its plots and videos."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.reporting.futures_video import futures
    from world_env.reporting.report import read_comparison, write_report
    from world_env.reporting.side_by_side_video import watch

__all__ = [
    "futures",
    "read_comparison",
    "watch",
    "write_report",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "futures_video": ("futures",),
        "report": (
            "read_comparison",
            "write_report",
        ),
        "side_by_side_video": ("watch",),
    },
)
