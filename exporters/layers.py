"""A layer's channels in place of the classes: what a neuron inside of the network wants to see.

After Erhan et al. 2009 and Olah et al. 2017: the score of a channel is its mean over the picture,
or its value at one place (a single neuron).
"""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from deepinside.exporters.builder import Builder
from deepinside.exporters.errors import ScoreError
from deepinside.exporters.gradient import path_between, reached_from
from deepinside.exporters.score import ClassScores
from deepinside.exporters.shapes import Shape, Shapes, static

__all__ = ["Layer", "layer_scores", "list_layers"]

_SHOWN = 8
_FLOATS = {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}


@dataclass(frozen=True)
class Layer:
    """A tensor that depends on the image and has channels.

    Attributes:
        name: of the tensor.
        operator: that computes it.
        channels: their number.
        places: sizes of the other axes, None where they depend on the picture's size.
    """

    name: str
    operator: str
    channels: int
    places: tuple[int | None, ...]


def list_layers(graph: ir.Graph, shapes: Shapes, image: ir.Value) -> list[Layer]:
    """The layers between the image and the outputs, in order."""
    reached = reached_from(graph, [image])
    path = path_between(graph, reached, list(graph.outputs))
    return list(_layers(path, shapes))


def _layers(path: Sequence[ir.Node], shapes: Shapes) -> Iterator[Layer]:
    for node in path:
        for value in node.outputs:
            shape = shapes.known(value)
            axis = _channel_axis(shape)
            if shape is None or axis is None or value.dtype not in _FLOATS:
                continue
            channels = static(shape[axis])
            places = tuple(static(dim) for i, dim in enumerate(shape) if i not in (0, axis))
            if channels is not None:
                yield Layer(str(value.name), node.op_type, channels, places)


def layer_scores(
    op: Builder, image: ir.Value, name: str, neuron: Sequence[int] | None
) -> ClassScores:
    """A table of the channels' values: their means, or their values at one place.

    Args:
        op: builder of the classifier's graph.
        image: its image input.
        name: of the layer's tensor, or of the node that computes it.
        neuron: the place, `(y, x)` of a feature map, `(token,)` of a sequence; None for the mean.

    Raises:
        ScoreError: there is no such layer, or no such place in it.
    """
    known = list_layers(op.graph, op.shapes, image)
    value = _find(op.graph, name, {layer.name for layer in known})
    if value is None:
        raise ScoreError(_unknown(name, known))
    layer = next(layer for layer in known if layer.name == value.name)
    shape = op.shapes.known(value)
    axis = _channel_axis(shape)
    assert shape is not None
    assert axis is not None
    others = [i for i in range(1, len(shape)) if i != axis]
    if neuron is None:
        table = op.reduce("ReduceMean", value, others, keepdims=False) if others else value
    else:
        _check_place(layer, neuron)
        table = value
        for i, place in sorted(zip(others, neuron, strict=True), reverse=True):
            left = op.shapes.known(table)
            assert left is not None
            table = op.Gather(table, op.constant(np.array(place)), axis=i)
            op.shapes.record(table, (*left[:i], *left[i + 1 :]))
    op.shapes.record(table, (shape[0], shape[axis]))
    return ClassScores(table, table, "none", (), layer.channels)


def _check_place(layer: Layer, neuron: Sequence[int]) -> None:
    places = layer.places
    fits = len(neuron) == len(places) and all(
        at >= 0 and (size is None or at < size) for at, size in zip(neuron, places, strict=True)
    )
    if not fits:
        sizes = " x ".join("any" if size is None else str(size) for size in places)
        raise ScoreError(
            f"the layer {layer.name!r} has no neuron at {tuple(neuron)}: its channels are "
            f"{sizes or 'single numbers'}, counted from 0."
        )


def _find(graph: ir.Graph, name: str, layers: set[str]) -> ir.Value | None:
    for node in graph:
        for value in node.outputs:
            if value.name in layers and name in (value.name, node.name):
                return value
    return None


def _unknown(name: str, known: Sequence[Layer]) -> str:
    names = [layer.name for layer in known]
    similar = difflib.get_close_matches(name, names, n=_SHOWN, cutoff=0.5)
    last = [layer.name for layer in known if layer.operator == "Conv"][-_SHOWN:]
    hint = f"similar ones are {', '.join(similar)}" if similar else ""
    if not hint:
        hint = f"its last convolutions are {', '.join(last or names[-_SHOWN:])}"
    return (
        f"the classifier has no layer {name!r}; {hint} (deepinside inspect --layers lists all "
        f"{len(known)})."
    )


def _channel_axis(shape: Shape | None) -> int | None:
    """Feature maps are (N, C, H, W), sequences (N, tokens, C), vectors (N, C)."""
    return None if shape is None else {2: 1, 3: 2, 4: 1}.get(len(shape))
