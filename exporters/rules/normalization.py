"""Normalisation layers and soft-max, at inference.

In half precision, what is squared and averaged is float32, as in the forward kernels: the square of
300 is infinite in float16.
"""

import numpy as np
import onnx_ir as ir

from deepinside.exporters.builder import Builder
from deepinside.exporters.registry import Cotangents, ForwardNode, vjp

__all__: list[str] = []

_HALF = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}


@vjp("BatchNormalization", 15)
def batch_normalization(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = g * scale / root per channel, root = sqrt(var + epsilon); the statistics are fixed.

    Summed over each channel: dB = g, dscale = g * n for n = (X - mean) / root, dmean = -dX, and
    dvar = -dX * n / (2 root).
    """
    if int(node.attribute("training_mode")):
        raise node.error("it is in training mode and mixes the batch; export in eval mode.")
    x, scale, _, mean, variance = node.inputs
    root = op.Sqrt(op.Add(variance, float(node.attribute("epsilon"))))
    factor = op.Div(scale, root)

    def scale_gradient() -> ir.Value:
        centred = op.Sub(x, _per_channel(mean, node, op))
        return op.Div(_channel_sums(op.Mul(g, centred), node, op), root)

    return (
        lambda: op.Mul(g, _per_channel(factor, node, op)),
        scale_gradient,
        lambda: _channel_sums(g, node, op),
        lambda: op.Neg(op.Mul(_channel_sums(g, node, op), factor)),
        lambda: op.Mul(op.Div(op.Mul(scale_gradient(), factor), root), -0.5),
    )


@vjp("LayerNormalization", 17)
def layer_normalization(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = (c - n * mean(c * n)) / root with h = g * scale, c = h - mean(h), n = (X - mean) / root.

    root = sqrt(var + epsilon). Mean and deviation are computed again from X, since many runtimes
    have only the first of the operator's three outputs; on CPUs they are taken from there. dscale =
    g * n, dbias = g.
    """
    x = node.x
    axes = list(range(node.axis(x, int(node.attribute("axis"))), node.rank(x)))
    if op.optimize_for == "cpu" and x.dtype == ir.DataType.FLOAT:
        mean, inverse = op.further_outputs(node.node, 3)[1:]
        normal = op.Mul(op.Sub(x, mean), inverse)
    else:
        normal, inverse = _standardised(x, axes, float(node.attribute("epsilon")), op)
    scale = node.inputs[1]
    return (
        lambda: _standardise_back(op.Mul(g, scale), normal, inverse, axes, op),
        lambda: op.Mul(g, _narrow(normal, g, op)),
        g,
    )


@vjp("InstanceNormalization", 6, 22)
def instance_normalization(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX as LayerNormalization's, over each channel of each image; h = g * scale per channel.

    Dscale and dbias are LayerNormalization's, summed over each channel.
    """
    axes = list(range(2, node.rank(node.x)))
    normal, inverse = _standardised(node.x, axes, float(node.attribute("epsilon")), op)

    def input_gradient() -> ir.Value:
        h = op.Mul(g, _per_channel(node.inputs[1], node, op))
        return _standardise_back(h, normal, inverse, axes, op)

    return (
        input_gradient,
        lambda: _channel_sums(op.Mul(g, normal), node, op),
        lambda: _channel_sums(g, node, op),
    )


@vjp("GroupNormalization", 21)
def group_normalization(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX as LayerNormalization's, over each group of channels; h = g * scale per channel.

    Dscale and dbias are LayerNormalization's, summed over each channel. Version 18, of one scale
    per group, is deprecated and replaced by its definition.
    """
    groups = [0, int(node.attribute("num_groups")), -1]
    x = op.Reshape(node.x, groups)
    normal, inverse = _standardised(x, [2], float(node.attribute("epsilon")), op)

    def input_gradient() -> ir.Value:
        h = op.Reshape(op.Mul(g, _per_channel(node.inputs[1], node, op)), groups)
        return op.reshape_like(_standardise_back(h, normal, inverse, [2], op), node.x)

    return (
        input_gradient,
        lambda: _channel_sums(op.Mul(g, op.reshape_like(normal, node.x)), node, op),
        lambda: _channel_sums(g, node, op),
    )


def _standardised(
    x: ir.Value, axes: list[int], epsilon: float, op: Builder
) -> tuple[ir.Value, ir.Value]:
    """N = (X - mean) / root, and 1 / root, root = sqrt(var + epsilon); float32 for half."""
    x = _wide(x, op)
    centred = op.Sub(x, op.reduce("ReduceMean", x, axes, keepdims=True))
    variance = op.reduce("ReduceMean", op.Mul(centred, centred), axes, keepdims=True)
    inverse = op.Reciprocal(op.Sqrt(op.Add(variance, epsilon)))
    return op.Mul(centred, inverse), inverse


def _standardise_back(
    h: ir.Value, normal: ir.Value, inverse: ir.Value, axes: list[int], op: Builder
) -> ir.Value:
    """(c - n * mean(c * n)) / root with c = h - mean(h), of h's type.

    The mean of n is 0, so that c serves in both places, and can be folded into weights.
    """
    wide = _wide(h, op)
    centred = op.Sub(wide, op.reduce("ReduceMean", wide, axes, keepdims=True))
    along = op.reduce("ReduceMean", op.Mul(centred, normal), axes, keepdims=True)
    return _narrow(op.Mul(op.Sub(centred, op.Mul(normal, along)), inverse), h, op)


def _wide(x: ir.Value, op: Builder) -> ir.Value:
    """X, in float32 if it is of half precision."""
    return op.Cast(x, to=ir.DataType.FLOAT) if x.dtype in _HALF else x


def _narrow(x: ir.Value, like: ir.Value, op: Builder) -> ir.Value:
    """X in the type of `like`."""
    return x if x.dtype == like.dtype else op.Cast(x, to=like.dtype)


def _per_channel(value: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """One number per channel, shaped to broadcast against X."""
    result = op.Reshape(value, [-1] + [1] * (node.rank(node.x) - 2))
    channels = node.shape(node.x)[1]
    op.shapes.record(result, (channels, *[op.shapes.dim(1)] * (node.rank(node.x) - 2)))
    return result


def _channel_sums(value: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """Sums over all axes but the channels'."""
    axes = [0, *range(2, node.rank(node.x))]
    return op.reduce("ReduceSum", value, axes, keepdims=False)


@vjp("RMSNormalization", 23)
def rms_normalization(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = (h - n * mean(h * n)) / root with h = g * scale, n = X / root.

    root = sqrt(mean(X^2) + epsilon); dscale = g * n.
    """
    x, scale = node.inputs
    axes = list(range(node.axis(x, int(node.attribute("axis"))), node.rank(x)))
    wide = _wide(x, op)
    square = op.reduce("ReduceMean", op.Mul(wide, wide), axes, keepdims=True)
    root = op.Sqrt(op.Add(square, float(node.attribute("epsilon"))))
    normal = op.Div(wide, root)

    def input_gradient() -> ir.Value:
        h = _wide(op.Mul(g, scale), op)
        along = op.reduce("ReduceMean", op.Mul(h, normal), axes, keepdims=True)
        return _narrow(op.Div(op.Sub(h, op.Mul(normal, along)), root), g, op)

    return input_gradient, lambda: op.Mul(g, _narrow(normal, g, op))


@vjp("LpNormalization", 1, 22)
def lp_normalization(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = (g - d * sum(g * Y)) / norm, where d is Y for p = 2 and sign(X) for p = 1.

    0 where the norm is 0.
    """
    axis, p = node.axis(node.x, int(node.attribute("axis"))), int(node.attribute("p"))
    norm = op.reduce(f"ReduceL{p}", node.x, [axis], keepdims=True)
    along = op.reduce("ReduceSum", op.Mul(g, node.y), [axis], keepdims=True)
    slope = node.y if p == 2 else op.Sign(node.x)
    inverse = op.Div(op.positive(norm), op.without_zeros(norm))
    return op.Mul(op.Sub(g, op.Mul(slope, along)), inverse)


@vjp("LRN", 13)
def lrn(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g * D^-beta - (2 alpha beta / size) * X * sum(g * Y / D) over the mirrored window.

    Y = X * D^-beta, D = bias + alpha/size * (sum of X^2 over the window of channels).
    """
    x, y = node.x, node.y
    size = int(node.attribute("size"))
    alpha, beta = float(node.attribute("alpha")), float(node.attribute("beta"))
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2

    def window_sum(value: ir.Value, begin: int, end: int) -> ir.Value:
        """Sum over a window of channels: an AveragePool of (N, 1, C, everything else)."""
        flat = op.Reshape(op.Unsqueeze(value, [1]), [0, 1, node.size(x, 1), -1])
        mean = op.AveragePool(
            flat,
            kernel_shape=[size, 1],
            strides=[1, 1],
            pads=[begin, 0, end, 0],
            count_include_pad=1,
        )
        return op.reshape_like(op.Mul(mean, float(size)), x)

    d = op.Add(
        op.Mul(window_sum(op.Mul(x, x), before, after), alpha / size),
        float(node.attribute("bias")),
    )
    spread = window_sum(op.Div(op.Mul(g, y), d), after, before)
    direct = op.Mul(g, op.Pow(d, -beta))
    return op.Sub(direct, op.Mul(op.Mul(x, spread), 2.0 * alpha * beta / size))


@vjp("Softmax", 13)
def softmax(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = Y * (g - sum(g * Y)); 0 in rows that are masked as a whole.

    Attention with a mask of -inf gives 0/0 in such rows, and a Where behind replaces it: only there
    the backward pass has to do the same.
    """
    axis = node.axis(node.x, int(node.attribute("axis")))
    y = _without_masked_rows(node.y, op) if _is_guarded(node.y) else node.y
    inner = op.reduce("ReduceSum", op.Mul(g, y), [axis], keepdims=True)
    return op.Mul(y, op.Sub(g, inner))


def _is_guarded(value: ir.Value) -> bool:
    """Whether a Where chooses between the value and something else."""
    return any(
        node.op_type == "Where" or (node.op_type == "Cast" and _is_guarded(node.outputs[0]))
        for node in value.consumers()
    )


def _without_masked_rows(y: ir.Value, op: Builder) -> ir.Value:
    """Y with 0 in place of what is not a number, which is not equal to itself."""
    result = op.Where(op.Equal(y, y), y, op.constant(np.array(0.0), y.dtype))
    op.shapes.record(result, op.shapes.known(y))
    return result


@vjp("LogSoftmax", 13)
def log_softmax(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g - exp(Y) * sum(g)."""
    axis = node.axis(node.x, int(node.attribute("axis")))
    return op.Sub(g, op.Mul(op.Exp(node.y), op.reduce("ReduceSum", g, [axis], keepdims=True)))
