"""The axes of an image input: between a picture `(H, W, C)` and what the network takes."""

from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Layout", "as_input", "as_picture", "input_shape"]

Layout = Literal["NCHW", "NHWC", "flat"]

_T = TypeVar("_T", bound=np.generic)


def as_input(picture: NDArray[_T], layout: Layout) -> NDArray[_T]:
    """A picture `(H, W, C)` as an image input without batch axis.

    `(C, H, W)`, `(H, W, C)`, or flat: `(H * W * C,)`, row by row, pixel by pixel.
    """
    if layout == "flat":
        return picture.reshape(-1)
    return picture.transpose(2, 0, 1) if layout == "NCHW" else picture


def as_picture(image: NDArray[_T], layout: Layout, size: tuple[int, int] | None) -> NDArray[_T]:
    """The inverse: an image input without batch axis as a picture `(H, W, C)`.

    Args:
        image: the input.
        layout: its axes.
        size: (H, W), needed for a flat input.
    """
    if layout == "flat":
        assert size is not None
        return image.reshape(*size, -1)
    return image.transpose(1, 2, 0) if layout == "NCHW" else image


def input_shape(picture: tuple[Any, Any, Any], layout: Layout) -> tuple[Any, ...]:
    """Shape of the image input, without batch axis, for a picture of the shape (H, W, C)."""
    height, width, channels = picture
    if layout == "flat":
        return (height * width * channels,)
    return (channels, height, width) if layout == "NCHW" else (height, width, channels)
