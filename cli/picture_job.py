"""What a folder of results knows of pictures: names of files, hashes, what is finished."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from deepinside.cli.inputs import file_sha256
from deepinside.cli.pictures import Input

if TYPE_CHECKING:
    from deepinside.engine.batch import Manifest, Record

__all__ = ["PictureJob"]


@dataclass(frozen=True)
class PictureJob:
    """One call of a command over pictures.

    Attributes:
        task: of the command's records.
        manifest: of the output folder.
        made_with: what decides the results besides the picture: model, targets, settings. Its
            entries are part of every record, and a result is kept where all of them agree.
        files: names of the files of a record.
        overwrite: replace existing results.
        sha256: input -> hash of the picture's bytes, of those that were read.
    """

    task: str
    manifest: Manifest
    made_with: Record
    files: Callable[[Record], Iterable[str]]
    overwrite: bool
    sha256: dict[str, str | None] = field(default_factory=dict)

    def stems(self, pictures: Sequence[Input]) -> dict[str, str]:
        """Input -> beginning of its files' names, of no other input of the folder."""
        from deepinside.engine.batch.names import plain_stem

        plain = {item.name: plain_stem(item.stem) for item in pictures}
        shared = Counter(stem.casefold() for stem in plain.values())
        return {
            name: self.manifest.stem(name, stem, shared=shared[stem.casefold()] > 1)
            for name, stem in plain.items()
        }

    def finished(self, pictures: Iterable[Input]) -> dict[str, Record]:
        """Records of pictures for which an earlier run made exactly this."""
        if self.overwrite:
            return {}
        found = {}
        for item in pictures:
            record = self.manifest.get(self.task, item.name)
            if (
                record is not None
                and record["status"] == "ok"
                and not self._differences(record)
                and record.get("input_sha256") == file_sha256(item.path)
                and all((self.manifest.folder / name).exists() for name in self.files(record))
            ):
                found[item.name] = record
        return found

    def paths(self, pictures: Iterable[Input]) -> Iterator[Path]:
        """The pictures' paths; each is hashed before its reader gets it.

        A picture that changes in between is then taken for a changed one by the next run.
        """
        for item in pictures:
            self.sha256[item.name] = file_sha256(item.path)
            yield item.path

    def record(self, item: Input, error: str | None, **content: object) -> Record:
        """The record of a picture that was read."""
        return {
            "task": self.task,
            "input": item.name,
            "input_sha256": self.sha256[item.name],
            "status": "ok" if error is None else "failed",
            **content,
            **self.made_with,
            "error": error,
        }

    def foreign(self, item: Input, what: str, files: Sequence[str], earlier: Record | None) -> str:
        """The error of a picture whose files' names other results have; `earlier` is its record."""
        reasons = []
        if earlier is not None and earlier.get("input_sha256") != self.sha256[item.name]:
            reasons.append("the picture has changed")
        if earlier is not None:
            reasons.extend(f"other {name}" for name in self._differences(earlier))
        known = f" ({', '.join(reasons)})" if reasons else ""
        places = ", ".join(str(self.manifest.folder / name) for name in files)
        return (
            f"{item.name}: {what} than its own is in {places}{known}; replace it with --overwrite, "
            "or choose another folder with -o."
        )

    def _differences(self, record: Record) -> list[str]:
        return [name for name, value in self.made_with.items() if record.get(name) != value]
