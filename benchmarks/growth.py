"""How time grows with batch, picture size and depth, and the memory of it all, on a CPU.

    python benchmarks/growth.py [--rounds 20] [--threads 2] [--only memory ...]

Forward pass, our file and PyTorch's gradient, interleaved in one process as in benchmarks/cpu.py;
memory is the peak of a process of its own, less what it had before the network was opened. Writes
benchmarks/results/growth-DATE.json, and the plots of docs/performance.md (needs matplotlib).
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cpu import (
    BASELINE,
    OURS,
    RESULTS,
    TORCH,
    Network,
    from_timm,
    machine,
    make_timm_importable,
    time_rounds,
    torch_gradient,
    versions,
)
from rivals import open_session

from deepinside.engine.session import SessionSettings
from deepinside.engine.session import open_session as engine_session

PLOT = Path(__file__).resolve().parent.parent / "docs" / "images" / "growth.png"
BATCHES = (1, 2, 4, 8, 16)
SIZES = (128, 192, 256, 384, 512)
DEPTHS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
MEMORY = ("mobilenetv2_100", "resnet50", "vit_tiny_patch16_224")
MEMORY_BATCHES = (1, 16)
NAMES = {BASELINE: "ONNX Runtime forward", OURS: "ours", TORCH: "PyTorch gradient"}


def timed(network: Network, batch: int, given: argparse.Namespace) -> dict[str, float]:
    """Median milliseconds of each case."""
    import torch

    shape = (batch, 3, network.image_size, network.image_size)
    image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    leaf = torch.from_numpy(image.copy())
    forward = open_session(network.classifier, given.threads)
    saliency = open_session(network.saliency, given.threads)
    feed = {forward.get_inputs()[0].name: image}
    rounds = time_rounds(
        {
            BASELINE: lambda: forward.run(None, feed),
            OURS: lambda: saliency.run(None, feed),
            TORCH: lambda: torch_gradient(network.module, leaf),
        },
        given.rounds,
    )
    return {name: round(statistics.median(values), 2) for name, values in rounds.items()}


def peaks(name: str, network: Network, batch: int, threads: int) -> dict[str, float]:
    """Megabytes of each case, each in a process of its own."""
    found = {}
    for case, path in (
        (BASELINE, network.classifier),
        (OURS, network.saliency),
        (TORCH, Path(name)),
    ):
        command = [sys.executable, __file__, "--one", str(path)]
        command += ["--batch", str(batch), "--size", str(network.image_size)]
        command += ["--threads", str(threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[case] = float(done.stdout.splitlines()[-1])
    return found


def opened(path: Path, threads: int) -> Callable[[np.ndarray], Any]:
    """What runs a file on pictures: the engine ours, which holds less than a bare session."""
    if path.name.endswith(".cpu.onnx"):
        ours = engine_session(path, SessionSettings("cpu", threads=threads, spinning=False))
        return lambda image: ours.run(list(ours.outputs), {next(iter(ours.inputs)): image})
    session = open_session(path, threads)
    return lambda image: session.run(None, {session.get_inputs()[0].name: image})


def peak(given: argparse.Namespace) -> float:
    """Megabytes that opening and running takes: an ONNX file, or a network of timm in PyTorch."""
    shape = (given.batch, 3, given.size, given.size)
    image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    if given.one.suffix == ".onnx":
        before = _megabytes()
        run = opened(given.one, given.threads)
        for _ in range(3):
            run(image)
        return _megabytes() - before
    import torch

    kept = make_timm_importable()
    import timm

    torch.set_num_threads(given.threads)
    leaf = torch.from_numpy(image)
    before = _megabytes()
    module = timm.create_model(given.one.name).eval().requires_grad_(False)
    for _ in range(2):
        torch_gradient(module, leaf)
    del kept
    return _megabytes() - before


def _megabytes() -> float:
    """The peak of this process; getrusage's would be its parent's, where that had more."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (peak,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024


def measure(given: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Rows of the questions that were asked."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        return {question: QUESTIONS[question](place, given) for question in given.only}


def by_batch(place: Path, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Milliseconds of batches."""
    network = from_timm("resnet18", place)
    return [{"batch": batch} | timed(network, batch, given) for batch in BATCHES]


def by_size(place: Path, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Milliseconds of pictures of other sizes."""
    return [{"size": size} | timed(from_timm("resnet18", place, size), 1, given) for size in SIZES]


def by_depth(place: Path, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Milliseconds of deeper networks."""
    return [{"depth": name} | timed(from_timm(name, place), 1, given) for name in DEPTHS]


def by_network(place: Path, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Megabytes."""
    return [
        {"network": name, "batch": batch}
        | peaks(name, from_timm(name, place), batch, given.threads)
        for name in MEMORY
        for batch in MEMORY_BATCHES
    ]


QUESTIONS = {"batch": by_batch, "size": by_size, "depth": by_depth, "memory": by_network}


def plot(rows: dict[str, list[dict[str, Any]]]) -> None:
    """Four panels: milliseconds per picture by batch, size and depth; megabytes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 4, figsize=(15, 3.6), layout="constrained")
    panels: Sequence[tuple[str, str, str]] = (
        ("batch", "ResNet-18: pictures in a batch", "ms per picture"),
        ("size", "ResNet-18: side of the picture", "ms"),
        ("depth", "ResNet: depth", "ms"),
    )
    for axis, (question, title, unit) in zip(axes, panels, strict=False):
        places = [str(row[question]).removeprefix("resnet") for row in rows[question]]
        for case, label in NAMES.items():
            values = [row[case] / row.get("batch", 1) for row in rows[question]]
            axis.plot(places, values, marker="o", label=label)
        axis.set(title=title, ylabel=unit, ylim=(0, None))
    axes[0].legend()
    memory = [row for row in rows["memory"] if row["batch"] == MEMORY_BATCHES[-1]]
    for number, (case, label) in enumerate(NAMES.items()):
        places = [position + 0.27 * number for position in range(len(memory))]
        axes[3].bar(places, [row[case] for row in memory], 0.25, label=label)
    labels = [row["network"].partition("_")[0] for row in memory]
    axes[3].set_xticks([position + 0.27 for position in range(len(memory))], labels)
    axes[3].set(title=f"Peak memory, {MEMORY_BATCHES[-1]} pictures", ylabel="MB")
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT, dpi=90)


def main() -> None:
    """Measures, writes and draws."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=QUESTIONS, default=list(QUESTIONS))
    parser.add_argument("--plot", type=Path, help="draw results that are there")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.plot:
        plot(json.loads(given.plot.read_text(encoding="utf-8"))["measurements"])
        return
    if given.one:
        sys.stdout.write(f"{peak(given):.1f}\n")
        return
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    import torch

    torch.set_num_threads(given.threads)
    kept = make_timm_importable()
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    path = RESULTS / f"growth-{date}.json"
    rows = measure(given)
    if path.exists():  # what was measured earlier on this day
        rows = json.loads(path.read_text(encoding="utf-8"))["measurements"] | rows
    report = {
        "date": date,
        "machine": machine(),
        "versions": versions(),
        "settings": {"rounds": given.rounds, "threads": given.threads, "spinning": False},
        "measurements": rows,
    }
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    plot(rows)
    del kept
    sys.stdout.write(f"{path}\n{PLOT}\n")


if __name__ == "__main__":
    main()
