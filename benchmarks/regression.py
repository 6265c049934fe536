"""Has our file become slower? Its time beside that of a former version's file, in one run.

    python benchmarks/regression.py [--base main] [--timm resnet18 ...] [--batch 1] [--limit 1.05]

Exports each network with the working tree and with the sources of the commit `--base`, opens both
files and the classifier in one process, and runs them in turns as benchmarks/cpu.py does. What
counts is the median over the rounds of the ratio within a round, which a busy machine moves little;
no time is compared with one of another machine or day. Ends with 1 where the ratio is above the
limit. Needs the extra `dev`, and git.
"""

import argparse
import io
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from cpu import BASELINE, classifier_from_timm, make_timm_importable, time_rounds
from rivals import open_session

from deepinside import models
from deepinside.exporters import export_saliency

ROOMS = ("exporters", "engine", "models")
TIMM = ("mobilenetv3_large_100", "resnet18", "densenet121", "vit_tiny_patch16_224")
BEFORE, NOW = "former file", "our file"
EXPORT = """
import sys
from deepinside import exporters
source, classifier, target, form = sys.argv[1:]
assert exporters.__file__.startswith(source), exporters.__file__
exporters.export_saliency(classifier, target, optimize_for=form)
"""


def former_sources(commit: str, folder: Path) -> Path:
    """A folder to import `deepinside` from, as it was at a commit."""
    command = ["git", "archive", "--format=tar", commit, *ROOMS]
    top = Path(__file__).resolve().parent.parent
    archive = subprocess.run(command, cwd=top, capture_output=True, check=True).stdout
    package = folder / "deepinside"
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(package, filter="data")
    return folder


def export_as_before(sources: Path, classifier: Path, target: Path, form: str) -> None:
    """Exports with other sources than this process has imported."""
    command = [sys.executable, "-c", EXPORT, str(sources), str(classifier), str(target), form]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(sources)})


def compare(
    classifier: Path, sources: Path, folder: Path, given: argparse.Namespace
) -> dict[str, float]:
    """Median ratios: our file to the former one, and both to the classifier."""
    former, ours = folder / "former.onnx", folder / "ours.onnx"
    export_as_before(sources, classifier, former, given.optimize_for)
    export_saliency(classifier, ours, optimize_for=given.optimize_for)
    files = {BASELINE: classifier, BEFORE: former, NOW: ours}
    sessions = {name: open_session(path, given.threads) for name, path in files.items()}
    image = sessions[BASELINE].get_inputs()[0]
    shape = (given.batch, *(size if isinstance(size, int) else 224 for size in image.shape[1:]))
    feed = {image.name: np.random.default_rng(0).standard_normal(shape, dtype=np.float32)}
    times = time_rounds(
        {name: lambda session=one: session.run(None, feed) for name, one in sessions.items()},
        given.rounds,
    )

    def ratio(name: str, base: str) -> float:
        pairs = zip(times[name], times[base], strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)

    return {
        "now / former": ratio(NOW, BEFORE),
        "former / forward": ratio(BEFORE, BASELINE),
        "now / forward": ratio(NOW, BASELINE),
    }


def main() -> None:
    """Measures each network and says which became slower."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", default="main", help="a commit")
    parser.add_argument("--timm", nargs="*", default=list(TIMM), metavar="NAME")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--optimize-for", default="cpu")
    parser.add_argument("--limit", type=float, default=1.05)
    given = parser.parse_args()
    kept = make_timm_importable()
    slower = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        sources = former_sources(given.base, folder / "former")
        for name in ("embedded", *given.timm):
            embedded = name == "embedded"
            classifier = (
                models.default_classifier() if embedded else classifier_from_timm(name, folder)[1]
            )
            found = compare(classifier, sources, folder, given)
            figures = ", ".join(f"{title} {value:.3f}" for title, value in found.items())
            sys.stdout.write(f"{name}: {figures}\n")
            sys.stdout.flush()
            if found["now / former"] > given.limit:
                slower.append(name)
    del kept
    if slower:
        sys.exit(f"Slower than {given.base} by more than {given.limit}: {', '.join(slower)}.")


if __name__ == "__main__":
    main()
