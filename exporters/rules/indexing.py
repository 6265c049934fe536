"""Operators that pick or place single values by index; Gather, of whole slices, is in movement.py.

The indices may be computed at run time. Where two of them may be equal the gradient is a scatter
that adds, for want of a better form: some compilers' runtimes lack it.
"""

import numpy as np
import onnx_ir as ir

from deepinside.exporters.builder import Builder
from deepinside.exporters.registry import Cotangents, ForwardNode, vjp
from deepinside.exporters.rules.movement import add_at

__all__: list[str] = []


@vjp("GatherElements", 13)
def gather_elements(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """dX[i] = the sum of all g[j] with indices[j] = i along the axis."""
    indices, axis = node.inputs[1], int(node.attribute("axis"))
    return (add_at("ScatterElements", _zeros(node.x, op), indices, g, op, axis=axis),)


@vjp("GatherND", 13)
def gather_nd(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """dX[i] = the sum of all g[j] with indices[j] = i."""
    indices = _with_batch(node, int(node.attribute("batch_dims")), op)
    return (add_at("ScatterND", _zeros(node.x, op), indices, g, op),)


def _with_batch(node: ForwardNode, batch_dims: int, op: Builder) -> ir.Value:
    """The indices with the batch axes' own positions in front, as ScatterND needs them."""
    indices = node.inputs[1]
    if batch_dims == 0:
        return indices
    rank = node.rank(indices)
    one = op.constant(np.array([1]))
    lengths = op.Shape(indices)
    target = op.Concat(op.slice(lengths, 0, 0, rank - 1), one, axis=0)
    columns = []
    for axis in range(batch_dims):
        positions = op.Range(0, op.Gather(lengths, axis, axis=0), 1)
        column = op.Reshape(positions, [-1 if a == axis else 1 for a in range(rank)])
        columns.append(op.Expand(column, target))
    return op.Concat(*columns, indices, axis=rank - 1)


@vjp("ScatterElements", 16, 18)
def scatter_elements(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = g, with 0 where an update replaced X; dupdates[j] = g[indices[j]] along the axis.

    With a reduction: see `_scattered`.
    """
    return _scattered(g, node, op, axis=int(node.attribute("axis")))


@vjp("ScatterND", 16, 18)
def scatter_nd(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = g, with 0 where an update replaced X; dupdates[j] = g[indices[j]].

    With a reduction: see `_scattered`.
    """
    return _scattered(g, node, op)


def _scattered(g: ir.Value, node: ForwardNode, op: Builder, **axis: int) -> Cotangents:
    """The cotangents of X, the indices and the updates, for either operator.

    Reduction add: g itself goes to X. Product: g goes to X times the product of the updates, and
    the updates must be constant. Minimum and maximum: g goes to whichever is the result; equal ones
    share it evenly, as in torch.scatter_reduce.
    """
    x, indices, updates = node.inputs
    operator, reduction = node.node.op_type, str(node.attribute("reduction"))

    def scatter(base: ir.Value, values: ir.Value, how: str) -> ir.Value:
        return op.emit(operator, base, indices, values, reduction=how, **axis)[0]

    def pick(value: ir.Value) -> ir.Value:
        if operator == "ScatterND":
            return op.GatherND(value, indices)
        return op.GatherElements(value, indices, **axis)

    if reduction == "none":
        return lambda: scatter(g, _zeros(updates, op), "none"), None, lambda: pick(g)
    if reduction == "add":
        return g, None, lambda: pick(g)
    if reduction == "mul":
        return (lambda: scatter(g, updates, "mul"),)
    kept = op.mask(op.Equal(x, node.y), g)
    won = op.mask(op.Equal(updates, pick(node.y)), g)
    share = op.Div(g, add_at(operator, kept, indices, won, op, **axis))
    return lambda: op.Mul(share, kept), None, lambda: op.Mul(pick(share), won)


@vjp("TopK", 11, 24, all_outputs=True)
def top_k(g: tuple[ir.Value | None, ...], node: ForwardNode, op: Builder) -> Cotangents:
    """DX = dValues at the places that the values came from; at ties where Indices says.

    They are all different, so that nothing is added up.
    """
    values, indices = g[0], node.node.outputs[1]
    assert values is not None  # the indices are integers and have no cotangent
    zeros = _zeros(node.x, op)
    return (op.ScatterElements(zeros, indices, values, axis=int(node.attribute("axis"))),)


def _zeros(like: ir.Value, op: Builder) -> ir.Value:
    return op.expand_to(op.constant(np.array(0.0), like.dtype), like)
