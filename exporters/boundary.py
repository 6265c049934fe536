"""What a model file has to fulfil before a library works on its graph, and what it breaks.

Files come from strangers: every tensor has to be as large as it says, and weights in other files
have to lie in the model's own folder. What ONNX's checker would refuse is not refused beforehand,
since runtimes take much of that; it explains why a classifier can't be worked on. docs/security.md.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import onnx
import onnx_ir as ir

from deepinside.exporters.errors import ClassifierError, innermost

__all__ = [
    "explains_broken",
    "require_bounded",
    "require_embedded",
    "require_whole",
    "settle_external",
]

_P = ParamSpec("_P")
_R = TypeVar("_R")

# Where a tensor's numbers stand where they are not raw bytes.
_FIELDS = ("float_data", "double_data", "int32_data", "int64_data", "uint64_data", "string_data")


_TYPES = {int(dtype) for dtype in ir.DataType} - {int(ir.DataType.UNDEFINED)}

# Bounds of a model's functions. The largest classifiers have some ten thousand nodes.
_DEEPEST = 50
_MOST_NODES = 1_000_000

# What code that takes a graph for a valid one raises on others.
_STUMBLES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
)


def explains_broken(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate what takes a classifier: where it stumbles over a broken one, say so.

    Errors with a classifier that ONNX's checker accepts are bugs, and stay as they are. The
    decorated function raises a ClassifierError where the checker refuses the classifier.
    """

    @functools.wraps(function)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except _STUMBLES as error:
            reason = _refusal(args[0] if args else kwargs.get("classifier"))
            if reason is None:
                raise
            raise ClassifierError(reason) from error

    return wrapped


def _refusal(classifier: Any) -> str | None:
    """Why ONNX's checker refuses a classifier; None where it does not, or can't look at it."""
    is_path = isinstance(classifier, (str, Path)) and Path(classifier).is_file()
    if not is_path and not isinstance(classifier, onnx.ModelProto):
        return None
    try:
        onnx.checker.check_model(str(classifier) if is_path else classifier, full_check=True)
    except _STUMBLES as error:
        name = classifier if is_path else "the model"
        return f"{name} is not a valid ONNX model: {innermost(error)}"
    return None


def require_whole(proto: onnx.ModelProto, name: str) -> None:
    """Check that every tensor of a model has the numbers that its shape asks for.

    Args:
        proto: the model.
        name: of the model, for messages.

    Raises:
        ClassifierError: one has not.
    """
    for tensor in _tensors(proto):
        problem = _problem(tensor)
        if problem is not None:
            raise ClassifierError(
                f"{name} is broken: its tensor {tensor.name!r} of shape {list(tensor.dims)} "
                f"{problem}."
            )


def require_bounded(proto: onnx.ModelProto, name: str) -> None:
    """Check that a model's functions, written out, give a graph that can be worked on.

    Ten functions that call each other ten times each are a small file and ten thousand million
    nodes.

    Raises:
        ClassifierError: they call themselves, are nested too deep, or give too many nodes.
    """
    functions = {(function.domain, function.name): function for function in proto.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(nodes: Iterable[onnx.NodeProto], depth: int) -> int:
        if depth > _DEEPEST:
            raise ClassifierError(
                f"{name} has functions that call themselves, or more than {_DEEPEST} deep."
            )
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            if key in functions and key not in sizes:
                sizes[key] = size(_nodes(functions[key].node), depth + 1)
            total += sizes.get(key, 1)
        return total

    if functions and size(_nodes(proto.graph.node), 0) > _MOST_NODES:
        raise ClassifierError(
            f"{name} has functions that, written out, are more than {_MOST_NODES} nodes."
        )


def require_embedded(proto: onnx.ModelProto) -> None:
    """Check that a model without a path has all its weights in itself.

    Raises:
        ClassifierError: some are in files, and nothing says in which folder.
    """
    for tensor in _tensors(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ClassifierError(
                f"the model keeps the weights {tensor.name!r} in another file: give the path of "
                "the model instead, or load it with its external data."
            )


def settle_external(proto: onnx.ModelProto, path: Path) -> list[Path]:
    """Find the files that hold a model's weights, and write their full paths into the model.

    A link may lead out of the folder only where the model's own file is such a link, and then only
    into the folder where that file really is: so caches of downloads are laid out.

    Args:
        proto: the model; the places of its external data are changed.
        path: of its file.

    Returns:
        The data files, sorted by their places as the model names them.

    Raises:
        ClassifierError: one is missing, too short, or outside the model's own folder.
    """
    folders = [path.parent.resolve(), path.resolve().parent]
    found: dict[Path, Path] = {}
    for tensor in _tensors(proto):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry for entry in tensor.external_data}
        place = entries["location"].value if "location" in entries else ""
        where = f"{path} keeps the weights {tensor.name!r}"
        relative = Path(place)
        if not place or "\0" in place:
            raise ClassifierError(f"{where} in a file without a name ({place!r}).")
        target = (folders[0] / relative).resolve()
        outside = relative.is_absolute() or ".." in relative.parts
        if outside or not any(target.is_relative_to(folder) for folder in folders):
            raise ClassifierError(f"{where} outside its own folder ({place!r}), which is refused.")
        if not target.is_file():
            raise ClassifierError(
                f"{where} in {place!r}, which is missing: put that file beside it."
            )
        _require_length(tensor, target.stat().st_size, f"{where} in {place!r}")
        entries["location"].value = str(target)
        found[relative] = target
    return [found[relative] for relative in sorted(found)]


def _require_length(tensor: onnx.TensorProto, available: int, where: str) -> None:
    """Check that a data file holds all of a tensor."""
    texts = {entry.key: entry.value for entry in tensor.external_data}
    needed = _bytes(tensor)
    offset, length = (texts.get(key, default) for key, default in (("offset", "0"), ("length", "")))
    plain = _is_count(offset) and (not length or _is_count(length))
    if not plain or needed is None or (length and int(length) != needed):
        raise ClassifierError(
            f"{where} at offset {offset!r} with length {length!r}, which does not fit its shape "
            f"{list(tensor.dims)}."
        )
    if int(offset) + needed > available:
        raise ClassifierError(
            f"{where}, which is cut off: it has {available} bytes and needs {int(offset) + needed}."
        )


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 20


def _problem(tensor: onnx.TensorProto) -> str | None:
    """What is wrong with a tensor, in words."""
    if tensor.data_type not in _TYPES:
        return f"is of an unknown type ({tensor.data_type})"
    if any(size < 0 for size in tensor.dims):
        return "has a negative size"
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return None  # the length of its file is checked
    if tensor.HasField("raw_data"):
        found, needed = len(tensor.raw_data), _bytes(tensor)
        return None if found == needed else f"has {found} bytes instead of {needed or 'texts'}"
    found = max(len(getattr(tensor, field)) for field in _FIELDS)
    wanted = _elements(tensor)
    return None if found == wanted else f"has {found} numbers instead of {wanted}"


def _bytes(tensor: onnx.TensorProto) -> int | None:
    """Length as raw bytes; None for texts, which have none."""
    if tensor.data_type == ir.DataType.STRING:
        return None
    bits = int(math.prod(tensor.dims)) * int(ir.DataType(tensor.data_type).bitwidth)
    return -(-bits // 8)


def _elements(tensor: onnx.TensorProto) -> int:
    """Entries in the fields for single numbers."""
    count = int(math.prod(tensor.dims))
    dtype = ir.DataType(tensor.data_type)
    if dtype in (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128):
        return 2 * count
    bits = 8 if dtype == ir.DataType.STRING else int(dtype.bitwidth)
    return count if bits >= 8 or bits == 6 else -(-count * bits // 8)


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor: weights, and the constants of nodes, of inner graphs and of functions."""
    yield from _of_graph(proto.graph)
    nodes = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    defaults = (each for function in proto.functions for each in function.attribute_proto)
    for attribute in (*defaults, *(each for node in _nodes(nodes) for each in node.attribute)):
        yield from attribute.tensors
        if attribute.HasField("t"):
            yield attribute.t
        yield from _of_sparse(attribute.sparse_tensors)
        if attribute.HasField("sparse_tensor"):
            yield from _of_sparse([attribute.sparse_tensor])
        for graph in _graphs(attribute):
            yield from _of_graph(graph)


def _nodes(outer: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes and those of the graphs inside them, at any depth."""
    waiting = [*outer]
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            for graph in _graphs(attribute):
                waiting.extend(graph.node)


def _graphs(attribute: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    yield from attribute.graphs
    if attribute.HasField("g"):
        yield attribute.g


def _of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    yield from _of_sparse(graph.sparse_initializer)


def _of_sparse(tensors: Iterable[onnx.SparseTensorProto]) -> Iterator[onnx.TensorProto]:
    for tensor in tensors:
        yield tensor.values
        yield tensor.indices
