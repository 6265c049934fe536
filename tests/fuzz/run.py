"""Fuzzes the parsers of outside input with atheris, guided by coverage; not part of the test suite.

    pip install atheris
    python tests/fuzz/run.py header -max_total_time=300

The first word is one of TARGETS, the rest are libFuzzer's options. An exception other than our own
stops the run and leaves the input in `crash-...`; the number of cases is in libFuzzer's last line.
"""

import contextlib
import io
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))

with atheris.instrument_imports(include=["deepinside", "PIL", "zipfile"]):
    import click
    import numpy as np
    from classifiers import classifier
    from engine_fixtures import RECORD, Recipe, metadata, write
    from PIL import Image

    from deepinside.cli.model import read_labels
    from deepinside.engine.contract import parse_contract
    from deepinside.engine.decode import load_picture
    from deepinside.engine.errors import EngineError
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


TARGETS: dict[str, Callable[[bytes], Any]] = {
    "contract": contract,
    "export": in_file(lambda path: export_saliency(path, FOLDER / "out.onnx")),
    "header": in_file(header),
    "labels": in_file(read_labels),
    "picture": in_file(load_picture),
    "record": record,
    "state": in_file(load_state),
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
    if name == "contract":
        return [f"{k.partition('.')[2]}={v}".encode() for k, v in METADATA.items()]
    return [json.dumps(RECORD).encode(), b"0.5*tiger cat + 1*2", b"480x640", b"top5", b"a\nb"]


def main() -> None:
    name = sys.argv.pop(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    for number, content in enumerate(seeds(name)):
        (corpus / str(number)).write_bytes(content)

    def once(data: bytes) -> None:
        with contextlib.suppress(EngineError, ExportError, click.UsageError):
            TARGETS[name](data)

    atheris.Setup([*sys.argv, str(corpus)], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
