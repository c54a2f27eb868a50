"""The report page, its plots and videos."""
