"""Progress of a stage: bars where a line can be redrawn, plain lines where it cannot."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from world_env import progress
from world_env.progress import ProgressBars

LINE = re.compile(r"(\w+): ([\d,]+)/([\d,]+) \((\d+)%\)(, \w+ [\d.e+-]+)*, \d+ s")
COMMAND = [sys.executable, "-m", "world_env.cli.main", "collect"]
COMMAND += ["CartPole-v1", "--steps", "300", "--out"]


def test_a_command_without_a_terminal_writes_plain_lines(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, str(tmp_path / "data")], capture_output=True, text=True, check=True
    )
    assert "\r" not in done.stdout + done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    plan, lines = done.stderr.splitlines()[:4], done.stderr.splitlines()[4:]
    assert plan[0] == "INFO: real environment steps of this command:"
    assert lines and all(LINE.fullmatch(line) for line in lines)
    assert lines[-1].startswith("collect: 300/300 (100%)")
    assert "300 real steps" in done.stdout


def test_a_command_on_a_terminal_redraws_one_bar(tmp_path: Path) -> None:
    mine, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, str(tmp_path / "data")], stdout=subprocess.DEVNULL, stderr=its
    )
    os.close(its)
    shown = b""
    while True:
        try:
            shown += os.read(mine, 1000)
        except OSError:  # the other end is closed
            break
    os.close(mine)
    assert process.wait() == 0
    assert b"\rcollect:" in shown and b"100%|" in shown


def test_plain_lines_come_after_each_tenth_and_after_half_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    bars = ProgressBars()
    fit = bars.stage("fit")
    for done, seconds in ((0, 0), (100, 2), (120, 3), (130, 32), (140, 33), (400, 34), (500, 34.5)):
        clock[0] = float(seconds)
        fit(done, 1000, {"open_loop": 0.123456, "other": 1.0, "episode_return": None})
    # Another stage, and the first one from its start, have lines of their own.
    bars("learn", 5, 5)
    fit(1000, 1000)
    fit(1, 1)
    lines = capsys.readouterr().err.splitlines()
    assert all(LINE.fullmatch(line) for line in lines)
    assert [line.split(" ")[:2] for line in lines] == [
        ["fit:", "100/1,000"],
        ["fit:", "130/1,000"],
        ["fit:", "400/1,000"],
        ["learn:", "5/5"],
        ["fit:", "1,000/1,000"],
        ["fit:", "1/1"],
    ]
    assert lines[0] == "fit: 100/1,000 (10%), open_loop 0.1235, 2 s"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_notebook_gets_a_bar() -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    cell = (
        "from world_env import ProgressBars\n"
        "report = ProgressBars()\n"
        "for done in range(4):\n"
        "    report('fit', done, 3)\n"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    shown = "".join(
        str(output.get("text", output.get("data"))) for output in notebook.cells[0].outputs
    )
    # With ipywidgets a widget; without it the bar is text.
    assert re.search(r"fit: +100%", shown)
    assert "Warning" not in shown
