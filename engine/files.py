"""Writes results so that a killed program leaves all of a file or none; and reads arrays."""

import math
import os
import secrets
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image

from deepinside.engine.errors import OutputError

__all__ = [
    "hidden",
    "load_array",
    "load_member",
    "make_folder",
    "parse_array",
    "remove_unfinished",
    "rename",
    "replacing",
    "save_array",
    "save_picture",
    "save_text",
]

_TEMPORARY = ".deepinside-"
# What NumPy raises besides ValueError over the head of an array, which is a Python expression.
_NO_HEAD = (
    ArithmeticError,
    LookupError,
    MemoryError,
    RuntimeError,
    SyntaxError,
    TypeError,
    struct.error,
    tokenize.TokenError,
)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are missing.

    Raises:
        OutputError: it can't be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A stream whose content becomes the file `path` once the block ends without an error.

    It is written under a hidden temporary name in the same folder, brought to disk, and renamed.
    The folder is made where it is missing.

    Raises:
        OutputError: the file can't be written.
    """
    make_folder(path.parent)
    temporary = None
    try:
        # Not mkstemp, whose files only their owner can read: results have the usual rights.
        unfinished = path.parent / hidden(secrets.token_hex(8))
        with unfinished.open("xb") as stream:
            temporary = unfinished
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)


def hidden(name: str) -> str:
    """The name of a file that is not there for users, and goes with what is unfinished."""
    return _TEMPORARY + name


def rename(path: Path, new: Path) -> None:
    """Give a file another name in its folder.

    Raises:
        OutputError: it can't be renamed.
    """
    try:
        os.replace(path, new)
    except OSError as error:
        raise _unwritable(new, error) from error


def remove_unfinished(folder: Path) -> None:
    """Remove what killed programs left half written in a folder; none may be writing there now."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(_TEMPORARY):
                with suppress(OSError):
                    os.unlink(entry.path)


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array as .npy.

    Raises:
        OutputError: the file can't be written.
    """
    with replacing(path) as stream:
        # Not straight into the file, which NumPy fills by a way of its own that does not say why it
        # fails.
        content = BytesIO()
        np.save(content, array, allow_pickle=False)
        stream.write(content.getbuffer())


def load_array(path: Path) -> NDArray[Any]:
    """The array in a .npy file, whoever wrote it.

    Raises:
        OSError: the file can't be read.
        ValueError: it holds no array of plain numbers, or one of another size than it says.
    """
    return parse_array(path.read_bytes())


def load_member(path: Path, name: str) -> NDArray[Any]:
    """An array of a .npz file.

    Raises:
        OSError: the file can't be read.
        ValueError: it is no such file, or has no such array.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            content = archive.read(f"{name}.npy")
    except (
        EOFError,
        LookupError,
        RuntimeError,
        struct.error,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ValueError(f"it is no archive with {name!r}: {error}") from error
    return parse_array(content)


def parse_array(content: bytes) -> NDArray[Any]:
    """The array in the content of a .npy file.

    Raises:
        ValueError: it is no array of plain numbers, or one of another size than it says.
    """
    stream = BytesIO(content)
    try:
        version = npy.read_magic(stream)
        head = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = head(stream)
    except _NO_HEAD as error:
        raise ValueError(f"it does not begin as an array does: {error}") from error
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(content) - stream.tell():
        raise ValueError("an array is not as large as it says")
    stream.seek(0)
    array: NDArray[Any] = npy.read_array(stream, allow_pickle=False)
    return array


def save_picture(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write uint8 `(H, W, 3)` or `(H, W)` as PNG.

    Raises:
        OutputError: the file can't be written.
    """
    with replacing(path) as stream:
        # Level 6, the default, takes three times as long for files that are no smaller.
        Image.fromarray(pixels).save(stream, format="PNG", compress_level=3)


def save_text(path: Path, text: str) -> None:
    """Write UTF-8 text.

    Raises:
        OutputError: the file can't be written.
    """
    with replacing(path) as stream:
        stream.write(text.encode())


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path} can't be written: {error.strerror or error}.")
