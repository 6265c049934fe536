"""The table of gradient rules, and what a rule sees of the node that it differentiates.

A rule is registered for exact schema versions: the version of a node is the newest schema not above
the model's opset, so that a changed operator can never be differentiated by an old rule.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir

from deepinside.exporters.builder import Builder
from deepinside.exporters.errors import GradientError, MissingRuleError
from deepinside.exporters.shapes import Dim, Shape, Shapes, static

__all__ = [
    "OPSET_FLOOR",
    "Elsewhere",
    "ForwardNode",
    "ReluMode",
    "Rule",
    "find_rule",
    "has_rule",
    "rules",
    "schema_versions",
    "vjp",
]

OPSET_FLOOR = 17

ReluMode = Literal["gradient", "deconvnet", "guided"]


class Elsewhere(Enum):
    """A cotangent that a rule has added to that of another input already."""

    COUNTED = "counted"


# One entry per forward input: the cotangent, a function that emits it when it is asked for,
# Elsewhere, or None where the rule offers no gradient.
Cotangents = Sequence[ir.Value | Callable[[], ir.Value] | Elsewhere | None]
RuleFunction = Callable[[Any, "ForwardNode", Builder], "Cotangents | ir.Value"]


@dataclass(frozen=True)
class Rule:
    """A vector-Jacobian product for one (operator, schema version).

    Attributes:
        function: `rule(g, node, op)`; `g` is the cotangent of the only output, or the tuple of
            all outputs' cotangents (None where one does not matter) with `all_outputs`.
        elementwise: accepts a cotangent that is 1 long in some axes and stands for its broadcast.
        all_outputs: see `function`.
    """

    function: RuleFunction
    elementwise: bool = False
    all_outputs: bool = False


_RULES: dict[tuple[str, int], Rule] = {}


def vjp(
    operator: str, *versions: int, elementwise: bool = False, all_outputs: bool = False
) -> Callable[[RuleFunction], RuleFunction]:
    """Register a gradient rule for the given schema versions of an operator.

    Raises:
        ValueError: ONNX has no such version, it is never used at opset 17 or later, or it is
            registered twice.
    """
    existing = schema_versions(operator)

    def register(function: RuleFunction) -> RuleFunction:
        for version in versions:
            if version > onnx.defs.onnx_opset_version():
                continue  # the installed onnx is older: no model that it opens has this version
            if version not in existing:
                raise ValueError(
                    f"{operator} has no version {version} at opset {OPSET_FLOOR} or later; "
                    f"it has {existing}"
                )
            if (operator, version) in _RULES:
                raise ValueError(f"a rule for {operator} version {version} exists already")
            _RULES[operator, version] = Rule(function, elementwise, all_outputs)
        return function

    return register


def schema_versions(operator: str) -> tuple[int, ...]:
    """The operator's schema versions that a model of opset 17 or later can use."""
    versions = sorted(
        schema.since_version
        for schema in onnx.defs.get_all_schemas_with_history()
        if schema.domain == "" and schema.name == operator
    )
    first = max((i for i, v in enumerate(versions) if v <= OPSET_FLOOR), default=0)
    return tuple(versions[first:])


def rules() -> dict[tuple[str, int], Rule]:
    """All rules, by (operator, schema version)."""
    return dict(_RULES)


def has_rule(operator: str, version: int) -> bool:
    """Whether a schema version of an operator has a rule."""
    return (operator, version) in _RULES


def find_rule(node: ir.Node, opset: int) -> Rule:
    """The rule for a node.

    Raises:
        MissingRuleError: there is none; the text names operator, version, node and what there is.
    """
    supported = tuple(sorted({operator for operator, _ in _RULES}))
    place = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    if node.domain or not onnx.defs.has(node.op_type):
        raise MissingRuleError(
            place,
            node.version or 0,
            str(node.name),
            (
                "operators outside ONNX's default domain have no gradient rule"
                if node.domain
                else "ONNX has no such operator"
            )
            + "; export the classifier without fused or custom operators.",
            supported,
        )
    version = onnx.defs.get_schema(node.op_type, opset, "").since_version
    rule = _RULES.get((node.op_type, version))
    if rule is None:
        others = [str(v) for operator, v in sorted(_RULES) if operator == node.op_type]
        message = (
            f"this version has no gradient rule; versions with a rule: {', '.join(others)}."
            if others
            else "this operator has no gradient rule; operators with a rule: "
            + ", ".join(supported)
            + "."
        )
        raise MissingRuleError(place, version, str(node.name), message, supported)
    return rule


@dataclass(frozen=True)
class ForwardNode:
    """A node of the classifier, as its rule sees it.

    Attributes:
        node: the node itself.
        version: schema version of its operator.
        shapes: shapes and constants of the graph.
        relu: which of the three backward rules of ReLU is asked for.
        wanted: position and value of the operands whose cotangents are needed; what the node's
            inner graphs capture follows its inputs (see `bodies.operands`).
    """

    node: ir.Node
    version: int
    shapes: Shapes
    relu: ReluMode = "gradient"
    wanted: tuple[tuple[int, ir.Value], ...] = ()

    @property
    def inputs(self) -> tuple[ir.Value, ...]:
        """The node's inputs; an omitted optional input is None, which rules that know it check."""
        return tuple(self.node.inputs)  # type: ignore[arg-type]

    @property
    def x(self) -> ir.Value:
        """The first input."""
        return self.inputs[0]

    @property
    def y(self) -> ir.Value:
        """The first output."""
        return self.node.outputs[0]

    def input(self, index: int) -> ir.Value | None:
        """An optional input, or None when it is omitted."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def attribute(self, name: str, default: Any = None) -> Any:
        """The attribute's value, else the schema's default, else `default`."""
        if name in self.node.attributes:
            return self.node.attributes[name].value
        schema = onnx.defs.get_schema(self.node.op_type, self.version, "")
        if name in schema.attributes:
            proto = schema.attributes[name].default_value
            if proto.type != onnx.AttributeProto.UNDEFINED:
                value = onnx.helper.get_attribute_value(proto)
                return value.decode() if isinstance(value, bytes) else value
        return default

    def constant(self, index: int) -> np.ndarray | None:
        """An optional input's constant value; None when it is omitted.

        Raises:
            GradientError: the input is there and depends on the image or on its size.
        """
        value = self.input(index)
        array = self.shapes.constant(value)
        if value is not None and array is None:
            raise self.error(
                f"its input {index} ({value.name!r}) is computed at run time; "
                "the gradient is known for a constant one only."
            )
        return array

    def shape(self, value: ir.Value) -> Shape:
        """The value's probed shape.

        Raises:
            GradientError: shape inference could not find it.
        """
        shape = self.shapes.known(value)
        if shape is None:
            raise self.error(
                f"the shape of {value.name!r} can't be inferred; simplify the classifier "
                "(fold its shape computations) before the export."
            )
        return shape

    def rank(self, value: ir.Value) -> int:
        """Number of axes."""
        return len(self.shape(value))

    def size(self, value: ir.Value, axis: int) -> int:
        """The static size of an axis.

        Raises:
            GradientError: the axis is dynamic.
        """
        size = static(self.shape(value)[axis])
        if size is None:
            raise self.error(
                f"axis {axis} of {value.name!r} is dynamic; this gradient needs a fixed size: "
                "export the classifier with a fixed input height and width."
            )
        return size

    def dim(self, value: ir.Value, axis: int) -> Dim:
        """The probed size of an axis."""
        return self.shape(value)[axis]

    def axis(self, value: ir.Value, axis: int) -> int:
        """A possibly negative axis, counted from the front."""
        return int(axis) + self.rank(value) if axis < 0 else int(axis)

    def error(self, message: str) -> GradientError:
        """A GradientError that names this node."""
        return GradientError(self.node.op_type, self.version, str(self.node.name), message)
