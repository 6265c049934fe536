"""An image processor of transformers as a preprocessing record of the file contract.

Only processors whose way of resizing is known here are translated: each class has its own.
"""

import math
from typing import Any

__all__ = ["preprocessing_record"]

# PIL's numbers of its filters; the contract has no Hamming (5).
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box"}

# Those that resize to `size` and crop to `crop_size`, without further thoughts.
_PLAIN = {"Beit", "Bit", "CLIP", "DeiT", "MobileNetV1", "MobileNetV2", "MobileViT", "Pvt"} | {
    "Siglip",
    "ViT",
}
_OTHERS = {"ConvNext", "EfficientNet", "Levit", "PoolFormer"}


def preprocessing_record(processor: Any) -> tuple[dict[str, Any] | None, str]:
    """The record of an image processor, or None and why there is none."""
    kind = type(processor).__name__
    family = kind.removesuffix("Pil").removesuffix("Fast").removesuffix("ImageProcessor")
    if family not in _PLAIN | _OTHERS:
        return None, f"the image processor {kind} is not known"
    if not getattr(processor, "do_resize", False):
        return None, f"{kind} does not resize the picture"
    resampling = _FILTERS.get(int(processor.resample))
    if resampling is None:
        return None, f"the filter {processor.resample} of {kind} is not in the file contract"
    resized = _resizing(processor, family)
    if resized is None:
        return None, (
            f"{kind} resizes to {_plain(processor.size)} and crops to "
            f"{_plain(getattr(processor, 'crop_size', None))}, which the file contract can't say"
        )
    resize, resize_size, input_size = resized
    value_range, mean, std = _normalisation(processor)
    return {
        "input_size": input_size,
        "resize": resize,
        "resize_size": resize_size,
        "interpolation": resampling,
        "channel_order": "BGR" if getattr(processor, "do_flip_channel_order", False) else "RGB",
        "value_range": value_range,
        "mean": mean,
        "std": std,
    }, ""


def _resizing(processor: Any, family: str) -> tuple[str, int | None, list[int]] | None:
    """Values of `resize`, `resize_size` and `input_size`."""
    size, crop = _plain(processor.size), _plain(getattr(processor, "crop_size", None))
    short = size.get("shortest_edge")
    cropped = bool(getattr(processor, "do_center_crop", False))
    if family == "ConvNext":
        if short is None:
            return None
        if short >= 384:
            return "stretch", None, [short, short]
        return "shorter-side", int(short / processor.crop_pct), [short, short]
    if family == "PoolFormer" and processor.crop_pct is not None:
        if short is None and size.get("height") == size.get("width"):
            short = size.get("height")
        short = None if short is None else int(short / processor.crop_pct)
    elif family == "Levit" and short is not None:
        short = int(256 / 224 * short)
    window = [crop["height"], crop["width"]] if cropped and {"height", "width"} <= set(crop) else []
    if short is not None:
        return ("shorter-side", short, window) if window else None
    if not {"height", "width"} <= set(size):
        return None
    whole = [size["height"], size["width"]]
    return ("stretch", None, whole) if not window or window == whole else None


def _normalisation(processor: Any) -> tuple[list[int], list[float], list[float]]:
    """Values of `value_range`, `mean` and `std`."""
    factor = float(processor.rescale_factor) if processor.do_rescale else 1.0
    mean, std = [0.0] * 3, [1.0] * 3
    if processor.do_normalize:
        mean, std = (_three(values) for values in (processor.image_mean, processor.image_std))
    if getattr(processor, "include_top", False) and processor.do_normalize:
        std = [value**2 for value in std]  # EfficientNet's divides by it twice
    if processor.do_rescale and getattr(processor, "rescale_offset", False):
        mean = [value + 1 for value in mean]
    if math.isclose(factor, 1 / 255, rel_tol=1e-6):
        return [0, 1], mean, std
    return [0, 255], [value / factor for value in mean], [value / factor for value in std]


def _three(values: Any) -> list[float]:
    return [float(values)] * 3 if isinstance(values, (int, float)) else [float(v) for v in values]


def _plain(size: Any) -> dict[str, int]:
    """A size as a dictionary without the keys that say nothing."""
    if size is None:
        return {}
    items = size.items() if hasattr(size, "items") else vars(size).items()
    return {key: int(value) for key, value in items if value is not None}
