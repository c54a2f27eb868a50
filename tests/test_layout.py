"""What import-linter does not check: names of tasks, of the recipes, of files, and what importing the package loads."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("world_env", "training")
MAX_FUNCTION_LINES = 70

DRAWERS = {"util", "utils", "common", "helper", "helpers", "misc"}
TASKS = re.compile(
    r"cart[-_ ]?pole|pendulum|acrobot|mountain[-_ ]?car|half[-_ ]?cheetah|hopper|walker[-_ ]?2d"
    r"|\bants?\b|swimmer|humanoid|reacher|pusher|lunar[-_ ]?lander|bipedal[-_ ]?walker"
    r"|car[-_ ]?racing|frozen[-_ ]?lake|cliff[-_ ]?walking|\btaxi\b|\bpong\b|breakout",
    re.IGNORECASE,
)
# What `gym.make("WorldModel-v0")` makes must be named once.
DEFAULT_TWIN = re.compile(r'^DEFAULT_TWIN(: [\w\[\]]+)? = "cartpole"$')
DEFAULT_TWIN_FILES = {"world_env/bundled_twins/__init__.py"}
NAME_TASKS = {
    "world_env/cli/commands.py",
    "world_env/cli/main.py",
    "world_env/pipeline/demo.py",
    "world_env/rendering/poses.py",
}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


ALL_SOURCES = [path for package in PACKAGES for path in sources(package)]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize(
    "path", [p for p in sources("world_env") if relative(p) not in NAME_TASKS], ids=relative
)
def test_the_library_names_no_task(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [
        f"line {n}: {line}"
        for n, line in enumerate(lines, 1)
        if TASKS.search(line)
        and not (relative(path) in DEFAULT_TWIN_FILES and DEFAULT_TWIN.match(line))
    ]
    assert not found, "\n".join(found)


def test_there_are_no_drawers() -> None:
    folders = [ROOT / name for name in (*PACKAGES, "tests", "benchmarks")]
    files = [path for folder in folders for path in folder.rglob("*.py")]
    found = [
        relative(p)
        for p in files
        if {part.strip("_") for part in p.with_suffix("").parts[len(ROOT.parts) :]} & DRAWERS
    ]
    assert not found, f"name these after what they hold: {found}"


def test_the_tests_hold_no_packages() -> None:
    # tests/training as a package would hide the real one.
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_functions_stay_short() -> None:
    """Without their docstrings, which may explain as much as they need."""
    lengths = {}
    for path in ALL_SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if ast.get_docstring(node) is not None:
                    length -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
                lengths[f"{relative(path)}:{node.lineno} {node.name}"] = length
    too_long = {name: n for name, n in lengths.items() if n > MAX_FUNCTION_LINES}
    assert not too_long, f"over {MAX_FUNCTION_LINES} lines: {too_long}"


@pytest.mark.parametrize("path", sources("world_env"), ids=relative)
def test_the_library_never_mentions_the_recipes(path: Path) -> None:
    # The package and its modules; `self.training` of torch and the English word are free.
    mention = re.compile(r"(import|from) (training|benchmarks)\b|(?<![\w.])training[./][a-z_]")
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [f"line {n}: {line}" for n, line in enumerate(lines, 1) if mention.search(line)]
    assert not found, "\n".join(found)


def test_importing_the_package_loads_no_torch() -> None:
    # __file__ is None for a bare folder, which would load nothing and prove nothing.
    code = "import sys, world_env; sys.exit(not world_env.__file__ or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
