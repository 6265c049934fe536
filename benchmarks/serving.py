"""Load on examples/server.py, by wrk, beside what the engine does in one process without it.

    apt-get install wrk
    python benchmarks/serving.py [--seconds 15] [--connections 1 2 8 32 96]

The server runs the embedded classifier on the CPU and gets the same photograph (JPEG, 500 x 500)
again and again from CONNECTIONS clients that each wait for their answer; beyond the server's own
limit (64) it answers 503. Its largest resident set is VmHWM of Linux' /proc, reset before each run.
Writes benchmarks/results/serving-DATE.json.
"""

import argparse
import contextlib
import datetime
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from cpu import PACKAGES, RESULTS, machine, versions
from pipeline import photographs

from deepinside import models
from deepinside.engine import Engine, load_picture
from deepinside.engine.preprocess import preprocess
from deepinside.exporters import export_saliency

SERVER = Path(__file__).parents[1] / "examples" / "server.py"
SCRIPT = """
wrk.method = "POST"
local file = io.open(os.getenv("PICTURE"), "rb")
wrk.body = file:read("*a")
file:close()
function done(summary, latency, requests)
  local e = summary.errors
  io.write("RESULT", string.rep(" %d", 7):format(
    summary.requests, summary.duration, e.status, e.connect + e.read + e.write + e.timeout,
    latency:percentile(50), latency:percentile(95), latency:percentile(99)), "\\n")
end
"""


@contextlib.contextmanager
def served(model: Path) -> Iterator[tuple[str, int]]:
    """A running server: its address and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(SERVER), str(model), str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            for _ in range(600):
                with contextlib.suppress(urllib.error.URLError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                    break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/saliency", server.pid
        finally:
            server.terminate()
            server.wait()


def load(address: str, pid: int, folder: Path, *, connections: int, seconds: int) -> dict[str, Any]:
    """What so many clients get, and the server's memory meanwhile."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")
    options = [f"-t{min(connections, 2)}", f"-c{connections}", f"-d{seconds}s", "--timeout=60s"]
    done = subprocess.run(
        ["wrk", *options, "-s", str(folder / "post.lua"), address],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PICTURE": str(folder / "photograph.jpg")},
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    requests, duration, refused, failed, *percentiles = map(int, line.split()[1:])
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    (peak,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return {
        "connections": connections,
        "answered": requests - refused,
        "answered_per_second": round((requests - refused) / (duration / 1e6), 1),
        # wrk times refusals too, which are quick: with them, its percentiles say nothing.
        "milliseconds_50_95_99": None if refused else [round(p / 1e3, 1) for p in percentiles],
        "refused": refused,
        "failed": failed,
        "peak_mb": round(int(peak) / 1024),
    }


def rate(work: Callable[[], object], seconds: int) -> float:
    """How often per second one thread gets it done."""
    work()
    count, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        work()
        count += 1
    return round(count / passed, 1)


def alone(model: Path, photograph: bytes, seconds: int) -> dict[str, float]:
    """Maps per second of one process without a server, one picture after the other."""
    engine = Engine(model, "cpu", spinning=False)
    contract = engine.contract
    assert contract.preprocessing is not None
    pixels, _ = preprocess(
        load_picture(photograph), contract.preprocessing, "NCHW", dtype=np.dtype(np.float32)
    )
    feeds = {"image": pixels[np.newaxis], "target": np.array([-1])}
    return {
        "session": rate(lambda: engine.session.run(["saliency", "score"], feeds), seconds),
        "engine": rate(lambda: engine.saliency(photograph, keep_gradient=False), seconds),
    }


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=15)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 2, 8, 32, 96])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photographs(folder, 1, 500)
        (picture,) = folder.glob("*.jpg")
        picture.rename(folder / "photograph.jpg")
        (folder / "post.lua").write_text(SCRIPT, encoding="ascii")
        model = folder / "saliency.onnx"
        card = models.card()
        export_saliency(
            models.default_classifier(),
            model,
            preprocessing=card["preprocessing"],
            labels=models.labels(),
            optimize_for="cpu",
        )
        runs = []
        with served(model) as (address, pid):
            load(address, pid, folder, connections=1, seconds=2)
            for connections in given.connections:
                runs.append(
                    load(address, pid, folder, connections=connections, seconds=given.seconds)
                )
                sys.stdout.write(json.dumps(runs[-1]) + "\n")
                sys.stdout.flush()
        single = alone(model, (folder / "photograph.jpg").read_bytes(), given.seconds)
    sys.stdout.write(json.dumps(single) + "\n")
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    report = {
        "date": date,
        "machine": machine(),
        "versions": versions((*PACKAGES, "fastapi", "uvicorn")),
        "seconds": given.seconds,
        "server": runs,
        "alone_per_second": single,
    }
    path = RESULTS / f"serving-{date}.json"
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
