"""Replaces nodes of a classifier by others that compute the same, before it is differentiated.

A replacement is a function of the node and of a `Writer`, which emits nodes as `op.Mul(a, b)` and
knows types and numbers of axes. What it does not know yet is asked for again after the nodes before
it were replaced: shape inference stops at operators that ONNX does not have.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from deepinside.exporters.errors import ClassifierError
from deepinside.exporters.weights import set_aside

__all__ = ["Replacement", "Writer", "known_types", "rewrite"]


class _UnknownError(Exception):
    """A type or a number of axes is not inferred yet."""


class Writer:
    """Emits the nodes that take the place of one."""

    def __init__(
        self, node: ir.Node, types: Mapping[str, tuple[ir.DataType | None, int | None]], opset: int
    ) -> None:
        self.node = node
        self.opset = opset
        self.nodes: list[ir.Node] = []
        self._types = types

    def __getattr__(self, operator: str) -> Callable[..., ir.Value]:
        """`op.Mul` is the function that emits a Mul."""
        if not operator[0].isupper():
            raise AttributeError(operator)

        def emit(*inputs: ir.Value | None, **attributes: Any) -> ir.Value:
            return self.emit(operator, *inputs, **attributes)[0]

        return emit

    def emit(
        self, operator: str, *inputs: ir.Value | None, outputs: int = 1, **attributes: Any
    ) -> Sequence[ir.Value]:
        """Emit a node; an attribute that is None is left out."""
        given = {name: value for name, value in attributes.items() if value is not None}
        name = f"{self.node.name}/{operator}"
        number = sum(node.op_type == operator for node in self.nodes)
        name += f"_{number}" if number else ""
        kept = list(inputs)
        while kept and kept[-1] is None:
            kept.pop()
        self.nodes.append(ir.node(operator, kept, given, num_outputs=outputs, name=name))
        for index, output in enumerate(self.nodes[-1].outputs):
            output.name = f"{name}:{index}" if index else name
        return self.nodes[-1].outputs

    def number(self, value: float | Sequence[float], like: ir.Value | None) -> ir.Value:
        """A constant of the type of `like`."""
        dtype = self.dtype(like)
        return self.Constant(value=ir.tensor(np.array(value).astype(dtype.numpy()), dtype=dtype))

    def integers(self, values: Sequence[int]) -> ir.Value:
        """An int64 list."""
        return self.Constant(value=ir.tensor(np.array(values, dtype=np.int64)))

    def reduce_mean(self, x: ir.Value, axis: int) -> ir.Value:
        """Mean along one axis, which is kept."""
        if self.opset >= 18:
            return self.ReduceMean(x, self.integers([axis]), keepdims=1)
        return self.ReduceMean(x, axes=[axis], keepdims=1)

    def dtype(self, value: ir.Value | None) -> ir.DataType:
        """The element type."""
        found = self._known(value)[0]
        if found is None:
            raise _UnknownError
        return found

    def rank(self, value: ir.Value | None) -> int:
        """The number of axes."""
        found = self._known(value)[1]
        if found is None:
            raise _UnknownError
        return found

    def input(self, index: int) -> ir.Value | None:
        """An input of the node, or None where it is left out."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def refuse_inputs(self, *indices: int) -> None:
        """Complain of inputs for which there is no replacement."""
        for index in indices:
            if self.input(index) is not None:
                raise self.error(f"its input {index} has no counterpart in standard operators")

    def error(self, message: str) -> ClassifierError:
        """An error that names the node."""
        return ClassifierError(
            f"{self.node.domain}.{self.node.op_type} at node {self.node.name!r} can't be written "
            f"in standard operators: {message}; give the classifier as it was before ONNX "
            "Runtime optimised or converted it."
        )

    def _known(self, value: ir.Value | None) -> tuple[ir.DataType | None, int | None]:
        assert value is not None
        tensor = value.const_value
        if tensor is not None:
            return tensor.dtype, len(tensor.shape)
        dtype, rank = self._types.get(value.name or "", (None, None))
        return dtype or value.dtype, rank


Replacement = Callable[[ir.Node, Writer], ir.Value | Sequence[ir.Value | None]]


def rewrite(model: ir.Model, replacements: Mapping[tuple[str, str], Replacement]) -> None:
    """Replace the nodes of the main graph whose (domain, operator) is in the table.

    Raises:
        ClassifierError: a node stands in a form for which there is no replacement.
    """
    opset = model.graph.opset_imports[""]
    while True:
        waiting = [n for n in model.graph if (n.domain, n.op_type) in replacements]
        if not waiting:
            return
        types = known_types(model)
        stuck = True
        for node in waiting:
            writer = Writer(node, types, opset)
            try:
                found = replacements[node.domain, node.op_type](node, writer)
            except _UnknownError:
                continue
            _replace(node, writer, [found] if isinstance(found, ir.Value) else found)
            stuck = False
        if stuck:
            raise Writer(waiting[0], types, opset).error(
                "the type or the number of axes of its inputs can't be inferred"
            )


def _replace(node: ir.Node, writer: Writer, found: Sequence[ir.Value | None]) -> None:
    assert node.graph is not None
    pairs = []
    for index, output in enumerate(node.outputs):
        new = found[index] if index < len(found) else None
        if new is not None:
            pairs.append((output, new))
        elif output.uses() or output.is_graph_output():
            raise writer.error(f"its output {index} is used")
    old_values, new_values = zip(*pairs, strict=True)
    ir.convenience.replace_nodes_and_values(
        node.graph, node, [node], writer.nodes, old_values, new_values
    )


def known_types(model: ir.Model) -> dict[str, tuple[ir.DataType | None, int | None]]:
    """Element type and number of axes of every value, as far as ONNX can infer them."""
    copy = model.clone()
    for node in copy.graph:
        copy.graph.opset_imports.setdefault(node.domain, 1)  # some tools forget to import theirs
    set_aside(copy.graph)
    inferred = ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(copy), data_prop=True))
    values = [*inferred.graph.inputs, *inferred.graph.initializers.values()]
    values += [output for node in inferred.graph for output in node.outputs]
    return {
        value.name or "": (value.dtype, None if value.shape is None else len(value.shape))
        for value in values
    }
