"""What to say of results that an earlier run left under the same names."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from deepinside.engine.batch.manifest import Record
from deepinside.engine.batch.settings import JobSettings, files_of
from deepinside.engine.batch.work import Work

__all__ = ["foreign_results", "leftovers"]


def foreign_results(
    work: Work, settings: JobSettings, paths: Iterable[Path], what: str, words: Mapping[str, str]
) -> str:
    """The error of a picture under whose files' names something else stands.

    Args:
        work: the picture.
        settings: of the job.
        paths: of the files.
        what: they hold.
        words: for the settings that can have made the difference, by name.
    """
    reasons = ["the picture has changed"] if work.has_changed else []
    if work.earlier is not None:
        changed = set(settings.differences(work.earlier, work.item))
        reasons += [text for name, text in words.items() if name in changed]
    known = f" ({', '.join(reasons)})" if reasons else ""
    return (
        f"{work.item.name}: {what} is in {', '.join(map(str, paths))}{known}; replace it with "
        "--overwrite, or choose another folder with -o."
    )


def leftovers(folder: Path, work: Work, record: Record) -> str | None:
    """Which files show what a picture was before it changed; None where there are none.

    Args:
        folder: of the results.
        work: the picture.
        record: of its new results.
    """
    if record["error"] or work.earlier is None or not work.has_changed:
        return None
    old = sorted(set(files_of(work.earlier)) - set(files_of(record)))
    left = ", ".join(name for name in old if (folder / name).exists())
    return f"{work.item.name} has changed: of what it was before, {left} remain." if left else None
