"""Sampling grids, and windows put together to an image."""

import numpy as np
import onnx_ir as ir

from deepinside.exporters.builder import Builder
from deepinside.exporters.registry import Cotangents, ForwardNode, vjp

__all__: list[str] = []


@vjp("AffineGrid", 20)
def affine_grid(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """Dtheta[:, :, k] = the sum of g times coordinate k of every place; k = d: the sum of g.

    theta: (N, d, d+1), g: (N, *S, d), S being (H, W) or (D, H, W); coordinates run from -1 to 1, x
    (along W) first.
    """
    spatial = list(range(1, node.rank(node.y) - 1))
    columns = []
    for axis in reversed(spatial):
        size = node.size(node.y, axis)
        steps = np.arange(size, dtype=np.float64)
        if int(node.attribute("align_corners")):
            at = 2.0 * steps / max(size - 1, 1) - 1.0
        else:
            at = (2.0 * steps + 1.0) / size - 1.0
        shape = [size if a == axis else 1 for a in range(node.rank(node.y))]
        columns.append(op.Mul(g, at.reshape(shape)))
    columns.append(g)
    sums = [op.reduce("ReduceSum", column, spatial, keepdims=False) for column in columns]
    return (op.Concat(*(op.Unsqueeze(each, [2]) for each in sums), axis=2),)


@vjp("Col2Im", 18)
def col2im(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = the windows of g, as a convolution whose kernels pick one place each.

    X: (N, C * K, L), K places per window and L windows; g: (N, C, *S).
    """
    block = node.constant(2)
    assert block is not None
    kernel = [int(k) for k in block]
    rank, places = len(kernel), int(np.prod(kernel))
    sizes = [node.size(node.y, axis) for axis in range(2, 2 + rank)]
    picks = op.constant(np.eye(places).reshape(places, 1, *kernel), g.dtype)
    windows = op.Conv(
        op.Reshape(g, [-1, 1, *sizes]),
        picks,
        group=1,
        kernel_shape=kernel,
        strides=node.attribute("strides") or [1] * rank,
        dilations=node.attribute("dilations") or [1] * rank,
        pads=node.attribute("pads") or [0] * (2 * rank),
    )
    return (op.reshape_like(windows, node.x),)
