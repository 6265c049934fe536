"""Is the map where the object is? Pointing game, and energy inside a box or mask.

Zhang et al. 2016, "Top-down Neural Attention by Excitation Backprop" (pointing game); Wang et al.
2020, "Score-CAM" (energy-based pointing game). They measure agreement with people, not with the
classifier, which may rightly look elsewhere.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.preprocess import Region

__all__ = ["Box", "boxes_on_map", "energy_inside", "mask_on_map", "pointing_game"]

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels of the original picture; the ends are not inside."""


def boxes_on_map(boxes: Sequence[Box], region: Region, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels of a map whose centres lie in a box.

    Args:
        boxes: in the original picture.
        region: what the map covers of it.
        shape: (H, W) of the map.
    """
    rows, columns = _centres(region, shape)
    inside = np.zeros(shape, dtype=np.bool_)
    for left, top, right, bottom in boxes:
        inside |= np.outer((rows >= top) & (rows < bottom), (columns >= left) & (columns < right))
    return inside


def mask_on_map(
    mask: NDArray[np.bool_], region: Region, shape: tuple[int, int]
) -> NDArray[np.bool_]:
    """The pixels of a map whose centres lie in a mask of the original picture, `(h, w)`."""
    rows, columns = (np.floor(places).astype(np.int64) for places in _centres(region, shape))
    height, width = mask.shape
    known = np.outer((rows >= 0) & (rows < height), (columns >= 0) & (columns < width))
    taken = mask[np.ix_(np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1))]
    return taken & known


def pointing_game(
    saliency: NDArray[np.floating], inside: NDArray[np.bool_], *, tolerance: int = 0
) -> bool:
    """Whether the most salient pixel lies inside, or at most so many pixels beside it.

    Of several that are most salient, the first one counts, row by row.

    Args:
        saliency: `(H, W)`.
        inside: `(H, W)`.
        tolerance: pixels of the map; the authors took 15.
    """
    row, column = np.unravel_index(int(np.argmax(saliency)), saliency.shape)
    rows, columns = np.nonzero(inside)
    return bool(((rows - row) ** 2 + (columns - column) ** 2 <= tolerance**2).any())


def energy_inside(saliency: NDArray[np.floating], inside: NDArray[np.bool_]) -> float:
    """The part of the map's sum that lies inside, 0 to 1; negative values count as 0.

    An even map has the inside's part of the area, and so has a map of zeros here.
    """
    positive = np.maximum(saliency, 0, dtype=np.float64)
    total = positive.sum()
    if total == 0:
        return float(inside.mean())
    return float(positive[inside].sum() / total)


def _centres(
    region: Region, shape: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of the map's rows and columns, in pixels of the picture."""
    height, width = shape
    rows = region.top + (np.arange(height) + 0.5) * (region.bottom - region.top) / height
    columns = region.left + (np.arange(width) + 0.5) * (region.right - region.left) / width
    return rows, columns
