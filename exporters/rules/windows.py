"""Where the windows of a convolution or a pool lie: kernel, stride, dilation and padding per axis.

auto_pad and ceil_mode are resolved here, so that the rules see explicit numbers only.
"""

from dataclasses import dataclass

from deepinside.exporters.builder import Builder
from deepinside.exporters.lengths import Size, are_static, largest, number
from deepinside.exporters.registry import ForwardNode

__all__ = ["Window", "windows"]


@dataclass(frozen=True)
class Window:
    """One spatial axis: output i covers inputs `i * stride - before + dilation * [0, kernel)`.

    Attributes:
        axis: the axis in the tensor.
        size: of the input.
        count: size of the output, the number of windows.
        before, after: padding that the node declares (auto_pad resolved).
    """

    axis: int
    kernel: int
    stride: int
    dilation: int
    before: Size
    after: Size
    size: Size
    count: Size

    @property
    def extent(self) -> int:
        """Length of the dilated kernel."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def is_trivial(self) -> bool:
        """One input per window, in place."""
        return self.kernel == self.stride == 1 and self.before == self.after == 0

    @property
    def is_static(self) -> bool:
        """Sizes and padding are numbers."""
        return are_static(self.size, self.count, self.before, self.after)

    @property
    def is_dense(self) -> bool:
        """Stride 1, and no window in the padding alone."""
        return self.stride == 1 and all(
            isinstance(pad, int) and pad < self.extent for pad in (self.before, self.after)
        )

    @property
    def abuts(self) -> bool:
        """Windows lie side by side from the input's begin on; the last may not fit."""
        return self.kernel == self.stride and self.dilation == 1 and self.before == self.after == 0

    @property
    def tiles(self) -> bool:
        """Windows lie side by side and cover the input exactly, as is known beforehand."""
        return self.abuts and self.is_static and self.size == self.count * self.kernel

    @property
    def ends_in_padding(self) -> bool:
        """The last window starts behind the input's end, as is known beforehand."""
        if not self.is_static:
            return False  # the count that the runtime finds decides, whatever it is
        start = (self.count - 1) * self.stride - self.before
        return number(start) >= number(self.size)


def windows(node: ForwardNode, kernel: tuple[int, ...], op: Builder) -> list[Window]:
    """The node's windows, one per spatial axis.

    Args:
        node: a Conv or pooling node with input `(N, C, *spatial)`.
        kernel: kernel size per spatial axis.
        op: for sizes that are known at run time only.

    Raises:
        GradientError: a last window of ceil_mode covers nothing but padding.
    """
    rank = len(kernel)
    strides = node.attribute("strides") or [1] * rank
    dilations = node.attribute("dilations") or [1] * rank
    pads = node.attribute("pads") or [0] * (2 * rank)
    mode = node.attribute("auto_pad", "NOTSET")
    found = []
    for i in range(rank):
        axis = i + 2
        size, count = op.length(node.x, axis), op.length(node.y, axis)
        before: Size = pads[i]
        after: Size = pads[rank + i]
        extent = dilations[i] * (kernel[i] - 1) + 1
        if mode == "VALID":
            before = after = 0
        elif mode in ("SAME_UPPER", "SAME_LOWER"):
            # (size - 1) // stride is the number of the last window
            last = (size + -1) // strides[i] * strides[i]
            total = largest(last + extent - size, 0) if strides[i] > 1 else extent - 1
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
            size=size,
            count=count,
        )
        if node.attribute("ceil_mode", 0) and window.ends_in_padding:
            raise node.error(
                f"with ceil_mode its last window along axis {axis} covers nothing but padding; "
                "ONNX's shape inference counts that window before opset 22, and ONNX Runtime does "
                "not. Export the classifier with ceil_mode off, or at opset 22."
            )
        found.append(window)
    return found
