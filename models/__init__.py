"""The embedded classifier EfficientNet-Lite0 with its card and labels, and three free pictures.

Only paths and texts: nothing here opens a model or an image, and only the standard library is used.
`convert.py` beside this file rebuilds the classifier; its card says where everything comes from.
"""

import json
from pathlib import Path
from typing import Any

__all__ = ["EXAMPLES", "UnknownExampleError", "card", "default_classifier", "example", "labels"]

_FOLDER = Path(__file__).parent

EXAMPLES: tuple[str, ...] = ("chelsea", "coffee", "camera")
"""Names of the pictures that come with the package."""


class UnknownExampleError(ValueError):
    """No picture of this name comes with the package."""


def default_classifier() -> Path:
    """Returns the embedded ONNX file, from `image` (N, 3, 224, 224) to `logits` (N, 1000)."""
    return _FOLDER / "efficientnet-lite0.onnx"


def card() -> dict[str, Any]:
    """Returns the embedded classifier's card: source, licence, SHA-256, preprocessing, accuracy."""
    content: dict[str, Any] = json.loads(
        default_classifier().with_suffix(".json").read_text(encoding="utf-8")
    )
    return content


def labels() -> list[str]:
    """Returns the 1000 ImageNet labels, each once, in the order of the classifier's outputs."""
    return (_FOLDER / "imagenet-labels.txt").read_text(encoding="utf-8").splitlines()


def example(name: str) -> Path:
    """Returns the file of one of the pictures that come with the package.

    Args:
        name: one of `EXAMPLES`.

    Raises:
        UnknownExampleError: there is no such picture.
    """
    if name not in EXAMPLES:
        raise UnknownExampleError(
            f"No example picture is called {name!r}; choose one of {', '.join(EXAMPLES)}."
        )
    return _FOLDER / "pictures" / f"{name}.png"
