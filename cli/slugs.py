"""Names of result files: safe on every file system, bounded, and the same for the same input."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence

__all__ = ["class_slug", "unique_stems"]

_LABEL_LENGTH = 60
_STEM_BYTES = 120


def class_slug(index: int, label: str | None) -> str:
    """`285-egyptian-cat` for class 285, `Egyptian cat`; of synonyms the first counts."""
    first = (label or "").split(",")[0]
    plain = unicodedata.normalize("NFKD", first).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:_LABEL_LENGTH].strip("-")
    return f"{index}-{words}" if words else str(index)


def unique_stems(names: Mapping[str, str], taken: Mapping[str, str]) -> dict[str, str]:
    """A stem for each input such that no two inputs share one.

    Args:
        names: input -> stem that it would have by itself.
        taken: stem -> input that has it already, from earlier runs into the same folder.

    Returns:
        input -> stem. Inputs that would share a stem, whatever its case, all get a hash of the
        input's name appended, so that their order does not matter.
    """
    owners: dict[str, list[str]] = {}
    for name, stem in names.items():
        owners.setdefault(_bounded(stem).casefold(), []).append(name)
    claimed = {stem.casefold(): name for stem, name in taken.items()}
    return {
        name: _bounded(stem)
        if _is_free(name, owners[_bounded(stem).casefold()], claimed.get(_bounded(stem).casefold()))
        else f"{_bounded(stem)}-{_digest(name)}"
        for name, stem in names.items()
    }


def _is_free(name: str, owners: Sequence[str], claimed: str | None) -> bool:
    return len(owners) == 1 and claimed in (None, name)


def _bounded(stem: str) -> str:
    """The stem, cut to what leaves room for the class and the ending in a file's name."""
    content = os.fsencode(stem)
    if len(content) <= _STEM_BYTES:
        return stem
    return content[:_STEM_BYTES].decode(errors="ignore") + "-" + _digest(stem)


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:8]
