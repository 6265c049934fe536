"""`deepinside evaluate` on a file made by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from engine_fixtures import Recipe, write
from PIL import Image

from deepinside.cli.evaluation_options import _BASELINES, _METRICS, _MODES
from deepinside.cli.main import cli
from deepinside.engine.evaluation import BASELINES, METRICS, MODES

FAST = ("--steps", "4", "--metric", "curves", "--metric", "sensitivity")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(tmp_path / "m.onnx", Recipe(size=(12, 16), record=_record()))
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("a.png", "b.png")):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(name)
    return tmp_path


def _record() -> dict[str, Any]:
    return {**Recipe().record, "input_size": [12, 16]}  # type: ignore[dict-item]


def run(*arguments: str, code: int = 0) -> Result:
    command = ["evaluate", "-m", "m.onnx", "--device", "cpu", "-o", "out", *arguments]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == code, result.output
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_choices_are_the_engines() -> None:
    assert (set(_METRICS), _BASELINES, _MODES) == (set(METRICS), BASELINES, MODES)


def test_everything_on_two_pictures(folder: Path) -> None:
    Path("boxes.csv").write_text("input,left,top,right,bottom\na.png,0,0,16,24\nb.png,0,0,32,12\n")
    arguments = ("a.png", "b.png", "--boxes", "boxes.csv", "--plots", "--steps", "4")
    result = run(*arguments, "--method", "vanilla", "--method", "input-x-gradient")
    assert [line.split()[0] for line in result.stdout.splitlines()[2:6]] == [
        "vanilla",
        "input-x-gradient",
        "random",
        "edges",
    ]
    for name in ("curves", "road", "randomisation"):
        with Image.open(f"out/evaluation.{name}.png") as plot:
            assert plot.size[0] > 600
    summary = json.loads(Path("out/evaluation.json").read_text())
    figures = summary["methods"]["vanilla"]["figures"]
    records = [json.loads(line) for line in Path("out/manifest.jsonl").read_text().splitlines()]
    values = [
        entry["figures"]["deletion.logit"]
        for record in records
        for entry in record["maps"]
        if entry["method"] == "vanilla"
    ]
    assert figures["deletion.logit"]["mean"] == pytest.approx(np.mean(values))
    assert figures["deletion.logit"]["spread"] == pytest.approx(np.std(values, ddof=1))
    assert figures["energy"]["count"] == 2
    assert figures["object_area"]["mean"] == pytest.approx(0.5)
    assert summary["methods"]["edges"]["figures"]["randomised_spearman"]["mean"] == 1
    kept = run(*arguments, "--method", "vanilla", "--method", "input-x-gradient")
    assert "0 done, 2 kept" in kept.stderr
    assert kept.stdout == result.stdout


def test_a_bad_picture_never_stops_the_rest_and_json_is_lines(folder: Path) -> None:
    Path("bad.png").write_text("x")
    result = run("a.png", "bad.png", "b.png", *FAST, "--json", code=1)
    *records, summary = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["status"] for record in records] == ["ok", "failed", "ok"]
    assert (summary["pictures"], summary["failed"]) == (2, 1)
    assert "Error: bad.png: " in result.stderr


def test_other_settings_are_not_mixed(folder: Path) -> None:
    run("a.png", *FAST)
    message = run("a.png", *FAST, "--seed", "1", code=2).stderr
    assert "other settings" in message
    assert "--overwrite" in message
    assert "1 done" in run("a.png", *FAST, "--seed", "1", "--overwrite").stderr


def test_methods_with_settings(folder: Path) -> None:
    """A method stands beside itself with other settings; one sample without noise is vanilla."""
    texts = ("vanilla", "smoothgrad:samples=2,noise=0.5,seed=3", "smoothgrad:samples=1,noise=0")
    methods = [word for text in texts for word in ("--method", text)]
    result = run("a.png", *FAST, *methods, "--no-controls")
    assert [line.split()[0] for line in result.stdout.splitlines()[2:5]] == list(texts)
    (record,) = [json.loads(line) for line in Path("out/manifest.jsonl").read_text().splitlines()]
    plain, noisy, still = (entry["figures"] for entry in record["maps"])
    assert still == pytest.approx(plain, rel=1e-4, abs=1e-6)
    assert noisy != pytest.approx(plain, rel=1e-4, abs=1e-6)
    assert "other methods" in run("a.png", *FAST, "--no-controls", code=2).stderr


def test_given_maps(folder: Path) -> None:
    Path("maps").mkdir()
    np.save("maps/a.npy", np.random.default_rng(0).random((12, 16)))
    np.save("maps/b.npy", np.zeros((3, 12, 16)))
    result = run("a.png", "b.png", "--maps", "maps", *FAST, code=1)
    assert "b.png: its map maps/b.npy has the shape (3, 12, 16)" in result.stderr
    assert "(12, 16)" in result.stderr
    assert result.stdout.splitlines()[2].startswith("maps ")
    assert "1 kept" in run("a.png", "--maps", "maps", *FAST).stderr
    np.save("maps/a.npy", np.random.default_rng(1).random((12, 16)))
    assert "1 done" in run("a.png", "--maps", "maps", *FAST).stderr
    np.save("maps/a.npy", np.full((12, 16), np.nan))
    assert "infinite values or NaN" in run("a.png", "--maps", "maps", *FAST, code=1).stderr
    Path("maps/a.npy").unlink()
    assert "has no map of it" in run("a.png", "--maps", "maps", *FAST, code=1).stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "no INPUT"),
        (["a.png", "--metric", "localisation"], 2, "--boxes FILE or --masks"),
        (["a.png", "--steps", "0"], 2, "steps is 0"),
        (["a.png", "--steps", "1000", "--metric", "curves"], 1, "possible: 1 to 192"),
        (["a.png", "--method", "smooth"], 2, "no saliency method 'smooth'; possible: vanilla,"),
        (["a.png", "--method", "smoothgrad:steps=3"], 2, "which has: samples, noise, seed"),
        (["a.png", "--method", "smoothgrad:samples=2.5"], 2, "must be of the kind of 25"),
        (["a.png", "--method", "smoothgrad:noise"], 2, "must be of the kind of 0.15"),
        (["a.png", "--method", "deconvnet", "--metric", "curves"], 1, "--relu deconvnet"),
        (["a.png", "--boxes", "m.onnx"], 2, "can't be read"),
        (["a.png", "--maps", "gone"], 2, "does not exist"),
        (["a.png", "-t", "zebra"], 2, "no class is labelled"),
    ],
)
def test_wrong_usage(folder: Path, arguments: list[str], code: int, message: str) -> None:
    assert message in run(*arguments, code=code).stderr


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("b.json", '{"a.png": [[0, 0, 16, 24]]}'),
        ("b.json", '[{"input": "a.png", "box": [0, 0, 16, 24]}]'),
        ("b.jsonl", '{"input": "a.png", "left": 0, "top": 0, "right": 16, "bottom": 24}\n'),
        ("b.csv", "input,left,top,right,bottom,index\na.png,0,0,16,24,\n"),
    ],
)
def test_forms_of_boxes(folder: Path, name: str, content: str) -> None:
    Path(name).write_text(content)
    run("a.png", "--boxes", name, "--metric", "localisation")
    figures = json.loads(Path("out/evaluation.json").read_text())["methods"]["vanilla"]["figures"]
    assert figures["object_area"]["mean"] == 0.5


def test_masks_and_wrong_boxes(folder: Path) -> None:
    Path("masks").mkdir()
    mask = np.zeros((24, 32), np.uint8)
    mask[:, :8] = 255
    Image.fromarray(mask).save("masks/a.png")
    Image.fromarray(mask[:10]).save("masks/b.png")
    result = run("a.png", "b.png", "--masks", "masks", "--metric", "localisation", code=1)
    assert "b.png: its mask masks/b.png has 32 x 10 pixels" in result.stderr
    figures = json.loads(Path("out/evaluation.json").read_text())["methods"]["vanilla"]["figures"]
    assert figures["object_area"]["mean"] == 0.25
    Path("w.json").write_text('{"a.png": [[0, 0, 99, 24]]}')
    wrong = ("a.png", "--boxes", "w.json", "--metric", "localisation", "--overwrite")
    assert "does not lie in the picture of 32 x 24" in run(*wrong, code=1).stderr
