"""Where objects are, as given: boxes in a JSON, JSON Lines or CSV file, or masks as PNG files."""

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from deepinside.engine.errors import ImageError, SettingError
from deepinside.engine.evaluation.localisation import Box, boxes_on_map, mask_on_map
from deepinside.engine.preprocess import Region

__all__ = ["Boxes", "Masks", "load_boxes"]

_SIDES = ("left", "top", "right", "bottom")
_FORMS = (
    'possible are JSON Lines and JSON lists of {"input": NAME, "box": [left, top, right, bottom]}, '
    'JSON objects {NAME: [[left, top, right, bottom], ...]}, and CSV with the columns "input,left,'
    'top,right,bottom"; "index", the class, may be added'
)


@dataclass(frozen=True)
class _Entry:
    """One box of a picture; of one class, or of any."""

    box: Box
    index: int | None


@dataclass(frozen=True)
class Boxes:
    """Boxes of pictures.

    Attributes:
        path: of the file that they come from.
        entries: by the picture's name as the file has it.
    """

    path: Path
    entries: Mapping[str, tuple[_Entry, ...]]

    def inside(
        self, name: str, size: tuple[int, int], index: int, region: Region, shape: tuple[int, int]
    ) -> NDArray[np.bool_] | None:
        """The pixels of a map in the boxes of a picture and class; None where there are none.

        A picture is known by its whole name, else by its file name; in an archive, by its whole
        name there, too.

        Args:
            name: of the picture.
            size: (H, W) of the picture.
            index: of the class.
            region: what the map covers.
            shape: (H, W) of the map.

        Raises:
            ImageError: a box lies outside the picture, or wholly outside what the map covers.
        """
        inner = name.rpartition("::")[2]
        names = (name, inner, PurePath(inner).name)
        known = next((self.entries[each] for each in names if each in self.entries), ())
        boxes = [entry.box for entry in known if entry.index in (None, index)]
        if not boxes:
            return None
        for left, top, right, bottom in boxes:
            if left < 0 or top < 0 or right > size[1] or bottom > size[0]:
                raise ImageError(
                    name,
                    f"its box {left:g}, {top:g}, {right:g}, {bottom:g} of {self.path} does not lie "
                    f"in the picture of {size[1]} x {size[0]} pixels (width x height).",
                )
        return _seen(boxes_on_map(boxes, region, shape), name, f"boxes of {self.path}")


@dataclass(frozen=True)
class Masks:
    """Masks of pictures: `STEM.png` in a folder, of the picture's size; not 0 is the object.

    Attributes:
        path: of the folder.
    """

    path: Path

    def file(self, name: str) -> Path:
        """Where the mask of a picture would be; of `example:NAME`, NAME counts."""
        return self.path / f"{PurePath(name.rpartition(':')[2]).stem}.png"

    def inside(
        self, name: str, size: tuple[int, int], index: int, region: Region, shape: tuple[int, int]
    ) -> NDArray[np.bool_] | None:
        """The pixels of a map in a picture's mask; None where there is none. As in `Boxes`."""
        file = self.file(name)
        if not file.is_file():
            return None
        try:
            with Image.open(file) as opened:
                bands = np.asarray(opened.convert("RGB") if opened.mode == "P" else opened)
        except (OSError, UnidentifiedImageError) as error:
            raise ImageError(name, f"its mask {file} can't be read ({error}).") from error
        mask = np.asarray(bands[..., :3].any(axis=2) if bands.ndim == 3 else bands != 0)
        if mask.shape != size:
            raise ImageError(
                name,
                f"its mask {file} has {mask.shape[1]} x {mask.shape[0]} pixels, and the picture "
                f"{size[1]} x {size[0]} (width x height): they must be of one size.",
            )
        return _seen(mask_on_map(mask, region, shape), name, f"mask {file}")


def load_boxes(path: Path) -> Boxes:
    """Read a file of boxes.

    Raises:
        SettingError: it can't be read, or is in no form that is known.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"the boxes of {path} can't be read: {error}.") from error
    try:
        rows = list(_rows(text, path.suffix.lower()))
        entries: dict[str, list[_Entry]] = {}
        for row in rows:
            entries.setdefault(str(row["input"]), []).append(_entry(row))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingError(
            f"the boxes of {path} are not understood ({type(error).__name__}: {error}): {_FORMS}."
        ) from error
    if not entries:
        raise SettingError(f"{path} holds no boxes: {_FORMS}.")
    return Boxes(path, {name: tuple(found) for name, found in entries.items()})


def _rows(text: str, suffix: str) -> Iterable[Mapping[str, Any]]:
    if suffix == ".csv":
        yield from csv.DictReader(text.splitlines())
    elif suffix == ".json":
        content = json.loads(text)
        if isinstance(content, dict):
            for name, boxes in content.items():
                yield from ({"input": name, "box": box} for box in boxes)
        else:
            yield from content
    else:
        yield from (json.loads(line) for line in text.splitlines() if line.strip())


def _entry(row: Mapping[str, Any]) -> _Entry:
    sides = row["box"] if row.get("box") is not None else [row[side] for side in _SIDES]
    left, top, right, bottom = (float(side) for side in sides)
    if not (left < right and top < bottom):
        raise ValueError(f"the box {left:g}, {top:g}, {right:g}, {bottom:g} is empty")
    index = row.get("index")
    return _Entry((left, top, right, bottom), None if index in (None, "") else int(str(index)))


def _seen(inside: NDArray[np.bool_], name: str, what: str) -> NDArray[np.bool_]:
    if not inside.any():
        raise ImageError(name, f"nothing of its {what} is in the part that the network sees.")
    return inside
