"""Undoes Slice and Pad along an axis whose size, or where to cut, is known at run time only."""

import onnx_ir as ir

from deepinside.exporters.builder import Builder
from deepinside.exporters.lengths import Length, Size, largest, smallest, vector

__all__ = ["entry", "place_slice", "reverse", "unpad_edge", "unpad_reflection"]

_TO_END = (1 << 31) - 1
_INT64 = ir.DataType.INT64


def entry(numbers: ir.Value, index: int, op: Builder) -> Length:
    """One number of a tensor of sizes or places that is computed at run time."""
    number = op.Gather(numbers, [index], axis=0)
    return Length(op, number if number.dtype == _INT64 else op.Cast(number, to=_INT64))


def place_slice(
    g: ir.Value,
    start: Size,
    end: Size,
    step: int,
    axis: int,
    size: Size,
    count: Size,
    rank: int,
    op: Builder,
) -> ir.Value:
    """G where `x[start:end:step]` took it from, zeros elsewhere.

    Args:
        g: cotangent of the slice, `count` long in the axis.
        start: as the node has it, negative and out of bounds too.
        end: likewise.
        step: likewise.
        axis: that was sliced.
        size: of x.
        count: of the slice.
        rank: number of axes.
        op: builder.
    """
    if start == 0 and step == 1 and isinstance(end, int) and end >= _TO_END:
        return g  # nothing was cut, whatever the size
    first = _from_front(start, size)
    if step < 0:
        first = smallest(first, size + -1)
        g = reverse(g, axis, count, op)
        first = first + (count - 1) * step
    stride = abs(step)
    if stride > 1:
        count = (count - 1) * stride + 1
        g = op.slice(_stretch(g, axis, stride, rank, op), axis, 0, count)
    return op.pad(g, axis, first, size - first - count, rank)


def reverse(g: ir.Value, axis: int, size: Size, op: Builder) -> ir.Value:
    """G in reverse order along an axis, without a negative step, which some browsers get wrong."""
    if isinstance(size, int):
        return op.Gather(g, list(range(size))[::-1], axis=axis)
    # Not Range(last, -1, -1): ONNX Runtime makes Gather of that a Slice that ends at -1, the last.
    forwards = op.Range(0, op.Squeeze(vector([size]), [0]), 1)
    return op.Gather(g, op.Sub(vector([size + -1]), forwards), axis=axis)


def _from_front(start: Size, size: Size) -> Size:
    """A start counted from the front and within bounds."""
    if isinstance(start, int):
        if start == 0:
            return 0
        return smallest(start, size) if start > 0 else largest(size + start, 0)
    op = start.op
    given = start.tensor
    negative = op.Cast(op.Less(given, [0]), to=_INT64)
    turned = op.Add(given, op.Mul(negative, vector([size])))
    return largest(smallest(Length(op, turned), size), 0)


def _stretch(g: ir.Value, axis: int, stride: int, rank: int, op: Builder) -> ir.Value:
    """`stride - 1` zeros after each position of an axis."""
    wide = op.pad(op.Unsqueeze(g, [axis + 1]), axis + 1, 0, stride - 1, rank + 1)
    after = [op.length(g, a) for a in range(axis + 1, rank)]
    return op.reshape(wide, [0] * axis + [-1, *after])


def unpad_reflection(
    g: ir.Value, before: int, after: int, axis: int, size: Size, rank: int, op: Builder
) -> ir.Value:
    """The middle of g, with both reflected ends added where they came from."""
    dx = op.slice(g, axis, before, before + size)
    if before:  # positions before..1 of x
        turned = reverse(op.slice(g, axis, 0, before), axis, before, op)
        dx = op.Add(dx, op.pad(turned, axis, 1, size - 1 - before, rank))
    if after:  # positions size-2..size-1-after
        turned = reverse(op.slice(g, axis, before + size, before + size + after), axis, after, op)
        dx = op.Add(dx, op.pad(turned, axis, size - 1 - after, 1, rank))
    return dx


def unpad_edge(
    g: ir.Value, before: int, after: int, axis: int, size: Size, rank: int, op: Builder
) -> ir.Value:
    """The middle of g, with the sum of each end added to the edge that was repeated."""
    dx = op.slice(g, axis, before, before + size)
    for start, length, front, back in (
        (0, before, 0, size - 1),
        (before + size, after, size - 1, 0),
    ):
        if length:
            part = op.slice(g, axis, start, start + length)
            summed = op.reduce("ReduceSum", part, [axis], keepdims=True)
            dx = op.Add(dx, op.pad(summed, axis, front, back, rank))
    return dx
