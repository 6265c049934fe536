"""Cases of operators that rearrange, repeat, cut or add up values along axes."""

from itertools import product

import numpy as np
from rule_case import Case, one

__all__ = ["CASES"]


def _whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def _blocks() -> list[Case]:
    cases = []
    for block, mode in product((1, 2, 3), ("DCR", "CRD")):
        deep, wide = (2, 2 * block * block, 2, 3), (2, 2, 2 * block, 3 * block)
        both = {"blocksize": block, "mode": mode}
        name = f"{block},{mode}"
        cases.append(one("DepthToSpace", name, deep, **both))
        cases.append(one("SpaceToDepth", name, wide, since=28, **both))
    return [
        one("DepthToSpace", "default mode", (2, 8, 2, 3), blocksize=2),
        one("SpaceToDepth", "two", (2, 3, 4, 6), blocksize=2),
        one("SpaceToDepth", "three", (2, 1, 3, 6), blocksize=3),
        one("SpaceToDepth", "size unknown", (2, 3, 4, 6), blocksize=2, dynamic={0: (0, 2, 3)}),
        one("DepthToSpace", "height unknown", (2, 8, 2, 3), blocksize=2, dynamic={0: (0, 2)}),
        one("DepthToSpace", "size unknown", (2, 8, 2, 3), blocksize=2, dynamic={0: (0, 2, 3)}),
        *cases,
    ]


def _tiles() -> list[Case]:
    return [
        one("Tile", f"{repeats}".replace(" ", ""), (2, 3, 4), _whole(*repeats))
        for repeats in ((1, 2, 3), (1, 1, 2), (1, 3, 1), (1, 1, 1))
    ] + [
        one("Tile", "batch", (2, 3), _whole(3, 2), dynamic={}),
        one("Tile", "batch unknown", (2, 3), _whole(3, 2)),
        one("Tile", "size unknown", (2, 3, 4, 5), _whole(1, 1, 2, 3), dynamic={0: (0, 2, 3)}),
        one("Tile", "vector", (3,), _whole(2), dynamic={}),
    ]


def _triangles() -> list[Case]:
    cases = [
        one("Trilu", f"{upper},{k}", (2, 4, 5), None if k is None else np.array(k), upper=upper)
        for upper, k in product((0, 1), (None, 0, 1, -2))
    ]
    return [
        *cases,
        one("Trilu", "default", (4, 3), dynamic={}),
        one("Trilu", "nothing left", (3, 3), np.array(7), dynamic={}, flat=True),
        one("Trilu", "at run time", (2, 4, 4), np.array(1), runtime=(1,)),
    ]


def _sums() -> list[Case]:
    cases = [
        one(
            "CumSum",
            f"axis={axis},exclusive={exclusive},reverse={reverse}",
            (2, 3, 4),
            np.array(axis, np.int64),
            exclusive=exclusive,
            reverse=reverse,
        )
        for axis, exclusive, reverse in product((1, -1), (0, 1), (0, 1))
    ]
    cases += [
        one(
            "CumSum",
            f"size unknown,exclusive={exclusive},reverse={reverse}",
            (2, 3, 4),
            np.array(1),
            dynamic={0: (0, 1)},
            exclusive=exclusive,
            reverse=reverse,
        )
        for exclusive, reverse in product((0, 1), (0, 1))
    ]
    return [
        *cases,
        one("CumSum", "batch", (4, 2), np.array(0, np.int32), dynamic={}),
        one("CumSum", "another size unknown", (2, 3, 4), np.array(2), dynamic={0: (0, 1)}),
    ]


CASES = [*_blocks(), *_tiles(), *_triangles(), *_sums()]
