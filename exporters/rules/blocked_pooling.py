"""MaxPool's gradient in ONNX Runtime's blocked layout, for files for CPUs.

The phases of the stride, as in pooling.py. There, they are cut out and put together as plain maps,
number by number. Here, a depthwise convolution whose kernels hold a single one takes or moves them:
it keeps the layout, and ONNX Runtime computes the sum and the step behind it in the same pass. The
phases of both axes stay apart to the end, where one Gather moves all channels of a place at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from deepinside.exporters.builder import Builder
from deepinside.exporters.lengths import number
from deepinside.exporters.registry import ForwardNode
from deepinside.exporters.rules.windows import Window

__all__ = ["can_undo_in_blocks", "undo_in_blocks"]


def can_undo_in_blocks(node: ForwardNode, moving: Sequence[Window], op: Builder) -> bool:
    """Whether `undo_in_blocks` is right for a MaxPool, and pays.

    It pads with zeros, which must not be taken for a maximum: either no window compares any (what
    is left goes to its last place without comparing), or Y <= 0 has no gradient.
    """
    if len(moving) != 2 or not op.can_block(node.shape(node.x), node.x):
        return False
    if not all(w.is_static and w.dilation == 1 and w.kernel >= w.stride for w in moving):
        return False
    return _is_rectified(node) or all(_compares_inside(w) for w in moving)


def _is_rectified(node: ForwardNode) -> bool:
    """Whether Y goes to ReLUs alone, which pass nothing where Y <= 0."""
    users = {user.op_type for user in node.y.consumers()}
    return users == {"Relu"} and node.relu != "deconvnet" and not node.y.is_graph_output()


def _compares_inside(w: Window) -> bool:
    """Whether all places of all windows but their last ones lie in the input."""
    return w.before == 0 and _places(w, w.kernel - 2)[-1] < number(w.size)


def undo_in_blocks(
    g: ir.Value, across: ir.Value, moving: Sequence[Window], node: ForwardNode, op: Builder
) -> ir.Value:
    """Cotangent of X for `Y = MaxPool(X)`, the first maximum in row-major order getting all.

    Args:
        g: cotangent of Y, `(N, C, H', W')`.
        across: X pooled along its rows only, `(N, C, H, W')`.
        moving: the windows along height and width.
        node: the MaxPool of X, `(N, C, H, W)`.
        op: builder.
    """
    rows, columns = moving
    whole = number(rows.size), number(columns.size)
    pooled = number(rows.count), number(columns.count)
    channels = node.size(node.x, 1)
    x = _Map(node.x, whole, channels, op)
    best = _Map(across, (whole[0], pooled[1]), channels, op)
    y = _Map(node.y, pooled, channels, op)
    received = _Map(op.blocked(g, node.shape(node.y)), pooled, channels, op)

    taken = [best.along(0, _places(rows, a), -1.0) for a in range(rows.kernel - 1)]
    pieces: dict[tuple[int, int], _Map] = {}
    for row, part in enumerate(_undo(received, y, taken, rows, 0)):
        lines = range(row, whole[0], rows.stride)
        line = best.along(0, lines)
        taken = [x.take(lines, _places(columns, a), -1.0) for a in range(columns.kernel - 1)]
        for column, piece in enumerate(_undo(part, line, taken, columns, 1)):
            pieces[row, column] = piece
    return _interleave(pieces, moving, op)


@dataclass(frozen=True)
class _Map:
    """A tensor `(N, channels, *sizes)`."""

    value: ir.Value
    sizes: tuple[int, int]
    channels: int
    op: Builder

    def along(self, axis: int, places: range, factor: float = 1.0) -> "_Map":
        """The values at places of one axis, see `take`."""
        rows, columns = (places if a == axis else range(size) for a, size in enumerate(self.sizes))
        return self.take(rows, columns, factor)

    def take(self, rows: range, columns: range, factor: float = 1.0) -> "_Map":
        """The values at rows and columns times a factor, 0 where the map has none."""
        if factor == 1.0 and (rows, columns) == tuple(map(range, self.sizes)):
            return self
        axes = [_reach(p, size) for p, size in zip((rows, columns), self.sizes, strict=True)]
        kernel, hot, before, after = zip(*axes, strict=True)
        weights = np.zeros((self.channels, 1, *kernel))
        weights[:, :, hot[0], hot[1]] = factor
        value = self.op.Conv(
            self.value,
            weights,
            group=self.channels,
            kernel_shape=list(kernel),
            strides=[rows.step, columns.step],
            dilations=[1, 1],
            pads=[*before, *after],
        )
        return _Map(value, (len(rows), len(columns)), self.channels, self.op)

    def plus(self, other: "_Map") -> "_Map":
        """The sum with a map of the same size, which a convolution takes in as its first."""
        value = self.op.Add(self.value, other.value)
        return _Map(value, self.sizes, self.channels, self.op)


def _reach(places: range, size: int) -> tuple[int, int, int, int]:
    """Size of the kernel that takes places of an axis, where its one is, and the padding."""
    hot, before = max(0, places.start), max(0, -places.start)
    kernel = 1 + hot + before
    after = (len(places) - 1) * places.step + kernel - before - size
    if after < 0:  # a window too many fits in
        kernel += -after // places.step * places.step
    return kernel, hot, before, max(0, after)


def _places(w: Window, a: int) -> range:
    """Where the place `a` of each window lies in the input."""
    start = a - number(w.before)
    return range(start, start + number(w.count) * w.stride, w.stride)


def _undo(g: _Map, y: _Map, taken: Sequence[_Map], w: Window, axis: int) -> list[_Map]:
    """The phases of the cotangent along an axis of which Y is the maxima.

    `taken` are the negative values at all places of the windows but their last one, which gets what
    the others have left.
    """
    op, rest = g.op, g
    shares: list[_Map] = []
    for negative in taken:
        apart = negative.plus(y).value  # 0 or more
        share = _Map(op.Mul(rest.value, op.vanishes(apart)), g.sizes, g.channels, op)
        shares.append(share)
        rest = share.along(axis, range(g.sizes[axis]), -1.0).plus(rest)
    phases: list[_Map] = []
    for phase in range(min(w.stride, number(w.size))):
        slots = len(range(phase, number(w.size), w.stride))
        total: _Map | None = None
        for a, share in enumerate([*shares, rest]):
            shift, found = divmod(a - number(w.before), w.stride)
            if found == phase:
                moved = share.along(axis, range(-shift, slots - shift))
                total = moved if total is None else moved.plus(total)
        assert total is not None
        phases.append(total)
    return phases


def _interleave(
    pieces: Mapping[tuple[int, int], _Map], moving: Sequence[Window], op: Builder
) -> ir.Value:
    """The map of which the pieces are the phases, by row and column."""
    if len(pieces) == 1:
        return pieces[0, 0].value
    (rows, columns), channels = moving, pieces[0, 0].channels
    place = np.empty((number(rows.size), number(columns.size)), np.int32)
    lists, count = [], 0
    for (row, column), piece in pieces.items():
        last = op.transpose(piece.value, 0, 2, 3, 1)
        lists.append(op.Reshape(last, [0, -1, channels]))
        own = np.arange(np.prod(piece.sizes)).reshape(piece.sizes)
        place[row :: rows.stride, column :: columns.stride] = count + own
        count += own.size
    order = op.constant(place.reshape(-1), ir.DataType.INT32)
    together = op.Gather(op.Concat(*lists, axis=1), order, axis=1)
    return op.transpose(op.Reshape(together, [0, *place.shape, channels]), 0, 3, 1, 2)
