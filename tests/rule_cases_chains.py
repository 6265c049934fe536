"""Small networks: values used twice, and cotangents that stand for their broadcast.

The sweep keeps the gradient of an average as one number per channel for as long as it can. Where
such a number meets another shape, its broadcasting is what these cases check.
"""

import ast
from typing import Any

import numpy as np
from rule_case import Case, Node, Sample, Spec, several

__all__ = ["CASES"]

_X = (2, 3, 4, 5)
_LAST = np.array([2, 3], np.int64)


def _nodes(text: str) -> list[Node]:
    """`y = Concat(a, b), axis=1; z = Relu(y)` as nodes."""
    found = []
    for line in text.split(";"):
        outputs, right = line.split("=", 1)
        operator, rest = right.split("(", 1)
        inputs, attributes = rest.split(")", 1)
        call = ast.parse(f"f({attributes.strip().lstrip(',')})", mode="eval").body
        assert isinstance(call, ast.Call)
        found.append(
            Node(
                operator.strip(),
                [name.strip() for name in inputs.split(",")],
                [name.strip() for name in outputs.split(",")],
                {str(k.arg): ast.literal_eval(k.value) for k in call.keywords},
            )
        )
    return found


def _chain(name: str, text: str, x: Spec = _X, *, dynamic: Any = None, **inputs: Any) -> Case:
    options = {} if dynamic is None else {"dynamic": {"x": dynamic}}
    return several("chain", name, {"x": x} | inputs, *_nodes(text), **options)


_AWAY = Sample(_X, kinks=(0.0,))
_POSITIVE = Sample(_X, 0.5, 2.0)

_TWICE = [
    _chain("square", "y = Mul(x, x)"),
    _chain("cube", "t = Mul(x, x); y = Mul(t, x)"),
    _chain("twice itself", "y = Add(x, x)"),
    _chain("nothing left", "t = Exp(x); u = Sub(t, t); y = Add(u, x)"),
    _chain("residual", "t = Relu(x); y = Add(t, x)", _AWAY),
    _chain(
        "residual block",
        "t = Conv(x, w1), pads=[1, 1, 1, 1]; u = Sigmoid(t); v = Conv(u, w2); s = Add(v, x);"
        "y = Tanh(s)",
        w1=(8, 3, 3, 3),
        w2=(3, 8, 1, 1),
    ),
    _chain(
        "dense block",
        "a = Conv(x, w), pads=[1, 1, 1, 1]; b = Concat(x, a), axis=1; c = Sigmoid(b);"
        "d = Conv(c, v); y = Concat(b, d), axis=1",
        w=(2, 3, 3, 3),
        v=(4, 5, 1, 1),
    ),
    _chain(
        "split and joined",
        "a, b = Split(x, n), axis=1; t = Exp(b); y = Concat(t, a, b), axis=1",
        n=np.array([1, 2]),
    ),
    _chain(
        "gate",
        "a, b = Split(x, n), axis=3; t = Sigmoid(b); y = Mul(a, t)",
        (2, 3, 4, 6),
        n=np.array([3, 3]),
    ),
]

_COMPACT = [
    _chain(f"mean of {name}", f"t = {call}; y = GlobalAveragePool(t)", x, **inputs)
    for name, call, x, inputs in (
        ("Relu", "Relu(x)", _AWAY, {}),
        ("LeakyRelu", "LeakyRelu(x)", _AWAY, {}),
        ("PRelu", "PRelu(x, s)", _AWAY, {"s": (3, 1, 1)}),
        ("Elu", "Elu(x)", _AWAY, {}),
        ("Clip", "Clip(x, low)", Sample(_X, kinks=(-1.0,)), {"low": np.array(-1.0)}),
        ("HardSwish", "HardSwish(x)", _X, {}),
        ("Sigmoid", "Sigmoid(x)", _X, {}),
        ("Softplus", "Softplus(x)", _X, {}),
        ("Neg", "Neg(x)", _X, {}),
        ("Abs", "Abs(x)", _AWAY, {}),
        ("Sqrt", "Sqrt(x)", _POSITIVE, {}),
        ("Log", "Log(x)", _POSITIVE, {}),
        ("Erf", "Erf(x)", _X, {}),
        ("Identity", "Identity(x)", _X, {}),
        ("Dropout", "Dropout(x)", _X, {}),
        ("Pow", "Pow(x, p)", _POSITIVE, {"p": np.array(3.0)}),
        ("Pow, channels", "Pow(x, p)", _POSITIVE, {"p": (3, 1, 1)}),
        ("Add", "Add(x, b)", _X, {"b": (3, 1, 1)}),
        ("Add, larger", "Add(x, b)", (3, 1, 5), {"b": (2, 3, 4, 5), "dynamic": ()}),
        ("Sub", "Sub(b, x)", _X, {"b": (1, 3, 1, 1)}),
        ("Mul", "Mul(x, b)", _X, {"b": (3, 1, 1)}),
        ("Mul, full", "Mul(x, b)", _X, {"b": (3, 4, 5)}),
        ("Mul, larger", "Mul(x, b)", (2, 3, 1, 5), {"b": (1, 3, 4, 1)}),
        ("Div", "Div(x, b)", _X, {"b": Sample((5,), 0.5, 2.0)}),
        ("Div by", "Div(b, x)", _POSITIVE, {"b": (4, 1)}),
        ("Max", "Max(x, b)", _X, {"b": (3, 1, 1)}),
        ("Min, larger", "Min(x, b)", (2, 1, 4, 5), {"b": (1, 3, 1, 1)}),
        ("Expand", "Expand(x, n)", (2, 3, 1, 5), {"n": np.array([1, 3, 4, 1])}),
        ("Where", "Where(c, x, b)", _X, {"c": np.arange(5) % 2 > 0, "b": (3, 1, 1)}),
        ("Resize", "Resize(x, , s)", _X, {"s": np.array([1, 1, 2, 2], np.float32)}),
        ("ReduceMax", "ReduceMax(x), keepdims=1", _X, {}),
        ("Conv", "Conv(x, w), pads=[1, 1, 1, 1]", _X, {"w": (4, 3, 3, 3)}),
        ("Conv, many channels", "Conv(x, w)", (2, 8, 4, 5), {"w": (4, 8, 3, 3)}),
        ("Conv, stride", "Conv(x, w), strides=[2, 2]", _X, {"w": (4, 3, 3, 3)}),
        ("Conv, patches", "Conv(x, w), strides=[4, 4]", (2, 3, 8, 8), {"w": (5, 3, 4, 4)}),
        ("AveragePool", "AveragePool(x), kernel_shape=[2, 2]", _X, {}),
        (
            "AveragePool, tiles",
            "AveragePool(x), kernel_shape=[2, 2], strides=[2, 2]",
            (2, 3, 4, 6),
            {},
        ),
        ("LRN", "LRN(x), size=3", _X, {}),
        ("Softmax, channels", "Softmax(x), axis=1", _X, {}),
        ("LogSoftmax", "LogSoftmax(x), axis=1", _X, {}),
        ("LayerNormalization", "LayerNormalization(x, s)", _X, {"s": (5,)}),
        (
            "BatchNormalization",
            "BatchNormalization(x, s, b, m, v)",
            _X,
            {"s": (3,), "b": (3,), "m": (3,), "v": Sample((3,), 0.5, 2.0)},
        ),
        ("MatMul", "MatMul(x, w)", _X, {"w": (5, 6)}),
        ("Transpose", "Transpose(x), perm=[0, 3, 1, 2]", _X, {}),
        ("Reshape", "Reshape(x, n)", _X, {"n": np.array([0, 6, 2, 5])}),
        ("Unsqueeze", "Unsqueeze(x, n)", (2, 3, 4), {"n": np.array([3])}),
        ("Squeeze", "Squeeze(x, n)", (2, 3, 1, 4, 5), {"n": np.array([2])}),
        (
            "Slice",
            "Slice(x, a, b, c)",
            _X,
            {"a": np.array([1]), "b": np.array([4]), "c": np.array([3])},
        ),
        ("Gather", "Gather(x, i), axis=2", _X, {"i": np.array([1, 1, 3])}),
        ("Pad", "Pad(x, n)", _X, {"n": np.array([0, 0, 1, 1, 0, 0, 2, 0])}),
        ("Concat", "Concat(x, b), axis=1", (1, 3, 4, 5), {"b": (1, 2, 4, 5), "dynamic": ()}),
        ("GlobalAveragePool", "GlobalAveragePool(x)", _X, {}),
    )
]

_MIXED = [
    _chain(
        "squeeze and excitation",
        "s = GlobalAveragePool(x); t = Conv(s, w1); u = Relu(t); v = Conv(u, w2, b);"
        "g = Sigmoid(v); y = Mul(x, g)",
        w1=(2, 3, 1, 1),
        w2=(3, 2, 1, 1),
        b=(3,),
    ),
    _chain("times its mean", "s = GlobalAveragePool(x); y = Mul(x, s)"),
    _chain(
        "mean of times its mean",
        "s = GlobalAveragePool(x); t = Mul(x, s); y = GlobalAveragePool(t)",
    ),
    _chain(
        "mean of plus its mean", "s = GlobalAveragePool(x); t = Add(s, x); y = GlobalAveragePool(t)"
    ),
    _chain(
        "mean of over its mean",
        "s = GlobalAveragePool(x); t = Div(x, s); u = Exp(t); y = GlobalAveragePool(u)",
        _POSITIVE,
    ),
    _chain(
        "larger of itself and its mean",
        "s = GlobalAveragePool(x); t = Max(x, s); y = GlobalAveragePool(t)",
    ),
    _chain("mean used twice", "s = GlobalAveragePool(x); t = Mul(s, s); y = Add(t, s)"),
    _chain("full plus compact", "t = Tanh(x); s = GlobalAveragePool(t); y = Add(s, t)"),
    _chain(
        "compact plus compact",
        "t = Tanh(x); a = GlobalAveragePool(t); b = ReduceMean(t), keepdims=1; y = Add(a, b)",
    ),
    _chain(
        "two kinds of compact",
        "t = Tanh(x); a = GlobalAveragePool(t); b = ReduceSum(t, one); y = Mul(a, b)",
        one=np.array([1], np.int64),
    ),
    _chain(
        "two kinds of compact, then a layer",
        "u = Conv(x, w); t = Tanh(u); a = GlobalAveragePool(t); b = ReduceSum(t, one);"
        "y = Mul(a, b)",
        one=np.array([1], np.int64),
        w=(4, 3, 1, 1),
    ),
    _chain(
        "normalised",
        "t = Mul(x, x); s = ReduceSum(t, axes); r = Sqrt(s); y = Div(x, r)",
        axes=_LAST,
    ),
    _chain(
        "centred",
        "s = GlobalAveragePool(x); c = Sub(x, s); t = Pow(c, two); v = GlobalAveragePool(t);"
        "y = Div(c, v)",
        two=np.array(2.0),
    ),
    _chain("times its sum", "s = ReduceSum(x), keepdims=0; y = Mul(x, s)", dynamic=()),
    _chain(
        "mean of times its sum",
        "s = ReduceSum(x), keepdims=0; t = Mul(s, x); y = GlobalAveragePool(t)",
        dynamic=(),
    ),
    _chain(
        "lower rank",
        "s = ReduceSum(x, z), keepdims=0; t = Mul(x, s); y = GlobalAveragePool(t)",
        z=np.array([0]),
        dynamic=(),
    ),
    _chain(
        "classifier",
        "c = Conv(x, w); r = Relu(c); p = GlobalAveragePool(r); f = Flatten(p);"
        "y = Gemm(f, v, b), transB=1",
        w=(4, 3, 3, 3),
        v=(6, 4),
        b=(6,),
    ),
    _chain(
        "classifier of unknown size",
        "c = Conv(x, w), pads=[1, 1, 1, 1]; r = Sigmoid(c); e = Add(r, x); "
        "p = GlobalAveragePool(e); f = Flatten(p); y = Gemm(f, v, b), transB=1",
        dynamic=(0, 2, 3),
        w=(3, 3, 3, 3),
        v=(6, 3),
        b=(6,),
    ),
    _chain(
        "sum of unknown size",
        "t = Tanh(x); s = ReduceSum(t, axes); y = Mul(s, x)",
        dynamic=(0, 2, 3),
        axes=_LAST,
    ),
    _chain(
        "mean of unknown size, scaled",
        "t = Mul(x, k); y = GlobalAveragePool(t)",
        dynamic=(0, 2, 3),
        k=(3, 1, 1),
    ),
    _chain(
        "average of an average",
        "s = GlobalAveragePool(x); t = Tanh(s); y = ReduceSum(t), keepdims=0",
        dynamic=(),
    ),
    _chain("one pixel", "t = Tanh(x); y = GlobalAveragePool(t)", (2, 3, 1, 1)),
    _chain("one channel", "t = Mul(x, k); y = GlobalAveragePool(t)", (2, 1, 4, 5), k=(3, 1, 1)),
    _chain("sum without its axes", "t = Exp(x); y = ReduceSum(t, axes), keepdims=0", axes=_LAST),
    _chain("batch average", "t = Tanh(x); y = ReduceSum(t, z), keepdims=1", z=np.array([0])),
    _chain("through Cast", "w = Cast(x), to=11; t = Exp(w); y = ReduceMean(t)"),
    _chain(
        "part unused",
        "a, b = Split(x, n), axis=1; t = Tanh(b); y = GlobalAveragePool(t)",
        n=np.array([1, 2]),
    ),
    _chain(
        "expanded",
        "t = Expand(x, n); u = Mul(t, k); y = GlobalAveragePool(u)",
        (2, 3, 1, 1),
        n=np.array([1, 1, 4, 5]),
        k=(4, 5),
    ),
    _chain(
        "attention",
        "n = LayerNormalization(x, s, b); q = MatMul(n, wq); k = MatMul(n, wk); v = MatMul(n, wv);"
        "kt = Transpose(k), perm=[0, 2, 1]; l = MatMul(q, kt); a = Softmax(l), axis=-1;"
        "o = MatMul(a, v); r = Add(x, o); e = Erf(r); h = Mul(r, e);"
        "y = ReduceSum(h, one), keepdims=0",
        (2, 4, 6),
        s=(6,),
        b=(6,),
        wq=(6, 3),
        wk=(6, 3),
        wv=(6, 6),
        one=np.array([1], np.int64),
    ),
    _chain(
        "class token",
        "t = Concat(c, x), axis=1; n = LayerNormalization(t, s); y = Gather(n, i), axis=1",
        (1, 4, 6),
        c=(1, 1, 6),
        s=(6,),
        i=np.array(2),
        dynamic=(),
    ),
    _chain("a detour over whole numbers", "f = Floor(x); t = Exp(x); y = Mul(t, f)"),
]

CASES = [*_TWICE, *_COMPACT, *_MIXED]
