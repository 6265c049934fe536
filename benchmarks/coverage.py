"""Which classifiers export, and is their gradient right?

Run: `python benchmarks/coverage.py [SOURCE ...] [--only NAME ...]`, with the extra [dev]; the
sources are the modules of benchmarks/families, without `training`, which needs an environment of
its own. `--page` writes docs/coverage.md from the results.
Random weights, pictures with different targets; the gradient is compared with the framework's own
in float64. Each network runs in a process of its own, so that one that dies or hangs is a row of
the table. Results are kept as they come: a second run goes on where the first stopped, and tries
again what failed.
"""

import argparse
import importlib
import json
import pkgutil
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import coverage_page
import families
import numpy as np

_RESULTS = Path(__file__).parent / "results"
_SECONDS = 900
_CLOSE = 0.99999  # below, the framework's own float32 is asked for comparison


def measure(source: str, name: str, only: str) -> Iterator[dict[str, Any]]:
    """Export one network in each of its variants and compare its gradients: a row each."""
    from deepinside.exporters import ExportError, export_saliency

    loaded = importlib.import_module(f"families.{source}").load(name)
    expected = [loaded.reference(pixels, _targets(pixels), "float64") for pixels in loaded.pictures]
    for variant, make in loaded.variants.items():
        if only not in variant:
            continue
        row: dict[str, Any] = {"name": name, "variant": variant}
        started = time.perf_counter()
        try:
            classifier = make()
        except Exception as error:  # whatever the framework's exporter raises is its answer
            yield row | {"exporter_error": _reason(error)}
            continue
        with tempfile.TemporaryDirectory() as folder:
            exported = time.perf_counter()
            try:
                report = export_saliency(classifier, Path(folder) / "s.onnx", **loaded.options)
            except ExportError as error:
                yield row | {"error": f"{type(error).__name__}: {error}"[:600]}
                continue
            row |= {
                "exporter_seconds": round(exported - started, 1),
                "seconds": round(time.perf_counter() - exported, 1),
                "opset": report.opset,
                "nodes_before": report.nodes_before,
                "nodes_after": report.nodes_after,
                "growth": round(report.size_after / report.size_before - 1, 4),
            }
            del classifier
            found = [
                compare(report, loaded, pixels, *wanted)
                for pixels, wanted in zip(loaded.pictures, expected, strict=True)
            ]
            yield row | min(found, key=lambda one: float(one["cosine"]))


def _targets(pixels: np.ndarray) -> np.ndarray:
    """A different class for each picture."""
    return 2 * np.arange(len(pixels)) + 1


def _reason(error: Exception) -> str:
    """PyTorch's exporter puts advice before the exception that counts, in colours."""
    text = str(error).rpartition("Exception summary")[2].strip() or str(error)
    return f"{type(error).__name__}: {re.sub(chr(27) + '[[][0-9;]*m', '', text)}"[:600]


def compare(
    report: Any,
    loaded: families.Loaded,
    pixels: np.ndarray,
    expected: np.ndarray,
    reference: np.ndarray,
) -> dict[str, Any]:
    """The exported gradient on ONNX Runtime against the framework's, for pictures of one size."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(report.path, options, providers=["CPUExecutionProvider"])
    parts, targets = report.names, _targets(pixels)
    wanted = [parts["class_scores"], parts["gradient"]]
    results = session.run(wanted, {parts["image"]: pixels, parts["target"]: targets})
    scores, mine = (result.astype(np.float64) for result in results)
    errors = np.abs(mine - reference) / max(float(np.abs(reference).max()), 1e-300)
    row = {
        "input": list(pixels.shape[1:]),
        "score_error": float(np.abs(scores.reshape(expected.shape) - expected).max()),
        "cosine": cosine(mine, reference),
        "error_99": float(np.quantile(errors, 0.99)),
        "error_max": float(errors.max()),
    }
    if loaded.singles and row["cosine"] < _CLOSE:
        # How far the framework's own float32 is from its float64: deep ReLU networks have kinks.
        single = loaded.reference(pixels, targets, "float32")[1].astype(np.float64)
        row["cosine_framework"] = cosine(single, reference)
    return row


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Of two gradients; not a number where one is zero, which says nothing."""
    norms = np.linalg.norm(one) * np.linalg.norm(other)
    return round(float((one * other).sum() / norms), 8) if norms else float("nan")


def collect(source: str, name: str, only: str) -> list[dict[str, Any]]:
    """Run `measure` in a process of its own; its rows, also those before a crash."""
    command = [sys.executable, __file__, source, "--one", name, "--variant", only]
    with tempfile.TemporaryFile("w+") as complaints:
        done = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints, text=True)
        try:
            output, _ = done.communicate(timeout=_SECONDS)
            ending = f"exit {done.returncode}" if done.returncode else ""
        except subprocess.TimeoutExpired:
            done.kill()
            output, _ = done.communicate()
            ending = f"not done after {_SECONDS} s"
        complaints.seek(0)
        reason = complaints.read().strip().rpartition("\n")[2]
    reason = re.sub(r"(?<!\S)/(?:[^\s/]+/)+", "", reason)  # where it was compiled is no news
    rows = [json.loads(line[4:]) for line in output.splitlines() if line.startswith("row ")]
    if ending:
        rows.append({"name": name, "variant": "", "error": f"{ending}: {reason}"[:600]})
    return rows


def main() -> None:
    """Measure every network that has no result yet."""
    sources = sorted(module.name for module in pkgutil.iter_modules(families.__path__))
    parser = argparse.ArgumentParser(description=__doc__)
    usual = [source for source in sources if source != "training"]
    parser.add_argument("source", nargs="*", default=usual, help=f"of {', '.join(sources)}")
    parser.add_argument("--only", nargs="*", help="names instead of all of the source")
    parser.add_argument("--variant", default="", help="only the variants with this in their name")
    parser.add_argument("--output", type=Path, default=_RESULTS, help="folder of the results")
    parser.add_argument("--page", action="store_true", help="only write docs/coverage.md")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.page:
        coverage_page.write(given.output)
        return
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    import conftest  # noqa: F401  (makes torchvision importable beside a CPU build of torch)

    if given.one:
        for row in measure(given.source[0], given.one, given.variant):
            print("row " + json.dumps(row), flush=True)
        return
    for source in given.source:
        path = given.output / f"coverage-{source}.json"
        results: dict[str, list[dict[str, Any]]] = {}
        if path.exists():
            results = json.loads(path.read_text(encoding="utf-8"))
        names = given.only or importlib.import_module(f"families.{source}").names()
        for number, name in enumerate(names, 1):
            rows = [row for row in results.get(name, []) if given.variant in row["variant"]]
            if rows and all("cosine" in row for row in rows):
                continue
            others = [row for row in results.get(name, []) if given.variant not in row["variant"]]
            rows = collect(source, name, given.variant)
            results[name] = others + rows
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            for row in rows:
                told = row.get("cosine", row.get("error", row.get("exporter_error")))
                print(f"{number}/{len(names)}", name, row["variant"], told, flush=True)


if __name__ == "__main__":
    main()
