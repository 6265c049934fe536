"""Pictures of any kind as upright 8-bit RGB; what can't be one is an ImageError with its name."""

import logging
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from os import PathLike, fspath
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, JpegImagePlugin, UnidentifiedImageError

from deepinside.engine.errors import ImageError

__all__ = ["MAX_PIXELS", "ImageFile", "Picture", "load_picture"]

_log = logging.getLogger(__name__)

# Pillow refuses twice its own limit as a decompression bomb; the warning below that is noise here.
MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 89_478_485)

# Pictures of more pixels are decoded one at a time, whatever the number of threads.
_LARGE = 1 << 25
_large = threading.Lock()

# PostScript is a program, which Pillow has Ghostscript run; nothing is run from a file.
_PROGRAMS = {"EPS"}

# Everything that Pillow's decoders are known to raise on broken files.
_DECODING_ERRORS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Image.DecompressionBombError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture.

    Attributes:
        pixels: uint8 `(H, W, 3)`, RGB, upright.
        source: path, or position such as `#3`, for messages and results.
    """

    pixels: NDArray[np.uint8]
    source: str

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        height, width = self.pixels.shape[:2]
        return height, width


@dataclass(frozen=True, eq=False)
class ImageFile:
    """A picture that is opened only when its turn comes, by a thread.

    Attributes:
        name: for messages and results.
        open: opens its bytes; raises ImageError or OSError where that fails.
        target: classes to explain, as in `Engine.saliency`; None for those of the call.
    """

    name: str
    open: Callable[[], BinaryIO]
    target: int | str | Sequence[int | str] | None = None


def load_picture(
    image: str | PathLike[str] | bytes | BinaryIO | ImageFile | Image.Image | NDArray[Any],
    source: str | None = None,
) -> Picture:
    """Decode a picture.

    EXIF orientation is applied; transparency is laid on white; 16-bit grey is scaled to 8 bits;
    of an animation the first frame counts; CMYK and other colour spaces become RGB. Of a JPEG
    picture beyond `MAX_PIXELS`, every second, fourth or eighth row and column is decoded.

    Args:
        image: path, file's bytes, open file, `ImageFile`, PIL image, or uint8 array `(H, W)`,
            `(H, W, 1)`, `(H, W, 3)` or `(H, W, 4)`.
        source: name for messages; by default the path.

    Raises:
        ImageError: no such file, not a picture, cut short, or too large.
    """
    if isinstance(image, np.ndarray):
        name = source or "the array"
        opened = _from_array(image, name)
        return Picture(_decoded(lambda: opened, name), name)
    if isinstance(image, Image.Image):
        name = source or getattr(image, "filename", "") or "the picture"
        # The caller's image stays as it is: loading and converting work on a copy.
        return Picture(_decoded(image.copy, name), name)
    if isinstance(image, ImageFile):
        name = source or image.name
        return Picture(_decoded(lambda: _opened(image.open(), name, close=True), name), name)
    if isinstance(image, (str, PathLike)):
        path, name = Path(image), source or fspath(image)
        opener = partial(_open_file, path, name)
        return Picture(_decoded(lambda: _opened(opener(), name, close=True), name), name)
    stream = BytesIO(image) if isinstance(image, bytes) else image
    name = source or str(getattr(stream, "name", "the picture"))
    return Picture(_decoded(lambda: _opened(stream, name, close=False), name), name)


def _open_file(path: Path, source: str) -> BinaryIO:
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ImageError(source, "is no file: pipes and devices may never end.")
    return path.open("rb")


@contextmanager
def _opened(stream: BinaryIO, source: str, *, close: bool) -> Iterator[Image.Image]:
    with stream if close else nullcontext():
        if not stream.read(1):
            raise ImageError(source, "is empty.")
        stream.seek(0)
        try:
            image: Image.Image = Image.open(stream)
        except Image.DecompressionBombError:
            stream.seek(0)
            reduced = _reduced_jpeg(stream, source)
            if reduced is None:
                raise
            _log.info("%s: read at %d x %d, it is very large", source, *reduced.size)
            image = reduced
        with image:
            if image.format in _PROGRAMS:
                raise ImageError(source, "is PostScript, which is a program: save it as PNG.")
            yield image


def _reduced_jpeg(stream: BinaryIO, source: str) -> Image.Image | None:
    """A JPEG picture that is decoded to a half, a quarter or an eighth of its size.

    Only of those whose parts are decoded one after the other: of progressive ones and of those with
    a scan per colour, the decoder holds everything in memory. None for these and other formats.

    Raises:
        ImageError: the file is too short for so many pixels, which the decoder would make up.
    """
    try:
        # Not Image.open, which refuses this size.
        image = JpegImagePlugin.JpegImageFile(stream)
    except (SyntaxError, OSError, ValueError, struct.error):  # of other formats, or broken
        return None
    # The header of the first scan, which Pillow has just passed, names the colours in it.
    length = 6 + 2 * image.layers
    stream.seek(-length - 2, os.SEEK_CUR)
    whole = stream.read(5) == bytes([0xFF, 0xDA, 0, length, image.layers])
    if image.info.get("progressive") or not whole:
        return None
    # A square of 8 x 8 pixels takes 2 bits at least.
    if stream.seek(0, os.SEEK_END) < image.width * image.height // 256:
        raise ImageError(source, "can't be decoded, it is broken or cut short.")
    for scale in (2, 4, 8):
        size = (max(1, image.width // scale), max(1, image.height // scale))
        if size[0] * size[1] <= MAX_PIXELS // 2:
            image.draft(None, size)
            break
    return image


class _Quiet:
    """Ignores warnings while any thread is inside: Python's own way is one thread's alone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._filters.__exit__(None, None, None)


_quiet = _Quiet()


def _decoded(
    opener: Callable[[], AbstractContextManager[Image.Image]], source: str
) -> NDArray[np.uint8]:
    try:
        with _quiet, opener() as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(source, _too_large(f"{image.width} x {image.height} pixels"))
            with _large if image.width * image.height > _LARGE else nullcontext():
                image.load()
                return _to_rgb(_upright(image, source), source)
    except FileNotFoundError:
        raise ImageError(source, "there is no such file.") from None
    except PermissionError:
        raise ImageError(source, "may not be read: check its permissions.") from None
    except IsADirectoryError:
        raise ImageError(source, "is a folder, not a picture.") from None
    except UnidentifiedImageError:
        raise ImageError(source, _unidentified(source)) from None
    except Image.DecompressionBombError as error:
        raise ImageError(source, _too_large(str(error))) from None
    except _DECODING_ERRORS as error:
        text = str(error).strip() or type(error).__name__
        raise ImageError(
            source, f"can't be decoded, it is broken or cut short ({text})."
        ) from error


def _too_large(what: str) -> str:
    return f"is too large to be decoded safely ({what}; at most {MAX_PIXELS} pixels): shrink it."


def _unidentified(source: str) -> str:
    try:
        with open(source, "rb") as stream:
            empty = not stream.read(1)
    except OSError:
        empty = False
    return "is empty." if empty else "is not a picture in a format that Pillow can read."


def _upright(image: Image.Image, source: str) -> Image.Image:
    try:
        ImageOps.exif_transpose(image, in_place=True)  # which spares a copy
    except _DECODING_ERRORS as error:
        # Every viewer shows a picture with broken EXIF data as it is stored.
        _log.info("%s: its EXIF orientation can't be read (%s)", source, error)
    return image


def _to_rgb(image: Image.Image, source: str) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):
        return _sixteen_bit(np.asarray(image), source)
    if image.mode == "F":
        raise ImageError(
            source,
            "holds floating-point values, whose range is not known: convert it to 8 bits, or give "
            "a preprocessed array.",
        )
    if image.mode in ("RGBa", "La"):  # premultiplied
        image = image.convert(image.mode.upper())
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"), dtype=np.uint8)


def _sixteen_bit(values: NDArray[Any], source: str) -> NDArray[np.uint8]:
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise ImageError(source, "holds values beyond 16 bits: convert it to 8 or 16 bits.")
    grey = (values.astype(np.uint32) + 128) // 257  # 65535 = 255 * 257
    return np.repeat(grey.astype(np.uint8)[..., np.newaxis], 3, axis=2)


def _from_array(array: NDArray[Any], source: str) -> Image.Image:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise ImageError(
            source,
            f"is an array of {array.dtype} {array.shape}; a picture is a uint8 array (H, W), "
            "(H, W, 3) or (H, W, 4), and a preprocessed input a float array of the model's shape.",
        )
    if 0 in array.shape:
        raise ImageError(source, f"has no pixels: its shape is {array.shape}.")
    return Image.fromarray(array[..., 0] if array.ndim == 3 and channels == 1 else array)
