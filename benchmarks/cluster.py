"""The same job here and on a Ray cluster of this machine: what a picture and a start cost.

    python benchmarks/cluster.py [--tiny 3000 12000] [--embedded 100 400]

Each case runs over two numbers of pictures: the difference gives the cost of a picture, what is
left that of a start. `driver` is the processor time of the process that lists results, which all
machines of a cluster wait for. Writes benchmarks/results/cluster-DATE.json.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import onnx
import ray
from batch import CHILD, RECORD, SIDE, small_pictures
from cpu import RESULTS, machine, versions
from pipeline import photographs

from deepinside.engine.batch import Manifest, Record, Sources, read_records
from deepinside.engine.batch.manifest import json_text
from deepinside.engine.batch.scratch import Scratch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from classifiers import classifier


def run(pictures: Path, output: Path, *options: str) -> dict[str, float]:
    """Runs `saliency`; its seconds, the processor time of its own process, its manifest's size."""
    with tempfile.NamedTemporaryFile("r") as left:
        command = [sys.executable, "-c", CHILD, left.name, "saliency", str(pictures), "--quiet"]
        command += ["--device", "cpu", "-o", str(output), *options]
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        peak, driver = left.read().split()
    size = (output / "manifest.jsonl").stat().st_size
    return {"seconds": seconds, "driver": float(driver), "peak": int(peak) / 1024, "size": size}


def measure(folder: Path, counts: list[int], name: str, options: tuple[str, ...]) -> dict[str, Any]:
    """A case over the folders of two numbers of pictures."""
    few, many = (
        run(folder / str(count), folder / f"out-{name}-{count}", *options) for count in counts
    )
    step = counts[1] - counts[0]
    each = {what: (many[what] - few[what]) / step for what in ("seconds", "driver", "size")}
    return {
        "case": name,
        "pictures": counts,
        "seconds": [round(few["seconds"], 2), round(many["seconds"], 2)],
        "pictures_per_second": round(1 / each["seconds"], 1),
        "start_seconds": round(few["seconds"] - counts[0] * each["seconds"], 2),
        "driver_microseconds_per_picture": round(1e6 * each["driver"]),
        "manifest_bytes_per_picture": round(each["size"]),
        "peak_mb": [round(few["peak"]), round(many["peak"])],
    }


def bookkeeping(folder: Path, line: Record, count: int) -> dict[str, Any]:
    """What the driver needs before the first picture, for names of a list and for earlier lines."""
    names = [f"photos/{number // 1000:04d}/{number:08d}.jpg" for number in range(count)]
    (folder / "list.txt").write_text("\n".join(names), encoding="utf-8")
    started = time.perf_counter()
    with Sources([f"@{folder / 'list.txt'}"], folder / "out") as sources:
        named = time.perf_counter() - started
        places = _pages(sources._names)
    with (folder / "manifest.jsonl").open("w", encoding="utf-8") as lines:
        for name in names:
            lines.write(json_text({**line, "input": name, "stem": Path(name).stem}) + "\n")
    started = time.perf_counter()
    with Manifest(folder) as manifest:
        read = time.perf_counter() - started
        index = _pages(manifest._index)
    return {
        "pictures": count,
        "names_per_second": round(count / named),
        "names_bytes_per_picture": round(places / count),
        "lines_per_second": round(count / read),
        "index_bytes_per_picture": round(index / count),
    }


def _pages(scratch: Scratch) -> int:
    """Bytes of a temporary file."""
    return int(scratch.first("PRAGMA page_count")) * int(scratch.first("PRAGMA page_size"))


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", type=int, nargs=2, default=[3000, 12000])
    parser.add_argument("--embedded", type=int, nargs=2, default=[100, 400])
    given = parser.parse_args()
    cores = os.cpu_count() or 1
    context = ray.init(address="local", num_cpus=cores, include_dashboard=False)
    there = ("--executor", "ray", "--ray-address", context.address_info["gcs_address"])
    places = {
        "here": (),
        f"Ray, {cores} workers of 1 CPU": there,
        f"Ray, 1 worker of {cores} CPUs": (*there, "--worker-cpus", str(cores)),
    }
    measured = []
    with tempfile.TemporaryDirectory() as name:
        tiny, embedded = Path(name, "tiny"), Path(name, "embedded")
        for folder in (tiny, embedded):
            folder.mkdir()
        for count in given.tiny:
            small_pictures(tiny / str(count), count)
        for count in given.embedded:
            (embedded / str(count)).mkdir()
            photographs(embedded / str(count), count, 500)
        onnx.save(classifier(size=SIDE), tiny / "tiny.onnx")
        (tiny / "record.json").write_text(json.dumps(RECORD), encoding="utf-8")
        model = ("-m", str(tiny / "tiny.onnx"), "--preprocessing", str(tiny / "record.json"))
        cases: list[tuple[Path, list[int], str, tuple[str, ...]]] = [
            (tiny, given.tiny, "tiny classifier, npz", (*model, "--format", "npz")),
            (embedded, given.embedded, "embedded classifier, files", ()),
        ]
        for folder, counts, what, options in cases:
            run(folder / str(counts[0]), folder / "warm", *options)  # the export, into the cache
            for place, more in places.items():
                measured.append(measure(folder, counts, f"{what}, {place}", (*options, *more)))
                sys.stdout.write(json.dumps(measured[-1]) + "\n")
                sys.stdout.flush()
        line = next(read_records(tiny / "warm" / "manifest.jsonl"))
        known = bookkeeping(tiny, line, 200_000)
    ray.shutdown()
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    path = RESULTS / f"cluster-{date}.json"
    found = {**versions(), "ray": ray.__version__}
    report = {"date": date, "machine": machine(), "versions": found, "runs": measured}
    report["driver"] = known
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
