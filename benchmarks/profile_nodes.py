"""Where the time of a file goes, by operator: `python benchmarks/profile_nodes.py FILE.onnx`.

One thread, a picture of noise, ONNX Runtime's own profiler; forward and appended nodes apart.
"""

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime

_RUNS = 20


def main() -> None:
    """Profile one file and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(
            given.file, options, providers=["CPUExecutionProvider"]
        )
        image = session.get_inputs()[0]
        shape = [size if isinstance(size, int) else 1 for size in image.shape]
        pixels = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        for _ in range(_RUNS):
            session.run(None, {image.name: pixels})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    times: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            appended = "/grad/" in event["name"] or "deepinside" in event["name"]
            half = "backward" if appended else "forward"
            times[f"{event['args']['op_name']} ({half})"] += event["dur"]
    total = sum(times.values())
    for name, microseconds in times.most_common():
        print(
            f"{name:34} {microseconds / _RUNS / 1000:8.2f} ms {100 * microseconds / total:5.1f} %"
        )


if __name__ == "__main__":
    main()
