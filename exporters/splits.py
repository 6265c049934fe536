"""Writes slices that cut a tensor up as one Split.

A Slice's gradient is padded with zeros to the tensor's size, and the gradients of several slices
are added; a Split's is one Concat. Queries, keys and values are cut out of one tensor, and so are
the two parts of a shifted window.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from deepinside.exporters.builder import Builder
from deepinside.exporters.shapes import static

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


def join_slices(op: Builder) -> None:
    """Replace the slices of each tensor that cut up one of its axes, in place."""
    pieces: dict[tuple[ir.Value, int], list[_Piece]] = defaultdict(list)
    for node in op.graph:
        found = _read(node, op)
        if found is not None:
            axis, piece = found
            assert node.inputs[0] is not None
            pieces[node.inputs[0], axis].append(piece)
    for (x, axis), parts in pieces.items():
        ordered = sorted(parts, key=lambda piece: piece.start)
        ends = [piece.end for piece in ordered]
        starts = [piece.start for piece in ordered]
        if len(parts) > 1 and starts == [0, *ends[:-1]] and ends[-1] == _size(x, axis, op):
            _join(axis, ordered, op)
    op.scope = "deepinside"
    op.graph.sort()


def _size(x: ir.Value, axis: int, op: Builder) -> int | None:
    """The size of an axis, if it is known and static."""
    shape = op.shapes.known(x)
    return None if shape is None else static(shape[axis])


def _read(node: ir.Node, op: Builder) -> tuple[int, _Piece] | None:
    """The axis and range of a node, if they are constant and the axis has a static size."""
    if node.domain or node.op_type not in ("Slice", "Gather"):
        return None
    x = node.inputs[0]
    shape = None if x is None else op.shapes.known(x)
    constants = [op.shapes.constant(value) for value in node.inputs[1:]]
    if x is None or shape is None or any(c is None or c.size != 1 for c in constants):
        return None
    numbers = [int(np.reshape(c, -1)[0]) for c in constants if c is not None]
    if node.op_type == "Gather":
        attribute = node.attributes.get("axis")
        axis = (0 if attribute is None else attribute.as_int()) % len(shape)
        size = _size(x, axis, op)
        if (
            constants[0] is None
            or constants[0].ndim
            or size is None
            or not -size <= numbers[0] < size
        ):
            return None
        return axis, _Piece(node, numbers[0] % size, numbers[0] % size + 1)
    if len(numbers) < 3 or numbers[3:] not in ([], [1]):
        return None
    axis = numbers[2] % len(shape)
    size = _size(x, axis, op)
    if size is None:
        return None
    start, end, _ = slice(*numbers[:2]).indices(size)
    return (axis, _Piece(node, start, end)) if end > start else None


def _join(axis: int, pieces: list[_Piece], op: Builder) -> None:
    """Put a Split in the place of the nodes, and a Squeeze in that of each Gather."""
    x = pieces[0].node.inputs[0]  # now: what it was may have been replaced by another Split
    op.scope = str(pieces[0].node.name)
    sizes = [piece.end - piece.start for piece in pieces]
    parts = op.emit("Split", x, sizes, axis=axis, outputs=len(pieces))
    for piece, part in zip(pieces, parts, strict=True):
        old = piece.node.outputs[0]
        new = part if piece.node.op_type == "Slice" else op.Squeeze(part, [axis])
        shape = op.shapes.known(old)
        assert shape is not None
        if new is not part:
            op.shapes.record(part, (*shape[:axis], op.shapes.dim(1), *shape[axis:]))
        op.replace(piece.node, new)
