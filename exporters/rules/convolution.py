"""Conv and ConvTranspose, whose input gradient is where the time of a backward pass goes.

docs/design.md says which form was chosen for which layer, and why. The weights are rearranged by
operators on the stored initializer, which runtimes fold at load time: the file holds them once.
"""

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from deepinside.exporters.builder import Builder
from deepinside.exporters.lengths import Size, are_static, number, vector
from deepinside.exporters.registry import Cotangents, ForwardNode, vjp
from deepinside.exporters.rules.windows import Window, windows

__all__ = ["transposed_convolution"]

# Below this many input channels a transposed convolution beats a flipped one on CPUs (blocked
# layouts need full blocks of output channels).
_FEW_CHANNELS = 8
# From this kernel size on, patches are better moved by DepthToSpace.
_LARGE_PATCH = 4


@vjp("Conv", 11, 22)
def conv(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX is the transposed convolution of dY with the same W.

    X: (N, C, *S), W: (M, C/group, *K), B: (M,), dY: (N, M, *S'); dX has X's shape. dW: see
    `_weight_gradient`; dB sums dY over all but its channels.
    """
    weights = node.inputs[1]
    shape = [node.size(weights, axis) for axis in range(node.rank(weights))]
    group = int(node.attribute("group"))
    spatial = windows(node, tuple(shape[2:]), op)
    channels = shape[1] * group
    if node.size(node.x, 1) != channels:
        raise node.error(
            f"its input has {node.size(node.x, 1)} channels and its weights expect {channels}."
        )

    def input_gradient() -> ir.Value:
        if group == 1 and _are_patches(spatial):
            return _patches(g, weights, shape, spatial, op)
        if all(w.is_dense for w in spatial) and (channels >= _FEW_CHANNELS or group > 1):
            return _flipped(g, weights, shape, group, spatial, op)
        if op.optimize_for == "cpu" and group == channels == shape[0] and _can_spread(spatial):
            return _spread(g, weights, shape, group, spatial, op)
        if op.optimize_for == "cpu" and group == 1 and _takes_points(spatial):
            points = _flipped(g, weights, shape, group, [replace(w, stride=1) for w in spatial], op)
            op.shapes.record(points, (*node.shape(node.x)[:2], *node.shape(node.y)[2:]))
            return op.blocked(_comb(points, spatial, op), node.shape(node.x))
        dx = transposed_convolution(g, weights, group, spatial, op)
        return op.blocked(dx, node.shape(node.x))

    return (
        input_gradient,
        lambda: _weight_gradient(
            node.x,
            g,
            shape,
            group,
            op,
            sizes=[[node.size(v, w.axis) for w in spatial] for v in (node.x, node.y)],
            strides=[w.stride for w in spatial],
            dilations=[w.dilation for w in spatial],
            pads=[number(p) for p in (*(w.before for w in spatial), *(w.after for w in spatial))],
        ),
        lambda: _bias_gradient(g, len(shape), op),
    )


def _bias_gradient(g: ir.Value, rank: int, op: Builder) -> ir.Value:
    """The sum over all axes but the channels'."""
    return op.reduce("ReduceSum", g, [0, *range(2, rank)], keepdims=False)


def _weight_gradient(
    x: ir.Value,
    g: ir.Value,
    shape: list[int],
    group: int,
    op: Builder,
    *,
    sizes: list[list[int]],
    strides: list[int],
    dilations: list[int],
    pads: list[int],
) -> ir.Value:
    """For weights that depend on the image: X convolved with dY, images and channels exchanged.

    X: (N, C, *S), dY: (N, M, *S'), W: (M, C/group, *K) of `shape`; `sizes` are S and S'. X becomes
    (C/group, group * N, *S) and dY the kernel (M, N, *S'), stride and dilation exchanged; the
    result is (C/group, M, *K) and a little more where the last window ended before the input did.
    """
    rest = range(2, len(shape))
    if group > 1:
        split = op.Reshape(x, [0, group, shape[1], *sizes[0]])
        split = op.transpose(split, 2, 1, 0, *(axis + 1 for axis in rest))
        exchanged = op.Reshape(split, [0, -1, *sizes[0]])
    else:
        exchanged = op.transpose(x, 1, 0, *rest)
    full = op.Conv(
        exchanged,
        op.transpose(g, 1, 0, *rest),
        group=group,
        kernel_shape=sizes[1],
        strides=dilations,
        dilations=strides,
        pads=pads,
    )
    cropped = op.Slice(full, [0] * len(rest), shape[2:], list(rest))
    return op.transpose(cropped, 1, 0, *rest)


def _are_patches(spatial: list[Window]) -> bool:
    """2-D patch embedding: large square windows side by side."""
    return (
        len(spatial) == 2
        and all(w.tiles or (w.abuts and not w.is_static) for w in spatial)
        and spatial[0].kernel == spatial[1].kernel >= _LARGE_PATCH
    )


def _patches(
    g: ir.Value, weights: ir.Value, shape: list[int], spatial: list[Window], op: Builder
) -> ir.Value:
    """A 1x1 Conv from M to k*k*C channels, laid out by DepthToSpace: W' is (k*k*C, M, 1, 1).

    Zeros follow where a dynamic size may not be a multiple of k.
    """
    m, c, k, _ = shape
    pixels = op.Reshape(op.transpose(weights, 2, 3, 1, 0), [k * k * c, m, 1, 1])
    dx = op.DepthToSpace(_convolve(g, pixels, 1, [1, 1], op), blocksize=k, mode="DCR")
    rest: list[Size] = [0 if w.tiles else w.size - w.count * k for w in spatial]
    return dx if rest == [0, 0] else op.Pad(dx, vector([0] * 6 + rest))


def _flipped(
    g: ir.Value,
    weights: ir.Value,
    shape: list[int],
    group: int,
    spatial: list[Window],
    op: Builder,
) -> ir.Value:
    """Stride 1: a Conv with the kernel reversed and its channels exchanged.

    W'[ci, co/g] = W[co, ci/g] reversed, per group; pads become d*(k-1) - p.
    """
    m, c, *kernel = shape
    turned = weights
    if group == 1:
        turned = op.transpose(weights, 1, 0, *range(2, len(shape)))
    elif not (c == 1 and m == group):  # depthwise weights are their own exchange
        split = op.Reshape(weights, [group, m // group, c, *kernel])
        turned = op.transpose(split, 0, 2, 1, *range(3, len(shape) + 1))
        turned = op.Reshape(turned, [group * c, m // group, *kernel])
    for axis, size in enumerate(kernel, start=2):
        if size > 1:
            turned = op.Gather(turned, list(range(size))[::-1], axis=axis)
    begins = [w.extent - 1 - number(w.before) for w in spatial]
    ends = [w.extent - 1 - number(w.after) for w in spatial]
    dilations = [w.dilation for w in spatial]
    return _convolve(g, turned, group, kernel, op, pads=begins + ends, dilations=dilations)


def _can_spread(spatial: list[Window]) -> bool:
    """Whether `_spread` needs no cropping."""
    return all(
        w.is_static and w.dilation == 1 and number(w.before) < w.extent and _rest(w) >= 0
        for w in spatial
    )


def _takes_points(spatial: list[Window]) -> bool:
    """1x1 windows, without padding or a rest that no window reaches."""
    return all(
        w.is_static and w.extent == 1 and w.after == 0 and number(w.before) == _rest(w) == 0
        for w in spatial
    )


def _rest(w: Window) -> int:
    """How far the padded input reaches beyond a stride per window: padding of the dense form."""
    return number(w.before) + number(w.size) - number(w.count) * w.stride


def _spread(
    g: ir.Value,
    weights: ir.Value,
    shape: list[int],
    group: int,
    spatial: list[Window],
    op: Builder,
) -> ir.Value:
    """Depthwise and strided: dY with zeros in between, then the form of stride 1.

    ONNX Runtime's ConvTranspose takes a CPU several times as long.
    """
    dense = [
        # `after` such that the result is as long as X
        replace(w, stride=1, after=w.extent - 1 - _rest(w))
        for w in spatial
    ]
    return _flipped(_comb(g, spatial, op), weights, shape, group, dense, op)


def _comb(x: ir.Value, spatial: list[Window], op: Builder) -> ir.Value:
    """X with zeros in between: repeated, and all but the first of each copy multiplied by 0."""
    sizes = [number(w.count) * w.stride for w in spatial]
    ones = (range(0, size, w.stride) for size, w in zip(sizes, spatial, strict=True))
    comb = np.zeros((1, 1, *sizes))
    comb[np.ix_([0], [0], *ones)] = 1.0
    return op.Mul(op.repeat(x, [w.stride for w in spatial]), comb)


def _convolve(
    g: ir.Value,
    weights: ir.Value,
    group: int,
    kernel: list[int],
    op: Builder,
    pads: list[int] | None = None,
    dilations: list[int] | None = None,
) -> ir.Value:
    """A stride-1 Conv with every attribute written out (the browser's runtime needs them)."""
    rank = len(kernel)
    return op.Conv(
        g,
        weights,
        group=group,
        kernel_shape=kernel,
        strides=[1] * rank,
        dilations=dilations or [1] * rank,
        pads=pads or [0] * (2 * rank),
    )


@vjp("ConvTranspose", 11, 22)
def conv_transpose(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX is the convolution of dY with the same W, strides, dilations and pads.

    X: (N, C, *S), W: (C, M/group, *K), B: (M,), dY: (N, M, *S'); dX has X's shape. dW is that of
    the convolution from dY to X; dB sums dY over all but its channels.
    """
    weights, group = node.inputs[1], int(node.attribute("group"))
    shape = [node.size(weights, axis) for axis in range(node.rank(weights))]
    kernel = shape[2:]
    strides = node.attribute("strides") or [1] * len(kernel)
    dilations = node.attribute("dilations") or [1] * len(kernel)
    padding = node.attribute("output_padding") or [0] * len(kernel)
    extents = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = _transposed_pads(node, extents, strides, padding)

    def input_gradient() -> ir.Value:
        dx = op.Conv(
            g,
            weights,
            group=group,
            kernel_shape=kernel,
            strides=strides,
            dilations=dilations,
            pads=pads,
        )
        for axis, (extra, stride) in enumerate(zip(padding, strides, strict=True), start=2):
            if extra >= stride or node.attribute("output_shape"):  # windows over padding alone
                dx = op.slice(dx, axis, 0, op.length(node.x, axis))
        return dx

    return (
        input_gradient,
        lambda: _weight_gradient(
            g,
            node.x,
            shape,
            group,
            op,
            sizes=[[node.size(v, axis) for axis in range(2, len(shape))] for v in (node.y, node.x)],
            strides=strides,
            dilations=dilations,
            pads=pads,
        ),
        lambda: _bias_gradient(g, len(shape), op),
    )


def _transposed_pads(
    node: ForwardNode, extents: list[int], strides: list[int], padding: list[int]
) -> list[int]:
    """The pads of a ConvTranspose, with auto_pad and output_shape resolved as ONNX has it."""
    rank = len(extents)
    mode, wanted = node.attribute("auto_pad"), node.attribute("output_shape")
    if mode == "VALID" and not wanted:
        return [0] * (2 * rank)
    if mode == "NOTSET" and not wanted:
        return list(node.attribute("pads") or [0] * (2 * rank))
    pads: list[int] = []
    for i in range(rank):
        beyond = padding[i] + extents[i] - strides[i]  # what SAME cuts off, whatever the size
        if wanted:
            beyond += node.size(node.x, i + 2) * strides[i] - wanted[i - rank]
        pads.append(max(0, beyond))
    small = [total // 2 for total in pads]
    large = [total - total // 2 for total in pads]
    return small + large if mode == "SAME_UPPER" else large + small


def transposed_convolution(
    g: ir.Value, weights: ir.Value, group: int, spatial: list[Window], op: Builder
) -> ir.Value:
    """The input gradient of a strided convolution, in the general form.

    ConvTranspose with symmetric pads and output_padding, cropped where the pads were unequal: the
    CUDA provider drops asymmetric pads to the CPU. With p = min(before, after), X begins at
    `before - p` of the result, which is at least as long as needed. Where sizes are dynamic, p is
    what is known of it, and the result is made `stride - 1` longer, since the last window may end
    so far before the input does.
    """
    pads: list[int] = []
    extra: list[int] = []
    cropped: list[tuple[int, Size, Size]] = []  # axis, begin and end of X in the result
    for w in spatial:
        known = are_static(w.before, w.after)
        p = min(number(w.before), number(w.after)) if known else 0
        pads.append(p)
        begin = w.before - p
        end = begin + w.size
        if w.is_static:
            reach = number((w.count - 1) * w.stride + w.extent - 2 * p)
            extra.append(max(0, number(end) - reach))
            exact = begin == 0 and reach <= number(w.size)
        else:
            extra.append(w.stride - 1)
            exact = w.stride == 1 and known and w.before == w.after
        if not exact:
            cropped.append((w.axis, begin, end))
    full = op.ConvTranspose(
        g,
        weights,
        group=group,
        kernel_shape=[w.kernel for w in spatial],
        strides=[w.stride for w in spatial],
        dilations=[w.dilation for w in spatial],
        pads=pads + pads,
        output_padding=extra,
    )
    if not cropped:
        return full
    axes, begins, ends = zip(*cropped, strict=True)
    return op.Slice(full, vector(begins), vector(ends), list(axes))
