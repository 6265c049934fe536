"""The other commands, the export cache, and the entry point."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from classifiers import classifier
from click.testing import CliRunner, Result
from engine_fixtures import LABELS, RECORD, Recipe, write

from deepinside import models
from deepinside.cli.main import cli
from deepinside.engine import load_picture

STEP = Recipe(task="visualization")
COMMANDS = ("export", "saliency", "visualize", "inspect", "check", "bench", "providers")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write(Path("s.onnx"))
    write(Path("v.onnx"), STEP)
    return tmp_path


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == code, result.output
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def records() -> list[dict[str, Any]]:
    lines = Path("deepinside-results/manifest.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


# --- entry point ---


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from deepinside.cli.main import cli\n"
        "try: cli(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'onnx', 'onnx_ir', 'onnxruntime', 'numpy', 'PIL', 'torch', 'rich', 'cmap'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stderr.strip() == "[]"
    assert "saliency" in result.stdout


def test_module_can_be_run() -> None:
    command = [sys.executable, "-m", "deepinside.cli", "--version"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.stdout.startswith("deepinside, version ")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command: str) -> None:
    text = run(command, "-h").stdout
    assert "Examples:" in text
    assert f"  deepinside {command}" in text


def test_commands_are_those_of_the_contract() -> None:
    assert set(cli.commands) == set(COMMANDS)


# --- visualize ---


def test_visualize(folder: Path) -> None:
    arguments = ["visualize", "-m", "v.onnx", "-t", "great", "-t", "0", "--steps", "4"]
    arguments += ["--snapshot-every", "2", "--score-every", "2", "--seed", "3"]
    result = run(*arguments)
    stems = ["2-great-dane", "0-tabby"]
    expected = [
        f"deepinside-results/{stem}{ending}"
        for stem in stems
        for ending in (".npy", ".png", ".step-00002.png", ".step-00004.png")
    ]
    assert result.stdout.splitlines() == expected
    assert np.load(expected[0]).shape == (3, 6, 8)
    assert load_picture(expected[1]).size == (6, 8)
    first, second = records()
    assert first["input"] == "2-great-dane"
    assert (second["index"], second["label"]) == (0, LABELS[0])
    assert first["score_curve"]["steps"] == [0, 2, 4]
    assert first["score_curve"]["scores"][-1] == first["score"]
    assert first["settings"]["seed"] == 3
    assert first["settings"]["init"] == "zeros"
    assert first["model_sha256"] == "ab" * 32

    again = run(*arguments)
    assert "0 done, 2 kept" in again.stderr
    assert again.stdout.splitlines() == expected
    assert run(*arguments, "--overwrite").stdout.splitlines() == expected


def test_a_class_picture_made_otherwise_is_never_taken_for_a_result(folder: Path) -> None:
    arguments = ["visualize", "-t", "0", "-m"]
    run(*arguments, "v.onnx", "--steps", "2")
    file = Path("deepinside-results/0-tabby.npy")
    before = file.read_bytes()
    write(Path("other.onnx"), STEP.but(overrides={"source_sha256": "cd" * 32}))
    write(Path("again.onnx"), STEP.but(overrides={"tool_version": "0.1.1"}))
    for options, differences in (
        (["other.onnx", "--steps", "3", "--l2", "0.1"], ("steps 2 instead of 3", "l2 0.005")),
        (["other.onnx", "--steps", "2"], ("(another model)",)),
        (["again.onnx", "--steps", "2"], ("(another export of the model)",)),
        (["v.onnx", "--steps", "2", "--patience", "9"], ("(patience none instead of 9)",)),
    ):
        result = run(*arguments, *options, "-q", code=1)
        assert all(part in result.stderr for part in differences), result.stderr
        assert "--overwrite" in result.stderr
        assert result.stdout == ""
        line = json.loads(run(*arguments, *options, "--json", code=1).stdout)
        assert (line["status"], line["files"]) == ("failed", [])
        assert file.read_bytes() == before
        (record,) = records()
        assert (record["status"], record["settings"]["steps"]) == ("failed", 2)
    # With what it was made with, it is a result.
    assert "1 kept" in run(*arguments, "v.onnx", "--steps", "2").stderr
    assert [record["status"] for record in records()] == ["ok"]
    Path("deepinside-results/0-tabby.png").unlink()
    assert "1 done" in run(*arguments, "v.onnx", "--steps", "2").stderr
    run(*arguments, "other.onnx", "--steps", "3", "--overwrite")
    assert file.read_bytes() != before
    assert records()[0]["model_sha256"] == "cd" * 32
    Path("deepinside-results/manifest.jsonl").unlink()
    assert "nothing says how" in run(*arguments, "v.onnx", "--steps", "2", code=1).stderr


def test_a_start_that_has_changed(folder: Path) -> None:
    options = ["visualize", "-m", "v.onnx", "-t", "0", "--steps", "1", "--init", "start.png"]
    Path("start.png").write_bytes(models.example("coffee").read_bytes())
    run(*options)
    assert "1 kept" in run(*options).stderr
    Path("start.png").write_bytes(models.example("camera").read_bytes())
    assert "starts from has changed" in run(*options, code=1).stderr


def test_visualize_from_a_picture(folder: Path) -> None:
    options = ["visualize", "-m", "v.onnx", "-t", "0", "--steps", "1", "--step-size", "1e-9"]
    run(*options, "--init", "example:coffee")
    assert records()[0]["settings"]["init"] == "example:coffee"
    assert load_picture("deepinside-results/0-tabby.png").pixels.std() > 20
    assert "no such file" in run(*options, "--overwrite", "--init", "x.png", code=1).stderr


def test_a_step_that_is_too_large_is_reported(folder: Path) -> None:
    options = ["visualize", "-m", "v.onnx", "--step-size", "1e9", "--steps", "50"]
    result = run(*options, "-t", "0", "-t", "1", "--batch-size", "1", code=1)
    assert result.stderr.count("Error: ") == 2
    assert [record["status"] for record in records()] == ["failed", "failed"]
    result = run(*options[:3], "-t", "0", "--steps", "2", "--json")
    assert json.loads(result.stdout)["status"] == "ok"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing option"),
        (["-t", "top1"], "no class is labelled"),
        (["-t", "0", "--preset", "x"], "possible: paper"),
        (["-t", "0", "--steps", "0"], "steps is 0"),
        (["-t", "0", "--init", "example:dog"], "example:chelsea"),
    ],
)
def test_wrong_use_of_visualize(folder: Path, arguments: list[str], message: str) -> None:
    assert message in run("visualize", "-m", "v.onnx", *arguments, code=2).stderr


def test_a_file_of_the_wrong_task(folder: Path) -> None:
    assert "--task visualization" in run("visualize", "-m", "s.onnx", "-t", "0", code=1).stderr
    assert "--task saliency" in run("saliency", "-m", "v.onnx", "example:coffee", code=1).stderr


# --- inspect, check, providers ---


def test_inspect(folder: Path) -> None:
    text = run("inspect", "s.onnx").stdout
    for part in (
        "saliency (contract 1",
        "pixels: float32 (N, 3, 6, 8)  [image]",
        "tabby",
        "stretch",
    ):
        assert part in text
    facts = json.loads(run("inspect", "v.onnx", "--json").stdout)
    assert facts["contract"]["task"] == "visualization"
    assert facts["contract"]["labels"] == LABELS
    assert facts["bytes"] == os.stat("v.onnx").st_size
    assert {item["name"] for item in facts["inputs"]} == {"pixels", "target", "step_size", "l2"}


def test_inspect_a_plain_classifier_and_others(folder: Path) -> None:
    plain(Path("plain.onnx"))
    assert "deepinside export plain.onnx" in run("inspect", "plain.onnx").stdout
    assert json.loads(run("inspect", "plain.onnx", "--json").stdout)["contract"] is None
    assert "no model file" in run("inspect", "gone.onnx", code=1).stderr
    Path("text.onnx").write_text("hello")
    assert "not an ONNX model" in run("inspect", "text.onnx", code=1).stderr


def test_check(folder: Path) -> None:
    assert "the gradient is right" in run("check", "-m", "s.onnx").stdout
    write(Path("wrong.onnx"), Recipe(gradient_factor=1.1, record=None))
    assert "the gradient is WRONG" in run("check", "-m", "wrong.onnx", code=1).stdout
    report = json.loads(run("check", "-m", "wrong.onnx", "--tolerance", "0.5", "--json").stdout)
    assert report["passed"]
    assert report["error"] == pytest.approx(0.1 / 1.1, rel=0.05)
    write(Path("nan.onnx"), Recipe(gradient_factor=float("nan"), record=None))
    assert json.loads(run("check", "-m", "nan.onnx", "--json", code=1).stdout)["error"] is None


def test_providers() -> None:
    lines = [json.loads(line) for line in run("providers", "--json").stdout.splitlines()]
    status = {line["name"]: line for line in lines}
    assert status["CPUExecutionProvider"]["works"]
    assert status["CPUExecutionProvider"]["device"] == "cpu"
    assert "CUDAExecutionProvider" in run("providers").stdout


# --- export and its cache ---


@dataclass(frozen=True)
class Report:
    """The fields of the exporter's report."""

    path: Path
    task: str = "saliency"
    source_sha256: str = "cd" * 32
    names: dict[str, str] = field(default_factory=dict)
    bypassed: tuple[str, ...] = ("Softmax 'prob' was bypassed.",)
    straight_through: int = 0
    opset: int = 17
    nodes_before: int = 10
    nodes_after: int = 30
    size_before: int = 1000
    size_after: int = 1010
    seconds: float = 0.1


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Calls of the exporter, which then writes a file made by hand."""
    import deepinside.exporters

    calls: list[dict[str, Any]] = []

    def exporting(task: str) -> Any:
        def export(classifier: Any, output: Path, **options: Any) -> Report:
            calls.append({"task": task, "classifier": classifier, **options})
            write(Path(output), Recipe(task=task))
            return Report(Path(output), task)

        return export

    for name, task in {
        "export_saliency": "saliency",
        "export_visualization": "visualization",
    }.items():
        monkeypatch.setattr(deepinside.exporters, name, exporting(task))
    return calls


def plain(path: Path) -> Path:
    """An ONNX model without metadata."""
    model = onnx.load(write(path))
    del model.metadata_props[:]
    path.write_bytes(model.SerializeToString())
    return path


def test_export_passes_its_options(folder: Path, exports: list[dict[str, Any]]) -> None:
    Path("record.json").write_text(json.dumps(RECORD))
    Path("labels.txt").write_text("\n".join(LABELS) + "\n")
    options = "--score probability --score-output logits --layout NHWC --relu guided --licence MIT"
    more = "--target-input fixed:2 --outputs score,gradient --input-shape 1,3,8,8"
    files = "--preprocessing record.json --labels labels.txt"
    result = run(
        "export", "torch:pkg.mod:make", "-o", "new/out.onnx", *f"{options} {more} {files}".split()
    )
    assert exports == [
        {
            "task": "saliency",
            "classifier": "torch:pkg.mod:make",
            "score": "probability",
            "score_output": "logits",
            "layout": "NHWC",
            "relu": "guided",
            "licence": "MIT",
            "target_input": "fixed:2",
            "outputs": ("score", "gradient"),
            "input_shape": (1, 3, 8, 8),
            "preprocessing": RECORD,
            "labels": LABELS,
        }
    ]
    assert result.stdout == "new/out.onnx\n"
    assert "Bypassed: Softmax 'prob' was bypassed." in result.stderr
    assert "+1.0 %" in result.stderr


def test_text_files_of_other_encodings(folder: Path, exports: list[dict[str, Any]]) -> None:
    Path("bom.json").write_text(json.dumps(RECORD), encoding="utf-8-sig")
    Path("bom.txt").write_text("\n".join(LABELS), encoding="utf-8-sig")
    export = ["export", "x.onnx", "-o", "o.onnx"]
    run(*export, "--preprocessing", "bom.json", "--labels", "bom.txt")
    assert exports[0]["preprocessing"] == RECORD
    assert exports[0]["labels"] == LABELS
    Path("latin.txt").write_bytes("café".encode("latin-1"))
    Path("latin.json").write_bytes('{"é": 1}'.encode("latin-1"))
    Path("utf16.txt").write_text("a", encoding="utf-16")
    Path("no.json").write_text("{")
    plain(Path("p.onnx"))
    for option, message in (
        ("--labels=latin.txt", "latin.txt is not UTF-8 text (byte 3 is 0xe9): save it as UTF-8."),
        ("--labels=utf16.txt", "utf16.txt is not UTF-8 text"),
        ("--preprocessing=latin.json", "latin.json is not UTF-8 text"),
        ("--preprocessing=no.json", "no.json is not a JSON file"),
    ):
        for command in (export, ["saliency", "example:coffee", "-m", "p.onnx"]):
            result = run(*command, "--overwrite", option, code=2)
            assert message in result.stderr
            assert len(result.stderr.split("Error: ")[1].strip().splitlines()) == 1


def test_export_of_the_other_task(folder: Path, exports: list[dict[str, Any]]) -> None:
    arguments = ["export", "x.onnx", "-o", "o.onnx", "--task", "visualization"]
    result = run(*arguments, "--step-rule", "normalized", "--json")
    assert exports[0]["step_rule"] == "normalized"
    assert exports[0]["score"] == "logit"
    assert json.loads(result.stdout)["path"] == "o.onnx"
    assert "does not go with" in run(*arguments, "--outputs", "score", "--overwrite", code=2).stderr
    assert (
        "does not go with"
        in run("export", "x.onnx", "-o", "p.onnx", "--step-rule", "plain", code=2).stderr
    )


def test_an_existing_export_is_not_replaced(folder: Path, exports: list[dict[str, Any]]) -> None:
    assert "--overwrite" in run("export", "x.onnx", "-o", "s.onnx", code=2).stderr
    plain(Path("p.onnx"))
    own = run("export", "p.onnx", "-o", "p.onnx", "--overwrite", code=2)
    assert "its own export" in own.stderr
    assert exports == []


def test_the_embedded_classifier_brings_its_facts(
    folder: Path, exports: list[dict[str, Any]]
) -> None:
    run("export", str(models.default_classifier()), "-o", "out.onnx")
    assert exports[0]["labels"] == models.labels()
    assert exports[0]["preprocessing"] == models.card()["preprocessing"]
    assert exports[0]["licence"] == models.card()["licence"]


def test_export_errors_are_one_sentence(folder: Path) -> None:
    result = run("export", "gone.onnx", "-o", "out.onnx", code=1)
    assert result.stderr.startswith("Error: ")
    assert (
        "input-shape"
        in run("export", "x.onnx", "-o", "o.onnx", "--input-shape", "1,x", code=2).stderr
    )
    assert not Path("out.onnx").exists()


def test_a_plain_classifier_is_exported_once(folder: Path, exports: list[dict[str, Any]]) -> None:
    plain(Path("plain.onnx"))
    Path("record.json").write_text(json.dumps(RECORD))
    call = ["saliency", "-m", "plain.onnx", "example:coffee", "--overwrite"]
    result = run(*call)
    assert "Exporting plain.onnx" in result.stderr
    assert "Bypassed: " in result.stderr
    assert len(result.stdout.splitlines()) == 3
    run(*call)
    assert len(exports) == 1
    run(*call, "--preprocessing", "record.json")
    assert len(exports) == 2
    run("visualize", "-m", "plain.onnx", "-t", "0", "--steps", "1")
    assert [call["task"] for call in exports] == ["saliency", "saliency", "visualization"]
    os.rename("plain.onnx", "moved.onnx")  # the content counts, not the name
    run("saliency", "-m", "moved.onnx", "example:coffee", "--overwrite")
    assert len(exports) == 3
    write(Path("moved.onnx"), Recipe(classes=2, labels=None))
    plain(Path("moved.onnx"))
    Path("moved.onnx").write_bytes(Path("moved.onnx").read_bytes() + b"\x12\x01x")
    run("saliency", "-m", "moved.onnx", "example:coffee", "--overwrite")
    assert len(exports) == 4
    cached = list(Path("cache/deepinside/exports").iterdir())
    assert len(cached) == 4
    assert all(path.suffix == ".onnx" and not path.name.startswith(".") for path in cached)


def test_a_failed_export_leaves_nothing_in_the_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(part: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("deepinside.exporters.finish.Path.replace", failing)
    onnx.save(classifier(), "plain.onnx")
    result = run("saliency", "-m", "plain.onnx", "example:coffee", code=1)
    assert "No space left on device" in result.stderr
    assert list(Path("cache/deepinside/exports").iterdir()) == []


def test_without_the_graph_libraries(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("deepinside.exporters")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "onnx_ir", None)
    plain(Path("plain.onnx"))
    result = run("saliency", "-m", "plain.onnx", "example:coffee", code=1)
    assert "pip install 'deepinside[export]'" in result.stderr
    run("saliency", "-m", "s.onnx", "example:coffee")
    run("inspect", "s.onnx")


def test_the_main_job_with_the_embedded_classifier(folder: Path) -> None:
    result = run("saliency", "example:chelsea", "--json")
    (entry,) = json.loads(result.stdout)["maps"]
    assert entry["label"] == "Egyptian cat"
    assert Path(entry["files"]["overlay"]).name == "chelsea.285-egyptian-cat.overlay.png"
    assert "right" in run("check", "--tolerance", "0.01").stdout
