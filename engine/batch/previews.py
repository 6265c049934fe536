"""Small pictures of results, for the page and the sheet."""

from collections.abc import Sequence
from io import BytesIO
from itertools import count
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deepinside.engine.batch.manifest import Record
from deepinside.engine.batch.work import Outcome
from deepinside.engine.decode import Picture, load_picture
from deepinside.engine.errors import EngineError
from deepinside.engine.preprocess import Region
from deepinside.engine.render import overlay
from deepinside.engine.results import InputMaps
from deepinside.engine.sheet import contact_sheet

__all__ = ["SIDE", "Previews", "sheet_of"]

SIDE = 200  # pixels of the longer side
_QUALITY = 80


class _Loads(Protocol):
    def load(self, record: Record, number: int) -> NDArray[np.float32] | None: ...


class Previews:
    """Makes the previews of the first so many pictures; may be called in any thread."""

    def __init__(self, sink: _Loads, limit: int) -> None:
        """Begin to count.

        Args:
            sink: gives the maps of what is kept.
            limit: number of pictures.
        """
        self._sink = sink
        self._limit = limit
        self._number = count()

    def __call__(self, outcome: Outcome, result: InputMaps | None) -> tuple[bytes, ...]:
        """JPEG bytes of the picture and of each map laid on it; nothing beyond the limit."""
        if next(self._number) >= self._limit:
            return ()
        record = outcome.record
        picture = _small(result.picture) if result is not None else self._reload(outcome)
        if picture is None or record.get("region") is None:
            return ()
        if result is not None:
            maps: Sequence[NDArray[Any] | None] = [found.saliency for found in result.maps]
        else:
            maps = [self._sink.load(record, number) for number in range(len(record["maps"]))]
        height, width = record["picture_size"]
        region = Region(*record["region"]).scaled((height, width), picture.shape[:2])
        laid = [overlay(picture, found, region) for found in maps if found is not None]
        return tuple(_jpeg(pixels) for pixels in (picture, *laid))

    def _reload(self, outcome: Outcome) -> NDArray[np.uint8] | None:
        try:
            with outcome.work.item.open() as stream:
                return _small(load_picture(stream, outcome.work.item.name))
        except (EngineError, OSError):
            return None  # it was there a moment ago: the page goes on without it


def sheet_of(previews: Sequence[bytes], captions: Sequence[str]) -> NDArray[np.uint8]:
    """Previews side by side, uint8 `(height, width, 3)`."""
    return contact_sheet([_framed(preview) for preview in previews], captions)


def _small(picture: Picture | None) -> NDArray[np.uint8] | None:
    if picture is None:
        return None
    image = Image.fromarray(picture.pixels)
    scale = min(1.0, SIDE / max(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))


def _framed(preview: bytes) -> NDArray[np.uint8]:
    with Image.open(BytesIO(preview)) as image:
        frame = Image.new("RGB", (SIDE, SIDE), "white")
        frame.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    return np.asarray(frame)


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, format="JPEG", quality=_QUALITY)
    return stream.getvalue()
