"""An exported file in memory: its weights can be changed and nodes left out, without a library.

Weights are arrays over the file's own bytes: writing into them changes the model, and lengths and
all else stay as they are. (ONNX Runtime's `add_initializer` can't be used for this: weights that
its optimiser has folded or laid out anew keep the file's values, without a word.) Numbers of
fields are those of onnx.proto.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.errors import ModelFileError
from deepinside.engine.files import replacing
from deepinside.engine.modelfile import entry, external_files, not_a_model
from deepinside.engine.wire import MalformedError, fields, numbers, packed

__all__ = ["GraphFile", "GraphNode", "load_graph"]

_MODEL_GRAPH = 7
_NODE, _INITIALIZER, _INPUT, _OUTPUT, _VALUE = 1, 5, 11, 12, 13  # of a GraphProto
# Where a TensorProto of a data type keeps its numbers, beside raw_data.
_FLOATS: Mapping[int, tuple[type[np.floating], int | None]] = {
    1: (np.float32, 4),
    10: (np.float16, None),
    11: (np.float64, 10),
}
_RAW_DATA = 9


@dataclass(frozen=True)
class GraphNode:
    """One node of the graph.

    Attributes:
        name: of the node; its first output's where it has none.
        operator: its type, such as `Conv`.
        inputs: names of the tensors that it reads, those of its bodies included.
        outputs: names of the tensors that it makes.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class GraphFile:
    """A file in memory.

    Attributes:
        path: where it was read from.
        nodes: of the main graph, in the order of computation.
        weights: floating-point initializers by name; what is written into them is saved.
    """

    path: Path
    nodes: tuple[GraphNode, ...]
    weights: Mapping[str, NDArray[np.floating]]
    _data: bytearray
    _external: Mapping[str, bytearray]

    def ancestors(self, tensors: Sequence[str]) -> tuple[GraphNode, ...]:
        """The nodes that some tensors are computed by, in the order of computation."""
        wanted, found = set(tensors), []
        for node in reversed(self.nodes):
            if not wanted.isdisjoint(node.outputs):
                wanted.update(node.inputs)
                found.append(node)
        return tuple(reversed(found))

    def save(self, path: Path, outputs: Sequence[str] | None = None) -> Path:
        """Write the file, and the files beside it that hold its weights.

        Args:
            path: of the new file; in a folder of its own where there are files of weights.
            outputs: of these only, without the nodes that they do not need; None for all.

        Raises:
            OutputError: it can't be written.
        """
        with replacing(path) as stream:
            if outputs is None:
                stream.write(self._data)
            else:
                for number, value in fields(memoryview(self._data)):
                    if number == _MODEL_GRAPH and not isinstance(value, int):
                        stream.write(packed(number, b"".join(self._pruned(value, outputs))))
                    else:
                        stream.write(packed(number, value))
        for location, content in self._external.items():
            with replacing(path.parent / location) as stream:
                stream.write(content)
        return path

    def _pruned(self, graph: memoryview, outputs: Sequence[str]) -> Iterator[bytes]:
        """The fields of the graph that some outputs need."""
        nodes = self.ancestors(outputs)
        kept = {name for node in nodes for name in (*node.inputs, *node.outputs)} | set(outputs)
        inputs = {_text(value, 1) for number, value in fields(graph) if number == _INPUT}
        made = {node.outputs for node in nodes}
        for number, value in fields(graph):
            if (
                (number == _NODE and _node(value).outputs not in made)
                or (number == _INITIALIZER and _text(value, 8) not in kept | inputs)
                or (number == _OUTPUT and _text(value, 1) not in outputs)
                or (number == _VALUE and _text(value, 1) not in kept)
            ):
                continue
            yield packed(number, value)


def load_graph(path: Path) -> GraphFile:
    """Read a file with all its weights.

    Raises:
        ModelFileError: it is missing or broken.
    """
    external = {
        str(part.relative_to(path.parent)): bytearray(_read(part)) for part in external_files(path)
    }
    data = bytearray(_read(path))
    nodes: list[GraphNode] = []
    weights: dict[str, NDArray[np.floating]] = {}
    try:
        for number, value in fields(memoryview(data)):
            if number != _MODEL_GRAPH or isinstance(value, int):
                continue
            for part, content in fields(value):
                if part == _NODE:
                    nodes.append(_node(content))
                elif part == _INITIALIZER:
                    tensor = _floats(content, external)
                    if tensor is not None:
                        weights[_text(content, 8)] = tensor
    except (IndexError, UnicodeDecodeError, ValueError) as error:
        raise not_a_model(path) from error
    return GraphFile(path, tuple(nodes), weights, data, external)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path} can't be read: {error.strerror}.") from error


def _text(message: int | memoryview, wanted: int) -> str:
    """A field of text of a message; empty where it has none."""
    for number, value in fields(_message(message)):
        if number == wanted and not isinstance(value, int):
            return str(value, "utf-8")
    return ""


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise MalformedError
    return value


def _node(message: int | memoryview) -> GraphNode:
    inputs: list[str] = []
    outputs: list[str] = []
    name = operator = ""
    for number, value in fields(_message(message)):
        if isinstance(value, int):
            continue
        if number == 1:
            inputs.append(str(value, "utf-8"))
        elif number == 2:
            outputs.append(str(value, "utf-8"))
        elif number == 3:
            name = str(value, "utf-8")
        elif number == 4:
            operator = str(value, "utf-8")
        elif number == 5:
            inputs.extend(_captured(value))
    return GraphNode(name or outputs[0], operator, tuple(filter(None, inputs)), tuple(outputs))


def _captured(attribute: memoryview) -> Iterator[str]:
    """What the nodes of a body read, from the body itself or from around it."""
    for number, value in fields(attribute):
        if number in (6, 11) and not isinstance(value, int):  # a graph, graphs
            for part, content in fields(value):
                if part == _NODE:
                    yield from _node(content).inputs
                elif part == _OUTPUT:
                    yield _text(content, 1)


def _floats(
    message: int | memoryview, external: Mapping[str, bytearray]
) -> NDArray[np.floating] | None:
    """A TensorProto's numbers, writable in place; None where they are not floating-point."""
    dims: list[int] = []
    kind, outside = 0, False
    content: dict[int, memoryview] = {}
    place: dict[str, str] = {}
    for number, value in fields(_message(message)):
        if number == 1:
            dims.extend(numbers(value))
        elif isinstance(value, int):
            kind = value if number == 2 else kind
            outside = outside or (number == 14 and value == 1)
        elif number == 13:
            place.update([entry(value)])
        else:
            content[number] = value
    if kind not in _FLOATS:
        return None
    dtype, field = _FLOATS[kind]
    stored = content.get(_RAW_DATA) or (content.get(field) if field is not None else None)
    if outside:
        start = int(place.get("offset", 0))
        length = int(np.prod(dims, dtype=np.int64)) * np.dtype(dtype).itemsize
        stored = memoryview(external[place["location"]])[start : start + length]
    if stored is None:
        return None
    return np.frombuffer(stored, np.dtype(dtype).newbyteorder("<")).reshape(dims)
