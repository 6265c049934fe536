"""Writes the table of docs/performance.md: `python benchmarks/cpu_page.py RESULTS.json`."""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
MARKS = ("<!-- table: written by benchmarks/cpu_page.py -->", "<!-- end of the table -->")
CASES = {
    "forward": "onnxruntime: forward",
    "ours": "onnxruntime: our file",
    "portable": "onnxruntime: our file, not for CPUs",
    "pytorch": "pytorch: forward + input gradient",
    "compiled": "torch.compile: forward + input gradient",
}
HEAD = (
    "network",
    "batch",
    "ONNX Runtime forward",
    "ours, `--optimize-for cpu`",
    "ours, `any`",
    "PyTorch gradient",
    "torch.compile gradient",
    "ours / forward",
    "PyTorch / ours",
    "torch.compile / ours",
)


def row(item: dict[str, Any]) -> tuple[list[str], dict[str, float]]:
    """A line of the table, and its ratios."""
    times = {
        case: item["cases"][name]["median_ms"]
        for case, name in CASES.items()
        if name in item["cases"]
    }
    ratios = {
        "forward": times["ours"] / times["forward"],
        "pytorch": times["pytorch"] / times["ours"],
    }
    if "compiled" in times:
        ratios["compiled"] = times["compiled"] / times["ours"]
    name = item["network"].removeprefix("timm ").removesuffix(" (random weights)")
    cells = [name, str(item["batch"])]
    cells += [f"{times[case]:.1f}" if case in times else "" for case in CASES]
    cells += [
        f"{ratios[case]:.2f}" if case in ratios else ""
        for case in ("forward", "pytorch", "compiled")
    ]
    return cells, ratios


def table(report: dict[str, Any]) -> str:
    """The table, and the medians of its ratios."""
    lines = ["| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|"]
    found = []
    for item in report["measurements"]:
        cells, ratios = row(item)
        lines.append("| " + " | ".join(cells) + " |")
        found.append(ratios)
    medians = {
        case: statistics.median(ratios[case] for ratios in found if case in ratios)
        for case in found[0]
    }
    told = (
        f"Medians: ours / forward {medians['forward']:.2f}, PyTorch / ours {medians['pytorch']:.2f}"
    )
    if "compiled" in medians:
        told += f", torch.compile / ours {medians['compiled']:.2f}"
    return "\n".join([*lines, "", told + "."])


def main() -> None:
    """Replaces what stands between the marks."""
    report = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    text = f"{before}{MARKS[0]}\n\n{table(report)}\n\n{MARKS[1]}{after}"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
