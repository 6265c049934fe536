"""Results of localisations: per picture its boxes, and per class the object's mask."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deepinside.engine.batch.at_once import WrittenAtOnce
from deepinside.engine.batch.earlier import foreign_results, leftovers
from deepinside.engine.batch.items import Item
from deepinside.engine.batch.manifest import Record, finite
from deepinside.engine.batch.names import class_slug
from deepinside.engine.batch.settings import JobSettings, new_record
from deepinside.engine.batch.work import Outcome, Work
from deepinside.engine.boxes import draw_boxes
from deepinside.engine.errors import PackageMissingError
from deepinside.engine.files import save_picture
from deepinside.engine.localize import LocalizationSettings, localize
from deepinside.engine.results import InputMaps, Localization

__all__ = ["LocalizationJob", "ObjectSink", "pycocotools"]

# Why another picture's objects may be there, or other ones of this picture.
_REASONS = {
    name: f"other {name}"
    for name in ("targets", "method", "settings", "input_size", "model_sha256", "file_sha256")
}


def pycocotools() -> ModuleType:
    """The module that has COCO's run lengths.

    Raises:
        PackageMissingError: it is not installed.
    """
    try:
        module = importlib.import_module("pycocotools.mask")
    except ImportError as error:
        raise PackageMissingError(
            "pycocotools",
            f"COCO results need the package pycocotools, which can't be imported ({error}): run "
            "pip install 'deepinside[localize]'.",
        ) from error
    return module


@dataclass(frozen=True)
class LocalizationJob(JobSettings):
    """What makes two localisations of one picture the same.

    Attributes:
        localization: how maps become objects.
    """

    localization: LocalizationSettings = field(default_factory=LocalizationSettings)

    task: ClassVar[str] = "localization"

    @property
    def variant(self) -> str:
        """None: files of objects have no method in their names."""
        return ""

    @property
    def nothing(self) -> Record:
        """What is found of a picture, where nothing is."""
        return {"picture": None, "size": None, "objects": []}

    def of(self, item: Item) -> Record:
        """The part of an item's record that says how it was made."""
        return {
            "targets": list(item.targets or self.targets),
            "method": {"name": self.method.name, **self.method.settings},
            "settings": asdict(self.localization),
            "input_size": self.size,
            "model_sha256": self.model_sha256,
            "file_sha256": self.file_sha256,
        }


@dataclass(frozen=True)
class ObjectSink(WrittenAtOnce):
    """Writes `STEM.boxes.png` and `STEM.CLASS.mask.png`.

    Attributes:
        folder: of the results.
        settings: of the job.
        overwrite: replace files of other pictures, models or settings.
    """

    folder: Path
    settings: LocalizationJob
    overwrite: bool

    needs_picture = True

    def write(self, work: Work, result: InputMaps) -> Outcome:
        """Find a picture's objects and write its files; may run in any thread."""
        picture = result.picture
        assert picture is not None
        found = [localize(each, picture, self.settings.localization) for each in result.maps]
        slugs = [class_slug(item.index, item.label) for item in found]
        masks = [f"{work.stem}.{slug}.mask.png" for slug in slugs]
        boxes = f"{work.stem}.boxes.png"
        # Masks of large pictures are large: one at a time.
        drawn = {boxes: partial(draw_boxes, picture.pixels, found)} | {
            name: partial(_drawn, item) for name, item in zip(masks, found, strict=True)
        }
        foreign = self._write(drawn)
        content: Record = {}
        error = None
        if foreign:
            what = "another picture than its own"
            error = foreign_results(work, self.settings, foreign, what, _REASONS)
        else:
            objects = [_entry(item, name) for item, name in zip(found, masks, strict=True)]
            size = list(result.maps[0].size or picture.size)
            content = {"stem": work.stem, "picture": boxes, "size": size, "objects": objects}
        record = new_record(self.settings, work.item, work.sha256, error=error, **content)
        return Outcome(record, note=leftovers(self.folder, work, record))

    def _write(self, drawn: Mapping[str, Callable[[], NDArray[np.uint8]]]) -> list[Path]:
        """Write pictures; those of other content, where they may not be replaced, and then none."""
        missing = dict(drawn)
        if not self.overwrite:
            # A killed run leaves files without a record: they are completed.
            missing = {n: draw for n, draw in drawn.items() if not (self.folder / n).exists()}
            foreign = [
                self.folder / name
                for name in drawn.keys() - missing.keys()
                if not _holds(self.folder / name, drawn[name]())
            ]
            if foreign:
                return sorted(foreign)
        for name, draw in missing.items():
            save_picture(self.folder / name, draw())
        return []


def _drawn(item: Localization) -> NDArray[np.uint8]:
    return item.mask * np.uint8(255)


def _entry(item: Localization, mask: str) -> Record:
    box = item.box
    return {
        "index": item.index,
        "label": item.label,
        "score": finite(item.score),
        "probability": finite(item.probability),
        "box": None if box is None else [box.left, box.top, box.right, box.bottom],
        "mask": mask,
        "segmentation": None if box is None else _run_lengths(item.mask),
    }


def _run_lengths(mask: NDArray[np.bool_]) -> Record:
    """The mask in COCO's compressed run-length form, as JSON can hold it."""
    coded = pycocotools().encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(coded["size"]), "counts": coded["counts"].decode("ascii")}


def _holds(path: Path, pixels: NDArray[np.uint8]) -> bool:
    """Whether a file is this very picture."""
    try:
        with Image.open(path) as image:
            existing: Any = np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
    return bool(np.array_equal(existing, pixels))
