"""Gradient rules that are wrong in one point each, for the tests of the checker."""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from deepinside.exporters import registry
from deepinside.exporters.builder import Builder
from deepinside.exporters.registry import ForwardNode
from deepinside.exporters.rules import activations, convolution, pooling
from deepinside.exporters.rules.windows import Window, windows


def softmax(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """Without the sum."""
    return op.Mul(g, node.y)


def layer_normalization(g: ir.Value, node: ForwardNode, op: Builder) -> Any:
    """Without the mean's term."""
    x = node.x
    axes = list(range(node.axis(x, int(node.attribute("axis"))), node.rank(x)))
    centred = op.Sub(x, op.reduce("ReduceMean", x, axes, keepdims=True))
    variance = op.reduce("ReduceMean", op.Mul(centred, centred), axes, keepdims=True)
    root = op.Sqrt(op.Add(variance, float(node.attribute("epsilon"))))
    normal, h = op.Div(centred, root), op.Mul(g, node.inputs[1])
    along = op.reduce("ReduceMean", op.Mul(h, normal), axes, keepdims=True)
    return op.Div(op.Sub(h, op.Mul(normal, along)), root), None, None


def batch_normalization(g: ir.Value, node: ForwardNode, op: Builder) -> Any:
    """Without epsilon."""
    column = op.Div(node.inputs[1], op.Sqrt(node.inputs[4]))
    return op.Mul(g, op.Reshape(column, [-1] + [1] * (node.rank(node.x) - 2))), *[None] * 4


def gemm(g: ir.Value, node: ForwardNode, op: Builder) -> Any:
    """Without alpha."""
    if int(node.attribute("transA")):
        return op.Gemm(node.inputs[1], g, transA=int(node.attribute("transB")), transB=1), g, g
    return op.Gemm(g, node.inputs[1], transB=1 - int(node.attribute("transB"))), g, g


def leaky_relu(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """The sign of Y, also where alpha is negative."""
    alpha = float(node.attribute("alpha"))
    return op.Mul(g, op.Add(op.Mul(op.positive(node.y), 1.0 - alpha), alpha))


def erf(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """Without 2/sqrt(pi)."""
    return op.Mul(g, op.Exp(op.Neg(op.Mul(node.x, node.x))))


def pow(g: ir.Value, node: ForwardNode, op: Builder) -> Any:
    """Without the factor B."""
    x, b = node.inputs
    b = op.Cast(b, to=x.dtype)
    return op.Mul(g, op.Pow(x, op.Sub(b, 1.0))), op.Mul(g, op.Mul(node.y, op.Log(x)))


def div(g: ir.Value, node: ForwardNode, op: Builder) -> Any:
    """The divisor's gradient without its sign."""
    b = node.inputs[1]
    return op.Div(g, b), op.Mul(g, op.Div(node.y, b))


def transpose(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """The same permutation, not its inverse."""
    return op.transpose(g, *(node.attribute("perm") or list(range(node.rank(node.x)))[::-1]))


def concat(g: ir.Value, node: ForwardNode, op: Builder) -> Any:
    """The parts in reverse order."""
    axis = node.axis(node.y, int(node.attribute("axis")))
    sizes = [node.size(x, axis) for x in node.inputs]
    return op.emit("Split", g, sizes, axis=axis, outputs=len(sizes))[::-1]


def reduce_mean(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """A sum's gradient."""
    return registry.rules()["ReduceSum", 13].function(g, node, op)[0]


def reduce_prod(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """Y / X, not a number where X is 0."""
    restored = registry.rules()["ReduceSum", 13].function(g, node, op)[0]
    y = registry.rules()["ReduceSum", 13].function(node.y, node, op)[0]
    return op.Mul(restored, op.Div(y, node.x))


def every_extremum(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """All of g to every maximum."""
    restored = registry.rules()["ReduceSum", 13].function(g, node, op)[0]
    y = registry.rules()["ReduceSum", 13].function(node.y, node, op)[0]
    return op.Mul(restored, op.mask(op.Equal(node.x, y), g))


def cum_sum(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """The sum in the same direction."""
    kind = {name: int(node.attribute(name)) for name in ("exclusive", "reverse")}
    return op.CumSum(g, node.inputs[1], **kind)


def depth_to_space(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DCR's order, whatever the mode."""
    return op.SpaceToDepth(g, blocksize=int(node.attribute("blocksize")))


def masked(g: ir.Value, node: ForwardNode, op: Builder) -> Any:
    """By a mask and Mul, which makes 0 times infinity."""
    chosen = op.mask(node.inputs[0], g)
    return None, op.Mul(g, chosen), op.Mul(g, op.Sub(1.0, chosen))


def identity(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    return g


def average_pool(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """The kernel's volume in place of the number of inputs in the window."""
    spatial = windows(node, tuple(node.attribute("kernel_shape")), op)
    volume = float(np.prod([w.kernel for w in spatial]))
    return pooling._spread(g, 1.0 / volume, node, spatial, op)


def unflipped(
    g: ir.Value, weights: ir.Value, shape: list[int], group: int, spatial: list[Window], op: Builder
) -> ir.Value:
    """The channels exchanged, the kernel not reversed."""
    turned = op.transpose(weights, 1, 0, *range(2, len(shape))) if group == 1 else weights
    pads = [w.extent - 1 - w.before for w in spatial] + [w.extent - 1 - w.after for w in spatial]
    return convolution._convolve(g, turned, group, shape[2:], op, pads=pads)


def first_only(
    g: ir.Value, origin: np.ndarray, axis: int, size: int, rank: int, op: Builder
) -> ir.Value:
    """A place that was copied twice gets one of its cotangents."""
    places = [next((j for j, i in enumerate(origin) if i == p), len(origin)) for p in range(size)]
    return op.Gather(op.pad(g, axis, 0, 1, rank), places, axis=axis)


def shifted_pad(
    op: Builder, x: ir.Value, axis: int, before: int, after: int, rank: int, value: float = 0.0
) -> ir.Value:
    """One place further to the front, where there is room."""
    pads = [0] * (2 * rank)
    shift = min(before, 1)
    pads[axis], pads[rank + axis] = before - shift, after + shift
    return op.Pad(x, pads, op.constant(np.array(value), x.dtype))


def exchanged_pads(original: Any) -> Any:
    def wrong(
        g: ir.Value, weights: ir.Value, group: int, spatial: list[Window], op: Builder
    ) -> Any:
        turned = [replace(w, before=w.after, after=w.before) for w in spatial]
        return original(g, weights, group, turned, op)

    return wrong


def relu_at_zero(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """1 at 0, right everywhere else."""
    return op.Mul(g, op.mask(op.GreaterOrEqual(node.x, 0.0), g))


def clip(g: ir.Value, node: ForwardNode, op: Builder) -> Any:
    """Passes at the bounds."""
    whole = g
    for index, outside in ((1, op.Less), (2, op.Greater)):
        bound = node.input(index)
        if bound is not None:
            g = op.Mul(g, op.mask(op.Not(outside(node.x, bound)), g))
    return g, *activations.clip(whole, node, op)[1:]


def all_winners(g: ir.Value, node: ForwardNode, op: Builder) -> Any:
    """All of g to every input at ties."""
    return [op.Mul(g, op.mask(op.Equal(x, node.y), g)) for x in node.inputs]


def every_tie(
    g: ir.Value, x: ir.Value, y: ir.Value, w: Window, node: ForwardNode, op: Builder
) -> ir.Value:
    """All of g to every maximum of a window: stride 2, kernel 2, no pads."""
    wide = op.Resize(
        op.Concat(op.Unsqueeze(g, [-1]), op.Unsqueeze(y, [-1]), axis=-1),
        None,
        op.constant(np.array([2.0 if a == w.axis else 1.0 for a in range(5)], np.float32)),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    copies = op.Gather(wide, 0, axis=4), op.Gather(wide, 1, axis=4)
    return op.Mul(copies[0], op.mask(op.Equal(copies[1], x), g))
