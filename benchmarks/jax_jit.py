"""JAX beside our file: networks of keras.applications, jitted, and exported from the same weights.

    python benchmarks/jax_jit.py [--applications ResNet50 ...] [--batch 1] [--rounds 20]

Needs the extras `dev` and the package jax. Keras runs on JAX here; a process with Keras on PyTorch
exports the same file. JAX's logits and input gradient are one jitted function, compiled before the
first round. Runs in turns as benchmarks/cpu.py does; writes benchmarks/results/jax-DATE.json, and
the table of docs/performance.md.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from cpu import BASELINE, OURS, PACKAGES, RESULTS, machine, time_rounds, versions
from page import replace_between, table_of
from rivals import open_session

APPLICATIONS = (
    "MobileNetV2",
    "EfficientNetB0",
    "ResNet50",
    "VGG16",
    "DenseNet121",
    "InceptionV3",
    "ConvNeXtTiny",
)
JAX = "jax.jit: forward + input gradient"
MARKS = ("<!-- JAX: written by benchmarks/jax_jit.py -->", "<!-- end of JAX -->")
EXPORT = """
import sys
import onnx_ir
from deepinside.exporters import export_saliency, keras
source, classifier, saliency = sys.argv[1:]
onnx_ir.save(keras.load(f"keras:{source}").model, classifier)
export_saliency(classifier, saliency, optimize_for="cpu")
"""


def jitted(model: Any) -> Any:
    """A function of pictures that gives their logits and the gradients of their top-1 logits."""
    import jax

    trainable = [variable.value for variable in model.trainable_variables]
    others = [variable.value for variable in model.non_trainable_variables]

    def top(image: Any) -> Any:
        logits = model.stateless_call(trainable, others, image, training=False)[0]
        return logits.max(axis=1).sum(), logits

    return jax.jit(jax.value_and_grad(top, has_aux=True))


def measure(name: str, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Times one network."""
    import jax
    import keras

    options = {"include_preprocessing": False} if name.startswith("ConvNeXt") else {}
    model = getattr(keras.applications, name)(
        weights=None, classifier_activation=None, name="network", **options
    )
    source, classifier, saliency = (
        folder / f"{name}.{ending}" for ending in ("keras", "onnx", "saliency.onnx")
    )
    model.save(source)
    command = [sys.executable, "-c", EXPORT, str(source), str(classifier), str(saliency)]
    subprocess.run(command, check=True, env={**os.environ, "KERAS_BACKEND": "torch"})
    shape = (given.batch, *model.input_shape[1:])
    image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    on_device = jax.numpy.asarray(image)
    gradient = jitted(model)
    forward, ours = open_session(classifier, given.threads), open_session(saliency, given.threads)
    feed = {forward.get_inputs()[0].name: image}
    mine = np.asarray(ours.run(["gradient"], feed)[0], np.float64)
    theirs = np.asarray(gradient(on_device)[1], np.float64)
    times = time_rounds(
        {
            BASELINE: lambda: forward.run(None, feed),
            OURS: lambda: ours.run(None, feed),
            JAX: lambda: jax.block_until_ready(gradient(on_device)),
        },
        given.rounds,
    )
    norms = float(np.linalg.norm(mine) * np.linalg.norm(theirs))
    return {
        "network": name,
        "batch": given.batch,
        "gradient_cosine": float((mine * theirs).sum() / norms),
        "median_ms": {case: round(statistics.median(found), 2) for case, found in times.items()},
    }


def page(rows: list[dict[str, Any]]) -> str:
    """The table."""
    head = ["network", "batch", "ONNX Runtime forward", "ours", "jax.jit", "jax.jit / ours"]
    lines = []
    for row in rows:
        times = [row["median_ms"][case] for case in (BASELINE, OURS, JAX)]
        cells = [f"{value:.1f}" for value in times]
        lines.append([row["network"], str(row["batch"]), *cells, f"{times[2] / times[1]:.2f}"])
    return table_of(head, lines)


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--applications", nargs="+", default=list(APPLICATIONS), metavar="NAME")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    os.environ |= {"KERAS_BACKEND": "jax", "OMP_WAIT_POLICY": "PASSIVE"}
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    rows: list[dict[str, Any]] = []
    report = {
        "date": date,
        "machine": machine(),
        "versions": versions((*PACKAGES, "jax", "jaxlib", "keras")),
        "settings": {"rounds": given.rounds, "threads": given.threads, "spinning": False},
        "measurements": rows,
    }
    path = RESULTS / f"jax-{date}.json"
    for name in given.applications:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(name, Path(folder), given))
        sys.stdout.write(f"{json.dumps(rows[-1])}\n")
        sys.stdout.flush()
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    replace_between(MARKS, page(rows))


if __name__ == "__main__":
    main()
