"""Activation functions; at kinks the choice is PyTorch's.

Masks are taken from the output where that is equivalent, so that a runtime can still fuse the
activation into the layer before it; Cast(Greater) and Mul rather than Where, which is several times
slower on CPUs.
"""

import math
from functools import reduce as fold

import onnx_ir as ir

from deepinside.exporters.builder import Builder
from deepinside.exporters.registry import Cotangents, ForwardNode, vjp

__all__ = ["is_rectifier"]


@vjp("Relu", 14, elementwise=True)
def relu(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g * [Y > 0]; 0 at the kink.

    DeconvNet (Zeiler & Fergus 2014) passes g where g > 0 instead; guided backpropagation
    (Springenberg et al. 2014) where both are positive.
    """
    if node.relu == "deconvnet":
        return op.Max(g, 0.0)
    passed = op.keep(g, node.y)
    if op.shapes.known(g) != op.shapes.known(node.y):  # a compact one, behind a global pool
        passed = op.blocked(passed, node.shape(node.y))
    return passed if node.relu == "gradient" else op.Max(passed, 0.0)


def _rectified(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """The cotangent of a Clip's input; at 0 (ReLU6), with the modes of `relu`."""
    low, high = node.input(1), node.input(2)
    if node.relu != "gradient" and is_rectifier(node.node):
        if node.relu == "deconvnet":
            return op.Max(g, 0.0)
        return op.Max(_keep_inside(g, node, op), 0.0)
    return _keep_inside(g, node, op) if (low or high) is not None else g


def is_rectifier(node: ir.Node) -> bool:
    """Whether the node is a ReLU: Relu, or a Clip from 0 on (ReLU6)."""
    if node.op_type != "Clip" or node.domain:
        return node.op_type == "Relu" and not node.domain
    low = node.inputs[1] if len(node.inputs) > 1 else None
    if low is None or low.const_value is None:
        return False
    return float(low.const_value.numpy()) == 0.0


@vjp("LeakyRelu", 16, elementwise=True)
def leaky_relu(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g where X > 0, else alpha * g."""
    alpha = float(node.attribute("alpha"))
    positive = op.positive(node.y if alpha > 0 else node.x)
    return op.Mul(g, op.Add(op.Mul(positive, 1.0 - alpha), alpha))


@vjp("PRelu", 16, elementwise=True)
def prelu(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = g where X > 0, else slope * g; dslope = g * min(X, 0)."""
    x, slope = node.inputs
    positive = op.positive(x)
    factor = op.Add(positive, op.Mul(op.Sub(1.0, positive), slope))
    return op.Mul(g, factor), lambda: op.Mul(g, op.Min(x, 0.0))


def _exponential_unit(
    g: ir.Value, node: ForwardNode, op: Builder, alpha: float, gamma: float
) -> ir.Value:
    """G * gamma where X > 0, else g * gamma * alpha * exp(X)."""
    positive = op.positive(node.x)
    negative = op.Mul(op.Exp(op.Min(node.x, 0.0)), gamma * alpha)
    factor = op.Add(op.Mul(positive, gamma), op.Mul(op.Sub(1.0, positive), negative))
    return op.Mul(g, factor)


@vjp("Elu", 6, 22, elementwise=True)
def elu(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g where X > 0, else g * alpha * exp(X)."""
    return _exponential_unit(g, node, op, float(node.attribute("alpha")), 1.0)


@vjp("Selu", 6, 22, elementwise=True)
def selu(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g * gamma where X > 0, else g * gamma * alpha * exp(X)."""
    alpha, gamma = float(node.attribute("alpha")), float(node.attribute("gamma"))
    return _exponential_unit(g, node, op, alpha, gamma)


@vjp("Celu", 12, 28, elementwise=True)
def celu(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g * exp(min(X, 0) / alpha)."""
    alpha = float(node.attribute("alpha"))
    return op.Mul(g, op.Exp(op.Mul(op.Min(node.x, 0.0), 1.0 / alpha)))


@vjp("ThresholdedRelu", 10, 22, elementwise=True)
def thresholded_relu(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g where X > alpha; 0 at X = alpha, as in torch's threshold."""
    alpha = float(node.attribute("alpha"))
    seen = node.y if alpha >= 0.0 else node.x  # what was cut off is 0, which is not above alpha
    return op.Mul(g, op.mask(op.Greater(seen, alpha), seen))


@vjp("Shrink", 9, elementwise=True)
def shrink(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g where |X| > lambd; 0 at X = lambd and -lambd, as in torch's softshrink."""
    outside = op.Greater(op.Abs(node.x), float(node.attribute("lambd")))
    return op.Mul(g, op.mask(outside, node.x))


@vjp("Clip", 13, elementwise=True)
def clip(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = g where min < Y < max; 0 at both kinks, as in torch's hardtanh and relu6.

    From 0 on it is a ReLU with a ceiling, whose other backward rules are those of Relu.

    dmin = g where X < min, unless min is above max; dmax = g where X or min is above max.
    """
    low, high = node.input(1), node.input(2)

    def lower() -> ir.Value:
        assert low is not None
        raised = op.And(op.Less(node.x, low), op.Equal(node.y, low))
        return op.Mul(g, op.mask(raised, g))

    def upper() -> ir.Value:
        assert high is not None
        raised = node.x if low is None else op.Max(node.x, low)
        return op.Mul(g, op.mask(op.Greater(raised, high), g))

    return (
        lambda: _rectified(g, node, op),
        lower,
        upper,
    )


def _keep_inside(g: ir.Value, clip: ForwardNode, op: Builder) -> ir.Value:
    """G where the output lies between the bounds, else 0."""
    low, high = clip.input(1), clip.input(2)
    bounds = [(bound, i == 1) for i, bound in enumerate((low, high)) if bound is not None]
    numbers = [(clip.shapes.constant(bound), below) for bound, below in bounds]
    steps = [
        op.step(clip.y, float(number.reshape(-1)[0]), below=below)
        for number, below in numbers
        if number is not None
    ]
    known = [step for step in steps if step is not None]
    if len(known) == len(bounds):
        return op.Mul(g, fold(op.Mul, known))
    inside = []
    if low is not None:
        inside.append(op.Greater(clip.y, low))
    if high is not None:
        inside.append(op.Less(clip.y, high))
    return op.where(fold(op.And, inside), g)


@vjp("Sigmoid", 13, elementwise=True)
def sigmoid(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g * Y * (1 - Y)."""
    return op.Mul(g, op.Mul(node.y, op.complement(node.y)))


@vjp("Tanh", 13, elementwise=True)
def tanh(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g * (1 - Y^2)."""
    return op.Mul(g, op.Sub(1.0, op.Mul(node.y, node.y)))


@vjp("HardSigmoid", 6, 22, elementwise=True)
def hard_sigmoid(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g * alpha where 0 < Y < 1; 0 at both kinks."""
    inside = op.And(op.Greater(node.y, 0.0), op.Less(node.y, 1.0))
    return op.Mul(g, op.Mul(op.mask(inside, node.y), float(node.attribute("alpha"))))


@vjp("HardSwish", 14, 22, elementwise=True)
def hard_swish(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g * (clip(X/6 + 1/2, 0, 1) + X/6 * [-3 < X < 3]); 0 at X = -3 and 1 at X = 3."""
    x = node.x
    gate = op.HardSigmoid(x, alpha=1.0 / 6.0, beta=0.5)
    if op.can_block(node.shape(x), x):
        # 2 gate - [X > -3] / 2 - [X >= 3] / 2, of operators that keep the blocked layout.
        below = op.affine(op.step(x, 3.0, below=True), 0.5, -0.5, node.shape(x))
        above = op.affine(op.step(x, -3.0), -0.5, 0.0, node.shape(x))
        return op.Mul(g, op.Add(op.Add(op.Add(below, gate), above), gate))
    inside = op.And(op.Greater(x, -3.0), op.Less(x, 3.0))
    slope = op.Mul(op.mask(inside, x), op.Mul(x, 1.0 / 6.0))
    return op.Mul(g, op.Add(gate, slope))


@vjp("Softplus", 1, 22, elementwise=True)
def softplus(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g * sigmoid(X)."""
    return op.Mul(g, op.Sigmoid(node.x))


@vjp("Softsign", 1, 22, elementwise=True)
def softsign(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g / (1 + |X|)^2."""
    wide = op.Add(op.Abs(node.x), 1.0)
    return op.Div(g, op.Mul(wide, wide))


@vjp("Swish", 24, elementwise=True)
def swish(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g * s * (1 + alpha * X * (1 - s)) with s = sigmoid(alpha * X)."""
    scaled = op.Mul(node.x, float(node.attribute("alpha")))
    s = op.Sigmoid(scaled)
    return op.Mul(g, op.Mul(s, op.Add(op.Mul(scaled, op.Sub(1.0, s)), 1.0)))


@vjp("Mish", 18, 22, elementwise=True)
def mish(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g * (t + X * sigmoid(X) * (1 - t^2)) with t = tanh(softplus(X))."""
    x = node.x
    t = op.Tanh(op.Softplus(x))
    slope = op.Mul(op.Mul(x, op.Sigmoid(x)), op.Sub(1.0, op.Mul(t, t)))
    return op.Mul(g, op.Add(t, slope))


@vjp("Gelu", 20, elementwise=True)
def gelu(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    """DX = g * (Phi(X) + X * phi(X)), or the derivative of the tanh approximation.

    Phi, phi: distribution and density of the standard normal.
    """
    x = node.x
    if node.attribute("approximate") == "tanh":
        # Y = X/2 * (1 + t), t = tanh(c * (X + 0.044715 X^3)), c = sqrt(2/pi)
        c, square = math.sqrt(2.0 / math.pi), op.Mul(x, x)
        t = op.Tanh(op.Mul(op.Mul(x, op.Add(op.Mul(square, 0.044715), 1.0)), c))
        inner = op.Mul(op.Add(op.Mul(square, 3.0 * 0.044715), 1.0), c)
        slope = op.Mul(op.Mul(op.Sub(1.0, op.Mul(t, t)), inner), op.Mul(x, 0.5))
        return op.Mul(g, op.Add(op.Mul(op.Add(t, 1.0), 0.5), slope))
    # One half of g is taken first: there it can be folded into the layer that g comes from.
    twice_distribution = op.Add(op.Erf(op.Mul(x, math.sqrt(0.5))), 1.0)
    twice_density = op.Mul(op.Exp(op.Mul(op.Mul(x, x), -0.5)), math.sqrt(2.0 / math.pi))
    slope = op.Add(twice_distribution, op.Mul(x, twice_density))
    return op.Mul(op.Mul(g, 0.5), slope)
