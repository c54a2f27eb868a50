"""The files on the page about RL libraries run, each in the environment that has its library."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "rl-libraries.md"
BLOCK = re.compile(
    r"^```\{code-block\} python\n:caption: with_(\w+)\.py\n\n(.*?)^```$", re.M | re.S
)
MODULES = {"rllib": "ray"}
FILES = dict(BLOCK.findall(PAGE.read_text(encoding="utf-8")))
HERE = [name for name in FILES if importlib.util.find_spec(MODULES.get(name, name))]


def test_every_file_runs_in_one_of_the_two_environments() -> None:
    assert set(FILES) == {"sbx", "torchrl", "skrl", "tianshou", "rllib"}
    assert HERE == (["rllib"] if "rllib" in HERE else ["sbx", "torchrl", "skrl", "tianshou"])


@pytest.mark.parametrize("name", HERE)
def test_a_file_runs(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"with_{name}.py"
    path.write_text(FILES[name], encoding="utf-8")
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
