"""GridSample, as spatial transformers use it: products of dense weights along each axis.

The weight of input h in place p is a hat (linear) or a box (nearest) around p's coordinate, so that
the gradients are matrix products: no scatter, which rounds in any order and is missing from some
runtimes. In exchange intermediates hold C * H * P numbers per image for P places.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from deepinside.exporters.builder import Builder
from deepinside.exporters.registry import Cotangents, ForwardNode, vjp

__all__: list[str] = []


@dataclass(frozen=True)
class _Axis:
    """One spatial axis of size S: weights and their slope with respect to the grid.

    Attributes:
        weights: (N, S, P).
        slope: (N, S, P), of the weights by the grid's entry.
    """

    weights: ir.Value
    slope: ir.Value


@vjp("GridSample", 16, 20, 22)
def grid_sample(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = the sum over places of g times the weights; dgrid = g times X times the weights' slope.

    X: (N, C, *S), grid: (N, *P, d), last axis of S first; g: (N, C, *P). Linear (slopes at whole
    coordinates to the right, as in torch.grid_sample) and nearest, which is flat in the grid.
    """
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(
        node.attribute("mode"), node.attribute("mode")
    )
    if mode == "cubic":
        raise node.error("its mode is cubic, which this gradient does not cover.")
    x, grid = node.inputs
    rank = node.rank(x) - 2
    places = op.Reshape(grid, [0, -1, rank])
    axes = [
        _axis(op.Gather(places, [rank - 1 - i], axis=2), node.size(x, 2 + i), mode, node, op)
        for i in range(rank)
    ]
    flat = op.Reshape(g, [0, 0, -1])

    def input_gradient() -> ir.Value:
        product = op.Unsqueeze(flat, list(range(2, rank + 1)))
        for i in range(rank - 1):
            product = op.Mul(product, op.Unsqueeze(axes[i].weights, _others(i, rank)))
        last = op.transpose(axes[-1].weights, 0, 2, 1)
        return op.MatMul(product, op.Unsqueeze(last, list(range(1, rank))))

    def slope(chosen: int) -> ir.Value:
        factors = [a.slope if i == chosen else a.weights for i, a in enumerate(axes)]
        found = op.MatMul(x, op.Unsqueeze(factors[-1], list(range(1, rank))))
        for i in range(rank - 1):
            found = op.Mul(found, op.Unsqueeze(factors[i], _others(i, rank)))
        summed = op.reduce("ReduceSum", found, list(range(2, rank + 1)), keepdims=False)
        total = op.reduce("ReduceSum", op.Mul(summed, flat), [1], keepdims=False)
        return op.Unsqueeze(total, [2])

    def grid_gradient() -> ir.Value:
        columns = [slope(rank - 1 - k) for k in range(rank)]
        return op.reshape_like(op.Concat(*columns, axis=2), grid)

    return input_gradient, grid_gradient


def _others(i: int, rank: int) -> list[int]:
    """Where (N, S, P) gets axes of length 1 to stand at spatial axis i before the last of rank."""
    return [1, *(axis for axis in range(2, rank + 1) if axis != 2 + i)]


def _axis(u: ir.Value, size: int, mode: str, node: ForwardNode, op: Builder) -> _Axis:
    """The weights of an axis for grid entries u, (N, P, 1), from -1 to 1 over the input."""
    align = bool(node.attribute("align_corners"))
    scale = (size - 1) / 2 if align else size / 2
    at = op.Add(op.Mul(op.transpose(u, 0, 2, 1), scale), (size - 1) / 2)
    at, inner = _padded(at, size, align=align, node=node, op=op)
    pixels = np.arange(size, dtype=np.float64).reshape(size, 1)
    if mode == "nearest":
        weights = op.mask(op.Equal(op.Round(at), pixels), u)
        return _Axis(weights, op.Mul(weights, 0.0))
    weights = op.Max(op.Sub(1.0, op.Abs(op.Sub(at, pixels))), 0.0)
    below = op.Floor(at)
    rise = op.mask(op.Equal(op.Add(below, 1.0), pixels), u)
    slope = op.Sub(rise, op.mask(op.Equal(below, pixels), u))
    factor = scale if inner is None else op.Mul(inner, scale)
    return _Axis(weights, op.Mul(slope, factor))


def _padded(
    at: ir.Value, size: int, *, align: bool, node: ForwardNode, op: Builder
) -> tuple[ir.Value, ir.Value | None]:
    """Coordinates brought into the input as padding_mode says, and their slope (None: 1)."""
    mode, last, slope = node.attribute("padding_mode"), float(size - 1), None
    if mode == "zeros":
        return at, None
    if mode == "reflection":
        low, span = (0.0, last) if align else (-0.5, float(size))
        if span == 0.0:
            return op.Mul(at, 0.0), op.Mul(at, 0.0)
        offset = op.Sub(at, low)
        distance = op.Abs(offset)
        turns = op.Floor(op.Mul(distance, 1.0 / span))
        odd = op.Sub(turns, op.Mul(op.Floor(op.Mul(turns, 0.5)), 2.0))
        rest = op.Sub(distance, op.Mul(turns, span))
        back = op.Mul(odd, op.Sub(span, op.Mul(rest, 2.0)))
        at = op.Add(op.Add(rest, back), low)
        slope = op.Mul(op.Sign(offset), op.Sub(1.0, op.Mul(odd, 2.0)))
    inside = op.mask(op.And(op.Greater(at, 0.0), op.Less(at, last)), at)
    clipped = op.Min(op.Max(at, 0.0), last)
    return clipped, inside if slope is None else op.Mul(slope, inside)
