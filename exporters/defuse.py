"""Writes the fused operators of ONNX Runtime's optimiser out in standard ones.

They come from `SessionOptions.optimized_model_filepath` and from onnxruntime.transformers. Written
out, the file runs everywhere again, and the gradient rules apply. ONNX Runtime fuses them anew.
"""

import math
from collections.abc import Sequence

import onnx_ir as ir

from deepinside.exporters.errors import ClassifierError
from deepinside.exporters.rewriting import Replacement, Writer, rewrite

__all__ = ["defuse"]

# Layouts that belong to one processor: nothing portable is left in such a file.
_BOUND = {"com.microsoft.nchwc", "com.ms.internal.nhwc"}


def defuse(model: ir.Model) -> None:
    """Replace ONNX Runtime's fused operators in the main graph.

    Raises:
        ClassifierError: a node is of a layout bound to one processor, or of a form that standard
            operators do not have.
    """
    for node in model.graph:
        if node.domain in _BOUND:
            raise ClassifierError(
                f"the classifier holds {node.domain}.{node.op_type} (node {node.name!r}), a layout "
                "that ONNX Runtime made for one processor: optimise it at level extended or "
                "basic, or give it as it was before."
            )
    rewrite(model, _REPLACEMENTS)


def _activated(op: Writer, y: ir.Value, name: str, numbers: Sequence[float]) -> ir.Value:
    """An activation by its name; its numbers in the order of FusedConv."""
    if name in ("", "Identity"):
        return y
    if name in ("Relu", "Sigmoid", "Softplus", "Softsign", "Tanh"):
        return op.emit(name, y)[0]
    if name in ("Elu", "LeakyRelu", "ThresholdedRelu"):
        return op.emit(name, y, alpha=numbers[0] if numbers else None)[0]
    if name == "HardSigmoid":
        alpha, beta = (*numbers, None, None)[:2]
        return op.HardSigmoid(y, alpha=alpha, beta=beta)
    if name == "Clip" and len(numbers) == 2:
        return op.Clip(y, *(op.number(number, op.input(1)) for number in numbers))
    raise op.error(f"its activation {name!r} is not known")


def _rest(node: ir.Node, *taken: str) -> dict[str, object]:
    """The attributes besides some."""
    return {name: a.value for name, a in node.attributes.items() if name not in taken}


def _fused_conv(node: ir.Node, op: Writer) -> ir.Value:
    """Conv, the sum with Z, an activation."""
    x, w, b, z = (op.input(index) for index in range(4))
    y = op.Conv(x, w, b, **_rest(node, "activation", "activation_params"))
    if z is not None:
        y = op.Add(y, z)
    numbers = node.attributes.get_floats("activation_params", ())
    return _activated(op, y, node.attributes.get_string("activation", ""), numbers or ())


def _nhwc_conv(node: ir.Node, op: Writer) -> ir.Value:
    """Conv of `(N, H, W, C)` with a weight `(M, kh, kw, C/group)`."""
    x, w, b = (op.input(index) for index in range(3))
    moved = (op.Transpose(value, perm=[0, 3, 1, 2]) for value in (x, w))
    return op.Transpose(op.Conv(*moved, b, **_rest(node)), perm=[0, 2, 3, 1])


def _activation_numbers(node: ir.Node) -> list[float]:
    names = (f"activation_{name}" for name in ("alpha", "beta", "gamma"))
    return [node.attributes[name].as_float() for name in names if name in node.attributes]


def _fused_gemm(node: ir.Node, op: Writer) -> ir.Value:
    """Gemm, an activation."""
    plain = {name: value for name, value in _rest(node).items() if "activation" not in name}
    y = op.Gemm(*node.inputs, **plain)
    kind = node.attributes.get_string("activation", "")
    return _activated(op, y, kind, _activation_numbers(node)[: 2 if kind == "HardSigmoid" else 1])


def _fused_matmul(node: ir.Node, op: Writer) -> ir.Value:
    """Alpha * A' @ B', where A' and B' may have axes exchanged; an activation."""
    sides = []
    for side, value in zip("AB", node.inputs, strict=True):
        last = node.attributes.get_int(f"trans{side}", 0)
        batch = node.attributes.get_int(f"transBatch{side}", 0)
        if (last or batch) and op.rank(value) > 1:
            order = list(range(op.rank(value)))
            if batch:  # (M, batch, K) -> (batch, M, K)
                order = [*order[1:-1], order[0], order[-1]]
            if last:
                order[-2:] = order[:-3:-1]
            value = op.Transpose(value, perm=order)
        sides.append(value)
    y = op.MatMul(*sides)
    alpha = node.attributes.get_float("alpha", 1.0)
    if alpha != 1.0:
        y = op.Mul(y, op.number(alpha, node.inputs[0]))
    numbers = _activation_numbers(node)
    kind = node.attributes.get_string("activation", "")
    if kind == "Softmax":
        return op.Softmax(y, axis=node.attributes.get_int("activation_axis", -1))
    return _activated(op, y, kind or "", numbers)


def _gelu(node: ir.Node, op: Writer) -> ir.Value:
    """X/2 * (1 + erf(X / sqrt(2))) of X, or of X + bias."""
    x = node.inputs[0] if op.input(1) is None else op.Add(*node.inputs)
    tail = op.Add(op.Erf(op.Mul(x, op.number(math.sqrt(0.5), node.inputs[0]))), _one(op))
    return op.Mul(op.Mul(x, tail), op.number(0.5, node.inputs[0]))


def _fast_gelu(node: ir.Node, op: Writer) -> ir.Value:
    """X/2 * (1 + tanh(sqrt(2/pi) * (X + 0.044715 X^3))) of X, or of X + bias."""
    first = node.inputs[0]
    x = first if op.input(1) is None else op.Add(*node.inputs)
    cubic = op.Add(op.Mul(op.Mul(x, x), op.number(0.044715, first)), _one(op))
    t = op.Tanh(op.Mul(op.Mul(x, cubic), op.number(math.sqrt(2.0 / math.pi), first)))
    return op.Mul(op.Mul(x, op.Add(t, _one(op))), op.number(0.5, first))


def _quick_gelu(node: ir.Node, op: Writer) -> ir.Value:
    """X * sigmoid(alpha * X); alpha = 1 is SiLU."""
    (x,) = node.inputs
    alpha = node.attributes.get_float("alpha", 1.702)
    return op.Mul(x, op.Sigmoid(x if alpha == 1.0 else op.Mul(x, op.number(alpha or 0.0, x))))


def _one(op: Writer) -> ir.Value:
    return op.number(1.0, op.input(0))


def _bias_softmax(node: ir.Node, op: Writer) -> ir.Value:
    """Softmax of the sum, over the last axis."""
    axis = node.attributes.get_int("axis", 1) or 0
    if axis != -1 and axis != op.rank(node.inputs[0]) - 1:
        raise op.error("it normalises over several axes")
    return op.Softmax(op.Add(*node.inputs), axis=-1)


def _bias_add(node: ir.Node, op: Writer) -> ir.Value:
    """X + bias + skip."""
    x, bias, skip = node.inputs
    return op.Add(op.Add(x, bias), skip)


def _skip_layer_normalization(node: ir.Node, op: Writer) -> Sequence[ir.Value | None]:
    """LayerNormalization of input + skip + bias; that sum is the fourth output."""
    x, skip, gamma, beta, bias = (op.input(index) for index in range(5))
    total = op.Add(x, skip)
    if bias is not None:
        total = op.Add(total, bias)
    epsilon = node.attributes.get_float("epsilon", 1e-12)
    return op.LayerNormalization(total, gamma, beta, axis=-1, epsilon=epsilon), None, None, total


def _skip_rms_normalization(node: ir.Node, op: Writer) -> Sequence[ir.Value | None]:
    """Division of input + skip + bias by its root mean square; the sum is the fourth output."""
    x, skip, gamma, bias = (op.input(index) for index in range(4))
    total = op.Add(x, skip)
    if bias is not None:
        total = op.Add(total, bias)
    epsilon = node.attributes.get_float("epsilon", 1e-12)
    return _rms_normalised(op, total, gamma, epsilon or 0.0), None, None, total


def _rms_normalization(node: ir.Node, op: Writer) -> ir.Value:
    """X / sqrt(mean(X^2) + epsilon) * scale, over the last axis."""
    x, scale = node.inputs[:2]
    axis = node.attributes.get_int("axis", -1)
    if x is None or (axis != -1 and axis != op.rank(x) - 1):
        raise op.error("it normalises over several axes")
    return _rms_normalised(op, x, scale, node.attributes.get_float("epsilon", 1e-5) or 0.0)


def _rms_normalised(op: Writer, x: ir.Value, scale: ir.Value | None, epsilon: float) -> ir.Value:
    """In float32, as ONNX Runtime does it: squares leave the range of half precision."""
    dtype = op.dtype(op.input(0))
    single = dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE)
    wide = x if single else op.Cast(x, to=ir.DataType.FLOAT)
    guard = ir.tensor(epsilon, dtype=dtype if single else ir.DataType.FLOAT)
    mean = op.reduce_mean(op.Mul(wide, wide), -1)
    normal = op.Div(wide, op.Sqrt(op.Add(mean, op.Constant(value=guard))))
    return op.Mul(normal if single else op.Cast(normal, to=dtype), scale)


def _group_norm(node: ir.Node, op: Writer) -> ir.Value:
    """GroupNormalization, channels last unless said otherwise, then perhaps SiLU."""
    x, gamma, beta = node.inputs
    last = node.attributes.get_int("channels_last", 1)
    groups = node.attributes["groups"].as_int()
    planes = op.Transpose(x, perm=[0, 3, 1, 2]) if last else x
    ones = (op.number([number] * groups, x) for number in (1.0, 0.0))
    grouped = op.Reshape(planes, op.integers([0, groups, -1]))
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    normal = op.InstanceNormalization(grouped, *ones, epsilon=epsilon)
    y = op.Reshape(normal, op.Shape(planes))
    column = op.integers([1, -1, 1, 1])
    dtype = op.dtype(x)
    gamma, beta = (op.Cast(op.Reshape(each, column), to=dtype) for each in (gamma, beta))
    y = op.Add(op.Mul(y, gamma), beta)
    if node.attributes.get_int("activation", 0):
        y = op.Mul(y, op.Sigmoid(y))
    return op.Transpose(y, perm=[0, 2, 3, 1]) if last else y


def _attention(node: ir.Node, op: Writer) -> ir.Value:
    """Self-attention with the three projections in one weight."""
    op.refuse_inputs(3, 4, 6)  # masks and what was kept of earlier tokens
    _refuse_text(node, op)
    x, weights, bias = node.inputs[:3]
    projected = op.MatMul(x, weights)
    if bias is not None:
        projected = op.Add(projected, bias)
    sizes = node.attributes.get_ints("qkv_hidden_sizes", ())
    if sizes and len(set(sizes)) > 1:
        raise op.error("its projections are of different sizes")
    if op.opset >= 18:
        parts = op.emit("Split", projected, outputs=3, axis=-1, num_outputs=3)
    else:
        parts = op.emit("Split", projected, outputs=3, axis=-1)
    return _attended(node, op, parts, op.input(5))


def _multi_head_attention(node: ir.Node, op: Writer) -> ir.Value:
    """Attention of query, key and value `(N, S, heads * d)`, perhaps with a bias for all three."""
    op.refuse_inputs(4, 6, 7, 8, 9)
    _refuse_text(node, op)
    parts = [op.input(index) for index in range(3)]
    if any(part is None or op.rank(part) != 3 for part in parts):
        raise op.error("query, key and value are not three tensors of three axes")
    bias = op.input(3)
    if bias is not None:
        count = {"num_outputs": 3} if op.opset >= 18 else {}
        biases = op.emit("Split", bias, outputs=3, axis=0, **count)
        parts = [op.Add(part, each) for part, each in zip(parts, biases, strict=True)]
    return _attended(node, op, parts, op.input(5))


def _refuse_text(node: ir.Node, op: Writer) -> None:
    if node.attributes.get_int("unidirectional", 0) or node.attributes.get_int("do_rotary", 0):
        raise op.error("it is causal or rotary, as in language models")


def _attended(
    node: ir.Node, op: Writer, parts: Sequence[ir.Value | None], bias: ir.Value | None
) -> ir.Value:
    """Softmax(scale * Q K' + bias) V, heads side by side."""
    heads = node.attributes["num_heads"].as_int()
    split = [op.Reshape(part, op.integers([0, 0, heads, -1])) for part in parts]
    query, key, value = (
        op.Transpose(part, perm=perm)
        for part, perm in zip(split, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
    )
    scale = node.attributes.get_float("scale", 0.0)
    if scale:
        factor = op.number(scale, op.input(0))
    else:  # 1 / sqrt(d)
        width = op.Cast(op.Shape(query, start=3), to=op.dtype(op.input(0)))
        factor = op.Reciprocal(op.Sqrt(width))
    logits = op.MatMul(op.Mul(query, factor), key)
    if bias is not None:
        logits = op.Add(logits, bias)
    mixed = op.Transpose(op.MatMul(op.Softmax(logits, axis=-1), value), perm=[0, 2, 1, 3])
    return op.Reshape(mixed, op.integers([0, 0, -1]))


_REPLACEMENTS: dict[tuple[str, str], Replacement] = {
    ("com.microsoft", "Attention"): _attention,
    ("com.microsoft", "BiasAdd"): _bias_add,
    ("com.microsoft", "BiasGelu"): _gelu,
    ("com.microsoft", "BiasSoftmax"): _bias_softmax,
    ("com.microsoft", "FastGelu"): _fast_gelu,
    ("com.microsoft", "FusedConv"): _fused_conv,
    ("com.microsoft", "FusedGemm"): _fused_gemm,
    ("com.microsoft", "FusedMatMul"): _fused_matmul,
    ("com.microsoft", "FusedMatMulActivation"): _fused_matmul,
    ("com.microsoft", "Gelu"): _gelu,
    ("com.microsoft", "GroupNorm"): _group_norm,
    ("com.microsoft", "MultiHeadAttention"): _multi_head_attention,
    ("com.microsoft", "NhwcConv"): _nhwc_conv,
    ("com.microsoft", "QuickGelu"): _quick_gelu,
    ("com.microsoft", "SimplifiedLayerNormalization"): _rms_normalization,
    ("com.microsoft", "SkipLayerNormalization"): _skip_layer_normalization,
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): _skip_rms_normalization,
    ("com.microsoft", "TransposeMatMul"): _fused_matmul,
    ("", "SimplifiedLayerNormalization"): _rms_normalization,
}
