"""Lists of pictures: text, CSV, TSV and JSON Lines, from a file, a URL or standard input.

Names are relative to the current folder, wherever the list is. A text list whose names are ended by
NUL instead of newlines, as `find -print0` writes it, is known by its first NUL.
"""

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, BinaryIO

from deepinside.engine.batch.items import Target
from deepinside.engine.errors import SettingError

__all__ = ["IMAGE_COLUMNS", "Columns", "Row", "parse_targets", "read_list"]

# Where --image-column does not say.
IMAGE_COLUMNS = ("image", "file", "path", "filename", "file_name")
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Columns:
    """Which columns of tables are read.

    Attributes:
        image: of the picture; None for the first of `IMAGE_COLUMNS` that is there.
        target: of the class to explain; None for none.
    """

    image: str | None = None
    target: str | None = None

    def image_in(self, known: Sequence[str], where: str) -> str:
        """The column of the picture.

        Raises:
            SettingError: there is none.
        """
        wanted = IMAGE_COLUMNS if self.image is None else (self.image,)
        return _column(wanted, known, where, "--image-column")

    def target_in(self, known: Sequence[str], where: str) -> str | None:
        """The column of the target, if one is asked for.

        Raises:
            SettingError: there is no such column.
        """
        if self.target is None:
            return None
        return _column((self.target,), known, where, "--target-column")


@dataclass(frozen=True)
class Row:
    """A line of a list.

    Attributes:
        name: of the picture, or of the line where it is refused.
        targets: classes to explain; None for the job's.
        reason: why the line is refused.
    """

    name: str
    targets: tuple[Target, ...] | None = None
    reason: str | None = None


def read_list(stream: BinaryIO, name: str, columns: Columns) -> Iterator[Row]:
    """The lines of a list, by the ending of its name; what is no table is text.

    Raises:
        SettingError: the list is not what its name says, or lacks a column.
    """
    ending = PurePath(name).suffix.lower()
    if ending in (".csv", ".tsv"):
        yield from _csv(stream, name, columns, "," if ending == ".csv" else "\t")
    elif ending in (".jsonl", ".ndjson"):
        yield from _json_lines(stream, name, columns)
    elif columns.target is not None:
        raise SettingError(
            f"{name} is a plain list, which has no column {columns.target!r}: give a .csv, .tsv or "
            ".jsonl file."
        )
    else:
        for line in _lines(stream):
            yield Row(line)


def parse_targets(value: Any) -> tuple[Target, ...] | None:
    """The targets in a cell: an index, a label, `top5`, or a JSON list of these; None for none.

    What can't be a target is kept as text, so that its picture fails with the reason.
    """
    if isinstance(value, list):
        found = tuple(part for cell in value for part in _target(cell))
        return found or None
    return _target(value) or None


def _target(value: Any) -> tuple[Target, ...]:
    """None or one."""
    if value is None or value != value or str(value).strip() == "":  # NaN, for a missing number
        return ()
    if isinstance(value, float) and value.is_integer():
        return (int(value),)
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,)
    return (str(value).strip(),)


def _lines(stream: BinaryIO) -> Iterator[str]:
    rest = stream.read(_BLOCK)
    end = b"\0" if b"\0" in rest else b"\n"
    while True:
        *lines, rest = rest.split(end)
        for line in lines:
            yield from _line(line, end)
        block = stream.read(_BLOCK)
        if not block:
            yield from _line(rest, end)
            return
        rest += block


def _line(line: bytes, end: bytes) -> Iterator[str]:
    """A line as a name, if there is one; bytes that are no UTF-8 stay as they are."""
    if end == b"\n":
        line = line.removesuffix(b"\r").removeprefix(b"\xef\xbb\xbf")
    if line:
        yield line.decode(errors="surrogateescape")


def _csv(stream: BinaryIO, name: str, columns: Columns, delimiter: str) -> Iterator[Row]:
    text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.DictReader(text, delimiter=delimiter)
    try:
        known = [column for column in reader.fieldnames or () if column]
        image = columns.image_in(known, name)
        target = columns.target_in(known, name)
        while True:
            begun = reader.reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:  # a quotation mark that nothing closes, above all
                reason = f"can't be read, up to line {reader.reader.line_num} ({error})."
                yield Row(f"{name}:{begun}", reason=reason)
            else:
                yield _row(row, image, target, f"{name}:{reader.line_num}")
    except csv.Error as error:
        raise SettingError(f"the head of {name} can't be read: {error}.") from error
    finally:
        text.detach()  # whoever opened the stream closes it


def _json_lines(stream: BinaryIO, name: str, columns: Columns) -> Iterator[Row]:
    image = target = None
    for number, line in enumerate(stream, 1):
        where = f"{name}:{number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield Row(where, reason=f"is not JSON ({error}).")
            continue
        if not isinstance(row, dict):
            yield Row(where, reason="holds no JSON object.")
            continue
        if image is None:
            image = columns.image_in(list(row), where)
            target = columns.target_in(list(row), where)
        yield _row(row, image, target, where)


def _row(row: Mapping[str, Any], image: str, target: str | None, where: str) -> Row:
    name = row.get(image)
    if not isinstance(name, str) or not name.strip():
        return Row(where, reason=f"names no picture in the column {image!r}.")
    try:
        os.fsencode(name)
    except UnicodeEncodeError as error:
        return Row(where, reason=f"names no picture that a file system has ({error}).")
    return Row(name, parse_targets(row.get(target)) if target is not None else None)


def _column(wanted: Sequence[str], known: Sequence[str], where: str, option: str) -> str:
    for column in wanted:
        if column in known:
            return column
    raise SettingError(
        f"{where} has no column {' or '.join(map(repr, wanted))}; it has "
        f"{', '.join(map(repr, known)) or 'none'}: choose one with {option}."
    )
