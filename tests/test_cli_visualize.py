"""`visualize` with preset natural; sheets, films, layers, mixes, resuming, loops."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from classifiers import classifier, session
from click.testing import CliRunner, Result
from PIL import Image

from deepinside.cli.main import cli
from deepinside.engine import load_picture

SIZE = 12
RECORD = {
    "input_size": [SIZE, SIZE],
    "resize": "stretch",
    "resize_size": None,
    "interpolation": "bilinear",
    "channel_order": "RGB",
    "value_range": [0, 255],
    "mean": [120, 110, 100],
    "std": [60, 58, 57],
}
BASE = ("visualize", "-m", "net.onnx", "--preprocessing", "record.json", "--preset", "natural")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    onnx.save(classifier(size=SIZE), "net.onnx")
    Path("record.json").write_text(json.dumps(RECORD))
    return tmp_path


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == code, result.output
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def records(folder: str = "deepinside-results") -> list[dict[str, Any]]:
    lines = Path(folder, "manifest.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_natural_pictures_a_sheet_and_films() -> None:
    options = ("--steps", "9", "--sheet", "sheet.png", "--animation")
    result = run(*BASE, "-t", "0", "-t", "0.5*1 + 2*3", *options, "gif")
    names = ["0", "0.5x1+2x3"]
    assert result.stdout.splitlines() == [
        f"deepinside-results/{name}{ending}"
        for name in names
        for ending in (".npy", ".png", ".ascent.gif")
    ]
    assert [record["settings"]["preset"] for record in records()] == ["natural"] * 2
    assert records()[1]["label"] == "0.5*1 + 2*3"
    with Image.open("deepinside-results/0.ascent.gif") as film:
        assert getattr(film, "n_frames", 1) >= 5
        assert film.size == (SIZE, SIZE)
    sheet = load_picture("sheet.png").pixels
    picture = load_picture("deepinside-results/0.png").pixels
    np.testing.assert_array_equal(sheet[:SIZE, :SIZE], picture)
    assert sheet.shape[1] == 2 * SIZE + 4

    assert "2 kept" in run(*BASE, "-t", "0", "-t", "0.5*1 + 2*3", *options, "gif").stderr
    assert "animation gif instead of apng" in run(*BASE, "-t", "0", *options, "apng", code=1).stderr
    run(*BASE, "-t", "0", *options, "apng", "--overwrite")
    with Image.open("deepinside-results/0.ascent.png") as film:
        assert (film.format, getattr(film, "is_animated", False)) == ("PNG", True)


def test_paper_stays_the_default() -> None:
    run(*BASE[:-2], "-t", "0", "--steps", "1")
    settings = records()[0]["settings"]
    assert settings["preset"] == "paper"
    assert settings["jitter"] is None


def test_a_killed_run_is_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    import deepinside.engine.state

    options = ("-t", "0", "-t", "2", "--steps", "8", "--state-every", "3", "--seed", "4")
    run(*BASE, *options, "-o", "whole")
    assert not list(Path("whole").glob("*.npz"))
    real = deepinside.engine.state.save_state

    def killed(path: Path, state: Any) -> None:
        real(path, state)
        if (state.step, state.goal.index) == (6, 2):
            raise SystemExit(130)

    with monkeypatch.context() as patch:
        patch.setattr(deepinside.engine.state, "save_state", killed)
        run(*BASE, *options, "-o", "parts", code=130)
    assert sorted(path.name for path in Path("parts").glob("*.npz")) == [
        "0.state.npz",
        "2.state.npz",
    ]
    assert (
        "settings seed" in run(*BASE, *options[:-1], "5", "-o", "parts", "--resume", code=2).stderr
    )
    run(*BASE, *options, "-o", "parts", "--resume")
    for name in ("0", "2"):
        whole, parts = (np.load(f"{where}/{name}.npy") for where in ("whole", "parts"))
        np.testing.assert_array_equal(whole, parts)
    assert not list(Path("parts").glob("*.npz"))
    curves = [[record["score_curve"] for record in records(where)] for where in ("whole", "parts")]
    assert curves[0] == curves[1]


def test_channels_of_a_layer() -> None:
    listed = run("inspect", "net.onnx", "--layers").stdout.splitlines()
    assert [line.split()[:3] for line in listed[:2]] == [["c", "Conv", "8"], ["r", "Relu", "8"]]
    assert json.loads(run("inspect", "net.onnx", "--layers", "--json").stdout.splitlines()[0]) == {
        "name": "c",
        "operator": "Conv",
        "channels": 8,
        "places": [SIZE, SIZE],
    }
    options = ("--layer", "c", "--neuron", "6,6", "--steps", "3")
    run(*BASE, *options, "--channel", "7")
    (record,) = records()
    assert (record["index"], record["label"]) == (7, None)
    image = np.load("deepinside-results/7.npy")
    model = onnx.load("net.onnx")
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, ["N", 8, SIZE, SIZE])
    )
    (maps,) = session(model.SerializeToString()).run(["c"], {"image": image[None]})
    assert record["score"] == pytest.approx(float(maps[0, 7, 6, 6]), rel=1e-4)
    assert "no class 8" in run(*BASE, *options, "--channel", "8", code=2).stderr
    run("export", "net.onnx", "-o", "l.onnx", "--task", "visualization", "--layer", "r", "-q")
    assert "a class is a channel" in run("inspect", "l.onnx").stdout
    other = ("visualize", "-m", "l.onnx", "--layer", "c", "--channel", "1")
    assert "for the layer r" in run(*other, code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--channel", "1"], "name it with --layer"),
        (["--layer", "c"], "goes with --channel"),
        (["--layer", "c", "--channel", "1", "-t", "0"], "without -t"),
        (["--layer", "c", "--channel", "1", "--neuron", "x"], "whole numbers"),
        (["-t", "0", "--zoom", "9"], "zoom is 9"),
        (["-t", "0.5*0 + 1"], "can't be read"),
    ],
)
def test_wrong_use(arguments: list[str], message: str) -> None:
    assert message in run(*BASE, *arguments, code=2).stderr


def test_a_layer_that_is_not_there() -> None:
    arguments = ("--layer", "conv9", "--channel", "1")
    assert "its last convolutions are c" in run(*BASE, *arguments, code=1).stderr


@pytest.mark.parametrize("rule", ["plain", "natural"])
def test_a_whole_ascent_as_one_file(rule: str) -> None:
    export = ("export", "net.onnx", "--task", "visualization", "--preprocessing", "record.json")
    run(*export, "-o", "draw.onnx", "--loop", "4", "--step-rule", rule)
    runtime = session("draw.onnx")
    assert [value.name for value in runtime.get_inputs()] == ["target"]
    names = ["picture", "scores"]
    pictures, scores = runtime.run(names, {"target": np.array([1, 3])})
    assert pictures.shape == (2, SIZE, SIZE, 3)
    assert pictures.dtype == np.uint8
    assert scores.shape == (5, 2)
    assert "a whole ascent of 4 steps" in run("inspect", "draw.onnx").stdout
    assert "whole ascent" in run("visualize", "-m", "draw.onnx", "-t", "0", code=1).stderr


@pytest.mark.parametrize("preset", ["paper", "natural"])
def test_a_dead_channel_is_told(preset: str) -> None:
    model = classifier(size=SIZE)
    bias = np.zeros(8, np.float32)
    bias[2] = -1e4  # its ReLU never passes anything
    bias[3] = 1
    model.graph.initializer.append(onnx.numpy_helper.from_array(bias, "bias"))
    (convolution,) = [node for node in model.graph.node if node.op_type == "Conv"]
    convolution.input.append("bias")
    onnx.save(model, "net.onnx")
    options = ("--preset", preset, "--layer", "r", "--channel", "2", "--channel", "3")
    result = run(*BASE[:-2], *options, "--steps", "20")
    (warning,) = [line for line in result.stderr.splitlines() if line.startswith("Warning")]
    assert "2: its score was 0 from the first step to the last" in warning
    dead, alive = records()
    assert "the channel may be dead" in dead["warning"]
    assert set(dead["score_curve"]["scores"]) == {0}
    assert alive["warning"] is None
    assert alive["score"] > alive["score_curve"]["scores"][0]
    assert "Warning" not in run(*BASE[:-2], *options, "--steps", "20", "-q", "-o", "b").stderr


def test_curves_of_scores() -> None:
    options = ("--steps", "40", "--score-every", "5", "--curves", "curves.png")
    run(*BASE, "-t", "0", *options)
    one = load_picture("curves.png").pixels
    run(*BASE, "-t", "0", "-t", "1*1 + 0.5*2", *options)  # the first is kept
    two = load_picture("curves.png").pixels

    def lines(pixels: Any) -> int:
        """Colours of lines that take much room: grey is axes and text."""
        wide = pixels.max(axis=2).astype(int) - pixels.min(axis=2)
        colours, counts = np.unique(pixels[wide > 100], axis=0, return_counts=True)
        return int((counts > 100).sum()) if len(colours) else 0

    assert one.shape == two.shape
    assert (lines(one), lines(two)) == (1, 2)


def test_curves_need_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run(*BASE, "-t", "0", "--curves", "curves.png", code=1)
    assert "pip install 'deepinside[plots]'" in result.stderr
    assert not Path("deepinside-results").exists()
