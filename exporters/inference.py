"""Shapes at one concrete input size: ONNX's inference node by node, sizes computed on the way."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from deepinside.exporters.bodies import bodies, captured_by, operands
from deepinside.exporters.weights import SMALL

Sizes = Mapping[str | None, Sequence[int]]

__all__ = ["INTEGERS", "body_model", "settle"]

_log = logging.getLogger(__name__)

INTEGERS = (ir.DataType.INT64, ir.DataType.INT32)
_RANDOM = {
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}
_LOOP_INPUTS = 2  # trip count and condition stand before the states


def settle(model: ir.Model) -> ir.Model:
    """A model with concrete inputs, whose values get shapes, types, and integers that are known.

    One pass in the order of computation: where all inputs of a node are known, so are its outputs.
    (ONNX's inference of whole graphs follows shapes through a computed size at a time.)

    Raises:
        onnx.shape_inference.InferenceError: ONNX's inference rejects a node.
    """
    walk = _Walk(model)
    for node in model.graph:
        walk.visit(node)
    return model


class _Walk:
    """What is known of the values of a graph while its nodes are passed."""

    def __init__(self, model: ir.Model) -> None:
        self._opset = model.graph.opset_imports[""]
        self._opsets = dict(model.graph.opset_imports)
        # Values that follow from constants: worked out when asked for.
        self._fixed = set(model.graph.initializers.values()) - set(model.graph.inputs)
        for value in self._fixed:
            if value.const_value is not None:
                value.shape = ir.Shape(value.const_value.shape.numpy())
                value.dtype = value.const_value.dtype

    def visit(self, node: ir.Node) -> None:
        """Find the shapes and types of a node's outputs, and integers that follow."""
        for output in node.outputs:
            output.shape = None  # what the file says may be symbolic, or of another batch size
        if node.op_type == "GroupNormalization" and not node.domain:
            self._as_input(node)  # ONNX infers no shape for it
        elif (schema := _schema(node, self._opsets)) is not None:
            self._infer(node, schema)
        if node.op_type in _OPEN and not node.domain:
            self._complete(node)
        self._follow(node)

    def array(self, value: ir.Value | None) -> np.ndarray | None:
        """A value that is a constant or follows from constants."""
        if value is None or value not in self._fixed:
            return None
        if value.const_value is None:
            self._evaluate(value.producer())
        return None if value.const_value is None else value.const_value.numpy()

    def small(self, value: ir.Value) -> np.ndarray | None:
        """The same of few elements; others matter to inference by their shape only."""
        size = _static_size(value)
        return self.array(value) if size is not None and math.prod(size) <= SMALL else None

    @staticmethod
    def _as_input(node: ir.Node) -> None:
        source, output = node.inputs[0], node.outputs[0]
        assert source is not None
        output.shape, output.type = source.shape, source.type

    def _infer(self, node: ir.Node, schema: onnx.defs.OpSchema) -> None:
        """ONNX's own inference for one node."""
        used = dict.fromkeys(value for value in operands(node) if value is not None)
        if any(value.type is None for value in used):
            return
        types = {str(value.name): _type_proto(value) for value in used}
        arrays = {str(value.name): self.small(value) for value in node.inputs if value is not None}
        data = {
            name: onnx.numpy_helper.from_array(array, name)
            for name, array in arrays.items()
            if array is not None and array.dtype.kind not in "OSU"  # no shape is told by a text
        }
        opsets = [onnx.helper.make_opsetid(*entry) for entry in self._opsets.items()]
        try:
            found = onnx.shape_inference.infer_node_outputs(
                schema, ir.to_proto(node), types, data, opset_imports=opsets
            )
        except onnx.shape_inference.InferenceError as error:
            raise onnx.shape_inference.InferenceError(
                f"({node.op_type} at node {node.name!r}) {error}"
            ) from error
        for output in node.outputs:
            if (proto := found.get(str(output.name))) is not None:
                output.type = ir.serde.deserialize_type_proto_for_type(proto)
                output.shape = ir.serde.deserialize_type_proto_for_shape(proto)

    def _complete(self, node: ir.Node) -> None:
        """Shapes that ONNX does not infer for what has graphs inside."""
        chosen = self.array(node.inputs[0]) if node.op_type == "If" else None
        if chosen is not None:
            name = "then_branch" if chosen else "else_branch"
            results = _body_outputs(node.attributes[name].as_graph(), {}, self._opset)
            for output, result in zip(node.outputs, results, strict=True):
                output.shape, output.const_value = result.shape, result.const_value
                if result.const_value is not None:
                    self._fixed.add(output)
        elif any(output.shape is None for output in node.outputs):
            for value in node.inputs:
                self.small(value) if value is not None else None
            for name, shape in _OPEN[node.op_type](node, self._opset).items():
                next(o for o in node.outputs if o.name == name).shape = shape

    def _follow(self, node: ir.Node) -> None:
        """Note what follows from constants; integers are worked out at once."""
        if node.op_type in _RANDOM or bodies(node):
            return
        if node.op_type in ("Shape", "Size") and not node.domain:
            if (size := _static_size(node.inputs[0])) is not None:
                chosen = size[node.attributes.get_int("start", 0) : _end(node)]
                result = chosen if node.op_type == "Shape" else math.prod(size)
                node.outputs[0].const_value = ir.tensor(np.array(result, np.int64))
                self._fixed.update(node.outputs)
        elif all(value is None or value in self._fixed for value in node.inputs):
            self._fixed.update(node.outputs)
            if any(output.dtype in INTEGERS for output in node.outputs):
                self._evaluate(node)

    def _evaluate(self, node: ir.Node | None) -> None:
        """Work out the outputs of a node that follows from constants."""
        assert node is not None
        self._fixed.difference_update(node.outputs)  # where it fails, they stay unknown
        feeds: dict[str, np.ndarray] = {}
        for value in node.inputs:
            if value is None:
                continue
            if (array := self.array(value)) is None:
                return
            feeds[str(value.name)] = array
        try:
            results = _run(node, feeds, self._opsets)
        except Exception as error:  # whatever the operators of the evaluator raise
            _log.info("can't work out %s at node %r: %r", node.op_type, node.name, error)
            return
        for output, result in zip(node.outputs, results, strict=False):
            output.const_value = ir.tensor(np.asarray(result))
            output.shape = ir.Shape(np.shape(result))
        self._fixed.update(node.outputs)


def _schema(node: ir.Node, opsets: Mapping[str, int]) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
    except onnx.defs.SchemaError:
        return None


def _end(shape: ir.Node) -> int | None:
    return shape.attributes["end"].as_int() if "end" in shape.attributes else None


def _type_proto(value: ir.Value) -> onnx.TypeProto:
    assert value.type is not None
    proto = ir.serde.serialize_type(value.type)
    if value.shape is not None:
        ir.serde.serialize_shape_into(proto, value.shape)
    return proto


def _run(node: ir.Node, feeds: Mapping[str, np.ndarray], opsets: Mapping[str, int]) -> list[Any]:
    """ONNX's reference evaluator on one node; as a function, since those have opsets."""
    function = onnx.helper.make_function(
        "deepinside",
        "node",
        list(feeds),
        [str(output.name) for output in node.outputs],
        [ir.to_proto(node)],
        [onnx.helper.make_opsetid(*entry) for entry in opsets.items()],
    )
    return list(ReferenceEvaluator(function).run(None, dict(feeds), attributes={}))


def body_model(
    body: ir.Graph,
    given: Sequence[ir.Value],
    sizes: Sizes,
    constants: Mapping[str | None, np.ndarray | None],
    opset: int,
) -> ir.Model:
    """A graph inside a node as a model of its own.

    Args:
        body: the inner graph.
        given: its inputs, and what it captures.
        sizes: concrete shapes of those, where known.
        constants: values of those, where known.
        opset: of the default domain.
    """
    graph = ir.to_proto(body)
    del graph.input[:]
    for value in given:
        array = constants.get(value.name)
        if array is not None:
            graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
            continue
        kind = onnx.TensorProto.UNDEFINED if value.dtype is None else int(value.dtype)
        graph.input.append(
            onnx.helper.make_tensor_value_info(str(value.name), kind, sizes.get(value.name))
        )
    opsets = [onnx.helper.make_opsetid("", opset)]
    return ir.from_proto(onnx.helper.make_model(graph, opset_imports=opsets))


# ONNX infers less inside bodies than outside (what they capture has no value there), and nothing of
# a Loop's states. So the bodies of nodes with open outputs are run through the inference as models.


def _if_outputs(node: ir.Node, opset: int) -> dict[str, ir.Shape]:
    """Shapes on which both branches agree."""
    then, other = (
        _body_outputs(node.attributes[name].as_graph(), {}, opset)
        for name in ("then_branch", "else_branch")
    )
    return {
        str(output.name): a.shape
        for output, a, b in zip(node.outputs, then, other, strict=True)
        if a.shape is not None and a.shape == b.shape
    }


def _loop_outputs(node: ir.Node, opset: int) -> dict[str, ir.Shape]:
    """Shapes of states that a round leaves as they are, and of what all rounds put out, stacked."""
    body = node.attributes["body"].as_graph()
    scalars, states = body.inputs[:_LOOP_INPUTS], body.inputs[_LOOP_INPUTS:]
    sizes: dict[str | None, Sequence[int]] = {value.name: () for value in scalars}
    for before, initial in zip(states, node.inputs[_LOOP_INPUTS:], strict=True):
        _give_type(before, initial)
        if (size := _static_size(initial)) is not None:
            sizes[before.name] = size
    after = _body_outputs(body, sizes, opset)[1:]
    return _stacked(node, states, after, sizes, {}, _rounds(node, body))


def _scan_outputs(node: ir.Node, opset: int) -> dict[str, ir.Shape]:
    """Shapes of the states, and of what all steps put out, stacked."""
    body = node.attributes["body"].as_graph()
    count = len(node.inputs) - node.attributes["num_scan_inputs"].as_int()
    axes = _axes(node, "scan_input_axes")
    sizes: dict[str | None, Sequence[int]] = {}
    steps = None
    for position, (inner, outer) in enumerate(zip(body.inputs, node.inputs, strict=True)):
        _give_type(inner, outer)
        if (size := _static_size(outer)) is not None:
            if position >= count:
                steps = size.pop(axes.get(position - count, 0))
            sizes[inner.name] = size
    after = _body_outputs(body, sizes, opset)
    axes = _axes(node, "scan_output_axes")
    return _stacked(node, body.inputs[:count], after, sizes, axes, steps)


def _stacked(
    node: ir.Node,
    before: Sequence[ir.Value],
    after: Sequence[ir.Value],
    sizes: Sizes,
    axes: Mapping[int, int],
    rounds: int | None,
) -> dict[str, ir.Shape]:
    """Shapes outside, from those inside: none where a state changes its own."""
    if any(
        state.name not in sizes or value.shape != ir.Shape(sizes[state.name])
        for state, value in zip(before, after, strict=False)
    ):
        return {}
    found = {}
    for position, (output, value) in enumerate(zip(node.outputs, after, strict=True)):
        if value.shape is None:
            continue
        if position < len(before):
            found[str(output.name)] = value.shape
        elif rounds is not None:
            size = list(value.shape)
            axis = axes.get(position - len(before), 0)
            size.insert(axis if axis >= 0 else axis + len(size) + 1, rounds)
            found[str(output.name)] = ir.Shape(size)
    return found


def _body_outputs(body: ir.Graph, sizes: Sizes, opset: int) -> Sequence[ir.Value]:
    """A body's outputs with the shapes that follow from those of its inputs."""
    outer = captured_by(body)
    known = {value.name: _static_size(value) for value in outer}
    sizes = {**sizes} | {name: size for name, size in known.items() if size is not None}
    constants = {v.name: v.const_value.numpy() for v in outer if v.const_value is not None}
    model = body_model(body, (*body.inputs, *outer), sizes, constants, opset)
    return settle(model).graph.outputs


def _static_size(value: ir.Value | None) -> list[int] | None:
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return list(value.shape.numpy())


def _give_type(inner: ir.Value, outer: ir.Value | None) -> None:
    if outer is not None and outer.dtype is not None:
        inner.dtype = outer.dtype


def _axes(node: ir.Node, name: str) -> dict[int, int]:
    given = node.attributes[name].as_ints() if name in node.attributes else ()
    return dict(enumerate(given))


def _rounds(loop: ir.Node, body: ir.Graph) -> int | None:
    """The number of rounds, where it is a constant and nothing stops them earlier."""
    count, running = loop.inputs[:_LOOP_INPUTS]
    going_on = body.outputs[0]
    while (node := going_on.producer()) is not None and node.op_type == "Identity":
        going_on = node.inputs[0]  # type: ignore[assignment]
    if running is not None and (running.const_value is None or not running.const_value.numpy()):
        return None
    goes_on = going_on is body.inputs[1] or (
        going_on.const_value is not None and bool(going_on.const_value.numpy())
    )
    if count is None or count.const_value is None or not goes_on:
        return None
    return int(count.const_value.numpy().reshape(-1)[0])


_OPEN = {"If": _if_outputs, "Loop": _loop_outputs, "Scan": _scan_outputs}
