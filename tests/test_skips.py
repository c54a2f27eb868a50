"""A test that is skipped for a reason nobody listed fails the run."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("skips.py")
SKIPPED = {
    "test": """
import pytest

def test_that_runs() -> None:
    pass

@pytest.mark.skip(reason="too lazy")
def test_that_does_not() -> None:
    pass
""",
    "module": """
import pytest

pytest.skip("too lazy", allow_module_level=True)
""",
}


def run(folder: Path, *, allowed: str = "") -> subprocess.CompletedProcess[str]:
    shutil.copy(CONFTEST, folder / "conftest.py")
    if allowed:
        text = (folder / "conftest.py").read_text("utf-8")
        changed = text.replace(
            "ALLOWED_SKIPS: tuple[str, ...] = (", f'ALLOWED_SKIPS: tuple[str, ...] = ("{allowed}", '
        )
        assert changed != text
        (folder / "conftest.py").write_text(changed, "utf-8")
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("what", SKIPPED)
def test_an_unlisted_skip_fails_the_run(what: str, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(SKIPPED[what] + "\n")
    # A module that is skipped whole leaves a run without tests: one beside it keeps the run good.
    (tmp_path / "test_other.py").write_text("def test_that_runs() -> None: ...\n")
    done = run(tmp_path)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert "skipped without a reason listed" in done.stdout and "too lazy" in done.stdout


def test_a_listed_skip_does_not(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(SKIPPED["test"])
    done = run(tmp_path, allowed="too lazy")
    assert done.returncode == pytest.ExitCode.OK, done.stdout
