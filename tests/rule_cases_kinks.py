"""Kinks and ties, where no derivative exists: the choice is that of PyTorch's autograd."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from gradcheck import GradientMismatch, run_gradient
from rule_case import Case, Node, one, several

__all__ = ["KINKS", "Kink", "check_kink"]


@dataclass(frozen=True)
class Kink:
    """A case whose inputs lie on kinks, and the same function in PyTorch."""

    case: Case
    function: Callable[..., torch.Tensor]

    def __str__(self) -> str:
        return str(self.case)


def check_kink(kink: Kink, opset: int) -> None:
    """Compare the gradients with autograd's.

    Raises:
        GradientMismatch: they differ.
    """
    case = kink.case
    tensors = [
        torch.tensor(value, dtype=torch.float32, requires_grad=name in case.wrt)
        for name, value in case.values.items()
    ]
    y = kink.function(*tensors)
    seed = np.random.default_rng(3).uniform(0.5, 1.5, tuple(y.shape)).astype(np.float32)
    y.backward(torch.tensor(seed))
    for name, tensor in zip(case.values, tensors, strict=True):
        if name not in case.wrt:
            continue
        result, dx = run_gradient(case, name, seed, opset)
        np.testing.assert_allclose(result, y.detach().numpy(), rtol=1e-5, atol=1e-6)
        assert tensor.grad is not None
        expected = tensor.grad.numpy()
        if dx.shape != expected.shape or not np.allclose(dx, expected, rtol=1e-5, atol=1e-6):
            raise GradientMismatch(f"{case}, {name}: {dx}, but PyTorch's is {expected}")


def _on(*points: float) -> np.ndarray:
    """The points, and some on either side."""
    return np.array([[p + d for p in points for d in (-1.0, 0.0, 1.0)]])


def _ties(*shape: int, levels: int = 3) -> np.ndarray:
    """Whole numbers, each of them many times."""
    return np.random.default_rng(5).integers(-1, levels - 1, shape).astype(np.float64)


_NUMBER = np.array
_ZERO = _on(0.0)

_ACTIVATIONS = [
    Kink(one("Relu", "zero", _ZERO), F.relu),
    Kink(one("LeakyRelu", "zero", _ZERO, alpha=0.2), lambda x: F.leaky_relu(x, 0.2)),
    Kink(one("PRelu", "zero", _ZERO, _NUMBER([0.3]), wrt=(0, 1), dynamic={}), F.prelu),
    Kink(one("Elu", "zero", _ZERO, alpha=1.7), lambda x: F.elu(x, 1.7)),
    Kink(one("Selu", "zero", _ZERO), F.selu),
    Kink(
        one("Clip", "relu6", _on(0.0, 6.0), _NUMBER(0.0), _NUMBER(6.0)),
        lambda x, low, high: F.relu6(x),
    ),
    Kink(
        one("Clip", "hardtanh", _on(-1.0, 1.0), _NUMBER(-1.0), _NUMBER(1.0)),
        lambda x, low, high: F.hardtanh(x),
    ),
    Kink(one("HardSigmoid", "+-3", _on(-3.0, 3.0), alpha=1.0 / 6.0), F.hardsigmoid),
    Kink(one("HardSwish", "+-3", _on(-3.0, 0.0, 3.0)), F.hardswish),
    Kink(one("Celu", "zero", _ZERO, alpha=0.7), lambda x: F.celu(x, 0.7)),
    Kink(one("Softsign", "zero", _ZERO), F.softsign),
    Kink(one("ThresholdedRelu", "one", _on(1.0)), lambda x: F.threshold(x, 1.0, 0.0)),
    Kink(
        one("ThresholdedRelu", "negative", _on(0.0, -1.0), alpha=-1.0),
        lambda x: F.threshold(x, -1.0, 0.0),
    ),
    Kink(one("Shrink", "+-1", _on(-1.0, 1.0), lambd=1.0), lambda x: F.hardshrink(x, 1.0)),
    Kink(
        one("Shrink", "+-1, biased", _on(-1.0, 1.0), lambd=1.0, bias=1.0),
        lambda x: F.softshrink(x, 1.0),
    ),
    Kink(
        several(
            "Where",
            "root of the positive",
            {"x": _ZERO, "zero": np.array(0.0)},
            Node("Greater", ["x", "zero"], ["positive"]),
            Node("Where", ["positive", "x", "zero"], ["t"]),
            Node("Sqrt", ["t"], ["y"]),
        ),
        lambda x, zero: torch.sqrt(torch.where(x > 0, x, zero)),
    ),
    Kink(one("Abs", "zero", _ZERO), torch.abs),
    Kink(one("Pow", "square of zero", _ZERO, _NUMBER(2.0)), torch.pow),
    Kink(one("Pow", "first power of zero", _ZERO, _NUMBER(1.0)), torch.pow),
    Kink(
        one(
            "Pow",
            "powers of zero",
            np.zeros((1, 3)),
            _NUMBER([3.0, 2.0, 1.0]),
            wrt=(0, 1),
            dynamic={},
        ),
        torch.pow,
    ),
    Kink(one("Pow", "powers of zero with zero", np.zeros((1, 2)), _NUMBER([0.0, 1.0])), torch.pow),
    Kink(one("Softplus", "far from zero", _NUMBER([[-90.0, -30.0, 30.0, 90.0]])), F.softplus),
    Kink(one("Gelu", "far from zero", _NUMBER([[-90.0, -30.0, 30.0, 90.0]])), F.gelu),
    Kink(one("Mish", "far from zero", _NUMBER([[-90.0, -30.0, 30.0, 90.0]])), F.mish),
    Kink(one("Sigmoid", "far from zero", _NUMBER([[-90.0, -30.0, 30.0, 90.0]])), torch.sigmoid),
    Kink(one("Elu", "far from zero", _NUMBER([[-200.0, -90.0, 90.0, 200.0]])), F.elu),
]

_EXTREMA = [
    Kink(one(operator, f"ties {a}with{b}", _ties(*a), _ties(*b), wrt=(0, 1), dynamic={}), function)
    for operator, function in (("Max", torch.maximum), ("Min", torch.minimum))
    for a, b in (((2, 3, 4), (2, 3, 4)), ((2, 3, 4), (4,)), ((3, 1), (2, 1, 5)))
]


_ROWS = np.array([[0.0, 0.0, 0.0], [2.0, 0.0, 2.0], [0.0, 0.0, -1.0], [3.0, 3.0, 3.0]])
_REDUCTIONS = [
    Kink(one(operator, "rows", _ROWS, np.array([1]), keepdims=0), function)
    for operator, function in (
        ("ReduceMax", lambda x, axis: torch.amax(x, 1)),
        ("ReduceMin", lambda x, axis: torch.amin(x, 1)),
        ("ReduceL1", lambda x, axis: torch.linalg.vector_norm(x, 1, 1)),
        ("ReduceL2", lambda x, axis: torch.linalg.vector_norm(x, 2, 1)),
        ("ReduceProd", lambda x, axis: torch.prod(x, 1)),
    )
]


def _max_pool(spatial: Sequence[int], **options: Any) -> Kink:
    """MaxPool over numbers with many ties; options as torch's."""
    rank = len(spatial)
    lists = {
        name: [value] * rank if isinstance(value, int) else list(value)
        for name, value in options.items()
        if name != "ceil_mode"
    }
    attributes: dict[str, Any] = {"kernel_shape": lists["kernel_size"]}
    attributes["strides"] = lists.get("stride", lists["kernel_size"])
    attributes["dilations"] = lists.get("dilation", [1] * rank)
    attributes["pads"] = lists.get("padding", [0] * rank) * 2
    attributes["ceil_mode"] = int(options.get("ceil_mode", False))
    function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[rank - 1]
    name = f"ties {tuple(spatial)},{options}"
    case = one("MaxPool", name, _ties(2, 2, *spatial), dynamic={}, **attributes)
    return Kink(case, lambda x: function(x, **options))


_POOLS = [
    _max_pool((6, 6), kernel_size=2),
    _max_pool((7, 8), kernel_size=3, stride=2),
    _max_pool((7, 8), kernel_size=3, stride=2, padding=1),
    _max_pool((7, 8), kernel_size=3, stride=1, padding=1),
    _max_pool((7, 8), kernel_size=3, stride=2, ceil_mode=True),
    _max_pool((9, 8), kernel_size=(3, 2), stride=(1, 2), padding=(1, 0)),
    _max_pool((9, 8), kernel_size=3, stride=1, dilation=2, padding=1),
    _max_pool((9, 8), kernel_size=2, stride=3, dilation=(2, 3)),
    _max_pool((11, 11), kernel_size=5, stride=1, padding=2),
    _max_pool((9,), kernel_size=3, stride=2, padding=1),
    _max_pool((9,), kernel_size=3, stride=1),
    _max_pool((4, 5, 6), kernel_size=2, stride=1),
    _max_pool((4, 5, 6), kernel_size=3, stride=2, padding=1),
    Kink(one("GlobalMaxPool", "ties", _ties(2, 3, 4, 5)), lambda x: F.adaptive_max_pool2d(x, 1)),
    Kink(one("GlobalMaxPool", "ties, 1-D", _ties(2, 3, 6)), lambda x: F.adaptive_max_pool1d(x, 1)),
]


def _sample(padding: str, *, align: bool) -> Kink:
    """GridSample on whole coordinates, on the borders and outside."""
    places = np.array([-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5])
    grid = np.stack(np.meshgrid(places, places), axis=-1)[None]
    case = one(
        "GridSample",
        f"{padding},{align}",
        (1, 2, 5, 5),
        grid,
        wrt=(0, 1),
        dynamic={},
        padding_mode=padding,
        align_corners=int(align),
    )
    options = {"padding_mode": padding, "align_corners": align}
    return Kink(case, lambda x, grid: F.grid_sample(x, grid, mode="bilinear", **options))


_SAMPLES = [
    _sample(padding, align=align)
    for padding in ("zeros", "border", "reflection")
    for align in (False, True)
]

KINKS = (*_SAMPLES, *_ACTIVATIONS, *_EXTREMA, *_REDUCTIONS, *_POOLS)
