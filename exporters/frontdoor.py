"""What the front doors of the frameworks share; each framework is imported by its own door only."""

import importlib
import logging
import pickle
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from deepinside.exporters.errors import ClassifierError, MissingPackageError

__all__ = [
    "FAILURES",
    "OPSET",
    "Opened",
    "existing_file",
    "explained",
    "factory",
    "less_talk",
    "refuse",
    "require",
]

# Everything that frameworks are known to raise over broken files and odd networks.
FAILURES: tuple[type[Exception], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    pickle.PickleError,
    struct.error,
    tokenize.TokenError,  # NumPy's, over the head of an array
    zipfile.BadZipFile,
    zlib.error,
)
_LONGEST = 400  # characters of a reason
# Ends of what Keras (the configuration) and PyTorch (how to run the code) say before the point.
_PREAMBLES = ("Exception encountered: ", "WeightsUnpickler error: ")

# Every runtime and every provider has kernels for it; newer opsets lose some.
OPSET = 18


@dataclass(frozen=True)
class Opened:
    """A classifier as it comes out of a front door.

    Attributes:
        model: as an ONNX graph, with a dynamic batch.
        preprocessing: what the door knows of the preprocessing, as a record of the file contract.
        labels: one name per class, where the door knows them.
    """

    model: ir.Model
    preprocessing: dict[str, Any] | None = None
    labels: list[str] | None = None


def require(name: str, extra: str, purpose: str, advice: str | None = None) -> Any:
    """Import a package of a framework.

    Args:
        name: of the package.
        extra: of deepinside that brings it.
        purpose: what needs it, e.g. `a PyTorch classifier`.
        advice: what to do where it is installed but broken.

    Raises:
        MissingPackageError: it is not installed.
        ClassifierError: it is, and can't be imported.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or name).partition(".")[0]
        raise MissingPackageError(missing, extra, purpose) from error
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        advice = advice or f"install it again with pip install 'deepinside[{extra}]'"
        raise ClassifierError(
            f"the package {name!r} is installed but can't be imported ({error}); {advice}."
        ) from error


@contextmanager
def explained(what: str, *others: type[Exception], advice: str = "") -> Iterator[None]:
    """Around a framework's own code: what it raises becomes a sentence.

    Args:
        what: can't be done.
        others: errors of the framework's own that are none of Python's.
        advice: what to do.

    Raises:
        ClassifierError: the framework failed.
    """
    try:
        yield
    except (*FAILURES, *others) as error:
        reason = str(error)
        for words in _PREAMBLES:
            reason = reason.rpartition(words)[2]
        reason = " ".join(reason.split())[:_LONGEST]
        if not reason or isinstance(error, LookupError):  # which say no more than a key
            reason = f"{type(error).__name__} {reason}".rstrip()
        if advice:
            reason = f"{reason.rstrip('.')}; {advice}"
        raise ClassifierError(f"{what}: {reason}") from error


@contextmanager
def less_talk(name: str) -> Iterator[None]:
    """Keep back the warnings of a framework's logger that are no news to the user."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def factory(door: str, name: str) -> Any:
    """The function that `package.module:factory` names.

    Raises:
        ClassifierError: it names none, or can't be imported.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise ClassifierError(
            f"{door}:{name} does not name a factory; write {door}:package.module:factory."
        )
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ClassifierError(f"{door}:{name} can't be imported: {error}.") from error


def existing_file(path: Path) -> Path:
    """The path, if there is a file.

    Raises:
        ClassifierError: there is none.
    """
    if not path.is_file():
        raise ClassifierError(f"there is no file {path}.")
    return path


def refuse(door: str, **options: Any) -> None:
    """Complain of options that mean nothing for this door, rather than ignore them.

    Raises:
        ClassifierError: one is given.
    """
    given = [name for name, value in options.items() if value is not None and value is not False]
    if given:
        named = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ClassifierError(f"{named} can't be used with {door}.")
