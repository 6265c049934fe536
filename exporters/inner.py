"""Graphs inside the emitted nodes of control flow: built value by value, differentiated whole."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from deepinside.exporters.builder import Builder
from deepinside.exporters.gradient import sweep
from deepinside.exporters.registry import ReluMode
from deepinside.exporters.shapes import static

__all__ = ["InnerGraph", "pull_back", "zeros_like"]


class InnerGraph:
    """A graph for an attribute of a node that is about to be emitted.

    Attributes:
        graph: the graph.
        op: its builder.
    """

    def __init__(self, outer: Builder, name: str) -> None:
        self.graph = ir.Graph([], [], nodes=[], name=f"{outer.scope}/{name}")
        self.op = outer.nested(self.graph)

    def input(self, prefix: str, like: ir.Value) -> ir.Value:
        """A new input of the type and shape of another value."""
        shape = self.op.shapes.known(like)
        assert like.dtype is not None
        value = ir.Value(
            name=self.op.unique_name(f"{self.op.scope}/{prefix}{like.name}"),
            type=ir.TensorType(like.dtype),
            shape=None if shape is None else ir.Shape([static(dim) for dim in shape]),
        )
        self.op.shapes.record(value, shape)
        self.graph.inputs.append(value)
        return value

    def give(self, values: Sequence[ir.Value]) -> None:
        """Add outputs; each becomes a value of its own, as ONNX wants it."""
        self.graph.outputs.extend(self.op.Identity(value) for value in values)


def pull_back(
    body: ir.Graph,
    arguments: Mapping[ir.Value, ir.Value],
    seeds: Sequence[tuple[ir.Value, ir.Value]],
    sources: Sequence[ir.Value],
    relu: ReluMode,
    op: Builder,
) -> list[ir.Value]:
    """Append a copy of a body, and its vector-Jacobian product, to the graph of `op`.

    Args:
        body: an inner graph whose shapes are known.
        arguments: what stands for each of its inputs.
        seeds: pairs of an output of the body and its cotangent.
        sources: inputs of the body and values that it captures.
        relu: as in `sweep`.
        op: builder of the graph to append to.

    Returns:
        The cotangent of each source, zeros where nothing depends on it.
    """
    copies = _transplant(body, arguments, op)
    pairs = [(copies[output], cotangent) for output, cotangent in seeds]
    copied = [arguments.get(source, source) for source in sources]
    return [
        zeros_like(source, op) if cotangent is None else cotangent
        for source, cotangent in zip(copied, sweep(op, pairs, copied, relu), strict=True)
    ]


def zeros_like(value: ir.Value, op: Builder) -> ir.Value:
    """Zeros of the value's type and shape."""
    return op.expand_to(op.constant(np.array(0.0), value.dtype), value)


def _transplant(
    body: ir.Graph, arguments: Mapping[ir.Value, ir.Value], op: Builder
) -> dict[ir.Value, ir.Value]:
    """Append a copy of a graph's nodes to the graph of `op`.

    Args:
        body: an inner graph without initializers; it stays as it is.
        arguments: what stands for each of its inputs.
        op: builder of the graph to append to, which sees what the body captures.

    Returns:
        What stands for each output of the body: a copy or an argument.
    """
    inner = {*body.inputs, *(output for node in body for output in node.outputs)}
    for index, value in enumerate(body.outputs):
        if value not in inner:  # captured, and handed out as it is
            body.outputs[index] = op.nested(body).Identity(value)
    copy = body.clone(allow_outer_scope_values=True)
    copies = dict(zip(body.outputs, copy.outputs, strict=True))
    copy.outputs.clear()
    for old, new in zip(body.inputs, copy.inputs, strict=True):
        ir.convenience.replace_all_uses_with(new, arguments[old])
        copies[old] = arguments[old]
    for node in list(copy):
        copy.remove(node)
        op.adopt(node)
    return copies
