"""Arithmetic and other element-wise functions. The sweep undoes broadcasting.

At kinks and ties the choice is PyTorch's.
"""

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from deepinside.exporters.builder import Builder
from deepinside.exporters.registry import Cotangents, Elsewhere, ForwardNode, vjp

__all__: list[str] = []


@vjp("Add", 14, elementwise=True)
def add(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DA = g, dB = g."""
    return g, g


@vjp("Sub", 14, elementwise=True)
def sub(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DA = g, dB = -g."""
    return g, lambda: op.Neg(g)


@vjp("Mul", 14, elementwise=True)
def mul(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DA = g * B, dB = g * A; for SiLU see `_silu`."""
    a, b = node.inputs
    if _is_sigmoid_of(b, a):
        return lambda: _silu(g, node.y, b, op), Elsewhere.COUNTED
    if _is_sigmoid_of(a, b):
        return Elsewhere.COUNTED, lambda: _silu(g, node.y, a, op)
    return lambda: op.Mul(g, b), lambda: op.Mul(g, a)


def _is_sigmoid_of(s: ir.Value, x: ir.Value) -> bool:
    producer = s.producer()
    return (
        producer is not None
        and (producer.domain, producer.op_type) == ("", "Sigmoid")
        and producer.inputs[0] is x
    )


def _silu(g: ir.Value, y: ir.Value, s: ir.Value, op: Builder) -> ir.Value:
    """DX = g * (s + Y * (1 - s)) for Y = X * s, s = sigmoid(X), both of X's parts at once."""
    return op.Mul(g, op.Add(op.Mul(y, op.complement(s)), s))


@vjp("Div", 14, elementwise=True)
def div(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DA = g / B, dB = -g * Y / B."""
    _, b = node.inputs
    return lambda: op.Div(g, b), lambda: op.Neg(op.Mul(g, op.Div(node.y, b)))


@vjp("Mod", 13, 28, elementwise=True)
def mod(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DA = g, dB = -g * q for Y = A - q B; the quotient's jumps carry no derivative."""
    a, b = node.inputs
    return g, lambda: op.Neg(op.Mul(g, op.Div(op.Sub(a, node.y), b)))


@vjp("Sum", 13, elementwise=True)
def sum_(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """dX_i = g."""
    return [g] * len(node.inputs)


@vjp("Mean", 13, elementwise=True)
def mean(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """dX_i = g / (number of inputs)."""
    count = len(node.inputs)
    return [op.Mul(g, 1.0 / count) if count > 1 else g] * count


@vjp("Where", 16, elementwise=True)
def where(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = g where the condition holds, else 0; dY the other way round.

    Not a mask and Mul: g may be infinite where the other branch was taken to avoid just that, as in
    `sqrt(where(x > 0, x, 0))`, and 0 times infinity is not a number.
    """
    condition = node.inputs[0]
    zero = op.constant(np.array(0.0), node.y.dtype)
    return None, lambda: op.Where(condition, g, zero), lambda: op.Where(condition, zero, g)


@vjp("Neg", 13, elementwise=True)
def neg(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = -g."""
    return op.Neg(g)


@vjp("Reciprocal", 13, elementwise=True)
def reciprocal(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = -g * Y^2."""
    return op.Neg(op.Mul(g, op.Mul(node.y, node.y)))


@vjp("Pow", 15, elementwise=True)
def pow_(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = g * B * X^(B-1), dB = g * Y * ln X, which is 0 where X = 0 (as in PyTorch).

    The exponent may be of another type than X.
    """
    x, b = node.inputs
    known = node.shapes.constant(b)
    exponent = b if b.dtype == x.dtype else op.Cast(b, to=x.dtype)

    def base() -> ir.Value:
        if known is not None and known.size == 1:
            p = float(known.item())
            if p in (0.0, 1.0):
                return op.Mul(g, p)
            return op.Mul(g, op.Mul(x if p == 2.0 else op.Pow(x, p - 1.0), p))
        step = op.mask(op.Not(op.Equal(exponent, 0.0)), exponent)  # X^0 is flat, at X = 0 too
        return op.Mul(g, op.Mul(exponent, op.Pow(x, op.Sub(exponent, step))))

    def power() -> ir.Value:
        zero = op.mask(op.Equal(x, 0.0), x)
        return op.Mul(g, op.Mul(node.y, op.Log(op.Add(x, zero))))

    return base, power


@vjp("Sqrt", 13, elementwise=True)
def sqrt(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g / (2 Y)."""
    return op.Div(op.Mul(g, 0.5), node.y)


@vjp("Exp", 13, elementwise=True)
def exp(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g * Y."""
    return op.Mul(g, node.y)


@vjp("Log", 13, elementwise=True)
def log(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g / X."""
    return op.Div(g, node.x)


@vjp("Erf", 13, elementwise=True)
def erf(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g * 2/sqrt(pi) * exp(-X^2)."""
    return op.Mul(g, op.Mul(op.Exp(op.Neg(op.Mul(node.x, node.x))), 2.0 / math.sqrt(math.pi)))


@vjp("Abs", 13, elementwise=True)
def abs_(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g * sign(X); 0 at X = 0."""
    return op.Mul(g, op.Sign(node.x))


@vjp("Min", 13, elementwise=True)
@vjp("Max", 13, elementwise=True)
def extremum(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """dX_i = g where X_i is the extremum; equal inputs share g evenly, as in torch.maximum."""
    if len(node.inputs) == 1:
        return (g,)
    winners = [op.mask(op.Equal(x, node.y), node.y) for x in node.inputs]
    count = winners[0]
    for winner in winners[1:]:
        count = op.Add(count, winner)
    share = op.Div(g, count)

    def cotangent(winner: ir.Value) -> Callable[[], ir.Value]:
        return lambda: op.Mul(share, winner)

    return [cotangent(winner) for winner in winners]


@vjp("Identity", 16, 19, 21, 23, 24, 25, elementwise=True)
def identity(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g."""
    return g


@vjp("Dropout", 13, 22, elementwise=True)
def dropout(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g: Dropout is the identity at inference."""
    training = node.constant(2)
    if training is not None and bool(training):
        raise node.error("it is in training mode, so that results are random; export in eval mode.")
    return g


@vjp("Cast", 13, 19, 21, 23, 24, 25, 28, elementwise=True)
def cast(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g in X's type (from float to float; casts to integers carry no derivative)."""
    return op.Cast(g, to=node.x.dtype)
