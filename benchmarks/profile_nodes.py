"""Where the time of a file goes: `python benchmarks/profile_nodes.py FILE.onnx ... [--page]`.

ONNX Runtime's own profiler on a picture of noise, the appended nodes apart from the classifier's.
Prints each file's operators, and for all files the share of each kind of work, as multiples of the
classifier's own pass; --page writes that table into docs/performance.md.
"""

import argparse
import json
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import onnxruntime
from page import replace_between, table_of

_RUNS = 20
_MARKS = ("<!-- profile: written by benchmarks/profile_nodes.py -->", "<!-- end of the profile -->")
_KINDS = {
    "layers": {"Conv", "FusedConv", "MatMul", "FusedMatMul", "Gemm"},
    "ConvTranspose": {"ConvTranspose"},
    "element by element": {"Mul", "HardSigmoid", "Add", "Sub", "Div", "Cast", "Equal", "Greater"}
    | {"Less", "And", "Erf", "Exp", "Sigmoid", "Gelu", "BiasGelu", "QuickGelu", "Where", "Sqrt"}
    | {"Relu", "Abs", "Reciprocal", "Clip"},
    "layout": {"ReorderInput", "ReorderOutput"},
    "moves": {"Concat", "Split", "Slice", "Pad", "Transpose", "Upsample", "Resize", "Gather"}
    | {"DepthToSpace", "Expand", "Reshape", "Squeeze", "Unsqueeze", "Flatten"},
    "sums and pools": {"ReduceMean", "ReduceSum", "ReduceMax", "MaxPool", "AveragePool", "Softmax"}
    | {"GlobalAveragePool", "LayerNormalization", "SkipLayerNormalization"},
}


def profile(file: Path, threads: int) -> Counter[tuple[str, bool]]:
    """Milliseconds of one run by operator, and whether it was appended to the classifier."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        image = session.get_inputs()[0]
        shape = [size if isinstance(size, int) else 1 for size in image.shape]
        pixels = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        for _ in range(_RUNS):
            session.run(None, {image.name: pixels})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    runs: dict[tuple[str, str, bool], list[int]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            appended = "/grad/" in event["name"] or "deepinside" in event["name"]
            runs[event["name"], event["args"]["op_name"], appended].append(event["dur"])
    times: Counter[tuple[str, bool]] = Counter()
    for (_, operator, appended), microseconds in runs.items():
        times[operator, appended] += float(np.median(microseconds)) / 1000  # type: ignore[assignment]
    return times


def row(file: Path, times: Counter[tuple[str, bool]]) -> list[str]:
    """The file's line of the table: each kind's time over that of the classifier's layers."""

    def spent(operators: set[str], *halves: bool) -> float:
        return sum(t for (op, after), t in times.items() if op in operators and after in halves)

    layers = spent(_KINDS["layers"], False)
    other = {op for op, _ in times} - set().union(*_KINDS.values())
    parts = [spent(_KINDS["layers"], True)]
    parts += [spent(_KINDS[kind], False, True) for kind in list(_KINDS)[1:]]
    parts.append(spent(other, False, True))
    return [file.name.partition(".")[0], *(f"{part / layers:.2f}" for part in parts)]


def main() -> None:
    """Profile files and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--page", action="store_true", help="write docs/performance.md")
    given = parser.parse_args()
    head = ["network", "backward layers", *list(_KINDS)[1:], "rest"]
    rows = []
    for file in given.files:
        times = profile(file, given.threads)
        total = sum(times.values())
        print(f"\n{file}: {total:.2f} ms")
        for (operator, appended), spent in times.most_common():
            half = "backward" if appended else "forward"
            print(f"{operator} ({half})".ljust(34), f"{spent:8.2f} ms {100 * spent / total:5.1f} %")
        rows.append(row(file, times))
    table = table_of(head, rows)
    print(f"\n{table}")
    if given.page:
        replace_between(_MARKS, table)


if __name__ == "__main__":
    main()
