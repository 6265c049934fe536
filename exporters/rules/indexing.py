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
    if int(node.attribute("batch_dims")):
        raise node.error("its batch_dims are not 0, which this gradient does not cover.")
    return (add_at("ScatterND", _zeros(node.x, op), node.inputs[1], g, op),)


@vjp("ScatterElements", 16, 18)
def scatter_elements(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = g, with 0 where an update replaced X; dupdates[j] = g[indices[j]] along the axis."""
    _, indices, updates = node.inputs
    axis = int(node.attribute("axis"))

    def data() -> ir.Value:
        if _adds(node):
            return g
        return op.ScatterElements(g, indices, _zeros(updates, op), axis=axis)

    return data, None, lambda: op.GatherElements(g, indices, axis=axis)


@vjp("ScatterND", 16, 18)
def scatter_nd(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = g, with 0 where an update replaced X; dupdates[j] = g[indices[j]]."""
    _, indices, updates = node.inputs

    def data() -> ir.Value:
        return g if _adds(node) else op.ScatterND(g, indices, _zeros(updates, op))

    return data, None, lambda: op.GatherND(g, indices)


@vjp("TopK", 11, 24, all_outputs=True)
def top_k(g: tuple[ir.Value | None, ...], node: ForwardNode, op: Builder) -> Cotangents:
    """DX = dValues at the places that the values came from; at ties where Indices says.

    They are all different, so that nothing is added up.
    """
    values, indices = g[0], node.node.outputs[1]
    assert values is not None  # the indices are integers and have no cotangent
    zeros = _zeros(node.x, op)
    return (op.ScatterElements(zeros, indices, values, axis=int(node.attribute("axis"))),)


def _adds(node: ForwardNode) -> bool:
    """Whether updates are added, rather than put in place.

    Raises:
        GradientError: another reduction.
    """
    reduction = node.attribute("reduction")
    if reduction not in ("none", "add"):
        raise node.error(f"its reduction {reduction!r} is not covered; 'none' and 'add' are.")
    return bool(reduction == "add")


def _zeros(like: ir.Value, op: Builder) -> ir.Value:
    return op.expand_to(op.constant(np.array(0.0), like.dtype), like)
