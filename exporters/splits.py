"""Writes slices that cut a tensor up as one Split.

A Slice's gradient is padded with zeros to the tensor's size, and the gradients of several slices
are added; a Split's is one Concat. Queries, keys and values are cut out of one tensor, and a
shifted window's two parts.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

__all__ = ["join_slices"]


@dataclass(frozen=True)
class _Piece:
    """A node that takes positions `start` to `end` of an axis; a Gather of one position drops it.

    Attributes:
        node: Slice or Gather.
        start, end: as in Python, not negative.
    """

    node: ir.Node
    start: int
    end: int


def join_slices(model: ir.Model) -> None:
    """Replace the slices of each tensor that cut up one of its axes, in place."""
    pieces: dict[tuple[ir.Value, int], list[_Piece]] = defaultdict(list)
    for node in model.graph:
        if not node.domain and node.op_type in ("Slice", "Gather"):
            found = _read(node)
            if found is not None:
                axis, piece = found
                assert node.inputs[0] is not None
                pieces[node.inputs[0], axis].append(piece)
    for (value, axis), parts in pieces.items():
        ordered = sorted(parts, key=lambda piece: piece.start)
        ends = [0, *(piece.end for piece in ordered)]
        if (
            len(parts) > 1
            and [p.start for p in ordered] == ends[:-1]
            and ends[-1] == _size(value, axis)
        ):
            _join(model, value, axis, ordered)


def _size(value: ir.Value, axis: int) -> int | None:
    """The size of an axis, if it is known and static."""
    size = None if value.shape is None else value.shape[axis]
    return size if isinstance(size, int) else None


def _read(node: ir.Node) -> tuple[int, _Piece] | None:
    """The axis and range of a node, if they are constant and the axis has a static size."""
    x = node.inputs[0]
    if x is None or x.shape is None:
        return None
    rank = x.shape.rank()
    numbers = [_numbers(value) for value in node.inputs[1:]]
    if any(array is None or array.size != 1 for array in numbers):
        return None
    given = [int(array.reshape(-1)[0]) for array in numbers if array is not None]
    if node.op_type == "Gather":
        attribute = node.attributes.get("axis")
        axis = (0 if attribute is None else attribute.as_int()) % rank
        size = _size(x, axis)
        if numbers[0] is None or numbers[0].ndim or size is None or not -size <= given[0] < size:
            return None
        return axis, _Piece(node, given[0] % size, given[0] % size + 1)
    if len(given) < 3 or (len(given) == 4 and given[3] != 1):
        return None
    axis = given[2] % rank
    size = _size(x, axis)
    if size is None:
        return None
    start, end, _ = slice(*given[:2]).indices(size)
    return (axis, _Piece(node, start, end)) if end > start else None


def _numbers(value: ir.Value | None) -> np.ndarray | None:
    tensor = None if value is None or value.is_graph_input() else value.const_value
    return None if tensor is None else tensor.numpy()


def _join(model: ir.Model, value: ir.Value, axis: int, pieces: list[_Piece]) -> None:
    """Put a Split in the place of the first node, and a Squeeze in that of each Gather."""
    graph = model.graph
    first = next(node for node in graph if any(node is piece.node for piece in pieces))

    def integers(numbers: list[int], name: str) -> ir.Value:
        tensor = ir.tensor(np.array(numbers, dtype=np.int64))
        constant = ir.node("Constant", [], {"value": tensor}, name=name)
        first.prepend(constant)
        constant.outputs[0].name = name
        return constant.outputs[0]

    name = f"{pieces[0].node.name}/Split"
    sizes = integers([piece.end - piece.start for piece in pieces], f"{name}/sizes")
    split = ir.node("Split", [value, sizes], {"axis": axis}, num_outputs=len(pieces), name=name)
    first.prepend(split)
    for index, (piece, part) in enumerate(zip(pieces, split.outputs, strict=True)):
        part.name, part.type = f"{name}:{index}", value.type
        old, new = piece.node.outputs[0], part
        if piece.node.op_type == "Gather":
            axes = integers([axis], f"{name}/{index}/axes")
            squeeze = ir.node("Squeeze", [part, axes], name=f"{name}/{index}/Squeeze")
            first.prepend(squeeze)
            new = squeeze.outputs[0]
            new.name = str(squeeze.name)
        ir.convenience.replace_nodes_and_values(graph, piece.node, [piece.node], [], [old], [new])
