"""Operators that select values by masks, lengths or classes; by index: indexing.py."""

import numpy as np
import onnx_ir as ir

from deepinside.exporters.builder import Builder
from deepinside.exporters.registry import Cotangents, ForwardNode, vjp
from deepinside.exporters.rules.movement import put_back

__all__: list[str] = []


@vjp("ReverseSequence", 10, 28)
def reverse_sequence(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = g, reversed in the same way."""
    axes = {name: int(node.attribute(name)) for name in ("batch_axis", "time_axis")}
    return (op.ReverseSequence(g, node.inputs[1], **axes),)


@vjp("Compress", 11, 28)
def compress(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = g put back where the condition chose, zeros elsewhere.

    With a condition that is constant: otherwise the output's size depends on values.
    """
    condition, axis = node.constant(1), node.attribute("axis")
    assert condition is not None
    chosen = np.flatnonzero(condition)
    if axis is not None:
        axis = node.axis(node.x, int(axis))
        size = node.size(node.x, axis)
        return (put_back(g, chosen, axis, size, node.rank(node.x), op),)
    count = int(np.prod([node.size(node.x, a) for a in range(node.rank(node.x))]))
    return (op.reshape_like(put_back(g, chosen, 0, count, 1, op), node.x),)


@vjp("OneHot", 11, 28)
def one_hot(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """Dvalues = the sums of g where Y is off and where it is on."""
    indices, depth, values = node.inputs
    numbers = op.constant(np.array([0.0, 1.0]), values.dtype)
    on = op.OneHot(indices, depth, numbers, axis=int(node.attribute("axis")))
    axes = list(range(node.rank(node.y)))
    sums = [
        op.reduce("ReduceSum", op.Mul(g, mask), axes, keepdims=False)
        for mask in (op.Sub(1.0, on), on)
    ]
    return None, None, lambda: op.Concat(*(op.Unsqueeze(each, [0]) for each in sums), axis=0)


@vjp("MaxUnpool", 11, 22)
def max_unpool(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = g at the flat indices where the values of X were put."""
    if node.input(2) is not None:
        raise node.error("it gives an output_shape, which this gradient does not cover.")
    return (op.Gather(op.Reshape(g, [-1]), node.inputs[1], axis=0),)
