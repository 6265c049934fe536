"""Gaussian blur of pictures, as two products with a matrix: exact, and fast at input sizes."""

from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["blur"]

_REACH = 4.0  # standard deviations, where the kernel is cut off

Border = Literal["zero", "mirror"]


def blur(
    picture: NDArray[np.floating], deviation: float, border: Border = "mirror"
) -> NDArray[np.float32]:
    """Blur a picture.

    Args:
        picture: `(H, W, C)`.
        deviation: standard deviation of the Gaussian, pixels; 0 leaves the picture as it is.
        border: what lies beyond the edges: zeros, or the picture's mirror image.

    Returns:
        float32 `(H, W, C)`.
    """
    values = np.asarray(picture, dtype=np.float32)
    if deviation <= 0:
        return values
    height, width, _ = values.shape
    rows, columns = (_matrix(length, deviation, border) for length in (height, width))
    # (C, H, W), so that both products run along whole matrices.
    blurred = rows @ values.transpose(2, 0, 1) @ columns.T
    return np.ascontiguousarray(blurred.transpose(1, 2, 0))


@lru_cache(maxsize=8)
def _matrix(length: int, deviation: float, border: Border) -> NDArray[np.float32]:
    """(to, from): row i holds the weights of all places in place i."""
    radius = int(_REACH * deviation + 0.5)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / deviation) ** 2)
    kernel /= kernel.sum()
    places = np.arange(length)[:, None] + offsets
    if border == "mirror":
        places = places % (2 * length)
        places = np.minimum(places, 2 * length - 1 - places)
    inside = (places >= 0) & (places < length)
    matrix = np.zeros((length, length))
    rows, taps = np.nonzero(inside)
    np.add.at(matrix, (rows, places[rows, taps]), kernel[taps])
    return matrix.astype(np.float32)
