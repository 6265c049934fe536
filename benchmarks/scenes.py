"""Pictures whose object is known to the pixel: cut-outs laid on other backgrounds.

Outlines are drawn by hand. Cat, cup and wood come from the embedded pictures (CC0); the shuttle
(NASA, public domain), the rocket's sky (SpaceX, CC0) and the textures grass, brick and gravel
(CC0Textures, CC0) from scikit-image, which is imported only for them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from deepinside import models

__all__ = [
    "BACKGROUNDS",
    "OBJECTS",
    "PLACES",
    "Cutout",
    "Scene",
    "compose",
    "photographs",
    "scenes",
]

_SIZE = (640, 480)


@dataclass(frozen=True)
class Cutout:
    """An object in a picture.

    Attributes:
        picture: its file's name.
        classes: indices that name the object.
        outline: (x, y) of its corners.
    """

    picture: str
    classes: tuple[int, ...]
    outline: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture and where its object is.

    Attributes:
        name: for tables.
        classes: indices that name the object.
        pixels: uint8 `(H, W, 3)`.
        mask: bool `(H, W)`, the object.
    """

    name: str
    classes: tuple[int, ...]
    pixels: NDArray[np.uint8]
    mask: NDArray[np.bool_]


# fmt: off
OBJECTS = {
    "cup": Cutout("coffee.png", (967, 968, 969), (
        (284, 18), (320, 21), (355, 32), (385, 50), (398, 66), (412, 66), (424, 74), (420, 92),
        (416, 108), (438, 125), (458, 150), (472, 185), (479, 225), (476, 262), (463, 300),
        (440, 334), (405, 362), (360, 381), (310, 390), (270, 390), (220, 380), (175, 360),
        (135, 330), (105, 296), (86, 258), (77, 222), (78, 185), (88, 155), (100, 133),
        (125, 105), (155, 82), (178, 69), (188, 58), (205, 42), (230, 28), (258, 20),
    )),
    "cat": Cutout("chelsea.png", (281, 282, 285), (
        (0, 125), (20, 120), (33, 110), (31, 70), (35, 30), (42, 0), (398, 0), (385, 25),
        (372, 55), (358, 75), (362, 100), (364, 125), (360, 150), (350, 175), (335, 200),
        (318, 225), (315, 255), (314, 280), (316, 299), (0, 299),
    )),
    "shuttle": Cutout("astronaut.png", (812,), (
        (408, 0), (421, 0), (430, 12), (436, 28), (438, 45), (443, 40), (447, 42), (453, 60),
        (455, 75), (455, 232), (453, 236), (455, 255), (460, 264), (452, 270), (432, 270),
        (430, 258), (434, 250), (434, 238), (417, 238), (412, 260), (405, 266), (395, 268),
        (390, 255), (388, 240), (378, 262), (370, 270), (366, 268), (372, 245), (382, 222),
        (376, 224), (355, 221), (356, 208), (366, 195), (378, 184), (378, 120), (380, 60),
        (383, 45), (387, 40), (391, 50), (393, 66), (395, 72), (396, 60), (396, 30), (401, 12),
    )),
}
# fmt: on
# Picture, part of it (None for all), and colours for black and white of a grey one.
BACKGROUNDS = {
    "wood": ("coffee.png", (480, 30, 600, 120), None),
    "lawn": ("camera.png", (420, 260, 500, 320), ((10, 30, 5), (150, 190, 90))),
    "grass": ("grass.png", None, ((10, 30, 5), (150, 190, 90))),
    "brick": ("brick.png", None, ((60, 25, 20), (190, 130, 110))),
    "gravel": ("gravel.png", None, ((20, 20, 22), (215, 210, 200))),
    "sky": ("rocket.jpg", (330, 0, 440, 120), None),
}
# Parts of the free room to the left and above, and height in parts of the picture's. The last one
# reaches beyond the square in the middle, which is what a classifier mostly sees.
PLACES = ((0.5, 0.5, 0.55), (0.2, 0.8, 0.45), (0.9, 0.3, 0.7))


def compose(name: str, background: str, place: int) -> Scene:
    """Lay an object on a background."""
    cutout = OBJECTS[name]
    whole = _open(cutout.picture)
    outline = _outline(whole.size, cutout)
    part, shape = whole.crop(outline.getbbox()), outline.crop(outline.getbbox())
    left, top, share = PLACES[place]
    height = round(_SIZE[1] * share)
    size = round(part.width * height / part.height), height
    part = part.resize(size, Image.Resampling.LANCZOS)
    shape = shape.resize(size, Image.Resampling.BILINEAR)
    corner = round((_SIZE[0] - size[0]) * left), round((_SIZE[1] - size[1]) * top)
    scene, mask = _background(background), Image.new("L", _SIZE)
    scene.paste(part, corner, shape)
    mask.paste(shape, corner)
    return Scene(
        f"{name} on {background}, place {place}",
        cutout.classes,
        np.asarray(scene),
        np.asarray(mask) > 127,
    )


def scenes() -> Iterator[Scene]:
    """Each object on each background at each place; needs scikit-image."""
    for name in OBJECTS:
        for background in BACKGROUNDS:
            if background != "lawn":  # what the tests have for want of scikit-image
                for place in range(len(PLACES)):
                    yield compose(name, background, place)


def photographs() -> Iterator[Scene]:
    """The pictures that the objects were cut from; needs scikit-image."""
    for name, cutout in OBJECTS.items():
        whole = _open(cutout.picture)
        mask = np.asarray(_outline(whole.size, cutout)) > 127
        yield Scene(f"photograph of the {name}", cutout.classes, np.asarray(whole), mask)


def _outline(size: tuple[int, int], cutout: Cutout) -> Image.Image:
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).polygon(list(cutout.outline), fill=255)
    return mask


def _background(name: str) -> Image.Image:
    picture, box, colours = BACKGROUNDS[name]
    image = _open(picture).crop(box) if box else _open(picture)
    if colours is not None:
        image = ImageOps.colorize(image.convert("L"), *colours)
    return image.resize(_SIZE, Image.Resampling.BICUBIC)


def _open(picture: str) -> Image.Image:
    stem = picture.partition(".")[0]
    if stem in models.EXAMPLES:
        return Image.open(models.example(stem)).convert("RGB")
    import skimage.data

    return Image.open(Path(skimage.data.__file__).parent / picture).convert("RGB")
