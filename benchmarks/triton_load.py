"""Load on a real Triton that serves what `write_triton_config` made, each answer checked.

    pip install 'tritonclient[grpc]'
    python benchmarks/triton_load.py REPOSITORY [--seconds 15] [--connections 1 8] [--note TEXT]

Writes the embedded classifier into the model repository REPOSITORY and waits for a Triton, which is
started by hand on it (docs/serving.md) with gRPC at --address. Clients send normalised pictures,
each with a class, wait for the map, and compare it with that of the picture alone. Writes
benchmarks/results/triton-DATE.json.
"""

import argparse
import contextlib
import dataclasses
import datetime
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as client
from cpu import PACKAGES, RESULTS, machine, versions

from deepinside import models
from deepinside.engine import Engine
from deepinside.exporters import TritonSettings, export_saliency, write_triton_config

NAME = "classifier"


def wait_for(address: str) -> Any:
    """A connection to a server that is ready."""
    connection = client.InferenceServerClient(address)
    for _ in range(6000):
        with contextlib.suppress(client.InferenceServerException):
            if connection.is_model_ready(NAME):
                return connection
        time.sleep(0.1)
    raise SystemExit(f"There is no Triton with the model {NAME} at {address}.")


def infer(connection: Any, picture: np.ndarray, target: int) -> np.ndarray:
    """The map of one picture."""
    inputs = [
        client.InferInput("image", [1, *picture.shape], "FP32"),
        client.InferInput("target", [1, 1], "INT64"),
    ]
    inputs[0].set_data_from_numpy(picture[np.newaxis])
    inputs[1].set_data_from_numpy(np.array([[target]]))
    wanted = [client.InferRequestedOutput("saliency")]
    result = connection.infer(NAME, inputs, outputs=wanted)
    return np.asarray(result.as_numpy("saliency")[0])


def executions(connection: Any) -> np.ndarray:
    """Pictures, and batches, so far."""
    (model,) = connection.get_inference_statistics(NAME).model_stats
    return np.array([model.inference_count, model.execution_count])


def load(
    address: str,
    cases: list[tuple[np.ndarray, int, np.ndarray]],
    *,
    connections: int,
    seconds: int,
) -> dict[str, Any]:
    """What so many clients get that each wait for their answer."""
    watcher = client.InferenceServerClient(address)
    before, started = executions(watcher), time.monotonic()
    waits: list[float] = []
    wrong, lock = 0, threading.Lock()

    def one(number: int) -> None:
        nonlocal wrong
        connection = client.InferenceServerClient(address)
        while time.monotonic() < started + seconds:
            picture, target, expected = cases[number % len(cases)]
            asked = time.monotonic()
            found = infer(connection, picture, target)
            waited = time.monotonic() - asked
            fits = np.abs(found - expected).max() <= 1e-4 * expected.max()
            with lock:
                waits.append(waited)
                wrong += not fits
            number += 1

    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(one, range(connections)))
    passed = time.monotonic() - started
    pictures, batches = executions(watcher) - before
    percentiles = np.percentile(waits, (50, 95, 99)) * 1e3
    return {
        "connections": connections,
        "answered": len(waits),
        "wrong": wrong,
        "answered_per_second": round(len(waits) / passed, 1),
        "milliseconds_50_95_99": [round(float(each), 1) for each in percentiles],
        "pictures_per_batch": round(float(pictures / batches), 2),
    }


def make_cases(file: Path) -> list[tuple[np.ndarray, int, np.ndarray]]:
    """Pictures, classes, and the maps that each gives alone."""
    engine, random = Engine(file, "cpu"), np.random.default_rng(0)
    cases = []
    for target in (-1, *random.integers(0, 1000, 15).tolist()):
        picture = random.standard_normal((3, 224, 224)).astype(np.float32)
        (alone,) = engine.saliency(picture, "top1" if target < 0 else target)
        cases.append((picture, target, alone.saliency))
    return cases


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("repository", type=Path)
    parser.add_argument("--address", default="127.0.0.1:8001")
    parser.add_argument("--seconds", type=int, default=15)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 2, 8, 32])
    parser.add_argument("--note", default="", help="what the server is, for the report")
    given = parser.parse_args()
    file = given.repository / NAME / "1" / "model.onnx"
    export_saliency(
        models.default_classifier(),
        file,
        target_input="required",
        preprocessing=models.card()["preprocessing"],
        labels=models.labels(),
        optimize_for="cpu",
    )
    settings = TritonSettings()
    write_triton_config(file.parents[1], settings)
    cases = make_cases(file)
    sys.stdout.write(f"Waiting for a Triton with the repository {given.repository} ...\n")
    sys.stdout.flush()
    server = wait_for(given.address).get_server_metadata(as_json=True)
    load(given.address, cases, connections=1, seconds=2)
    runs = []
    for connections in given.connections:
        runs.append(load(given.address, cases, connections=connections, seconds=given.seconds))
        sys.stdout.write(json.dumps(runs[-1]) + "\n")
        sys.stdout.flush()
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    report = {
        "date": date,
        "machine": machine(),
        "versions": versions((*PACKAGES, "tritonclient")) | {"triton": server["version"]},
        "note": given.note,
        "settings": dataclasses.asdict(settings),
        "seconds": given.seconds,
        "runs": runs,
    }
    path = RESULTS / f"triton-{date}.json"
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
