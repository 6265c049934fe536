"""Pictures of class pictures: contact sheets and animations."""

from collections.abc import Sequence
from math import ceil, sqrt
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from deepinside.engine.files import replacing, save_picture

__all__ = ["AnimationFormat", "contact_sheet", "save_animation", "save_sheet"]

AnimationFormat = Literal["gif", "apng"]

_GAP = 4
_LINE = 18
_FRAME = 80  # milliseconds
_LAST_FRAME = 2000


def contact_sheet(
    pictures: Sequence[NDArray[np.uint8]], captions: Sequence[str], *, columns: int | None = None
) -> NDArray[np.uint8]:
    """Pictures of one size side by side, each with a line of text below, on white.

    Args:
        pictures: uint8 `(H, W, 3)`, at least one.
        captions: of each; cut to the picture's width.
        columns: pictures in a row; None for a sheet about a third wider than high.

    Returns:
        uint8 `(height, width, 3)`.
    """
    height, width, _ = pictures[0].shape
    columns = min(len(pictures), columns or ceil(sqrt(len(pictures) * 4 / 3)))
    rows = ceil(len(pictures) / columns)
    size = (columns * (width + _GAP) - _GAP, rows * (height + _LINE + _GAP) - _GAP)
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        left = number % columns * (width + _GAP)
        top = number // columns * (height + _LINE + _GAP)
        sheet.paste(Image.fromarray(picture), (left, top))
        text = caption
        while len(text) > 1 and pen.textlength(text, font) > width:
            text = text.removesuffix("…")[:-1] + "…"
        pen.text((left, top + height + 1), text, fill="black", font=font)
    return np.asarray(sheet)


def save_sheet(path: Path, sheet: NDArray[np.uint8]) -> None:
    """Write a sheet, as JPEG where the file's name ends so, else as PNG.

    Raises:
        OutputError: the file can't be written.
    """
    if path.suffix.lower() not in (".jpg", ".jpeg"):
        save_picture(path, sheet)
        return
    with replacing(path) as stream:
        Image.fromarray(sheet).save(stream, format="JPEG", quality=88, subsampling=0)


def save_animation(
    path: Path, frames: Sequence[NDArray[np.uint8]], *, kind: AnimationFormat
) -> None:
    """Write frames uint8 `(H, W, 3)` as an animation that repeats; the last one stands longer.

    Raises:
        OutputError: the file can't be written.
    """
    images = [Image.fromarray(frame) for frame in frames]
    durations = [*[_FRAME] * (len(images) - 1), _LAST_FRAME]
    with replacing(path) as stream:
        images[0].save(
            stream,
            format="GIF" if kind == "gif" else "PNG",
            save_all=True,
            append_images=images[1:],
            duration=durations,
            loop=0,
        )
