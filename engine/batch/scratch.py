"""A database in a temporary file: what a job must remember of each picture, but not in memory."""

import sqlite3
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from deepinside.engine.errors import OutputError

__all__ = ["Scratch"]

_CACHE = 8 << 10  # KiB; beyond it, pages are on disk


class Scratch:
    """Tables that vanish when they are closed, even by a kill.

    SQLite deletes its file as soon as it is open. Nothing here has to survive: no journal.
    """

    def __init__(self, *tables: str) -> None:
        """Create tables, each given as `name(columns) options`."""
        self._database = sqlite3.connect("", isolation_level=None)
        for setting in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{_CACHE}"):
            self._database.execute(f"PRAGMA {setting}")
        for table in tables:
            self._database.execute(f"CREATE TABLE {table}")
        self._database.execute("BEGIN")  # never committed: one transaction is the fastest

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Forget everything."""
        self._database.close()

    def change(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Run a statement and return how many rows it changed.

        Raises:
            OutputError: the temporary file can't be written.
        """
        try:
            return self._database.execute(statement, values).rowcount
        except sqlite3.OperationalError as error:
            raise OutputError(
                f"the job's temporary file can't be written ({error}): make room, or set TMPDIR to "
                "a folder with room."
            ) from error

    def first(self, statement: str, values: Sequence[Any] = ()) -> Any:
        """The first column of a query's first row, or None."""
        row = self._database.execute(statement, values).fetchone()
        return None if row is None else row[0]

    def rows(self, statement: str, values: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """The rows of a query, one by one."""
        # Not `yield from`, which would close the cursor, perhaps after the database.
        for row in self._database.execute(statement, values):  # noqa: UP028
            yield row
