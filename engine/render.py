"""Pictures of saliency maps. The raw map stays as it is; all scaling here is for display."""

from collections.abc import Sequence
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deepinside.engine.errors import SettingError
from deepinside.engine.preprocess import Region

__all__ = [
    "COLOUR_MAP",
    "OPACITY",
    "PERCENTILE",
    "SMOOTHING",
    "Upsampling",
    "colour_table",
    "heatmap",
    "normalise",
    "overlay",
    "peak",
    "smooth",
]

Upsampling = Literal["nearest", "bilinear", "bicubic", "lanczos"]

# Perceptually uniform and dark at zero: equal steps of saliency look equally large.
COLOUR_MAP = "inferno"
# The largest values of a gradient map are single pixels; the rest would be black without a cut.
PERCENTILE = 99.5
# Blur of an overlay, as a part of the map's shorter side: single salient pixels are lost between
# those of a picture, which their neighbourhood is not. Heat maps are not blurred.
SMOOTHING = 0.013
# How much of the colour covers the most salient pixels of an overlay; where less is salient, the
# cover thins out faster than the saliency does, so that the picture stays visible.
OPACITY = 0.9
_THINNING = 1.5
_STRIP = 1 << 18  # pixels
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def normalise(
    saliency: NDArray[np.floating], *, percentile: float = PERCENTILE, top: float | None = None
) -> NDArray[np.float32]:
    """Scale a map to 0..1 for display, a signed one to -1..1: its percentile becomes 1.

    Args:
        saliency: `(H, W)`.
        percentile: of the magnitudes; what is above is cut off. 0 to 100.
        top: what becomes 1 instead of the percentile.

    Returns:
        float32 `(H, W)`; 0 stays 0, and a map of zeros gives zeros.
    """
    if top is None:
        top = peak([saliency], percentile)
    values = np.asarray(saliency, dtype=np.float64)
    if top <= 0:
        return np.zeros(values.shape, dtype=np.float32)
    return np.clip(values / top, -1, 1).astype(np.float32)


def peak(maps: Sequence[NDArray[np.floating]], percentile: float) -> float:
    """The percentile of the magnitudes of several maps, or the largest one where that is 0."""
    if not 0 < percentile <= 100:
        raise SettingError(f"percentile is {percentile}; it must be above 0 and at most 100.")
    values = np.abs(np.concatenate([np.asarray(each, np.float64).ravel() for each in maps]))
    return float(np.percentile(values, percentile)) or float(values.max())


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
    top: float | None = None,
    signed: bool = False,
) -> NDArray[np.uint8]:
    """A map in colours, at its own size.

    Args:
        saliency: `(H, W)`; not negative, unless it is `signed`.
        colour_map: a name that the package cmap knows.
        percentile: as in `normalise`.
        top: likewise.
        signed: whether the colour map's middle stands for 0, and not its beginning.

    Returns:
        uint8 `(H, W, 3)`, RGB.

    Raises:
        SettingError: there is no such colour map.
    """
    return _colours(normalise(saliency, percentile=percentile, top=top), colour_map, signed)


def overlay(
    pixels: NDArray[np.uint8],
    saliency: NDArray[np.floating],
    region: Region,
    *,
    colour_map: str = COLOUR_MAP,
    percentile: float = PERCENTILE,
    top: float | None = None,
    smoothing: float = SMOOTHING,
    opacity: float = OPACITY,
    upsampling: Upsampling = "bilinear",
    signed: bool = False,
) -> NDArray[np.uint8]:
    """A map laid on the original picture; pixels that the network did not see stay as they are.

    Args:
        pixels: uint8 `(H, W, 3)`, the original picture.
        saliency: `(h, w)`; not negative, unless it is `signed`.
        region: what the map covers of the picture.
        colour_map: a name that the package cmap knows.
        percentile: as in `normalise`, of the blurred map.
        top: likewise.
        smoothing: standard deviation of the blur, as a part of the map's shorter side.
        opacity: how much of the colour covers the most salient pixels.
        upsampling: from the map's pixels to the picture's.
        signed: as in `heatmap`.

    Returns:
        uint8 `(H, W, 3)`, RGB.

    Raises:
        SettingError: there is no such colour map.
    """
    result = pixels.copy()
    blurred = smooth(saliency, smoothing * min(saliency.shape))
    scaled = normalise(blurred, percentile=percentile, top=top)
    scaled *= np.abs(scaled) ** (_THINNING - 1)
    rows, first, last = _covered(region.top, region.bottom, pixels.shape[0], scaled.shape[0])
    columns, left, right = _covered(region.left, region.right, pixels.shape[1], scaled.shape[1])
    size = (columns.stop - columns.start, rows.stop - rows.start)
    if 0 in size:
        return result
    fitted = np.asarray(
        Image.fromarray(scaled).resize(size, _FILTERS[upsampling], box=(left, first, right, last))
    )
    covered = result[rows, columns]
    # In strips: as floats, a large picture takes many times its own memory.
    step = max(1, _STRIP // covered.shape[1])
    for start in range(0, covered.shape[0], step):
        strip, part = covered[start : start + step], fitted[start : start + step]
        weight = opacity * np.clip(np.abs(part), 0, 1)[..., np.newaxis]
        blended = strip * (1 - weight) + _colours(part, colour_map, signed) * weight
        strip[:] = np.clip(np.rint(blended), 0, 255)
    return result


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


def _colours(scaled: NDArray[np.floating], name: str, signed: bool) -> NDArray[np.uint8]:
    scaled = (scaled + 1) / 2 if signed else scaled
    levels = np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    colours: NDArray[np.uint8] = colour_table(name)[levels]
    return colours


@cache
def colour_table(name: str) -> NDArray[np.uint8]:
    """The colours of a map, uint8 `(256, 3)`.

    Raises:
        SettingError: there is no such colour map.
    """
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
