"""`deepinside localize` on a file made by hand."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from engine_fixtures import Hill, write
from PIL import Image
from pycocotools.mask import decode

from deepinside.cli.main import cli
from deepinside.engine import Engine, LocalizationSettings, load_picture, localize


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(tmp_path / "m.onnx", Hill())
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("a.png", "000000000139.png", "sub/a.png")):
        picture(Path(name), number)
    return tmp_path


def picture(path: Path, seed: int = 0) -> Path:
    """Red on blue, noisy."""
    random = np.random.default_rng(seed)
    pixels = np.full((36, 60, 3), (30, 60, 200), dtype=np.int16)
    pixels[8:26, 10 + seed : 40] = (210, 40, 30)
    pixels += random.integers(-15, 16, pixels.shape, dtype=np.int16)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["localize", "-m", "m.onnx", *arguments])
    assert result.exit_code == code, result.output
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def lines(name: str, folder: str = "deepinside-results") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, name).read_text().splitlines()]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
def test_results_of_one_picture(folder: Path) -> None:
    result = run("a.png", "-t", "tiger cat", "-t", "0", "-o", "out")
    masks = ["a.1-tiger-cat.mask.png", "a.0-tabby.mask.png"]
    names = ["a.boxes.png", *masks, "boxes.jsonl", "boxes.coco.json"]
    assert result.stdout.splitlines() == [f"out/{name}" for name in names]
    assert sorted(os.listdir("out")) == sorted([*names, "manifest.jsonl"])
    (record,) = lines("manifest.jsonl", "out")
    assert (record["task"], record["status"], record["error"]) == ("localization", "ok", None)
    assert record["targets"] == ["tiger cat", "0"]
    assert record["method"] == {"name": "vanilla", "crops": 1}
    maps = Engine("m.onnx", "cpu").saliency("a.png", [1, 0])
    coco = json.loads(Path("out/boxes.coco.json").read_text())
    boxes = lines("boxes.jsonl", "out")
    assert len(coco) == len(boxes) == 2
    for saliency, entry, line, item, name in zip(
        maps, record["objects"], boxes, coco, masks, strict=True
    ):
        found = localize(saliency, load_picture("a.png"))
        assert found.box is not None
        left, top, right, bottom = line["box"]
        assert line["box"] == entry["box"]
        assert (left, top, right, bottom) == (
            found.box.left,
            found.box.top,
            found.box.right,
            found.box.bottom,
        )
        assert item["bbox"] == [left, top, right - left, bottom - top]
        assert (item["image_id"], item["category_id"]) == ("a", saliency.index)
        assert item["score"] == line["probability"] == pytest.approx(saliency.probability)
        mask = np.asarray(Image.open(Path("out", name)))
        np.testing.assert_array_equal(mask, found.mask * np.uint8(255))
        np.testing.assert_array_equal(decode(item["segmentation"]), found.mask)
        assert line["size"] == [36, 60]
    drawn = load_picture("out/a.boxes.png").pixels
    assert drawn.shape == (7 * 36, 7 * 60, 3)


def test_five_classes_are_the_default_and_coco_numbers_pictures(folder: Path) -> None:
    write(folder / "m.onnx", Hill(classes=7, labels=None))
    result = run("a.png", "000000000139.png", "sub/a.png", "--json")
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [len(record["objects"]) for record in records] == [5, 5, 5]
    for record in records:
        assert Path(record["picture"]).is_file()
        assert all(Path(entry["mask"]).is_file() for entry in record["objects"])
    coco = json.loads(Path("deepinside-results/boxes.coco.json").read_text())
    pictures = {item["image_id"] for item in coco}
    assert 139 in pictures
    assert len(pictures) == 3


def test_a_bad_picture_never_stops_the_rest(folder: Path) -> None:
    Path("text.png").write_text("not a picture")
    result = run("text.png", "a.png", "nowhere.png", "-t", "0", code=1)
    assert "1 done, 0 kept, 2 failed" in result.stderr
    status = {record["input"]: record["status"] for record in lines("manifest.jsonl")}
    assert status == {"text.png": "failed", "a.png": "ok", "nowhere.png": "failed"}
    assert len(lines("boxes.jsonl")) == 1
    picture(Path("text.png"))
    assert "1 done, 1 kept" in run("text.png", "a.png", "-t", "0").stderr
    assert [line["input"] for line in lines("boxes.jsonl")] == ["a.png", "text.png"]


def test_existing_results_are_kept(folder: Path) -> None:
    paths = [Path(path) for path in run("a.png", "-t", "0").stdout.splitlines()[:2]]
    times = [path.stat().st_mtime_ns for path in paths]
    assert json.loads(run("a.png", "-t", "0", "--json").stdout)["status"] == "kept"
    assert [path.stat().st_mtime_ns for path in paths] == times
    assert len(lines("boxes.jsonl")) == 1
    run("a.png", "-t", "0", "--overwrite")
    assert all(path.stat().st_mtime_ns > t for path, t in zip(paths, times, strict=True))


def test_other_results_are_replaced_only_on_demand(folder: Path) -> None:
    run("a.png", "-t", "0")
    before = Path("deepinside-results/a.boxes.png").read_bytes()
    picture(Path("a.png"), seed=6)
    for reason, arguments in (
        ("the picture has changed", ("-t", "0")),
        ("other settings", ("-t", "0", "--foreground", "60", "--background", "50")),
        ("other targets", ("-t", "1")),
    ):
        result = run("a.png", *arguments, code=1)
        assert "a.png: another picture than its own is in deepinside-results/" in result.stderr
        assert reason in result.stderr
        (record,) = lines("manifest.jsonl")
        assert (record["status"], record["objects"]) == ("failed", [])
        assert Path("deepinside-results/a.boxes.png").read_bytes() == before
    assert lines("boxes.jsonl") == []
    run("a.png", "-t", "1", "--overwrite")
    assert Path("deepinside-results/a.boxes.png").read_bytes() != before
    assert len(lines("boxes.jsonl")) == 1


def test_a_killed_run_is_completed(folder: Path) -> None:
    run("a.png", "-t", "0", "-t", "1")
    Path("deepinside-results/manifest.jsonl").unlink()
    Path("deepinside-results/a.1-tiger-cat.mask.png").unlink()
    assert "1 done" in run("a.png", "-t", "0", "-t", "1").stderr
    assert "1 kept" in run("a.png", "-t", "0", "-t", "1").stderr


def test_a_class_without_an_object(folder: Path) -> None:
    Image.new("RGB", (1, 1), "red").save("dot.png")
    (record,) = [json.loads(run("dot.png", "-t", "0", "--json").stdout)]
    (entry,) = record["objects"]
    assert (record["status"], entry["box"], entry["segmentation"]) == ("ok", None, None)
    assert lines("boxes.jsonl") == []
    assert json.loads(Path("deepinside-results/boxes.coco.json").read_text()) == []


def test_settings_and_methods_reach_the_engine(folder: Path) -> None:
    options = ("--foreground", "80", "--background", "60", "--smoothing", "0", "--rounds", "0")
    text = run("a.png", "-t", "0", "--method", "input-x-gradient", "--json", *options).stdout
    record = json.loads(text)
    assert record["settings"] == {
        "foreground": 80,
        "background": 60,
        "smoothing": 0,
        "work_size": 256,
        "rounds": 0,
    }
    assert record["method"]["name"] == "input-x-gradient"
    settings = LocalizationSettings(foreground=80, background=60, smoothing=0, rounds=0)
    (saliency,) = Engine("m.onnx", "cpu").saliency("a.png", 0, method="input-x-gradient")
    found = localize(saliency, load_picture("a.png"), settings)
    mask = np.asarray(Image.open(record["objects"][0]["mask"]))
    np.testing.assert_array_equal(mask > 0, found.mask)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--foreground", "20"], "not the higher one"),
        (["--work-size", "0"], "work_size is 0"),
        (["-t", "zebra"], "no class is labelled 'zebra'"),
    ],
)
def test_wrong_usage_is_one_sentence(folder: Path, arguments: list[str], message: str) -> None:
    result = run("a.png", *arguments, code=2)
    assert message in result.stderr
    assert not Path("deepinside-results/a.boxes.png").exists()


@pytest.mark.parametrize("package", ["cv2", "pycocotools.mask"])
def test_missing_packages_are_told_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    result = run("a.png", code=1)
    assert "pip install 'deepinside[localize]'" in result.stderr
    assert not Path("deepinside-results").exists()
    other = CliRunner().invoke(cli, ["saliency", "-m", "m.onnx", "a.png"])
    assert other.exit_code == 0
