"""Normalisation layers and soft-max, at inference.

In half precision, what is squared and averaged is float32, as in the forward kernels: the square of
300 is infinite in float16.
"""

import onnx_ir as ir

from deepinside.exporters.builder import Builder
from deepinside.exporters.registry import Cotangents, ForwardNode, vjp

__all__: list[str] = []

_HALF = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}


@vjp("BatchNormalization", 15)
def batch_normalization(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = g * scale / sqrt(var + epsilon), per channel; the statistics are fixed at inference."""
    if int(node.attribute("training_mode")):
        raise node.error("it is in training mode and mixes the batch; export in eval mode.")
    _, scale, _, _, variance = node.inputs
    deviation = op.Sqrt(op.Add(variance, float(node.attribute("epsilon"))))
    per_channel = op.Div(scale, deviation)
    return op.Mul(g, _per_channel(per_channel, node, op)), None, None, None, None


@vjp("LayerNormalization", 17)
def layer_normalization(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = (h - mean(h) - n * mean(h * n)) / root with h = g * scale, n = (X - mean) / root.

    root = sqrt(var + epsilon). Mean and deviation are computed again from X, since many runtimes
    have only the first of the operator's three outputs. dscale = g * n, dbias = g.
    """
    x = node.x
    rank = node.rank(x)
    axes = list(range(node.axis(x, int(node.attribute("axis"))), rank))
    normal, root = _standardised(x, axes, float(node.attribute("epsilon")), op)
    scale = node.inputs[1]
    return (
        lambda: _standardise_back(op.Mul(g, scale), normal, root, axes, op),
        lambda: op.Mul(g, _narrow(normal, g, op)),
        g,
    )


@vjp("InstanceNormalization", 6, 22)
def instance_normalization(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX as LayerNormalization's, over each channel of each image; h = g * scale per channel."""
    axes = list(range(2, node.rank(node.x)))
    normal, root = _standardised(node.x, axes, float(node.attribute("epsilon")), op)
    h = op.Mul(g, _per_channel(node.inputs[1], node, op))
    return _standardise_back(h, normal, root, axes, op), None, None


@vjp("GroupNormalization", 21)
def group_normalization(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX as LayerNormalization's, over each group of channels; h = g * scale per channel.

    Version 18, of one scale per group, is deprecated: ONNX's checker refuses models with it.
    """
    groups = [0, int(node.attribute("num_groups")), -1]
    h = op.Reshape(op.Mul(g, _per_channel(node.inputs[1], node, op)), groups)
    x = op.Reshape(node.x, groups)
    normal, root = _standardised(x, [2], float(node.attribute("epsilon")), op)
    return op.reshape_like(_standardise_back(h, normal, root, [2], op), node.x), None, None


def _standardised(
    x: ir.Value, axes: list[int], epsilon: float, op: Builder
) -> tuple[ir.Value, ir.Value]:
    """N = (X - mean) / root, and root = sqrt(var + epsilon); float32 for half precision."""
    x = _wide(x, op)
    centred = op.Sub(x, op.reduce("ReduceMean", x, axes, keepdims=True))
    variance = op.reduce("ReduceMean", op.Mul(centred, centred), axes, keepdims=True)
    root = op.Sqrt(op.Add(variance, epsilon))
    return op.Div(centred, root), root


def _standardise_back(
    h: ir.Value, normal: ir.Value, root: ir.Value, axes: list[int], op: Builder
) -> ir.Value:
    """(h - mean(h) - n * mean(h * n)) / root, of h's type."""
    wide = _wide(h, op)
    mean = op.reduce("ReduceMean", wide, axes, keepdims=True)
    along = op.reduce("ReduceMean", op.Mul(wide, normal), axes, keepdims=True)
    return _narrow(op.Div(op.Sub(op.Sub(wide, mean), op.Mul(normal, along)), root), h, op)


def _wide(x: ir.Value, op: Builder) -> ir.Value:
    """X, in float32 if it is of half precision."""
    return op.Cast(x, to=ir.DataType.FLOAT) if x.dtype in _HALF else x


def _narrow(x: ir.Value, like: ir.Value, op: Builder) -> ir.Value:
    """X in the type of `like`."""
    return x if x.dtype == like.dtype else op.Cast(x, to=like.dtype)


def _per_channel(value: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """One number per channel, shaped to broadcast against X."""
    return op.Reshape(value, [-1] + [1] * (node.rank(node.x) - 2))


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
    """DX = Y * (g - sum(g * Y))."""
    axis = node.axis(node.x, int(node.attribute("axis")))
    inner = op.reduce("ReduceSum", op.Mul(g, node.y), [axis], keepdims=True)
    return op.Mul(node.y, op.Sub(g, inner))


@vjp("LogSoftmax", 13)
def log_softmax(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g - exp(Y) * sum(g)."""
    axis = node.axis(node.x, int(node.attribute("axis")))
    return op.Sub(g, op.Mul(op.Exp(node.y), op.reduce("ReduceSum", g, [axis], keepdims=True)))
