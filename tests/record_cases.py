"""Preprocessing records that every validator of them accepts (GOOD) or refuses (BAD)."""

from typing import Any

_CROP: dict[str, object] = {
    "input_size": [224, 192],
    "resize": "shorter-side",
    "resize_size": 256,
    "interpolation": "bicubic",
    "channel_order": "RGB",
    "value_range": [0, 1],
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}
_STRETCH = _CROP | {"resize": "stretch", "resize_size": None}
_GREY = _STRETCH | {"channel_order": "L", "mean": [0.5], "std": [0.5]}

# Of small networks, with numbers that tell colours apart.
SMALL: dict[str, Any] = {
    "input_size": [8, 8],
    "resize": "stretch",
    "resize_size": None,
    "interpolation": "bilinear",
    "channel_order": "RGB",
    "value_range": [0, 1],
    "mean": [0.5, 0.4, 0.3],
    "std": [0.5, 0.25, 0.3],
}

GOOD: list[dict[str, object]] = [
    _CROP,
    _STRETCH,
    _GREY,
    _CROP | {"resize_size": 100},  # less than the input: the rest is filled
    _STRETCH | {"resize": "letterbox", "interpolation": "nearest", "channel_order": "BGR"},
    _CROP | {"value_range": [0, 255], "mean": [127, 127, 127], "std": [128, 128, 128]},
    _CROP | {"value_range": [0.0, 255.0], "mean": [0, 0.0, -1.5]},
]

BAD: list[tuple[str, dict[str, object]]] = [
    ("empty", {}),
    ("no mean", {key: value for key, value in _CROP.items() if key != "mean"}),
    ("no resize_size", {key: value for key, value in _STRETCH.items() if key != "resize_size"}),
    ("an unknown key", _CROP | {"crop_pct": 0.875}),
    ("input_size is one number", _CROP | {"input_size": 224}),
    ("input_size has three", _CROP | {"input_size": [3, 224, 224]}),
    ("input_size has a 0", _CROP | {"input_size": [224, 0]}),
    ("input_size is negative", _CROP | {"input_size": [-224, 224]}),
    ("input_size has a fraction", _CROP | {"input_size": [224.5, 224]}),
    ("input_size has floats", _CROP | {"input_size": [224.0, 224.0]}),
    ("input_size has a bool", _CROP | {"input_size": [True, 224]}),
    ("input_size has text", _CROP | {"input_size": ["224", "224"]}),
    ("resize is unknown", _CROP | {"resize": "crop"}),
    ("resize is null", _CROP | {"resize": None}),
    ("resize is a list", _CROP | {"resize": ["shorter-side"]}),
    ("resize_size is missing", _CROP | {"resize_size": None}),
    ("resize_size is 0", _CROP | {"resize_size": 0}),
    ("resize_size is a float", _CROP | {"resize_size": 256.0}),
    ("resize_size is a bool", _CROP | {"resize_size": True}),
    ("resize_size is a list", _CROP | {"resize_size": [256]}),
    ("resize_size is text", _CROP | {"resize_size": "256"}),
    ("resize_size without need", _STRETCH | {"resize_size": 256}),
    ("resize_size 0 without need", _STRETCH | {"resize_size": 0}),
    ("interpolation is unknown", _CROP | {"interpolation": "cubic"}),
    ("channel_order is in small letters", _CROP | {"channel_order": "rgb"}),
    ("value_range is one number", _CROP | {"value_range": 255}),
    ("value_range is null", _CROP | {"value_range": None}),
    ("value_range has one number", _CROP | {"value_range": [255]}),
    ("value_range is another", _CROP | {"value_range": [0, 2]}),
    ("value_range is turned", _CROP | {"value_range": [1, 0]}),
    ("value_range has bools", _CROP | {"value_range": [False, True]}),
    ("value_range has text", _CROP | {"value_range": ["0", "1"]}),
    ("mean is too short", _CROP | {"mean": [0.5]}),
    ("mean is too long", _GREY | {"mean": [0.5, 0.5, 0.5]}),
    ("mean is one number", _GREY | {"mean": 0.5}),
    ("mean is text", _CROP | {"mean": "abc"}),
    ("mean has text", _CROP | {"mean": ["0.5", 0.5, 0.5]}),
    ("mean has null", _CROP | {"mean": [None, 0.5, 0.5]}),
    ("mean has a bool", _CROP | {"mean": [True, 0.5, 0.5]}),
    ("mean has a list", _CROP | {"mean": [[0.5], 0.5, 0.5]}),
    ("mean is not a number", _CROP | {"mean": [float("nan"), 0.5, 0.5]}),
    ("mean is infinite", _CROP | {"mean": [0.5, 0.5, float("-inf")]}),
    ("mean is beyond all floats", _CROP | {"mean": [10**400, 0.5, 0.5]}),
    ("std is null", _CROP | {"std": None}),
    ("std is too short", _CROP | {"std": [0.5, 0.5]}),
    ("std is 0", _CROP | {"std": [0.5, 0, 0.5]}),
    ("std is 0.0", _CROP | {"std": [0.5, 0.5, 0.0]}),
    ("std is -0.0", _CROP | {"std": [-0.0, 0.5, 0.5]}),
    ("std has text", _CROP | {"std": ["1", "1", "1"]}),
    ("std has a bool", _CROP | {"std": [True, True, True]}),
    ("std is infinite", _CROP | {"std": [0.5, float("inf"), 0.5]}),
]
