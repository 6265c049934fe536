"""Finds the image among the classifier's inputs, and the meaning of its axes.

A vector of features can be a picture too, ravelled row by row, pixel by pixel, channel by channel.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import onnx_ir as ir

from deepinside.exporters.errors import ClassifierError
from deepinside.exporters.shapes import Shape, static

__all__ = ["ImageInput", "Layout", "find_image"]

Layout = Literal["NCHW", "NHWC", "flat"]

_FLOATS = {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
_CHANNEL_COUNTS = (1, 3, 4)
# Of an input: more can't be indexed by many kernels, and need gigabytes.
_MOST_NUMBERS = 2**31


@dataclass(frozen=True)
class ImageInput:
    """The image input and its layout.

    Attributes:
        value: float tensor, `(N, C, H, W)`, `(N, H, W, C)` or `(N, H * W * C)`.
        layout: which of the three.
        picture: (H, W, C) of a flat input; None otherwise.
    """

    value: ir.Value
    layout: Layout
    picture: tuple[int, int, int] | None = None

    def require_record(self, record: Mapping[str, Any]) -> None:
        """Check a preprocessing record's size against the input's.

        Raises:
            ClassifierError: the input is of another size.
        """
        assert self.value.shape is not None
        size, order = record["input_size"], record["channel_order"]
        if self.picture is not None:
            if (*size, len(order)) != self.picture:
                raise ClassifierError(
                    f"the preprocessing record's input_size is {list(size)} with channel_order "
                    f"{order}, and the flat image input {self.value.name!r} ({_type(self.value)}) "
                    f"is a picture of {list(self.picture)} (height, width, channels)."
                )
            return
        for axis, length in zip(self.spatial_axes, size, strict=True):
            fixed = self.value.shape[axis]
            if isinstance(fixed, int) and fixed != length:
                raise ClassifierError(
                    f"the preprocessing record's input_size is {list(size)}, and the image input "
                    f"{self.value.name!r} is ({_type(self.value)})."
                )

    def fix_size(self, size: Sequence[int]) -> None:
        """Declare the height and width."""
        if self.picture is None and self.value.shape is not None:
            dims = list(self.value.shape.dims)
            for axis, length in zip(self.spatial_axes, size, strict=True):
                dims[axis] = length
            self.value.shape = ir.Shape(dims)

    def keep_to(self, probed: Shape | None) -> None:
        """Declare axes fixed that are free in name only: at other sizes the classifier fails.

        Where it does not after all, runtimes now refuse a picture whose gradient would be wrong.
        """
        if probed is not None and self.value.shape is not None:
            declared = self.value.shape.dims
            self.value.shape = ir.Shape(
                [
                    size if (only := static(dim)) is None else only
                    for size, dim in zip(declared, probed, strict=True)
                ]
            )

    @property
    def axes(self) -> list[int]:
        """All axes but the batch's."""
        return [1] if self.layout == "flat" else [1, 2, 3]

    @property
    def spatial_axes(self) -> list[int]:
        """Height's and width's; of a flat input, once it has the picture's axes."""
        return [axis for axis in (1, 2, 3) if axis != self.channel_axis]

    @property
    def channel_axis(self) -> int:
        """The axis of the channels; of a flat input, once it has the picture's axes."""
        return 1 if self.layout == "NCHW" else 3


def find_image(
    graph: ir.Graph,
    name: str | None = None,
    layout: Layout | None = None,
    size: Sequence[int] | None = None,
) -> ImageInput:
    """Find the image input, or take the one that is named.

    Args:
        graph: the classifier.
        name: of the image input, where several could be it.
        layout: of the image input, where it can't be told.
        size: (H, W) of the picture in a flat input.

    Raises:
        ClassifierError: there is none, there are several, or it holds integers.
    """
    inputs = [value for value in graph.inputs if value.name not in graph.initializers]
    described = ", ".join(f"{v.name!r} ({_type(v)})" for v in inputs) or "none"
    if name is not None:
        chosen = next((value for value in inputs if value.name == name), None)
        if chosen is None:
            raise ClassifierError(
                f"the classifier has no input {name!r}; its inputs are: {described}."
            )
    else:
        images = [value for value in inputs if _rank(value) == 4]
        if not images:
            images = [value for value in inputs if _rank(value) == 2]
        if not images:
            raise ClassifierError(
                "the classifier has no image input of four axes, (N, C, H, W) or (N, H, W, C), and "
                f"no flat one of two, (N, F); its inputs are: {described}."
            )
        if len(images) > 1:
            raise ClassifierError(
                f"the classifier has several image inputs; choose with --image-input the one to "
                f"explain. Its inputs are: {described}."
            )
        chosen = images[0]
    if chosen.dtype not in _FLOATS:
        raise ClassifierError(
            f"the image input {chosen.name!r} holds integers ({_type(chosen)}), with respect to "
            "which there is no gradient; export the classifier from its float tensor on, and "
            "leave the conversion of pixels to the preprocessing record."
        )
    sizes = [size for size in chosen.shape.dims if isinstance(size, int)] if chosen.shape else []
    if any(size < 1 for size in sizes) or math.prod(sizes) > _MOST_NUMBERS:
        raise ClassifierError(
            f"the image input {chosen.name!r} ({_type(chosen)}) has a size that no picture has."
        )
    if _rank(chosen) == 2 and layout in (None, "flat"):
        return ImageInput(chosen, "flat", _flat_picture(chosen, size))
    if _rank(chosen) != 4 or layout == "flat":
        raise ClassifierError(
            f"the image input {chosen.name!r} ({_type(chosen)}) needs four axes, (N, C, H, W) or "
            "(N, H, W, C), or two for the layout flat."
        )
    return ImageInput(chosen, layout or _guess_layout(chosen))


def _rank(value: ir.Value) -> int | None:
    return None if value.shape is None else len(value.shape)


def _flat_picture(value: ir.Value, size: Sequence[int] | None) -> tuple[int, int, int]:
    """(H, W, C) of the picture that a flat input is."""
    assert value.shape is not None
    features = value.shape[1]
    if not isinstance(features, int):
        raise ClassifierError(
            f"the flat image input {value.name!r} ({_type(value)}) needs a fixed "
            "number of features."
        )
    if size is None:
        raise ClassifierError(
            f"the input {value.name!r} ({_type(value)}) is a flat vector: say which picture it is "
            "with --image-size HxW (in Python image_size=(H, W)) or with a preprocessing record."
        )
    height, width = size
    channels, rest = divmod(features, height * width)
    if rest or channels not in _CHANNEL_COUNTS:
        raise ClassifierError(
            f"the {features} features of the flat image input {value.name!r} are no picture of "
            f"{height} x {width} pixels with 1, 3 or 4 channels."
        )
    return height, width, channels


def _guess_layout(image: ir.Value) -> Layout:
    """The layout in which the channel axis has a channel's count."""
    assert image.shape is not None
    first, last = image.shape[1], image.shape[3]
    if first not in _CHANNEL_COUNTS and last in _CHANNEL_COUNTS:
        return "NHWC"
    if first in _CHANNEL_COUNTS and last not in _CHANNEL_COUNTS:
        return "NCHW"
    if first in _CHANNEL_COUNTS:
        # Both fit (a picture 1, 3 or 4 wide): what the classifier does first tells.
        moved = any(
            node.op_type == "Transpose" and list(node.attributes["perm"].as_ints()) == [0, 3, 1, 2]
            for node in image.consumers()
            if "perm" in node.attributes
        )
        return "NHWC" if moved else "NCHW"
    raise ClassifierError(
        f"the image input {image.name!r} ({_type(image)}) has no axis of 1, 3 or 4 channels; "
        "give the layout with --layout NCHW or --layout NHWC."
    )


def _type(value: ir.Value) -> str:
    dtype = "unknown type" if value.dtype is None else value.dtype.name.lower()
    sizes = "unknown shape" if value.shape is None else ", ".join(str(d) for d in value.shape.dims)
    return f"{dtype}, {sizes}"
