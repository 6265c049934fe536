"""docs/coverage.md: the results of `benchmarks/coverage.py` as tables."""

import datetime
import importlib.metadata
import json
from pathlib import Path
from typing import Any

__all__ = ["write"]

_PAGE = Path(__file__).resolve().parent.parent / "docs" / "coverage.md"
_PACKAGES = ("onnx", "onnxruntime", "torch", "timm", "keras", "transformers", "jax", "scikit-learn")
_TITLES = {
    "timm": "timm: the smallest member of each of its 98 families (1.0.31)",
    "keras": "keras.applications",
    "hf": "Hugging Face transformers",
    "jax": "JAX",
    "sklearn": "scikit-learn",
    "deployed": "Old, half-precision, quantised and fused files",
    "sizes": "One file, several picture sizes",
    "training": "For comparison: onnxruntime-training's gradient of timm's networks, not ours",
}
_COLUMNS = (
    "network",
    "variant",
    "opset",
    "nodes",
    "cosine",
    "framework's float32",
    "error of 99 %",
    "largest error",
    "seconds",
)
_HEAD = """# Coverage: other people's networks

Written by `benchmarks/coverage.py --page`, {date}: {versions}.

Random weights (scikit-learn's are trained), pictures with different targets, ONNX Runtime's CPU
provider. *Cosine* is that of the exported gradient with the framework's own in float64; beside it
stands that of the framework's own float32, since deep networks with kinks differ from themselves in
this way (only where the cosine is below 0.99999). Errors are shares of the gradient's largest
element. *Seconds* are the framework's exporter's and ours, or the sum, on a busy machine. Rows of
several picture sizes show the worst size.

{summary}
"""


def write(folder: Path) -> None:
    """Write the page from the results in a folder."""
    parts = []
    summary = [
        "| source | networks | exports | compared | cosine >= 0.999 | not exported or not run |",
        "|---" * 6 + "|",
    ]
    for source, title in _TITLES.items():
        path = folder / f"coverage-{source}.json"
        if not path.exists():
            continue
        results = json.loads(path.read_text(encoding="utf-8"))
        rows = [row for name in sorted(results) for row in results[name]]
        parts.append(f"## {title}\n\n{_table(rows)}\n{_failures(rows)}")
        tried = [row for row in rows if "exporter_error" not in row]
        compared = [row for row in tried if "cosine" in row]
        close = sum(row["cosine"] >= 0.999 for row in compared)
        failed = len(tried) - len(compared)
        cells = (source, len(results), len(tried), len(compared), close, failed)
        summary.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    head = _HEAD.format(
        date=datetime.date.today().isoformat(), versions=_versions(), summary="\n".join(summary)
    )
    _PAGE.write_text(head + "\n" + "\n".join(parts), encoding="utf-8")


def _versions() -> str:
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def _table(rows: list[dict[str, Any]]) -> str:
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|---" * len(_COLUMNS) + "|"]
    for row in rows:
        if "cosine" not in row:
            continue
        own = row.get("cosine_framework")
        cells = [
            row["name"],
            row["variant"],
            row["opset"],
            f"{row['nodes_before']} -> {row['nodes_after']}",
            f"{row['cosine']:.6f}",
            "" if own is None else f"{own:.6f}",
            f"{row['error_99']:.1e}",
            f"{row['error_max']:.1e}",
            _seconds(row),
        ]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _seconds(row: dict[str, Any]) -> str:
    first = row["exporter_seconds"]
    return f"{row['seconds']:g}" if first is None else f"{first:g} + {row['seconds']:g}"


def _failures(rows: list[dict[str, Any]]) -> str:
    text = ""
    for key, title in (
        ("error", "Not exported, or not run"),
        ("exporter_error", "What the framework's own exporter refuses"),
    ):
        lines = [
            f"- {row['name']}{', ' if row['variant'] else ''}{row['variant']}: {_short(row[key])}"
            for row in rows
            if key in row
        ]
        if lines:
            text += f"\n{title}:\n\n" + "\n".join(lines) + "\n"
    return text


def _short(message: str) -> str:
    """The message on one line, without the list of operators and without paths."""
    line = " ".join(message.partition("; operators with a rule")[0].split())
    return line.replace("|", "\\|").replace("<", "&lt;")[:240]
