"""Benchmarks and recipes use public names only: those of `world_env`, or of one of its rooms."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path for name in ("benchmarks", "training") for path in (ROOT / name).rglob("*.py"))
FAMILIES = {"world_env.models.ensemble", "world_env.models.linear", "world_env.models.rssm"}
"""Packages of `models` with public names of their own: their configurations."""
EXCEPTIONS = {
    "benchmarks/diagnostics/scales.py": {"world_env.fitting.fit"},
    "benchmarks/sample_efficiency/svg_critics.py": {
        "world_env.rl.learn",
        "world_env.rl.svg",
        "world_env.rl.svg_networks",
    },
    "benchmarks/speed/fit_speed.py": {"world_env.fitting.fit"},
    "benchmarks/speed/parts.py": {"world_env.models.ensemble.model", "world_env.models.layers"},
    "benchmarks/speed/stepping.py": {"world_env.models.layers.ensemble_mlp"},
    "benchmarks/speed/svg_speed.py": {"world_env.rl.svg", "world_env.rl.svg_networks"},
}
"""Scripts that time or patch internals -> modules that only they may import."""


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(tree: ast.AST) -> list[tuple[str, str]]:
    """(module, name) of every import from `world_env`; the name is empty for `import module`."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.module or "", alias.name) for alias in node.names]
    return [pair for pair in found if pair[0].split(".")[0] == "world_env"]


def private(source: str, allowed: set[str] = frozenset()) -> set[str]:
    """Modules and names that a file may not import."""
    found = set()
    for module, name in imported(ast.parse(source)):
        whole = f"{module}.{name}" if name else module
        if module in allowed or whole in allowed:
            continue
        room = module.count(".") <= 1 or module in FAMILIES
        public = getattr(importlib.import_module(module), "__all__", None) if room else None
        hidden = name.startswith("_") or (public is not None and name and name not in public)
        if not room or hidden:
            found.add(whole)
    return found


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_only_public_names_are_imported(path: Path) -> None:
    allowed = EXCEPTIONS.get(relative(path), set())
    assert not private(path.read_text(encoding="utf-8"), allowed)


def test_every_exception_is_needed() -> None:
    for name, modules in EXCEPTIONS.items():
        source = (ROOT / name).read_text(encoding="utf-8")
        for module in modules:
            assert private(source, modules - {module}), f"{name} does not import {module}"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from world_env import learn\nfrom world_env.rollouts import run_real", set()),
        ("import world_env\nfrom world_env.types import JSON", set()),
        ("from world_env.rollouts.real import run_real", {"world_env.rollouts.real.run_real"}),
        ("import world_env.fitting.fit", {"world_env.fitting.fit"}),
        ("def f():\n    from world_env.rl import learn", {"world_env.rl.learn"}),
        ("from world_env.results import _git", {"world_env.results._git"}),
        ("from world_env.models.ensemble import model", {"world_env.models.ensemble.model"}),
    ],
)
def test_a_private_import_is_noticed(source: str, found: set[str]) -> None:
    assert private(source) == found
