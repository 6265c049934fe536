"""Where pictures are: what the user named, and what is found in folders and by patterns.

Only names are looked at here; nothing is opened.
"""

import fnmatch
import glob
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepinside.engine.batch import remote
from deepinside.engine.batch.items import Target
from deepinside.engine.errors import SettingError, SourceError

__all__ = ["PICTURE_ENDINGS", "Kind", "Place", "kind_of", "places_of"]

# What Pillow reads without further packages and cameras, scanners and the web write.
PICTURE_ENDINGS = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".jp2", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
_TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_PARQUET_ENDINGS = (".parquet", ".pq")

Kind = Literal["picture", "tar", "parquet", "refused"]


@dataclass(frozen=True)
class Place:
    """A file that holds pictures, or a part of the input that can't be read.

    Attributes:
        name: path or URL.
        kind: what it holds.
        targets: classes to explain in a picture; None for the job's.
        reason: why it is refused.
    """

    name: str
    kind: Kind
    targets: tuple[Target, ...] | None = None
    reason: str | None = None


def kind_of(name: str) -> Kind:
    """What a file holds, by its ending."""
    lower = name.lower()
    if lower.endswith(_TAR_ENDINGS):
        return "tar"
    return "parquet" if lower.endswith(_PARQUET_ENDINGS) else "picture"


def places_of(
    name: str, output: Path, *, patterns: bool, skipped: Callable[[str], None]
) -> Iterator[Place]:
    """The places that a file, folder, URL or pattern means, in any order.

    Args:
        name: as the user gave it. A file that does not exist is a place, and fails when it is read.
        output: folder of results, which is left out.
        patterns: whether `*`, `?`, `[` and `**` are patterns where no such file exists.
        skipped: called with what is not followed or not a picture.

    Raises:
        SourceError: it means no picture.
    """
    if remote.is_url(name):
        found = remote.find(name, patterns=patterns)
        if found is None:
            yield Place(name, kind_of(name))
            return
        matches = (
            Place(match, kind_of(match)) for match, inside in found if _wanted(match, inside)
        )
        yield from _some(matches, _no_pictures(name))
        return
    name = str(Path(name))
    if os.path.isdir(name):
        yield from _some(_in_folder(name, output, skipped), _no_pictures(name))
    elif patterns and not os.path.lexists(name) and glob.has_magic(name):
        anchor = Path(name).anchor
        parts = list(Path(name).parts[1 if anchor else 0 :])
        matches = (Place(match, kind_of(match)) for match in _matches(anchor, parts, skipped))
        yield from _some(matches, SettingError(f"no file matches {name!r}."))
    else:
        yield Place(name, kind_of(name))


def _wanted(name: str, inside: bool) -> bool:
    """Whether a file is a picture: what a pattern names is, what a folder holds by its ending."""
    return not inside or Path(name).suffix.lower() in PICTURE_ENDINGS


def _no_pictures(name: str) -> SourceError:
    return SourceError(name, f"holds no pictures ({' '.join(sorted(PICTURE_ENDINGS))}).")


def _some(places: Iterator[Place], otherwise: SettingError) -> Iterator[Place]:
    none = True
    for place in places:
        none = False
        yield place
    if none:
        raise otherwise


def _in_folder(folder: str, output: Path, skipped: Callable[[str], None]) -> Iterator[Place]:
    """Pictures in a folder and those below it, but for hidden ones.

    Links to folders are not followed: they may lead back, or to what is found anyway.
    """
    results = output.resolve()
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        try:
            with os.scandir(current) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    path = str(Path(current, entry.name))
                    if _is_folder(entry):
                        if Path(path).resolve() != results:
                            waiting.append(path)
                    elif Path(entry.name).suffix.lower() not in PICTURE_ENDINGS:
                        skipped("links to folders" if entry.is_dir() else "other files")
                    else:
                        yield Place(path, "picture")
        except OSError as error:
            reason = f"the folder can't be read ({error.strerror or error})."
            yield Place(current, "refused", reason=reason)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False  # gone, or unreadable: it fails when it is read


def _matches(folder: str, parts: list[str], skipped: Callable[[str], None]) -> Iterator[str]:
    """Files below a folder that the parts of a pattern name; some may come twice.

    `**` goes through folders, but not through links to them; `*` and `**` name nothing hidden.
    """
    part, rest = parts[0], parts[1:]
    if not glob.has_magic(part):
        path = os.path.join(folder, part)
        if rest:
            yield from _matches(path, rest, skipped)
        elif os.path.isfile(path):
            yield path
        return
    if part == "**" and rest:
        yield from _matches(folder, rest, skipped)
    for entry in _entries(folder):
        if entry.name.startswith(".") and not part.startswith("."):
            continue
        path = os.path.join(folder, entry.name)
        if part == "**":
            if _is_folder(entry):
                yield from _matches(path, parts, skipped)
            elif entry.is_dir():
                skipped("links to folders")
            elif not rest:
                yield path
        elif fnmatch.fnmatch(entry.name, part):
            if rest and entry.is_dir():
                yield from _matches(path, rest, skipped)
            elif not rest and not entry.is_dir():
                yield path


def _entries(folder: str) -> Iterator["os.DirEntry[str]"]:
    """What is in a folder; nothing where it can't be read, as with the shell's patterns."""
    try:
        with os.scandir(folder or ".") as entries:
            yield from entries
    except OSError:
        return
