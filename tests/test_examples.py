"""The examples run as a user runs them: in a process of their own, on a real exported file."""

import ast
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from engine_fixtures import RECORD, Recipe, write
from PIL import Image
from record_cases import GOOD

from deepinside import models
from deepinside.engine import Engine, load_picture
from deepinside.engine.contract import Layout
from deepinside.engine.preprocess import preprocess
from deepinside.engine.record import parse_record

EXAMPLES = Path(__file__).parents[1] / "examples"
STEP = Recipe(task="visualization")
SEEN = {"chelsea": 285, "coffee": 967, "camera": 872}


def run(script: str, *arguments: str | Path, expected: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, EXAMPLES / script, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == expected, done.stderr
    return done


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
def test_edge(embedded_file: Path, tmp_path: Path, name: str) -> None:
    output = tmp_path / "map.png"
    done = run("edge.py", embedded_file, models.example(name), output)
    assert done.stdout.startswith(f"{models.labels()[SEEN[name]]} ({SEEN[name]}), score ")
    assert done.stderr == ""
    with Image.open(output) as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (224, 224)
    assert pixels.max() == 255
    assert 5 < pixels.mean() < 150


def load_edge() -> ModuleType:
    spec = importlib.util.spec_from_file_location("edge", EXAMPLES / "edge.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CROP, STRETCH = GOOD[:2]
BYTES = {"value_range": [0, 255], "mean": [127, 120, 110], "std": [128, 127, 126]}
GREY = {"channel_order": "L", "mean": [0.5], "std": [0.25]}


@pytest.mark.parametrize(
    ("size", "mode", "record"),
    [
        *(
            (size, "RGB", CROP)
            for size in ((98, 49), (49, 98), (3497, 2997), (333, 251), (7, 300), (256, 256))
        ),
        *((size, "RGB", STRETCH | {"resize": "letterbox"}) for size in ((98, 49), (33, 500))),
        ((98, 49), "RGB", STRETCH | BYTES | {"channel_order": "BGR", "interpolation": "nearest"}),
        ((98, 49), "RGB", CROP | {"resize_size": 101}),  # smaller than the input
        ((98, 49), "RGBA", CROP),
        ((98, 49), "LA", CROP | GREY),
        ((98, 49), "P", CROP | BYTES),
        ((98, 49), "L", CROP | GREY),
        ((98, 49), "CMYK", CROP),
        ((98, 49), "1", CROP),
    ],
)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "flat"])
def test_edge_prepares_pictures_as_the_engine_does(
    tmp_path: Path, size: tuple[int, int], mode: str, record: dict[str, Any], layout: Layout
) -> None:
    path = tmp_path / ("picture.tif" if mode == "CMYK" else "picture.png")
    coarse = np.random.default_rng(1).integers(0, 256, (9, 11, 4), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR)
    picture.info.clear()
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    if mode == "P":
        picture.convert("RGB").quantize(16).save(path, transparency=3)
    else:
        picture.convert(mode if mode in ("RGBA", "LA") else "RGB").convert(mode).save(
            path, **({"exif": exif} if size[0] < size[1] else {})
        )
    parsed = parse_record(record, where="f.onnx")
    expected, _ = preprocess(load_picture(path), parsed, layout, dtype=np.dtype(np.float32))
    with Image.open(path) as opened:
        found = load_edge().preprocess(opened, record, layout)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected[np.newaxis])


@pytest.mark.parametrize("short", [31, 49, 98, 1023, 2997])
def test_the_shorter_side_is_exact_in_edge(short: int) -> None:
    edge = load_edge()
    assert edge.resized_size(short, 4000, CROP)[0] == 256
    assert edge.resized_size(4000, short, CROP)[1] == 256


@pytest.mark.parametrize("target_input", ["optional", "required", "fixed:2"])
def test_edge_whatever_the_target_input(tmp_path: Path, target_input: str) -> None:
    path = tmp_path / "m.onnx"
    write(path, Recipe(target_input=target_input, record=RECORD | {"resize": "letterbox"}))
    picture = models.example("coffee")
    done = run("edge.py", path, picture, tmp_path / "map.png")
    engine = Engine(path, "cpu")
    (expected,) = engine.saliency(picture, 2 if target_input == "fixed:2" else "top1")
    label = f"{expected.label} ({expected.index}), score {expected.score:.2f}"
    assert done.stdout.splitlines()[0] == label
    assert done.stderr == ""


def test_edge_says_what_it_does_not_cover(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx")
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(tmp_path / "deep.png")
    done = run("edge.py", path, tmp_path / "deep.png", tmp_path / "map.png", expected=1)
    assert done.stderr.startswith("This example does not know pictures of mode I")
    for recipe in (Recipe(record=None), Recipe(outputs=("gradient",)), STEP):
        write(path, recipe)
        done = run("edge.py", path, models.example("coffee"), tmp_path / "map.png", expected=1)
        assert len(done.stderr.splitlines()) == 1
        assert "lacks what this example needs" in done.stderr


def test_edge_says_how_to_use_it() -> None:
    assert "python edge.py MODEL.onnx PICTURE" in run("edge.py", expected=1).stderr


def test_batch_server_and_edge_agree(embedded_file: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in models.EXAMPLES:
        shutil.copy(models.example(name), pictures)
    done = run("batch_server.py", embedded_file, pictures, tmp_path / "maps", "top1", "2")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(models.EXAMPLES)
    for line in lines:
        name = Path(line["input"]).stem
        (found,) = line["classes"]
        assert (found["index"], found["label"]) == (SEEN[name], models.labels()[SEEN[name]])
        saliency = np.load(found["file"])
        assert (saliency.shape, saliency.dtype) == ((224, 224), np.float32)
        edge = run("edge.py", embedded_file, models.example(name), tmp_path / "map.png").stdout
        score = float(edge.splitlines()[0].rpartition(" ")[2])
        assert found["score"] == pytest.approx(score, abs=0.02)


def test_batch_server_goes_on_after_a_broken_picture(embedded_file: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "broken.png").write_bytes(b"not a picture")
    shutil.copy(models.example("coffee"), pictures)
    done = run("batch_server.py", embedded_file, pictures, tmp_path / "maps", "top5", expected=1)
    broken, coffee = (json.loads(line) for line in done.stdout.splitlines())
    assert "broken.png" in broken["error"]
    assert len(coffee["classes"]) == 5
    assert coffee["classes"][0]["index"] == 967
