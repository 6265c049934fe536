"""Normalisation layers and soft-max, at inference."""

import numpy as np
import onnx_ir as ir

from deepinside.exporters.builder import Builder
from deepinside.exporters.registry import Cotangents, ForwardNode, vjp

__all__: list[str] = []


@vjp("BatchNormalization", 15)
def batch_normalization(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = g * scale / sqrt(var + epsilon), per channel; the statistics are fixed at inference."""
    if int(node.attribute("training_mode")):
        raise node.error("it is in training mode and mixes the batch; export in eval mode.")
    _, scale, _, _, variance = node.inputs
    deviation = op.Sqrt(op.Add(variance, float(node.attribute("epsilon"))))
    per_channel = op.Div(scale, deviation)
    column = op.Reshape(per_channel, [-1] + [1] * (node.rank(node.x) - 2))
    return op.Mul(g, column), None, None, None, None


@vjp("LayerNormalization", 17)
def layer_normalization(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = r * (h - mean(h) - n * mean(h * n)) with h = g * scale, n = (X - mean) * r.

    r = 1 / sqrt(var + epsilon). Mean and deviation are computed again from X, since many runtimes
    have only the first of the operator's three outputs. dscale = g * n, dbias = g.
    """
    x = node.x
    rank = node.rank(x)
    axes = list(range(node.axis(x, int(node.attribute("axis"))), rank))
    centred = op.Sub(x, op.reduce("ReduceMean", x, axes, keepdims=True))
    variance = op.reduce("ReduceMean", op.Mul(centred, centred), axes, keepdims=True)
    root = op.Sqrt(op.Add(variance, float(node.attribute("epsilon"))))
    normal = op.Div(centred, root)

    def input_gradient() -> ir.Value:
        h = op.Mul(g, node.inputs[1])
        mean = op.reduce("ReduceMean", h, axes, keepdims=True)
        along = op.reduce("ReduceMean", op.Mul(h, normal), axes, keepdims=True)
        return op.Div(op.Sub(op.Sub(h, mean), op.Mul(normal, along)), root)

    return input_gradient, lambda: op.Mul(g, normal), g


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


@vjp("ReduceSum", 13)
def reduce_sum(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = g, repeated along the summed axes."""
    return (_restore_axes(g, node, op),)


@vjp("ReduceMean", 13, 18)
def reduce_mean(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = g / (number of elements averaged), repeated along the averaged axes."""
    axes = _reduced_axes(node)
    restored = _restore_axes(g, node, op)
    return (op.Div(restored, op.size_along(node.x, axes)) if axes else restored,)


def _reduced_axes(node: ForwardNode) -> list[int]:
    """The reduced axes: an attribute in old versions, an input in new ones; none means all."""
    given = node.attribute("axes")
    axes = node.constant(1) if given is None else np.asarray(given)
    if axes is None or axes.size == 0:
        keep_all = bool(node.attribute("noop_with_empty_axes", 0))
        return [] if keep_all else list(range(node.rank(node.x)))
    return sorted(node.axis(node.x, int(axis)) for axis in axes)


def _restore_axes(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """G with the reduced axes back at length 1; to the sweep it stands for its broadcast."""
    axes = _reduced_axes(node)
    restored = g
    if axes and not int(node.attribute("keepdims")):
        restored = op.Unsqueeze(g, axes)
    shape = node.shape(node.x)
    op.shapes.record(
        restored,
        tuple(op.shapes.dim(1) if i in axes else dim for i, dim in enumerate(shape)),
    )
    return restored
