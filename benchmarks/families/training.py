"""The networks of families/timm.py, with the gradient that onnxruntime-training builds.

A cross-check of the framework and of this package, and what people have used so far. For an
environment of its own: `pip install '.[training-cpu]' timm torch`, Python 3.11.
"""

from dataclasses import replace

from families import Loaded, timm

__all__ = ["load", "names"]

_VARIANT = "TorchScript, dynamic batch"

names = timm.names


def load(name: str) -> Loaded:
    """The network of the family timm, exported in one way and differentiated in another."""
    loaded = timm.load(name)
    return replace(
        loaded,
        variants={_VARIANT: loaded.variants[_VARIANT]},
        options={"autodiff": "ort-training"},
        singles=False,
    )
