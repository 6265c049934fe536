"""Shapes at one concrete input size: ONNX's inference, with shape arithmetic folded."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnxscript import optimizer

from deepinside.exporters.bodies import captured_by

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
            for name, shape in _loop_states(node, model.graph.opset_imports[""]).items()
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


def _loop_states(loop: ir.Node, opset: int) -> dict[str, ir.Shape]:
    """Shapes of a Loop's final states, which ONNX leaves open: a state may grow with each round.

    It does not where one round, run on the shape of the initial state, gives that shape back.
    """
    body = loop.attributes["body"].as_graph()
    initial = loop.inputs[_LOOP_INPUTS:]
    states = body.inputs[_LOOP_INPUTS:]
    outer = {value.name: value for value in captured_by(body)}
    outer |= {s.name: v for s, v in zip(states, initial, strict=True) if v is not None}
    sizes: dict[str | None, Sequence[int]] = {value.name: () for value in body.inputs[:_LOOP_INPUTS]}
    for name, value in outer.items():
        if value.shape is not None and all(isinstance(size, int) for size in value.shape):
            sizes[name] = [int(size) for size in value.shape]  # type: ignore[call-overload]
    for state, value in zip(states, initial, strict=True):
        state.dtype = state.dtype or (None if value is None else value.dtype)
    given = (*body.inputs, *captured_by(body))
    captured = {v.name: v.const_value.numpy() for v in given if v.const_value is not None}
    after = settle(body_model(body, given, sizes, captured, opset)).graph.outputs[1:]
    return {
        str(final.name): ir.Shape(sizes[state.name])
        for final, state, value in zip(loop.outputs, states, after, strict=False)
        if state.name in sizes and value.shape == ir.Shape(sizes[state.name])
    }


def _infer(model: ir.Model, assumed: Mapping[str, ir.Shape]) -> ir.Model:
    """ONNX's own strict inference, from the shapes of the inputs and the assumed ones alone."""
    for node in model.graph:
        for output in node.outputs:
            # What the file says may be symbolic, or of another batch size.
            output.shape = assumed.get(str(output.name))
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
