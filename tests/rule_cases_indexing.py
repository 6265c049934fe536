"""Cases of operators that pick or place single values by index, and of the pools of norms."""

from itertools import product
from typing import Any

import numpy as np
from rule_case import Case, Node, Sample, one, several

__all__ = ["CASES"]


def _whole(*numbers: Any) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def _picked() -> list[Case]:
    cases = []
    for at_run_time in ((), (1,)):
        when = ", at run time" if at_run_time else ""
        cases += [
            one(operator, f"{name}{when}", x, index, dynamic={}, runtime=at_run_time, **options)
            for operator, name, x, index, options in (
                (
                    "GatherElements",
                    "rows",
                    (3, 4),
                    _whole([0, 2, 2], [1, 1, 3], [0, 0, 0]),
                    {"axis": 1},
                ),
                ("GatherElements", "columns", (3, 4), _whole([0, -1, 2, 1], [1, 1, 0, 1]), {}),
                (
                    "GatherElements",
                    "negative axis",
                    (2, 3),
                    _whole([0, 2], [-1, -1]),
                    {"axis": -1, "oracle": "runtime"},
                ),
                ("GatherND", "points", (3, 4), _whole([0, 1], [2, 3], [0, 1]), {}),
                ("GatherND", "rows", (3, 4), _whole([2], [0], [2]), {}),
                (
                    "GatherND",
                    "two axes",
                    (3, 4, 2),
                    _whole([[0, 1], [2, -1]], [[0, 1], [1, 0]]),
                    {},
                ),
                ("GatherND", "a batch", (3, 4), _whole([1], [3], [1]), {"batch_dims": 1}),
                (
                    "GatherND",
                    "a batch of rows",
                    (2, 3, 4, 2),
                    _whole([[1], [2]], [[0], [0]]),
                    {"batch_dims": 1},
                ),
                (
                    "GatherND",
                    "two batch axes",
                    (2, 3, 4, 2),
                    _whole([[[1, 0], [1, 0]]] * 3, [[[2, 1], [0, 1]]] * 3),
                    {"batch_dims": 2},
                ),
            )
        ]
    return cases


def _placed() -> list[Case]:
    cases = []
    for reduction, (operator, x, index, updates, options) in product(
        ("none", "add"),
        (
            ("ScatterElements", (3, 4), _whole([0, 2], [3, 1]), (2, 2), {"axis": 1}),
            ("ScatterElements", (3, 4), _whole([0, 2, 1, 1]), (1, 4), {}),
            ("ScatterElements", (2, 3, 2), _whole([[-1, 0], [0, 1]]), (1, 2, 2), {"axis": -2}),
            ("ScatterND", (3, 4), _whole([0, 1], [2, 3]), (2,), {}),
            ("ScatterND", (3, 4), _whole([2], [0]), (2, 4), {}),
            ("ScatterND", (3, 4, 2), _whole([[0, 1], [2, -1]]), (1, 2, 2), {}),
        ),
    ):
        name = f"{x}{updates},{reduction}".replace(" ", "")
        both = {"wrt": (0, 2), "dynamic": {}, "reduction": reduction} | options
        cases.append(one(operator, name, x, index, updates, **both))
    twice = _whole([0, 0], [3, 3])
    distinct, free = Sample((3, 4), distinct=True), {"dynamic": {}}
    for reduction, (operator, index, updates, options) in product(
        ("min", "max"),
        (
            ("ScatterElements", _whole([0, 2], [3, 1]), (2, 2), {"axis": 1}),
            ("ScatterElements", twice, (2, 2), {"axis": 1}),
            ("ScatterND", _whole([2], [0], [2]), (3, 4), {}),
        ),
    ):
        both = {"wrt": (0, 2), "since": 18, "reduction": reduction} | options | free
        cases.append(
            one(operator, f"{reduction},{index.tolist()}", distinct, index, updates, **both)
        )
    products = {"reduction": "mul", "dynamic": {}}
    return [
        *cases,
        one("ScatterElements", "mul", (3, 4), twice, (2, 2), axis=1, **products),
        one("ScatterND", "mul", (3, 4), _whole([2], [0], [2]), (3, 4), **products),
        one("ScatterElements", "batch", (2, 4), twice, (2, 2), axis=1, reduction="add"),
        one("ScatterElements", "default", (2, 4), _whole([0, 1]), (1, 2)),
        one("ScatterND", "default", (3, 4), _whole([1]), (1, 4)),
    ]


def _largest() -> list[Case]:
    cases = []
    for axis, largest, count in ((1, 1, 2), (-1, 0, 3), (2, 1, 1), (1, 1, 3)):
        name = f"{count},axis={axis},largest={largest}"
        x = Sample((2, 3, 4), distinct=True)
        options = {"axis": axis, "largest": largest}
        cases.append(one("TopK", name, x, _whole(count), outputs=2, **options))
    return [
        *cases,
        one("TopK", "default", Sample((2, 5), distinct=True), _whole(2), outputs=2),
        several(
            "TopK",
            "mean of the largest",
            {"x": Sample((2, 3, 4), distinct=True), "k": _whole(2)},
            Node("TopK", ["x", "k"], ["values", "indices"], {"axis": 2}),
            Node("ReduceSum", ["values"], ["y"]),
            dynamic={},
        ),
    ]


def _norms() -> list[Case]:
    cases = []
    x = Sample((2, 3, 6, 7), kinks=(0.0,))
    for p, options in product(
        (1, 2, 3),
        (
            {"kernel_shape": [2, 2], "strides": [2, 2]},
            {"kernel_shape": [3, 3]},
            {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]},
        ),
    ):
        name = f"p={p},{options}".replace(" ", "")
        cases.append(one("LpPool", name, x, p=p, **options))
    cases += [
        one("LpPool", "default", Sample((2, 3, 7), kinks=(0.0,)), kernel_shape=[3]),
        one("LpPool", "dilated", x, kernel_shape=[2, 2], dilations=[2, 3], since=18),
    ]
    for when in ({"until": 21}, {"since": 22, "runs": False}):  # ONNX Runtime has no version 22
        both: dict[str, Any] = dict(when)
        cases += [
            one("GlobalLpPool", "default", x, **both),
            one("GlobalLpPool", "size unknown", x, dynamic={0: (0, 2, 3)}, **both),
            one("GlobalLpPool", "p=1", Sample((2, 3, 5), kinks=(0.0,)), p=1, **both),
            one("GlobalLpPool", "p=3", Sample((2, 3, 5), kinks=(0.0,)), p=3, **both),
        ]
    return cases


CASES = [*_picked(), *_placed(), *_largest(), *_norms()]
