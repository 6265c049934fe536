"""Shapes at one concrete input size: ONNX's inference, with shape arithmetic folded."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnxscript import optimizer

from deepinside.exporters.bodies import all_nodes, captured_by, defined_by

__all__ = ["INTEGERS", "body_model", "settle"]

INTEGERS = (ir.DataType.INT64, ir.DataType.INT32)
_LOOP_INPUTS = 2  # trip count and condition stand before the states


def settle(model: ir.Model) -> ir.Model:
    """A copy of a model with concrete inputs, with every shape that can be inferred.

    Raises:
        onnx.shape_inference.InferenceError: ONNX's strict inference rejects it.
    """
    assumed: dict[str, ir.Shape] = {}
    while True:
        model = _infer(model, assumed)
        if any(node.op_type in ("Shape", "Size") for node in model.graph):
            optimizer.fold_constants_ir(model, should_fold=_folds_to_integers)
            model = _infer(model, assumed)
        found = {
            name: shape
            for node in model.graph
            if node.op_type == "Loop" and node.domain == ""
            for name, shape in _loop_outputs(node, model.graph.opset_imports[""]).items()
            if name not in assumed
        }
        if not found:
            return model
        assumed |= found


def body_model(
    body: ir.Graph,
    given: Sequence[ir.Value],
    sizes: Mapping[str | None, Sequence[int]],
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


def _loop_outputs(loop: ir.Node, opset: int) -> dict[str, ir.Shape]:
    """Shapes of a Loop's outputs, which ONNX leaves open.

    A state may grow from round to round: it does not where a round, run on the shape of the initial
    state, gives that shape back. What each round puts out is stacked, where their number is known.
    """
    body = loop.attributes["body"].as_graph()
    initial = loop.inputs[_LOOP_INPUTS:]
    states = body.inputs[_LOOP_INPUTS:]
    given = (*body.inputs, *captured_by(body))
    sizes: dict[str | None, Sequence[int]] = {value.name: () for value in body.inputs[:2]}
    for value, outer in (*zip(states, initial, strict=True), *((v, v) for v in captured_by(body))):
        if outer is None:
            continue
        if outer.dtype is not None:
            value.dtype = outer.dtype
        if outer.shape is not None and outer.shape.is_static():
            sizes[value.name] = outer.shape.numpy()
    constants = {v.name: v.const_value.numpy() for v in given if v.const_value is not None}
    after = settle(body_model(body, given, sizes, constants, opset)).graph.outputs[1:]
    if any(
        state.name not in sizes or value.shape != ir.Shape(sizes[state.name])
        for state, value in zip(states, after, strict=False)
    ):
        return {}
    rounds = _rounds(loop, body)
    found = {}
    for position, (output, value) in enumerate(zip(loop.outputs, after, strict=True)):
        if value.shape is None:
            continue
        if position < len(states):
            found[str(output.name)] = value.shape
        elif rounds is not None:
            found[str(output.name)] = ir.Shape([rounds, *value.shape])
    return found


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


def _infer(model: ir.Model, assumed: Mapping[str, ir.Shape]) -> ir.Model:
    """ONNX's own strict inference, from the shapes of the inputs and the assumed ones alone."""
    for outer in model.graph:
        for node in all_nodes(outer):
            for value in defined_by(node):
                # What the file says may be symbolic, or of another batch size.
                value.shape = assumed.get(str(value.name))
    for value in model.graph.initializers.values():
        if value.const_value is not None:  # a folded value keeps a stale symbolic shape
            value.shape = ir.Shape(value.const_value.shape.numpy())
    return ir.from_proto(
        onnx.shape_inference.infer_shapes(
            ir.to_proto(model), check_type=True, strict_mode=True, data_prop=True
        )
    )


def _folds_to_integers(node: ir.Node) -> bool | None:
    """Fold shape arithmetic only: nodes on the way from image to score must keep their names."""
    return all(output.dtype in INTEGERS for output in node.outputs)
