"""A folder of photographs through `deepinside saliency`, beside the bare runs of the file.

    python benchmarks/pipeline.py [--pictures 96] [--size 500] [--rounds 3]

Photographs are JPEG crops of the embedded pictures. Each part of the work is timed alone on one
thread too, so that what the pipeline hides can be seen. Writes
benchmarks/results/pipeline-DATE.json.
"""

import argparse
import datetime
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner
from cpu import RESULTS, machine, versions
from PIL import Image

from deepinside import models
from deepinside.cli.main import cli
from deepinside.engine import Engine, heatmap, load_picture, overlay
from deepinside.engine.files import save_array, save_picture
from deepinside.engine.inputs import prepare
from deepinside.exporters import export_saliency

BATCH = 8


def photographs(folder: Path, count: int, size: int) -> list[Path]:
    """Crops of the embedded pictures at random places, as JPEG files."""
    random = np.random.default_rng(0)
    sources = [Image.open(models.example(name)).convert("RGB") for name in models.EXAMPLES]
    paths = []
    for number in range(count):
        source = sources[number % len(sources)]
        side = int(random.integers(200, min(source.size)))
        left, top = (int(random.integers(0, length - side + 1)) for length in source.size)
        crop = source.crop((left, top, left + side, top + side)).resize((size, size))
        paths.append(folder / f"{number:05d}.jpg")
        crop.save(paths[-1], quality=92)
    return paths


def clock(work: Callable[[], Any]) -> float:
    """Seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def parts(engine: Engine, paths: list[Path], folder: Path) -> dict[str, float]:
    """Seconds of each part of the work on all pictures, on this thread alone."""
    pictures = [load_picture(path) for path in paths]
    prepared = [prepare(picture, 0, engine.spec) for picture in pictures]
    stacks = [
        np.stack([image.array for image in prepared[start : start + BATCH]])
        for start in range(0, len(prepared), BATCH)
    ]
    found = [m for stack in stacks for m in engine.saliency(stack, keep_gradient=False)]
    pairs = list(zip(pictures, prepared, found, strict=True))
    drawn = [(heatmap(m.saliency), overlay(p.pixels, m.saliency, i.region)) for p, i, m in pairs]
    names = engine.contract.names
    outputs = [names[part] for part in ("score", "target_index", "saliency", "class_scores")]

    def write() -> None:
        for path, (heat, laid), (_, _, one) in zip(paths, drawn, pairs, strict=True):
            save_picture(folder / f"{path.stem}.heatmap.png", heat)
            save_picture(folder / f"{path.stem}.overlay.png", laid)
            save_array(folder / f"{path.stem}.npy", one.saliency)

    def each(work: Callable[[Any], Any], items: Iterable[Any]) -> Callable[[], None]:
        def run() -> None:
            for item in items:
                work(item)

        return run

    return {
        "decode": clock(each(load_picture, paths)),
        "resize": clock(each(lambda picture: prepare(picture, 0, engine.spec), pictures)),
        "run": clock(each(lambda s: engine.session.run(outputs, {names["image"]: s}), stacks)),
        "render": clock(
            each(
                lambda t: (
                    heatmap(t[2].saliency),
                    overlay(t[0].pixels, t[2].saliency, t[1].region),
                ),
                pairs,
            )
        ),
        "write": clock(write),
    }


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--size", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        paths = photographs(folder / "in", given.pictures, given.size)
        file = folder / "saliency.onnx"
        export_saliency(
            models.default_classifier(),
            file,
            preprocessing=models.card()["preprocessing"],
            labels=models.labels(),
            optimize_for="cpu",
        )
        engine = Engine(file, "cpu")
        seconds: dict[str, list[float]] = {}
        for number in range(given.rounds):
            command = ["saliency", str(folder / "in"), "-m", str(file), "--device", "cpu", "-q"]
            command += ["-o", str(folder / f"out{number}"), "--batch-size", str(BATCH)]

            def job(command: list[str] = command) -> None:
                result = CliRunner().invoke(cli, command)
                assert result.exit_code == 0, result.output

            seconds.setdefault("whole job", []).append(clock(job))
            for part, value in parts(engine, paths, folder).items():
                seconds.setdefault(part, []).append(value)
    medians = {part: round(statistics.median(values), 3) for part, values in seconds.items()}
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    report = {
        "date": date,
        "machine": machine(),
        "versions": versions(),
        "settings": {"pictures": given.pictures, "size": given.size, "rounds": given.rounds},
        "seconds": medians,
        "pictures_per_second": {
            part: round(given.pictures / medians[part], 2) for part in ("whole job", "run")
        },
    }
    path = RESULTS / f"pipeline-{date}.json"
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for part, value in medians.items():
        sys.stdout.write(f"{part:10}{value:8.2f} s\n")
    sys.stdout.write(f"{report['pictures_per_second']}\n{path}\n")


if __name__ == "__main__":
    main()
