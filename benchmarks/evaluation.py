"""All saliency methods on the embedded pictures: `deepinside evaluate`, and Captum beside it.

    python benchmarks/evaluation.py [--methods vanilla ...] [--randomise-steps 5]

Needs the extra `dev`. The boxes in evaluation_boxes.csv were drawn by hand: the cat's head, the cup
with its saucer, the tripod. Writes benchmarks/results/evaluation-DATE.json, the plots of
docs/evaluation.md, and the tables of that page.
"""

import argparse
import datetime
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner
from cpu import RESULTS, machine, versions

from deepinside import models
from deepinside.cli.main import cli
from deepinside.cli.method_options import NAMES
from deepinside.engine import Engine, Method
from deepinside.engine.evaluation import cosine
from deepinside.engine.inputs import prepare
from deepinside.exporters import export_saliency

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "evaluation.md"
PLOTS = {"curves": "evaluation-curves.png", "randomisation": "evaluation-randomisation.png"}
MARK = "<!-- {}: written by benchmarks/evaluation.py -->"
END = "<!-- end -->"
COLUMNS = {
    "insertion.probability": "insertion ↑",
    "deletion.probability": "deletion ↓",
    "road.probability": "ROAD ↑",
    "sensitivity.logit": "sensitivity-n ↑",
    "energy": "energy ↑",
    "pointing": "pointing ↑",
    "randomised_spearman": "Spearman ↓",
    "randomised_ssim": "SSIM ↓",
}


def evaluate(methods: list[str], steps: int, folder: Path) -> dict[str, Any]:
    """Runs the command and returns its summary."""
    command = ["evaluate", *(f"example:{name}" for name in models.EXAMPLES)]
    command += [part for method in methods for part in ("--method", method)]
    command += ["--boxes", str(HERE / "evaluation_boxes.csv"), "--device", "cpu", "--plots"]
    command += ["--randomise-steps", str(steps)]
    started = time.perf_counter()
    result = CliRunner().invoke(cli, [*command, "-o", str(folder), "--json"])
    if result.exit_code != 0:
        raise SystemExit(f"{result.output}\n{result.exception!r}")
    summary: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return {**summary, "seconds": round(time.perf_counter() - started, 1)}


def compare(folder: Path) -> dict[str, dict[str, float]]:
    """Cosines of our attributions with Captum's on the same network, for each picture."""
    import captum.attr
    import torch

    from deepinside.models.convert import load_network

    network = load_network().eval()
    file = folder / "saliency.onnx"
    export_saliency(models.default_classifier(), file, preprocessing=models.card()["preprocessing"])
    engine = Engine(file, "cpu")
    record = engine.contract.preprocessing
    assert record is not None
    found: dict[str, dict[str, float]] = {}
    for name in models.EXAMPLES:
        array = prepare(models.example(name), 0, engine.spec).array
        x = torch.from_numpy(array)[None].requires_grad_()
        index = engine.saliency(array)[0].index
        black = -torch.tensor(record.mean) / torch.tensor(record.std)
        baseline = black.view(1, 3, 1, 1).expand_as(x).to(x.dtype)
        theirs: dict[Method, Callable[[], Any]] = {
            Method("vanilla"): lambda x=x, index=index: captum.attr.Saliency(network).attribute(
                x, target=index, abs=False
            ),
            Method("input-x-gradient"): lambda x=x, index=index: captum.attr.InputXGradient(
                network
            ).attribute(x, target=index),
            Method(
                "integrated-gradients", baseline="black"
            ): lambda x=x, index=index, baseline=baseline: captum.attr.IntegratedGradients(
                network
            ).attribute(
                x,
                baselines=baseline,
                target=index,
                n_steps=50,
                method="gausslegendre",
                internal_batch_size=10,
            ),
        }
        for method, attribute in theirs.items():
            ours = engine.saliency(array, target=index, method=method)[0].attribution
            assert ours is not None
            value = cosine(ours, attribute().detach().numpy()[0])
            found.setdefault(method.name, {})[name] = round(value, 7)
    return found


def figures_table(report: dict[str, Any]) -> str:
    """Methods by figures, as Markdown."""
    lines = [f"| method | {' | '.join(COLUMNS.values())} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for method, facts in report["summary"]["methods"].items():
        cells = []
        for name in COLUMNS:
            statistic = facts["figures"].get(name)
            cells.append("-" if statistic is None else f"{statistic['mean']:.3f}")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread_table(report: dict[str, Any]) -> str:
    """The spread of the main figures over the pictures, as Markdown."""
    names = [name for name in COLUMNS if name.endswith((".probability", ".logit"))]
    lines = [f"| method | {' | '.join(COLUMNS[name] for name in names)} |"]
    lines.append("|---" * (len(names) + 1) + "|")
    for method, facts in report["summary"]["methods"].items():
        cells = [
            f"{facts['figures'][name]['mean']:.3f} ± {facts['figures'][name]['spread']:.3f}"
            for name in names
        ]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def captum_table(report: dict[str, Any]) -> str:
    """Methods by pictures, as Markdown."""
    lines = [f"| method | {' | '.join(models.EXAMPLES)} |"]
    lines.append("|---" * (len(models.EXAMPLES) + 1) + "|")
    for method, cosines in report["captum"].items():
        cells = " | ".join(f"{cosines[name]:.6f}" for name in models.EXAMPLES)
        lines.append(f"| {method} | {cells} |")
    return "\n".join(lines)


def write_page(report: dict[str, Any]) -> None:
    """Puts the tables between their marks on the page."""
    text = PAGE.read_text(encoding="utf-8")
    for name, table in (
        ("figures", figures_table(report)),
        ("spread", spread_table(report)),
        ("captum", captum_table(report)),
    ):
        before, mark, rest = text.partition(MARK.format(name))
        _, end, after = rest.partition(END)
        assert mark, f"{PAGE} lacks {MARK.format(name)}"
        assert end, f"{PAGE} lacks {END} behind {name}"
        text = f"{before}{mark}\n\n{table}\n\n{end}{after}"
    PAGE.write_text(text, encoding="utf-8")


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--randomise-steps", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cosines = compare(folder)
        summary = evaluate(given.methods, given.randomise_steps, folder / "results")
        for plot, picture in PLOTS.items():
            shutil.copy(
                folder / "results" / f"evaluation.{plot}.png", PAGE.parent / "images" / picture
            )
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    report = {
        "date": date,
        "machine": machine(),
        "versions": versions() | _further_versions(),
        "summary": summary,
        "captum": cosines,
    }
    path = RESULTS / f"evaluation-{date}.json"
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    write_page(report)
    sys.stdout.write(f"{figures_table(report)}\n\n{captum_table(report)}\n{path}\n")
    least = min(float(np.min(list(each.values()))) for each in cosines.values())
    if least < 0.999:
        raise SystemExit(f"a cosine with Captum is {least}; 0.999 is required")


def _further_versions() -> dict[str, str]:
    import importlib.metadata

    return {name: importlib.metadata.version(name) for name in ("captum", "scikit-image", "scipy")}


if __name__ == "__main__":
    main()
