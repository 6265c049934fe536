"""Matrix products."""

import onnx_ir as ir

from deepinside.exporters.builder import Builder
from deepinside.exporters.registry import Cotangents, ForwardNode, vjp
from deepinside.exporters.shapes import broadcast

__all__: list[str] = []


@vjp("Gemm", 13)
def gemm(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DA' = alpha g B'^T, dB' = alpha A'^T g, dC = beta g for Y = alpha A' B' + beta C.

    A': [m, k] is A or A^T, B': [k, n] is B or B^T, g: [m, n].
    """
    a, b = node.inputs[:2]
    alpha, beta = float(node.attribute("alpha")), float(node.attribute("beta"))
    trans_a, trans_b = int(node.attribute("transA")), int(node.attribute("transB"))

    def left() -> ir.Value:
        if trans_a:  # dA = alpha B' g^T
            return op.Gemm(b, g, alpha=alpha, transA=trans_b, transB=1)
        return op.Gemm(g, b, alpha=alpha, transB=1 - trans_b)

    def right() -> ir.Value:
        if trans_b:  # dB = alpha g^T A'
            return op.Gemm(g, a, alpha=alpha, transA=1, transB=trans_a)
        return op.Gemm(a, g, alpha=alpha, transA=1 - trans_a)

    return left, right, lambda: op.Mul(g, beta)


@vjp("MatMul", 13)
def matmul(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DA = g B^T, dB = A^T g, with numpy's batch broadcasting and 1-D operands.

    A: [..., m, k], B: [..., k, n], g: [..., m, n].
    """
    a, b = node.inputs
    shape_a, shape_b = node.shape(a), node.shape(b)
    one = op.shapes.dim(1)
    if len(shape_a) == 1:
        a, shape_a = op.Unsqueeze(a, [0]), (one, *shape_a)
        g = op.Unsqueeze(g, [-2 if len(shape_b) > 1 else -1])
    if len(shape_b) == 1:
        b, shape_b = op.Unsqueeze(b, [1]), (*shape_b, one)
        g = op.Unsqueeze(g, [-1])
    op.shapes.record(a, shape_a)
    op.shapes.record(b, shape_b)
    batch = broadcast(shape_a[:-2], shape_b[:-2])

    def back_to(index: int, full: ir.Value, tail: tuple[tuple[int, ...], ...]) -> ir.Value:
        """Give a cotangent of a promoted operand the operand's own rank."""
        original = node.inputs[index]
        op.shapes.record(full, (*batch, *tail))
        if node.rank(original) > 1:
            return full
        extra = list(range(len(batch)))
        summed = op.reduce("ReduceSum", full, extra, keepdims=False) if extra else full
        return op.Squeeze(summed, [0 if index == 0 else 1])

    return (
        lambda: back_to(0, op.MatMul(g, op.transpose(b)), shape_a[-2:]),
        lambda: back_to(1, op.MatMul(op.transpose(a), g), shape_b[-2:]),
    )
