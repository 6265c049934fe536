"""The examples run as a user runs them: in a process of their own, on a real exported file."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepinside import models
from deepinside.exporters import export_saliency

EXAMPLES = Path(__file__).parents[1] / "examples"
SEEN = {"chelsea": 285, "coffee": 967, "camera": 872}


def run(script: str, *arguments: str | Path, expected: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, EXAMPLES / script, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == expected, done.stderr
    return done


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "saliency.onnx"
    export_saliency(
        models.default_classifier(),
        path,
        preprocessing=models.card()["preprocessing"],
        labels=models.labels(),
    )
    return path


def test_the_edge_example_imports_nothing_of_ours() -> None:
    tree = ast.parse((EXAMPLES / "edge.py").read_text(encoding="utf-8"))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported - sys.stdlib_module_names == {"numpy", "onnxruntime", "PIL"}


@pytest.mark.parametrize("name", models.EXAMPLES)
def test_edge(exported: Path, tmp_path: Path, name: str) -> None:
    output = tmp_path / "map.png"
    done = run("edge.py", exported, models.example(name), output)
    assert done.stdout.startswith(f"{models.labels()[SEEN[name]]} ({SEEN[name]}), score ")
    assert done.stderr == ""
    with Image.open(output) as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (224, 224)
    assert pixels.max() == 255
    assert 5 < pixels.mean() < 150


def test_edge_says_how_to_use_it() -> None:
    assert "python edge.py MODEL.onnx PICTURE" in run("edge.py", expected=1).stderr


def test_batch_server_and_edge_agree(exported: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in models.EXAMPLES:
        shutil.copy(models.example(name), pictures)
    done = run("batch_server.py", exported, pictures, tmp_path / "maps", "top1", "2")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(models.EXAMPLES)
    for line in lines:
        name = Path(line["input"]).stem
        (found,) = line["classes"]
        assert (found["index"], found["label"]) == (SEEN[name], models.labels()[SEEN[name]])
        saliency = np.load(found["file"])
        assert (saliency.shape, saliency.dtype) == ((224, 224), np.float32)
        edge = run("edge.py", exported, models.example(name), tmp_path / "map.png").stdout
        score = float(edge.splitlines()[0].rpartition(" ")[2])
        assert found["score"] == pytest.approx(score, abs=0.02)


def test_batch_server_goes_on_after_a_broken_picture(exported: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "broken.png").write_bytes(b"not a picture")
    shutil.copy(models.example("coffee"), pictures)
    done = run("batch_server.py", exported, pictures, tmp_path / "maps", "top5", expected=1)
    broken, coffee = (json.loads(line) for line in done.stdout.splitlines())
    assert "broken.png" in broken["error"]
    assert len(coffee["classes"]) == 5
    assert coffee["classes"][0]["index"] == 967
