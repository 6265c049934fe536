"""From a picture to the image input and back, exactly as the file's preprocessing record says."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deepinside.engine.decode import Picture
from deepinside.engine.layout import Layout, as_input, as_picture
from deepinside.engine.record import Preprocessing

__all__ = ["Region", "picture_of", "preprocess"]

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}
# Above this, a resized picture is not held whole: a strip of 1 x 10000 pixels would need 2 GB.
_MAX_RESIZED = 1 << 25


@dataclass(frozen=True)
class Region:
    """What the image input covers, in pixels of the original picture.

    Pixel (i, j) covers the square from (i, j) to (i + 1, j + 1). Parts of the region outside the
    picture are filling.

    Attributes:
        left: first column.
        top: first row.
        right: end of the columns.
        bottom: end of the rows.
    """

    left: float
    top: float
    right: float
    bottom: float

    def scaled(self, size: tuple[int, int], wanted: tuple[int, int]) -> "Region":
        """The same part of the picture of `size` (H, W) where that is resized to `wanted`."""
        if size == wanted:
            return self
        down, across = (new / old for old, new in zip(size, wanted, strict=True))
        return Region(self.left * across, self.top * down, self.right * across, self.bottom * down)


def preprocess(
    picture: Picture,
    record: Preprocessing,
    layout: Layout,
    *,
    dtype: np.dtype[Any],
    size: tuple[int, int] | Literal["original"] | None = None,
) -> tuple[NDArray[Any], Region]:
    """Turn a picture into the image input.

    Args:
        picture: the picture.
        record: how.
        layout: axes of the result.
        dtype: float type of the result.
        size: (H, W) of the result instead of the record's; where the record crops, it keeps the
            share that is cut off. `original` is the picture's own size, the whole picture.

    Returns:
        The input without batch axis, `(C, H, W)`, `(H, W, C)` or flat, normalised, and the region
        of the picture that it covers. Filling is the mean, that is 0 once normalised.
    """
    if size == "original":
        size, record = picture.size, replace(record, resize="stretch", resize_size=None)
    height, width = size or record.input_size
    resized_height, resized_width = _resized_size(picture.size, record, (height, width))
    # Where the input starts in the resized picture; negative where it is filled.
    top, left = _offset(resized_height, height), _offset(resized_width, width)
    rows = slice(max(top, 0), min(top + height, resized_height))
    columns = slice(max(left, 0), min(left + width, resized_width))
    pixels = _resize(picture, record, (resized_height, resized_width), (rows, columns))

    canvas = np.zeros((height, width, record.channels), dtype=np.float32)
    canvas[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = (
        _normalise(pixels, record)
    )
    scale_y = picture.size[0] / resized_height
    scale_x = picture.size[1] / resized_width
    region = Region(
        left * scale_x, top * scale_y, (left + width) * scale_x, (top + height) * scale_y
    )
    return np.ascontiguousarray(as_input(canvas, layout), dtype=dtype), region


def picture_of(image: NDArray[Any], record: Preprocessing, layout: Layout) -> NDArray[np.uint8]:
    """The inverse of the normalisation: an image input as a picture, the mean added back.

    Args:
        image: float, `(C, H, W)`, `(H, W, C)` or flat, as `layout` says.
        record: the normalisation.
        layout: axes of `image`.

    Returns:
        uint8 `(H, W, 3)`, RGB; what lies outside the value range is cut off.
    """
    values = as_picture(np.asarray(image, dtype=np.float32), layout, record.input_size)
    values = values * _row(record.std) + _row(record.mean)
    values *= np.float32(255.0 / record.value_range[1])
    pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    if record.channel_order == "L":
        return np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels[..., ::-1] if record.channel_order == "BGR" else pixels)


def _resized_size(
    size: tuple[int, int], record: Preprocessing, wanted: tuple[int, int]
) -> tuple[int, int]:
    height, width = size
    if record.resize == "stretch":
        return wanted
    if record.resize == "letterbox":
        scale = min(wanted[0] / height, wanted[1] / width)
        return max(1, round(height * scale)), max(1, round(width * scale))
    assert record.resize_size is not None
    short = record.resize_size
    if wanted != record.input_size:
        margin = max(1.0, short / max(record.input_size))
        scale = max(wanted[0] / height, wanted[1] / width) * margin
        return max(wanted[0], round(height * scale)), max(wanted[1], round(width * scale))
    # The longer side is rounded down, as torchvision and timm do.
    if height <= width:
        return short, max(short, int(short * width / height))
    return max(short, int(short * height / width)), short


def _offset(resized: int, wanted: int) -> int:
    """Start of a centred window; halves are rounded to even, as torchvision does."""
    return round((resized - wanted) / 2)


def _resize(
    picture: Picture, record: Preprocessing, size: tuple[int, int], window: tuple[slice, slice]
) -> NDArray[np.uint8]:
    """The window of the resized picture: uint8 `(H, W)` or `(H, W, 3)`."""
    image = Image.fromarray(picture.pixels)
    if record.channel_order == "L":
        image = image.convert("L")
    rows, columns = window
    if size[0] * size[1] <= _MAX_RESIZED:
        resized = image.resize((size[1], size[0]), _FILTERS[record.interpolation])
        return np.asarray(resized)[rows, columns]
    scale_y, scale_x = picture.size[0] / size[0], picture.size[1] / size[1]
    box = (
        columns.start * scale_x,
        rows.start * scale_y,
        columns.stop * scale_x,
        rows.stop * scale_y,
    )
    shape = (columns.stop - columns.start, rows.stop - rows.start)
    return np.asarray(image.resize(shape, _FILTERS[record.interpolation], box=box))


def _normalise(pixels: NDArray[np.uint8], record: Preprocessing) -> NDArray[np.float32]:
    if pixels.ndim == 2:
        pixels = pixels[..., np.newaxis]
    if record.channel_order == "BGR":
        pixels = pixels[..., ::-1]
    values = pixels.astype(np.float32) / np.float32(255.0 / record.value_range[1])
    return (values - _row(record.mean)) / _row(record.std)


def _row(numbers: tuple[float, ...]) -> NDArray[np.float32]:
    return np.array(numbers, dtype=np.float32)
