"""Cases of arithmetic, other element-wise functions, and activations."""

import numpy as np
from onnx import TensorProto
from rule_case import Case, Node, Sample, one, several

__all__ = ["BROADCASTS", "CASES"]

# The eight ways in which two shapes meet, after onnxruntime's training tests.
BROADCASTS: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((2, 3, 4, 5), (2, 3, 4, 5)),
    ((2, 3, 4, 5), ()),
    ((2, 3, 4, 5), (5,)),
    ((2, 3, 4, 5), (4, 5)),
    ((1, 4, 5), (2, 3, 1, 1)),
    ((3, 4, 5), (2, 1, 1, 1)),
    ((2, 1, 1, 5), (1, 3, 4, 1)),
    ((), (2, 3, 4, 5)),
)
_X = (2, 3, 4)


def _batch(*shapes: tuple[int, ...]) -> dict[int, tuple[int, ...]]:
    """The batch axis is dynamic where an input has it."""
    return {i: (0,) for i, shape in enumerate(shapes) if len(shape) == 4 and shape[0] == 2}


def _binary() -> list[Case]:
    ranges = {
        "Add": (-2.0, 2.0, -2.0, 2.0),
        "Sub": (-2.0, 2.0, -2.0, 2.0),
        "Mul": (-2.0, 2.0, -2.0, 2.0),
        "Div": (-2.0, 2.0, 0.5, 2.0),
        "Pow": (0.5, 2.0, -2.0, 2.5),
        "Min": (-2.0, 2.0, -2.0, 2.0),
        "Max": (-2.0, 2.0, -2.0, 2.0),
    }
    cases = []
    for operator, (low, high, low_b, high_b) in ranges.items():
        for a, b in BROADCASTS:
            left, right = Sample(a, low, high), Sample(b, low_b, high_b)
            name = f"{a}with{b}".replace(" ", "")
            both = {"wrt": (0, 1), "dynamic": _batch(a, b)}
            cases.append(one(operator, name, left, right, **both))
            if operator in ("Mul", "Pow", "Max"):
                free = _batch(a) if b[:1] != (2,) else {}
                cases.append(one(operator, f"{name},constant", left, right, dynamic=free))
            if operator in ("Div", "Pow"):
                free = _batch((), b) if a[:1] != (2,) else {}
                cases.append(one(operator, f"constant,{name}", left, right, wrt=(1,), dynamic=free))
    # A slope is broadcast to X, never the other way round.
    for a, b in (*BROADCASTS[:4], ((2, 3, 4, 5), (3, 1, 1)), ((2, 3, 4), (3, 1)), ((2, 3), (1,))):
        x, slope = Sample(a, kinks=(0.0,)), Sample(b, -0.5, 0.5)
        name = f"{a}with{b}".replace(" ", "")
        both = {"wrt": (0, 1), "dynamic": _batch(a)}
        cases.append(one("PRelu", name, x, slope, **both))
        cases.append(one("PRelu", f"{name},constant", x, slope, dynamic=_batch(a)))
    return cases


def _powers() -> list[Case]:
    cases = [
        one("Pow", f"exponent {p}", Sample(_X, -2.0, 2.0, (0.0,)), np.array(p), flat=p == 0.0)
        for p in (0.0, 1.0, 2.0, 3.0, -1.0, -2.0)
    ]
    cases += [
        one("Pow", f"root {p}", Sample(_X, 0.2, 2.0), np.array([p])) for p in (0.5, 1.5, -0.5)
    ]
    return [
        *cases,
        one("Pow", "whole exponent", Sample(_X, -2.0, 2.0, (0.0,)), np.array(3, np.int64)),
        one("Pow", "whole exponent 32", Sample(_X, 0.5, 2.0), np.array([2, 3, 1, -1], np.int32)),
        one(
            "Pow",
            "exponent at run time",
            Sample(_X, 0.5, 2.0),
            np.array([2, 3, 0, 1], np.int64),
            runtime=(1,),
        ),
        one("Pow", "rows of exponents", Sample(_X, 0.5, 2.0), np.array([1.0, 2.0, 0.5, -1.0])),
    ]


def _extrema() -> list[Case]:
    cases = []
    for operator in ("Min", "Max"):
        cases += [
            one(operator, "one input", _X),
            one(operator, "three inputs", _X, (4,), (3, 1), wrt=(0, 1, 2), dynamic={0: (0,)}),
            one(operator, "against a number", Sample(_X, kinks=(0.5,)), np.array(0.5)),
        ]
    return cases


def _remainders() -> list[Case]:
    """Away from whole quotients, where the remainder jumps."""
    quotient = Sample(_X, -3.9, 3.9, (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)).draw("quotient")
    divisor = Sample((4,), 0.5, 2.0).draw("divisor") * np.array([1.0, -1.0, 1.0, -1.0])
    cases = []
    for b in (divisor, np.abs(divisor)):
        whole = {"wrt": (0, 1), "dynamic": {0: (0,)}}
        name = "any sign" if (b < 0).any() else "positive"
        a = np.float32(quotient * b).astype(np.float64)
        cases.append(one("Mod", f"fmod,{name}", a, b, fmod=1, **whole))
        cases.append(one("Mod", f"floor,{name}", a, b, since=28, runs=False, **whole))
    return cases


def _joint() -> list[Case]:
    """Sum and Mean of several tensors, and Where."""
    cases = []
    for operator in ("Sum", "Mean"):
        cases += [
            one(operator, "three inputs", _X, (4,), (3, 1), wrt=(0, 1, 2), dynamic={0: (0,)}),
            one(operator, "one input", _X),
            one(operator, "with a constant", _X, (4,)),
            one(
                operator,
                "unequal ranks",
                (3, 1),
                (2, 1, 5),
                wrt=(0, 1),
                dynamic={1: (0,)},
                oracle="runtime",
            ),
        ]
    random = np.random.default_rng(11)
    for a, b in BROADCASTS:
        for shape in {(2, 3, 4, 5), b}:
            chosen = random.integers(0, 2, shape) > 0 if shape else np.array(True)
            name = f"{a}with{b}if{shape}".replace(" ", "")
            both = {"wrt": (1, 2), "dynamic": {}, "runtime": (0,)}
            if shape:
                cases.append(one("Where", name, chosen, a, b, **both))
    cases.append(one("Where", "batch", random.integers(0, 2, (3, 4)) > 0, _X, (3, 1), wrt=(1,)))
    cases.append(one("Where", "other", random.integers(0, 2, (3, 4)) > 0, (4,), _X, wrt=(2,)))
    return cases


def _unary() -> list[Case]:
    zero = (0.0,)
    cases = [
        one(
            operator,
            f"{shape}",
            Sample(shape, low, high, kinks),
            precise=28 if operator == "Celu" else None,
        )
        for operator, low, high, kinks in (
            ("Neg", -2.0, 2.0, ()),
            ("Sqrt", 0.2, 3.0, ()),
            ("Exp", -2.0, 2.0, ()),
            ("Log", 0.2, 3.0, ()),
            ("Erf", -2.0, 2.0, ()),
            ("Abs", -2.0, 2.0, zero),
            ("Identity", -2.0, 2.0, ()),
            ("Dropout", -2.0, 2.0, ()),
            ("Relu", -2.0, 2.0, zero),
            ("LeakyRelu", -2.0, 2.0, zero),
            ("Elu", -2.0, 2.0, zero),
            ("Selu", -2.0, 2.0, zero),
            ("Sigmoid", -4.0, 4.0, ()),
            ("Tanh", -3.0, 3.0, ()),
            ("HardSigmoid", -4.0, 4.0, (-2.5, 2.5)),
            ("HardSwish", -5.0, 5.0, (-3.0, 3.0)),
            ("Softplus", -4.0, 4.0, ()),
            ("Mish", -4.0, 4.0, ()),
            ("Gelu", -3.0, 3.0, ()),
            ("Reciprocal", 0.3, 2.0, ()),
            ("Sin", -3.0, 3.0, ()),
            ("Cos", -3.0, 3.0, ()),
            ("Tan", -1.2, 1.2, ()),
            ("Asin", -0.9, 0.9, ()),
            ("Acos", -0.9, 0.9, ()),
            ("Atan", -3.0, 3.0, ()),
            ("Sinh", -2.0, 2.0, ()),
            ("Cosh", -2.0, 2.0, ()),
            ("Asinh", -3.0, 3.0, ()),
            ("Acosh", 1.2, 4.0, ()),
            ("Atanh", -0.9, 0.9, ()),
            ("Softsign", -3.0, 3.0, zero),
            ("Celu", -3.0, 3.0, zero),
            ("ThresholdedRelu", -2.0, 3.0, (1.0,)),
            ("Shrink", -2.0, 2.0, (-0.5, 0.5)),
            ("Swish", -4.0, 4.0, ()),
        )
        for shape in ((2, 3, 4, 5), (11,))
    ]
    x = Sample(_X, kinks=zero)
    number = np.array
    return [
        *cases,
        *(one("LeakyRelu", f"alpha={a}", x, alpha=a) for a in (0.3, 1.5, -0.2, 0.0)),
        *(one("Elu", f"alpha={a}", x, alpha=a) for a in (0.5, 2.0)),
        one("Elu", "far from zero", Sample(_X, -30.0, 100.0)),
        one("Selu", "alpha=1.2,gamma=0.7", x, alpha=1.2, gamma=0.7),
        one(
            "HardSigmoid", "alpha=0.5,beta=0.3", Sample(_X, kinks=(-0.6, 1.4)), alpha=0.5, beta=0.3
        ),
        one("HardSigmoid", "PyTorch's", Sample(_X, -5.0, 5.0, (-3.0, 3.0)), alpha=1.0 / 6.0),
        one("Gelu", "approximate=none", Sample(_X), approximate="none"),
        one("Gelu", "approximate=tanh", Sample(_X, -3.0, 3.0), approximate="tanh"),
        one("Clip", "none", _X),
        one("Clip", "low", Sample(_X, kinks=(-1.0,)), number(-1.0)),
        one("Clip", "high", Sample(_X, kinks=(1.0,)), None, number(1.0)),
        one("Clip", "both", Sample(_X, -4.0, 8.0, (0.0, 6.0)), number(0.0), number(6.0)),
        one(
            "Clip",
            "bounds at run time",
            Sample(_X, kinks=(-1.0, 0.5)),
            number(-1.0),
            number(0.5),
            runtime=(1, 2),
        ),
        *(
            one("Clip", name, Sample(_X, kinks=(-0.5, 0.75)), *bounds, wrt=wrt)
            for name, bounds, wrt in (
                ("bounds", (number(-0.5), number(0.75)), (1, 2)),
                ("lower bound", (number(-0.5),), (0, 1)),
                ("upper bound", (None, number(0.75)), (0, 2)),
            )
        ),
        one("Clip", "crossed bounds", _X, number(0.5), number(-0.75), wrt=(2,)),
        one("Clip", "all inside", _X, number(-3.0), number(3.0)),
        *(one("Celu", f"alpha={a}", x, alpha=a, precise=28) for a in (0.5, 2.0)),
        one("ThresholdedRelu", "alpha=0", x, alpha=0.0),
        one("ThresholdedRelu", "alpha=-0.7", Sample(_X, kinks=(-0.7,)), alpha=-0.7),
        one("Shrink", "biased", Sample(_X, kinks=(-0.9, 0.9)), lambd=0.9, bias=0.3),
        one("Swish", "alpha=1.7", _X, alpha=1.7),
        one("Dropout", "ratio", _X, number(0.3)),
        one("Dropout", "training_mode false", _X, number(0.3), np.array(False)),
        one("Dropout", "mask unused", _X, outputs=2),
        one("Relu", "scalar", number(1.5)),
    ]


def _casts() -> list[Case]:
    """Casts between floats, whose rounding only the runtime's own differences see through."""
    double, single, half = TensorProto.DOUBLE, TensorProto.FLOAT, TensorProto.FLOAT16
    nodes = (
        Node("Cast", ["x"], ["wide"], {"to": double}),
        Node("Cast", ["wide"], ["y"], {"to": single}),
    )
    scaled = (
        Node("Cast", ["x"], ["wide"], {"to": double}),
        Node("Cast", ["factor"], ["wide factor"], {"to": double}),
        Node("Mul", ["wide", "wide factor"], ["scaled"]),
        Node("Cast", ["scaled"], ["y"], {"to": single}),
    )
    return [
        one("Cast", "to double", _X, to=double),
        one("Cast", "to the same", _X, to=single, oracle="runtime"),
        one("Cast", "from double", _X, to=single, dtype="float64", oracle="runtime"),
        one("Cast", "to half", _X, to=half, oracle="runtime", tolerance=5e-3),
        one("Cast", "from half", _X, to=single, dtype="float16", oracle="runtime", tolerance=5e-3),
        several("Cast", "there and back", {"x": _X}, *nodes, oracle="runtime"),
        several("Cast", "with a product", {"x": _X, "factor": (4,)}, *scaled, oracle="runtime"),
    ]


CASES = [*_binary(), *_powers(), *_extrema(), *_remainders(), *_joint(), *_unary(), *_casts()]
