"""Resize along an axis whose size is known at run time only: the weights are worked out there."""

import numpy as np
import onnx_ir as ir

from deepinside.exporters.builder import Builder
from deepinside.exporters.lengths import Size, vector
from deepinside.exporters.registry import ForwardNode

__all__ = ["Scale", "multiply_along", "resample_back"]

# A number, a float32 tensor of shape (1,), or None for the quotient of the two sizes.
Scale = np.float32 | ir.Value | None

_FLOAT = ir.DataType.FLOAT


def resample_back(g: ir.Value, node: ForwardNode, axis: int, scale: Scale, op: Builder) -> ir.Value:
    """The transpose of the interpolation along one axis: g times the matrix of its weights.

    Args:
        g: cotangent of the result.
        node: a Resize of any mode.
        axis: that was resized.
        scale: see `Scale`.
        op: builder.

    Raises:
        GradientError: it is with antialias, whose kernels have as many taps as the scale says.
    """
    if node.attribute("antialias", 0):
        node.size(node.x, axis)
        node.size(node.y, axis)
    return multiply_along(g, axis, _weights(node, axis, scale, op), node.rank(node.x), op)


def multiply_along(g: ir.Value, axis: int, weights: ir.Value, rank: int, op: Builder) -> ir.Value:
    """The axis' values times a matrix (values, results)."""
    others = [a for a in range(rank) if a != axis]
    g = op.MatMul(g if axis == rank - 1 else op.transpose(g, *others, axis), weights)
    return (
        g if axis == rank - 1 else op.transpose(g, *(int(a) for a in np.argsort([*others, axis])))
    )


def _weights(node: ForwardNode, axis: int, scale: Scale, op: Builder) -> ir.Value:
    """The weight of every input in every output, (outputs, inputs), in the type of X."""
    size, count = op.length(node.x, axis), op.length(node.y, axis)
    places = _coordinates(node, _number(size, op), count, scale, op)
    nearest = node.attribute("mode") == "nearest"
    reach = 0 if nearest else 2 if node.attribute("mode") == "linear" else 3
    # Inputs from `-reach` on: what lies outside has the value of the edge.
    inputs = op.Sub(_range(size + 2 * reach, op), float(reach))
    if nearest:
        last = op.Sub(_number(size, op), 1.0)
        chosen = op.Max(op.Min(_round(places, node.attribute("nearest_mode"), op), last), 0.0)
        weights = op.Cast(op.Equal(op.Unsqueeze(chosen, [1]), inputs), to=_FLOAT)
    else:
        distance = op.Abs(op.Sub(op.Unsqueeze(places, [1]), inputs))
        weights = _kernel(node, distance, op)
        inner = op.slice(weights, 1, reach, size + reach)
        if node.attribute("exclude_outside"):
            weights = op.Div(inner, op.reduce("ReduceSum", inner, [1], keepdims=True))
        else:
            before = op.reduce("ReduceSum", op.slice(weights, 1, 0, reach), [1], keepdims=True)
            ends = op.slice(weights, 1, size + reach, size + 2 * reach)
            after = op.reduce("ReduceSum", ends, [1], keepdims=True)
            weights = op.Add(inner, op.pad(before, 1, 0, size - 1, 2))
            weights = op.Add(weights, op.pad(after, 1, size - 1, 0, 2))
    return weights if node.x.dtype == _FLOAT else op.Cast(weights, to=node.x.dtype)


def _coordinates(
    node: ForwardNode, size: ir.Value, count: Size, scale: Scale, op: Builder
) -> ir.Value:
    """Where each output lies in the input; in float32 and in the order in which runtimes round."""
    at, length = _range(count, op), _number(count, op)
    factor = op.Div(length, size) if scale is None else scale
    if isinstance(factor, np.float32):
        factor = op.constant(np.array(factor), _FLOAT)
    if not (isinstance(scale, np.float32) and (scale >= 2 or scale <= 0.5)) and scale is not None:
        # A small picture that a scale of 1.1 leaves as large as it is is copied.
        same = op.Cast(op.Equal(op.Shape(node.x), op.Shape(node.y)), to=_FLOAT)
        same = op.reduce("ReduceMin", same, [0], keepdims=False)
        factor = op.Add(op.Mul(factor, op.Sub(1.0, same)), same)
    mode = node.attribute("coordinate_transformation_mode")
    if mode == "align_corners":
        last = op.Max(op.Sub(length, 1.0), 1.0)
        return op.Div(op.Mul(at, op.Sub(size, 1.0)), last)
    if mode == "asymmetric":
        return op.Div(at, factor)
    middle = op.Div(op.Add(at, 0.5), factor)
    if mode == "tf_half_pixel_for_nn":
        return middle
    pixels = op.Sub(middle, 0.5)
    if mode == "pytorch_half_pixel":  # 0 where there is one output
        return op.Mul(pixels, op.Cast(op.Greater(length, 1.0), to=_FLOAT))
    if mode == "half_pixel_symmetric":
        adjustment = op.Div(length, op.Mul(factor, size))
        return op.Add(pixels, op.Mul(op.Mul(size, 0.5), op.Sub(1.0, adjustment)))
    return pixels


def _round(places: ir.Value, mode: str, op: Builder) -> ir.Value:
    if mode == "floor":
        return op.Floor(places)
    if mode == "ceil":
        return op.Ceil(places)
    if mode == "round_prefer_ceil":
        return op.Floor(op.Add(places, 0.5))
    return op.Ceil(op.Sub(places, 0.5))


def _kernel(node: ForwardNode, d: ir.Value, op: Builder) -> ir.Value:
    """The interpolation kernel: a triangle, or Keys' cubic with parameter a."""
    if node.attribute("mode") == "linear":
        return op.Max(op.Sub(1.0, d), 0.0)
    a = float(node.attribute("cubic_coeff_a"))
    near = op.Add(op.Mul(op.Mul(op.Sub(op.Mul(d, a + 2.0), a + 3.0), d), d), 1.0)
    far = op.Sub(op.Mul(op.Add(op.Mul(op.Sub(op.Mul(d, a), 5.0 * a), d), 8.0 * a), d), 4.0 * a)
    is_near = op.Cast(op.LessOrEqual(d, 1.0), to=_FLOAT)
    is_far = op.Sub(op.Cast(op.Less(d, 2.0), to=_FLOAT), is_near)
    return op.Add(op.Mul(near, is_near), op.Mul(far, is_far))


def _range(size: Size, op: Builder) -> ir.Value:
    """0, 1, ... as float32, `(size,)`."""
    return op.Cast(op.Range(0, op.Squeeze(vector([size]), [0]), 1), to=_FLOAT)


def _number(size: Size, op: Builder) -> ir.Value:
    """A size as float32, `(1,)`."""
    tensor = vector([size])
    return op.Cast(
        tensor if isinstance(tensor, ir.Value) else op.constant(np.array(tensor)), to=_FLOAT
    )
