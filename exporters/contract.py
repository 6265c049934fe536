"""The contract of exported files: names of the parts, and metadata.

docs/file-contract.md says it in words; the engine reads it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from deepinside.exporters.errors import ExportError

__all__ = ["CONTRACT_VERSION", "check_record", "free_names", "metadata"]

CONTRACT_VERSION = "1"

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
    classes: int,
    activation: str,
    score: Mapping[str, Any],
    relu: str,
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
        "contract_version": CONTRACT_VERSION,
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
    if preprocessing is not None:
        values["preprocessing"] = json.dumps(check_record(preprocessing))
    if labels is not None:
        values["labels"] = json.dumps(list(labels), ensure_ascii=False)
    if licence is not None:
        values["licence"] = licence
    return {_PREFIX + key: value for key, value in values.items()}


def check_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Check a preprocessing record and return it as a plain dictionary.

    Raises:
        ExportError: a key is missing, unknown, or has a value that the contract does not allow.
    """
    missing, unknown = _RECORD_KEYS - set(record), set(record) - _RECORD_KEYS
    if missing or unknown:
        raise ExportError(
            f"the preprocessing record lacks {sorted(missing)} and has unknown keys "
            f"{sorted(unknown)}; it needs exactly {sorted(_RECORD_KEYS)}."
        )
    for key, choices in _CHOICES.items():
        if record[key] not in choices:
            raise ExportError(
                f"the preprocessing record's {key} is {record[key]!r}; possible: "
                f"{', '.join(choices)}."
            )
    channels = 1 if record["channel_order"] == "L" else 3
    for key, length in {"mean": channels, "std": channels, "input_size": 2}.items():
        value = record[key]
        if not isinstance(value, (list, tuple)) or len(value) != length:
            raise ExportError(
                f"the preprocessing record's {key} needs {length} numbers, not {value!r}."
            )
    if list(record["value_range"]) not in ([0, 255], [0, 1]):
        raise ExportError("the preprocessing record's value_range must be [0, 255] or [0, 1].")
    if 0 in record["std"]:
        raise ExportError("the preprocessing record's std must not be 0.")
    if (record["resize"] == "shorter-side") != (record["resize_size"] is not None):
        raise ExportError(
            "the preprocessing record needs a resize_size with resize 'shorter-side', and null "
            "otherwise."
        )
    return dict(record)
