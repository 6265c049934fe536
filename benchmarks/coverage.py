"""Which classifiers export, and is their gradient right? The smallest member of every timm family.

Run: `python benchmarks/coverage.py [--only NAME ...] [--output FILE.json]`, with the extra [dev].
Random weights, a batch of two pictures with different targets; the gradient is compared with
PyTorch's autograd in float64. Each network runs in a process of its own, so that one that dies or
hangs is a row of the table. Results are kept as they come: a second run goes on where the first
stopped.
"""

import argparse
import datetime
import importlib.metadata
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent
_RESULTS = Path(__file__).parent / "results" / "coverage-timm.json"
_SECONDS = 240

_COLUMNS = (
    "network",
    "opset",
    "nodes",
    "cosine",
    "PyTorch's float32",
    "error of 99 %",
    "largest error",
    "seconds",
    "error",
)
_PAGE = """# Coverage: other people's networks

Written by `benchmarks/coverage.py --page`, {date}: {versions}.
The smallest member of timm's families, random weights, through PyTorch's exporter, two pictures
with different targets. {right} of the {count} networks
measured so far (timm 1.0.31 has 98 families) export and run. *Cosine* is that of
the exported gradient on ONNX Runtime's CPU provider with PyTorch's autograd in float64; beside it
stands that of PyTorch's own float32, since deep networks with kinks differ from themselves in this
way. Errors are shares of the largest element.

{rows}
"""


def smallest_members() -> dict[str, str]:
    """Family of timm -> its member with the fewest parameters."""
    import timm
    import torch

    found = {}
    for family in timm.list_modules():
        sizes = {}
        for name in timm.list_models(module=family):
            with torch.device("meta"):
                try:
                    module = timm.create_model(name)
                except (RuntimeError, NotImplementedError, ValueError, TypeError):
                    continue  # can't be built without data; another member can
            sizes[name] = sum(weight.numel() for weight in module.parameters())
        if sizes:
            found[family] = min(sizes, key=lambda name: (sizes[name], name))
    return found


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Export one network and compare its gradient."""
    import numpy as np
    import onnxruntime
    import timm
    import torch

    from deepinside.exporters import ExportError, export_saliency

    torch.manual_seed(0)
    module = timm.create_model(name)
    size = timm.data.resolve_model_data_config(module)["input_size"]
    row: dict[str, Any] = {"model": name, "input": list(size)}
    pixels = torch.randn(2, *size)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = None
        module.train()(pixels)  # statistics that keep the signals in range
    module.eval().requires_grad_(False)
    started = time.perf_counter()
    target = folder / "saliency.onnx"
    try:
        report = export_saliency(module, target, input_shape=(1, *size))
    except ExportError as error:
        return {**row, "error": f"{type(error).__name__}: {error}"[:600]}
    row |= {
        "seconds": round(time.perf_counter() - started, 1),
        "opset": report.opset,
        "nodes_before": report.nodes_before,
        "nodes_after": report.nodes_after,
        "growth": round(report.size_after / report.size_before - 1, 4),
    }
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(target, options, providers=["CPUExecutionProvider"])
    classes = np.array([1, 3])
    scores, mine = session.run(["scores", "gradient"], {"image": pixels.numpy(), "target": classes})

    def autograd(dtype: torch.dtype) -> tuple[Any, Any]:
        image = pixels.to(dtype, copy=True).requires_grad_()
        expected = module.to(dtype)(image)
        expected[[0, 1], classes].sum().backward()
        return expected.detach().double().numpy(), image.grad.double().numpy()

    def cosine(one: Any, other: Any) -> float:
        norms = np.linalg.norm(one) * np.linalg.norm(other)
        if norms == 0:  # some networks start with a head of zeros
            return float(np.array_equal(one, other))
        return round(float((one * other).sum() / norms), 8)

    _, single = autograd(torch.float32)
    expected, reference = autograd(torch.float64)
    mine = mine.astype(np.float64)
    errors = np.abs(mine - reference) / np.abs(reference).max()
    return row | {
        "score_error": float(np.abs(scores - expected).max()),
        "cosine": cosine(mine, reference),
        # How far PyTorch's own float32 is from its float64: deep ReLU networks have kinks.
        "cosine_pytorch": cosine(single, reference),
        "error_99": float(np.quantile(errors, 0.99)),
        "error_max": float(errors.max()),
    }


def page(results: dict[str, Any]) -> str:
    """docs/coverage.md: a table of the results."""
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("torch", "timm", "onnx", "onnxruntime")
    )
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|---" * len(_COLUMNS) + "|"]
    for name, row in sorted(results.items()):
        if "cosine" in row:
            cells = [
                row["opset"],
                f"{row['nodes_before']} -> {row['nodes_after']}",
                f"{row['cosine']:.6f}",
                f"{row['cosine_pytorch']:.6f}",
                f"{row['error_99']:.1e}",
                f"{row['error_max']:.1e}",
                row["seconds"],
                "",
            ]
        else:
            error = row["error"].partition("; operators with a rule")[0].replace("|", "\\|")
            cells = ["", "", "", "", "", "", "", error[:160]]
        lines.append(f"| {name} | " + " | ".join(str(cell) for cell in cells) + " |")
    right = sum("cosine" in row for row in results.values())
    return _PAGE.format(
        date=datetime.date.today().isoformat(),
        versions=versions,
        count=len(results),
        right=right,
        rows="\n".join(lines),
    )


def main() -> None:
    """Measure every family that has no result yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="model names instead of all families")
    parser.add_argument("--output", type=Path, default=_RESULTS)
    parser.add_argument("--page", action="store_true", help="only write docs/coverage.md")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.page:
        results = json.loads(given.output.read_text(encoding="utf-8"))
        (_ROOT / "docs" / "coverage.md").write_text(page(results), encoding="utf-8")
        return
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(_ROOT / "tests"))
    import conftest  # noqa: F401  (makes torchvision importable beside a CPU build of torch)

    if given.one:
        print(json.dumps(measure(given.one, given.output)))
        return
    names = given.only or sorted(set(smallest_members().values()))
    results = {}
    if given.output.exists():
        results = json.loads(given.output.read_text(encoding="utf-8"))
    for number, name in enumerate(names, 1):
        if "cosine" in results.get(name, {}):
            continue
        try:
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, __file__, "--one", name, "--output", folder]
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=_SECONDS, check=False
                )
            last = done.stdout.strip().rpartition("\n")[2]
            if done.returncode == 0:
                row = json.loads(last)
            else:
                reason = done.stderr.strip().rpartition("\n")[2] or f"exit {done.returncode}"
                row = {"model": name, "error": reason[:600]}
        except subprocess.TimeoutExpired:
            row = {"model": name, "error": f"not done after {_SECONDS} s"}
        results[name] = row
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        told = [row.get("cosine"), row.get("cosine_pytorch"), row.get("error", "")]
        print(f"{number}/{len(names)}", name, *told, flush=True)


if __name__ == "__main__":
    main()
