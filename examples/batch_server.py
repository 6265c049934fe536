"""Saliency maps of a whole folder, in batches, on the best device of a server.

    python batch_server.py MODEL.onnx PICTURES OUTPUT [TARGET] [BATCH_SIZE]

Writes `NAME.CLASS.npy` (float32, (H, W), not scaled) per picture and class, and one JSON line per
picture on stdout. A picture that can't be read is reported in its line, and the rest goes on; the
exit code is then 1. For scripts, `deepinside saliency` does the same and draws heat maps, too.
"""

import json
import sys
from pathlib import Path

import numpy as np

from deepinside.engine import Engine, InputFailure

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def main(model: str, pictures: str, output: str, target: str = "top1", batch: str = "8") -> int:
    """Explains every picture of a folder; returns how many failed."""
    paths = sorted(path for path in Path(pictures).iterdir() if path.suffix.lower() in SUFFIXES)
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    # The session is the expensive part: make one Engine per process and keep it.
    engine = Engine(model, device="auto")
    failures = 0
    # Results come while later batches still wait, so a folder of any size fits into memory.
    for result in engine.iter_saliency(paths, target=target, batch_size=int(batch)):
        if isinstance(result, InputFailure):
            failures += 1
            print(json.dumps({"input": result.source, "error": str(result.error)}), flush=True)
            continue
        classes = []
        for item in result.maps:
            file = folder / f"{Path(item.source).name}.{item.index}.npy"
            np.save(file, item.saliency)
            classes.append(
                {
                    "index": item.index,
                    "label": item.label,
                    "score": item.score,
                    "probability": item.probability,
                    "file": str(file),
                }
            )
        print(json.dumps({"input": result.source, "classes": classes}), flush=True)
    return failures


if __name__ == "__main__":
    if not 4 <= len(sys.argv) <= 6:
        raise SystemExit(__doc__)
    sys.exit(1 if main(*sys.argv[1:]) else 0)
