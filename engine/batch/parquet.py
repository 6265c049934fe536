"""Pictures in a column of Parquet files (extra `[parquet]`)."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from deepinside.engine.batch.items import Item, refused
from deepinside.engine.batch.lists import Columns, parse_targets
from deepinside.engine.batch.names import plain_stem
from deepinside.engine.errors import EngineError, ImageError, PackageMissingError, SettingError

__all__ = ["parquet_items", "pyarrow"]

_ROWS = 16  # at a time
_reading = threading.Lock()
# What reading raises besides Arrow's own errors, over texts, dates and numbers that are none.
_READ_ERRORS = (ArithmeticError, LookupError, OSError, TypeError, ValueError)


def pyarrow() -> Any:
    """The package.

    Raises:
        PackageMissingError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise PackageMissingError(
            "pyarrow",
            "Parquet files need the package pyarrow: run pip install 'deepinside[parquet]'.",
        ) from None
    return pyarrow


def parquet_items(
    name: str,
    opener: Callable[[], BinaryIO],
    columns: Columns,
    open_picture: Callable[[str, str], BinaryIO],
    *,
    shared: bool,
    by_place: bool = False,
) -> Iterator[Item]:
    """The pictures of a file, row by row; memory holds a row group at a time.

    A cell is the bytes of a picture, an object with `bytes` or `path`, or the path of one.

    Args:
        name: path or URL of the file.
        opener: opens it.
        columns: which are read.
        open_picture: opens a path or URL that a cell holds, under a name.
        shared: whether another file of the job has the same stem.
        by_place: pictures open the file again and read their row of it, on any machine.
    """
    arrow = pyarrow()
    stem = plain_stem(PurePosixPath(name).stem)
    row = 0
    try:
        with opener() as stream:
            file = arrow.parquet.ParquetFile(stream)
            known = file.schema_arrow.names
            image = columns.image_in(known, name)
            target = columns.target_in(known, name)
            wanted = [] if by_place else [image]
            wanted += [] if target is None else [target]
            for number in range(file.num_row_groups):
                group = _Group(name, number, image, opener)
                for place, cells in enumerate(_rows(file, number, wanted)):
                    label = f"{name}::{row}"
                    yield Item(
                        label,
                        f"{stem}.{row:06d}",
                        partial(_open_row, group, place, label, open_picture)
                        if by_place
                        else _content(cells[image], label, open_picture),
                        parse_targets(cells[target]) if target is not None else None,
                        shared,
                    )
                    row += 1
    except EngineError as error:  # by the opener or of the columns; with or without the name
        if not isinstance(error, (ImageError, SettingError)):
            raise
        yield Item(name, "", refused(name, str(error).removeprefix(f"{name}: ")))
    except FileNotFoundError:
        yield Item(name, "", refused(name, "there is no such file."))
    except (*_READ_ERRORS, arrow.ArrowException) as error:
        reason = f"the file can't be read beyond its first {row} rows ({error})."
        yield Item(name, "", refused(name, reason))


def _rows(file: Any, group: int, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Some columns of a row group."""
    if not columns:
        yield from ({} for _ in range(file.metadata.row_group(group).num_rows))
        return
    for batch in file.iter_batches(
        batch_size=_ROWS, row_groups=[group], columns=columns, use_threads=False
    ):
        yield from batch.to_pylist()


@dataclass(frozen=True)
class _Group:
    """The pictures of a row group."""

    file: str
    number: int
    image: str
    opener: Callable[[], BinaryIO] = field(compare=False)


def _open_row(
    group: _Group, place: int, label: str, open_picture: Callable[[str, str], BinaryIO]
) -> BinaryIO:
    """A picture of a row group, which is read as a whole for all of its pictures."""
    try:
        with _reading:
            cell = _pictures(group)[place].as_py()
    except (*_READ_ERRORS, pyarrow().ArrowException) as error:
        raise ImageError(label, f"can't be read ({error}).") from error
    return _content(cell, label, open_picture)()


@lru_cache(maxsize=1)
def _pictures(group: _Group) -> Any:
    with group.opener() as stream:
        file = pyarrow().parquet.ParquetFile(stream)
        return file.read_row_group(group.number, columns=[group.image], use_threads=False)[0]


def _content(
    cell: Any, label: str, open_picture: Callable[[str, str], BinaryIO]
) -> Callable[[], BinaryIO]:
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes):
        return partial(BytesIO, cell)
    if isinstance(cell, str):
        return partial(open_picture, cell, label)
    return refused(label, "holds no picture." if cell is None else "holds no bytes and no path.")
