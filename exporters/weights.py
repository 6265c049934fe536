"""Weights set aside, so that what reads a whole graph neither copies nor folds them."""

from collections.abc import Mapping

import onnx_ir as ir

__all__ = ["SMALL", "put_back", "set_aside"]

# Constants of at most so many elements may be shapes; larger ones are weights, and matter to
# inference by their shape only.
SMALL = 1024


def set_aside(graph: ir.Graph) -> dict[str, ir.TensorProtocol]:
    """Turn weights into inputs, and return them by name."""
    weights = {}
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.size <= SMALL or value.is_graph_output():
            continue
        value.shape, value.dtype = ir.Shape(tensor.shape.numpy()), tensor.dtype
        weights[name] = tensor
        value.const_value = None
        del graph.initializers[name]
        graph.inputs.append(value)
    return weights


def put_back(graph: ir.Graph, weights: Mapping[str, ir.TensorProtocol]) -> None:
    """Undo `set_aside`."""
    for value in list(graph.inputs):
        if (tensor := weights.get(value.name or "")) is not None:
            graph.inputs.remove(value)
            value.const_value = tensor
            graph.register_initializer(value)
