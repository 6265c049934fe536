"""Matrix products and other contractions."""

from collections.abc import Callable
from string import ascii_letters

import numpy as np
import onnx_ir as ir

from deepinside.exporters.builder import Builder
from deepinside.exporters.registry import Cotangents, ForwardNode, vjp
from deepinside.exporters.shapes import Dim, broadcast, is_one

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


@vjp("Einsum", 12, 28)
def einsum(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """dX_i = the contraction of g with the other operands, to the indices of X_i.

    An index that X_i alone has is summed over: along it the cotangent stands for its broadcast. An
    index that X_i has twice takes a diagonal: off it the cotangent is 0.
    """
    terms, result = _einsum_terms(node)
    dims: dict[str, Dim] = {}
    for term, x in zip(terms, node.inputs, strict=True):
        for index, dim in zip(term, node.shape(x), strict=True):
            dims[index] = dims[index] if is_one(dim) and index in dims else dim

    def cotangent(i: int) -> Callable[[], ir.Value]:
        others = [*range(i), *range(i + 1, len(terms))]
        given = [result, *(terms[j] for j in others)]
        single = "".join(dict.fromkeys(terms[i]))
        kept = "".join(index for index in single if any(index in term for term in given))

        def emit() -> ir.Value:
            dx = g
            if others or kept != result:
                operands = [g, *(node.inputs[j] for j in others)]
                dx = op.Einsum(*operands, equation=f"{','.join(given)}->{kept}")
            first = [terms[i].index(index) for index in terms[i]]
            alone = [a for a, index in enumerate(terms[i]) if index not in kept or first[a] < a]
            if alone:
                dx = op.Unsqueeze(dx, alone)
            one = op.shapes.dim(1)
            shape = (one if a in alone else dims[index] for a, index in enumerate(terms[i]))
            op.shapes.record(dx, tuple(shape))
            for axis, other in enumerate(first):
                if other < axis:
                    dx = op.Mul(dx, _diagonal(node, i, other, axis))
            return dx

        return emit

    return [cotangent(i) for i in range(len(terms))]


def _diagonal(node: ForwardNode, index: int, first: int, second: int) -> np.ndarray:
    """1 where the positions along two axes of an operand are equal, shaped to broadcast."""
    x = node.inputs[index]
    size = node.size(x, first)
    shape = [size if axis in (first, second) else 1 for axis in range(node.rank(x))]
    return np.eye(size).reshape(shape)


def _einsum_terms(node: ForwardNode) -> tuple[list[str], str]:
    """One letter per axis of each operand and of the result; the ellipsis' axes get their own."""
    equation = str(node.attribute("equation")).replace(" ", "")
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    free = [letter for letter in ascii_letters if letter not in equation]
    hidden = [
        node.rank(x) - len(term.replace("...", ""))
        for term, x in zip(terms, node.inputs, strict=True)
    ]
    ellipsis = "".join(free[: max(hidden)])  # ONNX wants the same number in every operand
    if not arrow:
        plain = left.replace("...", "").replace(",", "")
        once = sorted(index for index in plain if plain.count(index) == 1)
        result = ("..." if "..." in left else "") + "".join(once)
    terms = [term.replace("...", ellipsis) for term in terms]
    return terms, result.replace("...", ellipsis)
