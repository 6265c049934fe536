"""keras.applications: the smallest member of each family, random weights, pictures of 128 pixels.

Keras runs on PyTorch, whose autograd is the reference.
"""

import os
from typing import Any

import numpy as np

from families import Loaded

__all__ = ["load", "names"]

_NAMES = (
    "ConvNeXtTiny",
    "DenseNet121",
    "EfficientNetB0",
    "EfficientNetV2B0",
    "InceptionResNetV2",
    "InceptionV3",
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Small",
    "NASNetMobile",
    "ResNet50",
    "ResNet50V2",
    "VGG16",
    "Xception",
)
_SIZE = 128


def names() -> list[str]:
    """Members of keras.applications."""
    return list(_NAMES)


def load(name: str) -> Loaded:
    """A network, pictures `(2, H, W, C)`, and its own scores and gradient.

    The function takes pictures, class indices and an element type's name. Scores are before the
    soft-max, which is left out of the networks.
    """
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras
    import torch

    def build(dtype: str) -> Any:
        keras.config.set_floatx(dtype)
        keras.config.set_dtype_policy(dtype)
        keras.utils.set_random_seed(0)
        settings = {"include_preprocessing": False} if name in _PREPROCESSING else {}
        network = getattr(keras.applications, name)(
            weights=None,
            input_shape=(_SIZE, _SIZE, 3),
            classes=10,
            classifier_activation=None,
            **settings,
        )
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
        return network

    network = build("float32")
    random = np.random.default_rng(0)
    pixels = random.standard_normal((2, _SIZE, _SIZE, 3)).astype(np.float32)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0  # this batch's statistics, so that signals keep their size
        if "scale" in layer.name and hasattr(layer, "gamma") and layer.gamma.shape != ():
            layer.gamma.assign(np.full(layer.gamma.shape, 0.5))
    with torch.no_grad():
        # Several pictures: the deepest layers see few pixels of each.
        network(random.standard_normal((12, _SIZE, _SIZE, 3)).astype(np.float32), training=True)

    def reference(
        pictures: np.ndarray, targets: np.ndarray, dtype: str
    ) -> tuple[np.ndarray, np.ndarray]:
        precise = build(dtype)
        precise.set_weights(network.get_weights())
        image = torch.tensor(pictures, dtype=getattr(torch, dtype), requires_grad=True)
        scores = precise(image, training=False)
        assert scores.dtype == image.dtype
        scores[range(len(pictures)), targets].sum().backward()
        return scores.detach().numpy(), image.grad.numpy()

    return Loaded({"": lambda: network}, [pixels], reference, {})


_PREPROCESSING = {"ConvNeXtTiny", "EfficientNetV2B0", "MobileNetV3Small"}
