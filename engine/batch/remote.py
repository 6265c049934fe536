"""Pictures behind URLs, through fsspec (extra `[remote]`) and the plug-ins that the user has."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from deepinside.engine.errors import ImageError, PackageMissingError, SourceError

__all__ = ["find", "is_url", "open_url"]

_URL = re.compile(r"[a-z][a-z0-9+.:_-]*://", re.IGNORECASE)


def is_url(name: str) -> bool:
    """Whether a name has a protocol, such as `s3://bucket/folder` or `memory://a.png`."""
    return _URL.match(name) is not None


def find(url: str, *, patterns: bool) -> Iterator[tuple[str, bool]] | None:
    """The files of a folder or pattern; None where the URL is a file's.

    Args:
        url: of a file, a folder or a pattern.
        patterns: whether `*` is a pattern.

    Returns:
        (URL, whether it was found inside a folder).

    Raises:
        SourceError: the protocol is not known, or the place can't be read.
        PackageMissingError: fsspec or a plug-in of it is missing.
    """
    with _reading(url):
        system, path = _system(url)
        if system.isdir(path):
            return _in_folder(system, path, url)
        if patterns and "*" in path and not system.exists(path):
            matches = system.glob(path)
            return ((_full(system, match, url), False) for match in sorted(matches))
    return None


def open_url(url: str) -> BinaryIO:
    """The bytes behind a URL.

    Raises:
        ImageError: they can't be read.
    """
    try:
        with _reading(url):
            system, path = _system(url)
            return cast(BinaryIO, system.open(path, "rb"))
    except SourceError as error:
        gone = isinstance(error.__cause__, FileNotFoundError)
        raise ImageError(url, "there is no such file." if gone else error.reason) from error


@contextmanager
def _reading(url: str) -> Iterator[None]:
    """Plug-ins raise what their own libraries raise, which has no base class in common."""
    try:
        yield
    except PackageMissingError:
        raise
    except Exception as error:
        words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise SourceError(url, f"can't be read ({words}).") from error


def _system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path on it."""
    try:
        import fsspec
    except ModuleNotFoundError:
        raise PackageMissingError(
            "fsspec", f"{url} needs the package fsspec: run pip install 'deepinside[remote]'."
        ) from None
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise PackageMissingError(
            error.name or "", f"{url} needs a package that is not installed: {error}."
        ) from error
    return system, str(path)


def _in_folder(system: Any, path: str, url: str) -> Iterator[tuple[str, bool]]:
    with _reading(url):  # folders are read as they come
        for folder, _, files in system.walk(path):
            for name in files:
                hidden = f"{folder}/{name}".removeprefix(path).lstrip("/")
                if not any(part.startswith(".") for part in hidden.split("/")):
                    yield _full(system, f"{folder}/{name}", url), True


def _full(system: Any, path: str, url: str) -> str:
    """The URL of a path; a chain such as `zip://*::file://a.zip` keeps its other links."""
    chain = url.partition("::")[2]
    return str(system.unstrip_protocol(path)) + (f"::{chain}" if chain else "")
