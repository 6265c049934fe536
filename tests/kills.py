"""Jobs that are killed: forks of one process that has imported everything once."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deepinside.engine.batch.settings import files_of

Job = Callable[..., int]

# Each line on stdin is a run in a fork, which is killed so many seconds after its manifest has so
# many lines; without a number it runs to its end.
_SERVER = """
import os, signal, sys, time
from pathlib import Path
import onnxruntime, numpy, PIL.Image, cmap, cv2, pycocotools.mask
import deepinside.engine.batch.objects, deepinside.engine.batch.shards, deepinside.engine.evaluation
from deepinside.cli.main import cli
print("ready", flush=True)
for line in sys.stdin:
    lines, seconds, manifest, *arguments = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            cli(arguments)
        except SystemExit as end:
            os._exit(end.code)
    def ended():
        return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    def listed():
        return Path(manifest).read_bytes().count(b"\\n") if Path(manifest).exists() else 0
    if lines:
        while not ended() and listed() < int(lines):
            time.sleep(0.001)
        time.sleep(float(seconds))
        os.kill(child, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@contextmanager
def job_of(*command: str) -> Iterator[Job]:
    """A command to be run as `job(output, more_lines, seconds)`, which returns its exit code.

    It goes on where it was, and is killed after so many lines more in its manifest and so many
    seconds; without a number it runs to its end.
    """
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"

        def job(output: str, more_lines: int | None = None, seconds: float = 0) -> int:
            until = "" if more_lines is None else str(len(lines(output)) + more_lines)
            moment = [until, str(seconds), f"{output}/manifest.jsonl"]
            server.stdin.write("\t".join([*moment, *command, "-o", output, "--resume"]) + "\n")
            server.stdin.flush()
            return int(server.stdout.readline())

        yield job
        server.stdin.close()


def lines(output: str) -> list[bytes]:
    """Those of a manifest."""
    file = Path(output, "manifest.jsonl")
    return file.read_bytes().splitlines(keepends=True) if file.exists() else []


def records(output: str) -> list[dict[str, Any]]:
    """Those of a whole manifest, in the order of their inputs."""
    return sorted(map(json.loads, lines(output)), key=lambda record: record["input"])


def kills(job: Job, times: int, *, most_lines: int) -> Iterator[list[dict[str, Any]]]:
    """What is listed in `out` after each kill of a job with a bad picture; at last it may end.

    Moments are counted in lines of the manifest, so that they don't depend on the machine's speed,
    and a little time after; those without a line more fall into the beginning of a run. Each
    third kill leaves a part of the last line, as one within a write does.
    """
    moments = random.Random(0)
    killed = 0
    while killed < times:
        code = job("out", moments.randrange(most_lines), moments.uniform(0, 0.05))
        listed = [json.loads(line) for line in lines("out") if line.endswith(b"\n")]
        for record in listed:
            if record["task"] != "evaluation":  # which has no files
                assert all(Path("out", name).exists() for name in files_of(record))
        if code != -signal.SIGKILL:  # all was done before the moment: once more from nothing
            assert code == 1
            shutil.rmtree("out")
            continue
        killed += 1
        yield listed
        if killed % 3 == 0 and listed:
            whole = b"".join(lines("out"))
            Path("out/manifest.jsonl").write_bytes(whole[: -moments.randrange(1, 60)])
    assert job("out") == 1
