"""Lifts classifiers of opsets 1 to 16 to the opset from which rules are written.

ONNX's version converter does most of it. What it refuses or gets wrong is adapted here, before it
(outputs that nobody uses, BatchNormalization with `spatial = 0`; opsets 1 to 6 wholly, in
deepinside.exporters.opset7) and after it (Resize, constants in half precision). It sees no
weights, so that their size does not matter.
"""

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from deepinside.exporters.errors import ClassifierError
from deepinside.exporters.opset7 import lift_to_seven
from deepinside.exporters.registry import OPSET_FLOOR
from deepinside.exporters.weights import put_back, set_aside

__all__ = ["lift", "name_default_domain"]

# Where operators wait that ONNX did not have yet, and the converter does not look.
_WAITING = "deepinside.waiting"
# Initializers need not be inputs from here on.
_IR_VERSION = 4


def name_default_domain(model: ir.Model) -> None:
    """Write the default domain's opset under its short name; formats 1 and 2 knew opset 1 only."""
    imports = model.graph.opset_imports
    if "ai.onnx" in imports:
        imports.setdefault("", imports.pop("ai.onnx"))
    elif not imports and model.ir_version < 3:
        imports[""] = 1


def lift(model: ir.Model, opset: int) -> ir.Model:
    """Return the classifier at the floor opset, computing the same.

    Raises:
        ClassifierError: an operator has a form that can't be lifted.
    """
    passes.InlinePass()(model)  # the converter drops functions
    passes.RemoveInitializersFromInputsPass()(model)
    model.ir_version = max(model.ir_version, _IR_VERSION)
    weights = set_aside(model.graph)
    if opset < 7:
        lift_to_seven(model)
    model = ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(model)))
    for node in list(_nodes(model)):
        _drop_unused_outputs(node)
        if node.op_type == "BatchNormalization":
            _make_spatial(node)
        elif node.op_type == "Pad" and node.attributes.get_string("mode", "constant") != "constant":
            node.attributes.pop("value", None)
    for node in _nodes(model):
        # ONNX Runtime's optimiser writes LayerNormalization at older opsets too.
        if node.domain == "" and not onnx.defs.has(node.op_type, opset, ""):
            node.domain = _WAITING
            model.graph.opset_imports[_WAITING] = 1
    types = {node.outputs[0].name: _dtype(node) for node in _nodes(model) if node.outputs}
    try:
        model = ir.from_proto(
            onnx.version_converter.convert_version(ir.to_proto(model), OPSET_FLOOR)
        )
    except (RuntimeError, ValueError, onnx.version_converter.ConvertError) as error:
        raise ClassifierError(
            f"the classifier's opset {opset} is below {OPSET_FLOOR}, and ONNX's version converter "
            f"can't lift it ({' '.join(str(error).split())}); export it again at opset "
            f"{OPSET_FLOOR} or later."
        ) from error
    for node in list(_nodes(model)):
        if node.domain == _WAITING:
            node.domain = ""
        if opset < 11 and node.op_type == "Resize":
            _resize_as_then(node)
        if node.op_type in ("Clip", "Pad"):
            _retype_constants(node, types.get(node.outputs[0].name))
    model.graph.opset_imports.pop(_WAITING, None)
    put_back(model.graph, weights)
    return model


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    """All nodes, those of inner graphs too."""
    return ir.traversal.RecursiveGraphIterator(model.graph)


def _drop_unused_outputs(node: ir.Node) -> None:
    """Remove the mask of Dropout and the running statistics of BatchNormalization, if unused."""
    if node.op_type not in ("BatchNormalization", "Dropout"):
        return
    used = [i for i, o in enumerate(node.outputs) if o.uses() or o.is_graph_output()]
    if max(used, default=0) == 0:
        node.resize_outputs(1)
    elif node.op_type == "BatchNormalization":
        raise ClassifierError(
            f"the BatchNormalization at node {node.name!r} gives out its running statistics, so "
            "that it is in training mode and mixes the batch; export in eval mode."
        )


def _make_spatial(node: ir.Node) -> None:
    """Write out BatchNormalization with a statistic per element instead of per channel.

    On (N, C) the two are the same.
    """
    spatial = node.attributes.pop("spatial", None)
    x, scale, bias, mean, variance = node.inputs
    assert x is not None
    assert node.graph is not None
    row = x.shape is not None and len(x.shape) == 2
    if spatial is None or spatial.as_int() == 1 or row:
        return
    epsilon = ir.tensor([node.attributes.get_float("epsilon", 1e-5)], dtype=x.dtype)
    guard = ir.node("Constant", [], {"value": epsilon})
    added = ir.node("Add", [variance, guard.outputs[0]])
    root = ir.node("Sqrt", added.outputs)
    centred = ir.node("Sub", [x, mean])
    normal = ir.node("Div", [centred.outputs[0], root.outputs[0]])
    scaled = ir.node("Mul", [normal.outputs[0], scale])
    shifted = ir.node("Add", [scaled.outputs[0], bias])
    chain = [guard, added, root, centred, normal, scaled, shifted]
    for each in chain:
        each.name = f"{node.name}/{each.op_type}"
    ir.convenience.replace_nodes_and_values(
        node.graph, node, [node], chain, node.outputs, shifted.outputs
    )


def _dtype(node: ir.Node) -> ir.DataType | None:
    first = node.inputs[0] if node.inputs else None
    return node.outputs[0].dtype or (first.dtype if first is not None else None)


def _resize_as_then(node: ir.Node) -> None:
    """Resize at opset 10 and Upsample: coordinates simply divided by the scale.

    The nearest pixel was the one before; runtimes took the one after where they made it smaller.
    """
    node.attributes.add(ir.AttrString("coordinate_transformation_mode", "asymmetric"))
    if node.attributes.get_string("mode", "nearest") != "nearest":
        return
    assert node.inputs[2] is not None
    scales = ir.convenience.get_const_tensor(node.inputs[2])
    rounding = "floor"
    if scales is not None:
        numbers = scales.numpy()
        if (numbers < 1).any():
            if (numbers > 1).any():
                raise ClassifierError(
                    f"the Resize at node {node.name!r} enlarges one axis and reduces another, "
                    "which opset 10 does not define; export at opset 11 or later."
                )
            rounding = "ceil"
    node.attributes.add(ir.AttrString("nearest_mode", rounding))


def _retype_constants(node: ir.Node, dtype: ir.DataType | None) -> None:
    """Give the bounds of Clip and the value of Pad the type of the data: the converter's are float.

    A bound beyond the type's range becomes infinite.
    """
    for index in range(1 if node.op_type == "Clip" else 2, len(node.inputs)):
        value = node.inputs[index]
        maker = None if value is None else value.producer()
        if dtype in (None, ir.DataType.FLOAT) or maker is None or maker.op_type != "Constant":
            continue
        assert dtype is not None
        with np.errstate(over="ignore"):
            number = maker.attributes["value"].as_tensor().numpy().astype(dtype.numpy())
        constant = ir.node("Constant", [], {"value": ir.tensor(number, dtype=dtype)})
        constant.name = f"{node.name}/{index}"
        node.prepend(constant)
        node.replace_input_with(index, constant.outputs[0])
