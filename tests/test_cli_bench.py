"""`deepinside bench`: what is timed and how it is told; never how long it takes."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from engine_fixtures import Recipe, write

from deepinside.cli.main import cli
from deepinside.engine import SettingError
from deepinside.engine.bench import bench


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["bench", "--rounds", "2", *arguments])
    assert result.exit_code == code, result.output
    return result


def test_the_embedded_classifier_beside_its_saliency_file() -> None:
    report = json.loads(run("-b", "1", "-b", "3", "--threads", "1", "--json").stdout)
    assert report["device"] == "cpu"
    assert report["threads"] == 1
    assert report["classifier_bytes"] < report["bytes"]
    assert [timing["batch"] for timing in report["timings"]] == [1, 3]
    for timing in report["timings"]:
        assert timing["ratio"] == pytest.approx(timing["saliency_ms"] / timing["classifier_ms"])
        low, high = timing["saliency_quartiles_ms"]
        assert 0 < low <= timing["saliency_ms"] <= high
        expected = 1000 * timing["batch"] / timing["saliency_ms"]
        assert timing["images_per_second"] == pytest.approx(expected)


def test_the_table() -> None:
    lines = run("-b", "2").stdout.splitlines()
    assert lines[0].startswith("efficientnet-lite0.onnx on cpu, onnxruntime")
    assert lines[-2].split() == ["batch", "classifier", "saliency", "ratio", "images/s"]
    assert lines[-1].split()[0] == "2"


@pytest.mark.parametrize(
    ("recipe", "batches"),
    [(Recipe(), [1, 8]), (Recipe(batch=4), [4]), (Recipe(target_input="required"), [1, 8])],
    ids=["plain", "batch of four", "required target"],
)
def test_an_exported_file_alone(tmp_path: Path, recipe: Recipe, batches: list[int]) -> None:
    file = write(tmp_path / "file.onnx", recipe)
    result = run("-m", str(file), "--json")
    report: dict[str, Any] = json.loads(result.stdout)
    assert report["classifier_bytes"] is None
    assert [timing["batch"] for timing in report["timings"]] == batches
    assert all(timing["ratio"] is None for timing in report["timings"])
    assert "not at hand" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rounds", "0"], "rounds is 0"),
        (["-b", "0"], "each must be at least 1"),
        (["--threads", "0"], "threads is 0"),
        (["-m", "missing.onnx"], "missing.onnx"),
        (["--device", "cuda:x"], "not known"),
    ],
    ids=str,
)
def test_wrong_use(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(cli, ["bench", *arguments])
    assert result.exit_code in (1, 2)
    assert words in result.stderr
    assert "Traceback" not in result.output


def test_a_visualization_file_and_an_open_size(tmp_path: Path) -> None:
    step = write(tmp_path / "step.onnx", Recipe(task="visualization"))
    assert "bench times saliency files" in run("-m", str(step), code=1).stderr
    with pytest.raises(SettingError, match="at least 1"):
        bench(write(tmp_path / "file.onnx"), "cpu", batch_sizes=())
