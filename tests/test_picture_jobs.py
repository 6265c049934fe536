"""`localize` and `evaluate` are jobs: all sources, bad pictures, stops and kills."""

import io
import json
import os
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from engine_fixtures import Hill, write
from kills import job_of, kills
from PIL import Image

from deepinside.cli.main import cli
from deepinside.cli.stopping import Stop
from deepinside.engine import load_picture
from deepinside.engine.batch import Manifest
from deepinside.engine.batch.object_lists import ObjectLists

COMMANDS = {
    "localize": ["localize", "-m", "m.onnx", "-t", "0", "-o", "out"],
    "evaluate": [
        *("evaluate", "-m", "m.onnx", "-t", "0", "-o", "out"),
        *("--device", "cpu", "--metric", "curves", "--steps", "2", "--no-controls"),
    ],
}
PICTURES = 12


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(tmp_path / "m.onnx", Hill())
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for seed in range(PICTURES):
        Path(f"in/{seed:02d}.png").write_bytes(png(seed))
    return tmp_path


def png(seed: int) -> bytes:
    """Red on blue, noisy: 36 x 60."""
    pixels = np.full((36, 60, 3), (30, 60, 200), dtype=np.int16)
    pixels[8:26, 10 + seed : 40] = (210, 40, 30)
    pixels += np.random.default_rng(seed).integers(-15, 16, pixels.shape, dtype=np.int16)
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def run(command: str, *arguments: str, code: int = 0, stdin: bytes | None = None) -> Result:
    result = CliRunner().invoke(cli, [*COMMANDS[command], *arguments], input=stdin)
    assert result.exit_code == code, result.output
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def records(output: str = "out") -> dict[str, Any]:
    lines = Path(output, "manifest.jsonl").read_text().splitlines()
    return {record["input"]: record for record in map(json.loads, lines)}


def classes(record: dict[str, Any]) -> list[int]:
    """The classes of a record of either command."""
    found = record["maps"] if record["task"] == "evaluation" else record["objects"]
    return [entry["index"] for entry in found]


def tar() -> None:
    with tarfile.open("s.tar", "w") as archive:
        for name, content in (("1.png", png(1)), ("1.cls", b"2"), ("2.png", png(2))):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def table() -> None:
    Path("t.csv").write_text("image,class\nin/03.png,tiger cat\nin/04.png,\nin/05.png,zebra\n")


def parquet() -> None:
    arrow = pytest.importorskip("pyarrow")
    rows = arrow.table({"image": [png(1), None], "class": [2, 0]})
    pytest.importorskip("pyarrow.parquet").write_table(rows, "t.parquet")


def memory() -> None:
    system = pytest.importorskip("fsspec").filesystem("memory")
    system.pipe("/jobs/7.png", png(7))


SOURCES: list[tuple[Callable[[], None], list[str], dict[str, list[int]]]] = [
    (tar, ["s.tar", "--target-column", "cls"], {"s.tar::1.png": [2], "s.tar::2.png": [0]}),
    (
        table,
        ["@t.csv", "--target-column", "class"],
        {"in/03.png": [1], "in/04.png": [0], "in/05.png": []},
    ),
    (
        parquet,
        ["t.parquet", "--target-column", "class"],
        {"t.parquet::0": [2], "t.parquet::1": []},
    ),
    (memory, ["memory://jobs"], {"memory:///jobs/7.png": [0]}),
    (
        lambda: None,
        ["in/0[01].png", "-", "example:chelsea", "in/01.png"],
        {"in/00.png": [0], "in/01.png": [0], "in/02.png": [0], "example:chelsea": [0]},
    ),
]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("make", "arguments", "expected"),
    SOURCES,
    ids=["tar", "table", "parquet", "url", "pattern, list on standard input, example"],
)
def test_sources(
    command: str, make: Callable[[], None], arguments: list[str], expected: dict[str, list[int]]
) -> None:
    make()
    failed = [name for name, found in expected.items() if not found]
    result = run(command, *arguments, code=int(bool(failed)), stdin=b"in/02.png\n")
    found = records()
    assert {name: classes(record) for name, record in found.items()} == expected
    assert [name for name, record in found.items() if record["status"] == "failed"] == failed
    assert all(f"Error: {name}: " in result.stderr for name in failed)
    again = run(command, *arguments, code=int(bool(failed)), stdin=b"in/02.png\n")
    assert f"0 done, {len(expected) - len(failed)} kept, {len(failed)} failed" in again.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_finishes_what_is_in_flight(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["deepinside", command, "in"])
    before = Stop.before

    def interrupting(self: Stop, items: Any) -> Any:
        for number, item in enumerate(before(self, items)):
            if number == 5:
                os.kill(os.getpid(), signal.SIGINT)
            yield item

    with monkeypatch.context() as patch:
        patch.setattr(Stop, "before", interrupting)
        result = run(command, "in", "--batch-size", "2", code=130)
    assert f"go on with: deepinside {command} in --resume" in result.stderr
    done = len(records())
    assert 5 <= done < PICTURES
    if command == "localize":
        assert len(lines("boxes.jsonl")) == len(coco()) == done
    else:
        assert json.loads(Path("out/evaluation.json").read_text())["pictures"] == done
    Path("out/.deepinside-0123").write_bytes(b"half")
    result = run(command, "in", "--resume", "--overwrite")
    assert f"{PICTURES - done} done, {done} kept" in result.stderr
    assert not Path("out/.deepinside-0123").exists()
    assert len(records()) == PICTURES


def lines(name: str, output: str = "out") -> list[Any]:
    return [json.loads(line) for line in Path(output, name).read_text().splitlines()]


def coco(output: str = "out") -> list[Any]:
    found: list[Any] = json.loads(Path(output, "boxes.coco.json").read_text())
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_killed_at_any_moment(command: str) -> None:
    """Going on ends with the results of an undisturbed run; boxes are always those of a record."""
    Path("many").mkdir()
    for seed in range(24):
        Path(f"many/{seed:02d}.png").write_bytes(png(seed))
    Path("many/bad.png").write_bytes(b"x")
    progress = set()
    with job_of(*COMMANDS[command], "many", "-q", "--batch-size", "3") as job:
        assert job("whole") == 1  # for the bad picture
        for listed in kills(job, 10, most_lines=6):
            progress.add(len(listed))
            if command == "localize" and Path("out/boxes.jsonl").exists():
                boxes = {line["input"] for line in lines("boxes.jsonl")}
                assert boxes <= {record["input"] for record in listed}
    assert len(progress) > 5
    assert records("out") == records("whole")
    assert sorted(os.listdir("out")) == sorted(os.listdir("whole"))
    for path in Path("whole").iterdir():
        found = Path("out", path.name)
        if path.suffix == ".png":
            assert found.read_bytes() == path.read_bytes()
        elif path.suffix == ".json":
            assert json.loads(found.read_text()) == json.loads(path.read_text())
    if command == "localize":
        assert lines("boxes.jsonl") == lines("boxes.jsonl", "whole")


def test_a_run_mends_the_lists_when_it_begins() -> None:
    run("localize", "in/00.png", "in/01.png")
    Path("out/boxes.coco.json").unlink()
    with Path("out/boxes.jsonl").open("ab") as stream:
        stream.write(b'{"input": "in/0')  # as a kill within a write would leave it
    with Manifest(Path("out")) as manifest, ObjectLists(manifest, "localization"):
        assert [line["input"] for line in lines("boxes.jsonl")] == ["in/00.png", "in/01.png"]
        assert len(coco()) == 2


def test_lists_of_boxes_hold_what_the_manifest_holds_at_any_time() -> None:
    seen: list[int] = []
    add = ObjectLists.add

    def looking(self: ObjectLists, record: Any) -> None:
        add(self, record)
        seen.append(len(lines("boxes.jsonl")))
        assert {line["input"] for line in lines("boxes.jsonl")} == records().keys()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ObjectLists, "add", looking)
        run("localize", "in")
    assert seen == list(range(1, PICTURES + 1))


def test_large_pictures_are_localised_on_a_smaller_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.full((240, 400, 3), (30, 60, 200), np.uint8)
    pixels[60:180, 100:300] = (210, 40, 30)
    Image.fromarray(pixels).save("large.png")
    run("localize", "large.png", "--work-size", "40")
    monkeypatch.setattr("deepinside.engine.batch.job.PICTURE_PIXELS", 9600)
    run("localize", "large.png", "--work-size", "40", "-o", "small")
    (whole,), (small,) = (list(records(output).values()) for output in ("out", "small"))
    assert whole["size"] == small["size"] == [240, 400]
    with Image.open("small/large.0-tabby.mask.png") as mask:
        assert mask.size == (400, 240)
    box, other = (record["objects"][0]["box"] for record in (whole, small))
    np.testing.assert_allclose(box, other, atol=10)  # a pixel of the cut
    for output in ("out", "small"):
        drawn = load_picture(f"{output}/large.boxes.png").pixels
        rows, columns = np.nonzero((drawn == (230, 159, 0)).all(axis=2))
        scale = 400 / drawn.shape[1]
        ends = scale * columns.min(), scale * (columns.max() + 1), scale * (rows.max() + 1)
        np.testing.assert_allclose(ends, (box[0], box[2], box[3]), atol=12)


def test_given_maps_of_pictures_with_one_name() -> None:
    """Neither takes the other's map: they are named as `saliency` names them."""
    for seed, name in enumerate(("x/a.png", "y/a.png")):
        Path(name).parent.mkdir()
        Path(name).write_bytes(png(seed))
    assert CliRunner().invoke(cli, ["saliency", "-m", "m.onnx", "x", "y", "-t", "0"]).exit_code == 0
    run("evaluate", "x", "y", "--maps", "deepinside-results")
    assert [len(record["maps"]) for record in records().values()] == [1, 1]
    Path("maps").mkdir()
    np.save("maps/a.npy", np.ones((6, 8)))
    text = run("evaluate", "x", "y", "--maps", "maps", "-o", "other", code=1).stderr
    assert text.count("has no map of it") == 2


def test_boxes_and_masks_of_pictures_in_archives() -> None:
    tar()
    Path("b.csv").write_text(
        "input,left,top,right,bottom\n1.png,0,0,30,36\ns.tar::2.png,0,0,15,36\n"
    )
    run("evaluate", "s.tar", "--boxes", "b.csv", "--metric", "localisation")
    areas = [record["maps"][0]["figures"]["object_area"] for record in records().values()]
    np.testing.assert_allclose(areas, [0.5, 0.25])


def test_the_summary_does_not_depend_on_the_batches() -> None:
    run("evaluate", "in")
    run("evaluate", "in", "-o", "other", "--batch-size", "5")
    one, other = (
        json.loads(Path(output, "evaluation.json").read_text())["methods"]["vanilla"]
        for output in ("out", "other")
    )
    values = [r["maps"][0]["figures"]["insertion.logit"] for r in records().values()]
    figures = one["figures"]["insertion.logit"]
    assert figures["count"] == PICTURES
    assert figures["mean"] == pytest.approx(np.mean(values))
    assert figures["spread"] == pytest.approx(np.std(values, ddof=1))
    curves = [r["maps"][0]["curves"]["insertion"]["logit"] for r in records().values()]
    np.testing.assert_allclose(one["curves"]["insertion"]["logit"], np.mean(curves, axis=0))
    for name, statistic in one["figures"].items():
        assert statistic["mean"] == pytest.approx(other["figures"][name]["mean"], rel=1e-4)
