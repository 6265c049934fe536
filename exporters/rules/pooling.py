"""Pooling. MaxPool is differentiated without its Indices output, which several runtimes lack."""

from collections.abc import Sequence
from functools import reduce as fold
from math import prod
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from deepinside.exporters.builder import Builder
from deepinside.exporters.lengths import Size, number, vector
from deepinside.exporters.registry import ForwardNode, vjp
from deepinside.exporters.rules.blocked_pooling import can_undo_in_blocks, undo_in_blocks
from deepinside.exporters.rules.convolution import transposed_convolution
from deepinside.exporters.rules.windows import Window, windows

__all__: list[str] = []


@vjp("MaxPool", 12, 22)
def max_pool(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX gives dY to the maximum of each window; at ties to the first in row-major order.

    That is PyTorch's choice. Separable: pooling along the last axis, then the one before, and so
    on; each one-dimensional pool is undone by comparing the strided slices of its input with its
    output. The values compared are copies, so that equality is exact.
    """
    spatial = windows(node, tuple(node.attribute("kernel_shape")), op)
    stages = [node.x]
    moving = [w for w in spatial if not w.is_trivial]
    if not moving:
        return g
    if op.optimize_for == "cuda":
        return _scatter(g, node, op)
    for w in moving[:0:-1]:
        stages.append(_pool_along(stages[-1], w, spatial, node, op))
    if can_undo_in_blocks(node, moving, op):
        return undo_in_blocks(g, stages[-1], moving, node, op)
    stages.append(node.y)
    for w, (inner, outer) in zip(
        moving, zip(stages[-2::-1], stages[::-1], strict=False), strict=True
    ):
        g = _undo_max_along(g, inner, outer, w, node, op)
    return g


def _scatter(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX by the places of the maxima, which the forward node tells.

    Four nodes in place of some 45 that each read and write whole maps; but the Indices output is
    slow on CPUs and missing in TensorRT and browsers, and overlapping windows are added in an order
    that GPUs don't fix. ONNX counts places over the whole of X, batch and channels included.
    """
    forward = node.y.producer()
    assert forward is not None
    if len(forward.outputs) == 1:
        forward.resize_outputs(2)
        forward.outputs[1].name = op.unique_name(f"{node.y.name}/indices")
        forward.outputs[1].dtype = ir.DataType.INT64
    places, flat = op.Reshape(forward.outputs[1], [-1]), op.Reshape(node.x, [-1])
    assert g.dtype is not None
    zero = ir.tensor(np.zeros(1, g.dtype.numpy()))
    zeros = op.ConstantOfShape(op.Shape(flat), value=zero)
    zeros.dtype = g.dtype
    added = op.ScatterElements(zeros, places, op.Reshape(g, [-1]), axis=0, reduction="add")
    return op.reshape_like(added, node.x)


def _pool_along(
    x: ir.Value, window: Window, spatial: list[Window], node: ForwardNode, op: Builder
) -> ir.Value:
    """The node's MaxPool along one axis only."""

    def pick(of_window: int, other: int) -> list[int]:
        return [of_window if w.axis == window.axis else other for w in spatial]

    padding: dict[str, Any] = {"auto_pad": node.attribute("auto_pad")}  # SAME, of a dynamic size
    if isinstance(window.before, int) and isinstance(window.after, int):
        padding = {"pads": pick(window.before, 0) + pick(window.after, 0)}
    return op.MaxPool(
        x,
        kernel_shape=pick(window.kernel, 1),
        strides=pick(window.stride, 1),
        dilations=pick(window.dilation, 1),
        ceil_mode=int(node.attribute("ceil_mode")),
        **padding,
    )


def _undo_max_along(
    g: ir.Value, x: ir.Value, y: ir.Value, w: Window, node: ForwardNode, op: Builder
) -> ir.Value:
    """Cotangent of x for `y = MaxPool of x along one axis`, by phases of the stride.

    Phase r of s holds the positions r + s*i as its i-th. Tap a of window j reads position
    s*j + a*d - before: what that is away from s*j, divided by s, is a shift and a phase. A window's
    last tap gets what the others have left.
    """
    rank = node.rank(node.x)
    margin: Size = 0
    slots: Size
    if w.is_static:
        start, slots = -number(w.before), -(-number(w.size) // w.stride)
    else:  # positions of the padded input, which never lie before the first one
        start, slots = 0, _slots(w)
        margin = w.before
    excess = slots * w.stride - margin - w.size
    padded = op.pad(x, w.axis, margin, excess, rank, _lowest(node.x))
    phases = _split_phases(padded, w, slots, node, op)

    received: list[ir.Value | None] = [None] * w.stride
    rest = g
    for a in range(w.kernel):
        shift, phase = divmod(start + a * w.dilation, w.stride)
        beyond = number(shift + w.count - slots)
        share = rest
        if a + 1 < w.kernel:
            tap = _shifted(phases[phase], slots, -shift, beyond, w, rank, op, _lowest(node.x))
            share = op.Mul(rest, op.mask(op.Equal(tap, y), g))
            rest = op.Sub(rest, share)  # what a window has given away is gone: first one wins
        back = _shifted(share, w.count, shift, -beyond, w, rank, op)
        other = received[phase]
        received[phase] = back if other is None else op.Add(other, back)
    whole = _interleave(received, w.axis, slots, node, op)
    if margin == 0 and slots * w.stride == w.size:
        return whole
    return op.slice(whole, w.axis, margin, margin + w.size)


def _slots(w: Window) -> Size:
    """Length of each phase, which hold all taps and all of the padded input, of a dynamic size.

    It is not known how far before the input's end the last window ends, but that it is by less than
    a stride: this does for every size.
    """
    certain = w.after if isinstance(w.after, int) else 0
    reach = w.extent - 1
    beyond = max(reach // w.stride, -((certain - reach) // w.stride))
    return w.count + beyond


def _split_phases(
    x: ir.Value, w: Window, slots: Size, node: ForwardNode, op: Builder
) -> Sequence[ir.Value]:
    """The phases of x along the window's axis, each as long as `slots`."""
    if w.stride == 1:
        return [x]
    after = [op.length(node.y, a) for a in range(w.axis + 1, node.rank(node.y))]
    pairs = op.reshape(x, [0] * w.axis + [slots, w.stride, *after])
    ones = [1] * w.stride
    parts = op.emit("Split", pairs, ones, axis=w.axis + 1, outputs=w.stride)
    return [op.Squeeze(part, [w.axis + 1]) for part in parts]


def _shifted(
    x: ir.Value,
    size: Size,
    before: int,
    after: int,
    w: Window,
    rank: int,
    op: Builder,
    fill: float = 0.0,
) -> ir.Value:
    """X with so many values added at both ends of the window's axis, or cut off if negative."""
    if before < 0 or after < 0:
        x = op.slice(x, w.axis, max(0, -before), size + min(0, after))
    return op.pad(x, w.axis, max(0, before), max(0, after), rank, fill)


def _interleave(
    phases: list[ir.Value | None], axis: int, slots: Size, node: ForwardNode, op: Builder
) -> ir.Value:
    """Position s*i + r of the result along an axis is position i of phase r (None: zeros)."""
    first = next(phase for phase in phases if phase is not None)
    if len(phases) == 1:
        return first
    zeros = None
    if None in phases:
        zeros = op.Expand(op.constant(np.array(0.0), first.dtype), op.Shape(first))
    columns = [op.Unsqueeze(zeros if p is None else p, [axis + 1]) for p in phases]
    joined = op.Concat(*columns, axis=axis + 1)
    # Axes after this one are pooled still, hence of the output's size.
    after = [op.length(node.y, a) for a in range(axis + 1, node.rank(node.y))]
    return op.reshape(joined, [0] * axis + [slots * len(phases), *after])


@vjp("GlobalMaxPool", 1, 22)
def global_max_pool(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g at the maximum of each channel, the first one at ties."""
    flat = op.Reshape(node.x, [0, 0, -1])
    winner = op.ArgMax(flat, axis=2, keepdims=1)
    count = op.Gather(op.Shape(flat), 2, axis=0)
    chosen = op.mask(op.Equal(op.Range(0, count, 1), winner), g)
    return op.reshape_like(op.Mul(chosen, op.Reshape(g, [0, 0, -1])), node.x)


@vjp("GlobalAveragePool", 1, 22)
def global_average_pool(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g / (H * W), left for the next operator to broadcast."""
    return op.divide_by_count(g, node.x, range(2, node.rank(node.x)))


@vjp("AveragePool", 11, 19, 22)
def average_pool(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX adds dY / (number of inputs in the window) to every input of each window.

    That number counts padding with count_include_pad, and never what lies beyond it (ceil_mode).
    """
    spatial = windows(node, tuple(node.attribute("kernel_shape")), op)
    volume = float(prod(w.kernel for w in spatial))
    include_pad, ceil = (bool(node.attribute(n)) for n in ("count_include_pad", "ceil_mode"))
    if not ceil and (include_pad or all(w.before == w.after == 0 for w in spatial)):
        return _spread(g, 1.0 / volume, node, spatial, op)
    known: list[np.ndarray] = []
    shares: list[ir.Value] = []
    for w in spatial:
        low, high = (
            (0, w.before + w.size + w.after) if include_pad else (w.before, w.before + w.size)
        )
        if w.is_static:
            known.append(_window_counts(w, low, high, node.rank(node.x)))
        else:
            shares.append(op.Reciprocal(_run_time_counts(w, low, high, g, node, op)))
    if all((count == count.flat[0]).all() for count in known):
        scale = 1.0 / float(prod(int(count.max()) for count in known))
        share = g
    else:
        scale = 1.0
        share = fold(lambda share, count: op.Mul(share, 1.0 / count), known, g)
    return _spread(fold(op.Mul, shares, share), scale, node, spatial, op)


@vjp("LpPool", 11, 18, 22)
def lp_pool(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = sign(X) |X|^(p-1) times the sum, over X's windows, of g * Y^(1-p); 0 where Y = 0."""
    spatial = windows(node, tuple(node.attribute("kernel_shape")), op)
    power = int(node.attribute("p")) - 1
    spread = _spread(_norm_share(g, power, node, op), 1.0, node, spatial, op)
    return op.Mul(_signed_power(node.x, power, op), spread)


@vjp("GlobalLpPool", 2, 22)
def global_lp_pool(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g * sign(X) (|X| / Y)^(p-1); 0 where Y = 0."""
    power = int(node.attribute("p")) - 1
    return op.Mul(_signed_power(node.x, power, op), _norm_share(g, power, node, op))


def _norm_share(g: ir.Value, power: int, node: ForwardNode, op: Builder) -> ir.Value:
    """G * Y^-power; where Y is 0 all of its X are, and anything will do."""
    if power == 0:
        return g
    y = op.without_zeros(node.y)
    return op.Div(g, y if power == 1 else op.Pow(y, float(power)))


def _signed_power(x: ir.Value, power: int, op: Builder) -> ir.Value:
    """sign(X) |X|^power."""
    if power == 1:
        return x
    sign = op.Sign(x)
    return sign if power == 0 else op.Mul(sign, op.Pow(op.Abs(x), float(power)))


def _window_counts(w: Window, low: Size, high: Size, rank: int) -> np.ndarray:
    """Positions from `low` to `high`, of the padded input, in each window; shaped to broadcast."""
    starts = np.arange(number(w.count))[:, None] * w.stride
    taps = starts + np.arange(w.kernel)[None, :] * w.dilation
    inside = ((taps >= number(low)) & (taps < number(high))).sum(axis=1, dtype=np.float64)
    return np.asarray(inside.reshape(_along(w, rank)))


def _run_time_counts(
    w: Window, low: Size, high: Size, g: ir.Value, node: ForwardNode, op: Builder
) -> ir.Value:
    """The same for a size that is known at run time only, in g's type."""
    count = op.Squeeze(vector([w.count]), [0])
    starts = op.Mul(op.Unsqueeze(op.Range(0, count, 1), [1]), [w.stride])
    taps = op.Add(starts, [a * w.dilation for a in range(w.kernel)])
    ends = op.Less(taps, vector([high]))
    inside = op.And(op.GreaterOrEqual(taps, vector([low])), ends) if low != 0 else ends
    counts = op.reduce("ReduceSum", op.mask(inside, g), [1], keepdims=False)
    return op.Reshape(counts, _along(w, node.rank(node.x)))


def _along(w: Window, rank: int) -> list[int]:
    """The shape of one number per window that broadcasts against the output."""
    return [-1 if axis == w.axis else 1 for axis in range(rank)]


def _spread(
    share: ir.Value, scale: float, node: ForwardNode, spatial: list[Window], op: Builder
) -> ir.Value:
    """Add each window's share, times a number, to all its inputs."""
    average = all(w.is_dense and w.dilation == 1 for w in spatial)
    if average:
        scale *= float(prod(w.kernel for w in spatial))
    if scale != 1.0:  # before the pool: a layer's weights can take it
        share = op.Mul(share, scale)
    if all(w.tiles or (w.abuts and not w.is_static) for w in spatial):
        copies = op.repeat(share, [w.kernel for w in spatial])
        for w in spatial:
            if not w.tiles:
                ceil = bool(node.attribute("ceil_mode", 0))
                rest = w.size - w.count * w.kernel
                copies = (
                    op.slice(copies, w.axis, 0, w.size)
                    if ceil
                    else op.pad(copies, w.axis, 0, rest, node.rank(node.x))
                )
        return copies
    if average:
        return op.AveragePool(
            share,
            kernel_shape=[w.kernel for w in spatial],
            strides=[1] * len(spatial),
            pads=[w.kernel - 1 - w.before for w in spatial]
            + [w.kernel - 1 - w.after for w in spatial],
            count_include_pad=1,
        )
    channels = node.size(node.x, 1)
    ones = op.constant(np.ones((channels, 1, *(w.kernel for w in spatial))), share.dtype)
    return transposed_convolution(share, ones, channels, spatial, op)


def _lowest(value: ir.Value) -> float:
    """The lowest finite number of the value's type."""
    assert value.dtype is not None
    return float(ml_dtypes.finfo(value.dtype.numpy()).min)  # type: ignore[no-untyped-call]
