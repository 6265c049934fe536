"""`deepinside saliency` on a file made by hand."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from engine_fixtures import RECORD, Recipe, write
from PIL import Image

from deepinside.cli.main import cli
from deepinside.engine import Engine, load_picture
from deepinside.engine.batch.names import class_slug

PARTS = ("saliency.npy", "heatmap.png", "overlay.png")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(tmp_path / "m.onnx")
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("a.png", "b.png", "sub/a.jpg")):
        picture(Path(name), number)
    return tmp_path


def picture(path: Path, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["saliency", "-m", "m.onnx", *arguments])
    assert result.exit_code == code, result.output
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def manifest(folder: str = "deepinside-results") -> list[dict[str, Any]]:
    lines = Path(folder, "manifest.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_results_of_one_picture(folder: Path) -> None:
    result = run("a.png", "-t", "tiger cat", "-o", "out")
    expected = [f"out/a.1-tiger-cat.{part}" for part in PARTS]
    assert result.stdout.splitlines() == expected
    assert sorted(os.listdir("out")) == sorted(
        [Path(p).name for p in expected] + ["manifest.jsonl"]
    )
    saliency = np.load(expected[0])
    assert (saliency.dtype, saliency.shape) == (np.float32, (6, 8))
    assert load_picture(expected[1]).size == (6, 8)
    assert load_picture(expected[2]).size == (12, 20)
    (record,) = manifest("out")
    assert record["input"] == "a.png"
    assert record["status"] == "ok"
    assert record["error"] is None
    assert record["model_sha256"] == "ab" * 32
    (entry,) = record["maps"]
    assert (entry["index"], entry["label"]) == (1, "tiger cat")
    assert isinstance(entry["score"], float)
    assert 0 <= entry["probability"] <= 1
    assert entry["files"]["overlay"] == "a.1-tiger-cat.overlay.png"
    assert "1 done, 0 kept, 0 failed, on cpu" in result.stderr


def test_json_lines(folder: Path) -> None:
    result = run("a.png", "b.png", "-t", "top2", "-t", "2", "--json")
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["input"] for record in records] == ["a.png", "b.png"]
    for record in records:
        assert {entry["index"] for entry in record["maps"]} >= {2}
        for entry in record["maps"]:
            assert all(Path(path).is_file() for path in entry["files"].values())


def test_a_bad_picture_never_stops_the_rest(folder: Path) -> None:
    Path("empty.png").write_bytes(b"")
    Path("text.jpg").write_text("not a picture")
    Path("cut.png").write_bytes(Path("a.png").read_bytes()[:200])
    names = ["empty.png", "a.png", "text.jpg", "nowhere.png", "cut.png", "b.png"]
    result = run(*names, "-t", "0", "--batch-size", "2", "-q", code=1)
    assert len(result.stdout.splitlines()) == 6
    status = {record["input"]: record["status"] for record in manifest()}
    assert status == {name: "ok" if name in ("a.png", "b.png") else "failed" for name in names}
    for record in manifest():
        assert (record["error"] is not None) == (record["status"] == "failed")
    for name in set(names) - {"a.png", "b.png"}:
        assert f"Error: {name}: " in result.stderr
    # Repaired, only the failed ones are done again.
    for name in set(names) - {"a.png", "b.png"}:
        picture(Path(name))
    result = run(*names, "-t", "0")
    assert "4 done, 2 kept, 0 failed" in result.stderr


def test_folders_and_globs(folder: Path) -> None:
    Path("notes.txt").write_text("x")
    Path(".hidden.png").write_bytes(b"")
    result = run(".", "-t", "0", "--json")
    found = [json.loads(line)["input"] for line in result.stdout.splitlines()]
    assert found == ["a.png", "b.png", "sub/a.jpg"]
    assert "3 kept" in run(".", "-t", "0").stderr
    assert not list(Path("deepinside-results").glob("*heatmap.*"))[3:]
    result = run("*.png", "**/*.jpg", "a.png", "-t", "0", "--json")  # results are not inputs
    found = [json.loads(line)["input"] for line in result.stdout.splitlines()]
    assert found == ["a.png", "b.png", "sub/a.jpg"]
    assert run("x*.png", code=2).stderr.endswith("no file matches 'x*.png'.\n")
    Path("none").mkdir()
    assert "holds no pictures" in run("none", code=2).stderr


def test_inputs_with_one_stem_do_not_overwrite_each_other(folder: Path) -> None:
    result = run("a.png", "sub/a.jpg", "b.png", "-t", "0")
    paths = result.stdout.splitlines()
    assert len(set(paths)) == 9
    assert all(Path(path).is_file() for path in paths)
    turned = run("sub/a.jpg", "a.png", "b.png", "-t", "0", "--overwrite").stdout.splitlines()
    assert set(turned) == set(paths)
    assert paths[6].startswith("deepinside-results/b.0-tabby.")


def test_a_stem_that_an_earlier_run_gave_away(folder: Path) -> None:
    (first, *_) = run("a.png", "-t", "0").stdout.splitlines()
    before = np.load(first)
    (second, *_) = run("sub/a.jpg", "-t", "0").stdout.splitlines()
    assert second != first
    np.testing.assert_array_equal(np.load(first), before)


def test_existing_results_are_kept(folder: Path) -> None:
    paths = run("a.png", "-t", "0").stdout.splitlines()
    times = [os.stat(path).st_mtime_ns for path in paths]
    again = run("a.png", "-t", "0", "--json")
    assert json.loads(again.stdout)["status"] == "kept"
    assert json.loads(again.stdout)["maps"][0]["score"] is not None
    assert "--overwrite" in again.stderr
    assert [os.stat(path).st_mtime_ns for path in paths] == times
    run("a.png", "-t", "0", "--overwrite")
    assert all(os.stat(path).st_mtime_ns > t for path, t in zip(paths, times, strict=True))
    assert [record["status"] for record in manifest()] == ["ok"]


def test_a_map_of_another_model_is_never_taken_for_a_result(folder: Path) -> None:
    path = run("a.png", "-t", "0").stdout.splitlines()[0]
    before = np.load(path)
    write(folder / "m.onnx", Recipe(gradient_factor=3.0, overrides={"source_sha256": "cd" * 32}))
    for number in range(2):  # again, and it stays the same
        result = run("a.png", "b.png", "-t", "0", "-q", code=1)
        assert "another map than its own" in result.stderr
        assert ("(of another model)" in result.stderr) == (number == 0)
        assert all("b.0-tabby" in line for line in result.stdout.splitlines())
        np.testing.assert_array_equal(np.load(path), before)
        record = {record["input"]: record for record in manifest()}["a.png"]
        assert (record["status"], record["maps"]) == ("failed", [])
        assert "--overwrite" in record["error"]
    run("a.png", "-t", "0", "--overwrite")
    np.testing.assert_allclose(np.load(path), 3 * before, rtol=1e-5)


def test_a_changed_picture_is_explained_anew(folder: Path) -> None:
    Image.new("RGB", (20, 12), "black").save("c.png")
    (before,) = json.loads(run("c.png", "--json").stdout)["maps"]
    Image.new("RGB", (20, 12), "white").save("c.png")
    (found,) = Engine("m.onnx", "cpu").saliency("c.png")
    assert found.index != before["index"]  # a picture of another class, under the same name
    result = run("c.png", "--json")
    record = json.loads(result.stdout)
    assert record["status"] == "ok"
    (entry,) = record["maps"]
    assert entry["index"] == found.index
    np.testing.assert_allclose(np.load(entry["files"]["saliency"]), found.saliency, rtol=1e-5)
    left = Path(before["files"]["saliency"]).name
    assert "c.png has changed: of what it was before, " in result.stderr
    assert left in result.stderr
    assert "1 kept" in run("c.png").stderr


def test_a_changed_picture_does_not_replace_the_old_ones_map(folder: Path) -> None:
    path = run("a.png", "-t", "0").stdout.splitlines()[0]
    before = np.load(path)
    old = Path("a.png").read_bytes()
    picture(Path("a.png"), seed=5)
    result = run("a.png", "-t", "0", "-t", "1", code=1)
    assert "a.png: another map than its own is in" in result.stderr
    assert "(the picture has changed)" in result.stderr
    assert [Path(line).name for line in result.stdout.splitlines()] == [
        f"a.1-tiger-cat.{part}" for part in PARTS
    ]
    np.testing.assert_array_equal(np.load(path), before)
    (record,) = manifest()
    assert (record["status"], [entry["index"] for entry in record["maps"]]) == ("failed", [1])
    # The old picture again: the file is its own.
    new = Path("a.png").read_bytes()
    Path("a.png").write_bytes(old)
    assert "1 done" in run("a.png", "-t", "0").stderr
    Path("a.png").write_bytes(new)
    run("a.png", "-t", "0", "--overwrite")
    assert not np.allclose(np.load(path), before)
    assert "1 kept" in run("a.png", "-t", "0").stderr


def test_a_change_that_the_model_does_not_see(folder: Path) -> None:
    record = {**RECORD, "resize": "shorter-side", "resize_size": 6}
    write(folder / "m.onnx", Recipe(record=record))
    pixels = np.random.default_rng(3).integers(0, 256, (6, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("wide.png")
    overlay = Path(run("wide.png", "-t", "0").stdout.splitlines()[2])
    pixels[:, :4] = 255 - pixels[:, :4]
    Image.fromarray(pixels).save("wide.png")
    for _ in range(2):
        assert "another map" in run("wide.png", "-t", "0", code=1).stderr
    before = overlay.read_bytes()
    run("wide.png", "-t", "0", "--overwrite")
    assert overlay.read_bytes() != before


def test_a_record_without_the_pictures_hash_is_completed(folder: Path) -> None:
    run("a.png", "-t", "0")
    (record,) = manifest()
    assert record["input_sha256"] == hashlib.sha256(Path("a.png").read_bytes()).hexdigest()
    del record["input_sha256"]
    Path("deepinside-results/manifest.jsonl").write_text(json.dumps(record) + "\n")
    assert "1 done" in run("a.png", "-t", "0").stderr
    assert "input_sha256" in manifest()[0]


def test_a_killed_run_is_completed(folder: Path) -> None:
    paths = run("a.png", "b.png", "-t", "0").stdout.splitlines()
    # Killed within b: one of its files is missing, and the manifest's line is half written.
    os.unlink(paths[-1])
    file = Path("deepinside-results/manifest.jsonl")
    file.write_text(file.read_text()[:-40])
    result = run("a.png", "b.png", "-t", "0")
    assert "1 done, 1 kept" in result.stderr
    assert [record["status"] for record in manifest()] == ["ok", "ok"]
    assert Path(paths[-1]).is_file()
    # Killed between b's files and its line.
    file.write_text(file.read_text().splitlines()[0] + "\n")
    run("a.png", "b.png", "-t", "0")
    assert manifest()[1]["status"] == "ok"
    assert manifest()[1]["maps"][0]["score"] is not None


def test_no_temporary_files_are_left(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    result = CliRunner().invoke(cli, ["saliency", "-m", "m.onnx", "a.png"])
    assert result.exit_code == 1
    assert os.listdir("deepinside-results") == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "example:chelsea"),
        (["example:dog"], 2, "example:chelsea, example:coffee, example:camera"),
        (["a.png", "-t", "zebra"], 2, "no class is labelled 'zebra'"),
        (["a.png", "-t", "cat"], 2, "fits 2 classes"),
        (["a.png", "-t", "99"], 2, "possible: 0 to 2"),
        (["a.png", "--device", "gpu"], 2, "auto, cpu, cuda, cuda:N"),
        (["a.png", "--batch-size", "0"], 2, "batch-size"),
        (["a.png", "-m", "gone.onnx"], 1, "there is no model file gone.onnx"),
        (["a.png", "-m", "a.png"], 1, "not an ONNX model"),
        (["a.png", "-m", "timm:resnet18"], 2, "deepinside export timm:resnet18"),
        (["a.png", "-o", "b.png"], 2, "is a file"),
        (["a.png", "-o", "b.png/x"], 1, "can't be written"),
        (["a.png", "--labels", "m.onnx"], 2, "exported already"),
    ],
)
def test_wrong_usage_is_one_sentence(
    folder: Path, arguments: list[str], code: int, message: str
) -> None:
    result = run(*arguments, code=code)
    assert message in result.stderr
    assert result.stdout == ""
    assert len(result.stderr.split("Error: ")[1].strip().splitlines()) == 1


def test_cuda_is_never_replaced_silently(folder: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    result = run("a.png", "--device", "cuda", code=1)
    assert "'cuda:0' can't be used" in result.stderr
    assert not Path("deepinside-results").exists()


def test_bugs_show_their_traceback(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("deepinside.engine.render.normalise", bug)
    result = CliRunner().invoke(cli, ["saliency", "-m", "m.onnx", "a.png"])
    assert isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("index", "label", "slug"),
    [
        (285, "Egyptian cat", "285-egyptian-cat"),
        (281, "tabby, tabby cat", "281-tabby"),
        (7, None, "7"),
        (7, "", "7"),
        (7, "猫", "7"),
        (7, "../../etc/passwd", "7-etc-passwd"),
        (7, "Crème brûlée", "7-creme-brulee"),
        (7, "x" * 500, "7-" + "x" * 60),
    ],
)
def test_class_slugs(index: int, label: str | None, slug: str) -> None:
    assert class_slug(index, label) == slug


def test_methods_stand_beside_one_another(folder: Path) -> None:
    plain = run("a.png", "-t", "0").stdout.splitlines()
    others = run("a.png", "-t", "0", "--method", "input-x-gradient").stdout.splitlines()
    assert others == [f"deepinside-results/a.0-tabby.input-x-gradient.{part}" for part in PARTS]
    assert not np.allclose(np.load(plain[0]), np.load(others[0]))
    assert [record["method"] for record in manifest()] == [
        {"name": "vanilla", "crops": 1},
        {"name": "input-x-gradient"},
    ]
    for arguments in ([], ["--method", "input-x-gradient"]):
        assert "1 kept" in run("a.png", "-t", "0", *arguments).stderr


def test_drawing_does_not_change_the_numbers(folder: Path) -> None:
    paths = run("a.png", "-t", "0").stdout.splitlines()
    values, colours = np.load(paths[0]), load_picture(paths[1]).pixels
    arguments = ["--signed", "--norm", "batch", "--colour-map", "berlin", "-o", "signed"]
    drawn = run("a.png", "-t", "0", *arguments, "--json")
    record = json.loads(drawn.stdout)
    assert record["rendering"] == {"norm": "batch", "signed": True, "colour_map": "berlin"}
    np.testing.assert_array_equal(np.load(record["maps"][0]["files"]["saliency"]), values)
    assert (load_picture(record["maps"][0]["files"]["heatmap"]).pixels != colours).any()
    # Drawn otherwise, the files are others: replaced on request only.
    assert "(drawn otherwise)" in run("a.png", "-t", "0", "--colour-map", "viridis", code=1).stderr
    run("a.png", "-t", "0", "--colour-map", "viridis", "--overwrite")
    assert "1 kept" in run("a.png", "-t", "0", "--colour-map", "viridis").stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples", "5"], "not a setting of the method vanilla"),
        (["--method", "smoothgrad", "--noise", "-1"], "noise is -1"),
        (["--method", "grad-cam"], "'grad-cam' is not one of"),
        (["--colour-map", "nope"], "there is no colour map 'nope'"),
        (["--level", "2"], "norm fixed"),
        (["--method", "vargrad", "--signed"], "have no signs"),
    ],
)
def test_impossible_methods_and_drawings(folder: Path, arguments: list[str], message: str) -> None:
    assert message in run("a.png", *arguments, code=2).stderr


def test_a_file_of_another_rule_says_what_to_do(folder: Path) -> None:
    result = run("a.png", "--method", "guided-backprop", code=1)
    assert "export the classifier again with --relu guided" in result.stderr
    assert "Warning: the maps of guided-backprop are sharp" in result.stderr


def test_integrals_are_in_the_manifest(folder: Path) -> None:
    run("a.png", "-t", "0", "--method", "integrated-gradients", "--steps", "4")
    (record,) = manifest()
    assert record["method"] == {
        "name": "integrated-gradients",
        "steps": 4,
        "quadrature": "gauss-legendre",
        "baseline": "black",
        "blur": 0.1,
        "seed": 0,
    }
    (entry,) = record["maps"]
    assert abs(entry["completeness_gap"]) < 1e-3
    assert entry["baseline_score"] is not None
