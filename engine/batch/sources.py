"""All pictures of a job: the arguments are looked through once, for names only, then streamed.

Knowing every name before the first picture is opened makes the number known, the order and the
names of results independent of the order of arguments, and each picture come once. Names are kept
in a temporary file; what is in archives and tables is found only when it is read.
"""

import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from types import TracebackType
from typing import BinaryIO, Self

from deepinside.engine.batch import remote
from deepinside.engine.batch.archives import tar_items
from deepinside.engine.batch.items import Item, Target, open_file, refused
from deepinside.engine.batch.lists import Columns, Row, read_list
from deepinside.engine.batch.names import plain_stem
from deepinside.engine.batch.parquet import parquet_items
from deepinside.engine.batch.places import Place, places_of
from deepinside.engine.batch.scratch import Scratch
from deepinside.engine.errors import SettingError, SourceError

__all__ = ["EXAMPLE_PREFIX", "Sources", "open_place"]

EXAMPLE_PREFIX = "example:"


@dataclass(frozen=True)
class _Argument:
    """Where a place was named, for the order."""

    number: int
    line: int = 0


class Sources:
    """The pictures that arguments mean, each once.

    Attributes:
        skipped: what folders hold besides pictures, counted by kind.
        columns: of tables and lists.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        output: Path,
        *,
        columns: Columns | None = None,
        example: Callable[[str], Path] | None = None,
        stdin: BinaryIO | None = None,
        go_on: Callable[[], bool] = lambda: True,
    ) -> None:
        """Look through the arguments.

        Args:
            arguments: files, folders, patterns, URLs, `@LIST`, `-` for a list on standard input,
                and embedded pictures.
            output: folder of results, which is left out.
            columns: of tables and lists; None for the usual ones.
            example: the file of an embedded picture's argument; raises SourceError for none.
            stdin: standard input; None for this program's.
            go_on: asked now and then; where it says no, the rest is left out.

        Raises:
            SettingError: an argument means no picture, or a list can't be read; a line of a list
                that means no picture is an item that can't be opened.
            PackageMissingError: an argument needs a package that is not installed.
        """
        self.columns = columns or Columns()
        self.skipped: Counter[str] = Counter()
        self._output = output
        self._example = example
        self._stdin = stdin
        self._names = Scratch(
            "places(id INTEGER PRIMARY KEY, argument INTEGER, line INTEGER, folder BLOB, "
            "leaf BLOB, kind TEXT, targets TEXT, reason TEXT, stem BLOB)",
            "seen(place BLOB PRIMARY KEY, id INTEGER) WITHOUT ROWID",
            "stems(stem BLOB PRIMARY KEY, count INTEGER) WITHOUT ROWID",
        )
        for number, argument in enumerate(arguments):
            for where, place in self._places(argument, number):
                if not go_on():
                    return
                self._add(where, place)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._names.close()

    @property
    def total(self) -> int | None:
        """How many pictures there are; None where archives or tables have to be read to know."""
        if self._names.first("SELECT 1 FROM places WHERE kind IN ('tar', 'parquet') LIMIT 1"):
            return None
        return int(self._names.first("SELECT COUNT(*) FROM places"))

    def items(self, *, by_place: bool = False) -> Iterator[Item]:
        """The pictures, one by one.

        Args:
            by_place: they can be pickled, and opened on any machine that sees the same files; of
                archives and tables, only what names their pictures is read here where that is
                possible.
        """
        here = os.getcwd() if by_place else ""
        columns = "folder, leaf, kind, targets, reason, count > 1"
        ordered = self._names.rows(
            f"SELECT {columns} FROM places JOIN stems USING (stem) "
            "ORDER BY argument, line, folder, leaf"
        )
        for folder, leaf, kind, targets, reason, shared in ordered:
            name = os.fsdecode(folder + leaf)
            opener = partial(open_place, name, name, self._example, here)
            how = {"shared": bool(shared), "by_place": by_place}
            if kind == "tar":
                yield from tar_items(name, opener, self.columns, **how)
            elif kind == "parquet":
                open_picture = partial(open_place, example=self._example, folder=here)
                yield from parquet_items(name, opener, self.columns, open_picture, **how)
            elif kind == "refused":
                yield Item(name, "", refused(name, reason))
            else:
                chosen = None if targets is None else tuple(json.loads(targets))
                yield Item(name, _stem(name), opener, chosen, bool(shared))

    def _places(self, argument: str, number: int) -> Iterator[tuple[_Argument, Place]]:
        if argument != "-" and not argument.startswith("@"):
            for place in self._found(argument, patterns=True):
                yield _Argument(number), place
            return
        name = argument.removeprefix("@")
        with self._open_list(name) as stream:
            for line, row in enumerate(read_list(stream, name, self.columns)):
                for place in self._row_places(row):
                    yield _Argument(number, line), place

    def _row_places(self, row: Row) -> Iterator[Place]:
        """The places of a line; one that means no picture is refused, and ends nothing."""
        if row.reason is not None:
            yield Place(row.name, "refused", reason=row.reason)
            return
        try:
            for place in self._found(row.name, patterns=False):
                yield Place(place.name, place.kind, row.targets, place.reason)
        except SourceError as error:
            yield Place(row.name, "refused", reason=error.reason)

    def _found(self, name: str, *, patterns: bool) -> Iterable[Place]:
        if self._example is not None and name.startswith(EXAMPLE_PREFIX):
            self._example(name)  # which raises where there is none
            return [Place(name, "picture")]
        return places_of(name, self._output, patterns=patterns, skipped=self._skip)

    def _open_list(self, name: str) -> AbstractContextManager[BinaryIO]:
        if name == "-":
            return nullcontext(self._stdin or sys.stdin.buffer)  # the program's, not to be closed
        try:
            return remote.open_url(name) if remote.is_url(name) else open_file(name, name)
        except OSError as error:
            raise SettingError(f"the list {name} can't be read: {error.strerror}.") from error

    def _skip(self, kind: str) -> None:
        self.skipped[kind] += 1

    def _add(self, where: _Argument, place: Place) -> None:
        """Note a place; of one that is there already, only the targets are new."""
        key = _digest(_identity(place), 16)
        folder, leaf = os.path.split(place.name)
        separator = place.name[len(folder) : len(place.name) - len(leaf)]
        targets = None if place.targets is None else json.dumps(place.targets)
        known = self._names.first("SELECT id FROM seen WHERE place = ?", (key,))
        if known is not None:
            self._add_targets(known, place.targets)
            return
        stem = _digest((_stem(place.name) + "." * (place.kind != "picture")).casefold(), 8)
        self._names.change(
            "INSERT INTO places VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                where.number,
                where.line,
                os.fsencode(folder + separator),
                os.fsencode(leaf),
                place.kind,
                targets,
                place.reason,
                stem,
            ),
        )
        self._names.change("INSERT INTO seen VALUES (?, last_insert_rowid())", (key,))
        self._names.change(
            "INSERT INTO stems VALUES (?, 1) ON CONFLICT DO UPDATE SET count = count + 1", (stem,)
        )

    def _add_targets(self, known: int, targets: tuple[Target, ...] | None) -> None:
        if targets is None:
            return
        earlier = self._names.first("SELECT targets FROM places WHERE id = ?", (known,))
        merged = dict.fromkeys([*json.loads(earlier or "[]"), *targets])
        self._names.change(
            "UPDATE places SET targets = ? WHERE id = ?", (json.dumps(list(merged)), known)
        )


def open_place(
    name: str, label: str, example: Callable[[str], Path] | None = None, folder: str = ""
) -> BinaryIO:
    """The bytes of a path, a URL or an embedded picture.

    Args:
        name: path, URL or `example:NAME`.
        label: how messages call it.
        example: the file of an embedded picture's argument.
        folder: that a path is relative to; the current one where it is empty.

    Raises:
        ImageError: it is no file, or can't be fetched.
        OSError: it can't be opened.
    """
    if remote.is_url(name):
        return remote.open_url(name)
    if example is not None and name.startswith(EXAMPLE_PREFIX):
        return open_file(example(name), label)
    return open_file(os.path.join(folder, name), label)


def _identity(place: Place) -> str:
    """What two names of one place have in common."""
    if place.kind == "refused" or remote.is_url(place.name):
        return place.name
    return os.path.abspath(place.name)


def _stem(name: str) -> str:
    return plain_stem(PurePath(name.removeprefix(EXAMPLE_PREFIX)).stem)


def _digest(text: str, size: int) -> bytes:
    """Bytes that stand for a text."""
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=size).digest()
