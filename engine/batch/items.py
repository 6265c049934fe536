"""What a job explains: pictures by name, opened one by one when their turn comes."""

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from deepinside.engine.errors import ImageError

__all__ = ["Item", "Target", "open_file", "refused", "stream_sha256"]

Target = int | str

_BLOCK = 1 << 18


@dataclass(frozen=True, eq=False)
class Item:
    """One picture to explain.

    Attributes:
        name: as it is reported and recorded; no two items of a job share one.
        stem: of its result files, before it is made unique; safe on every file system.
        open: opens the picture's bytes for reading and seeking. It may be called in any thread,
            more than once, and raises ImageError or OSError where that fails.
        targets: classes to explain; None for the job's.
        shared: whether another item of the job has the same stem.
    """

    name: str
    stem: str
    open: Callable[[], BinaryIO]
    targets: tuple[Target, ...] | None = None
    shared: bool = False


def open_file(path: str | Path, name: str) -> BinaryIO:
    """A regular file's bytes; pipes and devices, which may never end, are refused.

    Raises:
        ImageError: it is no regular file.
        OSError: it can't be opened.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise ImageError(name, "is a folder, not a picture.")
    if not stat.S_ISREG(mode):
        raise ImageError(name, "is a pipe or a device, not a file.")
    try:
        return open(path, "rb")
    except PermissionError:
        raise ImageError(name, "can't be read, you may not (permission denied).") from None


def refused(name: str, reason: str) -> Callable[[], BinaryIO]:
    """An `open` for what is known to be no picture.

    Args:
        name: of the item.
        reason: a sentence that goes on behind the name.
    """

    def fail() -> BinaryIO:
        raise ImageError(name, reason)

    return fail


def stream_sha256(stream: BinaryIO) -> str:
    """SHA-256 (hex) of a stream from its start, where it stands again afterwards."""
    stream.seek(0)
    digest = hashlib.sha256()
    while block := stream.read(_BLOCK):
        digest.update(block)
    stream.seek(0)
    return digest.hexdigest()
