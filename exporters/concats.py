"""Joined features whose gradient needs no map to be cut up.

A Concat's gradient is a Split. ONNX Runtime has none in the layout, blocked by channels, in which
it keeps convolutions on CPUs: the map is taken out of that layout, cut, and its pieces are put back
in. Most of what is cut comes from convolutions of the backward pass, and those can give the pieces
themselves, with as much arithmetic: their weights are cut instead, once, when the file is loaded.

Two forms of the classifier's own Concats, which change no value, make way for that: a Concat that
begins with all that an earlier one joins takes its output, so that a network in which every layer
joins all features before it (DenseNet) has few pieces; and features are normalised and rectified
before they are joined, where a convolution follows.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce as fold

import numpy as np
import onnx_ir as ir

from deepinside.exporters.appended import Appended, attributes_of, group_of, is_used
from deepinside.exporters.builder import Builder
from deepinside.exporters.shapes import static

__all__ = ["cut_layers", "join_last", "nest_concats"]

# In forms for CPUs, a Concat takes the output of one that joins a multiple of so many tensors. What
# that one gives has to be cut up as a map; more pieces are more nodes, each with less to do.
_NEST = 12


def nest_concats(op: Builder) -> None:
    """Let Concats that begin with all that an earlier one joins take its output, in place."""
    step = _NEST if op.optimize_for == "cpu" else 1
    joined: dict[tuple[int, tuple[ir.Value | None, ...]], ir.Value] = {}
    parts: dict[tuple[int, ir.Value | None], tuple[ir.Value | None, ...]] = {}
    for node in op.graph:
        whole, shape = node.outputs[0], op.shapes.known(node.outputs[0])
        floats = whole.dtype is not None and whole.dtype.is_floating_point()
        if node.op_type != "Concat" or node.domain or shape is None or not floats:
            continue
        axis = node.attributes["axis"].as_int() % len(shape)
        first, *others = node.inputs
        inputs = (*parts.get((axis, first), (first,)), *others)
        parts[axis, whole] = inputs
        for count in range((len(inputs) - 1) // step * step, 1, -step):
            prefix = joined.get((axis, inputs[:count]))
            if prefix is not None:
                _set_inputs(node, (prefix, *inputs[count:]))
                break
        else:
            if len(inputs) <= step:
                _set_inputs(node, inputs)
        joined.setdefault((axis, inputs), whole)


def _set_inputs(node: ir.Node, values: Sequence[ir.Value | None]) -> None:
    node.resize_inputs(len(values))
    for index, value in enumerate(values):
        node.replace_input_with(index, value)


def join_last(op: Builder, keep: Collection[str | None] = ()) -> None:
    """Normalise and rectify features before they are joined for a convolution, in place.

    Args:
        op: builder of the graph, whose file is for CPUs.
        keep: names of nodes and of tensors that have to stay.
    """
    for node in list(op.graph):
        if node.op_type == "Concat" and not node.domain and len(node.inputs) > 1:
            chain = _chain(node.outputs[0])
            if chain and not any({n.name, n.outputs[0].name} & {*keep} for n in (node, *chain)):
                _join_behind(chain, node, op)
    op.scope = "deepinside"
    op.graph.sort()


def _chain(x: ir.Value) -> list[ir.Node]:
    """BatchNormalization and Relu between a tensor and convolutions, where that is all."""
    chain: list[ir.Node] = []
    while x.uses() and not x.is_graph_output() and all(use.idx == 0 for use in x.uses()):
        users = x.consumers()
        if all(node.op_type == "Conv" for node in users):
            return chain
        (node, *others) = users
        channelwise = node.op_type in ("BatchNormalization", "Relu") and not node.domain
        constant = all(v is not None and v.is_initializer() for v in node.inputs[1:])
        if others or not channelwise or not constant or len(node.outputs) > 1:
            break
        chain.append(node)
        x = node.outputs[0]
    return []


def _join_behind(chain: Sequence[ir.Node], concat: ir.Node, op: Builder) -> None:
    """Apply the nodes that follow a Concat to each of its inputs, and join the results."""
    x, pieces = concat.outputs[0], [v for v in concat.inputs if v is not None]
    shape, shapes = op.shapes.known(x), [op.shapes.known(piece) for piece in pieces]
    if shape is None or concat.attributes["axis"].as_int() % len(shape) != 1:
        return
    if not all(s is not None and op.can_block(s, x) for s in shapes):
        return
    ends = np.cumsum([static(s[1]) for s in shapes if s is not None])[:-1]
    for node in chain:
        op.scope = str(node.name)
        numbers = [np.split(_numbers(v), ends) for v in node.inputs[1:]]
        for index, piece in enumerate(pieces):
            own = [op.constant(cut[index]) for cut in numbers]
            pieces[index] = op.emit(node.op_type, piece, *own, **attributes_of(node))[0]
            op.shapes.record(pieces[index], shapes[index])
    op.scope = str(concat.name)
    op.replace(chain[-1], op.Concat(*pieces, axis=1))
    op.graph.remove([*chain[-2::-1], concat], safe=True)


def _numbers(value: ir.Value | None) -> np.ndarray:
    """An initializer's value."""
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()


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
            _add_pieces_last(node, appended, op)
    op.scope = "deepinside"
    op.graph.sort()


@dataclass(frozen=True)
class _Cut:
    """A Split of the backward pass.

    Attributes:
        split: the node.
        appended: the nodes of the backward pass.
        op: builder of the graph.
    """

    split: ir.Node
    appended: Appended
    op: Builder

    def apply(self) -> None:
        """Cut the weights of all layers that the Split's input comes from, if that is all."""
        op, g, outputs = self.op, self.split.inputs[0], self.split.outputs
        if g is None or self.split.attributes.get_int("axis", 0) != 1:
            return
        shapes = [op.shapes.known(output) for output in outputs]
        blocks = all(shape is not None and op.can_block(shape, g) for shape in shapes)
        # With a Split for a part of the sum, the rest costs less as a map, too.
        if not blocks or not self._comes_from_layers(g):
            return
        op.scope = str(self.split.name).rpartition("/")[0]
        for output, piece in zip(outputs, self._pieces(g), strict=True):
            ir.convenience.replace_all_uses_with(output, piece)
        op.graph.remove(self.split, safe=True)

    def _comes_from_layers(self, value: ir.Value) -> bool:
        """Whether a tensor is worked out channel by channel from what layers give.

        What is used elsewhere, too, is needed as a whole.
        """
        node = value.producer()
        if node is None or node not in self.appended or not is_used(value, 1):
            return False
        if self.op.shapes.known(value) is None:
            return False
        if node.op_type == "Conv":
            return self.appended.is_layer(node) and group_of(node) == 1
        operands = _channelwise(node)
        return bool(operands) and all(self._comes_from_layers(v) for v in operands)

    def _pieces(self, value: ir.Value) -> list[ir.Value]:
        """The pieces of a tensor that comes from layers."""
        op, node = self.op, value.producer()
        assert node is not None
        if node.op_type == "Conv":
            parts = self._split(node.inputs[1], axis=0)
            made = [op.Conv(node.inputs[0], part, **attributes_of(node)) for part in parts]
        else:
            operands = _channelwise(node)
            others = node.inputs[len(operands) :]
            pieces = zip(*(self._pieces(v) for v in operands), strict=True)
            made = [op.emit(node.op_type, *p, *others, **attributes_of(node))[0] for p in pieces]
        whole = op.shapes.known(value)
        assert whole is not None
        for piece, output in zip(made, self.split.outputs, strict=True):
            shape = op.shapes.known(output)
            assert shape is not None
            op.tell_shape(piece, (*whole[:1], shape[1], *whole[2:]))
        return made

    def _split(self, value: ir.Value | None, axis: int) -> Sequence[ir.Value]:
        count = len(self.split.outputs)
        return self.op.emit("Split", value, self.split.inputs[1], axis=axis, outputs=count)


def _channelwise(node: ir.Node) -> list[ir.Value]:
    """The operands of which each channel of a node's output needs the same channel alone."""
    count = {"Add": 2, "AveragePool": 1, "MaxPool": 1, "Resize": 1}.get(node.op_type, 0)
    return [v for v in node.inputs[:count] if v is not None]


def _terms(value: ir.Value, appended: Appended) -> Iterator[ir.Value]:
    """What a tensor is the sum of."""
    node = value.producer()
    if node is not None and node in appended and node.op_type == "Add" and is_used(value, 1):
        for operand in node.inputs:
            assert operand is not None
            yield from _terms(operand, appended)
    else:
        yield value


def _add_pieces_last(add: ir.Node, appended: Appended, op: Builder) -> None:
    """Add what a Split gives behind the rest of a sum, which stays in the blocked layout."""
    total = add.outputs[0]
    if [node.op_type for node in total.consumers()] == ["Add"]:
        return  # a part of another sum
    terms = [term for v in add.inputs if v is not None for term in _terms(v, appended)]
    cut = [term for term in terms if _is_cut(term, appended)]
    whole = [term for term in terms if term not in cut]
    if cut and len(whole) > 1 and len({op.shapes.known(term) for term in terms}) == 1:
        op.scope = str(add.name).rpartition("/")[0]
        ir.convenience.replace_all_uses_with(total, fold(op.Add, [*whole, *cut]))


def _is_cut(value: ir.Value, appended: Appended) -> bool:
    node = value.producer()
    return node is not None and node in appended and node.op_type == "Split"
