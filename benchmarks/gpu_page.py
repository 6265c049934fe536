"""Writes the GPU's tables of docs/performance.md: `python benchmarks/gpu_page.py RESULTS.json`."""

import json
import sys
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
MARKS = ("<!-- GPU: written by benchmarks/gpu_page.py -->", "<!-- end of the GPU's tables -->")
RIVAL = "pytorch: compiled, channels last, float16"
OURS = "ours: "


def best(cases: dict[str, Any], word: str) -> tuple[str, dict[str, Any]] | None:
    """Our fastest resident case in a precision."""
    found = [
        (name, case)
        for name, case in cases.items()
        if name.startswith(OURS) and word in name and "host" not in name
    ]
    return min(found, key=lambda pair: pair[1]["median_ms"], default=None)


def row(item: dict[str, Any]) -> list[str]:
    """A line of the table of gradients."""
    cases = item["cases"]
    cells = [item["network"], str(item["batch"])]
    for word in ("float32", "TF32", "float16"):
        found = best(cases, word)
        told = found and f"{found[1]['median_ms']:.2f} ({found[0].removeprefix(OURS)})"
        cells.append(told or "")
    eager = [c["median_ms"] for name, c in cases.items() if name.startswith("pytorch: eager")]
    rival, half = cases.get(RIVAL), best(cases, "float16")
    cells.append(f"{min(eager):.2f}" if eager else "")
    cells.append(f"{rival['median_ms']:.2f}" if rival else "")
    cells.append(f"{rival['median_ms'] / half[1]['median_ms']:.2f}" if rival and half else "")
    for key in ("share_of_flops", "share_of_bandwidth"):
        share = half and half[1].get(key)
        cells.append(f"{share:.0%}" if share else "")
    agreement = half and half[1]["agreement"]
    return [*cells, f"{agreement['smallest_cosine']:.5f}" if agreement else ""]


def lines_of(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table."""
    return [
        "| " + " | ".join(head) + " |",
        "|---" * len(head) + "|",
        *("| " + " | ".join(cells) + " |" for cells in rows),
    ]


def page(report: dict[str, Any]) -> str:
    """All that stands between the marks."""
    head = ["network", "batch", "ours float32, ms", "ours TF32, ms", "ours float16, ms"]
    head += ["PyTorch eager, best, ms", "torch.compile, channels last, float16, ms"]
    head += ["that / ours float16", "of peak FLOP/s", "of bandwidth", "smallest cosine"]
    machine = report["gpus"][1:] if report["gpus"] else [report["machine"]["cpu"]]
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    lines = [f"{'; '.join(machine)}; {report['date']}; {versions}.", ""]
    lines += lines_of(head, [row(item) for item in report["measurements"]])
    speeds = report["visualisation"]
    names = sorted({name for item in speeds.values() for name in item["iterations_per_second"]})
    lines += ["", "Class visualisation, one picture, iterations per second:", ""]
    lines += lines_of(
        ["case", *speeds],
        [
            [name, *(str(item["iterations_per_second"].get(name, "")) for item in speeds.values())]
            for name in names
        ],
    )
    return "\n".join(lines)


def main() -> None:
    """Replaces what stands between the marks."""
    report = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if report["device"] != "cuda":
        raise SystemExit(
            f"{sys.argv[1]} was measured on {report['device']}: no page is made of it."
        )
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    PAGE.write_text(f"{before}{MARKS[0]}\n\n{page(report)}\n\n{MARKS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
