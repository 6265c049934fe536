"""Memory and speed of `saliency`, `localize` and `evaluate` over many pictures.

    python benchmarks/batch.py [--pictures 2000 20000] [--embedded 300] [--large 24] [--only TEXT]

Small JPEG pictures (64 x 64) go through a tiny classifier of 32 x 32 inputs, so that what is
measured is the job and not the network; some hundred crops of 500 x 500 through the embedded
classifier; and pictures of 48 million pixels, for the memory. Each run is a process of its own;
its largest resident set is VmHWM of Linux' /proc (the resource module's would count the memory of
the process that started it). Writes benchmarks/results/batch-DATE.json; with --only, cases with
that text in their names are measured, and put in place of those of that name in the day's file.
"""

import argparse
import datetime
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from cpu import RESULTS, machine, versions
from PIL import Image
from pipeline import photographs

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from classifiers import classifier

SIDE = 32
RECORD = {
    "input_size": [SIDE, SIDE],
    "resize": "stretch",
    "resize_size": None,
    "interpolation": "bilinear",
    "channel_order": "RGB",
    "value_range": [0, 1],
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}


def small_pictures(folder: Path, count: int) -> None:
    """JPEG files of smooth noise, no two the same."""
    random = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        coarse = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC)
        image.save(folder / f"{number:06d}.jpg", quality=90)


def large_pictures(folder: Path, count: int) -> None:
    """JPEG files of 8000 x 6000 pixels."""
    folder.mkdir()
    coarse = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((8000, 6000), Image.Resampling.BILINEAR)
    image.save(folder / "0.jpg", quality=80)
    for number in range(1, count):
        shutil.copy(folder / "0.jpg", folder / f"{number}.jpg")


# Runs the command, and leaves its peak and its processor time in the file named first.
CHILD = """
import atexit, pathlib, sys, time
file = pathlib.Path(sys.argv.pop(1))
status = pathlib.Path("/proc/self/status")
peak = lambda: next(l for l in status.read_text().splitlines() if l.startswith("VmHWM"))
atexit.register(lambda: file.write_text(f"{peak().split()[1]} {time.process_time()}"))
from deepinside.cli.main import main
main()
"""


def run(*arguments: str, name: str = "saliency") -> dict[str, Any]:
    """Runs a command and returns its seconds, its peak memory and its summary."""
    with tempfile.NamedTemporaryFile("r") as peak:
        command = [sys.executable, "-c", CHILD, peak.name, name, *arguments]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
        if done.returncode:
            raise SystemExit(done.stderr)
        return {
            "seconds": round(seconds, 1),
            "peak_mb": round(int(peak.read().split()[0]) / 1024),
            "summary": done.stderr.splitlines()[-1].partition("; results")[0],
        }


def runs(folder: Path, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Makes pictures and runs the cases."""
    model, record = folder / "tiny.onnx", folder / "record.json"
    onnx.save(classifier(size=SIDE), model)
    record.write_text(json.dumps(RECORD), encoding="utf-8")
    tiny = ("-m", str(model), "--preprocessing", str(record), "--device", "cpu")
    run("example:chelsea", *tiny, "-o", str(folder / "warm"))  # the export, kept in the cache
    run("example:chelsea", "--device", "cpu", "-o", str(folder / "warm-embedded"))
    out = str(folder / "out")
    only: str = given.only
    for count in given.pictures:
        pictures = folder / f"small-{count}"
        small_pictures(pictures, count)
        for name, options in (
            ("files", ()),
            ("files, all kept", ("--resume",)),
            ("npz", ("--format", "npz", "--overwrite")),
            ("localize -t top1", ("-t", "top1")),
            ("evaluate --metric curves", ("--metric", "curves", "--steps", "4", "--no-controls")),
        ):
            case = f"tiny classifier, {name}"
            if only not in case:
                continue
            command = name.split()[0] if name.startswith(("localize", "evaluate")) else "saliency"
            found = run(str(pictures), *tiny, "-o", out, *options, name=command)
            yield {"case": case, "pictures": count, **found}
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(pictures)
    if only in (case := "embedded classifier, files"):
        (folder / "photos").mkdir()
        photographs(folder / "photos", given.embedded, 500)
        found = run(str(folder / "photos"), "--device", "cpu", "-o", out)
        yield {"case": case, "pictures": given.embedded, **found}
    large_pictures(folder / "large", given.large)
    for name, batch in (("saliency", 1), ("saliency", 8), ("localize", 8)):
        what = "files" if name == "saliency" else "localize -t top5"
        case = f"tiny classifier, 48 million pixels, {what}, --batch-size {batch}"
        if only in case:
            options = ("-o", f"{out}-{name}-{batch}", "--batch-size", str(batch))
            found = run(str(folder / "large"), *tiny, *options, name=name)
            yield {"case": case, "pictures": given.large, **found}


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--embedded", type=int, default=300)
    parser.add_argument("--large", type=int, default=8)
    parser.add_argument("--only", default="", metavar="TEXT")
    given = parser.parse_args()
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    path = RESULTS / f"batch-{date}.json"
    earlier = json.loads(path.read_text())["runs"] if given.only and path.exists() else []
    measured = []
    with tempfile.TemporaryDirectory() as name:
        for case in runs(Path(name), given):
            measured.append(case)
            sys.stdout.write(json.dumps(case) + "\n")
            sys.stdout.flush()
    names = {case["case"] for case in measured}
    kept = [case for case in earlier if case["case"] not in names]
    report = {"date": date, "machine": machine(), "versions": versions(), "runs": kept + measured}
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
