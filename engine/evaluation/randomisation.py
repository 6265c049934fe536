"""The sanity check of a method: its maps must change when the classifier's weights do.

Adebayo et al. 2018, "Sanity Checks for Saliency Maps", section 3: layers get random weights, from
the scores down (cascading) or one at a time (independent), and the maps are compared with those of
the trained network. A method whose maps stay alike does not explain the network.

Weights are drawn anew from a normal distribution with the mean and deviation of the tensor that
they replace, into a copy of the saliency file; forward and backward half read the same tensor.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from deepinside.engine.errors import SettingError, TaskError
from deepinside.engine.graphfile import GraphFile, load_graph

__all__ = ["MODES", "Layer", "Mode", "Randomised", "layers_of", "randomised"]

Mode = Literal["cascading", "independent"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True)
class Layer:
    """A layer of the classifier.

    Attributes:
        name: of its node.
        weights: names of its tensors: the weights, and what follows of biases and scales.
    """

    name: str
    weights: tuple[str, ...]


@dataclass(frozen=True)
class Randomised:
    """A file of which some layers have random weights.

    Attributes:
        layers: their names, the last of them the one after which the step is named.
        depth: how deep that one lies: 1 for the layer of the scores, up to the number of layers.
        path: of the file.
    """

    layers: tuple[str, ...]
    depth: int
    path: Path


def layers_of(graph: GraphFile, scores: str) -> tuple[Layer, ...]:
    """The classifier's layers with weights, the one next to the scores first.

    A node that reads a floating-point tensor of two axes or more (longer than 1) begins a layer;
    vectors that later nodes read belong to it, as biases and scales do.

    Args:
        graph: the file.
        scores: its tensor of all classes' scores; nodes behind it, the gradient's too, don't count.

    Raises:
        TaskError: there are no such weights.
    """
    found: list[tuple[str, list[str]]] = []
    taken: set[str] = set()
    early: list[str] = []  # vectors in front of the first layer
    for node in graph.ancestors([scores]):
        read = [
            name
            for name in dict.fromkeys(node.inputs)
            if name in graph.weights and graph.weights[name].size > 1 and name not in taken
        ]
        taken.update(read)
        if any(sum(length > 1 for length in graph.weights[name].shape) > 1 for name in read):
            found.append((node.name, early + read))
            early = []
        elif found:
            found[-1][1].extend(read)
        else:
            early.extend(read)
    if not found:
        raise TaskError(
            f"{graph.path} has no layer of floating-point weights that could be randomised; is it "
            "quantised? Check the classifier before quantisation."
        )
    return tuple(Layer(name, tuple(names)) for name, names in reversed(found))


def randomised(
    file: Path,
    scores: str,
    folder: Path,
    *,
    mode: Mode = "cascading",
    steps: int = 8,
    seed: int = 0,
) -> Iterator[Randomised]:
    """Copies of a file with random weights, one after the other.

    Args:
        file: a saliency file.
        scores: its tensor of all classes' scores.
        folder: where the copies are written; each replaces the one before. Not the file's own.
        mode: `cascading`, from the scores down to a layer, or `independent`, that layer alone.
        steps: layers to stop at, spread evenly from the first to the last; all where there are
            fewer.
        seed: of the weights; a layer gets the same ones in either mode and at every step.

    Raises:
        ModelFileError: the file is broken.
        SettingError: no such mode, or no steps.
        TaskError: it has no weights.
    """
    if mode not in MODES or steps < 1:
        raise SettingError(
            f"the mode can be {' or '.join(MODES)}, not {mode!r}, and steps 1 or more, not {steps}."
        )
    graph = load_graph(file)
    layers = layers_of(graph, scores)
    trained = {name: graph.weights[name].copy() for layer in layers for name in layer.weights}
    depths = np.unique(np.rint(np.linspace(1, len(layers), min(steps, len(layers)))).astype(int))
    for depth in map(int, depths):
        chosen = range(depth) if mode == "cascading" else (depth - 1,)
        for name, values in trained.items():
            graph.weights[name][...] = values
        for number in chosen:
            _redraw(graph, layers[number], np.random.default_rng([seed, number]))
        names = tuple(layers[number].name for number in chosen)
        yield Randomised(names, depth, graph.save(folder / file.name))


def _redraw(graph: GraphFile, layer: Layer, random: np.random.Generator) -> None:
    for name in layer.weights:
        weights = graph.weights[name]
        values = weights.astype(np.float64)
        drawn = random.normal(values.mean(), values.std(), weights.shape)
        weights[...] = drawn.astype(weights.dtype)
