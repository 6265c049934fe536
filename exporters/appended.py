"""What the nodes of a backward pass are, for the passes that rewrite them.

Which of their values depend on weights alone, and which of them are linear layers with such
weights. The classifier's own nodes are never among them: they stay as they are.
"""

from collections.abc import Collection
from typing import Any

import onnx_ir as ir

__all__ = ["Appended", "attributes_of", "group_of", "is_used"]

_LAYERS = ("MatMul", "Gemm", "Conv", "ConvTranspose")


class Appended:
    """The nodes appended to a classifier."""

    def __init__(self, classifier: Collection[ir.Node]) -> None:
        self._classifier = frozenset(classifier)
        self._constant: dict[ir.Value, bool] = {}

    def __contains__(self, node: ir.Node) -> bool:
        """Whether a node is no node of the classifier."""
        return node not in self._classifier

    def is_layer(self, node: ir.Node | None) -> bool:
        """Whether a node is an appended linear layer without bias, with constant weights."""
        if node is None or node not in self or node.op_type not in _LAYERS:
            return False
        weights = node.inputs[1]
        if len(node.inputs) > 2 or weights is None or not self.is_constant(weights):
            return False
        return node.op_type != "ConvTranspose" or group_of(node) == 1

    def is_constant(self, value: ir.Value) -> bool:
        """Whether a value depends on weights alone."""
        if value not in self._constant:
            node = value.producer()
            self._constant[value] = (
                value.is_initializer() and not value.is_graph_input()
                if node is None
                else node in self
                and bool(node.inputs)
                and all(v is None or self.is_constant(v) for v in node.inputs)
            )
        return self._constant[value]


def attributes_of(node: ir.Node) -> dict[str, Any]:
    """A node's attributes, to emit another like it."""
    return {name: attribute.value for name, attribute in node.attributes.items()}


def group_of(layer: ir.Node) -> int:
    """The number of groups of a convolution."""
    return int(layer.attributes.get_int("group", 1) or 1)


def is_used(value: ir.Value, times: int) -> bool:
    """Whether a value is used so often, and is no output of the graph."""
    return len(value.uses()) == times and not value.is_graph_output()
