"""Gradients of joined features, without cutting up what need not be joined.

A Concat's gradient is a Split. ONNX Runtime has none in the layout, blocked by channels, in which
it keeps convolutions on CPUs: the map is taken out of that layout, cut, and its pieces are put back
in. Most of what is cut comes from convolutions of the backward pass, and those can give the pieces
themselves, with as much arithmetic: their weights are cut instead, once, when the file is loaded.

Where every layer joins all features before it (DenseNet), each Concat holds the one before. Written
so, its gradient has two pieces, and not one for each feature with a sum for each.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import reduce as fold

import onnx_ir as ir

from deepinside.exporters.appended import Appended, group_of, is_used
from deepinside.exporters.builder import Builder

__all__ = ["cut_layers", "nest_concats"]


def nest_concats(op: Builder) -> None:
    """Let Concats that begin with all that an earlier one joins take its output, in place.

    The values are the same to the last bit, and as many numbers are copied.
    """
    joined: dict[tuple[int, tuple[ir.Value | None, ...]], ir.Value] = {}
    for node in list(op.graph):
        shape = None if node.op_type != "Concat" or node.domain else op.shapes.known(node.outputs[0])
        if shape is None:
            continue
        axis, inputs = node.attributes["axis"].as_int() % len(shape), tuple(node.inputs)
        for count in range(len(inputs) - 1, 1, -1):
            prefix = joined.get((axis, inputs[:count]))
            if prefix is not None:
                op.scope = str(node.name)
                whole = op.Concat(prefix, *inputs[count:], axis=axis)
                op.replace(node, whole)
                break
        else:
            whole = node.outputs[0]
        joined.setdefault((axis, inputs), whole)
    op.scope = "deepinside"
    op.graph.sort()


def cut_layers(op: Builder, classifier: Collection[ir.Node], result: ir.Value) -> None:
    """Let convolutions of the backward pass give the pieces of what a Split cuts up, in place.

    Args:
        op: builder of the graph, whose file is for CPUs.
        classifier: the nodes of the forward pass.
        result: of the backward pass; its node stays.
    """
    appended = Appended(classifier)
    for node in list(op.graph):
        if node in appended and node.op_type == "AveragePool":
            _pool_first(node, appended, op)
    for node in list(op.graph):
        if node in appended and node.op_type == "Split":
            _cut(node, appended, op)
    op.scope = "deepinside"
    op.graph.sort()


@dataclass
class _Terms:
    """What a tensor is the sum of: convolutions of the backward pass, and the rest."""

    layers: list[ir.Node] = field(default_factory=list)
    rest: list[ir.Value] = field(default_factory=list)


def _cut(node: ir.Node, appended: Appended, op: Builder) -> None:
    """Cut the weights of the layers that a Split's input comes from."""
    g, sizes = node.inputs[0], op.shapes.constant(node.inputs[1])
    shape = None if g is None else op.shapes.known(g)
    if g is None or shape is None or sizes is None or node.attributes.get_int("axis", 0) != 1:
        return
    pieces = [(*shape[:1], op.shapes.dim(int(size)), *shape[2:]) for size in sizes]
    if not all(op.can_block(piece, g) for piece in pieces):
        return
    terms = _Terms()
    _collect(g, terms, appended, op)
    if not terms.layers:
        return
    op.scope = str(node.name).rpartition("/")[0]
    sums: list[list[ir.Value]] = [[] for _ in pieces]
    if terms.rest:
        rest = fold(op.Add, terms.rest)
        parts = op.emit("Split", rest, node.inputs[1], axis=1, outputs=len(pieces))
        for total, part, piece in zip(sums, parts, pieces, strict=True):
            total.append(op.blocked(part, piece))
    for layer in terms.layers:
        weights = op.emit("Split", layer.inputs[1], node.inputs[1], axis=0, outputs=len(pieces))
        for total, part, piece in zip(sums, weights, pieces, strict=True):
            attributes = {name: a.value for name, a in layer.attributes.items()}
            total.append(op.Conv(layer.inputs[0], part, **attributes))
            op.shapes.record(total[-1], piece)
    for output, total in zip(node.outputs, sums, strict=True):
        ir.convenience.replace_all_uses_with(output, fold(op.Add, total))
    op.graph.remove(node, safe=True)


def _collect(value: ir.Value, terms: _Terms, appended: Appended, op: Builder) -> None:
    """Add the terms of a tensor; what is used elsewhere too is not cut."""
    node = value.producer()
    if node is None or node not in appended or not is_used(value, 1):
        terms.rest.append(value)
    elif node.op_type == "Conv" and appended.is_layer(node) and group_of(node) == 1:
        terms.layers.append(node)
    elif node.op_type == "Add" and all(
        op.shapes.known(v) == op.shapes.known(value) for v in node.inputs if v is not None
    ):
        for operand in node.inputs:
            assert operand is not None
            _collect(operand, terms, appended, op)
    elif node.op_type == "MaxPool" and _of_single_values(node):
        assert node.inputs[0] is not None
        _collect(node.inputs[0], terms, appended, op)
    else:
        terms.rest.append(value)


def _of_single_values(pool: ir.Node) -> bool:
    """Whether a MaxPool does nothing, as `Builder.blocked` has it."""
    sizes = [*pool.attributes["kernel_shape"].as_ints(), *pool.attributes["strides"].as_ints()]
    return set(sizes) == {1}


def _pool_first(pool: ir.Node, appended: Appended, op: Builder) -> None:
    """Pool what a 1x1 convolution takes, and not what it gives, where that has more channels."""
    g = pool.inputs[0]
    assert g is not None
    layer = g.producer()
    if layer is None or not is_used(g, 1) or not appended.is_layer(layer) or layer.op_type != "Conv":
        return
    strides, kernel = ([*layer.attributes[n].as_ints()] for n in ("strides", "kernel_shape"))
    small = layer.inputs[0]
    assert small is not None
    wide, narrow = op.shapes.known(g), op.shapes.known(small)
    if {*strides, *kernel} != {1} or wide is None or narrow is None or narrow[1] >= wide[1]:
        return
    op.scope = str(pool.name).rpartition("/")[0]
    attributes = {name: a.value for name, a in pool.attributes.items()}
    layer.replace_input_with(0, op.AveragePool(small, **attributes))
    ir.convenience.replace_all_uses_with(pool.outputs[0], g)
    op.graph.remove(pool, safe=True)
