"""The record of a results folder: `manifest.jsonl`, one JSON object a line.

A line is written as soon as its results are, so that a killed run loses nothing; when a run ends,
lines that a later line replaces are dropped. Paths in it are relative to its folder.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["Manifest", "Record", "finite"]

Record = dict[str, Any]

_NAME = "manifest.jsonl"


class Manifest:
    """The manifest of one folder, open for adding."""

    def __init__(self, folder: Path) -> None:
        """Read what earlier runs left; a line cut short by a kill is dropped."""
        self.folder = folder
        self._path = folder / _NAME
        self._records: dict[tuple[str, str, str], Record] = {}
        for record in _read(self._path):
            self._records[_key(record)] = record

    def __enter__(self) -> Self:
        from deepinside.engine.files import make_folder

        make_folder(self.folder)
        # A line that a kill cut short must not swallow the next one.
        self._compact()
        self._stream = self._path.open("a", encoding="utf-8")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stream.close()
        self._compact()

    def get(self, task: str, name: str, variant: str = "") -> Record | None:
        """The latest record of an input (or class) of a task, and of its variant."""
        return self._records.get((task, name, variant))

    def records(self, task: str) -> Iterator[Record]:
        """All records of a task."""
        return (record for (kind, *_), record in self._records.items() if kind == task)

    def add(self, record: Record) -> None:
        """Write a record with at least `task` and `input`; it replaces an earlier one.

        Records of several `variant`s of an input stand beside one another.
        """
        # Moved to the end, where the file has it.
        self._records.pop(_key(record), None)
        self._records[_key(record)] = record
        self._stream.write(_line(record))
        self._stream.flush()

    def _compact(self) -> None:
        from deepinside.engine.files import save_text

        text = "".join(map(_line, self._records.values()))
        if not self._path.exists() or self._path.read_text(encoding="utf-8") != text:
            save_text(self._path, text)


def finite(number: float | None) -> float | None:
    """The number, or None (JSON null) for what JSON has no form for."""
    return number if number is not None and math.isfinite(number) else None


def _read(path: Path) -> Iterator[Record]:
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and "task" in record and "input" in record:
            yield record


def _key(record: Record) -> tuple[str, str, str]:
    return str(record["task"]), str(record["input"]), str(record.get("variant", ""))


def _line(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
