"""The Keras front door: Keras 3 on PyTorch, exported with PyTorch's own exporter.

A model that was made on another of Keras' backends goes through Keras' exporter for it. Files are
read in Keras' safe mode: lambda layers, which hold code, are refused; and so are Keras' functions
that have no place in a network, as those that fetch data sets and weights.
"""

import json
import os
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from deepinside.exporters import pytorch
from deepinside.exporters.errors import ClassifierError
from deepinside.exporters.frontdoor import (
    OPSET,
    Opened,
    existing_file,
    explained,
    refuse,
    require,
)

__all__ = ["load"]

_PURPOSE = "a Keras classifier"
_TRUSTED = "where you trust it, load it yourself and give the model to export_saliency."
_LARGEST_CONFIG = 1 << 26  # bytes; the largest of keras.applications has under one million
# Packages within Keras whose classes and functions networks are made of.
_PARTS = {"activations", "constraints", "dtype_policies", "initializers", "layers", "losses"} | {
    "metrics",
    "mixed_precision",
    "models",
    "ops",
    "optimizers",
    "quantizers",
    "random",
    "regularizers",
    "src",  # only layers and the like are taken from it
}


def load(
    classifier: Any,
    *,
    example_input: Any = None,
    input_shape: Sequence[int] | None = None,
    random_weights: bool = False,
) -> Opened:
    """Turn `keras:FILE.keras`, `keras:applications.NAME` or a Keras model into ONNX.

    Args:
        classifier: of the three.
        example_input: pictures as the model takes them, `(N, H, W, C)` by default.
        input_shape: of the input, where the model leaves it open.
        random_weights: for applications: don't fetch the pretrained weights.

    Raises:
        MissingPackageError: Keras, or PyTorch below it, is not installed.
        ClassifierError: it can't be read, or not be exported.
    """
    keras = _import()
    record = None
    model = classifier
    if isinstance(classifier, str):
        name = classifier.partition(":")[2]
        if name.startswith("applications."):
            model, record = _application(
                keras, name.removeprefix("applications."), input_shape, random_weights
            )
        else:
            refuse("keras:FILE.keras", random_weights=random_weights)
            model = _read(keras, Path(name))
    shape = _input_shape(model, input_shape)
    if keras.backend.backend() == "torch":
        return Opened(_through_pytorch(model, example_input, shape), record)
    return Opened(_through_keras(keras, model, shape), record)


def _import() -> Any:
    """Keras, on PyTorch unless the user has chosen otherwise."""
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "torch")
        if os.environ["KERAS_BACKEND"] == "torch":
            require("torch", "keras", _PURPOSE)
    return require("keras", "keras", _PURPOSE)


def _read(keras: Any, path: Path) -> Any:
    """The model in a .keras file."""
    if path.suffix != ".keras":
        raise ClassifierError(
            f"{path} is not a .keras file: load it with Keras, and save it with "
            "model.save('FILE.keras')."
        )
    existing_file(path)
    if not zipfile.is_zipfile(path):
        raise ClassifierError(f"{path} is not a .keras file, or is cut off.")
    failure = f"Keras can't read {path} without running code from it"
    with explained(failure, advice=_TRUSTED):
        _require_network(path)
        model = keras.saving.load_model(str(path), compile=False, safe_mode=True)
    if not isinstance(model, keras.Model):
        raise ClassifierError(f"{path} holds a {type(model).__name__}, which is no Keras model.")
    return model


def _require_network(path: Path) -> None:
    """Look through a file's configuration for what Keras' safe mode lets pass.

    Raises:
        ClassifierError: it names what no network is made of, or is too large.
    """
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo("config.json").file_size
        if size > _LARGEST_CONFIG:
            raise ClassifierError(f"the configuration in {path} has {size} bytes, which none has.")
        waiting = [json.loads(archive.read("config.json"))]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            waiting += part.values()
            package, _, inner = str(part.get("module")).partition(".")
            if package == "keras" and inner and inner.partition(".")[0] not in _PARTS:
                kind = part.get("class_name")
                name = part.get("config") if kind == "function" else kind
                raise ClassifierError(
                    f"{path} names {part['module']}.{name}, which is no part of a network; "
                    f"{_TRUSTED}"
                )


def _application(
    keras: Any, name: str, input_shape: Sequence[int] | None, random_weights: bool
) -> tuple[Any, dict[str, Any]]:
    """One of keras.applications, and its preprocessing."""
    factories = [key for key, value in vars(keras.applications).items() if callable(value)]
    if name not in factories:
        close = [key for key in factories if name.lower() in key.lower()] or factories
        raise ClassifierError(
            f"keras.applications has no {name!r}; possible: {', '.join(sorted(close))}."
        )
    build = getattr(keras.applications, name)
    shape = {} if input_shape is None else {"input_shape": tuple(input_shape[1:])}
    missing = (
        "where its pretrained weights are missing, ask for an untrained network with "
        "--random-weights, or give a .keras file."
    )
    with explained(f"Keras can't build {name}", advice=missing):
        model = build(weights=None if random_weights else "imagenet", **shape)
    module = sys.modules[build.__module__]
    return model, _record(model, module.preprocess_input)


def _record(model: Any, preprocess_input: Any) -> dict[str, Any]:
    """Stretched as in Keras' examples, then as `preprocess_input` does it.

    Every `preprocess_input` is a linear function of a pixel, which black and three colours tell.
    """
    colours = np.zeros((1, 1, 4, 3), np.float32)
    colours[0, 0, 1:] = 255 * np.eye(3)
    found = np.asarray(preprocess_input(colours.copy()), dtype=np.float64)[0, 0]
    slopes = (found[1:] - found[0]).T / 255  # [output channel, input channel]
    order = "BGR" if abs(slopes[0, 2]) > abs(slopes[0, 0]) else "RGB"
    straight = slopes[:, ::-1] if order == "BGR" else slopes
    std = 1 / np.diag(straight)
    return {
        "input_size": list(model.input_shape[1:3]),
        "resize": "stretch",
        "resize_size": None,
        "interpolation": "nearest",
        "channel_order": order,
        "value_range": [0, 255],
        "mean": [round(float(value), 5) for value in 0 - found[0] * std],
        "std": [round(float(value), 5) for value in std],
    }


def _input_shape(model: Any, given: Sequence[int] | None) -> tuple[int, ...]:
    """The input's shape with a batch of one."""
    if len(model.inputs or [None]) != 1:
        raise ClassifierError(
            f"the Keras model has {len(model.inputs)} inputs; a classifier of pictures has one."
        )
    shape = tuple(given) if given is not None else getattr(model, "input_shape", None)
    if shape is None or None in shape[1:]:
        raise ClassifierError(
            f"the Keras model leaves its input's shape open ({shape}): give --input-shape "
            "1,224,224,3 (in Python input_shape=...)."
        )
    return (1, *shape[1:])


def _through_pytorch(model: Any, example_input: Any, shape: tuple[int, ...]) -> ir.Model:
    torch = require("torch", "keras", _PURPOSE)

    class Inference(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.network = model

        def forward(self, image: Any) -> Any:
            return self.network(image, training=False)

    if example_input is not None:
        example_input = torch.as_tensor(np.asarray(example_input))
    return pytorch.to_onnx(Inference(), example_input, shape)


def _through_keras(keras: Any, model: Any, shape: tuple[int, ...]) -> ir.Model:
    """Keras' own exporter, for its backends TensorFlow and JAX."""
    failure = f"Keras can't export the model from its backend {keras.backend.backend()}"
    saved = "save it, and give the .keras file in a process with KERAS_BACKEND=torch."
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters' own deprecations are not the user's
        path = Path(folder) / "classifier.onnx"
        with explained(failure, advice=saved):
            model(np.zeros(shape, np.float32))  # it exports only what was called
            model.export(str(path), format="onnx", opset_version=OPSET, verbose=False)
        exported = ir.load(path)
        ir.external_data.load_to_model(exported)  # the folder is about to go
        return exported
