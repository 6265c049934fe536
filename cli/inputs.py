"""The pictures that INPUT arguments mean, those that come with the package, and hashes."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deepinside.cli.job_options import InputChoice
from deepinside.cli.stopping import Stop

if TYPE_CHECKING:
    from deepinside.engine.batch import Sources

__all__ = ["EXAMPLE_PREFIX", "example_path", "file_sha256", "sources_of"]

EXAMPLE_PREFIX = "example:"


def sources_of(inputs: Sequence[str], output: Path, job: InputChoice, stop: Stop) -> "Sources":
    """All pictures that the arguments of a job mean.

    Raises:
        click.UsageError: there are no arguments.
        SettingError: one means no picture.
    """
    if not inputs:
        raise click.UsageError(
            "no INPUT was given; possible: pictures, folders, globs, URLs, .tar and .parquet "
            "files, lists, and the embedded picture example:chelsea."
        )
    from deepinside.engine.batch import Sources

    return Sources(
        inputs, output, columns=job.columns, example=example_path, go_on=lambda: not stop
    )


def example_path(argument: str) -> Path:
    """The file of `example:NAME`.

    Raises:
        SourceError: there is no such embedded picture.
    """
    from deepinside import models
    from deepinside.engine.errors import SourceError

    name = argument.removeprefix(EXAMPLE_PREFIX)
    if name not in models.EXAMPLES:
        possible = ", ".join(EXAMPLE_PREFIX + known for known in models.EXAMPLES)
        raise SourceError(argument, f"there is no such embedded picture; possible: {possible}.")
    return models.example(name)


def file_sha256(path: Path) -> str | None:
    """SHA-256 (hex) of a picture's bytes; None where they can't be read, as decoding will tell."""
    try:
        # Only files: reading a pipe would empty it.
        if not path.is_file():
            return None
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None
