"""The wheel carries what the packages need, and the papers beside it agree."""

import re
import subprocess
import sys
import zipfile
from importlib.metadata import requires, version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_citation_and_changelog_know_the_version() -> None:
    current = version("world-env")
    assert f"\nversion: {current}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert headings[0] in ("Unreleased", current)


def test_the_dev_extra_holds_every_other_extra() -> None:
    wanted: dict[str, set[str]] = {}
    for line in requires("world-env") or []:
        requirement, _, extra = line.partition("; extra == ")
        wanted.setdefault(extra.strip("'\""), set()).add(requirement)
    for extra in set(wanted) - {"", "dev"}:
        assert wanted[extra] <= wanted["dev"], f"dev lacks {wanted[extra] - wanted['dev']}"


@pytest.mark.slow
def test_the_wheel_carries_every_file_of_the_packages(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in ("world_env",)
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == expected
