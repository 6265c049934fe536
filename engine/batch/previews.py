"""Small pictures of results, for the page and the sheet."""

from collections.abc import Callable, Sequence
from io import BytesIO
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deepinside.engine.batch.manifest import Record
from deepinside.engine.batch.work import Outcome, Work
from deepinside.engine.decode import ImageFile, Picture, load_picture
from deepinside.engine.errors import EngineError
from deepinside.engine.preprocess import Region
from deepinside.engine.rendering import Rendering
from deepinside.engine.results import InputMaps
from deepinside.engine.sheet import contact_sheet

__all__ = ["SIDE", "Previews", "sheet_of"]

# From a record and the number of a map to the map `(H, W)`, or None where it is not there.
LoadMap = Callable[[Record, int], NDArray[np.float32] | None]

SIDE = 200  # pixels of the longer side
_QUALITY = 80


class Previews:
    """Makes the previews of the first so many pictures; may be called in any thread.

    Attributes:
        limit: number of pictures.
    """

    def __init__(
        self, folder: Path, rendering: Rendering, limit: int, load: LoadMap | None = None
    ) -> None:
        """Begin to count.

        Args:
            folder: of the results.
            rendering: how maps are drawn.
            limit: number of pictures.
            load: gives the maps of what is kept, where overlays are no files.
        """
        self._folder = folder
        self._rendering = rendering
        self.limit = limit
        self._load = load
        self._number = count()

    def __call__(self, work: Work, outcome: Outcome, result: InputMaps | None) -> tuple[bytes, ...]:
        """JPEG bytes of the picture and of each map laid on it; nothing beyond the limit."""
        if next(self._number) >= self.limit:
            return ()
        record = outcome.record
        item = work.item
        picture = _reload(ImageFile(item.name, item.open)) if result is None else result.picture
        if picture is None or record.get("region") is None:
            return ()
        pixels = _small(picture)
        region = Region(*record["region"]).scaled(record["picture_size"], pixels.shape[:2])
        if result is not None:
            maps = [self._rendering.values(each) for each in result.maps]
            laid = self._rendering.overlays(pixels, maps, region)
        else:
            laid = self._kept(record, pixels, region)
        return tuple(_jpeg(each) for each in (pixels, *laid))

    def _kept(
        self, record: Record, pixels: NDArray[np.uint8], region: Region
    ) -> list[NDArray[np.uint8]]:
        """The overlays that are there, or the maps laid on the picture; none where some are not."""
        entries = record["maps"]
        if self._load is None:
            # Drawn with the same settings, or they would not be kept. Stored maps have no signs.
            files = [_reload(self._folder / entry["files"]["overlay"]) for entry in entries]
            shown = [_small(overlay) for overlay in files if overlay is not None]
        else:
            maps = [self._load(record, number) for number in range(len(entries))]
            found = [each for each in maps if each is not None]
            shown = self._rendering.overlays(pixels, found, region)
        return shown if len(shown) == len(entries) else []


def sheet_of(previews: Sequence[bytes], captions: Sequence[str]) -> NDArray[np.uint8]:
    """Previews side by side, uint8 `(height, width, 3)`."""
    return contact_sheet([_framed(preview) for preview in previews], captions)


def _reload(image: ImageFile | Path) -> Picture | None:
    """A picture that was there a moment ago; where it is gone, the page goes on without it."""
    try:
        return load_picture(image)
    except (EngineError, OSError):
        return None


def _small(picture: Picture) -> NDArray[np.uint8]:
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
