"""Rewrites integer layers as dequantise, float layer, quantise: the QDQ form of quantised models.

The gradient rules know the QDQ form; ONNX Runtime fuses it to the integer layers again. Where it
does not, float accumulation rounds differently now and then, by one step of the output's scale.
"""

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from deepinside.exporters.rewriting import Replacement, Writer, rewrite

__all__ = ["rewrite_qoperators"]

# They move integers about without computing: the same on the numbers that these stand for.
_CARRIERS = {"Flatten", "Gather", "Identity", "MaxPool", "Reshape", "Slice", "Squeeze"} | {
    "Transpose",
    "Unsqueeze",
}
_BYTES = {ir.DataType.INT8, ir.DataType.UINT8}


def rewrite_qoperators(model: ir.Model) -> None:
    """Replace integer layers in the main graph.

    Raises:
        ClassifierError: one stands in a form that has no counterpart.
    """
    rewrite(model, _REPLACEMENTS)
    for node in list(model.graph):
        _move_into_float(node)


def _move_into_float(node: ir.Node) -> None:
    """Q -> carrier becomes Q -> DQ -> carrier -> Q, with the same scale."""
    source = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    single = [output for output in node.outputs if output.uses() or output.is_graph_output()]
    if (
        node.domain != ""
        or node.op_type not in _CARRIERS
        or source is None
        or source.op_type not in ("QuantizeLinear", "DynamicQuantizeLinear")
        or single != [node.outputs[0]]
        or node.graph is None
    ):
        return
    op = Writer(node, {}, 0)
    dynamic = source.op_type == "DynamicQuantizeLinear"
    scale, zero = source.outputs[1:] if dynamic else (*source.inputs[1:], None)[:2]
    if scale is None or (scale.const_value is not None and scale.const_value.size != 1):
        return  # per axis, which moves with the data: its rule will complain
    number = op.DequantizeLinear(source.outputs[0], scale, zero)
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    moved = op.emit(node.op_type, number, *node.inputs[1:], **attributes)[0]
    again = op.QuantizeLinear(moved, scale, zero)
    ir.convenience.replace_nodes_and_values(
        node.graph, node, [node], op.nodes, [node.outputs[0]], [again]
    )


def _number(op: Writer, start: int, axis: int | None = None) -> ir.Value:
    """The number that three inputs from `start` on stand for: integer, scale, zero point."""
    return op.DequantizeLinear(*(op.input(start + i) for i in range(3)), axis=axis)


def _quantised(op: Writer, y: ir.Value, start: int) -> ir.Value:
    """`y` with the scale and zero point that stand at `start`."""
    return op.QuantizeLinear(y, op.input(start), op.input(start + 1))


def _rest(node: ir.Node, op: Writer) -> dict[str, Any]:
    """The attributes of the float layer."""
    if node.attributes.get_int("channels_last", 0):
        raise op.error("its channels are last")
    return {n: a.value for n, a in node.attributes.items() if n not in ("channels_last", "opset")}


def _conv(node: ir.Node, op: Writer) -> ir.Value:
    """QLinearConv; the bias counts in steps of the product of both scales."""
    x, w, bias = _number(op, 0), _number(op, 3, axis=0), op.input(8)
    if bias is not None:
        scale = op.Mul(op.input(1), op.input(4))
        bias = op.DequantizeLinear(bias, scale, axis=0)
    return _quantised(op, op.Conv(x, w, bias, **_rest(node, op)), 6)


def _matmul(node: ir.Node, op: Writer) -> ir.Value:
    """QLinearMatMul."""
    weight = op.input(4)
    per_column = weight is not None and op.rank(weight) == 1
    b = _number(op, 3, axis=op.rank(op.input(3)) - 1 if per_column else None)
    return _quantised(op, op.MatMul(_number(op, 0), b), 6)


def _gemm(node: ir.Node, op: Writer) -> ir.Value:
    """QGemm of com.microsoft; C counts in steps of alpha and of the product of both scales."""
    rest = _rest(node, op)
    a, b = _number(op, 0), _number(op, 3, axis=0 if rest.get("transB") else 1)
    y = op.Gemm(a, b, **rest)
    if (c := op.input(6)) is not None:
        scale = op.Mul(op.input(1), op.input(4))
        alpha = node.attributes.get_float("alpha", 1.0)
        if alpha != 1.0:
            scale = op.Mul(scale, op.number(alpha, op.input(1)))
        y = op.Add(y, op.DequantizeLinear(c, scale, axis=0))
    return y if op.input(7) is None else _quantised(op, y, 7)


def _integer(operator: str) -> Replacement:
    """ConvInteger or MatMulInteger: the numbers are the integers less their zero points."""

    def replace(node: ir.Node, op: Writer) -> ir.Value:
        output = node.outputs[0]
        if any(user.op_type != "Cast" for user in output.consumers()) or output.is_graph_output():
            raise op.error("its sum of integers is used by other nodes than Cast")
        one = op.Constant(value=ir.tensor(1.0))
        axis = 0 if operator == "Conv" else 1
        sides = [
            op.DequantizeLinear(op.input(i), _steps(op, one, i + 2), op.input(i + 2), axis=axis)
            for i in range(2)
        ]
        rest = _rest(node, op) if operator == "Conv" else {}
        return op.emit(operator, *sides, **rest)[0]

    return replace


def _steps(op: Writer, one: ir.Value, zero: int) -> ir.Value:
    """A scale of 1, as many as there are zero points."""
    value = op.input(zero)
    if value is None or value.const_value is None or value.const_value.size == 1:
        return one
    return op.number([1.0] * value.const_value.size, one)


def _integer_to_float(node: ir.Node, op: Writer) -> ir.Value:
    """MatMulIntegerToFloat of com.microsoft."""
    a, b, a_scale, b_scale, a_zero, b_zero, bias = (op.input(index) for index in range(7))
    y = op.MatMul(
        op.DequantizeLinear(a, a_scale, a_zero), op.DequantizeLinear(b, b_scale, b_zero, axis=1)
    )
    return y if bias is None else op.Add(y, bias)


def _dynamic_matmul(node: ir.Node, op: Writer) -> ir.Value:
    """DynamicQuantizeMatMul of com.microsoft."""
    a, b, b_scale, b_zero, bias = (op.input(index) for index in range(5))
    whole = op.emit("DynamicQuantizeLinear", a, outputs=3)
    y = op.MatMul(op.DequantizeLinear(*whole), op.DequantizeLinear(b, b_scale, b_zero, axis=1))
    return y if bias is None else op.Add(y, bias)


def _one_operand(operator: str) -> Replacement:
    """QLinear layers of one operand."""

    def replace(node: ir.Node, op: Writer) -> ir.Value:
        return _quantised(op, op.emit(operator, _number(op, 0), **_rest(node, op))[0], 3)

    return replace


def _reduce_mean(node: ir.Node, op: Writer) -> ir.Value:
    """QLinearReduceMean."""
    rest = _rest(node, op)
    axes = node.attributes.get_ints("axes", ())
    if op.opset >= 18 and axes:
        rest.pop("axes")
        y = op.ReduceMean(_number(op, 0), op.integers(axes), **rest)
    else:
        y = op.ReduceMean(_number(op, 0), **rest)
    return _quantised(op, y, 3)


def _softmax(node: ir.Node, op: Writer) -> ir.Value:
    """QLinearSoftmax over one axis, as Softmax is from opset 13 on."""
    axis = node.attributes.get_int("axis", -1) or 0
    if (node.attributes.get_int("opset", 13) or 13) < 13 and axis != -1:
        raise op.error("it normalises over several axes")
    return _quantised(op, op.Softmax(_number(op, 0), axis=axis), 3)


def _two_operands(operator: str) -> Replacement:
    """QLinearAdd and QLinearMul."""

    def replace(node: ir.Node, op: Writer) -> ir.Value:
        return _quantised(op, op.emit(operator, _number(op, 0), _number(op, 3))[0], 6)

    return replace


def _concat(node: ir.Node, op: Writer) -> ir.Value:
    """QLinearConcat: the output's scale and zero point come first."""
    numbers: Sequence[ir.Value] = [_number(op, i) for i in range(2, len(node.inputs), 3)]
    return _quantised(op, op.Concat(*numbers, **_rest(node, op)), 0)


def _own_domain(node: ir.Node, op: Writer) -> ir.Value:
    """QuantizeLinear and DequantizeLinear of com.microsoft, of the same meaning."""
    zero = op.input(2)
    kind = ir.DataType.UINT8 if zero is None else op.dtype(zero)
    if kind not in _BYTES and op.opset < 21:
        raise op.error(f"{kind.name.lower()} needs opset 21")
    return op.emit(node.op_type, *node.inputs, **_rest(node, op))[0]


_REPLACEMENTS: dict[tuple[str, str], Replacement] = {
    ("", "ConvInteger"): _integer("Conv"),
    ("", "MatMulInteger"): _integer("MatMul"),
    ("", "QLinearConv"): _conv,
    ("", "QLinearMatMul"): _matmul,
    ("com.microsoft", "DequantizeLinear"): _own_domain,
    ("com.microsoft", "DynamicQuantizeMatMul"): _dynamic_matmul,
    ("com.microsoft", "MatMulIntegerToFloat"): _integer_to_float,
    ("com.microsoft", "QGemm"): _gemm,
    ("com.microsoft", "QLinearAdd"): _two_operands("Add"),
    ("com.microsoft", "QLinearAveragePool"): _one_operand("AveragePool"),
    ("com.microsoft", "QLinearConcat"): _concat,
    ("com.microsoft", "QLinearConv"): _conv,
    ("com.microsoft", "QLinearGlobalAveragePool"): _one_operand("GlobalAveragePool"),
    ("com.microsoft", "QLinearLeakyRelu"): _one_operand("LeakyRelu"),
    ("com.microsoft", "QLinearMul"): _two_operands("Mul"),
    ("com.microsoft", "QLinearReduceMean"): _reduce_mean,
    ("com.microsoft", "QLinearSigmoid"): _one_operand("Sigmoid"),
    ("com.microsoft", "QLinearSoftmax"): _softmax,
    ("com.microsoft", "QuantizeLinear"): _own_domain,
}
