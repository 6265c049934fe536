"""Replaces operators that have no gradient rule by their definition, where ONNX gives one.

ONNX defines Attention, RotaryEmbedding, CenterCropPad and others as functions of simpler operators,
and their gradient is that of the definition. Operators with a rule stay whole: their own gradient
is shorter, and runtimes keep their fused kernels.
"""

from typing import Any

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from deepinside.exporters.nondifferentiable import FLAT, QUANTISERS
from deepinside.exporters.registry import has_rule

__all__ = ["DEFINITION_UNUSED", "expand_functions", "has_definition"]

# Operators whose definition does not help: it draws random numbers, or has no image to see.
DEFINITION_UNUSED: frozenset[str] = frozenset(
    {"Bernoulli", "BlackmanWindow", "HammingWindow", "HannWindow", "Range", "SequenceMap"}
)

_DOMAIN = "deepinside.definition"


def has_definition(operator: str, version: int) -> bool:
    """Whether nodes of this schema version are replaced by their definition."""
    if has_rule(operator, version) or operator in FLAT | QUANTISERS | DEFINITION_UNUSED:
        return False
    schema: Any = onnx.defs.get_schema(operator, version, "")  # its stubs lack what it has
    return bool(schema.has_function or schema.has_context_dependent_function)


def expand_functions(model: ir.Model) -> ir.Model:
    """Replace every node that has a definition and no gradient rule, also those in definitions.

    The model's own functions are inlined.

    A definition may depend on the types and ranks of the node's inputs. A node whose definition
    can't be had, since they are unknown, stays: if the score depends on it, its missing rule is
    complained of.

    Returns:
        The argument, changed in place.
    """
    opset = model.graph.opset_imports[""]
    tried: set[ir.Node] = set()
    every = ir.traversal.RecursiveGraphIterator
    while nodes := [n for n in every(model.graph) if n not in tried and _wanted(n, opset)]:
        passes.ShapeInferencePass(check_type=False, strict_mode=False)(model)
        for node in nodes:
            tried.add(node)
            body = _definition(node, opset)
            if body is not None:
                _call(model, node, body, opset, f"{node.op_type}.{len(tried)}")
        passes.InlinePass()(model)
        passes.RemoveUnusedNodesPass()(model)  # what makes outputs that nobody asked for
    return model


def _wanted(node: ir.Node, opset: int) -> bool:
    if node.domain or not onnx.defs.has(node.op_type):
        return False
    version = onnx.defs.get_schema(node.op_type, opset, "").since_version
    return has_definition(node.op_type, version)


def _definition(node: ir.Node, opset: int) -> onnx.FunctionProto | None:
    """The newest body for an opset not above the model's; None where it can't be built or fits not.

    It may be older than the model's opset: then no attribute of its nodes may have gone since.
    """
    schema: Any = onnx.defs.get_schema(node.op_type, opset, "")
    content: bytes | None = None
    if schema.has_function:
        versions = [v for v in schema.function_opset_versions if v <= opset]
        if versions:
            content = schema.get_function_with_opset_version(max(versions))
    else:
        versions = [v for v in schema.context_dependent_function_opset_versions if v <= opset]
        types = [_type_proto(value) for value in node.inputs]
        if versions and None not in types:
            content = schema.get_context_dependent_function_with_opset_version(
                max(versions), ir.to_proto(node).SerializeToString(), types
            )
    if not content:
        return None
    body: onnx.FunctionProto = onnx.FunctionProto.FromString(content)
    for inner in body.node:
        known = onnx.defs.get_schema(inner.op_type, opset, inner.domain).attributes
        if any(attribute.name not in known for attribute in inner.attribute):
            return None
    return body


def _type_proto(value: ir.Value | None) -> bytes | None:
    """The value's type and shape; nothing for an omitted input, None for an unknown type."""
    if value is None:
        return b""
    if value.dtype is None:
        return None
    shape = value.shape
    if shape is None and value.const_value is not None:
        shape = ir.Shape(value.const_value.shape.numpy())
    sizes = None if shape is None else [d if isinstance(d, int) else d.value for d in shape.dims]
    proto: bytes = onnx.helper.make_tensor_type_proto(value.dtype, sizes).SerializeToString()
    return proto


def _call(model: ir.Model, node: ir.Node, body: onnx.FunctionProto, opset: int, name: str) -> None:
    """Turn the node into a call of a function of the model, with this body."""
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    body.domain, body.name = _DOMAIN, name
    del body.output[len(node.outputs) :]
    produced = {name for inner in body.node for name in inner.output}
    for index, name in enumerate(body.output):
        if name not in produced:  # an output that the node leaves out; it needs some value
            body.output[index] = f"left_out_{index}"
            body.node.add(op_type="Identity", input=[body.output[0]], output=[body.output[index]])
    for index, inner in enumerate(body.node):
        inner.name = f"{node.name or node.op_type}/{inner.op_type}_{index}"
    for imported in body.opset_import:
        if imported.domain == "":
            imported.version = opset
    function = ir.serde.deserialize_function(body)
    for key, attribute in schema.attributes.items():
        default = attribute.default_value
        if key not in node.attributes and default.type != onnx.AttributeProto.UNDEFINED:
            node.attributes[key] = ir.serde.deserialize_attribute(default)
    model.functions[function.identifier()] = function
    node.domain, node.op_type, node.overload = function.identifier()
