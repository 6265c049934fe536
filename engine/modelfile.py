"""Reads the few fields of an ONNX file that are needed before it is run, without any library.

An ONNX file is one protobuf message, `ModelProto`. Its metadata stands beside the graph, so the
graph is skipped by its length: a file of any size is read at once. Numbers of fields are those of
onnx.proto (IR version 3 and later).
"""

import hashlib
import mmap
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from deepinside.engine.errors import ModelFileError
from deepinside.engine.wire import MalformedError, fields

__all__ = [
    "ModelHeader",
    "content_sha256",
    "entry",
    "external_files",
    "not_a_model",
    "operators",
    "read_header",
    "require_weights",
]

# Of messages in messages; protobuf's own libraries stop there too.
_DEEPEST = 100

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


def operators(path: Path) -> Counter[str]:
    """How often each operator stands in the outermost graph.

    Raises:
        ModelFileError: no such file, or not an ONNX model.
    """
    counts: Counter[str] = Counter()
    try:
        with _mapped(path) as data:
            for number, graph in fields(memoryview(data)):
                if number != 7 or isinstance(graph, int):
                    continue
                for kind, node in fields(graph):
                    if kind == 1 and not isinstance(node, int):
                        counts.update(
                            str(value, "utf-8")
                            for field, value in fields(node)
                            if field == 4 and not isinstance(value, int)
                        )
    except (IndexError, UnicodeDecodeError, MalformedError) as error:
        raise not_a_model(path) from error
    return counts


def external_files(path: Path) -> tuple[Path, ...]:
    """The files beside `path` that hold its weights (ONNX "external data"), sorted.

    None of them is opened. A link may lead out of the folder only where `path` is a link itself,
    and then only into the folder where its file really is: so caches of downloads are laid out.

    Raises:
        ModelFileError: no such file, not an ONNX model, or weights outside the model's own folder.
    """
    locations: set[str] = set()
    try:
        with _mapped(path) as data:
            _collect_locations(memoryview(data), "Model", locations)
    except (IndexError, UnicodeDecodeError, MalformedError) as error:
        raise not_a_model(path) from error
    folders = [path.parent.resolve(), path.resolve().parent]
    for location in locations:
        place = Path(location)
        inside = bool(location) and "\0" not in location and not place.is_absolute()
        inside = inside and ".." not in place.parts
        if inside:
            target = (folders[0] / place).resolve()
            inside = any(target.is_relative_to(folder) for folder in folders)
        if not inside:
            raise ModelFileError(
                f"{path} keeps weights outside its own folder ({location!r}), which is refused."
            )
    return tuple(sorted(path.parent / location for location in locations))


def require_weights(path: Path) -> tuple[Path, ...]:
    """The files of `external_files`, all of which are there.

    Raises:
        ModelFileError: as of `external_files`, or one is missing.
    """
    files = external_files(path)
    for file in files:
        if not file.is_file():
            raise ModelFileError(
                f"{path} keeps weights in {file.name}, which is missing: put that file beside it."
            )
    return files


def content_sha256(path: Path) -> str:
    """SHA-256 (hex) of the file; with external data, of the digests of all its files.

    Raises:
        ModelFileError: a file is missing or outside the model's own folder, or `path` is not an
            ONNX model.
    """
    digests = []
    for part in (path, *require_weights(path)):
        try:
            with part.open("rb") as stream:
                digests.append(hashlib.file_digest(stream, "sha256"))
        except OSError as error:
            raise ModelFileError(f"{part} can't be read: {error.strerror}.") from error
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
            if self._path.exists() and not self._path.is_file():  # a pipe may never end
                raise ModelFileError(f"{self._path} can't be read: it is not a file.")
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


def _collect_locations(data: memoryview, message: str, found: set[str], depth: int = 0) -> None:
    if depth > _DEEPEST:
        raise MalformedError
    for number, value in fields(data):
        inner = _TREE[message].get(number)
        if inner is None or isinstance(value, int):
            continue
        if inner == "Entry":
            key, text = entry(value)
            if key == "location":
                found.add(text)
        else:
            _collect_locations(value, inner, found, depth + 1)


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
