"""Parsers of outside input, on what hypothesis thinks of: a valid result or our own error."""

import contextlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from engine_fixtures import RECORD, Recipe, metadata, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepinside.cli.model import read_record
from deepinside.cli.progress import echo_json, printable
from deepinside.engine.batch.archives import tar_items
from deepinside.engine.batch.lists import Columns, read_list
from deepinside.engine.batch.names import plain_stem
from deepinside.engine.contract import parse_contract
from deepinside.engine.decode import load_picture
from deepinside.engine.errors import EngineError
from deepinside.engine.files import parse_array
from deepinside.engine.modelfile import external_files, read_header
from deepinside.engine.record import parse_record
from deepinside.engine.state import load_state
from deepinside.exporters import ExportError
from deepinside.exporters.contract import check_record

fast = settings(
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)
NAMES = {"image": "pixels", "class_scores": "scores", "target": "target"}
METADATA = metadata(Recipe(), NAMES)
CONTRACT = parse_contract(METADATA, where="f.onnx")


def ours(call: Callable[[], Any], *errors: type[Exception]) -> None:
    """A result, or one of our errors; any other exception fails the test."""
    with contextlib.suppress(*errors):
        call()


@fast
@given(st.dictionaries(st.sampled_from(sorted(RECORD)), JSON, max_size=3))
def test_records(changes: dict[str, Any]) -> None:
    record = {**RECORD, **changes}
    ours(lambda: parse_record(record, where="f.onnx"), EngineError)
    ours(lambda: check_record(record), ExportError)


@fast
@given(JSON)
def test_records_of_any_shape(content: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "r.json"
        file.write_text(json.dumps(content))
        ours(lambda: read_record(file), click.UsageError)


@fast
@given(st.text() | st.binary(max_size=300).map(lambda b: b.decode(errors="surrogateescape")))
def test_stems_are_safe_names(name: str) -> None:
    stem = plain_stem(name)
    assert len(stem.encode()) <= 140
    assert not set(stem) & set('/\\:*?"<>|\0\n')


@fast
@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_printable_text_steers_no_terminal(text: str) -> None:
    assert printable(text).isprintable()
    printable(text).encode()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(tmp_path_factory.mktemp("seed") / "s.onnx").read_bytes()


def spoiled(content: bytes, changes: list[tuple[int, bytes]]) -> bytes:
    spoilt = bytearray(content)
    for place, new in changes:
        at = place % len(spoilt)
        spoilt[at : at + len(new)] = new
    return bytes(spoilt)


CHANGES = st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(max_size=4)), max_size=4)


@fast
@given(changes=CHANGES, end=st.integers(0, 1 << 20))
def test_model_files(model: bytes, changes: list[tuple[int, bytes]], end: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "m.onnx"
        file.write_bytes(spoiled(model, changes)[: end % (2 * len(model))])
        ours(lambda: parse_contract(read_header(file).metadata, where="m"), EngineError)
        ours(lambda: external_files(file), EngineError)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """A state file and a picture."""
    from PIL import Image

    from deepinside.engine.goals import Goal
    from deepinside.engine.state import AscentState, save_state

    folder = tmp_path_factory.mktemp("seeds")
    parts = {"image": np.zeros((3, 2, 2), np.float32)}
    goal = Goal(((1, 1.0),))
    save_state(folder / "s.npz", AscentState(goal, 5, parts, (0,), (1.5,), (), {"seed": 0}, "ab"))
    Image.linear_gradient("L").resize((9, 7)).convert("RGB").save(folder / "p.png")
    return (folder / "s.npz").read_bytes(), (folder / "p.png").read_bytes()


@fast
@given(changes=CHANGES)
def test_states_and_pictures(seeds: tuple[bytes, bytes], changes: list[tuple[int, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for content, read in zip(seeds, (load_state, load_picture), strict=True):
            file = Path(folder) / "x"
            file.write_bytes(spoiled(content, changes))
            ours(lambda file=file, read=read: read(file), EngineError)  # type: ignore[misc]


ROWS = st.lists(
    st.dictionaries(st.sampled_from(["file", "target", "x"]), JSON, max_size=3).map(json.dumps)
    | st.text(st.characters(exclude_characters="/.~"), max_size=12),
    max_size=4,
)


@fast
@given(rows=ROWS, ending=st.sampled_from(["txt", "csv", "tsv", "jsonl"]), targets=st.booleans())
def test_lists(rows: list[str], ending: str, targets: bool) -> None:
    content = "\n".join(rows).encode(errors="surrogatepass")
    columns = Columns(target="target") if targets else Columns()

    def read() -> None:
        for row in read_list(io.BytesIO(content), f"a.{ending}", columns):
            os.fsencode(row.name)

    ours(read, EngineError)


@fast
@given(changes=CHANGES, end=st.integers(0, 1 << 20))
def test_arrays(changes: list[tuple[int, bytes]], end: int) -> None:
    stream = io.BytesIO()
    np.save(stream, np.arange(6.0).reshape(2, 3))
    content = spoiled(stream.getvalue(), changes)
    ours(lambda: parse_array(content[: end % (2 * len(content))]), ValueError)


@fast
@given(changes=CHANGES, end=st.integers(0, 1 << 20))
def test_archives(changes: list[tuple[int, bytes]], end: int) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as opened:
        for name, data in (("a.png", b"x"), ("a.json", b'{"t": 3}')):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            opened.addfile(member, io.BytesIO(data))
    content = spoiled(stream.getvalue(), changes)[: end % (2 * len(stream.getvalue()))]
    items = tar_items("a", lambda: io.BytesIO(content), Columns(target="t"), shared=False)
    for item in items:
        ours(lambda item=item: item.open().close(), EngineError)  # type: ignore[misc]


@fast
@given(JSON)
def test_json_lines_say_what_they_were_given(content: Any) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as stream:
        echo_json(content)
    assert stream.getvalue().removesuffix("\n").isprintable()
    assert json.dumps(json.loads(stream.getvalue())) == json.dumps(content)


def test_a_state_with_a_pickle_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", facts=np.array([{"a": 1}], dtype=object))
    with pytest.raises(EngineError, match="holds no state"):
        load_state(tmp_path / "s.npz")
