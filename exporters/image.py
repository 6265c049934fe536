"""Finds the image among the classifier's inputs, and the meaning of its axes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from deepinside.exporters.errors import ClassifierError
from deepinside.exporters.shapes import Shape, static

__all__ = ["ImageInput", "Layout", "find_image"]

Layout = Literal["NCHW", "NHWC"]

_FLOATS = {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
_CHANNEL_COUNTS = (1, 3, 4)


@dataclass(frozen=True)
class ImageInput:
    """The image input and its layout.

    Attributes:
        value: float tensor, `(N, C, H, W)` or `(N, H, W, C)`.
        layout: which of the two.
    """

    value: ir.Value
    layout: Layout

    def require_size(self, size: Sequence[int]) -> None:
        """Check a preprocessing record's (height, width) against the input's.

        Raises:
            ClassifierError: the input is of another size.
        """
        assert self.value.shape is not None
        axes = [axis for axis in (1, 2, 3) if axis != self.channel_axis]
        for axis, length in zip(axes, size, strict=True):
            fixed = self.value.shape[axis]
            if isinstance(fixed, int) and fixed != length:
                raise ClassifierError(
                    f"the preprocessing record's input_size is {list(size)}, and the image input "
                    f"{self.value.name!r} is ({_type(self.value)})."
                )

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
    def channel_axis(self) -> int:
        """The axis of the channels."""
        return 1 if self.layout == "NCHW" else 3


def find_image(
    graph: ir.Graph, name: str | None = None, layout: Layout | None = None
) -> ImageInput:
    """Find the image input, or take the one that is named.

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
        images = [value for value in inputs if value.shape is not None and len(value.shape) == 4]
        if not images:
            raise ClassifierError(
                "the classifier has no image input of four axes, (N, C, H, W) or (N, H, W, C); "
                f"its inputs are: {described}."
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
    if chosen.shape is None or len(chosen.shape) != 4:
        raise ClassifierError(
            f"the image input {chosen.name!r} ({_type(chosen)}) needs four axes, (N, C, H, W) or "
            "(N, H, W, C)."
        )
    return ImageInput(chosen, layout or _guess_layout(chosen))


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
