"""Folds constant factors of the backward pass into the weights of a layer beside them.

A backward pass multiplies whole maps by constants: a normalisation's scale, a layer scale, one over
a number of pixels. Where the map comes from a MatMul, Gemm or Conv of the backward pass and nothing
else uses it, or where such a layer is all that it goes to, the layer's weights are multiplied
instead. The mean that a normalisation subtracts is folded likewise. The product is written as
operators on the stored weights, which runtimes work out when they load the file. The classifier's
own nodes stay as they are.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from deepinside.exporters.appended import Appended, group_of, is_used
from deepinside.exporters.builder import Builder
from deepinside.exporters.shapes import is_one, static

__all__ = ["fold_factors"]


def fold_factors(op: Builder, classifier: Collection[ir.Node], result: ir.Value) -> None:
    """Fold what can be folded, in place.

    Args:
        op: builder of the graph.
        classifier: the nodes of the forward pass.
        result: of the backward pass; its node stays.
    """
    fold = _Fold(op, Appended(classifier))
    for node in list(op.graph):
        if node not in fold.appended or node is result.producer():
            continue
        if node.op_type in ("Mul", "Div"):
            fold.factor(node)
        elif node.op_type == "Sub":
            fold.mean(node)
    op.scope = "deepinside"
    op.graph.sort()  # what was emitted now is needed before


@dataclass(frozen=True)
class _Factor:
    """A constant factor.

    Attributes:
        value: a scalar, or a vector along one axis, of any rank.
        axis: of the tensor it multiplies; None for a scalar.
        divides: whether it divides.
    """

    value: ir.Value
    axis: int | None
    divides: bool


@dataclass(frozen=True)
class _Fold:
    """The state of one pass.

    Attributes:
        op: builder of the graph.
        appended: the nodes of the backward pass.
    """

    op: Builder
    appended: Appended

    def factor(self, node: ir.Node) -> None:
        """Fold a product of a tensor and a constant."""
        found = self._split(node)
        if found is None:
            return
        tensor, factor = found
        layers = list(self._sources(tensor, factor.axis))
        if None not in layers:
            for layer in layers:
                assert layer is not None
                self._scale(layer, factor, _OUTPUT[_kind(layer)])
        elif (below := self._sink(node.outputs[0], factor.axis)) is not None:
            self._scale(below, factor, _INPUT[_kind(below)])
        else:
            return
        ir.convenience.replace_all_uses_with(node.outputs[0], tensor)
        self.op.graph.remove(node, safe=True)

    def mean(self, node: ir.Node) -> None:
        """Fold h minus its mean along the last axis into the MatMuls that h comes from."""
        h, average = node.inputs
        producer = None if average is None else average.producer()
        if h is None or average is None or producer is None or producer.op_type != "ReduceMean":
            return
        shape = self.op.shapes.known(h)
        along_last = shape and self.op.shapes.known(average) == (*shape[:-1], self.op.shapes.dim(1))
        if not shape or not along_last or producer.inputs[0] is not h:
            return
        if {use.node for use in h.uses()} != {node, producer} or len(average.uses()) != 1:
            return
        layers = list(self._sources(h, len(shape) - 1, uses=2, products=False))
        if any(layer is None or layer.op_type != "MatMul" for layer in layers):
            return
        for layer in layers:
            assert layer is not None
            weights = self._weights(layer)
            row = self.op.reduce("ReduceMean", weights, [-1], keepdims=True)
            layer.replace_input_with(1, self.op.Sub(weights, row))
        ir.convenience.replace_all_uses_with(node.outputs[0], h)
        self.op.graph.remove([node, producer], safe=True)

    def _split(self, node: ir.Node) -> tuple[ir.Value, _Factor] | None:
        """The tensor and the constant factor of a product, if it is one."""
        first, second = node.inputs
        assert first is not None
        assert second is not None
        if node.op_type == "Mul" and self.appended.is_constant(first):
            first, second = second, first
        if self.appended.is_constant(first) or not self.appended.is_constant(second):
            return None
        if first.dtype not in _WIDE:
            return None  # weights of half precision would leave its range, or lose digits
        shape = self.op.shapes.known(first)
        known = self.op.shapes.known(second)
        if shape is None or known is None or len(known) > len(shape):
            return None
        long = [axis for axis, dim in enumerate(known, len(shape) - len(known)) if not is_one(dim)]
        if len(long) > 1 or any(known[axis - len(shape)] != shape[axis] for axis in long):
            return None
        return first, _Factor(second, long[0] if long else None, node.op_type == "Div")

    def _sources(
        self, value: ir.Value, axis: int | None, *, uses: int = 1, products: bool = True
    ) -> Iterator[ir.Node | None]:
        """The layers that a tensor comes from, or None for what is no such source.

        Their weights can take a factor along `axis` of the tensor. `uses` are the tensor's own, of
        what it comes from one; `products` of such a tensor and another are passed, too.
        """
        node, shape = value.producer(), self.op.shapes.known(value)
        if node is None or node not in self.appended or not is_used(value, uses):
            yield None
            return
        first = node.inputs[0] if node.inputs else None
        if self.appended.is_layer(node):
            fits = axis is None or (shape is not None and axis == _feature_axis(node, len(shape)))
            yield node if fits else None
        elif node.op_type == "Mul" and products:
            yield from self._one_factor(node, axis)
        elif node.op_type in ("Add", "Sub"):
            for operand in node.inputs:
                assert operand is not None
                if self.op.shapes.known(operand) != shape:
                    yield None
                else:
                    yield from self._sources(operand, axis, products=products)
        elif node.op_type in ("AveragePool", "Resize") and first is not None and axis in (None, 1):
            yield from self._sources(first, axis, products=products)
        elif node.op_type == "Transpose" and first is not None:
            order = node.attributes["perm"].as_ints()
            before = None if axis is None else order[axis]
            yield from self._sources(first, before, products=products)
        elif node.op_type == "Reshape" and first is not None and self._keeps(node, axis):
            last = len(self.op.shapes.known(first) or ()) - 1
            yield from self._sources(first, None if axis is None else last, products=products)
        else:
            yield None

    def _one_factor(self, node: ir.Node, axis: int | None) -> Iterator[ir.Node | None]:
        """The layers of that factor of a product which comes from layers alone."""
        shape = self.op.shapes.known(node.outputs[0])
        for operand in node.inputs:
            assert operand is not None
            if axis is not None and self.op.shapes.known(operand) != shape:
                continue
            layers = list(self._sources(operand, axis))
            if None not in layers:
                yield from layers
                return
        yield None

    def _sink(self, value: ir.Value, axis: int | None) -> ir.Node | None:
        """The layer that is all a tensor goes to, if its weights can take the factor."""
        while is_used(value, 1):
            (use,) = value.uses()
            node, shape = use.node, self.op.shapes.known(value)
            if use.idx == 0 and self.appended.is_layer(node):
                fits = shape is not None and axis == _feature_axis(node, len(shape))
                return node if axis is None or (fits and group_of(node) == 1) else None
            if node.op_type != "Transpose" or node not in self.appended:
                return None
            order = list(node.attributes["perm"].as_ints())
            axis = None if axis is None else order.index(axis)
            value = node.outputs[0]
        return None

    def _scale(self, layer: ir.Node, factor: _Factor, axis: int) -> None:
        """Multiply the layer's weights by the factor along one of their axes, -1 or -2 or 0, 1."""
        op, weights = self.op, self._weights(layer)
        kernel = layer.attributes.get("kernel_shape")
        rank = 2 if kernel is None else 2 + len(kernel.as_ints())
        along = [-1 if a == axis % rank else 1 for a in range(rank)]
        value = op.Reshape(factor.value, [1] if factor.axis is None else along)
        scaled = op.Div(weights, value) if factor.divides else op.Mul(weights, value)
        layer.replace_input_with(1, scaled)

    def _weights(self, layer: ir.Node) -> ir.Value:
        """A layer's weights, after which what is emitted next is named."""
        self.op.scope = str(layer.name).rpartition("/")[0]
        weights = layer.inputs[1]
        assert weights is not None
        return weights

    def _keeps(self, reshape: ir.Node, axis: int | None) -> bool:
        """Whether a Reshape leaves the factor where it is, on the last axis."""
        if axis is None:
            return True
        before, after = (
            self.op.shapes.known(v) if v is not None else None
            for v in (reshape.inputs[0], reshape.outputs[0])
        )
        if not before or not after or axis != len(after) - 1:
            return False
        return before[-1] == after[-1] and static(after[-1]) is not None


_WIDE = {ir.DataType.FLOAT, ir.DataType.DOUBLE}
# The axis of a layer's weights that belongs to the features of its output, and of its input.
_OUTPUT = {"MatMul": -1, "Gemm": -1, "transposed Gemm": -2, "Conv": 0, "ConvTranspose": 1}
_INPUT = {"MatMul": -2, "Gemm": -2, "transposed Gemm": -1, "Conv": 1, "ConvTranspose": 0}


def _kind(layer: ir.Node) -> str:
    flag = layer.attributes.get("transB")
    transposed = flag is not None and flag.as_int() == 1
    return f"transposed {layer.op_type}" if transposed else layer.op_type


def _feature_axis(layer: ir.Node, rank: int) -> int:
    """The axis of the features in a layer's input and output."""
    return rank - 1 if layer.op_type in ("MatMul", "Gemm") else 1
