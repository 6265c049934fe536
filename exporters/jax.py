"""The JAX front door: a function, or a network of flax or equinox, through jax2onnx."""

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from deepinside.exporters.errors import ClassifierError
from deepinside.exporters.frontdoor import OPSET, Opened, explained, factory, require

__all__ = ["load"]

_PURPOSE = "a JAX classifier"


def load(
    classifier: Any, *, example_input: Any = None, input_shape: Sequence[int] | None = None
) -> Opened:
    """Turn `jax:package.module:factory` or a callable from pictures to scores into ONNX.

    Args:
        classifier: the text (the factory takes nothing and returns the callable), or the callable:
            a function, a flax.nnx or equinox module, or a bound flax.linen module.
        example_input: pictures, `(N, H, W, C)` mostly.
        input_shape: their shape, where there are none.

    Raises:
        MissingPackageError: jax or jax2onnx is not installed.
        ClassifierError: it can't be exported.
    """
    require("jax", "jax", _PURPOSE)
    jax2onnx = require("jax2onnx", "jax", _PURPOSE)
    network = classifier
    if isinstance(classifier, str):
        network = factory("jax", classifier.partition(":")[2])()
    if not callable(network):
        raise ClassifierError(
            f"a {type(network).__name__} can't be called: a JAX classifier is a function of "
            "pictures, its parameters included."
        )
    shape = input_shape if example_input is None else example_input.shape
    if shape is None:
        raise ClassifierError(
            "a JAX classifier needs an example input or its shape: give --input-shape "
            "1,224,224,3 (in Python example_input=array or input_shape=...)."
        )
    if hasattr(network, "eval") and hasattr(network, "train"):
        network = copy.deepcopy(network)  # the caller's stays in its mode
        network.eval()  # dropout and statistics as at inference
    with explained("jax2onnx can't export the network"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations are not the user's
        model = jax2onnx.to_onnx(
            network, [("N", *map(int, shape[1:]))], opset=OPSET, return_mode="ir"
        )
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None  # jax2onnx moves axes and leaves the shapes as they were
    if len(model.graph.inputs) == len(model.graph.outputs) == 1:
        _name(model.graph)
    return Opened(model)


def _name(graph: ir.Graph) -> None:
    """`image` and `scores`, as with the other front doors."""
    for node in graph:
        for value in node.outputs:
            if value.name in ("image", "scores"):
                value.name = f"{value.name}/inner"
    graph.inputs[0].name, graph.outputs[0].name = "image", "scores"
