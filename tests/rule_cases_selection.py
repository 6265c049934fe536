"""Cases of operators that select by masks, lengths or classes, and of grids, windows and DFT."""

from itertools import product
from typing import Any

import numpy as np
from rule_case import Case, Node, Sample, one, several

__all__ = ["CASES"]


def _whole(*numbers: Any) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def _selected() -> list[Case]:
    lengths = _whole(1, 4, 3)
    some = np.array([True, False, False, True])
    classes = _whole([0, 2, -1], [1, 1, 5])
    cases: list[Case] = []
    for axes in ({"batch_axis": 1, "time_axis": 0}, {"batch_axis": 0, "time_axis": 1}):
        shape = (4, 3, 2) if axes["time_axis"] == 0 else (3, 4, 2)
        for runtime in ((), (1,)):
            name = f"{axes['time_axis']}{', at run time' if runtime else ''}"
            both: dict[str, Any] = {"dynamic": {}, "runtime": runtime} | axes
            cases.append(one("ReverseSequence", name, shape, lengths, **both))
    return [
        *cases,
        one("Compress", "rows", (3, 4, 2), some[1:], axis=0, dynamic={}),
        one("Compress", "columns", (3, 4, 2), some, axis=1),
        one("Compress", "short", (3, 5, 2), some, axis=-2),
        one("Compress", "flat", (3, 2), some, dynamic={}),
        *(
            one(
                "OneHot",
                f"axis={axis}",
                classes,
                _whole(3).reshape(()),
                (2,),
                wrt=(2,),
                runtime=(0,),
                dynamic={},
                **({} if axis is None else {"axis": axis}),
            )
            for axis in (None, 0, 1, -1)
        ),
        several(
            "MaxUnpool",
            "of the maxima",
            {
                "x": (1, 2, 2, 3),
                "indices": _whole(
                    [[[0, 7, 9], [13, 14, 22]], [[24, 31, 33], [37, 38, 46]]]
                ).reshape(1, 2, 2, 3),
            },
            Node("MaxUnpool", ["x", "indices"], ["y"], {"kernel_shape": [2, 2], "strides": [2, 2]}),
            dynamic={},
        ),
    ]


def _grids() -> list[Case]:
    cases = [
        one(
            "AffineGrid",
            f"{size},align_corners={align}",
            (2, len(size), len(size) + 1),
            _whole(2, 3, *size),
            align_corners=align,
            dynamic={},
            oracle="runtime",
        )
        for size, align in product(((3, 5), (4, 1), (2, 3, 4)), (0, 1))
        if 1 not in size or not align
    ]
    return [
        *cases,
        one("AffineGrid", "default", (2, 2, 3), _whole(2, 1, 4, 3), dynamic={}, oracle="runtime"),
    ]


def _samples() -> list[Case]:
    """GridSample: 2-D and, from version 20 on, 3-D; in the grid, see also the kinks."""
    cases = []
    for padding, align in product(("zeros", "border", "reflection"), (0, 1)):
        kind = {"padding_mode": padding, "align_corners": align}
        both: dict[str, Any] = {"wrt": (0, 1)} | kind
        linear: dict[str, Any] = {"oracle": "runtime"} | kind  # in X
        grid = Sample((2, 3, 4, 2), -1.6, 1.6)
        name = f"{padding},{align}"
        plane, volume = (2, 3, 5, 6), (2, 2, 3, 4, 5)
        free = {0: (0,), 1: (0,)}
        cases += [
            one(
                "GridSample",
                f"bilinear,{name}",
                plane,
                grid,
                mode="bilinear",
                until=16,
                dynamic={},
                **linear,
            ),
            one("GridSample", f"linear,{name}", plane, grid, since=20, dynamic=free, **both),
            one(
                "GridSample",
                f"volume,{name}",
                volume,
                Sample((2, 3, 2, 2, 3), -1.6, 1.6),
                since=20,
                **both,
            ),
            one("GridSample", f"nearest,{name}", plane, grid, mode="nearest", dynamic={}, **linear),
        ]
    return cases


def _windows() -> list[Case]:
    cases = []
    for channels, image, block, count, options in (
        (3, (5, 5), (1, 5), 5, {}),
        (2, (5, 4), (2, 2), 12, {}),
        (2, (5, 5), (2, 3), 6, {"strides": [2, 2], "pads": [0, 0, 1, 1]}),
        (1, (6, 6), (2, 2), 25 - 9, {"dilations": [2, 2]}),
        (2, (3, 4, 5), (2, 2, 2), 24, {}),
        (2, (7,), (3,), 5, {}),
    ):
        x = (2, channels * int(np.prod(block)), count)
        name = f"{image},{block},{options}".replace(" ", "")
        both: dict[str, Any] = {"dynamic": {}} | options
        cases.append(one("Col2Im", name, x, _whole(*image), _whole(*block), **both))
    return cases


def _transforms() -> list[Case]:
    """DFT of real and complex signals; the axis is an attribute before version 20."""
    cases = []
    for length, parts, inverse, onesided, axis in (
        (None, 1, 0, 0, 1),
        (None, 2, 0, 0, 1),
        (None, 1, 0, 1, 1),
        (None, 1, 0, 1, 2),
        (None, 2, 1, 0, 1),
        (None, 2, 1, 0, 2),
        (None, 1, 1, 0, 1),
        (8, 1, 0, 0, 1),
        (4, 2, 0, 0, 1),
        (8, 1, 0, 1, 1),
        (8, 2, 1, 0, 1),
        (4, 2, 1, 0, 1),
        (None, 2, 1, 1, 1),
        (9, 2, 1, 1, 1),
        (8, 2, 1, 1, 2),
        (6, 2, 1, 1, 1),
    ):
        name = f"{length},{parts},inverse={inverse},onesided={onesided},axis={axis}"
        size = None if length is None else _whole(length).reshape(())
        options = {"inverse": inverse, "onesided": onesided}
        x = (2, 5, 6, parts)
        both: dict[str, Any] = {"dynamic": {}} | options
        old = [x] if size is None else [x, size]
        cases.append(one("DFT", name, *old, axis=axis, until=17, **both))
        cases.append(one("DFT", name, x, size, _whole(axis).reshape(()), since=20, **both))
    return [*cases, one("DFT", "defaults", (2, 5, 1))]


CASES = [*_selected(), *_grids(), *_samples(), *_windows(), *_transforms()]
