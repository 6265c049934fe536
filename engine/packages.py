"""Packages of extras: found, or an error that says what to install."""

import importlib.util

from deepinside.engine.errors import PackageMissingError

__all__ = ["require_package"]


def require_package(name: str, purpose: str, extra: str) -> None:
    """Check that a package is installed.

    Args:
        name: as it is imported.
        purpose: what needs it.
        extra: of deepinside that brings it.

    Raises:
        PackageMissingError: it is not.
    """
    if importlib.util.find_spec(name) is None:
        raise PackageMissingError(
            name,
            f"{purpose} needs the package {name!r}, which is not installed: run pip install "
            f"'deepinside[{extra}]'.",
        )
