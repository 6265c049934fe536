"""The pictures that come with the package, and hashes of pictures."""

import hashlib
from pathlib import Path

import click

__all__ = ["EXAMPLE_PREFIX", "example_path", "file_sha256"]

EXAMPLE_PREFIX = "example:"


def example_path(argument: str) -> Path:
    """The file of `example:NAME`.

    Raises:
        click.UsageError: there is no such embedded picture.
    """
    from deepinside import models

    name = argument.removeprefix(EXAMPLE_PREFIX)
    if name not in models.EXAMPLES:
        possible = ", ".join(EXAMPLE_PREFIX + known for known in models.EXAMPLES)
        raise click.UsageError(f"there is no embedded picture {argument!r}; possible: {possible}.")
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
