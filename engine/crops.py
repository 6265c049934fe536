"""The map of ten sub-images: four corners and the centre, each also mirrored, averaged.

Simonyan et al. 2014, section 3.1. The sub-images are windows of the input's size in a picture that
is larger: the preprocessing record's own resized picture where that is larger than the input (256
around 224), else one that is larger by the paper's factor, 256 / 224.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.errors import ImageError
from deepinside.engine.estimates import Estimate, Finding, Picture
from deepinside.engine.inputs import InputSpec, Prepared
from deepinside.engine.preprocess import preprocess
from deepinside.engine.record import Preprocessing

__all__ = ["TenCrops"]

_ENLARGED = 256 / 224


class TenCrops(Estimate):
    """Averages the maps of the sub-images, each pixel over those that show it."""

    def __init__(self, spec: InputSpec, image: Prepared) -> None:
        """Resize the picture anew.

        Raises:
            ImageError: the input was preprocessed before, so that nothing larger is known.
        """
        record = spec.contract.preprocessing
        if image.picture is None or record is None:
            raise ImageError(image.source, "crops need a picture, not a preprocessed array.")
        size = spec.as_picture(image.array).shape[:2]
        larger = _enlarged(record)
        canvas, self._region = preprocess(image.picture, larger, "NHWC", dtype=np.dtype(np.float32))
        self._canvas: Picture = canvas
        rooms = [whole - part for whole, part in zip(larger.input_size, size, strict=True)]
        corners = [(0, 0), (0, rooms[1]), (rooms[0], 0), (rooms[0], rooms[1])]
        middle = (rooms[0] // 2, rooms[1] // 2)
        self._windows = [
            (slice(top, top + size[0]), slice(left, left + size[1]), flip)
            for top, left in (*corners, middle)
            for flip in (False, True)
        ]
        self._next = iter(self._windows)
        self._sum = np.zeros(canvas.shape[:2])
        self._count = np.zeros(canvas.shape[:2])

    def points(self) -> Iterator[Picture]:
        """Inputs at which the gradient is wanted."""
        for rows, columns, flip in self._windows:
            window = self._canvas[rows, columns]
            yield window[:, ::-1] if flip else window

    def add(self, gradient: NDArray[np.floating], score: float | None) -> None:
        """Take the gradient at the next point."""
        rows, columns, flip = next(self._next)
        found = np.abs(gradient).max(axis=2)
        self._sum[rows, columns] += found[:, ::-1] if flip else found
        self._count[rows, columns] += 1

    def finding(self) -> Finding:
        """What it comes to."""
        # Windows of less than half the picture would leave pixels that none shows.
        saliency = self._sum / np.maximum(self._count, 1)
        return Finding(saliency=saliency.astype(np.float32), region=self._region)


def _enlarged(record: Preprocessing) -> Preprocessing:
    """The record of the larger picture."""
    margin = (record.resize_size or 0) / max(record.input_size)
    factor = margin if margin > 1 else _ENLARGED
    height, width = (round(length * factor) for length in record.input_size)
    cropped = record.resize == "shorter-side"
    return replace(
        record,
        input_size=(height, width),
        resize_size=max(height, width) if cropped else None,
    )
