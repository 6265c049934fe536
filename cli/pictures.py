"""A list of all pictures that INPUT arguments mean, for commands that are no batch jobs."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from deepinside.cli.inputs import EXAMPLE_PREFIX, example_path

__all__ = ["Input", "expand_inputs"]

# What Pillow reads without further packages and cameras, scanners and the web write.
_ENDINGS = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".jp2", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)


@dataclass(frozen=True)
class Input:
    """One picture to explain.

    Attributes:
        name: as it is reported and recorded.
        path: of the file, which may not exist.
        stem: its file name without ending.
    """

    name: str
    path: Path
    stem: str


def expand_inputs(arguments: Sequence[str], output: Path) -> list[Input]:
    """All pictures that the arguments mean, in order, each once.

    Folders are searched through, sorted; results of an earlier run in `output` are left out. A
    file that does not exist is an input too, and fails when it is read.

    Raises:
        click.UsageError: there are no arguments, or one means no picture.
    """
    if not arguments:
        raise click.UsageError(
            "no INPUT was given; possible: pictures, folders, globs, and the embedded picture "
            "example:chelsea."
        )
    found: dict[Path, Input] = {}
    for argument in arguments:
        for item in _expand(argument, output):
            found.setdefault(Path(os.path.abspath(item.path)), item)
    return list(found.values())


def _expand(argument: str, output: Path) -> Iterator[Input]:
    path = Path(argument)
    if argument.startswith(EXAMPLE_PREFIX):
        yield Input(argument, example_path(argument), argument.removeprefix(EXAMPLE_PREFIX))
    elif path.is_dir():
        pictures = list(_in_folder(path, output))
        if not pictures:
            endings = " ".join(sorted(_ENDINGS))
            raise click.UsageError(f"the folder {argument} holds no pictures ({endings}).")
        yield from pictures
    elif not path.exists() and glob.has_magic(argument):
        matches = sorted(glob.glob(argument, recursive=True))
        pictures = [_from_path(Path(match)) for match in matches if not Path(match).is_dir()]
        if not pictures:
            raise click.UsageError(f"no file matches {argument!r}.")
        yield from pictures
    else:
        yield _from_path(path)


def _in_folder(folder: Path, output: Path) -> Iterator[Input]:
    for current, folders, files in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and (Path(current) / name).resolve() != output.resolve()
        )
        for name in sorted(files):
            if Path(name).suffix.lower() in _ENDINGS and not name.startswith("."):
                yield _from_path(Path(current) / name)


def _from_path(path: Path) -> Input:
    return Input(str(path), path, path.stem)
