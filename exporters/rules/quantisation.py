"""Quantised layers, straight through: the gradient is that of the classifier without rounding.

Rounding is flat almost everywhere, so that the true derivative is zero and explains nothing. As in
PyTorch's fake_quantize, the cotangent passes where the value lies in the range of the integers, and
stops where it was cut off; scales and zero points are taken as constants.

Between QuantizeLinear and DequantizeLinear, cotangents are with respect to the number that an
integer stands for, not to the integer, so that no scales need to be multiplied and divided.
"""

import numpy as np
import onnx_ir as ir

from deepinside.exporters.builder import Builder
from deepinside.exporters.registry import ForwardNode, vjp

__all__ = ["STRAIGHT_THROUGH"]

# Their gradients are not derivatives.
STRAIGHT_THROUGH: frozenset[str] = frozenset({"DynamicQuantizeLinear", "QuantizeLinear"})

_RANGES = {
    ir.DataType.INT2: (-2, 1),
    ir.DataType.UINT2: (0, 3),
    ir.DataType.INT4: (-8, 7),
    ir.DataType.UINT4: (0, 15),
    ir.DataType.INT8: (-128, 127),
    ir.DataType.UINT8: (0, 255),
    ir.DataType.INT16: (-(2**15), 2**15 - 1),
    ir.DataType.UINT16: (0, 2**16 - 1),
}


@vjp("QuantizeLinear", 13, 19, 21, 23, 24, 25, 28, elementwise=True)
def quantize_linear(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g where qmin <= round(X / scale) + zero_point <= qmax, else 0."""
    x, scale = node.x, node.inputs[1]
    limits = _RANGES.get(node.y.dtype or ir.DataType.UNDEFINED)
    if limits is None:
        kind = "an unknown type" if node.y.dtype is None else node.y.dtype.name.lower()
        raise node.error(f"it quantises to {kind}, whose gradient is not known.")
    steps = op.Round(op.Div(x, _along_axis(scale, node, op)))
    zero = node.input(2)
    known = node.shapes.constant(zero)
    inside = []
    # Half a step beyond the last integer: whole numbers are compared.
    for compare, limit in ((op.Greater, limits[0] - 0.5), (op.Less, limits[1] + 0.5)):
        if zero is None or (known is not None and known.size == 1):
            offset = 0.0 if known is None else float(known.item())
            inside.append(compare(steps, limit - offset))
        else:
            shift = _along_axis(op.Cast(zero, to=x.dtype), node, op, like=zero)
            inside.append(compare(steps, op.Sub(limit, shift)))
    return op.Mul(g, op.mask(op.And(*inside), x))


@vjp("DequantizeLinear", 13, 19, 21, 23, 24, 25, 28, elementwise=True)
def dequantize_linear(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g * scale / (scale with which X was quantised), which is g for the same scale."""
    source = node.x.producer()
    if source is None or source.op_type not in STRAIGHT_THROUGH:
        raise node.error(
            f"its input comes from {source.op_type if source else 'nowhere'}, which computes with "
            "integers; the gradient is known where QuantizeLinear stands before it."
        )
    dynamic = source.op_type == "DynamicQuantizeLinear"
    before = source.outputs[1] if dynamic else source.inputs[1]
    scale = node.inputs[1]
    assert before is not None
    one, other = (node.shapes.constant(value) for value in (before, scale))
    if before is scale or (one is not None and other is not None and np.array_equal(one, other)):
        return g
    ratio = op.Div(_along_axis(scale, node, op), _along_axis(before, node, op))
    return op.Mul(g, ratio)


@vjp("DynamicQuantizeLinear", 11, all_outputs=True)
def dynamic_quantize_linear(
    g: tuple[ir.Value | None, ...], node: ForwardNode, op: Builder
) -> list[ir.Value | None]:
    """DX = g: the range is that of X, so that nothing is cut off."""
    return [g[0]]


def _along_axis(
    value: ir.Value, node: ForwardNode, op: Builder, like: ir.Value | None = None
) -> ir.Value:
    """A scale or zero point per axis, shaped to broadcast against X."""
    if node.attribute("block_size", 0):
        raise node.error("it quantises the image's data in blocks, which has no gradient rule.")
    if node.rank(like or value) == 0 or node.shapes.dim(1) == node.dim(like or value, 0):
        return value
    axis = node.axis(node.x, int(node.attribute("axis", 1)))
    return op.Reshape(value, [-1] + [1] * (node.rank(node.x) - axis - 1))
