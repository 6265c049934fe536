"""The size at which a file is run, where it leaves height and width open."""

import re
from collections.abc import Sequence
from typing import Literal

from deepinside.engine.errors import SettingError
from deepinside.engine.inputs import InputSpec
from deepinside.engine.record import MAX_SIDE

__all__ = ["PictureSize", "chosen_size"]

# (H, W), the same as the text "HxW", one number for both, or each picture's own size.
PictureSize = Sequence[int] | int | str

_TEXT = re.compile(r"(\d{1,9})(?:x(\d{1,9}))?", re.ASCII)


def chosen_size(
    size: PictureSize | None, spec: InputSpec, where: str
) -> tuple[int, int] | Literal["original"] | None:
    """A size as a caller gives it.

    Args:
        size: see `PictureSize`; None for the preprocessing record's.
        spec: the file's image input.
        where: path of the file, for messages.

    Returns:
        (H, W), `original`, or None.

    Raises:
        SettingError: it is no size, or not one that the file takes.
    """
    if size is None:
        return None
    fixed = spec.picture_size
    if size == "original":
        if fixed != (None, None):
            raise SettingError(_refusal(size, fixed, where))
        return "original"
    height, width = _numbers(size)
    for wanted, only in zip((height, width), fixed, strict=True):
        if only not in (None, wanted):
            raise SettingError(_refusal(f"{height}x{width}", fixed, where))
    return height, width


def _numbers(size: PictureSize) -> tuple[int, int]:
    match = _TEXT.fullmatch(str(size)) if isinstance(size, (str, int)) else None
    pair = [int(text) for text in match.groups(match[1])] if match else size
    if isinstance(pair, (str, int)) or len(pair) != 2 or min(pair) < 1 or max(pair) > MAX_SIDE:
        raise SettingError(
            f"the size {size!r} is not possible; write HxW such as 480x640 (height first), one "
            f"number for both, at most {MAX_SIDE} each, or original."
        )
    return int(pair[0]), int(pair[1])


def _refusal(size: str, fixed: tuple[int | None, int | None], where: str) -> str:
    only = "x".join("any" if length is None else str(length) for length in fixed)
    return (
        f"the size {size} is not possible: {where} takes pictures of {only} only; export the "
        "classifier with an open height and width (--dynamic-size for PyTorch networks)."
    )
