"""Hostile lists, tables, archives, shards and arrays: one line or picture fails, not the job."""

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from engine_fixtures import Recipe, metadata, write
from PIL import Image

from deepinside.cli.main import cli
from deepinside.engine.batch import Sources
from deepinside.engine.batch.archives import tar_items
from deepinside.engine.batch.lists import Columns, parse_targets
from deepinside.engine.batch.parquet import parquet_items
from deepinside.engine.contract import parse_contract
from deepinside.engine.decode import ImageFile, load_picture
from deepinside.engine.errors import ImageError, SettingError
from deepinside.engine.files import load_array, load_member
from deepinside.engine.targets import find_class

DEEP = "[" * 99_999
LINES = {
    "deep": (DEEP, "is not JSON"),
    "half a character": ('{"file": "\\ud800.png"}', "no picture that a file system has"),
    "nul": ('{"file": "a\\u0000b.png"}', "null"),
    "a number": ('{"file": 3}', "names no picture"),
    "many digits": ('{"file": ' + "9" * 5000 + "}", "is not JSON"),
    "no object": ("[]", "holds no JSON object"),
}


@pytest.mark.parametrize("name", LINES)
def test_one_line_of_a_list_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (4, 3)).save("good.png")
    Path("list.jsonl").write_text('{"file": "good.png"}\n' + LINES[name][0] + "\n")
    with Sources(["@list.jsonl"], tmp_path / "out") as sources:
        good, bad = sources.items()
    assert load_picture(ImageFile(good.name, good.open)).size == (3, 4)
    with pytest.raises(ImageError, match=LINES[name][1]):
        load_picture(ImageFile(bad.name, bad.open))


def test_a_quotation_mark_that_nothing_closes(tmp_path: Path) -> None:
    lines = ["a.png", '"b.png', *["c.png"] * 30_000, 'd"', "e.png", '"f ""g"" .png"']
    (tmp_path / "t.csv").write_text("image\n" + "\n".join(lines))
    with Sources([f"@{tmp_path}/t.csv"], tmp_path / "out") as sources:
        good, bad, *rest = sources.items()
    assert good.name == "a.png"
    assert bad.name == f"{tmp_path}/t.csv:3"
    with pytest.raises(ImageError, match=r"up to line 2\d{4} \(field larger than field limit"):
        bad.open()
    assert [item.name for item in rest] == ["c.png", 'd"', "e.png", 'f "g" .png']
    (tmp_path / "head.csv").write_text('"' + "x" * 200_000)
    with pytest.raises(SettingError, match=r"the head of .*head\.csv can't be read: field larger"):
        Sources([f"@{tmp_path}/head.csv"], tmp_path / "out")


def test_targets_that_are_none() -> None:
    assert parse_targets([1, "cat", None, float("nan"), "", 2.0]) == (1, "cat", 2)
    assert parse_targets([[1]]) == ("[1]",)
    assert parse_targets({"a": True}) == ("{'a': True}",)
    assert parse_targets(10**400) == (10**400,)


def test_targets_between_control_characters() -> None:
    contract = parse_contract(metadata(Recipe(), {"image": "i", "class_scores": "s"}), where="f")
    assert find_class("\x1f 2\x1c", contract) == 2


def archive(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as opened:
        for name, content in members.items():
            member = tarfile.TarInfo(name.replace("__", "."))
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def test_deep_json_beside_a_picture_of_an_archive() -> None:
    content = archive(a__png=b"x", a__json=DEEP.encode(), b__png=b"x", b__json=b'{"t": 3}')
    items = tar_items("a.tar", lambda: io.BytesIO(content), Columns(target="t"), shared=False)
    assert [item.targets for item in items] == [("unreadable JSON",), (3,)]


def test_a_table_whose_names_are_no_text() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    stream = io.BytesIO()
    pytest.importorskip("pyarrow.parquet").write_table(
        pyarrow.table({"image": [b"x"], "qqqq": [1]}), stream
    )
    content = stream.getvalue().replace(b"qqqq", b"q\xffqq")
    (item,) = parquet_items(
        "a.parquet", lambda: io.BytesIO(content), Columns(), lambda *_: io.BytesIO(), shared=False
    )
    with pytest.raises(ImageError, match="can't be read beyond its first 0 rows"):
        item.open()


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


ARRAYS = {
    "empty": b"",
    "head that does not end": npy(np.zeros(5)).replace(b"(5,), }", b"(5,),  "),
    "many brackets": npy(np.zeros(5)).replace(b"(5,), }" + b" " * 30, b"(" * 37),
    "other size": npy(np.zeros(5)).replace(b"(5,), }" + b" " * 12, b"(5000000000000,), }"),
    "cut": npy(np.zeros(5))[:-1],
    "objects": npy(np.array([{}], dtype=object)),
    "archive": b"PK\x05\x06" + bytes(18),
    "old version": b"\x93NUMPY\x09\x00" + npy(np.zeros(5))[8:],
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_are_none(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.npy").write_bytes(ARRAYS[name])
    with pytest.raises(ValueError, match=r"it |array|magic|version|EOF|expected"):
        load_array(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as opened:
        opened.writestr("a.npy", ARRAYS[name])
    with pytest.raises(ValueError, match=r"it |array|magic|version|EOF|expected"):
        load_member(tmp_path / "a.npz", "a")


def test_an_evaluation_of_broken_maps_goes_on(tmp_path: Path) -> None:
    write(tmp_path / "s.onnx")
    (tmp_path / "maps").mkdir()
    for number, content in enumerate(ARRAYS.values()):
        Image.new("RGB", (8, 6)).save(tmp_path / f"{number}.png")
        (tmp_path / "maps" / f"{number}.npy").write_bytes(content)
    pictures = [str(path) for path in tmp_path.glob("*.png")]
    arguments = ["--maps", str(tmp_path / "maps"), "-o", str(tmp_path / "out"), "--json"]
    model = ["-m", str(tmp_path / "s.onnx")]
    result = CliRunner().invoke(cli, ["evaluate", *pictures, *model, *arguments])
    assert result.exit_code == 1, result.output
    records = [json.loads(line) for line in result.stdout.splitlines()][: len(pictures)]
    assert all("can't be read" in record["error"] for record in records)


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_a_shard_that_is_none_stops_a_job_with_a_sentence(tmp_path: Path, kind: str) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    write(tmp_path / "s.onnx")
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f"saliency-00000.{kind}").write_bytes(b"PK no shard")
    command = ["saliency", str(tmp_path / "a.png"), "-m", str(tmp_path / "s.onnx")]
    result = CliRunner().invoke(cli, [*command, "--format", kind, "-o", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "is no shard of maps that can be read" in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)


def test_records_in_a_shard_that_are_none_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "s.onnx")
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    lines = [DEEP, "[]", '{"task": "saliency"}']
    outside = {"task": "saliency", "input": "x", "status": "ok", "maps": [{"files": {"a": "../x"}}]}
    text = "\n".join([*lines, json.dumps(outside)])
    np.savez(
        tmp_path / "out" / "saliency-00000.npz", records=np.frombuffer(text.encode(), np.uint8)
    )
    command = ["saliency", str(tmp_path / "a.png"), "-m", str(tmp_path / "s.onnx")]
    result = CliRunner().invoke(cli, [*command, "--format", "npz", "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    manifest = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    assert [json.loads(line)["input"] for line in manifest] == [str(tmp_path / "a.png")]
