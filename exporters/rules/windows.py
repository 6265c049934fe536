"""Where the windows of a convolution or a pool lie: kernel, stride, dilation and padding per axis.

auto_pad and ceil_mode are resolved here, so that the rules see explicit numbers only.
"""

from dataclasses import dataclass

from deepinside.exporters.registry import ForwardNode
from deepinside.exporters.shapes import static

__all__ = ["Window", "windows"]


@dataclass(frozen=True)
class Window:
    """One spatial axis: output i covers inputs `i * stride - before + dilation * [0, kernel)`.

    Attributes:
        axis: the axis in the tensor.
        size: static size of the input, or None.
        count: static size of the output, or None.
        before, after: padding that the node declares (auto_pad resolved).
    """

    axis: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int
    size: int | None
    count: int | None

    @property
    def extent(self) -> int:
        """Length of the dilated kernel."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def is_trivial(self) -> bool:
        """One input per window, in place."""
        return self.kernel == self.stride == 1 and self.before == self.after == 0

    @property
    def tiles(self) -> bool:
        """Windows lie side by side and cover the input exactly."""
        return (
            self.kernel == self.stride
            and self.dilation == 1
            and self.before == self.after == 0
            and self.size is not None
            and self.count is not None
            and self.size == self.count * self.kernel
        )

    @property
    def ends_in_padding(self) -> bool:
        """The last window starts behind the input's end."""
        return (
            self.size is not None
            and self.count is not None
            and (self.count - 1) * self.stride >= self.before + self.size
        )


def windows(node: ForwardNode, kernel: tuple[int, ...]) -> list[Window]:
    """The node's windows, one per spatial axis.

    Args:
        node: a Conv or pooling node with input `(N, C, *spatial)`.
        kernel: kernel size per spatial axis.

    Raises:
        GradientError: auto_pad SAME on an axis of dynamic size, or a last window of ceil_mode
            that covers nothing but padding.
    """
    rank = len(kernel)
    strides = node.attribute("strides") or [1] * rank
    dilations = node.attribute("dilations") or [1] * rank
    pads = node.attribute("pads") or [0] * (2 * rank)
    mode = node.attribute("auto_pad", "NOTSET")
    found = []
    for i in range(rank):
        axis = i + 2
        before, after = pads[i], pads[rank + i]
        if mode == "VALID":
            before = after = 0
        elif mode in ("SAME_UPPER", "SAME_LOWER"):
            size = node.size(node.x, axis)
            count = -(-size // strides[i])
            reach = (count - 1) * strides[i] + dilations[i] * (kernel[i] - 1) + 1
            total = max(reach - size, 0)
            small = total // 2
            before, after = (
                (small, total - small) if mode == "SAME_UPPER" else (total - small, small)
            )
        window = Window(
            axis=axis,
            kernel=kernel[i],
            stride=strides[i],
            dilation=dilations[i],
            before=before,
            after=after,
            size=static(node.dim(node.x, axis)),
            count=static(node.dim(node.y, axis)),
        )
        if node.attribute("ceil_mode", 0) and window.ends_in_padding:
            raise node.error(
                f"with ceil_mode its last window along axis {axis} covers nothing but padding; "
                "ONNX's shape inference counts that window before opset 22, and ONNX Runtime does "
                "not. Export the classifier with ceil_mode off, or at opset 22."
            )
        found.append(window)
    return found
