"""How large is the code, at one commit or at several?

    python -m benchmarks.structure.lines 2ce8686 HEAD

Counts modules, imports between them, lines by kind, mentions of the untyped `JSON` and `Any`, and checks of the kind of
a policy (`isinstance` of a policy class, `hasattr` of "predict"), and prints one table row a commit.
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.markdown import table

PACKAGES = ("world_env", "training")
HEAD = (
    *("commit", "modules", "arrows", "packages", "code", "docstrings", "imports", "blank"),
    *("benchmarks", "tests", "README", "docs", "JSON", "Any", "kinds of policies"),
)
_POLICIES = re.compile(r"(\w*(Policy|Actor|Algorithm)|Exploration)$")


def main() -> None:
    """Print the table of the commits that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commits", nargs="*", default=["HEAD"], help="commits (default: HEAD)")
    print(table(HEAD, [row_of(commit) for commit in parser.parse_args().commits]))


def row_of(commit: str) -> list[str]:
    """The table row of one commit; a package that it does not have counts as 0."""
    short = subprocess.check_output(["git", "rev-parse", "--short", commit], text=True).strip()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with subprocess.Popen(["git", "archive", commit], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                archive.extractall(root, filter="data")
        sources = [path for name in PACKAGES for path in sorted((root / name).rglob("*.py"))]
        kinds, names, arrows = Counter[str](), Counter[str](), 0
        for path in sources:
            text = path.read_text(encoding="utf-8")
            kinds += kinds_of(text)
            arrows += len(imported(text))
            names += names_of(text)
        counts = [len(sources), arrows, kinds.total()]
        counts += [kinds[kind] for kind in ("code", "docstrings", "imports", "blank")]
        patterns = ("benchmarks/**/*.py", "tests/**/*.py", "README.md", "docs/**/*.md")
        counts += [lines(root, pattern) for pattern in patterns]
        counts += [names[name] for name in ("JSON", "Any", "kinds of policies")]
    return [short, *(f"{count:,}" for count in counts)]


def kinds_of(text: str) -> Counter[str]:
    """Number of lines of each kind; comments count as code."""
    kinds = ["code" if line.strip() else "blank" for line in text.splitlines()]
    for node in ast.walk(ast.parse(text)):
        kind = None
        if isinstance(node, ast.Import | ast.ImportFrom):
            kind = "imports"
        elif isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str):
            kind = "docstrings"
        if kind is not None and isinstance(node, ast.stmt):
            kinds[node.lineno - 1 : node.end_lineno] = [kind] * (node.end_lineno - node.lineno + 1)  # type: ignore[operator]
    return Counter(kinds)


def names_of(text: str) -> Counter[str]:
    """Number of mentions of `JSON` and `Any`, and of checks of the kind of a policy."""
    found = Counter[str]()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Name) and node.id in ("JSON", "Any"):
            found[node.id] += 1
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        if node.func.id == "isinstance" and any(
            isinstance(part, ast.Name) and _POLICIES.match(part.id)
            for part in ast.walk(node.args[1])
        ):
            found["kinds of policies"] += 1
        if node.func.id == "hasattr" and ast.unparse(node.args[1]) == "'predict'":
            found["kinds of policies"] += 1
    return found


def imported(text: str) -> set[str]:
    """Modules of the packages that a file imports."""
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    return {str(n.module) for n in nodes if str(n.module).partition(".")[0] in PACKAGES}


def lines(root: Path, pattern: str) -> int:
    """Lines of the files that match a pattern."""
    return sum(len(path.read_text("utf-8").splitlines()) for path in root.glob(pattern))


if __name__ == "__main__":
    main()
