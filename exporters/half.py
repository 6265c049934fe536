"""Lets a classifier compute in float16 while its inputs and outputs stay float32.

The backward pass is in float16 then too. Its numbers are small, and float16 has none below 6e-8:
the seed is multiplied by a power of two and the gradient divided by it, in float32 (loss scaling,
Micikevicius et al. 2018). What gets too large on the way is infinite, and so is the gradient, which
the engine reports.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from deepinside.exporters.bodies import bodies
from deepinside.exporters.errors import ExportError
from deepinside.exporters.shapes import Shapes

__all__ = ["GRADIENT_SCALE", "to_half"]

# Between under- and overflow of the networks of docs/performance.md.
GRADIENT_SCALE = 1024

_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
_LARGEST = float(np.finfo(np.float16).max)
_SMALLEST = float(np.finfo(np.float16).smallest_subnormal)
# From here on, numbers stand for infinity: bounds, and what masks out.
_AS_GOOD_AS_INFINITE = 1e6
# Attributes that name the type of an output.
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")


def to_half(model: ir.Model, shapes: Shapes) -> None:
    """Change the float32 tensors of a graph into float16 ones, but for inputs and outputs.

    Operators that have no float16, by ONNX's own definition, keep float32 between two Casts.

    Args:
        model: a prepared classifier; the types of its values are known.
        shapes: its shapes; those of new values are added.

    Raises:
        ExportError: it has nothing in float32, or numbers that float16 lacks, or inner graphs.
    """
    graph, opset = model.graph, model.graph.opset_imports[""]
    nodes = list(graph)
    floats = {value for value in _values(graph) if value.dtype == _FLOAT}
    if not floats - set(graph.inputs) - set(graph.outputs):
        raise ExportError("precision float16: the classifier has no float32 tensors to change.")
    for node in nodes:
        if next(iter(bodies(node)), None) is not None:
            raise ExportError(
                f"precision float16 does not go with graphs inside nodes, such as that of "
                f"{node.name!r} ({node.op_type})."
            )
    cast = _Casts(graph, shapes)
    for node in nodes:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
        for index, value in enumerate(node.inputs):
            if value in floats and not _has_half(schema.inputs, index):
                node.replace_input_with(index, cast.single(value, node))
        kept = [v for i, v in enumerate(node.outputs) if not _has_half(schema.outputs, i)]
        for output in floats.intersection(kept):
            cast.behind(output, node)
            floats.discard(output)
        if floats.intersection(node.outputs):
            _name_type(node, schema)
    for value in list(graph.initializers.values()):
        if value in floats:
            _halve_constant(value)
    for value in floats.intersection(graph.inputs):
        cast.input(value)
    for index, value in enumerate(graph.outputs):
        if value in floats and not value.is_graph_input():
            graph.outputs[index] = cast.output(value)
    for value in floats - set(graph.inputs):
        value.dtype = _HALF
    graph.sort()


class _Casts:
    """Puts Cast nodes into a graph."""

    def __init__(self, graph: ir.Graph, shapes: Shapes) -> None:
        self._graph = graph
        self._shapes = shapes
        self._singles: dict[ir.Value, ir.Value] = {}

    def single(self, value: ir.Value, before: ir.Node) -> ir.Value:
        """A value in float32: a constant as it is, others cast back."""
        if value not in self._singles:
            if value.const_value is not None and not value.is_graph_input():
                copy = ir.Value(
                    name=f"{value.name}/float32",
                    shape=value.shape,
                    type=ir.TensorType(_FLOAT),
                    const_value=ir.tensor(value.const_value.numpy(), name=f"{value.name}/float32"),
                )
                self._graph.register_initializer(copy)
                self._shapes.record(copy, self._shapes.known(value), self._shapes.constant(value))
                self._singles[value] = copy
            else:
                node = self._node(value, _FLOAT)
                before.prepend(node)
                self._singles[value] = node.outputs[0]
        return self._singles[value]

    def behind(self, value: ir.Value, node: ir.Node) -> None:
        """Let all readers of a float32 output read it in float16."""
        readers = list(value.uses())
        made = self._node(value, _HALF)
        node.append(made)
        for reader, index in readers:
            reader.replace_input_with(index, made.outputs[0])

    def input(self, value: ir.Value) -> None:
        """Let all readers of an input of the graph read it in float16."""
        readers = [(n, i) for n, i in value.uses() if n.outputs[0] is not self._singles.get(value)]
        made = self._node(value, _HALF)
        self._graph.insert_before(next(iter(self._graph)), made)
        for reader, index in readers:
            reader.replace_input_with(index, made.outputs[0])

    def output(self, value: ir.Value) -> ir.Value:
        """An output of the graph in float32, with the name that it had."""
        name, shape = value.name, self._shapes.known(value)
        value.name = f"{name}/float16"
        self._shapes.record(value, shape)  # which is kept by name
        made = self._node(value, _FLOAT)
        self._graph.append(made)
        result = made.outputs[0]
        result.name, result.shape = name, value.shape
        self._shapes.record(result, shape)
        return result

    def _node(self, value: ir.Value, dtype: ir.DataType) -> ir.Node:
        kind = dtype.name.lower()
        node = ir.node("Cast", [value], {"to": dtype}, name=f"{value.name}/to_{kind}")
        node.outputs[0].name = f"{value.name}/{kind}"
        node.outputs[0].dtype = dtype
        self._shapes.record(node.outputs[0], self._shapes.known(value))
        return node


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _has_half(parameters: Sequence[onnx.defs.OpSchema.FormalParameter], index: int) -> bool:
    """Whether an operand may be float16; the last parameter may stand for many."""
    return "tensor(float16)" in parameters[min(index, len(parameters) - 1)].types


def _name_type(node: ir.Node, schema: onnx.defs.OpSchema) -> None:
    """Change what a node says of the type of its output."""
    for name in _TYPE_ATTRIBUTES:
        attribute = node.attributes.get(name)
        implied = attribute is None and name == "dtype" and name in schema.attributes
        if implied or (attribute is not None and attribute.as_int() == _FLOAT):
            node.attributes[name] = ir.AttrInt64(name, _HALF)
    if node.op_type == "ConstantOfShape":
        given = node.attributes.get("value")
        fill = np.zeros(1, np.float32) if given is None else given.as_tensor().numpy()
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(_half(fill, str(node.name))))


def _halve_constant(value: ir.Value) -> None:
    assert value.const_value is not None
    array = _half(value.const_value.numpy(), str(value.name))
    value.const_value = ir.tensor(array, name=value.name)


def _half(array: np.ndarray, name: str) -> np.ndarray:
    """An array in float16; a single number that is not zero does not become zero.

    Raises:
        ExportError: it holds numbers that float16 does not have, and that don't stand for infinity.
    """
    size = np.abs(array)
    wrong = np.isfinite(array) & (size > _LARGEST) & (size < _AS_GOOD_AS_INFINITE)
    if wrong.any():
        raise ExportError(
            f"precision float16 has no numbers above {_LARGEST:g}, and the constant {name!r} holds "
            f"{float(size[wrong].max()):g}: export the classifier as it is."
        )
    held = np.where(np.isinf(array), array, np.clip(array, -_LARGEST, _LARGEST))
    result = held.astype(np.float16)
    if array.size == 1 and array.any() and not result.any():
        result = np.full(array.shape, np.copysign(_SMALLEST, array), np.float16)  # an epsilon
    return result
