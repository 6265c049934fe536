"""Lifts classifiers of opsets 1 to 6 to opset 7, by hand.

ONNX's version converter lacks most of these steps, and gets broadcasting with `axis` wrong: before
opset 7, the second operand's axes were laid along the first one's from `axis` on.
"""

import onnx
import onnx_ir as ir

from deepinside.exporters.errors import ClassifierError

__all__ = ["lift_to_seven"]

_ALIGNED = {"Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor"}


def lift_to_seven(model: ir.Model) -> None:
    """Rewrite the nodes of the main graph in place and set the opset to 7.

    Raises:
        ClassifierError: a node stands in a form that opset 7 does not know.
    """
    opset = model.graph.opset_imports[""]
    for node in list(model.graph):
        if node.domain == "":
            _lift_node(node, opset)
    _align_second_operands(model)
    model.graph.opset_imports[""] = 7


def _lift_node(node: ir.Node, opset: int) -> None:
    """Everything but broadcasting."""
    kind, attributes = node.op_type, node.attributes
    attributes.pop("consumed_inputs", None)  # what could be overwritten in place
    if kind in ("BatchNormalization", "Dropout"):
        testing = attributes.pop("is_test", None)
        if testing is None or not testing.as_int():
            raise ClassifierError(
                f"the {kind} at node {node.name!r} is in training mode (is_test is 0 at opset "
                f"{opset}), so that results are random or mix the batch; export in eval mode."
            )
    elif kind == "Cast" and attributes["to"].type == ir.AttributeType.STRING:
        attributes.add(ir.AttrInt64("to", int(ir.DataType[attributes["to"].as_string().upper()])))
    elif kind == "Concat":
        attributes.setdefault("axis", ir.AttrInt64("axis", 1))
    elif kind in ("GlobalLpPool", "LpPool") and opset == 1:
        attributes.add(ir.AttrInt64("p", int(attributes.get_float("p", 2.0))))
    elif kind == "Pad" and opset == 1:
        attributes.add(ir.AttrInt64s("pads", attributes.pop("paddings").as_ints()))
    elif kind == "Reshape" and opset < 5:
        _make_input(node, attributes.pop("shape"))
    elif kind == "Selu" and opset < 6:  # opset 6 has more digits
        attributes.setdefault("alpha", ir.AttrFloat32("alpha", 1.6732))
        attributes.setdefault("gamma", ir.AttrFloat32("gamma", 1.0507))
    elif kind == "Upsample":
        sides = [attributes.pop(f"{side}_scale").as_float() for side in ("height", "width")]
        attributes.add(ir.AttrFloat32s("scales", [1.0, 1.0, *sides]))
    elif (kind == "Split" and opset == 1) or (kind == "Tile" and opset < 6):
        raise ClassifierError(
            f"the {kind} at node {node.name!r} stands in its form of opset {opset}, which can't be "
            "lifted; export the classifier again at opset 7 or later."
        )


def _make_input(node: ir.Node, attribute: ir.Attr) -> None:
    """Append a list of integers as an input."""
    constant = ir.node("Constant", [], {"value": ir.tensor(list(attribute.as_ints()))})
    constant.name = f"{node.name}/{attribute.name}"
    node.prepend(constant)
    node.resize_inputs(len(node.inputs) + 1)
    node.replace_input_with(len(node.inputs) - 1, constant.outputs[0])


def _align_second_operands(model: ir.Model) -> None:
    """Give second operands of arithmetic the trailing axes that broadcasting now needs.

    A slope of PRelu belonged to the channels, axis 1.
    """
    ranks = _ranks(model)
    for node in list(model.graph):
        if node.op_type == "Gemm":
            node.attributes.pop("broadcast", None)  # its C was laid along the last axes, as now
        if not _is_aligned(node):
            continue
        broadcast = node.attributes.pop("broadcast", None)
        axis = node.attributes.pop("axis", None)
        second = node.inputs[1]
        rank, own = (ranks.get(value.name) if value else None for value in node.inputs)
        start = axis.as_int() if axis is not None else None
        if node.op_type == "PRelu":
            start = 1 if own == 1 else None
        elif broadcast is None or not broadcast.as_int():
            continue
        if start is None:
            continue
        if rank is None or own is None:
            raise ClassifierError(
                f"the number of axes of an operand at node {node.name!r} ({node.op_type}) can't be "
                "inferred, so that its broadcasting can't be lifted from opset 6; export the "
                "classifier again at opset 7 or later."
            )
        trailing = rank - start % (rank or 1) - own
        if trailing > 0 and own > 0:
            axes = ir.AttrInt64s("axes", list(range(own, own + trailing)))
            wide = ir.node("Unsqueeze", [second], {"axes": axes}, name=f"{node.name}/Unsqueeze")
            node.prepend(wide)
            node.replace_input_with(1, wide.outputs[0])


def _is_aligned(node: ir.Node) -> bool:
    return node.op_type in _ALIGNED | {"PRelu"} and node.domain == "" and len(node.inputs) == 2


def _ranks(model: ir.Model) -> dict[str | None, int]:
    """Number of axes by value. Arithmetic has its first operand's shape, whatever the second is."""
    copy = model.clone()
    for node in copy.graph:
        if _is_aligned(node):
            node.op_type = "Identity"
            node.attributes.clear()
            node.resize_inputs(1)
    copy.graph.opset_imports[""] = 7
    inferred = ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(copy)))
    values = [*inferred.graph.inputs, *inferred.graph.initializers.values()]
    values += [output for node in inferred.graph for output in node.outputs]
    return {value.name: len(value.shape) for value in values if value.shape is not None}
