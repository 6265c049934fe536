"""The discrete Fourier transform, as nets that filter in the frequency domain use it."""

import numpy as np
import onnx_ir as ir

from deepinside.exporters.builder import Builder
from deepinside.exporters.registry import Cotangents, ForwardNode, vjp

__all__: list[str] = []


@vjp("DFT", 17, 20)
def dft(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = the transform in the other direction: N * IDFT(g), or DFT(g) / N for an inverse one.

    X: (..., n, ..., 1 or 2), real and imaginary parts last; N is the length of the transform. A
    one-sided spectrum stands for a full one: g gets zeros for the other half, or, where it is the
    input (inverse), the inner frequencies count twice.
    """
    x, rank = node.x, node.rank(node.x)
    axis = node.axis(x, _axis(node))
    size, parts = node.size(x, axis), node.size(x, rank - 1)
    inverse, onesided = int(node.attribute("inverse")), int(node.attribute("onesided"))
    given = node.constant(1)
    half = inverse and onesided
    length = int(given.item()) if given is not None else 2 * (size - 1) if half else size

    if not inverse:
        g = op.pad(g, axis, 0, length - node.size(node.y, axis), rank)
    full = _transform(g, length, axis, node, op, inverse=1 - inverse, onesided=half)
    count = length // 2 + 1 if half else length
    if half:
        inner = np.full(count, 2.0)
        inner[0] = 1.0
        if length % 2 == 0:
            inner[-1] = 1.0
        column = [count if a == axis else 1 for a in range(rank)]
        full = op.Mul(full, (inner / length).reshape(column))
    else:
        full = op.Mul(full, 1.0 / length if inverse else float(length))
    if size < count:
        full = op.slice(full, axis, 0, size)
    full = op.pad(full, axis, 0, max(0, size - count), rank)
    return (op.slice(full, rank - 1, 0, 1) if parts == 1 else full,)


def _axis(node: ForwardNode) -> int:
    if node.version < 20:
        return int(node.attribute("axis"))
    given = node.constant(2)
    return -2 if given is None else int(given.item())


def _transform(
    x: ir.Value,
    length: int,
    axis: int,
    node: ForwardNode,
    op: Builder,
    *,
    inverse: int,
    onesided: int,
) -> ir.Value:
    """DFT of any length along an axis; the axis is an attribute at first, an input later."""
    size = op.constant(np.array(length))
    options = {"inverse": inverse, "onesided": onesided}
    if node.version < 20:
        return op.DFT(x, size, axis=axis, **options)
    return op.DFT(x, size, op.constant(np.array(axis)), **options)
