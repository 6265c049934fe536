"""Operators that move values without changing them: reshaping, slicing, joining, padding."""

import numpy as np
import onnx_ir as ir

from deepinside.exporters.builder import Builder
from deepinside.exporters.lengths import Size, vector
from deepinside.exporters.registry import Cotangents, ForwardNode, vjp
from deepinside.exporters.rules.placing import entry, place_slice, unpad_edge, unpad_reflection

__all__ = ["add_at", "put_back"]


@vjp("Flatten", 13, 21, 23, 24, 25)
@vjp("Reshape", 14, 19, 21, 23, 24, 25)
@vjp("Squeeze", 13, 21, 23, 24, 25)
@vjp("Unsqueeze", 13, 21, 23, 24, 25)
def reshape(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = g in X's shape."""
    return (op.reshape_like(g, node.x),)


@vjp("Expand", 13, elementwise=True)
def expand(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = g; the sweep sums over the repeated axes."""
    return (g,)


@vjp("Transpose", 13, 21, 23, 24, 25)
def transpose(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g with the inverse permutation."""
    order = node.attribute("perm") or list(range(node.rank(node.x)))[::-1]
    return op.transpose(g, *(int(axis) for axis in np.argsort(order)))


@vjp("Concat", 13)
def concat(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """dX_i = the slice of g that X_i filled."""
    axis = node.axis(node.y, int(node.attribute("axis")))
    sizes = [op.length(x, axis) for x in node.inputs]
    if len(sizes) == 1:
        return (g,)
    return op.emit("Split", g, vector(sizes), axis=axis, outputs=len(sizes))


@vjp("Split", 13, 18, all_outputs=True)
def split(g: tuple[ir.Value | None, ...], node: ForwardNode, op: Builder) -> Cotangents:
    """DX = the outputs' cotangents joined; zeros for an output that the score ignores."""
    axis = node.axis(node.x, int(node.attribute("axis")))
    parts = []
    for cotangent, output in zip(g, node.node.outputs, strict=True):
        if cotangent is None:
            zero = op.constant(np.array(0.0), node.x.dtype)
            cotangent = op.expand_to(zero, output)
        parts.append(cotangent)
    return (op.Concat(*parts, axis=axis) if len(parts) > 1 else parts[0],)


@vjp("Slice", 13)
def slice_(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = g put back where it was cut out, zeros elsewhere; any step, also negative."""
    x, rank = node.x, node.rank(node.x)
    starts, ends = (_numbers(node, index, op) for index in (1, 2))
    axes, steps = node.constant(3), node.constant(4)
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones(len(starts), dtype=np.int64) if steps is None else steps
    for start, end, given, step in zip(starts, ends, axes, steps, strict=True):
        axis = node.axis(x, int(given))
        size, count = op.length(x, axis), op.length(node.y, axis)
        if not isinstance(size, int) or not isinstance(start, int) or not isinstance(end, int):
            g = place_slice(g, start, end, int(step), axis, size, count, rank, op)
            continue
        if size == count and int(step) == 1:
            continue
        taken = np.arange(size)[_python_slice(start, end, int(step))]
        if len(taken) == 0:
            return (op.expand_to(op.constant(np.array(0.0), x.dtype), x),)
        if int(step) == 1:
            first = int(taken[0])
            g = op.pad(g, axis, first, size - first - len(taken), rank)
        else:
            g = put_back(g, taken, axis, size, rank, op)
    return (g,)


def _numbers(node: ForwardNode, index: int, op: Builder) -> list[Size]:
    """The numbers of an input, computed at run time where they are not constant."""
    value = node.inputs[index]
    known = node.shapes.constant(value)
    if known is not None:
        return [int(number) for number in known]
    return [entry(value, i, op) for i in range(node.size(value, 0))]


def _python_slice(start: int, end: int, step: int) -> slice:
    """ONNX's slice as Python's: a negative step that runs to the front ends at None."""
    limit = 1 << 31
    if step < 0 and end < -limit:
        return slice(start, None, step)
    return slice(max(start, -limit), min(end, limit), step)


@vjp("Gather", 13)
def gather(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = the sum, for each position, of the cotangents of the places that it was copied to."""
    x, rank = node.x, node.rank(node.x)
    axis = node.axis(x, int(node.attribute("axis")))
    indices = node.shapes.constant(node.inputs[1])
    if indices is None:
        return (_scatter_back(g, node, axis, op),)
    size = op.length(x, axis)
    flat = indices.reshape(-1)
    if isinstance(size, int):
        flat = np.where(flat < 0, flat + size, flat)
    run = bool((np.diff(flat) == 1).all()) and not flat[0] < 0 <= flat[-1]
    if not run and not isinstance(size, int):
        return (_scatter_back(g, node, axis, op),)
    if indices.ndim == 0:
        g = op.Unsqueeze(g, [axis])
    elif indices.ndim > 1:
        after = [op.length(x, a) for a in range(axis + 1, rank)]
        g = op.reshape(g, [0] * axis + [flat.size, *after])
    if run:
        first = int(flat[0]) if flat[0] >= 0 else size + int(flat[0])
        return (op.pad(g, axis, first, size - first - flat.size, rank),)
    return (put_back(g, flat, axis, node.size(x, axis), rank, op),)


def _scatter_back(g: ir.Value, node: ForwardNode, axis: int, op: Builder) -> ir.Value:
    """Gather's gradient where the index is computed at run time: ScatterND, adding.

    Only for want of a better form: some browsers' and compilers' runtimes lack it.
    """
    x, indices = node.inputs
    rank, width = node.rank(x), node.rank(indices)
    front = [axis, *(a for a in range(rank) if a != axis)]
    # g has the index's axes where x has `axis`: bring them to the front.
    places = range(axis, axis + width)
    g = op.transpose(g, *places, *(a for a in range(rank - 1 + width) if a not in places))
    zeros = op.transpose(op.expand_to(op.constant(np.array(0.0), x.dtype), x), *front)
    added = add_at("ScatterND", zeros, op.Unsqueeze(indices, [-1]), g, op)
    return op.transpose(added, *(int(a) for a in np.argsort(front)))


def add_at(
    operator: str, x: ir.Value, indices: ir.Value, g: ir.Value, op: Builder, **options: int
) -> ir.Value:
    """X with g added at the indices; ONNX Runtime's CPU provider lacks it for half: in float32."""
    half = x.dtype == ir.DataType.FLOAT16
    data, updates = (op.Cast(v, to=ir.DataType.FLOAT) if half else v for v in (x, g))
    added = op.emit(operator, data, indices, updates, reduction="add", **options)[0]
    return op.Cast(added, to=ir.DataType.FLOAT16) if half else added


@vjp("Pad", 13, 18, 19, 21, 23, 24, 25)
def pad(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = g without the padding; reflected, repeated or wrapped values add to their origin.

    A negative pad is a crop, and puts zeros back. dvalue = the sum of g over the padding.
    """
    x, rank = node.x, node.rank(node.x)
    mode = node.attribute("mode")
    if mode == "constant" and node.shapes.constant(node.inputs[1]) is None:
        amounts = node.inputs[1]
        return (op.Pad(g, op.Neg(amounts), *([None, node.input(3)] if node.input(3) else [])),)
    pads, axes = node.constant(1), node.constant(3)
    assert pads is not None
    chosen = range(rank) if axes is None else [node.axis(x, int(axis)) for axis in axes]
    half = len(pads) // 2
    whole = g
    for i, axis in enumerate(chosen):
        before, after = int(pads[i]), int(pads[half + i])
        if before == after == 0:
            continue
        size = op.length(x, axis)
        kept = size + (min(0, before) + min(0, after))
        if mode == "constant":
            inner = op.slice(g, axis, max(0, before), max(0, before) + kept)
            g = op.pad(inner, axis, max(0, -before), max(0, -after), rank)
        elif not isinstance(size, int) and mode in _UNPAD and min(before, after) >= 0:
            g = _UNPAD[mode](g, before, after, axis, size, rank, op)
        else:
            size = node.size(x, axis)
            around = (max(0, before), max(0, after))
            origin = np.pad(np.arange(max(0, -before), size - max(0, -after)), around, mode=mode)
            g = put_back(g, origin, axis, size, rank, op)

    def value() -> ir.Value:
        totals = [op.reduce("ReduceSum", v, list(range(rank)), keepdims=False) for v in (whole, g)]
        return op.reshape_like(op.Sub(*totals), node.inputs[2])

    return g, None, value


_UNPAD = {"reflect": unpad_reflection, "edge": unpad_edge}


def put_back(
    g: ir.Value, origin: np.ndarray, axis: int, size: int, rank: int, op: Builder
) -> ir.Value:
    """The transpose of `take(origin)` along an axis: i collects all g[j] with origin[j] = i.

    One Gather per multiplicity, from g with a zero appended; no scatter, which rounds in any order
    on GPUs and is missing from some runtimes.
    """
    places: list[list[int]] = [[] for _ in range(size)]
    for j, i in enumerate(origin):
        places[int(i)].append(j)
    most = max(len(found) for found in places)
    gap = len(origin)
    padded = op.pad(g, axis, 0, 1, rank) if any(len(found) < most for found in places) else g
    total: ir.Value | None = None
    for k in range(most):
        picks = [found[k] if k < len(found) else gap for found in places]
        part = op.Gather(padded, picks, axis=axis)
        total = part if total is None else op.Add(total, part)
    assert total is not None
    return total
