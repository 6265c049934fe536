"""Pickles and archives that tests give to readers which should not trust them."""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Command:
    """A pickle that makes a file `was-run` when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.command = f"touch '{folder / 'was-run'}'"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def repacked(path: Path, changes: Mapping[str, bytes | str]) -> Path:
    """A copy of a zip file with other contents of some members, and with new ones."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    other = path.with_stem("changed")
    with zipfile.ZipFile(other, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**parts, **changes}.items():
            archive.writestr(name, content)
    return other
