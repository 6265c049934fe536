"""Shapes at one concrete input size: ONNX's inference, with shape arithmetic folded."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass
from onnxscript import optimizer

from deepinside.exporters.bodies import all_nodes, captured_by, defined_by
from deepinside.exporters.weights import SMALL

Sizes = Mapping[str | None, Sequence[int]]

__all__ = ["INTEGERS", "body_model", "settle"]

INTEGERS = (ir.DataType.INT64, ir.DataType.INT32)
_SHAPE_ARITHMETIC = (*INTEGERS, ir.DataType.BOOL)
_SHAPE_OPERATORS = ("ConstantOfShape", "Range", "Shape", "Size")
_LOOP_INPUTS = 2  # trip count and condition stand before the states


def settle(model: ir.Model) -> ir.Model:
    """A model with concrete inputs, which may be changed, with every shape that can be inferred.

    Raises:
        onnx.shape_inference.InferenceError: ONNX's strict inference rejects it.
    """
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.op_type == "GroupNormalization" and not node.domain:
            # ONNX infers no shape for it: the input's, as Identity's.
            node.op_type = "Identity"
            node.resize_inputs(1)
            node.attributes.clear()
    assumed: dict[str, ir.Shape] = {}
    computes = any(node.op_type in _SHAPE_OPERATORS for node in model.graph)
    while True:
        model = _infer(model, assumed)
        while computes and _fold_sizes(model):  # a folded size can make the next one known
            model = _infer(model, assumed)
        opset = model.graph.opset_imports[""]
        found: dict[str, ir.Shape] = {}
        for node in model.graph:
            if node.op_type in _OPEN and any(output.shape is None for output in node.outputs):
                found |= _OPEN[node.op_type](node, opset)
        found = {name: shape for name, shape in found.items() if name not in assumed}
        if not found:
            return model
        assumed |= found


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


def _fold_sizes(model: ir.Model) -> bool:
    """Put in the integers that follow from shapes, and say whether there were any.

    They are worked out on a copy: the optimiser rewrites other nodes too, and names get lost.
    """
    copy = model.clone()
    optimizer.fold_constants_ir(copy, should_fold=_is_arithmetic)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(copy)
    found = {
        value.name: value.const_value
        for value in copy.graph.initializers.values()
        if value.const_value is not None and value.dtype in _SHAPE_ARITHMETIC
    }
    folded = [
        node
        for node in model.graph
        if all(o.name in found and not o.is_graph_output() for o in node.outputs)
    ]
    for node in folded:
        constants = []
        for output in node.outputs:
            name, output.name = output.name, None
            constants.append(ir.Value(name=name, const_value=found[name], type=output.type))
            model.graph.register_initializer(constants[-1])
        ir.convenience.replace_nodes_and_values(
            model.graph, node, [node], [], node.outputs, constants
        )
    return bool(folded)


def _is_arithmetic(node: ir.Node) -> bool | None:
    """Integers, and few floats: sizes may be divided and rounded as floats on the way."""
    return all(
        output.dtype in _SHAPE_ARITHMETIC
        or (
            output.shape is not None
            and output.shape.is_static()
            and math.prod(output.shape.numpy()) <= SMALL
        )
        for output in node.outputs
    )
