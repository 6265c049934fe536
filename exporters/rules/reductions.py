"""Reductions over axes.

A cotangent with the reduced axes back at length 1 stands for its broadcast; a sum leaves it to the
next operator to broadcast.
"""

import numpy as np
import onnx_ir as ir

from deepinside.exporters.builder import Builder
from deepinside.exporters.registry import Cotangents, ForwardNode, vjp

__all__: list[str] = []


@vjp("ReduceSum", 13)
def reduce_sum(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = g, repeated along the summed axes."""
    return (_restored(g, node, op),)


@vjp("ReduceMean", 13, 18)
def reduce_mean(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = g / (number of elements averaged), repeated along the averaged axes."""
    axes = _reduced_axes(node)
    restored = _restored(g, node, op)
    return (op.divide_by_count(restored, node.x, axes),)


@vjp("ReduceMin", 13, 18, 20)
@vjp("ReduceMax", 13, 18, 20)
def reduce_extremum(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = g where X is the extremum; equal ones share g evenly, as in torch.amax.

    (torch.max over one axis gives all of g to one of them; both are written as this operator.)
    """
    axes, x = _reduced_axes(node), node.x
    winners = op.mask(op.Equal(x, _restored(node.y, node, op)), x)
    count = op.reduce("ReduceSum", winners, axes, keepdims=True) if axes else winners
    return (op.Mul(winners, op.Div(_restored(g, node, op), count)),)


@vjp("ReduceL1", 13, 18)
def reduce_l1(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = g * sign(X); 0 at X = 0."""
    _refuse_no_axes(node)
    return (op.Mul(op.Sign(node.x), _restored(g, node, op)),)


@vjp("ReduceL2", 13, 18)
def reduce_l2(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = g * X / Y; 0 where Y = 0, as in torch.linalg.vector_norm."""
    _refuse_no_axes(node)
    y = _restored(node.y, node, op)
    return (op.Mul(node.x, op.Div(_restored(g, node, op), op.without_zeros(y))),)


@vjp("ReduceSumSquare", 13, 18)
def reduce_sum_square(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = 2 g * X."""
    _refuse_no_axes(node)
    return (op.Mul(node.x, op.Mul(_restored(g, node, op), 2.0)),)


@vjp("ReduceLogSum", 13, 18, 28)
def reduce_log_sum(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = g / sum(X) = g * exp(-Y), repeated along the summed axes."""
    _refuse_no_axes(node)
    each = op.Mul(_restored(g, node, op), op.Exp(op.Neg(_restored(node.y, node, op))))
    return (each,)


@vjp("ReduceLogSumExp", 13, 18, 28)
def reduce_log_sum_exp(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = g * exp(X - Y)."""
    _refuse_no_axes(node)
    share = op.Exp(op.Sub(node.x, _restored(node.y, node, op)))
    return (op.Mul(share, _restored(g, node, op)),)


@vjp("ReduceProd", 13, 18)
def reduce_prod(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = g * (product of the others), also where X or one of the others is 0.

    The others' product is that of all that is not 0, divided by X where that is not 0; it is 0
    where a zero is among the others.
    """
    axes = _reduced_axes(node)
    restored = _restored(g, node, op)
    if not axes:
        return (restored,)
    zero = op.mask(op.Equal(node.x, 0.0), node.x)
    filled = op.Add(node.x, zero)
    others = op.Div(op.reduce("ReduceProd", filled, axes, keepdims=True), filled)
    zeros = op.Sub(op.reduce("ReduceSum", zero, axes, keepdims=True), zero)
    return (op.Mul(op.Mul(others, op.mask(op.Equal(zeros, 0.0), others)), restored),)


def _reduced_axes(node: ForwardNode) -> list[int]:
    """The reduced axes: an attribute in old versions, an input in new ones; none means all."""
    given = node.attribute("axes")
    axes = node.constant(1) if given is None else np.asarray(given)
    if axes is None or axes.size == 0:
        keep_all = bool(node.attribute("noop_with_empty_axes", 0))
        return [] if keep_all else list(range(node.rank(node.x)))
    return sorted(node.axis(node.x, int(axis)) for axis in axes)


def _restored(value: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """G or Y with the reduced axes back at length 1; to the sweep it stands for its broadcast."""
    axes = _reduced_axes(node)
    restored = value
    if axes and not int(node.attribute("keepdims")):
        restored = op.Unsqueeze(value, axes)
    shape = node.shape(node.x)
    op.shapes.record(
        restored,
        tuple(op.shapes.dim(1) if i in axes else dim for i, dim in enumerate(shape)),
    )
    return restored


def _refuse_no_axes(node: ForwardNode) -> None:
    """Runtimes disagree whether a reduction over nothing is the identity or acts on each element.

    Raises:
        GradientError: the node reduces no axis.
    """
    if not _reduced_axes(node):
        raise node.error("it reduces no axis (noop_with_empty_axes); leave the operator out.")
