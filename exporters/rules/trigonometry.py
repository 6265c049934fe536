"""Trigonometric and hyperbolic functions and their inverses."""

import onnx_ir as ir

from deepinside.exporters.builder import Builder
from deepinside.exporters.registry import ForwardNode, vjp

__all__: list[str] = []


@vjp("Sin", 7, 22, elementwise=True)
def sin(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g * cos(X)."""
    return op.Mul(g, op.Cos(node.x))


@vjp("Cos", 7, 22, elementwise=True)
def cos(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = -g * sin(X)."""
    return op.Neg(op.Mul(g, op.Sin(node.x)))


@vjp("Tan", 7, 22, elementwise=True)
def tan(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g * (1 + Y^2)."""
    return op.Mul(g, op.Add(op.Mul(node.y, node.y), 1.0))


@vjp("Asin", 7, 22, elementwise=True)
def asin(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g / sqrt(1 - X^2); infinite at X = 1 and -1."""
    return op.Div(g, op.Sqrt(_one_minus_square(node.x, op)))


@vjp("Acos", 7, 22, elementwise=True)
def acos(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = -g / sqrt(1 - X^2); infinite at X = 1 and -1."""
    return op.Neg(op.Div(g, op.Sqrt(_one_minus_square(node.x, op))))


@vjp("Atan", 7, 22, elementwise=True)
def atan(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g / (1 + X^2)."""
    return op.Div(g, op.Add(op.Mul(node.x, node.x), 1.0))


@vjp("Sinh", 9, 22, elementwise=True)
def sinh(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g * cosh(X)."""
    return op.Mul(g, op.Cosh(node.x))


@vjp("Cosh", 9, 22, elementwise=True)
def cosh(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g * sinh(X)."""
    return op.Mul(g, op.Sinh(node.x))


@vjp("Asinh", 9, 22, elementwise=True)
def asinh(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g / sqrt(X^2 + 1)."""
    return op.Div(g, op.Sqrt(op.Add(op.Mul(node.x, node.x), 1.0)))


@vjp("Acosh", 9, 22, elementwise=True)
def acosh(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g / sqrt(X^2 - 1); infinite at X = 1."""
    return op.Div(g, op.Sqrt(op.Neg(_one_minus_square(node.x, op))))


@vjp("Atanh", 9, 22, elementwise=True)
def atanh(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g / (1 - X^2); infinite at X = 1 and -1."""
    return op.Div(g, _one_minus_square(node.x, op))


def _one_minus_square(x: ir.Value, op: Builder) -> ir.Value:
    """1 - X^2 as (1 - X)(1 + X), which keeps its digits near 1."""
    return op.Mul(op.Sub(1.0, x), op.Add(x, 1.0))
