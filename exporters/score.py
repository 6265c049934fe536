"""Finds the classifier's unnormalised class scores: the paper's S_c, before the soft-max.

A posterior can be raised by lowering the other classes' scores; the gradient of the unnormalised
score shows what speaks for this class (Simonyan et al. 2014, section 2).
"""

from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from deepinside.exporters.builder import Builder
from deepinside.exporters.errors import ScoreError
from deepinside.exporters.shapes import Shape, Shapes, is_one, static

__all__ = ["Activation", "ClassScores", "ScoreKind", "as_table", "find_scores", "score_table"]

ScoreKind = Literal["logit", "probability"]
Activation = Literal["none", "softmax", "log_softmax", "sigmoid"]

_ACTIVATIONS: dict[str, Activation] = {
    "Softmax": "softmax",
    "LogSoftmax": "log_softmax",
    "Sigmoid": "sigmoid",
}
_PASSED_OVER = {"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"} | {
    "DequantizeLinear",
    "QuantizeLinear",
}
# Behind these, with constants, an activation would be overlooked.
_ELEMENTWISE = {"Add", "Clip", "Div", "Exp", "Log", "Max", "Min", "Mul", "Neg", "Pow", "Sub"}
_FLOATS = {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}


@dataclass(frozen=True)
class ClassScores:
    """Where the scores of all classes are.

    Attributes:
        output: the classifier's output that holds them, perhaps normalised.
        tensor: the unnormalised scores; `output` itself when nothing was bypassed.
        activation: what stands between the two.
        bypassed: one sentence per node between the two.
        classes: number of classes, K.
    """

    output: ir.Value
    tensor: ir.Value
    activation: Activation
    bypassed: tuple[str, ...]
    classes: int


def find_scores(graph: ir.Graph, shapes: Shapes, score_output: str | None = None) -> ClassScores:
    """Choose the output with the class scores and walk back over a final activation.

    Args:
        graph: the classifier.
        shapes: its shapes.
        score_output: name of the output (or of any tensor) to take instead of searching.

    Raises:
        ScoreError: there is no table of class scores, or more than one.
    """
    output = _choose_output(graph, shapes, score_output)
    classes = class_count(shapes.known(output))
    if classes is None:
        raise ScoreError(
            f"{output.name!r} has shape {_written(shapes.known(output))}, not (N, K) with a fixed "
            "number of classes K; name another tensor with --score-output."
        )
    tensor, bypassed, passed = output, tuple[str, ...](), list[str]()
    activation: Activation = "none"
    value = output
    while (node := value.producer()) is not None and node.inputs and node.inputs[0] is not None:
        source = _first(node)
        final = activation == "none" and _is_activation(node, shapes)
        # An integer behind DequantizeLinear stands for a number.
        number = source.dtype in _FLOATS or node.op_type == "DequantizeLinear"
        if not final and (
            node.op_type not in _PASSED_OVER
            or not number
            or class_count(shapes.known(source)) != classes
        ):
            break
        passed.append(f"{node.op_type} at node {node.name!r}")
        value = source
        if final:
            activation = _ACTIVATIONS[node.op_type]
        if final or node.op_type == "QuantizeLinear":
            # A range that was measured ends at the best score seen, and cuts off better ones.
            tensor, bypassed = source, tuple(passed)
    if activation == "none" and score_output is None:
        _refuse_hidden_activation(output, shapes)
    return ClassScores(output, tensor, activation, bypassed, classes)


def score_table(op: Builder, scores: ClassScores, kind: ScoreKind) -> ir.Value:
    """The tensor `(N, K)` whose entries are to be explained: unnormalised scores or probabilities.

    Probabilities that the classifier does not give are computed (soft-max; sigmoid for one class).
    """
    if kind == "logit":
        return as_table(op, scores.tensor)
    if scores.activation in ("softmax", "sigmoid"):
        return as_table(op, scores.output)
    table = as_table(op, scores.output)
    if scores.activation == "log_softmax":
        return op.Exp(table)
    result = op.Sigmoid(table) if scores.classes == 1 else op.Softmax(table, axis=1)
    op.shapes.record(result, op.shapes.known(table))
    return result


def class_count(shape: Shape | None) -> int | None:
    """K of a shape (N, K), or of one like (N, 1, K, 1) with a single other axis; or None."""
    axis = _class_axis(shape)
    return None if shape is None or axis is None else static(shape[axis])


def _class_axis(shape: Shape | None) -> int | None:
    """The axis of the classes: the only one besides the batch that is not 1."""
    if shape is None or len(shape) < 2:
        return None
    long = [axis for axis, dim in enumerate(shape) if axis > 0 and not is_one(dim)]
    return None if len(long) > 1 else long[0] if long else 1


def as_table(op: Builder, value: ir.Value) -> ir.Value:
    """A tensor of class scores as `(N, K)`."""
    shape = op.shapes.known(value)
    assert shape is not None
    if len(shape) == 2:
        return value
    table = op.Flatten(value, axis=1)
    count = op.shapes.dim(class_count(shape) or 1)
    op.shapes.record(table, (shape[0], count))
    return table


def _choose_output(graph: ir.Graph, shapes: Shapes, name: str | None) -> ir.Value:
    described = ", ".join(f"{o.name!r} {_written(shapes.known(o))}" for o in graph.outputs)
    if name is not None:
        for value in (*graph.outputs, *(output for node in graph for output in node.outputs)):
            if value.name == name:
                return value
        raise ScoreError(f"the classifier has no tensor {name!r}; its outputs are: {described}.")
    tables = [
        output
        for output in graph.outputs
        if output.dtype in _FLOATS and class_count(shapes.known(output)) is not None
    ]
    if len(tables) == 1:
        return tables[0]
    if tables:
        raise ScoreError(
            f"several outputs could hold the class scores; choose one with --score-output. "
            f"The outputs are: {described}."
        )
    raise ScoreError(
        "no output is a table of class scores (N, K), so this is not an image classifier (a "
        "detection, segmentation or embedding model?); name the scores with --score-output if "
        f"they are inside. The outputs are: {described}."
    )


def _is_activation(node: ir.Node, shapes: Shapes) -> bool:
    return node.op_type in _ACTIVATIONS and node.domain == "" and _over_classes(node, shapes)


def _over_classes(node: ir.Node, shapes: Shapes) -> bool:
    """Whether the activation's input is a score table and it normalises over its classes."""
    shape = shapes.known(_first(node))
    class_axis = _class_axis(shape)
    if shape is None or class_axis is None:
        return False
    if node.op_type == "Sigmoid":
        return True
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
    return axis % len(shape) == class_axis


def _refuse_hidden_activation(output: ir.Value, shapes: Shapes) -> None:
    """Complain of a final activation that arithmetic with constants hides from the search."""
    value = output
    while (node := value.producer()) is not None and node.domain == "":
        if _is_activation(node, shapes):
            raise ScoreError(
                f"the class scores {output.name!r} are computed from the {node.op_type} at node "
                f"{node.name!r}: name its input with --score-output "
                f"{_first(node).name} to explain the unnormalised scores, or the output with "
                f"--score-output {output.name} to explain it as it is."
            )
        varying = [i for i in node.inputs if i is not None and i.const_value is None]
        if node.op_type not in _ELEMENTWISE | _PASSED_OVER or len(varying) != 1:
            return
        value = varying[0]


def _first(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value


def _written(shape: Shape | None) -> str:
    if shape is None:
        return "(unknown shape)"
    sizes = [static(dim) for dim in shape]
    return "(" + ", ".join("N" if size is None else str(size) for size in sizes) + ")"
