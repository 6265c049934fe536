"""Where the pictures of a job come from: folders, patterns, lists, archives, tables, URLs."""

import gc
import io
import json
import os
import pickle
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from engine_fixtures import write
from PIL import Image

from deepinside.cli.main import cli
from deepinside.engine import Engine, ImageError, ImageFile, SettingError
from deepinside.engine.batch import Columns, Item, Manifest, Sources, read_records
from deepinside.engine.batch.names import plain_stem


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(tmp_path / "m.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def jpeg(seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def put(*names: str) -> None:
    for seed, name in enumerate(names):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(jpeg(seed))


def items(*arguments: str, **options: Any) -> list[Item]:
    with Sources(arguments, Path("out"), **options) as sources:
        found = list(sources.items())
        assert sources.total in (None, len(found))
    return found


def names(*arguments: str, **options: Any) -> list[str]:
    return [item.name for item in items(*arguments, **options)]


def run(*arguments: str, code: int = 0, stdin: bytes | None = None) -> Result:
    command = ["saliency", "-m", "m.onnx", "-o", "out", *arguments]
    result = CliRunner().invoke(cli, command, input=stdin)
    assert result.exit_code == code, result.output
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def records() -> dict[str, Any]:
    lines = Path("out/manifest.jsonl").read_text().splitlines()
    return {record["input"]: record for record in map(json.loads, lines)}


def tar(path: str, members: Iterable[tuple[str, bytes]], mode: str = "w") -> bytes:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return Path(path).read_bytes()


def test_order_and_stems_do_not_depend_on_the_order_of_arguments() -> None:
    put("x/1.png", "y/1.png", "y/2.png", "3.png")
    stems = {item.name: (item.stem, item.shared) for item in items("x", "y", "3.png")}
    assert stems == {item.name: (item.stem, item.shared) for item in items("3.png", "y", "x")}
    assert [shared for _, shared in stems.values()] == [True, True, False, False]
    first = set(run("x", "y", "3.png").stdout.splitlines())
    for path in first:
        os.unlink(path)
    os.unlink("out/manifest.jsonl")
    assert set(run("3.png", "y", "x").stdout.splitlines()) == first


def test_each_picture_comes_once() -> None:
    put("x/1.png", "x/2.png")
    assert names("x", "x/1.png", "./x/*.png", os.path.abspath("x/2.png")) == ["x/1.png", "x/2.png"]


def test_loops_of_links_end() -> None:
    put("x/a/1.png", "x/b/2.png")
    os.symlink("..", "x/a/up")
    os.symlink("..", "x/b/up")  # two of them are 2^40 ways for a pattern that follows them
    os.symlink("self", "x/self.png")
    with Sources(["x", "x/**/*.png"], Path("out")) as sources:
        assert [item.name for item in sources.items()] == ["x/self.png", "x/a/1.png", "x/b/2.png"]
        assert sources.skipped["links to folders"] == 4
    assert "left out of folders: 2 links to folders" in run("x", code=1).stderr
    assert records()["x/self.png"]["status"] == "failed"


def test_a_folder_that_can_not_be_read_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    put("x/1.png", "x/closed/2.png")
    scandir = os.scandir

    def refusing(path: str) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert "x/closed: the folder can't be read (Permission denied)." in run("x", code=1).stderr
    assert records()["x/closed"]["status"] == "failed"
    assert records()["x/1.png"]["status"] == "ok"


def test_strange_names() -> None:
    strange = [
        "a b.png",
        "new\nline.png",
        "ünï猫.png",
        "-q.png",
        "a:b*?.png",
        "a\\b.png",
        "\x1b[2J.png",
    ]
    put(*(f"x/{name}" for name in strange))
    Path(os.fsdecode(b"x/\xff.png")).write_bytes(jpeg(9))
    result = run("x", "-t", "0")
    paths = result.stdout.splitlines()
    assert len(paths) == 3 * (len(strange) + 1)
    assert all(Path(path).is_file() for path in paths)
    assert len(records()) == len(strange) + 1
    assert "8 kept" in run("x", "-t", "0").stderr
    Path("x/new\nline.png").write_bytes(b"")
    error = run("x/new\nline.png", "-t", "0", "-q", code=1).stderr
    assert error == "Error: x/new\\nline.png: is empty.\n"


@pytest.mark.parametrize("stem", ["../../x", "a/b", "a\0b", "x" * 400, "猫" * 200, 'a"b'])
def test_stems_stay_in_their_folder(stem: str) -> None:
    safe = plain_stem(stem)
    assert safe != stem
    assert Path(safe).name == safe
    assert len(safe.encode()) < 140
    assert plain_stem(stem + "y") != safe


def test_pipes_and_folders_are_no_pictures() -> None:
    os.mkfifo("p.png")
    Path("d.png").mkdir()
    put("d.png/1.png")
    assert "p.png: is a pipe or a device" in run("p.png", code=1).stderr
    assert names("d.png") == ["d.png/1.png"]


def test_text_lists() -> None:
    put("1.png", "a b.png", "new\nline.png", "4.png")
    Path("list.txt").write_text("\ufeff1.png\r\n\na b.png\nmissing[1].png")
    assert names("@list.txt") == ["1.png", "a b.png", "missing[1].png"]  # no pattern in lists
    result = run("-", stdin=b"4.png\0new\nline.png\0")
    assert list(records()) == ["4.png", "new\nline.png"]
    assert "2 done" in result.stderr
    with pytest.raises(SettingError, match=r"the list gone\.txt can't be read: No such file"):
        names("@gone.txt")


def test_long_lists_are_split_right() -> None:
    lines = [f"folder/{number:06d}.png" for number in range(20_000)]
    Path("list.txt").write_text("\n".join(lines))
    assert names("@list.txt") == lines


def test_tables_with_targets() -> None:
    put("1.png", "2.png", "3.png", "4.png")
    Path("t.csv").write_text(
        "file,class\n2.png,tiger cat\n1.png,2\n3.png,\n1.png,0\n4.png,zebra\n", encoding="utf-8"
    )
    result = run("@t.csv", "--target-column", "class", "-t", "1", code=1)
    assert [[m["index"] for m in r["maps"]] for r in records().values()] == [[1], [2, 0], [1], []]
    assert "Error: 4.png: no class is labelled 'zebra'" in result.stderr
    assert records()["1.png"]["targets"] == ["2", "0"]
    # The targets are part of what makes a result the same.
    Path("t.jsonl").write_text('{"image": "1.png", "c": [2, "tabby"]}\n\n{"image": 3}\nx\n')
    rows = items("@t.jsonl", columns=Columns(target="c"))
    assert [row.targets for row in rows] == [(2, "tabby"), None, None]
    assert [row.name for row in rows] == ["1.png", "t.jsonl:3", "t.jsonl:4"]
    for row in rows[1:]:
        with pytest.raises(ImageError, match=r"names no picture|is not JSON"):
            row.open()
    assert "1 done" in run("1.png", "-t", "2").stderr


def test_columns_that_are_not_there() -> None:
    Path("t.csv").write_text("name,class\n1.png,0\n")
    for options in ({"target": "class"}, {"image": "name", "target": "clas"}):
        with pytest.raises(SettingError, match="it has 'name', 'class': choose one with --"):
            names("@t.csv", columns=Columns(**options))
    assert "t.csv has no column" in run("@t.csv", code=2).stderr


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_archives(mode: str) -> None:
    members = [
        ("a/1.png", jpeg(1)),
        ("a/1.cls", b"2\n"),
        ("../../2.png", jpeg(2)),
        ("../../2.json", b'{"cls": "tabby"}'),
        ("3.png", jpeg(3)),
        ("notes.md", b"x"),
        ("bad.png", b"x"),
    ]
    name = "s.tar.gz" if mode == "w:gz" else "s.tar"
    whole = tar(name, members, mode)
    run(name, "-t", "1", "--target-column", "cls", code=1)
    found = records()
    assert [[m["index"] for m in r["maps"]] for r in found.values()] == [[2], [0], [1], []]
    assert f"{name}::../../2.png" in found
    assert all(Path(path).parent == Path("out") for path in map(str, Path("out").iterdir()))
    assert not list(Path().glob("2.*"))
    assert "3 kept, 1 failed" in run(name, "-t", "1", "--target-column", "cls", code=1).stderr
    for length in (len(whole) // 2, len(whole) // 3 if mode == "w:gz" else 512 * 5 + 100):
        Path("cut.tar").write_bytes(whole[:length])
        *_, last = items("cut.tar")
        assert last.name == "cut.tar"
        with pytest.raises(ImageError, match=r"the archive can't be read beyond its first \d"):
            last.open()


def test_an_archive_without_its_end_mark_is_noticed() -> None:
    whole = tar("s.tar", [("1.png", jpeg(1)), ("2.png", jpeg(2))])
    second = whole.index(b"2.png")
    Path("cut.tar").write_bytes(whole[:second])  # ends where a member would begin
    assert [item.name for item in items("cut.tar")] == ["cut.tar::1.png", "cut.tar"]


def test_what_is_read_of_an_archive_is_forgotten() -> None:
    tar("s.tar", [(f"{number}.png", b"x") for number in range(200)])

    def held() -> int:
        return sum(issubclass(type(known), tarfile.TarInfo) for known in gc.get_objects())

    before = held()
    with Sources(["s.tar"], Path("out")) as sources:
        for count, _ in enumerate(sources.items(), 1):
            if count % 50 == 0:
                assert held() - before < 10
    assert count == 200


def moved(found: Iterable[Item], folder: Path) -> list[bytes | str]:
    """What pictures hold, or why they don't, for a process that is started in another folder."""
    cloudpickle = pytest.importorskip("cloudpickle")
    code = """
import pickle, sys
from deepinside.engine import EngineError
def read(item):
    try:
        with item.open() as stream:
            return stream.read()
    except EngineError as error:
        return str(error)
sys.stdout.buffer.write(pickle.dumps([read(item) for item in pickle.load(sys.stdin.buffer)]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=cloudpickle.dumps(list(found)),
        capture_output=True,
        cwd=folder,
        check=True,
    )
    contents: list[bytes | str] = pickle.loads(done.stdout)
    return contents


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_pictures_by_place_can_be_read_anywhere(
    ending: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("deepinside.engine.batch.archives._IN_MEMORY", 500)
    put("1.png")
    members = [("a.png", jpeg(2)), ("a.cls", b"2"), ("b.png", b""), ("c.png", b"x" * 501)]
    tar(f"s.{ending}", members, "w:gz" if ending == "tar.gz" else "w")
    cells = [{"bytes": jpeg(seed), "path": None} for seed in range(5)]
    cells += [{"bytes": None, "path": "1.png"}, None]
    labels = [*range(5), 5, None]
    table = arrow.table({"image": cells, "cls": labels})
    parquet.write_table(table, "t.parquet", row_group_size=2)
    parquet.write_table(arrow.table({"image": [b"y"]}), "u.parquet")
    places = ["1.png", f"s.{ending}", "t.parquet", "u.parquet", "gone.png"]
    with Sources(places, Path("out"), columns=Columns(target="cls")) as sources:
        here, there = list(sources.items()), list(sources.items(by_place=True))
    for one, other in zip(here, there, strict=True):
        assert (one.name, one.stem, one.targets) == (other.name, other.stem, other.targets)
    for item in [item for item in there if item.name == "u.parquet"]:
        with pytest.raises(ImageError, match="no column 'cls'"):
            item.open()
    # The table's last picture is a path, relative to the folder where the job was begun.
    *found, gone = there
    expected = [jpeg(0), jpeg(2), b"", b"x" * 501, *map(jpeg, range(5)), jpeg(0)]
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    assert moved(found, elsewhere)[: len(expected)] == expected
    with pytest.raises(FileNotFoundError):
        gone.open()
    # What is compressed has no places, and is sent; the rest is read where it is.
    sent = len(pickle.dumps([item.open for item in there if item.name.endswith("::c.png")]))
    assert (sent > 501) == (ending == "tar.gz")
    parquet.write_table(arrow.table({"image": [b"y"]}), "t.parquet")
    (*_, row) = (item for item in there if item.name == "t.parquet::4")
    assert "t.parquet::4: can't be read" in moved([row], elsewhere)[0]


@pytest.mark.parametrize("length", [512 * 5 + 100, 512 * 3 + 100])
def test_archives_that_are_cut_short_by_place(length: int) -> None:
    Path("cut.tar").write_bytes(tar("s.tar", [(f"{n}.png", jpeg(n)) for n in range(5)])[:length])
    with Sources(["cut.tar"], Path("out")) as sources:
        here, there = list(sources.items()), list(sources.items(by_place=True))
    assert [item.name for item in here] == [item.name for item in there]
    with pytest.raises(ImageError, match=r"the archive can't be read beyond its first \d"):
        there[-1].open()


def test_large_members_wait_on_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("deepinside.engine.batch.archives._IN_MEMORY", 100)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "spill"))
    (tmp_path / "spill").mkdir()
    tar("s.tar", [("1.png", jpeg(1)), ("2.png", jpeg(2))])
    found = items("s.tar")
    assert len(list((tmp_path / "spill").iterdir())) == 2
    for number, item in enumerate(found, 1):
        with item.open() as stream:
            assert stream.read() == jpeg(number)
    del found, item
    assert not list((tmp_path / "spill").iterdir())


def test_parquet_tables() -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    put("1.png")
    cells = [{"bytes": jpeg(1), "path": None}, {"bytes": None, "path": "1.png"}, None]
    parquet.write_table(arrow.table({"image": cells, "label": [2, None, 0]}), "t.parquet")
    result = run("t.parquet", "-t", "1", "--target-column", "label", code=1)
    assert [[m["index"] for m in r["maps"]] for r in records().values()] == [[2], [1], []]
    assert "t.parquet::2: holds no picture." in result.stderr
    (bad,) = items("t.parquet", columns=Columns(image="picture"))
    with pytest.raises(ImageError, match="no column 'picture'; it has 'image', 'label'"):
        bad.open()
    content = Path("t.parquet").read_bytes()
    Path("cut.parquet").write_bytes(content[: len(content) // 2])
    assert "can't be read beyond its first 0 rows" in run("cut.parquet", code=1).stderr


def test_urls() -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for number, name in enumerate(("p/1.png", "p/q/2.png", "p/notes.txt", "p/.hidden.png")):
        memory.pipe(f"/{name}", jpeg(number))
    memory.pipe("/t.tar", tar("t.tar", [("3.png", jpeg(3))]))
    memory.pipe("/list.txt", b"memory://p/1.png\n")
    put("4.png")
    try:
        assert names("memory://p") == ["memory:///p/1.png", "memory:///p/q/2.png"]
        assert names("memory://p/*.png") == ["memory:///p/.hidden.png", "memory:///p/1.png"]
        assert names("@memory://list.txt") == ["memory://p/1.png"]
        local = Path("4.png").absolute().as_uri()
        result = run("memory://p", "memory://t.tar", local, "memory://gone.png", code=1)
        assert [record["status"] for record in records().values()] == ["ok"] * 4 + ["failed"]
        assert "memory://gone.png: there is no such file." in result.stderr
        assert "nosuch" in run("nosuch://x.png", code=2).stderr
        assert "4 kept" in run("memory://p", "memory://t.tar", local).stderr
    finally:
        memory.store.clear()


# What means no picture, and what is said of it.
NO_PICTURES = {
    "empty": r"holds no pictures \(\.bmp ",
    "example:nothing": "there is no such embedded picture; possible: example:",
    "memory://empty": r"holds no pictures \(\.bmp ",
    "memory://torn": r"can't be read \(ConnectionError: torn\)",
    "nosuch://x.png": r"can't be read \(ValueError: Protocol not known: nosuch\)",
    "zip://1.png::file://gone.zip": r"can't be read \(FileNotFoundError: .*gone\.zip",
}


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    memory = pytest.importorskip("fsspec").filesystem("memory")
    Path("empty/below").mkdir(parents=True)
    for name in ("/empty/notes.txt", "/torn/1.png"):
        memory.pipe(name, b"x")
    walk = type(memory).walk

    def torn(self: Any, path: str, **options: Any) -> Iterator[Any]:
        yield from walk(self, path, **options)
        if path == "/torn":
            raise ConnectionError("torn")

    monkeypatch.setattr(type(memory), "walk", torn)
    yield
    memory.store.clear()


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("form", ["text", "standard input", "csv", "jsonl"])
def test_a_line_that_means_no_picture_stops_nothing(form: str) -> None:
    put("1.png", "2.png")
    lines = ["1.png", *NO_PICTURES, "2.png"]
    text = "\n".join(lines).encode()
    Path("l.txt").write_bytes(text)
    Path("l.csv").write_bytes(b"image\n" + text)
    Path("l.jsonl").write_text("\n".join(json.dumps({"image": line}) for line in lines))
    argument = {"text": "@l.txt", "standard input": "-", "csv": "@l.csv", "jsonl": "@l.jsonl"}[form]
    result = run(argument, "-t", "0", code=1, stdin=text)
    found = records()
    assert found.pop("memory:///torn/1.png")["status"] == "failed"  # found before it tore
    assert sorted(found) == sorted(lines)
    assert [name for name, record in found.items() if record["status"] == "ok"] == lines[::7]
    for name, reason in NO_PICTURES.items():
        assert re.match(f"{re.escape(name)}: {reason}", found[name]["error"])
    assert "2 done, 0 kept, 7 failed" in result.stderr
    assert "0 done, 2 kept, 7 failed" in run(argument, "-t", "0", code=1, stdin=text).stderr


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("name", NO_PICTURES)
def test_an_argument_that_means_no_picture_is_a_usage_error(name: str) -> None:
    put("1.png")
    assert re.search(
        f"Error: {re.escape(name)}: {NO_PICTURES[name]}", run("1.png", name, code=2).stderr
    )
    assert not Path("out").exists()


def test_the_engine_takes_bytes_and_open_files(folder: Path) -> None:
    put("1.png")
    engine = Engine("m.onnx", "cpu")
    (expected,) = engine.saliency("1.png", target=0)
    content = Path("1.png").read_bytes()
    with open("1.png", "rb") as stream:
        forms = [content, stream, io.BytesIO(content), ImageFile("x", lambda: io.BytesIO(content))]
        for form in forms:
            (found,) = engine.saliency(form, target=0)
            np.testing.assert_array_equal(found.saliency, expected.saliency)
        assert not stream.closed
    own = ImageFile("x", lambda: io.BytesIO(content), target=["tiger cat", 2])
    assert [found.index for found in engine.saliency([own, content], target=0)] == [1, 2, 0]
    for empty in (b"", io.BytesIO()):
        with pytest.raises(ImageError, match="is empty"):
            engine.saliency(empty)


@pytest.mark.parametrize(
    "line",
    [
        "[" * 5000,
        "1" * 5000,
        '{"task": "saliency"}',
        '{"task": "saliency", "input": 7, "status": "ok"}',
        '{"task": "saliency", "input": "a", "status": "ok", "maps": 7}',
        '{"task": "saliency", "input": "a", "status": "ok", "maps": [3]}',
        '{"task": "saliency", "input": "a", "status": "ok", "maps": [{"files": "x"}], "stem": 5}',
        '{"task": "saliency", "input": "a", "status": "ok", "maps": [{"files": {"x": "../b"}}]}',
        '{"task": "saliency", "input": "a", "status": "ok", "files": ["/etc/passwd"]}',
        '{"task": "saliency", "inp',
    ],
    ids=lambda line: line[:70],
)
def test_lines_that_no_command_wrote_are_passed_over(tmp_path: Path, line: str) -> None:
    good = '{"task": "saliency", "input": "b", "status": "ok", "maps": [], "stem": null}'
    (tmp_path / "manifest.jsonl").write_text(f"{line}\n{good}\n")
    assert [record["input"] for record in read_records(tmp_path / "manifest.jsonl")] == ["b"]
    with Manifest(tmp_path) as manifest:
        assert manifest.get("saliency", "a") is None
        assert manifest.get("saliency", "b") is not None
