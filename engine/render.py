"""Pictures of saliency maps. The raw map stays as it is; all scaling here is for display."""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deepinside.engine.errors import SettingError
from deepinside.engine.preprocess import Region

__all__ = [
    "COLOUR_MAP",
    "PERCENTILE",
    "SMOOTHING",
    "fit",
    "heatmap",
    "normalise",
    "overlay",
    "smooth",
]

# Perceptually uniform and dark at zero: equal steps of saliency look equally large.
COLOUR_MAP = "inferno"
# The largest values of a gradient map are single pixels; the rest would be black without a cut.
PERCENTILE = 99.5
# Blur of an overlay, as a part of the map's shorter side: single salient pixels are lost between
# those of a picture, which their neighbourhood is not. Heat maps are not blurred.
SMOOTHING = 0.013
# How much of the colour covers the most salient pixels of an overlay; where less is salient, the
# cover thins out faster than the saliency does, so that the picture stays visible.
_OPACITY = 0.9
_THINNING = 1.5


def normalise(
    saliency: NDArray[np.floating], *, percentile: float = PERCENTILE
) -> NDArray[np.float32]:
    """Scale a map to 0..1 for display: its percentile becomes 1, and 0 stays 0.

    Args:
        saliency: `(H, W)`, not negative.
        percentile: what is cut off above, 0 to 100.

    Returns:
        float32 `(H, W)`; a map of zeros gives zeros.
    """
    if not 0 < percentile <= 100:
        raise SettingError(f"percentile is {percentile}; it must be above 0 and at most 100.")
    values = np.asarray(saliency, dtype=np.float64)
    top = float(np.percentile(values, percentile)) or float(values.max())
    if top <= 0:
        return np.zeros(values.shape, dtype=np.float32)
    return np.clip(values / top, 0, 1).astype(np.float32)


def smooth(saliency: NDArray[np.floating], deviation: float) -> NDArray[np.float32]:
    """Blur a map with a Gaussian, mirrored at its borders.

    Args:
        saliency: `(H, W)`.
        deviation: of the Gaussian, cells of the map; 0 leaves the map as it is.

    Returns:
        float32 `(H, W)`.
    """
    result = np.asarray(saliency, dtype=np.float32)
    radius = int(np.ceil(3 * deviation))
    if radius == 0:
        return result
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / deviation) ** 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        padding = [(0, 0), (0, 0)]
        padding[axis] = (radius, radius)
        padded = np.pad(result, padding, mode="symmetric")
        windows = np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis=axis)
        result = (windows @ kernel.astype(np.float32)).astype(np.float32)
    return result


def heatmap(
    saliency: NDArray[np.floating],
    *,
    colour_map: str = COLOUR_MAP,
    percentile: float = PERCENTILE,
) -> NDArray[np.uint8]:
    """A map in colours, at its own size.

    Args:
        saliency: `(H, W)`, not negative.
        colour_map: a name that the package cmap knows.
        percentile: as in `normalise`.

    Returns:
        uint8 `(H, W, 3)`, RGB.

    Raises:
        SettingError: there is no such colour map.
    """
    return _colours(normalise(saliency, percentile=percentile), colour_map)


def overlay(
    pixels: NDArray[np.uint8],
    saliency: NDArray[np.floating],
    region: Region,
    *,
    colour_map: str = COLOUR_MAP,
    percentile: float = PERCENTILE,
    smoothing: float = SMOOTHING,
) -> NDArray[np.uint8]:
    """A map laid on the original picture; pixels that the network did not see stay as they are.

    Args:
        pixels: uint8 `(H, W, 3)`, the original picture.
        saliency: `(h, w)`, not negative.
        region: what the map covers of the picture.
        colour_map: a name that the package cmap knows.
        percentile: as in `normalise`.
        smoothing: standard deviation of the blur, as a part of the map's shorter side.

    Returns:
        uint8 `(H, W, 3)`, RGB.

    Raises:
        SettingError: there is no such colour map.
    """
    result = pixels.copy()
    blurred = smooth(saliency, smoothing * min(saliency.shape))
    scaled = normalise(blurred, percentile=percentile) ** _THINNING
    rows, columns, fitted = fit(scaled, region, (pixels.shape[0], pixels.shape[1]))
    weight = _OPACITY * fitted[..., np.newaxis]
    below = result[rows, columns].astype(np.float32)
    blended = below * (1 - weight) + _colours(fitted, colour_map).astype(np.float32) * weight
    result[rows, columns] = np.clip(np.rint(blended), 0, 255).astype(np.uint8)
    return result


def fit(
    values: NDArray[np.float32], region: Region, size: tuple[int, int]
) -> tuple[slice, slice, NDArray[np.float32]]:
    """A map at the pixels of a picture.

    Args:
        values: float32 `(h, w)`.
        region: what the map covers, in pixels of the picture.
        size: (H, W) of the picture.

    Returns:
        Rows and columns of the pixels whose centres the map covers, and its values there,
        interpolated linearly.
    """
    rows, top, bottom = _covered(region.top, region.bottom, size[0], values.shape[0])
    columns, left, right = _covered(region.left, region.right, size[1], values.shape[1])
    shape = (columns.stop - columns.start, rows.stop - rows.start)
    if 0 in shape:
        return rows, columns, np.zeros(shape[::-1], dtype=np.float32)
    fitted = Image.fromarray(values).resize(
        shape, Image.Resampling.BILINEAR, box=(left, top, right, bottom)
    )
    return rows, columns, np.asarray(fitted)


def _covered(start: float, stop: float, picture: int, cells: int) -> tuple[slice, float, float]:
    """Along one axis: pixels of the picture whose centres are covered, and their span in cells."""
    first = max(0, int(np.ceil(start - 0.5)))
    end = max(first, min(picture, int(np.ceil(stop - 0.5))))
    scale = cells / (stop - start)
    return (
        slice(first, end),
        max(0.0, (first - start) * scale),
        min(float(cells), (end - start) * scale),
    )


def _colours(scaled: NDArray[np.floating], name: str) -> NDArray[np.uint8]:
    levels = np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    colours: NDArray[np.uint8] = _table(name)[levels]
    return colours


@cache
def _table(name: str) -> NDArray[np.uint8]:
    """uint8 `(256, 3)`."""
    from cmap import Colormap  # imported when a map is drawn: many runs never draw one

    try:
        colours = np.asarray(Colormap(name).lut(256))
    except (KeyError, ValueError, TypeError):
        raise SettingError(
            f"there is no colour map {name!r}; possible: any name of the package cmap, such as "
            "inferno, magma or viridis."
        ) from None
    table: NDArray[np.uint8] = np.rint(colours[:, :3] * 255).astype(np.uint8)
    return table
