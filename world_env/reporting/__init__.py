"""The report page, its plots and videos."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.reporting.futures_video import futures as futures
    from world_env.reporting.report import (
        read_comparison as read_comparison,
        write_report as write_report,
    )
    from world_env.reporting.side_by_side_video import watch as watch

__all__, __getattr__, __dir__ = lazy_names(__name__, __file__)
