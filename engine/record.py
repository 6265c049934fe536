"""The preprocessing record of an exported file: how a picture becomes the image input."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from deepinside.engine.errors import ModelFileError

__all__ = ["MAX_SIDE", "Preprocessing", "parse_record"]

# Of an input, pixels. Larger ones are mistakes, or meant to use up the memory.
MAX_SIDE = 16384

Resize = Literal["shorter-side", "stretch", "letterbox"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box"]
ChannelOrder = Literal["RGB", "BGR", "L"]


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the image input; docs/file-contract.md, "Preprocessing record".

    Attributes:
        input_size: (H, W) of the image input, pixels.
        resize: how the picture is brought to that size.
        resize_size: length of the shorter side before the centre crop, pixels; None unless
            `resize` is `shorter-side`.
        interpolation: filter of the resizing.
        channel_order: of the image input; `L` is grey.
        value_range: what pixel values are scaled to before `mean` and `std`.
        mean: one number per channel, in the units of `value_range`.
        std: likewise.
    """

    input_size: tuple[int, int]
    resize: Resize
    resize_size: int | None
    interpolation: Interpolation
    channel_order: ChannelOrder
    value_range: tuple[float, float]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def channels(self) -> int:
        """Number of channels of the image input."""
        return len(self.channel_order)


def parse_record(record: Mapping[str, Any], *, where: str) -> Preprocessing:
    """Validate a preprocessing record.

    Args:
        record: the JSON object of docs/file-contract.md.
        where: what the record was read from, for messages.

    Raises:
        ModelFileError: a key is missing, unknown, or has a value that the contract does not allow.
    """
    keys = Preprocessing.__annotations__.keys()
    for verb, wrong in {
        "lacks": keys - record.keys(),
        "has unknown keys": record.keys() - keys,
    }.items():
        if wrong:
            listed = ", ".join(sorted(map(str, wrong)))
            raise ModelFileError(f"the preprocessing record of {where} {verb} {listed}.")
    reader = _Reader(record, where)
    resize = reader.choice("resize", get_args(Resize))
    order = reader.choice("channel_order", get_args(ChannelOrder))
    size = reader.values("input_size", 2, f"whole numbers from 1 to {MAX_SIDE}", _is_size)
    resize_size = record["resize_size"]
    if resize == "shorter-side":
        if not _is_size(resize_size):
            reader.refuse("resize_size", f"a whole number from 1 to {MAX_SIDE}")
    elif resize_size is not None:
        reader.refuse("resize_size", f"null where resize is {resize!r}")
    value_range = reader.numbers("value_range", 2)
    if value_range not in ((0.0, 255.0), (0.0, 1.0)):
        reader.refuse("value_range", "[0, 255] or [0, 1]")
    std = reader.numbers("std", len(order))
    if 0.0 in std:
        reader.refuse("std", "other than 0")
    return Preprocessing(
        input_size=(size[0], size[1]),
        resize=resize,
        resize_size=resize_size,
        interpolation=reader.choice("interpolation", get_args(Interpolation)),
        channel_order=order,
        value_range=(value_range[0], value_range[1]),
        mean=reader.numbers("mean", len(order)),
        std=std,
    )


@dataclass(frozen=True)
class _Reader:
    """Takes validated values out of a record."""

    record: Mapping[str, Any]
    where: str

    def refuse(self, key: str, possible: str) -> None:
        raise ModelFileError(
            f"{key} in the preprocessing record of {self.where} is {self.record[key]!r}; "
            f"it must be {possible}."
        )

    def choice(self, key: str, choices: tuple[str, ...]) -> Any:
        value = self.record[key]
        if value not in choices:
            self.refuse(key, f"one of {', '.join(choices)}")
        return value

    def numbers(self, key: str, count: int) -> tuple[float, ...]:
        """`count` finite numbers."""
        return tuple(float(item) for item in self.values(key, count, "numbers", _is_number))

    def values(
        self, key: str, count: int, kind: str, fits: Callable[[Any], bool]
    ) -> tuple[Any, ...]:
        """`count` values that fit."""
        value = self.record[key]
        if not isinstance(value, (list, tuple)) or len(value) != count or not all(map(fits, value)):
            self.refuse(key, f"{count} {kind}")
        return tuple(value)


def _is_number(value: Any) -> bool:
    """Whether it is finite, as a float too; JSON's whole numbers have no bounds."""
    try:
        return (
            isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        )
    except OverflowError:
        return False


def _is_size(value: Any) -> bool:
    """Whether it is a number of pixels; 224.0 is not, clients would stumble over it."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_SIDE
