"""Memory and speed of `deepinside saliency` over many pictures.

    python benchmarks/batch.py [--pictures 2000 20000] [--embedded 300] [--large 24]

Small JPEG pictures (64 x 64) go through a tiny classifier of 32 x 32 inputs, so that what is
measured is the job and not the network; some hundred crops of 500 x 500 through the embedded
classifier; and pictures of 48 million pixels, for the memory. Each run is a process of its own;
its largest resident set is VmHWM of Linux' /proc (the resource module's would count the memory of
the process that started it). Writes benchmarks/results/batch-DATE.json.
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


# Runs the command, and leaves its peak in the file named first.
CHILD = """
import atexit, pathlib, sys
file = pathlib.Path(sys.argv.pop(1))
status = pathlib.Path("/proc/self/status")
peak = lambda: next(l for l in status.read_text().splitlines() if l.startswith("VmHWM"))
atexit.register(lambda: file.write_text(peak().split()[1]))
from deepinside.cli.main import main
main()
"""


def run(*arguments: str) -> dict[str, Any]:
    """Runs the command and returns its seconds, its peak memory and its summary."""
    with tempfile.NamedTemporaryFile("r") as peak:
        command = [sys.executable, "-c", CHILD, peak.name, "saliency", *arguments]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
        if done.returncode:
            raise SystemExit(done.stderr)
        return {
            "seconds": round(seconds, 1),
            "peak_mb": round(int(peak.read()) / 1024),
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
    for count in given.pictures:
        pictures = folder / f"small-{count}"
        small_pictures(pictures, count)
        for name, options in (
            ("files", ()),
            ("files, all kept", ("--resume",)),
            ("npz", ("--format", "npz", "--overwrite")),
        ):
            yield {
                "case": f"tiny classifier, {name}",
                "pictures": count,
                **run(str(pictures), *tiny, "-o", out, *options),
            }
        shutil.rmtree(out)
        shutil.rmtree(pictures)
    (folder / "photos").mkdir()
    photographs(folder / "photos", given.embedded, 500)
    yield {
        "case": "embedded classifier, files",
        "pictures": given.embedded,
        **run(str(folder / "photos"), "--device", "cpu", "-o", out),
    }
    large_pictures(folder / "large", given.large)
    for batch in (1, 8):
        yield {
            "case": f"tiny classifier, 48 million pixels, files, --batch-size {batch}",
            "pictures": given.large,
            **run(
                *(str(folder / "large"), *tiny, "-o", f"{out}-{batch}"),
                *("--batch-size", str(batch)),
            ),
        }


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--embedded", type=int, default=300)
    parser.add_argument("--large", type=int, default=8)
    given = parser.parse_args()
    measured = []
    with tempfile.TemporaryDirectory() as name:
        for case in runs(Path(name), given):
            measured.append(case)
            sys.stdout.write(json.dumps(case) + "\n")
            sys.stdout.flush()
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    report = {"date": date, "machine": machine(), "versions": versions(), "runs": measured}
    path = RESULTS / f"batch-{date}.json"
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
