"""The contract of exported files: names of the parts, and metadata.

docs/file-contract.md says it in words; the engine reads it.
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from deepinside.exporters.errors import ExportError

__all__ = ["CONTRACT_VERSION", "check_record", "free_names", "metadata"]

# A file says the lowest version that describes it: clients of version 1 can read all but flat
# ones (2), the natural step and loops (3), and saliency methods in the file (4).
CONTRACT_VERSION = "1"
_FLAT_VERSION = "2"
_NATURAL_VERSION = "3"
_METHOD_VERSION = "4"

_PREFIX = "deepinside."
_RECORD_KEYS = {
    "input_size",
    "resize",
    "resize_size",
    "interpolation",
    "channel_order",
    "value_range",
    "mean",
    "std",
}
_CHOICES = {
    "resize": ("shorter-side", "stretch", "letterbox"),
    "interpolation": ("nearest", "bilinear", "bicubic", "lanczos", "box"),
    "channel_order": ("RGB", "BGR", "L"),
}
_RANGES = ([0, 255], [0, 1])
# Of an input, pixels, as the engine takes them.
_MAX_SIDE = 16384


def free_names(parts: Iterable[str], taken: Iterable[str | None]) -> dict[str, str]:
    """A tensor name for each part: the part's own, or prefixed where the classifier has it."""
    used = set(taken)
    names = {}
    for part in parts:
        name = part
        while name in used:
            name = f"deepinside_{name}"
        used.add(name)
        names[part] = name
    return names


def metadata(
    *,
    task: str,
    sha256: str,
    names: Mapping[str, str],
    layout: str,
    picture: Sequence[int] | None,
    classes: int,
    activation: str,
    score: Mapping[str, Any],
    relu: str,
    autodiff: str,
    preprocessing: Mapping[str, Any] | None,
    labels: Sequence[str] | None,
    licence: str | None,
    **others: str,
) -> dict[str, str]:
    """The contract's metadata properties, keys with their prefix.

    Arguments are the values of docs/file-contract.md's table; `others` are keys that only one task
    has, e.g. `target_input="optional"`.

    Raises:
        ExportError: labels or preprocessing do not fit.
    """
    if labels is not None and len(labels) != classes:
        raise ExportError(f"{len(labels)} labels were given for {classes} classes.")
    values = {
        "contract_version": _version(picture, others),
        "tool_version": version("deepinside"),
        "task": task,
        "source_sha256": sha256,
        "names": json.dumps(names),
        "layout": layout,
        "num_classes": str(classes),
        "activation": activation,
        "score": json.dumps(score),
        "relu": relu,
        **others,
    }
    if autodiff != "standard":
        values["autodiff"] = autodiff
    if picture is not None:
        values["picture"] = json.dumps(list(picture))
    if preprocessing is not None:
        values["preprocessing"] = json.dumps(check_record(preprocessing))
    if labels is not None:
        values["labels"] = json.dumps(list(labels), ensure_ascii=False)
    if licence is not None:
        values["licence"] = licence
    return {_PREFIX + key: value for key, value in values.items()}


def _version(picture: Sequence[int] | None, others: Mapping[str, str]) -> str:
    if "method" in others:
        return _METHOD_VERSION
    if others.get("step_rule") == "natural" or "loop" in others:
        return _NATURAL_VERSION
    return CONTRACT_VERSION if picture is None else _FLAT_VERSION


def check_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Check a preprocessing record and return it as a plain dictionary.

    Raises:
        ExportError: a key is missing, unknown, or has a value that the contract does not allow.
    """
    if set(record) != _RECORD_KEYS:
        missing, unknown = _RECORD_KEYS - set(record), set(record) - _RECORD_KEYS
        raise ExportError(
            f"the preprocessing record lacks {sorted(missing)} and has unknown keys "
            f"{sorted(unknown)}; it needs exactly {sorted(_RECORD_KEYS)}."
        )
    cropped = record["resize"] == "shorter-side"
    channels = 1 if record["channel_order"] == "L" else 3
    for key, fits, wanted in (
        *((key, record[key] in choices, " or ".join(choices)) for key, choices in _CHOICES.items()),
        ("input_size", _numbers(record["input_size"], 2, _is_length), "[height, width] in pixels"),
        (
            "resize_size",
            _is_length(record["resize_size"]) if cropped else record["resize_size"] is None,
            "a number of pixels with resize shorter-side, and null otherwise",
        ),
        (
            "value_range",
            _numbers(record["value_range"], 2) and list(record["value_range"]) in _RANGES,
            "[0, 255] or [0, 1]",
        ),
        ("mean", _numbers(record["mean"], channels), f"{channels} numbers"),
        (
            "std",
            _numbers(record["std"], channels, lambda number: _is_number(number) and number > 0),
            f"{channels} positive numbers",
        ),
    ):
        if not fits:
            raise ExportError(
                f"the preprocessing record's {key} is {record[key]!r}; it must be {wanted}."
            )
    return dict(record)


def _is_number(value: object) -> bool:
    """A finite number; integers may be too large for a float."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max  # type: ignore[arg-type]


def _is_length(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MAX_SIDE


def _numbers(value: object, length: int, fits: Callable[[Any], bool] = _is_number) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == length and all(map(fits, value))
