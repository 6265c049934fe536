"""Names of result files: safe on every file system, bounded, and the same for the same input."""

import hashlib
import re
import unicodedata

__all__ = ["class_slug", "digest", "plain_stem", "unshared_stem"]

_LABEL_LENGTH = 60
_STEM_BYTES = 120
# Separators and what Windows forbids; control characters, also those that turn the direction of
# text, and halves of surrogate pairs, which stand for the bytes of names that are no UTF-8, go too.
_UNSAFE = re.compile(
    r'[/\\:*?"<>|\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]'
)


def class_slug(index: int, label: str | None) -> str:
    """`285-egyptian-cat` for class 285, `Egyptian cat`; of synonyms the first counts."""
    first = (label or "").split(",")[0]
    plain = unicodedata.normalize("NFKD", first).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:_LABEL_LENGTH].strip("-")
    return f"{index}-{words}" if words else str(index)


def plain_stem(stem: str) -> str:
    """A stem that any file system takes, with room left for the class and the ending.

    Where something had to be changed, a hash of the whole is appended, so that two stems stay two.
    """
    safe = _UNSAFE.sub("_", stem)
    content = safe.encode(errors="surrogatepass")
    if safe == stem and len(content) <= _STEM_BYTES:
        return stem
    return content[:_STEM_BYTES].decode(errors="ignore") + "-" + digest(stem)


def unshared_stem(stem: str, name: str) -> str:
    """The stem of an input, of a name, where another input has the same."""
    return f"{stem}-{digest(name)}"


def digest(text: str) -> str:
    """Eight hexadecimal digits that stand for a text."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
