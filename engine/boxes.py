"""Pictures of localisations: boxes with their classes, drawn on the original picture."""

from collections.abc import Sequence
from functools import cache
from math import ceil

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from deepinside.engine.results import Box, Localization

__all__ = ["draw_boxes"]

# Colours that people with any colour vision tell apart (Okabe & Ito 2008), without black.
_COLOURS = "okabeito:okabeito"
# A picture whose shorter side is below this is enlarged for drawing, so that labels can be read ...
_LEAST_SIDE = 240
# ... as long as its longer side stays below this.
_MOST_SIDE = 4096
# Parts of the drawing's shorter side.
_LINE, _TEXT = 1 / 160, 1 / 22
_LEAST_TEXT = 12


def draw_boxes(pixels: NDArray[np.uint8], found: Sequence[Localization]) -> NDArray[np.uint8]:
    """Draw the boxes of one picture's localisations, the first on top.

    Args:
        pixels: uint8 `(H, W, 3)`, the original picture, or a smaller copy of it.
        found: of the original picture; those without a box are left out.

    Returns:
        uint8 `(s * H, s * W, 3)`, RGB; s is 1, or larger for a small picture.
    """
    height, width = pixels.shape[:2]
    factor = min(ceil(_LEAST_SIDE / min(height, width)), _MOST_SIDE // max(height, width))
    factor = max(1, factor)
    image = Image.fromarray(pixels).resize((factor * width, factor * height))
    pen = ImageDraw.Draw(image)
    side = min(image.size)
    line = max(2, round(side * _LINE))
    font = ImageFont.load_default(size=max(_LEAST_TEXT, round(side * _TEXT)))
    drawn = [
        (item, _scaled(item.box, item.size, image.size), number)
        for number, item in enumerate(found)
        if item.box is not None
    ]
    for _, box, number in reversed(drawn):
        corners = (box.left, box.top, box.right - 1, box.bottom - 1)
        pen.rectangle(corners, outline=_colour(number), width=line)
    taken: list[tuple[int, int, int, int]] = []
    for item, box, number in drawn:
        text = _caption(item)
        extent = pen.textbbox((0, 0), text, font=font)
        size = ceil(extent[2]) + 2 * line, ceil(extent[3]) + 2 * line
        place = _place(box, size, image.size, taken)
        taken.append(place)
        colour = _colour(number)
        pen.rectangle((place[0], place[1], place[2] - 1, place[3] - 1), fill=colour)
        # Relative luminance, ITU-R BT.601: black on light colours, white on dark ones.
        ink = "black" if np.dot(colour, (0.299, 0.587, 0.114)) > 120 else "white"
        pen.text((place[0] + line, place[1] + line), text, fill=ink, font=font)
    return np.asarray(image)


def _caption(item: Localization) -> str:
    name = (item.label or "").split(",")[0] or str(item.index)
    return f"{name} {item.probability:.2f}"


def _scaled(box: Box, size: tuple[int, int], canvas: tuple[int, int]) -> Box:
    """A box of a picture of (H, W) on a drawing of (width, height): a pixel at least."""
    across, down = canvas[0] / size[1], canvas[1] / size[0]
    left, top = round(across * box.left), round(down * box.top)
    right, bottom = round(across * box.right), round(down * box.bottom)
    return Box(left, top, max(right, left + 1), max(bottom, top + 1))


def _place(
    box: Box,
    size: tuple[int, int],
    canvas: tuple[int, int],
    taken: Sequence[tuple[int, int, int, int]],
) -> tuple[int, int, int, int]:
    """Where a label goes: on the box's upper edge, or below where other labels are."""
    width, height = size
    left = max(0, min(box.left, canvas[0] - width))
    top = box.top - height
    if top < 0:
        top = box.top
    for other in sorted(taken, key=lambda place: place[1]):
        apart = left >= other[2] or left + width <= other[0]
        if not apart and top < other[3] and top + height > other[1]:
            top = other[3]
    top = max(0, min(top, canvas[1] - height))
    return left, top, left + width, top + height


@cache
def _palette() -> list[tuple[int, int, int]]:
    from cmap import Colormap

    stops = np.rint(np.asarray(Colormap(_COLOURS).color_stops.color_array)[:, :3] * 255)
    return [(int(red), int(green), int(blue)) for red, green, blue in stops if red + green + blue]


def _colour(number: int) -> tuple[int, int, int]:
    palette = _palette()
    return palette[number % len(palette)]
