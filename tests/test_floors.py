"""The architecture, enforced: who may import whom, what may be named where, how long files grow.

A new module needs a line in FLOORS. If it fits on no floor, change the design, not the test.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("world_env", "training")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 70

# A module imports only from strictly lower floors of its own package; `training` stands on all of
# `world_env`. Below floor 0 lies what the whole package may import.
FLOORS = {
    "world_env": {
        -1: ["errors", "packing"],
        0: ["random", "spec", "batch", "device"],
        1: ["bounds", "codec", "models.base", "models.compiled", "folder", "measured"],
        1.3: ["models.loops"],
        1.5: ["models.networks", "models.weights"],
        1.7: ["models.units", "models.ensemble_config", "models.rssm_config", "models.senses"],
        2: [
            *["models.linear", "models.ensemble", "models.rssm"],
            *["models.transformer", "models.diffusion", "models.cosmos"],
            *["caveats", "summary"],
        ],
        3: ["models", "card"],
        4: ["twin", "starts", "ends", "outcome", "rows"],
        4.5: ["view"],
        5: ["simulator", "rollouts", "render"],
        5.5: ["shells", "filter"],
        6: ["env", "vector_env", "sb3", "wrappers"],
        7: ["checks"],
        8: [""],
    },
    "training": {
        -1: ["", "scripted", "known"],
        0: [
            "real",
            "episodes",
            "learn_config",
            "spread",
            "provenance",
            "checkpoint",
            "gradients",
            "agreement",
            "ties",
        ],
        0.4: ["latent", "tasks"],
        0.5: [
            *["bounds", "windows", "exchange", "ppo", "sac", "returns", "findings", "transitions"],
            "latent_rows",
        ],
        0.75: ["lived", "columns", "seams", "rewards"],
        1: ["policy", "fidelity", "lint", "alarm"],
        1.5: ["exploration", "promise", "milestones", "survival", "curiosity", "branches"],
        1.6: ["warm", "fit_checks", "keeper", "choice"],
        1.7: ["partial"],
        1.75: ["horizons", "counterfactual"],
        2: ["collect", "fit", "learn", "compare", "plots", "logs"],
        2.2: ["schedule"],
        2.5: ["pool", "rounds"],
        2.8: ["agree"],
        3: ["report", "watch", "refine"],
        4: ["build", "futures"],
        4.5: ["terminal"],
        4.7: ["data_stages"],
        4.8: ["judge_stages"],
        5: ["stages"],
        6: ["cli"],
    },
}
FLOOR_OF = {
    f"{package}.{name}".rstrip("."): floor
    for package, floors in FLOORS.items()
    for floor, names in floors.items()
    for name in names
}

DRAWERS = {"util", "utils", "common", "helper", "helpers", "misc"}
TASKS = re.compile(
    r"cart[-_ ]?pole|pendulum|acrobot|mountain[-_ ]?car|half[-_ ]?cheetah|hopper|walker[-_ ]?2d"
    r"|\bants?\b|swimmer|humanoid|reacher|pusher|lunar[-_ ]?lander|bipedal[-_ ]?walker"
    r"|car[-_ ]?racing|frozen[-_ ]?lake|cliff[-_ ]?walking|\btaxi\b|\bpong\b|breakout",
    re.IGNORECASE,
)
# What `gym.make("WorldModel-v0")` makes must be named once.
DEFAULT_TWIN = re.compile(r'^DEFAULT_TWIN(: [\w\[\]]+)? = "cartpole"$')
DEFAULT_TWIN_FILES = {"world_env/spec.py"}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


ALL_SOURCES = [path for package in PACKAGES for path in sources(package)]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in ALL_SOURCES}


def imported_modules(path: Path) -> Iterator[tuple[str, int]]:
    """Each module of ours that a file imports, anywhere in it, and the line.

    A string that is exactly a module's dotted name (or "module:Name") counts: that is how modules
    are loaded on demand.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = absolute_base(node, path)
            joined = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else base for name in joined]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            dotted = node.value.partition(":")[0]
            names = [dotted] if "." in dotted and dotted in MODULES else []
        else:
            continue
        for name in names:
            if name.partition(".")[0] in PACKAGES:
                yield name, node.lineno


def absolute_base(node: ast.ImportFrom, path: Path) -> str:
    """The module after `from`, with leading dots resolved."""
    if not node.level:
        return node.module or ""
    package = path.relative_to(ROOT).parent.parts
    kept = package[: len(package) - node.level + 1]
    return ".".join([*kept, *([node.module] if node.module else [])])


@pytest.mark.parametrize("path", ALL_SOURCES, ids=relative)
def test_every_module_has_a_floor(path: Path) -> None:
    name = module_name(path)
    assert name in FLOOR_OF, f"{relative(path)} stands on no floor: see FLOORS in {__file__}"


@pytest.mark.parametrize("path", ALL_SOURCES, ids=relative)
def test_imports_go_strictly_down(path: Path) -> None:
    importer = module_name(path)
    floor = FLOOR_OF.get(importer, -2)
    package = importer.partition(".")[0]
    wrong = []
    for imported, line in dict.fromkeys(imported_modules(path)):
        target = imported.partition(".")[0]
        allowed = (
            FLOOR_OF.get(imported, 99) < floor
            if target == package
            else (package, target) == ("training", "world_env")
        )
        if not allowed:
            wrong.append(
                f"line {line}: {importer} [{floor}] imports {imported} "
                f"[{FLOOR_OF.get(imported, 'no floor')}]"
            )
    assert not wrong, "\n".join(wrong)


def test_there_is_no_import_cycle() -> None:
    graph = {name: {to for to, _ in imported_modules(path)} for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name in done:
            return
        for imported in graph.get(name, ()):
            visit(imported, [*trail, name])
        done.add(name)

    for name in graph:
        visit(name, [])


@pytest.mark.parametrize("path", sources("world_env"), ids=relative)
def test_the_product_never_mentions_the_pipeline(path: Path) -> None:
    # The package and its modules; `self.training` of torch and the English word are free.
    mention = re.compile(r"(import|from) training\b|(?<![\w.])training[./][a-z_]")
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [f"line {n}: {line}" for n, line in enumerate(lines, 1) if mention.search(line)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "path", [p for p in sources("world_env") if relative(p) != "world_env/render.py"], ids=relative
)
def test_the_product_names_no_task(path: Path) -> None:
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
    # tests/world_env as a package would hide the real one.
    assert not list((ROOT / "tests").rglob("__init__.py"))


@pytest.mark.parametrize("path", ALL_SOURCES, ids=relative)
def test_files_stay_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE_LINES, f"{relative(path)} has {lines} lines: split it by idea"


def test_functions_stay_short() -> None:
    lengths = {}
    for path in ALL_SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                lengths[f"{relative(path)}:{node.lineno} {node.name}"] = length
    if lengths:
        longest = max(lengths, key=lengths.__getitem__)
        print(f"longest function: {longest}, {lengths[longest]} lines")
    too_long = {name: n for name, n in lengths.items() if n > MAX_FUNCTION_LINES}
    assert not too_long, f"over {MAX_FUNCTION_LINES} lines: {too_long}"


def test_importing_the_package_loads_no_torch() -> None:
    # __file__ is None for a bare folder, which would load nothing and prove nothing.
    code = "import sys, world_env; sys.exit(not world_env.__file__ or 'torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
