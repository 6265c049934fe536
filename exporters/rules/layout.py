"""Operators that rearrange, repeat, cut or add up values along axes."""

import numpy as np
import onnx_ir as ir

from deepinside.exporters.builder import Builder
from deepinside.exporters.lengths import Size
from deepinside.exporters.registry import Cotangents, ForwardNode, vjp
from deepinside.exporters.rules.placing import reverse

__all__: list[str] = []


@vjp("DepthToSpace", 13, 28)
def depth_to_space(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = the blocks of g, put back into the channels.

    X: (N, C, H, W), g: (N, C/b^2, H b, W b). By Reshape and Transpose: SpaceToDepth has no CRD
    mode before opset 28, and browsers run it on the CPU.
    """
    b = int(node.attribute("blocksize"))
    width, channels = op.length(node.x, 3), node.size(node.x, 1) // (b * b)
    blocks = op.reshape(g, [0, channels, -1, b, width, b])  # N, c, H, row, W, column
    crd = node.attribute("mode") == "CRD"
    order = (0, 1, 3, 5, 2, 4) if crd else (0, 3, 5, 1, 2, 4)
    return op.reshape_like(op.transpose(blocks, *order), node.x)


@vjp("SpaceToDepth", 13, 28)
def space_to_depth(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = DepthToSpace(g) of the same block size and mode."""
    mode = node.attribute("mode", "DCR")
    return op.DepthToSpace(g, blocksize=int(node.attribute("blocksize")), mode=mode)


@vjp("Tile", 13)
def tile(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = the sum over the copies: g as (r_1, S_1, r_2, S_2, ...), summed over the r_i."""
    repeats = node.constant(1)
    assert repeats is not None
    shape: list[Size] = []
    copies: list[int] = []
    for axis, count in enumerate(int(r) for r in repeats):
        if count != 1:
            copies.append(len(shape))
            shape.append(count)
        shape.append(op.length(node.x, axis) if copies else 0)  # 0 keeps an axis
    if not copies:
        return (g,)
    return (op.reduce("ReduceSum", op.reshape(g, shape), copies, keepdims=False),)


@vjp("Trilu", 14)
def trilu(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = the same triangle of g."""
    upper = int(node.attribute("upper"))
    diagonal = node.input(1)
    return (op.Trilu(g, *([] if diagonal is None else [diagonal]), upper=upper),)


@vjp("CumSum", 14)
def cum_sum(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = the cumulative sum of g in the other direction.

    From the end by reversing g before and after: CumSum's own reverse is wrong in some browsers,
    and the total minus the sum so far cancels digits.
    """
    given = node.constant(1)
    assert given is not None
    axis = node.axis(node.x, int(given.reshape(-1)[0]))
    exclusive = int(node.attribute("exclusive"))

    def running(value: ir.Value) -> ir.Value:
        return op.CumSum(value, op.constant(np.array(axis)), exclusive=exclusive, reverse=0)

    if int(node.attribute("reverse")):
        return (running(g),)
    size = op.length(node.x, axis)
    return (reverse(running(reverse(g, axis, size, op)), axis, size, op),)
