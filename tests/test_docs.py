"""The documentation site: its code runs, its commands exist, its pages build."""

import ast
import contextlib
import importlib
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch

from world_env.cli.main import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    path.relative_to(DOCS).as_posix()
    for path in DOCS.rglob("*.md")
    if not {"_build", "results"} & set(path.relative_to(DOCS).parts)
)
FENCE = re.compile(r"^```(\{?[\w-]+\}?) ?(.*?)\n(.*?)^```$", re.M | re.S)
OPTION = re.compile(r"^:([\w-]+): ?(.*)$")
SLOW = {
    "tutorials/cartpole.md",
    "how-to/own-data.md",
    "how-to/own-environment.md",
}
"""Pages whose code fits a world model."""


def blocks(page: str) -> list[tuple[str, dict[str, str], str]]:
    """(language, options, code) of each fenced block of a page."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = []
    for kind, argument, body in FENCE.findall(text):
        language = argument if kind in ("{code-block}", "{code-cell}") else kind
        lines, options = body.splitlines(), {}
        while lines and kind.startswith("{") and (match := OPTION.match(lines[0])):
            options[match[1]] = match[2]
            lines.pop(0)
        found.append((language, options, "\n".join(lines).strip("\n") + "\n"))
    return found


WITH_PYTHON = [page for page in PAGES if any(kind == "python" for kind, _, _ in blocks(page))]


def commands(page: str) -> list[str]:
    """Command lines of world-env in the blocks and in the code spans of a page, but for placeholders."""
    shell = "\n".join(code for kind, _, code in blocks(page) if kind == "sh")
    lines = [line for line in shell.splitlines() if line.startswith("world-env")]
    prose = FENCE.sub("", (DOCS / page).read_text(encoding="utf-8"))
    lines += re.findall(r"`(world-env [a-z][^`]*)`", prose)
    return lines


COMMAND_LINES = [(page, line) for page in PAGES for line in commands(page)]


@pytest.mark.filterwarnings("ignore::world_env.fitting.FitWarning")
@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=pytest.mark.slow if p in SLOW else ()) for p in WITH_PYTHON]
)
def test_the_python_of_a_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("WORLD_ENV_RUNS", str(tmp_path / "runs"))
    modules = set(sys.modules)
    names: dict[str, object] = {"__name__": "docs"}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for number, (kind, options, code) in enumerate(blocks(page)):
            if kind != "python":
                continue
            if "caption" in options:
                (tmp_path / options["caption"]).write_text(code, encoding="utf-8")
                continue
            exec(compile(code, f"{page}, block {number}", "exec"), names)
    finally:
        torch.set_num_threads(threads)
        for name in set(sys.modules) - modules:
            if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]


@cache
def options_of(command: str) -> set[str]:
    """Options of a command, or of "COMMAND exploration:KIND", from its help; empty if there is no such command."""
    shown = io.StringIO()
    with (
        contextlib.redirect_stdout(shown),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.suppress(SystemExit),
    ):
        main([*command.split(), "--help"])
    text = shown.getvalue()
    if not re.search(rf"usage: world-env {command}\b", text):
        return set()
    return set(re.findall(r"(?<![\w-])--[a-z][\w.-]*", text))


def unknown_words(line: str) -> list[str]:
    """Words of a command line that the command line program does not have."""
    _, command, *words = shlex.split(line, comments=True)
    known = options_of(command)
    if not known:
        return [command]
    for word in words:
        if word.startswith("exploration:"):
            known = known | options_of(f"{command} {word}")
    given = [word.partition("=")[0] for word in words if word.startswith("--")]
    return [word for word in given if word not in known]


@pytest.mark.parametrize(("page", "line"), COMMAND_LINES)
def test_a_command_has_these_options(page: str, line: str) -> None:
    assert not unknown_words(line), f"{page}: {line}"


@pytest.mark.parametrize("line", ["world-env polish", "world-env fit --data x --no-such-option 1"])
def test_a_wrong_command_is_noticed(line: str) -> None:
    assert unknown_words(line)


def test_every_command_is_on_the_page_of_the_command_line() -> None:
    text = (DOCS / "reference" / "command-line.md").read_text(encoding="utf-8")
    documented = re.findall(r"^```\{command-help\} ([\w-]+)$", text, re.M)
    assert sorted(documented) == sorted(COMMANDS)


def test_every_public_name_is_in_the_reference() -> None:
    import world_env

    text = "\n".join(path.read_text("utf-8") for path in (DOCS / "reference").glob("*.md"))
    listed = set(re.findall(r"^\.\. auto\w+:: world_env\.([\w.]+)", text, re.M))
    assert set(world_env.__all__) <= listed


@pytest.mark.parametrize("page", PAGES)
def test_a_page_imports_public_names_only(page: str) -> None:
    """From `world_env`, or from the `__all__` of one of its subpackages."""
    for kind, _, code in blocks(page):
        for node in ast.walk(ast.parse(code)) if kind == "python" else ():
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("world_env"):
                public = importlib.import_module(str(node.module)).__all__
                assert {name.name for name in node.names} <= set(public), f"{page}: {node.module}"


def test_every_page_is_in_a_table_of_contents() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = {f"{line}.md" for line in re.findall(r"^[\w/-]+$", index, re.M)}
    assert set(PAGES) == listed | {"index.md"}


@pytest.fixture(scope="module")
def docstrings() -> ModuleType:
    path = DOCS / "_extensions" / "readable_docstrings.py"
    spec = importlib.util.spec_from_file_location("readable_docstrings", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One `code` span and a*b.", ["One ``code`` span and a\\*b.", ""]),
        (
            "out: folder of the policy;\n    a second line.\nRaises ValueError.",
            ["* ``out``: folder of the policy; a second line.", "", "Raises ValueError.", ""],
        ),
        ("a, b: two\nc: three", ["* ``a``, ``b``: two", "", "* ``c``: three", ""]),
        (
            "Alignment:\n    o[t] --a--> o[t+1]",
            ["Alignment:", "", "::", "", "    o[t] --a--> o[t+1]", ""],
        ),
        ("Args:\n    twin: a name.", ["**Args**", "", "* ``twin``: a name.", "", ""]),
    ],
)
def test_docstrings_become_restructured_text(
    docstrings: ModuleType, text: str, expected: list[str]
) -> None:
    assert docstrings.to_rst(text.splitlines()) == expected


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs"]
    environment = os.environ | {"DOCS_EXECUTE": "off"}
    done = subprocess.run(
        [*command, str(tmp_path / "html"), "-d", str(tmp_path / "doctrees")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "html" / "index.html").is_file()
