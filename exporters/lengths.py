"""Sizes along an axis: plain numbers where they are static, else computed at run time.

A rule does arithmetic with either kind in the same words; nothing is emitted for numbers, and
nothing for a length that is not used in the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Union

import onnx_ir as ir

if TYPE_CHECKING:
    from deepinside.exporters.builder import Builder

__all__ = ["Length", "Size", "are_static", "largest", "number", "smallest", "vector"]

# A tensor of one int64 number, or an axis of a tensor, whose size is not read before it is used.
Source = ir.Value | tuple[ir.Value, int]


@dataclass(frozen=True)
class Length:
    """`source * times + plus`, a size known at run time only.

    Attributes:
        op: builder of the graph.
        source: see `Source`.
        times, plus: so that sums of numbers are worked out here, and `n + 3 - n` is 3.
    """

    op: "Builder"
    source: Source
    times: int = 1
    plus: int = 0

    @property
    def tensor(self) -> ir.Value:
        """The length as an int64 tensor of shape (1,)."""
        value = self.source
        if isinstance(value, tuple):
            value = self.op.read_length(*value)
        if self.times != 1:
            value = self.op.Mul(value, [self.times])
        return self.op.Add(value, [self.plus]) if self.plus else value

    def __add__(self, other: "Size") -> "Size":
        """Sum; a number where the part that is not known cancels out."""
        if isinstance(other, int):
            return replace(self, plus=self.plus + other)
        if other.source == self.source:
            times, plus = self.times + other.times, self.plus + other.plus
            return replace(self, times=times, plus=plus) if times else plus
        return Length(self.op, self.op.Add(self.tensor, other.tensor))

    def __sub__(self, other: "Size") -> "Size":
        """Difference, likewise."""
        if isinstance(other, int) or other.source == self.source:
            return self + -1 * other
        return Length(self.op, self.op.Sub(self.tensor, other.tensor))

    def __mul__(self, factor: int) -> "Length":
        """Product with a number."""
        return replace(self, times=self.times * factor, plus=self.plus * factor)

    def __floordiv__(self, divisor: int) -> "Length":
        """Quotient rounded down, of a length that is not negative."""
        if divisor == 1:
            return self
        return Length(self.op, self.op.Div(self.tensor, [divisor]))

    def __rsub__(self, other: int) -> "Size":
        """A number minus this."""
        return -1 * self + other

    __radd__ = __add__
    __rmul__ = __mul__


Size = Union[int, Length]  # noqa: UP007  (Length is defined above, Size is used in it by name)


def are_static(*sizes: Size) -> bool:
    """Whether all are numbers."""
    return all(isinstance(size, int) for size in sizes)


def number(size: Size) -> int:
    """A size that is known to be static."""
    assert isinstance(size, int)
    return size


def largest(first: Size, second: Size) -> Size:
    """The larger of two sizes."""
    return _pick("Max", first, second)


def smallest(first: Size, second: Size) -> Size:
    """The smaller of two sizes."""
    return _pick("Min", first, second)


def _pick(operator: str, first: Size, second: Size) -> Size:
    if isinstance(first, int) and isinstance(second, int):
        return max(first, second) if operator == "Max" else min(first, second)
    op = first.op if isinstance(first, Length) else second.op  # type: ignore[union-attr]
    operands = [[s] if isinstance(s, int) else s.tensor for s in (first, second)]
    return Length(op, op.emit(operator, *operands)[0])


def vector(sizes: Sequence[Size]) -> list[int] | ir.Value:
    """Sizes as one operand: a list of numbers where all are static, else an int64 tensor."""
    parts: list[list[int] | ir.Value] = []
    op: Builder | None = None
    for size in sizes:
        if isinstance(size, Length):
            op = size.op
            parts.append(size.tensor)
        elif parts and isinstance(parts[-1], list):
            parts[-1].append(size)
        else:
            parts.append([size])
    if op is None:
        return parts[0] if parts else []
    return op.Concat(*parts, axis=0) if len(parts) > 1 else parts[0]
