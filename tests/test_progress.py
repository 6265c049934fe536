"""Progress: plain lines where nobody watches, a bar on a terminal, and silence on demand."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from engine_fixtures import write
from PIL import Image

from deepinside.cli import progress
from deepinside.cli.main import cli

PICTURES = 30
COMMAND = ["saliency", "-m", "m.onnx", "in", "-t", "0", "-o", "out", "--batch-size", "1"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "m.onnx")
    Path("in").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    for number in range(PICTURES):
        Image.fromarray(pixels).save(f"in/{number:02d}.png")
    return tmp_path


class Clock:
    """Goes on by so many seconds whenever it is read."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds = 0.0, seconds

    def monotonic(self) -> float:
        self.now += self.seconds
        return self.now


def test_a_line_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(0)
    monkeypatch.setattr(progress, "time", clock)
    with progress.progress_bar("Saliency", quiet=False) as advance:
        for done in range(1, 101):
            clock.now += 0.25
            advance(done, 100, "x.png")
        clock.now += 4000
        advance(101, 20_000, "x.png")
        clock.now += 10
        advance(111, None, "x.png")  # of archives, the number is not known
        clock.now += 9.9
        advance(121, None, "x.png")
    assert capsys.readouterr().err.splitlines() == [
        "Saliency: 40 of 100, 4.0/s, 0:15 left",
        "Saliency: 80 of 100, 4.0/s, 0:05 left",
        "Saliency: 101 of 20000, 0.0/s, 1054:10:24 left",
        "Saliency: 111, 1.0/s",
    ]


@pytest.mark.parametrize("command", ["saliency", "localize", "evaluate"])
def test_lines_of_a_command_that_nobody_watches(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "time", Clock(2.0))
    extra = ["--metric", "curves", "--steps", "1", "--no-controls"] if command == "evaluate" else []
    result = CliRunner().invoke(cli, [command, *COMMAND[1:], *extra])
    assert result.exit_code == 0, result.output
    *lines, summary = result.stderr.splitlines()
    # The clock is read with every picture, and once more for a line: each fifth picture has one.
    assert len(lines) == 6
    assert lines[0] == f"{lines[0].partition(':')[0]}: 5 of 30, 0.5/s, 0:50 left"
    assert summary.startswith("30 done, 0 kept, 0 failed")
    assert "left" not in result.stdout


@pytest.mark.parametrize("command", ["saliency", "localize", "evaluate"])
def test_quiet_and_json(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "time", Clock(20.0))
    Path("in/bad.png").write_bytes(b"x")
    extra = ["--metric", "curves", "--steps", "1", "--no-controls"] if command == "evaluate" else []
    arguments = [command, *COMMAND[1:], *extra]
    quiet = CliRunner().invoke(cli, [*arguments, "--quiet"])
    assert quiet.exit_code == 1
    assert re.fullmatch(r"Error: in/bad\.png: .*\n", quiet.stderr)
    lines = CliRunner().invoke(cli, [*arguments, "--json"])
    records = [json.loads(line) for line in lines.stdout.splitlines()]
    if command == "evaluate":
        assert records.pop()["task"] == "evaluation-summary"
    assert sorted(record["status"] for record in records) == ["failed", *["kept"] * PICTURES]
    assert "in/bad.png" in lines.stderr  # progress stays off stdout
    assert "31" in lines.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_the_bar_on_a_terminal() -> None:
    import fcntl
    import pty
    import struct
    import termios

    # Large enough to last some seconds, so that the bar knows its rate.
    pixels = np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    for number in range(PICTURES):
        Image.fromarray(pixels).save(f"in/{number:02d}.png", compress_level=1)
    terminal, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm-256color"}
    with subprocess.Popen(
        [sys.executable, "-m", "deepinside.cli", *COMMAND],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={name: value for name, value in environment.items() if name != "NO_COLOR"},
    ) as job:
        os.close(theirs)
        shown = b""
        while True:
            try:
                block = os.read(terminal, 1 << 16)
            except OSError:  # Linux, once the other end is closed
                break
            if not block:
                break
            shown += block
    os.close(terminal)
    assert job.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    bars = [line for line in re.split(r"[\r\n]+", text) if line.startswith("Saliency")]
    assert any(re.search(r"━ +\d+/30 \d+\.\d/s 0:00:\d\d in/\d\d\.png", bar) for bar in bars), text
    assert "30 done, 0 kept, 0 failed" in text.splitlines()[-1]
    assert shown.count(b"\x1b[2K") > 2  # in place, and gone in the end
