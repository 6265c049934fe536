"""Writes the table of docs/performance.md: `python benchmarks/cpu_page.py RESULTS.json ...`."""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from page import replace_between, table_of

MARKS = ("<!-- table: written by benchmarks/cpu_page.py -->", "<!-- end of the table -->")
CASES = {
    "forward": "onnxruntime: forward",
    "ours": "onnxruntime: our file",
    "portable": "onnxruntime: our file, not for CPUs",
    "pytorch": "pytorch: forward + input gradient",
    "compiled": "torch.compile: forward + input gradient",
    "training": "onnxruntime-training: its own gradient",
    "onnx-ad": "onnxruntime: onnx-ad's adjoint",
}
HEADS = {
    "forward": "ONNX Runtime forward",
    "ours": "ours, `--optimize-for cpu`",
    "portable": "ours, `any`",
    "pytorch": "PyTorch",
    "compiled": "torch.compile",
    "training": "onnxruntime-training",
    "onnx-ad": "onnx-ad",
}
RIVALS = ("pytorch", "compiled", "training", "onnx-ad")


def row(item: dict[str, Any]) -> tuple[list[str], dict[str, float]]:
    """A line of the table, and its ratios."""
    times = {
        case: item["cases"][name]["median_ms"]
        for case, name in CASES.items()
        if name in item["cases"]
    }
    ratios = {"forward": times["ours"] / times["forward"]}
    ratios |= {case: times[case] / times["ours"] for case in RIVALS if case in times}
    name = item["network"].removeprefix("timm ").removesuffix(" (random weights)")
    cells = [name, str(item["batch"])]
    cells += [f"{times[case]:.1f}" if case in times else "" for case in CASES]
    cells += [f"{ratios[case]:.2f}" if case in ratios else "" for case in ("forward", *RIVALS)]
    return cells, ratios


def table(measurements: list[dict[str, Any]]) -> str:
    """The table, and the medians of its ratios."""
    ratios_of = ["ours / forward", *(f"{HEADS[case]} / ours" for case in RIVALS)]
    head = ["network", "batch", *HEADS.values(), *ratios_of]
    rows = [row(item) for item in measurements]
    found = [ratios for _, ratios in rows]
    told = []
    for case, title in zip(("forward", *RIVALS), ratios_of, strict=True):
        known = [ratios[case] for ratios in found if case in ratios]
        if known:
            told.append(
                f"{title} {statistics.median(known):.2f} (from {min(known):.2f} to "
                f"{max(known):.2f}, {len(known)} rows)"
            )
    return f"{table_of(head, [cells for cells, _ in rows])}\n\nMedians: {', '.join(told)}."


def main() -> None:
    """Replaces what stands between the marks."""
    reports = [json.loads(Path(name).read_text(encoding="utf-8")) for name in sys.argv[1:]]
    # A later file's rows take the place of an earlier one's.
    found = {
        (item["network"], item["batch"]): item
        for report in reports
        for item in report["measurements"]
    }
    replace_between(MARKS, table(list(found.values())))


if __name__ == "__main__":
    main()
