"""Moves 1x1 convolutions of the backward pass to where they have the least to do.

Such a convolution mixes channels at each place, and the gradient of an average pool mixes places in
each channel, so that either may come first. What goes back through a pool that halves a map
(DenseNet's transitions) is convolved before it is repeated, at a quarter of the places; what goes
back through one of stride 1 (Inception) is pooled where it has the fewer channels.
"""

from collections.abc import Collection

import onnx_ir as ir

from deepinside.exporters.appended import Appended, attributes_of, is_used
from deepinside.exporters.builder import Builder

__all__ = ["move_pointwise"]


def move_pointwise(op: Builder, classifier: Collection[ir.Node], result: ir.Value) -> None:
    """Exchange 1x1 convolutions and the gradients of pools where that pays, in place.

    Args:
        op: builder of the graph.
        classifier: the nodes of the forward pass.
        result: of the backward pass; its node stays.
    """
    appended = Appended(classifier)
    for node in list(op.graph):
        between = node.inputs[0] if node in appended and node.inputs else None
        first = None if between is None or not is_used(between, 1) else between.producer()
        if first is None or first not in appended or node is result.producer():
            continue
        op.scope = str(node.name).rpartition("/")[0]
        if _keeps_channels(node, op) and _is_pointwise(first, appended):
            new = _narrow_first(first, node, op)
        elif first.op_type == "Resize" and _is_pointwise(node, appended):
            new = _repeated_last(first, node, op)
        else:
            continue
        if new is not None:
            op.shapes.record(new, op.shapes.known(node.outputs[0]))
            ir.convenience.replace_all_uses_with(node.outputs[0], new)
            op.graph.remove([node, first], safe=True)
    op.scope = "deepinside"
    op.graph.sort()


def _is_pointwise(node: ir.Node, appended: Appended) -> bool:
    """Whether a node is a 1x1 convolution of stride 1 without padding or bias."""
    if node.op_type != "Conv" or not appended.is_layer(node):
        return False
    ones = [*node.attributes["kernel_shape"].as_ints(), *node.attributes["strides"].as_ints()]
    return set(ones) == {1} and not any(node.attributes["pads"].as_ints())


def _keeps_channels(node: ir.Node, op: Builder) -> bool:
    """Whether a node pools, or multiplies by what is the same for all channels."""
    if node.op_type != "Mul":
        return node.op_type == "AveragePool"
    factor = op.shapes.constant(node.inputs[1])
    shape = op.shapes.known(node.outputs[0])
    if factor is None or shape is None or len(shape) < 2 or node.inputs[0] is None:
        return False
    channels = 1 - len(shape) + factor.ndim  # the axis of the factor that goes with them
    return op.shapes.known(node.inputs[0]) == shape and (
        channels < 0 or factor.shape[channels] == 1
    )


def _narrow_first(layer: ir.Node, node: ir.Node, op: Builder) -> ir.Value | None:
    """AveragePool(Conv(x)) as Conv(AveragePool(x)), Mul likewise, if x has fewer channels."""
    x, y = layer.inputs[0], node.outputs[0]
    assert x is not None
    before, after = op.shapes.known(x), op.shapes.known(y)
    if before is None or after is None or not before[1] < after[1]:
        return None
    narrow = op.emit(node.op_type, x, *node.inputs[1:], **attributes_of(node))[0]
    op.shapes.record(narrow, (*after[:1], before[1], *after[2:]))
    return op.Conv(narrow, layer.inputs[1], **attributes_of(layer))


def _repeated_last(resize: ir.Node, layer: ir.Node, op: Builder) -> ir.Value | None:
    """Conv(Resize(x)) as Resize(Conv(x)), where Resize is that of `Builder.repeat`."""
    x, scales = resize.inputs[0], op.shapes.constant(resize.inputs[2])
    assert x is not None
    shape, repeated = op.shapes.known(x), op.shapes.known(layer.outputs[0])
    if scales is None or shape is None or repeated is None or len(resize.inputs) > 3:
        return None
    small = op.Conv(x, layer.inputs[1], **attributes_of(layer))
    op.shapes.record(small, (*shape[:1], repeated[1], *shape[2:]))
    return op.repeat(small, [int(scale) for scale in scales[2:]])
