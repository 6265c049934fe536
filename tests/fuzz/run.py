"""Fuzzes the parsers of outside input with atheris, guided by coverage; not part of the test suite.

    pip install atheris
    python tests/fuzz/run.py header -max_total_time=300

The first word is one of TARGETS, here or in doors.py; the rest are libFuzzer's options. An
exception other than our own stops the run and leaves the input in `crash-...`; the number of cases
is in libFuzzer's last line.
"""

import contextlib
import io
import json
import logging
import os
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))

PACKAGES = ["deepinside", "PIL", "csv", "json", "keras.src.saving", "skops", "tarfile", "zipfile"]
with atheris.instrument_imports(include=PACKAGES):
    import click
    import doors
    import numpy as np
    from classifiers import classifier
    from engine_fixtures import RECORD, Recipe, metadata, write
    from PIL import Image

    from deepinside import models
    from deepinside.cli.model import read_labels
    from deepinside.engine.batch.archives import tar_items
    from deepinside.engine.batch.items import Item, refused
    from deepinside.engine.batch.lists import Columns
    from deepinside.engine.batch.manifest import Manifest, read_records
    from deepinside.engine.batch.parquet import parquet_items
    from deepinside.engine.batch.remote import is_url
    from deepinside.engine.batch.sources import Sources
    from deepinside.engine.contract import parse_contract
    from deepinside.engine.decode import ImageFile, load_picture
    from deepinside.engine.errors import EngineError
    from deepinside.engine.files import load_array, load_member
    from deepinside.engine.goals import Goal, find_goal
    from deepinside.engine.modelfile import external_files, read_header
    from deepinside.engine.record import parse_record
    from deepinside.engine.sizes import _numbers
    from deepinside.engine.state import AscentState, load_state, save_state
    from deepinside.engine.targets import plan_targets
    from deepinside.exporters import ExportError, export_saliency

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))
INPUT = FOLDER / "input.onnx"
METADATA = metadata(Recipe(), {"image": "pixels", "class_scores": "scores"})
CONTRACT = parse_contract(METADATA, where="f")


def in_file(read: Callable[[Path], Any]) -> Callable[[bytes], Any]:
    """Give a parser of files the bytes in one."""

    def call(data: bytes) -> Any:
        INPUT.write_bytes(data)
        return read(INPUT)

    return call


def decoded(data: bytes) -> Any:
    """JSON, or nothing that a parser of ours would see."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return {}


def record(data: bytes) -> None:
    content = decoded(data)
    parse_record({**RECORD, **(content if isinstance(content, dict) else {})}, where="f")


def contract(data: bytes) -> None:
    lines = data.decode(errors="replace").split("\n")
    pairs = dict(line.split("=", 1) for line in lines if "=" in line)
    parse_contract({**METADATA, **{f"deepinside.{k}": v for k, v in pairs.items()}}, where="f")


def header(path: Path) -> None:
    read_header(path)
    external_files(path)


def text(data: bytes) -> None:
    spec = data.decode(errors="replace")
    for call in (plan_targets, find_goal):
        with contextlib.suppress(EngineError):
            call(spec, CONTRACT)
    _numbers(spec)


def pictures(items: Iterable[Item]) -> None:
    """Decode what a list or an archive holds, as a job does, but for what the network has."""
    for item in items:
        if not is_url(item.name):
            with contextlib.suppress(EngineError):
                load_picture(ImageFile(item.name, item.open))


def listed(data: bytes) -> None:
    ending = ("txt", "csv", "tsv", "jsonl")[data[0] % 4] if data else "txt"
    path = FOLDER / f"list.{ending}"
    path.write_bytes(data[1:].replace(b"/", b"_").replace(b"..", b"__"))  # not all of the disk
    columns = Columns(target="target") if ending != "txt" else Columns()
    with Sources([f"@{path}"], FOLDER / "out", columns=columns) as sources:
        pictures(sources.items())


def tar(data: bytes) -> None:
    def source() -> io.BytesIO:
        return io.BytesIO(data)

    for by_place in (False, True):
        columns = Columns(target="cls")
        pictures(tar_items("a.tar", source, columns, shared=False, by_place=by_place))


def parquet(data: bytes) -> None:
    def opened(name: str, label: str) -> BinaryIO:
        return refused(label, "is not asked for.")()

    source = partial(io.BytesIO, data)
    for by_place in (False, True):
        columns = Columns(target="t")
        items = parquet_items("a.parquet", source, columns, opened, shared=False, by_place=by_place)
        pictures(items)


def manifest(data: bytes) -> None:
    path = FOLDER / "results" / "manifest.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    for _ in read_records(path):
        pass
    with Manifest(path.parent) as opened:
        opened.get("saliency", "a.png")
        opened.stem("a.png", "a")


def array(path: Path) -> None:
    for read in (load_array, partial(load_member, name="a")):
        with contextlib.suppress(OSError, ValueError):
            read(path)


TARGETS: dict[str, Callable[[bytes], Any]] = {
    "array": in_file(array),
    "contract": contract,
    "export": in_file(lambda path: export_saliency(path, FOLDER / "out.onnx")),
    "header": in_file(header),
    "labels": in_file(read_labels),
    "list": listed,
    "manifest": manifest,
    "parquet": parquet,
    "picture": in_file(load_picture),
    "record": record,
    "state": in_file(load_state),
    "tar": tar,
    "text": text,
}


def seeds(name: str) -> list[bytes]:
    """Valid inputs to begin with."""
    if name == "export":
        return [classifier().SerializeToString()]
    if name == "header":
        return [write(FOLDER / "seed.onnx").read_bytes()]
    if name == "state":
        parts = {"image": np.zeros((3, 2, 2), np.float32)}
        state = AscentState(Goal(((1, 1.0),)), 5, parts, (0,), (1.5,), (), {"seed": 0}, "ab")
        save_state(FOLDER / "seed.npz", state)
        return [(FOLDER / "seed.npz").read_bytes()]
    if name == "picture":
        found = []
        for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
            stream = io.BytesIO()
            Image.linear_gradient("L").resize((9, 7)).convert("RGB").save(stream, kind)
            found.append(stream.getvalue())
        return found
    if name in ("array", "tar", "parquet"):
        return [archive(name)]
    if name == "list":
        table = b"file,target\na.png,3\n%s,cat\n" % models.example("coffee").name.encode()
        lines = b'\3{"file": "a.png", "target": [1, "cat"]}\n'
        return [b"\0a.png\nb\0c", b"\1" + table, b"\2" + table.replace(b",", b"\t"), lines]
    if name == "manifest":
        line = {"task": "saliency", "input": "a.png", "status": "done", "stem": "a", "variant": ""}
        return [json.dumps({**line, "maps": [{"files": {"saliency": "a.npy"}}]}).encode() + b"\n"]
    if name in doors.TARGETS:
        return [b"", bytes(range(256)), b"\1" * 64]
    if name == "contract":
        return [f"{k.partition('.')[2]}={v}".encode() for k, v in METADATA.items()]
    return [json.dumps(RECORD).encode(), b"0.5*tiger cat + 1*2", b"480x640", b"top5", b"a\nb"]


def archive(kind: str) -> bytes:
    """A picture and its class in an archive or a table; for `array`, numbers in a .npz file."""
    stream, picture = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (3, 2)).save(picture, "PNG")
    if kind == "array":
        np.savez(stream, a=np.zeros((2, 3), np.float16))
    elif kind == "tar":
        with tarfile.open(fileobj=stream, mode="w") as opened:
            for name, content in (("a.png", picture.getvalue()), ("a.cls", b"3")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                opened.addfile(member, io.BytesIO(content))
    else:
        import pyarrow.parquet

        table = pyarrow.table({"image": [picture.getvalue(), None], "t": [3, 4]})
        pyarrow.parquet.write_table(table, stream)
    return stream.getvalue()


def main() -> None:
    name = sys.argv.pop(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    here = f"-artifact_prefix={Path.cwd()}/"
    (FOLDER / "pictures").mkdir()
    os.chdir(FOLDER / "pictures")
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    for number, content in enumerate(seeds(name)):
        (corpus / str(number)).write_bytes(content)

    with atheris.instrument_imports(include=PACKAGES):
        target = doors.target(name) if name in doors.TARGETS else TARGETS[name]

    def once(data: bytes) -> None:
        with contextlib.suppress(EngineError, ExportError, click.UsageError):
            target(data)

    atheris.Setup([sys.argv[0], here, *sys.argv[1:], str(corpus)], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
