"""Jobs that are killed, stopped, or run out of room, and go on."""

import errno
import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from engine_fixtures import write, write_pictures
from kills import job_of, kills, lines, records

from deepinside.cli.main import cli
from deepinside.cli.stopping import stoppable
from deepinside.engine import OutputError
from deepinside.engine.batch import Manifest, restored

PICTURES = 150
KILLS = 20


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(tmp_path / "m.onnx")
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    write_pictures(Path("in"), PICTURES)
    Path("in/bad.png").write_bytes(b"x")
    return tmp_path


def arguments(output: str, *more: str) -> list[str]:
    return ["saliency", "-m", "m.onnx", "in", "-t", "0", "-q", "-o", output, *more]


def run(*more: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, more)
    assert result.exit_code == code, result.output
    return result


@pytest.mark.parametrize("form", ["files", "npz"])
def test_killed_at_any_moment(form: str) -> None:
    options = ("--format", form, "--shard-size", "5")
    with job_of("saliency", "-m", "m.onnx", "in", "-t", "0", "-q", *options) as job:
        assert job("whole") == 1  # for the bad picture
        progress = {len(listed) for listed in kills(job, KILLS, most_lines=12)}
    assert len(progress) > KILLS // 2
    found, expected = records("out"), records("whole")
    assert len(found) == PICTURES + 1
    assert sorted(os.listdir("out")) == sorted(os.listdir("whole"))
    for one, other in zip(found, expected, strict=True):
        assert {**one, "maps": []} == {**other, "maps": []}
        for mine, theirs in zip(one["maps"], other["maps"], strict=True):
            assert (mine["index"], mine["files"]) == (theirs["index"], theirs["files"])
    for name in os.listdir("whole"):
        if name.endswith(".npz"):
            with np.load(f"out/{name}") as mine, np.load(f"whole/{name}") as theirs:
                np.testing.assert_array_equal(mine["input"], theirs["input"])
                np.testing.assert_allclose(mine["saliency"], theirs["saliency"], rtol=1e-5)
        elif name.endswith(".npy"):
            np.testing.assert_allclose(np.load(f"out/{name}"), np.load(f"whole/{name}"), rtol=1e-5)


def test_a_shard_that_was_not_listed_is_listed() -> None:
    run(*arguments("out", "--format", "npz", "--shard-size", "50"), code=1)
    before = lines("out")
    # Killed within the lines of the last shard.
    Path("out/manifest.jsonl").write_bytes(b"".join(before[:-20])[:-7])
    run(*arguments("out", "--format", "npz", "--shard-size", "50", "--resume"), code=1)
    assert sorted(lines("out")) == sorted(before)
    assert len(list(Path("out").glob("*.npz"))) == 3


def test_ctrl_c_finishes_what_is_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    from deepinside.cli.stopping import Stop

    monkeypatch.setattr("sys.argv", ["deepinside", *arguments("out")])
    before = Stop.before

    def interrupting(self: Stop, items: Any) -> Any:
        for number, item in enumerate(before(self, items)):
            if number == 40:
                os.kill(os.getpid(), signal.SIGINT)
            yield item

    with monkeypatch.context() as patch:
        patch.setattr(Stop, "before", interrupting)
        result = run(*arguments("out"), code=130)
    assert "go on with: deepinside saliency -m m.onnx in -t 0 -q -o out --resume" in result.stderr
    done = len(lines("out"))
    assert 40 <= done <= 45
    assert len(list(Path("out").glob("*.npy"))) == done
    run(*arguments("out", "--resume"), code=1)
    assert len(lines("out")) == PICTURES + 1


def test_the_second_signal_ends_at_once() -> None:
    # A program in the background, and a test in a worker, may have been started with it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with stoppable() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.signal == signal.SIGINT
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_full_disk_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    fsync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 100:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        result = run(*arguments("out"), code=1)
    (line,) = [text for text in result.stderr.splitlines() if "No space left on device" in text]
    assert line.startswith("Error: out/")
    assert not list(Path("out").glob(".deepinside-*"))
    assert 0 < len(lines("out")) < 40
    run(*arguments("out", "--resume"), code=1)
    assert len(lines("out")) == PICTURES + 1


def test_leftovers_go_and_overwritten_work_is_kept_with_resume() -> None:
    run(*arguments("out"), code=1)
    Path("out/.deepinside-0123").write_bytes(b"half")
    times = {path: path.stat().st_mtime_ns for path in Path("out").glob("*.npy")}
    run(*arguments("out", "--overwrite", "--resume"), code=1)
    assert {path: path.stat().st_mtime_ns for path in Path("out").glob("*.npy")} == times
    assert not Path("out/.deepinside-0123").exists()


@pytest.mark.parametrize(("form", "again"), [("files", 1), ("npz", 10)])
def test_what_is_listed_and_gone_is_made_again(form: str, again: int) -> None:
    command = arguments("out", "--format", form, "--shard-size", "10", "in/00?.png", "in/01?.png")
    command.remove("in")
    run(*command)
    ending = "*.saliency.npy" if form == "files" else "*.npz"
    max(Path("out").glob(ending)).unlink()
    result = run(*command, "--json")
    statuses = [json.loads(line)["status"] for line in result.stdout.splitlines()]
    assert (statuses.count("ok"), statuses.count("kept")) == (again, 20 - again)
    for line in lines("out"):
        for entry in json.loads(line)["maps"]:
            assert all(Path("out", name).exists() for name in entry["files"].values())


def test_two_jobs_never_write_into_one_folder() -> None:
    with Manifest(Path("out")):
        assert "another deepinside is writing into out" in run(*arguments("out"), code=1).stderr


@pytest.mark.parametrize("form", ["npz", "parquet", "files"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_formats_and_numbers_hold_the_same_maps(form: str, dtype: str) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    command = ("saliency", "-m", "m.onnx", "-t", "0", "-t", "1", "in/000.png", "in/001.png")
    run(*command, "-o", "plain")
    run(*command, "-o", "out", "--format", form, "--dtype", dtype, "--shard-size", "1")
    plain, other = ([json.loads(line) for line in lines(name)] for name in ("plain", "out"))
    tolerance = {"float32": 1e-6, "float16": 1e-3, "uint8": 0.6 / 255}[dtype]
    for one, record in zip(plain, other, strict=True):
        for left, entry in zip(one["maps"], record["maps"], strict=True):
            expected = np.load(Path("plain", left["files"]["saliency"]))
            values: Any
            if form == "files":
                values = np.load(Path("out", entry["files"]["saliency"]))
            elif form == "npz":
                with np.load(Path("out", entry["files"]["shard"])) as shard:
                    values = shard["saliency"][entry["row"]]
            else:
                from pyarrow import parquet

                table = parquet.read_table(Path("out", entry["files"]["shard"]))
                row = table.slice(entry["row"], 1).to_pylist()[0]
                values = np.array(row["saliency"], dtype).reshape(row["height"], row["width"])
            assert values.dtype == dtype
            found = restored(values, entry.get("scale"))
            np.testing.assert_allclose(found, expected, atol=tolerance * expected.max())
    assert "2 kept" in run(*command, "-o", "out", "--format", form, "--dtype", dtype).stderr


@pytest.mark.parametrize("batch_size", ["1", "7"])
def test_results_do_not_depend_on_the_batch_size(batch_size: str) -> None:
    run(*arguments("a"), code=1)
    run(*arguments("b", "--batch-size", batch_size), code=1)
    for path in Path("a").glob("*.npy"):
        np.testing.assert_allclose(np.load(path), np.load(Path("b", path.name)), rtol=1e-5)


def test_a_line_that_does_not_fit_is_taken_back() -> None:
    class Full(io.FileIO):
        def write(self, content: Any) -> int:
            if os.fstat(self.fileno()).st_size > 100:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(bytes(content)[:60])  # as much as there is room for

    record = {"task": "saliency", "input": "x" * 40, "status": "ok"}
    with Manifest(Path("out")) as manifest:
        manifest.add(record)
        usual, manifest._file = manifest._file, Full(manifest._path, "ab")
        before = Path("out/manifest.jsonl").read_bytes()
        with pytest.raises(OutputError, match="No space left on device"):
            manifest.add({**record, "input": "y" * 400})
        manifest._file.close()
        manifest._file = usual
    assert Path("out/manifest.jsonl").read_bytes() == before
