"""Gradients of joined features, without cutting up maps.

A Concat's gradient is a Split. ONNX Runtime has none in the layout, blocked by channels, in which
it keeps convolutions on CPUs: the map is taken out of that layout, cut, and its pieces are put back
in. Most of what is cut comes from convolutions of the backward pass, and those can give the pieces
themselves, with as much arithmetic: their weights are cut instead, once, when the file is loaded.

Where every layer joins all features before it (DenseNet), each Concat holds an earlier one. Written
so, its gradient is one piece for all that the earlier one holds, and not one for each feature.
"""

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce as fold

import numpy as np
import onnx_ir as ir

from deepinside.exporters.appended import Appended, group_of, is_used
from deepinside.exporters.builder import Builder
from deepinside.exporters.shapes import Shape, static

__all__ = ["cut_layers", "nest_concats"]


def nest_concats(op: Builder) -> None:
    """Let Concats that begin with all that an earlier one joins take its output, in place.

    The values are the same to the last bit, and as many numbers are copied.
    """
    every = int(os.environ.get("NEST", "6")) if op.optimize_for == "cpu" else 1
    joined: dict[tuple[int, tuple[ir.Value | None, ...]], ir.Value] = {}
    for node in list(op.graph):
        joins = node.op_type == "Concat" and not node.domain
        shape = op.shapes.known(node.outputs[0]) if joins else None
        if shape is None:
            continue
        axis, inputs = node.attributes["axis"].as_int() % len(shape), tuple(node.inputs)
        whole = node.outputs[0]
        for count in range((len(inputs) - 1) // every * every, 1, -every):
            prefix = joined.get((axis, inputs[:count]))
            if prefix is not None:
                op.scope = str(node.name)
                whole = op.Concat(prefix, *inputs[count:], axis=axis)
                op.replace(node, whole)
                break
        joined.setdefault((axis, inputs), whole)
    if op.optimize_for == "cpu":
        for node in list(op.graph):
            if node.op_type == "Concat" and not node.domain:
                _join_last(node, op)
    op.scope = "deepinside"
    op.graph.sort()


def _join_last(concat: ir.Node, op: Builder) -> None:
    """Normalise and rectify features before they are joined for a convolution, not behind.

    As much work, channel by channel, and the same values; but masks of the pieces are at hand, and
    nothing stands between the convolution and the Concat on the way back.
    """
    x = concat.outputs[0]
    chain = _chain(x)
    shape = op.shapes.known(x)
    if not chain or shape is None or concat.attributes["axis"].value not in (1, 1 - len(shape)):
        return
    shapes = [op.shapes.known(v) if v is not None else None for v in concat.inputs]
    if any(s is None or not op.can_block(s, x) for s in shapes):
        return
    pieces = list(concat.inputs)
    ends = np.cumsum([static(s[1]) for s in shapes])[:-1]
    for node in chain:
        op.scope = str(node.name)
        numbers: list[list[np.ndarray]] = []
        for v in node.inputs[1:]:
            array = op.shapes.constant(v)
            if array is None:
                return
            numbers.append(np.split(array, ends))
        attributes = {name: a.value for name, a in node.attributes.items()}
        made = []
        for index, piece in enumerate(pieces):
            given = [op.constant(n[index]) for n in numbers]
            made.append(op.emit(node.op_type, piece, *given, **attributes)[0])
            op.shapes.record(made[-1], shapes[index])
        pieces = made
    op.scope = str(concat.name)
    op.replace(chain[-1], op.Concat(*pieces, axis=1))
    op.graph.remove([*chain[-2::-1], concat], safe=True)


def _chain(x: ir.Value) -> list[ir.Node]:
    """BatchNormalization and Relu between a tensor and convolutions, where that is all."""
    chain: list[ir.Node] = []
    while True:
        users = x.consumers()
        if x.is_graph_output() or not users:
            return []
        if all(node.op_type == "Conv" for node in users):
            return chain
        if len(users) > 1 or users[0].op_type not in ("BatchNormalization", "Relu"):
            return []
        if len(users[0].outputs) > 1:
            return []
        chain.append(users[0])
        x = users[0].outputs[0]


def cut_layers(op: Builder, classifier: Collection[ir.Node]) -> None:
    """Let convolutions of the backward pass give the pieces of what a Split cuts up, in place.

    Args:
        op: builder of the graph, whose file is for CPUs.
        classifier: the nodes of the forward pass.
    """
    appended = Appended(classifier)
    for node in list(op.graph):
        if node in appended and node.op_type == "Split":
            _Cut(node, appended, op).apply()
    for node in list(op.graph):
        if node in appended and node.op_type == "Add":
            _order(node.outputs[0], appended, op)
    op.scope = "deepinside"
    op.graph.sort()


@dataclass(frozen=True)
class _Cut:
    """A Split of the backward pass, and what its input is the sum of.

    Attributes:
        split: the node.
        appended: the nodes of the backward pass.
        op: builder of the graph.
    """

    split: ir.Node
    appended: Appended
    op: Builder

    def apply(self) -> None:
        """Cut what can be cut before it is computed, and the rest behind."""
        op, g, sizes = self.op, self.split.inputs[0], self._sizes
        shape = None if g is None else op.shapes.known(g)
        if g is None or shape is None or sizes is None or self.split.attributes["axis"].value != 1:
            return
        if not all(op.can_block(self._shape(g, size), g) for size in sizes):
            return
        terms = list(_terms(g, self.appended))
        layers = [term for term in terms if self._comes_from_layers(term)]
        if not layers:
            return
        op.scope = str(self.split.name).rpartition("/")[0]
        found = [self._pieces(term) for term in layers]
        rest = [term for term in terms if term not in layers]
        if rest:
            parts = self._split(fold(op.Add, rest), axis=1)
            shapes = (self._shape(g, size) for size in sizes)
            found.append([op.blocked(*each) for each in zip(parts, shapes, strict=True)])
        for output, pieces in zip(self.split.outputs, zip(*found, strict=True), strict=True):
            ir.convenience.replace_all_uses_with(output, fold(op.Add, pieces))
        op.graph.remove(self.split, safe=True)

    @property
    def _sizes(self) -> np.ndarray | None:
        return self.op.shapes.constant(self.split.inputs[1])

    def _shape(self, whole: ir.Value, size: int) -> Shape:
        """The shape of a piece of so many channels."""
        shape = self.op.shapes.known(whole)
        assert shape is not None
        return (*shape[:1], self.op.shapes.dim(int(size)), *shape[2:])

    def _comes_from_layers(self, value: ir.Value) -> bool:
        """Whether all that a tensor is computed from channel by channel comes from layers.

        What is used elsewhere, too, is needed as a whole.
        """
        node = value.producer()
        if node is None or node not in self.appended or not is_used(value, 1):
            return False
        if self.op.shapes.known(value) is None:
            return False
        if node.op_type == "Conv":
            return self.appended.is_layer(node) and group_of(node) == 1
        if node.op_type not in ("Add", "AveragePool", "MaxPool", "Resize"):
            return False
        operands = node.inputs if node.op_type == "Add" else node.inputs[:1]
        return all(v is not None and self._comes_from_layers(v) for v in operands)

    def _pieces(self, value: ir.Value) -> list[ir.Value]:
        """The pieces of a tensor that comes from layers."""
        op, node, sizes = self.op, value.producer(), self._sizes
        assert node is not None
        assert sizes is not None
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        if node.op_type == "Conv":
            parts = self._split(node.inputs[1], axis=0)
            made = [op.Conv(node.inputs[0], part, **attributes) for part in parts]
        elif node.op_type == "Add":
            pieces = (self._pieces(v) for v in node.inputs if v is not None)
            made = [op.Add(*pair) for pair in zip(*pieces, strict=True)]
        else:
            assert node.inputs[0] is not None
            made = [
                op.emit(node.op_type, piece, *node.inputs[1:], **attributes)[0]
                for piece in self._pieces(node.inputs[0])
            ]
        for piece, size in zip(made, sizes, strict=True):
            op.tell_shape(piece, self._shape(value, size))
        return made

    def _split(self, value: ir.Value | None, axis: int) -> Sequence[ir.Value]:
        count = len(self.split.outputs)
        return self.op.emit("Split", value, self.split.inputs[1], axis=axis, outputs=count)


def _terms(value: ir.Value, appended: Appended) -> Iterator[ir.Value]:
    """What a tensor is the sum of."""
    node = value.producer()
    if node is not None and node in appended and node.op_type == "Add" and is_used(value, 1):
        for operand in node.inputs:
            assert operand is not None
            yield from _terms(operand, appended)
    else:
        yield value


def _order(total: ir.Value, appended: Appended, op: Builder) -> None:
    """Add pieces of a Split last, up to which the sum stays in the blocked layout."""
    if [use.node.op_type for use in total.uses()] == ["Add"]:
        return  # a part of another sum
    node = total.producer()
    assert node is not None
    terms = [term for v in node.inputs if v is not None for term in _terms(v, appended)]
    cut = [term for term in terms if _is_cut(term, appended)]
    whole = [term for term in terms if term not in cut]
    shapes = {op.shapes.known(term) for term in terms}
    if cut and len(whole) > 1 and len(shapes) == 1:
        op.scope = str(node.name).rpartition("/")[0]
        ir.convenience.replace_all_uses_with(total, fold(op.Add, [*whole, *cut]))


def _is_cut(value: ir.Value, appended: Appended) -> bool:
    node = value.producer()
    return node is not None and node in appended and node.op_type == "Split"
