"""Reads the few fields of an ONNX file that are needed before it is run, without any library.

An ONNX file is one protobuf message, `ModelProto`. Its metadata stands beside the graph, so the
graph is skipped by its length: a file of any size is read at once. Numbers of fields are those of
onnx.proto (IR version 3 and later).
"""

import hashlib
import mmap
from dataclasses import dataclass
from pathlib import Path

from deepinside.engine.errors import ModelFileError
from deepinside.engine.wire import MalformedError, fields

__all__ = ["ModelHeader", "content_sha256", "entry", "external_files", "not_a_model", "read_header"]

# Where tensors can stand: message -> field number -> message of that field.
_TREE = {
    "Model": {7: "Graph", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor",
        6: "Graph",
        10: "Tensor",
        11: "Graph",
        22: "SparseTensor",
        23: "SparseTensor",
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}


@dataclass(frozen=True)
class ModelHeader:
    """What stands beside the graph.

    Attributes:
        ir_version: of the ONNX format.
        producer: name of the program that wrote the file.
        opset: version of the default operator domain; 0 where none is imported.
        metadata: the `metadata_props`.
    """

    ir_version: int
    producer: str
    opset: int
    metadata: dict[str, str]


def read_header(path: Path) -> ModelHeader:
    """Read the header of an ONNX file.

    Raises:
        ModelFileError: no such file, or not an ONNX model.
    """
    ir_version, producer, opset, metadata, graph = 0, "", 0, {}, False
    try:
        with _mapped(path) as data:
            for number, value in fields(memoryview(data)):
                if number == 1 and isinstance(value, int):
                    ir_version = value
                elif number == 2 and not isinstance(value, int):
                    producer = str(value, "utf-8")
                elif number == 7:
                    graph = True
                elif number == 8 and not isinstance(value, int):
                    domain, version = _opset(value)
                    opset = version if domain in ("", "ai.onnx") else opset
                elif number == 14 and not isinstance(value, int):
                    key, text = entry(value)
                    metadata[key] = text
                del value  # a view on the mapped file keeps it from being closed
    except (IndexError, UnicodeDecodeError, MalformedError) as error:
        raise not_a_model(path) from error
    if not graph or not ir_version:
        raise not_a_model(path)
    return ModelHeader(ir_version, producer, opset, metadata)


def external_files(path: Path) -> tuple[Path, ...]:
    """The files beside `path` that hold its weights (ONNX "external data"), sorted.

    Raises:
        ModelFileError: no such file, or not an ONNX model.
    """
    locations: set[str] = set()
    try:
        with _mapped(path) as data:
            _collect_locations(memoryview(data), "Model", locations)
    except (IndexError, UnicodeDecodeError, MalformedError) as error:
        raise not_a_model(path) from error
    return tuple(sorted(path.parent / location for location in locations))


def content_sha256(path: Path) -> str:
    """SHA-256 (hex) of the file; with external data, of the digests of all its files.

    Raises:
        ModelFileError: a file is missing, or `path` is not an ONNX model.
    """
    parts = (path, *external_files(path))
    digests = []
    for part in parts:
        try:
            with part.open("rb") as stream:
                digests.append(hashlib.file_digest(stream, "sha256"))
        except OSError as error:
            raise ModelFileError(
                f"{path} keeps weights in {part.name}, which can't be read "
                f"({error.strerror}): put that file beside it."
            ) from error
    if len(digests) == 1:
        return digests[0].hexdigest()
    return hashlib.sha256(b"".join(digest.digest() for digest in digests)).hexdigest()


def not_a_model(path: Path) -> ModelFileError:
    """The error of a file whose bytes are no model."""
    return ModelFileError(f"{path} is not an ONNX model, or is cut short.")


class _mapped:  # noqa: N801  (used like a function)
    """The bytes of a file, mapped; an empty file or a missing one is an error."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> mmap.mmap:
        try:
            with self._path.open("rb") as stream:
                self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise ModelFileError(f"there is no model file {self._path}.") from None
        except ValueError:
            raise ModelFileError(f"{self._path} is empty, not an ONNX model.") from None
        except OSError as error:
            raise ModelFileError(f"{self._path} can't be read: {error.strerror}.") from error
        return self._map

    def __exit__(self, *_: object) -> None:
        # Not closed by hand: after an error, views on it may live on in the traceback.
        del self._map


def _collect_locations(data: memoryview, message: str, found: set[str]) -> None:
    for number, value in fields(data):
        inner = _TREE[message].get(number)
        if inner is None or isinstance(value, int):
            continue
        if inner == "Entry":
            key, text = entry(value)
            if key == "location":
                found.add(text)
        else:
            _collect_locations(value, inner, found)


def entry(data: memoryview) -> tuple[str, str]:
    """A `StringStringEntryProto`."""
    texts = {1: "", 2: ""}
    for number, value in fields(data):
        if not isinstance(value, int):
            texts[number] = str(value, "utf-8")
    return texts[1], texts[2]


def _opset(data: memoryview) -> tuple[str, int]:
    """An `OperatorSetIdProto`."""
    domain, version = "", 0
    for number, value in fields(data):
        if number == 1 and not isinstance(value, int):
            domain = str(value, "utf-8")
        elif number == 2 and isinstance(value, int):
            version = value
    return domain, version
