"""Cases of reductions. Axes are an attribute before version 18 (ReduceSum: 13), then an input."""

from itertools import product
from typing import Any

import numpy as np
from rule_case import Case, Sample, Spec, one

__all__ = ["CASES"]

_X = (2, 3, 4)
_FREE = {0: (0, 2, 3)}

# A range in which the function is smooth, by operator.
_SMOOTH: dict[str, Any] = {
    "ReduceSum": {},
    "ReduceMean": {},
    "ReduceMax": {},
    "ReduceMin": {},
    "ReduceL1": {"kinks": (0.0,)},
    "ReduceL2": {"low": 0.2},
    "ReduceSumSquare": {},
    "ReduceLogSum": {"low": 0.2},
    "ReduceLogSumExp": {},
    "ReduceProd": {"low": 0.4},
}
_KEEPS_ELEMENTS = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd")


def _whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def _with_axes(
    operator: str, name: str, x: Spec, axes: list[int] | None, **options: Any
) -> list[Case]:
    """The case with its axes as an attribute, as an input, or both where both versions exist."""
    given = [] if axes is None else [_whole(*axes)]
    if operator == "ReduceSum":
        return [one(operator, name, x, *given, **options)]
    attribute = {} if axes is None else {"axes": axes}
    return [
        one(operator, name, x, until=17, **options, **attribute),
        one(operator, name, x, *given, since=18, **options),
    ]


def _of(operator: str, smooth: dict[str, Any]) -> list[Case]:
    x, cases = Sample(_X, **smooth), []
    choices: tuple[list[int] | None, ...] = (None, [0], [1], [-1], [1, 2], [2, -2], [0, 1, 2], [-3])
    if operator not in ("ReduceSum", "ReduceMean"):
        choices = (None, [1], [2, -2], [-3])
    for axes, keepdims in product(choices, (0, 1)):
        name = f"axes={axes},keepdims={keepdims}".replace(" ", "")
        cases += _with_axes(operator, name, x, axes, keepdims=keepdims)
    cases += _with_axes(operator, "default keepdims", x, [2])
    four = Sample((2, 3, 4, 5), **smooth)
    cases += _with_axes(operator, "size unknown", four, [2, 3], dynamic=_FREE)
    since = 13 if operator == "ReduceSum" else 18
    for noop, keepdims in product((0, 1), (0, 1)):
        if noop and operator not in _KEEPS_ELEMENTS:
            continue
        name = f"no axes,noop={noop},keepdims={keepdims}"
        both = {"noop_with_empty_axes": noop, "keepdims": keepdims, "since": since}
        cases += [
            one(operator, name, x, **both),
            one(operator, f"{name},empty", x, _whole(), **both),
        ]
    return cases


def _products() -> list[Case]:
    """Products of numbers of which none, one or two are 0."""
    x = np.array([[1.5, -2.0, 0.5], [0.0, 2.0, -0.7], [0.0, 1.2, 0.0], [0.0, 0.0, 0.0]])
    return _with_axes("ReduceProd", "zeros", x, [1])


CASES = [case for operator, smooth in _SMOOTH.items() for case in _of(operator, smooth)]
CASES += _products()
