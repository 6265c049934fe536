"""Forms of a classifier's own nodes that keep ONNX Runtime's blocked layout, for files for CPUs.

Squeeze-and-excitation takes the mean of each channel by ReduceMean and multiplies maps by one
number per channel: ONNX Runtime leaves its layout for both, on the way back as well. It stays for
GlobalAveragePool and for a product of two maps. Values are the same up to the mean's rounding.

What is rectified and then pooled by a strided MaxPool is pooled first: the same values, with fewer
of them to rectify, and fewer cotangents to mask. A padded pool can be undone in the blocked layout
then.
"""

from collections.abc import Collection

import onnx_ir as ir

from deepinside.exporters.appended import attributes_of
from deepinside.exporters.builder import Builder
from deepinside.exporters.shapes import is_one, static

__all__ = ["keep_blocked", "rectify_last"]


def rectify_last(op: Builder, keep: Collection[str | None] = ()) -> None:
    """Put each strided MaxPool before the Relu that it alone follows, in place.

    Args:
        op: builder of the graph, whose file is for CPUs, and whose ReLUs have their own gradient.
        keep: names of nodes and of tensors that have to stay.
    """
    for relu in list(op.graph):
        if relu.op_type != "Relu" or relu.domain:
            continue
        y = relu.outputs[0]
        users = [use.node for use in y.uses()]
        kept = {relu.name, y.name, *(user.name for user in users)} & {*keep}
        if [user.op_type for user in users] == ["MaxPool"] and not y.is_graph_output() and not kept:
            _swap(relu, users[0], op)
    op.scope = "deepinside"
    op.graph.sort()


def _swap(relu: ir.Node, pool: ir.Node, op: Builder) -> None:
    """Relu of MaxPool for MaxPool of Relu, if that leaves fewer values to rectify."""
    strides = pool.attributes.get_ints("strides", ()) or ()
    if pool.domain or max(strides, default=1) == 1 or len(pool.outputs) > 1:
        return
    op.scope = str(pool.name)
    (pooled,) = op.emit("MaxPool", relu.inputs[0], **attributes_of(pool))
    op.shapes.record(pooled, op.shapes.known(pool.outputs[0]))
    op.scope = str(relu.name)
    op.replace(pool, op.Relu(pooled))
    op.graph.remove(relu, safe=True)


def keep_blocked(op: Builder) -> None:
    """Rewrite the classifier's means and gates in place, if the file is for CPUs."""
    for node in list(op.graph):
        op.scope = str(node.name)
        if node.domain:
            continue
        if node.op_type == "ReduceMean":
            _pool(node, op)
        elif node.op_type == "Mul":
            _spread_gate(node, op)
    op.scope = "deepinside"
    op.graph.sort()


def _pool(node: ir.Node, op: Builder) -> None:
    """GlobalAveragePool for the mean over a map's height and width, which are kept as 1."""
    x, y = node.inputs[0], node.outputs[0]
    shape, mean = (None if value is None else op.shapes.known(value) for value in (x, y))
    if x is None or shape is None or mean is None or not op.can_block(shape, x):
        return
    one = op.shapes.dim(1)
    if len(mean) != 4 or mean[:2] != shape[:2] or mean[2:] != (one, one) or shape[2:] == mean[2:]:
        return
    op.replace(node, op.GlobalAveragePool(x))


def _spread_gate(node: ir.Node, op: Builder) -> None:
    """Repeat a gate `(N, C, 1, 1)` to the size of the map `(N, C, H, W)` that it multiplies."""
    for index, gate in enumerate(node.inputs):
        x = node.inputs[1 - index]
        assert gate is not None
        assert x is not None
        shape, small = op.shapes.known(x), op.shapes.known(gate)
        if shape is None or small is None or not op.can_block(shape, x) or len(small) != 4:
            continue
        scales = [static(dim) for dim in shape[2:]]
        per_image = gate.producer() is not None and small[:2] == shape[:2]
        if per_image and all(map(is_one, small[2:])) and None not in scales and scales != [1, 1]:
            node.replace_input_with(index, op.repeat(gate, [scale or 1 for scale in scales]))
