"""The record of a results folder: `manifest.jsonl`, one JSON object a line.

Lines are appended as soon as their results are on disk, so that a killed run loses nothing; a line
that a kill cut short is cut off by the next run. A later line replaces an earlier one of the same
task, input and variant; such lines are dropped when a run ends. Paths are relative to the folder.

Every line reaches the operating system before the next result is begun, and the disk within a
second: what a power failure takes is done again, since results that are not listed, or listed and
not there, count as not done.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from io import BufferedReader, FileIO
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any, Self

from deepinside.engine.batch.names import unshared_stem
from deepinside.engine.batch.scratch import Scratch
from deepinside.engine.errors import OutputError
from deepinside.engine.files import make_folder, replacing

__all__ = ["Manifest", "Record", "finite", "json_text", "read_records", "record_of"]

Record = dict[str, Any]

_NAME = "manifest.jsonl"
_SYNC_EVERY = 1.0  # seconds


class Manifest:
    """The manifest of one folder, open for adding; memory does not grow with it.

    Attributes:
        folder: of the results.
    """

    def __init__(self, folder: Path, seen: Callable[[Record], None] | None = None) -> None:
        """Nothing is read or made before the block is entered.

        Args:
            folder: of the results.
            seen: called with every line that is read or added.
        """
        self.folder = folder
        self._seen = seen
        self._path = folder / _NAME
        self._file: FileIO | None = None  # unbuffered: a line is written when it is written
        self._reader: BufferedReader | None = None
        self._replaced = 0
        self._synced = 0.0

    def __enter__(self) -> Self:
        """Read what earlier runs left.

        Raises:
            OutputError: the folder can't be made, or another program is writing into it.
        """
        make_folder(self.folder)
        self._lock = _locked(self.folder)
        self._index = Scratch(
            "lines(key BLOB PRIMARY KEY, offset INTEGER) WITHOUT ROWID",
            "stems(stem TEXT PRIMARY KEY, owner TEXT) WITHOUT ROWID",
        )
        if self._path.exists():
            self._open()
            self._read()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._file is not None and kind is None:
                self._sync()
                if self._replaced:
                    self._compact()
        finally:
            self._close()
            self._index.close()
            if self._lock is not None:
                os.close(self._lock)

    def get(self, task: str, name: str, variant: str = "") -> Record | None:
        """The latest record of an input (or class) of a task, and of its variant."""
        offset = self._index.first(
            "SELECT offset FROM lines WHERE key = ?", (_key(task, name, variant),)
        )
        if offset is None:
            return None
        assert self._reader is not None
        self._reader.seek(offset)
        record: Record = json.loads(self._reader.readline())
        return record

    def records(self, task: str) -> Iterator[Record]:
        """The latest records of a task, in the order of their lines, one by one."""
        for line in self._lines():
            record: Record = json.loads(line)
            if record["task"] == task:
                yield record

    def stem(self, name: str, stem: str, *, shared: bool = False) -> str:
        """The stem of an input's files, which no other input's files have, whatever its case.

        Args:
            name: of the input.
            stem: that it would have by itself.
            shared: whether another input of this run would have the same: both then get a hash
                of their name appended, so that their order does not matter.
        """
        key = stem.casefold()
        owner = self._index.first("SELECT owner FROM stems WHERE stem = ?", (_text(key),))
        if owner == _text(name):
            return stem
        if owner is not None or shared:
            return unshared_stem(stem, name)
        self._claim(stem, name)
        return stem

    def add(self, *records: Record) -> None:
        """Append records with at least `task` and `input`; they replace earlier ones.

        Records of several `variant`s of an input stand beside one another.

        Raises:
            OutputError: the file can't be written.
        """
        if self._file is None:
            self._open()
        assert self._file is not None
        lines = [_line(record) for record in records]
        offset = self._write(b"".join(lines))
        for record, line in zip(records, lines, strict=True):
            self._note(record, offset)
            offset += len(line)
        if time.monotonic() - self._synced > _SYNC_EVERY:
            self._sync()

    def _open(self) -> None:
        try:
            self._file = self._path.open("ab", buffering=0)
            self._reader = self._path.open("rb")
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def _close(self) -> None:
        for stream in (self._file, self._reader):
            if stream is not None:
                stream.close()
        self._file = self._reader = None

    def _write(self, content: bytes) -> int:
        """Append; return where. What a full disk took of it is cut off again."""
        assert self._file is not None
        start = self._file.seek(0, os.SEEK_END)
        rest = memoryview(content)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._file.truncate(start)
            raise _unwritable(self._path, error) from error
        return start

    def _sync(self) -> None:
        assert self._file is not None
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _unwritable(self._path, error) from error
        self._synced = time.monotonic()

    def _read(self) -> None:
        """Note every line's place; a last line that is not whole is cut off."""
        assert self._file is not None
        assert self._reader is not None
        offset = 0
        for line in self._reader:
            record = record_of(line)
            if record is not None:
                self._note(record, offset)
            if line.endswith(b"\n"):
                self._replaced += record is None
            elif record is None:
                self._file.truncate(offset)
            else:  # whole, but for its end
                self._write(b"\n")
            offset += len(line)

    def _note(self, record: Record, offset: int) -> None:
        key = _key(record["task"], record["input"], record.get("variant", ""))
        if self._index.change("INSERT OR IGNORE INTO lines VALUES (?, ?)", (key, offset)) == 0:
            self._replaced += 1
            self._index.change("UPDATE lines SET offset = ? WHERE key = ?", (offset, key))
        if self._seen is not None:
            self._seen(record)
        if record.get("stem"):
            self._claim(record["stem"], record["input"])

    def _claim(self, stem: str, name: str) -> None:
        self._index.change(
            "INSERT OR REPLACE INTO stems VALUES (?, ?)", (_text(stem.casefold()), _text(name))
        )

    def _compact(self) -> None:
        """Drop the lines that later ones replace."""
        with replacing(self._path) as target:
            target.writelines(self._lines())
            self._close()  # Windows replaces no open file

    def _lines(self) -> Iterator[bytes]:
        """The lines that no later one replaces."""
        for (offset,) in self._index.rows("SELECT offset FROM lines ORDER BY offset"):
            assert self._reader is not None
            self._reader.seek(offset)
            yield self._reader.readline()


def finite(number: float | None) -> float | None:
    """The number, or None (JSON null) for what JSON has no form for."""
    return number if number is not None and math.isfinite(number) else None


def read_records(path: Path) -> Iterator[Record]:
    """The whole lines of a manifest, also one that is being written."""
    with path.open("rb") as stream:
        for line in stream:
            if (record := record_of(line)) is not None:
                yield record


def json_text(record: Record) -> str:
    """A record as one line; names that are no Unicode are written as escapes."""
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    return text if text.isascii() or _is_unicode(text) else json.dumps(record, allow_nan=False)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _line(record: Record) -> bytes:
    return json_text(record).encode() + b"\n"


def record_of(line: bytes | str) -> Record | None:
    """The record of a line; None where it is none that a command wrote."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and _is_sound(record) else None


def _is_sound(record: Record) -> bool:
    """Whether what is read of a record has its types, and its files lie in the folder."""
    texts = [record.get("task"), record.get("input"), record.get("status")]
    texts += [record.get("variant", ""), record.get("stem") or ""]
    maps = record.get("maps", [])
    # An evaluation tells by this word which boxes were given.
    objects = record.get("objects", []) if record.get("task") == "localization" else []
    if not all(isinstance(text, str) for text in texts):
        return False
    if not all(isinstance(part, list) for part in (maps, objects)):
        return False
    entries = [*maps, *objects]
    if not all(isinstance(entry, dict) for entry in entries):
        return False
    names = [record.get("picture") or "", *_names(record.get("files", []))]
    names += [entry.get("mask", "") for entry in objects]
    names += [name for entry in maps for name in _names(entry.get("files", {}))]
    return all(isinstance(name, str) and PurePath(name).name == name for name in names)


def _names(files: Any) -> list[Any]:
    """Names in a list of files, or in an object of them by kind; a wrong type is no name."""
    if isinstance(files, dict):
        return list(files.values())
    return files if isinstance(files, list) else [files]


def _key(task: str, name: str, variant: str) -> bytes:
    return hashlib.sha256(json.dumps([task, name, variant]).encode()).digest()[:16]


def _text(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path} can't be written: {error.strerror or error}.")


def _locked(folder: Path) -> int | None:
    """A lock on the folder, held while its descriptor is open; None where there are no locks.

    Raises:
        OutputError: another program holds it.
    """
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise OutputError(
            f"another deepinside is writing into {folder}: wait for it, or choose another folder "
            "with -o."
        ) from None
    except OSError:  # some network file systems have no locks
        os.close(descriptor)
        return None
    return descriptor
