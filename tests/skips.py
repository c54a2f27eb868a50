"""A test may be skipped for a listed reason only."""

import pytest

ALLOWED_SKIPS: tuple[str, ...] = (
    "this machine has a GPU: nothing is missing here",
    "no GPU here",
    "no OpenGL here: MuJoCo cannot draw",
    "no git history here",
    "WORLD_ENV_EMPTIED is set: there are no bundled twins, on purpose",
)
"""Reasons, word for word, for which a test may be skipped."""

_unlisted_skips = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_unlisted_skips] = []
    config.pluginmanager.register(_SkipWatch(config))


class _SkipWatch:
    """Fails the run when a test or module was skipped for a reason that is not listed."""

    def __init__(self, config: pytest.Config) -> None:
        self.unlisted = config.stash[_unlisted_skips]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        if reason not in ALLOWED_SKIPS:
            self.unlisted.append(f"{report.nodeid}: {reason}")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.unlisted and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.unlisted:
            terminalreporter.section("skipped without a reason listed in tests/skips.py", red=True)
            for line in self.unlisted:
                terminalreporter.line(line)
