"""Lists of all boxes that a folder's manifest tells of: JSON Lines, and COCO's results.

The manifest is what counts. The lines of `boxes.jsonl` are appended as pictures are done. Both
lists are written anew from the manifest when a run begins, which mends what a kill left, and when
it ends, which drops what was replaced. Neither is ever held in memory.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from deepinside.engine.batch.manifest import Manifest, Record, json_text
from deepinside.engine.errors import OutputError
from deepinside.engine.files import replacing

__all__ = ["ObjectLists"]

_LINES = "boxes.jsonl"
_COCO = "boxes.coco.json"


class ObjectLists:
    """The lists of a folder; objects without a box are in neither.

    `boxes.jsonl` has a line a box, with (left, top, right, bottom); `boxes.coco.json` is a list of
    COCO results, with (left, top, width, height).

    Attributes:
        paths: of the lists.
    """

    def __init__(self, manifest: Manifest, task: str) -> None:
        """Nothing is written before the block is entered.

        Args:
            manifest: of the folder, open.
            task: of the records.
        """
        self._manifest = manifest
        self._task = task
        self.paths = (manifest.folder / _LINES, manifest.folder / _COCO)
        self._lines: IO[bytes] | None = None

    def __enter__(self) -> Self:
        """Write what earlier runs found.

        Raises:
            OutputError: a list can't be written.
        """
        self._write()
        try:
            self._lines = self.paths[0].open("ab", buffering=0)
        except OSError as error:
            raise _unwritable(self.paths[0], error) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._lines is not None
        self._lines.close()
        if kind is None:
            self._write()

    def add(self, record: Record) -> None:
        """Append the boxes of a picture that is listed in the manifest.

        Raises:
            OutputError: they can't be written.
        """
        assert self._lines is not None
        try:
            # In one write: a kill takes all of it or none.
            self._lines.write(b"".join(_lines_of(record)))
        except OSError as error:
            raise _unwritable(self.paths[0], error) from error

    def _write(self) -> None:
        with ExitStack() as stack:
            lines, coco = (stack.enter_context(replacing(path)) for path in self.paths)
            separator = b"["
            for record in self._manifest.records(self._task):
                lines.writelines(_lines_of(record))
                for result in _results_of(record):
                    coco.write(separator + result)
                    separator = b",\n"
            coco.write(b"[]\n" if separator == b"[" else b"]\n")


def _boxes_of(record: Record) -> Iterator[Record]:
    if record["status"] == "ok":
        yield from (entry for entry in record["objects"] if entry["box"] is not None)


def _lines_of(record: Record) -> Iterator[bytes]:
    kept = ("index", "label", "score", "probability", "box", "mask")
    for entry in _boxes_of(record):
        line = {"input": record["input"], "size": record["size"]}
        yield json_text({**line, **{key: entry[key] for key in kept}}).encode() + b"\n"


def _results_of(record: Record) -> Iterator[bytes]:
    stem = record["stem"]
    for entry in _boxes_of(record):
        left, top, right, bottom = entry["box"]
        result = {
            # COCO's own pictures are named by their numbers.
            "image_id": int(stem) if stem.isascii() and stem.isdecimal() else stem,
            "category_id": entry["index"],
            "bbox": [left, top, right - left, bottom - top],
            "score": entry["probability"],
            "segmentation": entry["segmentation"],
        }
        yield json_text(result).encode()


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path} can't be written: {error.strerror or error}.")
