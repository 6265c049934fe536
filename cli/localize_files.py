"""What `deepinside localize` leaves in its folder: files per picture, and lists of all boxes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepinside.cli.errors import Failure

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from deepinside.engine import Localization, Picture
    from deepinside.engine.batch import Record

__all__ = ["files_of", "require_pycocotools", "write_lists", "write_picture"]

_LINES = "boxes.jsonl"
_COCO = "boxes.coco.json"


def require_pycocotools() -> None:
    """Say early that the package is missing.

    Raises:
        Failure: it is.
    """
    try:
        import pycocotools.mask  # noqa: F401
    except ImportError as error:
        raise Failure(
            f"COCO results need the package pycocotools, which can't be imported ({error}): run "
            "pip install 'deepinside[localize]'."
        ) from None


def files_of(record: Record) -> Iterator[str]:
    """Names of the files that a record tells of."""
    if record.get("picture"):
        yield record["picture"]
    for entry in record.get("objects", ()):
        yield entry["mask"]


def write_picture(
    folder: Path, stem: str, picture: Picture, found: Sequence[Localization], *, overwrite: bool
) -> tuple[Record, list[str]]:
    """Write the files of one picture.

    Args:
        folder: for the files.
        stem: beginning of their names.
        picture: the picture.
        found: where its classes are.
        overwrite: replace files of other content.

    Returns:
        What the record tells of them, and names of files with other content that may not be
        replaced: where there are any, nothing was written.
    """
    from deepinside.engine import draw_boxes
    from deepinside.engine.batch.names import class_slug
    from deepinside.engine.files import save_picture

    slugs = [class_slug(item.index, item.label) for item in found]
    names = [f"{stem}.{slug}.mask.png" for slug in slugs]
    wanted = {f"{stem}.boxes.png": draw_boxes(picture.pixels, found)}
    for name, item in zip(names, found, strict=True):
        wanted[name] = item.mask.astype("uint8") * 255
    if not overwrite:
        # A killed run leaves files without a record: they are completed.
        present = {name: pixels for name, pixels in wanted.items() if (folder / name).exists()}
        foreign = [name for name, pixels in present.items() if not _holds(folder / name, pixels)]
        if foreign:
            return {"picture": None, "objects": []}, foreign
        wanted = {name: pixels for name, pixels in wanted.items() if name not in present}
    for name, pixels in wanted.items():
        save_picture(folder / name, pixels)
    objects = [_entry(item, name) for item, name in zip(found, names, strict=True)]
    return {"picture": f"{stem}.boxes.png", "size": list(picture.size), "objects": objects}, []


def write_lists(folder: Path, records: Iterable[Record]) -> list[Path]:
    """Write the lists of all boxes that a folder's records tell of.

    `boxes.jsonl` has a line per box, with (left, top, right, bottom); `boxes.coco.json` is a list
    of COCO results, with (left, top, width, height). Objects without a box are in neither.
    """
    from deepinside.engine.files import save_text

    lines: list[Record] = []
    results: list[Record] = []
    for record in records:
        for entry in record["objects"] if record["status"] == "ok" else ():
            if entry["box"] is not None:
                lines.append(_line(record, entry))
                results.append(_coco(record, entry))
    texts = {
        folder / _LINES: "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines),
        folder / _COCO: json.dumps(results, ensure_ascii=False) + "\n",
    }
    for path, text in texts.items():
        save_text(path, text)
    return list(texts)


def _entry(item: Localization, mask: str) -> Record:
    box = item.box
    from deepinside.engine.batch.manifest import finite

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
    import numpy as np
    from pycocotools.mask import encode

    coded = encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(coded["size"]), "counts": coded["counts"].decode("ascii")}


def _line(record: Record, entry: Record) -> Record:
    kept = ("index", "label", "score", "probability", "box", "mask")
    return {"input": record["input"], "size": record["size"], **{key: entry[key] for key in kept}}


def _coco(record: Record, entry: Record) -> Record:
    left, top, right, bottom = entry["box"]
    stem = record["stem"]
    return {
        # COCO's own pictures are named by their numbers.
        "image_id": int(stem) if stem.isascii() and stem.isdecimal() else stem,
        "category_id": entry["index"],
        "bbox": [left, top, right - left, bottom - top],
        "score": entry["probability"],
        "segmentation": entry["segmentation"],
    }


def _holds(path: Path, pixels: NDArray[np.uint8]) -> bool:
    """Whether a file is this very picture."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as image:
            existing: Any = np.asarray(image)
    except (OSError, ValueError, SyntaxError):
        return False
    return bool(np.array_equal(existing, pixels))
