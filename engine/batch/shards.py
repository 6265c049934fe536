"""Results as shards: some hundred maps in one `.npz` or Parquet file.

A shard is written whole, under a temporary name, and renamed; only then are its pictures listed. It
also holds their records, so that a run killed between the two loses nothing: the next one lists
them from the shard.
"""

import copy
import json
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.batch.manifest import Manifest, Record, json_text, record_of
from deepinside.engine.batch.parquet import pyarrow
from deepinside.engine.batch.settings import (
    JobSettings,
    facts_of,
    map_entry,
    new_record,
    restored,
    stored,
)
from deepinside.engine.batch.work import Outcome, Work
from deepinside.engine.errors import OutputError
from deepinside.engine.files import hidden, load_member, rename, replacing
from deepinside.engine.results import InputMaps

__all__ = ["NpzSink", "ParquetSink", "ShardSink"]

_NAME = re.compile(r"saliency-(\d+)\.(npz|parquet)")
_UNREADABLE = (OSError, ValueError, TypeError, LookupError)


class ShardSink(ABC):
    """Fills shards in the order of the pictures; all maps of a picture are in one shard.

    Attributes:
        shard_size: maps in a shard, or a few more where a picture has several.
    """

    needs_picture = False

    def __init__(self, folder: Path, settings: JobSettings, shard_size: int) -> None:
        """Begin with nothing.

        Args:
            folder: of the results.
            settings: of the job.
            shard_size: maps in a shard; they wait in memory.
        """
        self._folder = folder
        self._settings = settings
        self.shard_size = shard_size
        self._waiting: list[Outcome] = []
        self._part: str | None = None
        self._last = max((number for number, _ in self._existing()), default=-1)

    def seen(self, record: Record) -> None:
        """Note the shards that the manifest names: a deleted one's name is not used again."""
        for entry in record.get("maps", ()):
            if match := _NAME.fullmatch(entry.get("files", {}).get("shard", "")):
                self._last = max(self._last, int(match[1]))

    def recover(self, manifest: Manifest) -> int:
        """List what a killed run left unlisted in the last shard; return how many pictures.

        Raises:
            OutputError: that shard can't be read.
        """
        existing = max(self._existing(), default=None)
        if existing is None:
            return 0
        path = self._folder / existing[1]
        try:
            records = [record_of(line) for line in self._lines(path)]
            for entry in (entry for record in records if record for entry in record["maps"]):
                entry["files"]["shard"] = path.name  # a part was named after it was written
        except _UNREADABLE as error:
            raise OutputError(
                f"{path} is no shard of maps that can be read ({error}): move it away, or choose "
                "another folder with -o."
            ) from error
        missing = [
            record
            for record in records
            if record is not None
            and manifest.get(record["task"], record["input"], record.get("variant", "")) is None
        ]
        if missing:
            manifest.add(*missing)
        return len(missing)

    def write(self, work: Work, result: InputMaps) -> Outcome:
        """Make a picture's maps ready; may run in any thread."""
        pairs = [stored(saliency.saliency, self._settings.dtype) for saliency in result.maps]
        record = new_record(
            self._settings,
            work.item,
            work.sha256,
            maps=[
                map_entry(saliency, {}, scale)
                for saliency, (_, scale) in zip(result.maps, pairs, strict=True)
            ],
            **facts_of(result),
        )
        return Outcome(record, tuple(values for values, _ in pairs))

    def commit(self, outcome: Outcome) -> list[Outcome]:
        """Put an outcome into the shard; the outcomes that are on disk now."""
        if not outcome.arrays:
            return [outcome]
        self._waiting.append(outcome)
        if sum(len(waiting.arrays) for waiting in self._waiting) < self.shard_size:
            return []
        return self.finish()

    def finish(self) -> list[Outcome]:
        """Write the shard as it is."""
        if not self._waiting:
            return []
        name = self._part or self._next_name()
        done, self._waiting = self._waiting, []
        row = 0
        for outcome in done:
            for entry in outcome.record["maps"]:
                entry |= {"files": {"shard": name}, "row": row}
                row += 1
        with replacing(self._folder / name) as stream:
            self._save(stream, done)
        for outcome in done:
            outcome.arrays = ()
        return done

    def part(self, name: str) -> Self:
        """A sink for another process: it writes all that it is given into one hidden shard.

        Args:
            name: of the shard, until it is adopted.
        """
        part = copy.copy(self)
        part._waiting, part.shard_size = [], sys.maxsize
        part._part = f"{hidden(name)}.{self._settings.format}"
        return part

    def adopt(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Give a part's shard the next name; the outcomes of the part, with that name.

        Only the process that lists results names shards: what another one of a job that was killed
        may still write has a name that nobody looks for.

        Raises:
            OutputError: the shard is gone.
        """
        entries = [
            entry
            for outcome in outcomes
            if outcome.record["status"] == "ok"
            for entry in outcome.record["maps"]
        ]
        if entries:
            name = self._next_name()
            (part,) = {entry["files"]["shard"] for entry in entries}
            rename(self._folder / part, self._folder / name)
            for entry in entries:
                entry["files"] = {"shard": name}
        return list(outcomes)

    def load(self, record: Record, number: int) -> NDArray[np.float32] | None:
        """A map of a record."""
        entry = record["maps"][number]
        try:
            values = self._row(self._folder / entry["files"]["shard"], entry["row"])
        except _UNREADABLE:
            return None
        return restored(values, entry.get("scale"))

    def _next_name(self) -> str:
        self._last += 1
        return f"saliency-{self._last:05d}.{self._settings.format}"

    def _existing(self) -> Iterator[tuple[int, str]]:
        for path in self._folder.glob(f"saliency-*.{self._settings.format}"):
            if match := _NAME.fullmatch(path.name):
                yield int(match[1]), path.name

    @abstractmethod
    def _lines(self, path: Path) -> list[str]:
        """The records of a shard's pictures, as JSON."""

    @abstractmethod
    def _save(self, stream: IO[bytes], outcomes: Sequence[Outcome]) -> None:
        """Write a shard."""

    @abstractmethod
    def _row(self, path: Path, row: int) -> NDArray[Any]:
        """The stored numbers of a map."""


class NpzSink(ShardSink):
    """Shards for `numpy.load`: `saliency` `(N, H, W)` and arrays of N beside it."""

    def _lines(self, path: Path) -> list[str]:
        return load_member(path, "records").tobytes().decode().splitlines()

    def _save(self, stream: IO[bytes], outcomes: Sequence[Outcome]) -> None:
        rows = [(outcome.record, entry) for outcome in outcomes for entry in outcome.record["maps"]]
        # JSON writes newlines as escapes; other line ends would split the text as well.
        lines = "\n".join(json.dumps(outcome.record) for outcome in outcomes).encode()
        arrays: dict[str, NDArray[Any]] = {
            "saliency": np.stack([array for outcome in outcomes for array in outcome.arrays]),
            "scale": np.array([entry.get("scale", 1.0) for _, entry in rows]),
            "index": np.array([entry["index"] for _, entry in rows]),
            "score": _numbers([entry["score"] for _, entry in rows]),
            "probability": _numbers([entry["probability"] for _, entry in rows]),
            "input": np.array([_unicode(record["input"]) for record, _ in rows]),
            "records": np.frombuffer(lines, np.uint8),
        }
        np.savez(stream, **arrays)  # type: ignore[arg-type]

    def _row(self, path: Path, row: int) -> NDArray[Any]:
        values: NDArray[Any] = _npz_maps(path)[row]
        return values


class ParquetSink(ShardSink):
    """Shards for Arrow, a row a map; `saliency` is a list of `height * width` numbers."""

    def __init__(self, folder: Path, settings: JobSettings, shard_size: int) -> None:
        """As for all shards."""
        self._arrow = pyarrow()
        super().__init__(folder, settings, shard_size)

    def _lines(self, path: Path) -> list[str]:
        lines = _table(path, ["record"])["record"].to_pylist()
        return [str(line) for line in lines if line is not None]

    def _save(self, stream: IO[bytes], outcomes: Sequence[Outcome]) -> None:
        arrow = self._arrow
        arrays = [array for outcome in outcomes for array in outcome.arrays]
        rows = [
            {
                "input": _unicode(outcome.record["input"]),
                "index": entry["index"],
                "label": entry["label"],
                "score": entry["score"],
                "probability": entry["probability"],
                "height": array.shape[0],
                "width": array.shape[1],
                "scale": entry.get("scale", 1.0),
                # Once a picture.
                "record": json_text(outcome.record) if number == 0 else None,
            }
            for outcome in outcomes
            for number, (entry, array) in enumerate(
                zip(outcome.record["maps"], outcome.arrays, strict=True)
            )
        ]
        types = {
            "input": arrow.string(),
            "index": arrow.int64(),
            "label": arrow.string(),
            "score": arrow.float64(),
            "probability": arrow.float64(),
            "height": arrow.int32(),
            "width": arrow.int32(),
            "scale": arrow.float64(),
            "record": arrow.string(),
        }
        columns = {
            name: arrow.array([row[name] for row in rows], kind) for name, kind in types.items()
        }
        values = arrow.array(np.concatenate([array.reshape(-1) for array in arrays]))
        ends = np.cumsum([0, *(array.size for array in arrays)])
        columns["saliency"] = arrow.LargeListArray.from_arrays(arrow.array(ends), values)
        arrow.parquet.write_table(arrow.table(columns), stream)

    def _row(self, path: Path, row: int) -> NDArray[Any]:
        table = _parquet_maps(path)
        size = table["height"][row].as_py(), table["width"][row].as_py()
        values: NDArray[Any] = table["saliency"][row].values.to_numpy()
        return values.reshape(size)


@lru_cache(maxsize=1)
def _npz_maps(path: Path) -> NDArray[Any]:
    return load_member(path, "saliency")


@lru_cache(maxsize=1)
def _parquet_maps(path: Path) -> Any:
    return _table(path, ["height", "width", "saliency"])


def _table(path: Path, columns: list[str]) -> Any:
    arrow = pyarrow()
    try:
        return arrow.parquet.read_table(path, columns=columns)
    except arrow.ArrowException as error:
        raise ValueError(str(error)) from error


def _numbers(values: Sequence[float | None]) -> NDArray[np.float64]:
    """NaN where there is none."""
    return np.array([np.nan if value is None else value for value in values])


def _unicode(name: str) -> str:
    """A name for formats that take Unicode only; the record has it as it is."""
    return name.encode(errors="surrogateescape").decode(errors="replace")
