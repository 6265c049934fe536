"""Cases of operators that move values without changing them."""

from itertools import product
from typing import Any

import numpy as np
from rule_case import Case, Node, one, several

__all__ = ["CASES"]

_X = (2, 3, 4, 5)
_TO_END, _TO_FRONT = (1 << 63) - 1, -(1 << 63)


def _whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def _shaped() -> list[Case]:
    cases = [
        one("Reshape", name, x, _whole(*target), **options)
        for name, x, target, options in (
            ("flat", _X, (-1,), {}),
            ("rows", _X, (2, -1), {"dynamic": {}}),
            ("keep", _X, (0, -1), {}),
            ("keep two", _X, (0, 0, -1), {}),
            ("same", _X, (0, 0, 0, 0), {}),
            ("split", _X, (0, 3, 2, 2, 5), {}),
            ("patches", (2, 3, 4, 6), (-1, 3, 2, 2, 3, 2), {}),
            ("joined", _X, (-1, 5), {}),
            ("one more", (2, 3), (-1, 1, 3), {}),
            ("scalar", (1, 1), (), {"dynamic": {}}),
            ("size unknown", _X, (0, 3, -1), {"dynamic": {0: (0, 2, 3)}}),
            ("allowzero", _X, (6, -1), {"dynamic": {}, "allowzero": 1}),
        )
    ]
    cases += [one("Flatten", f"axis={axis}", _X, axis=axis) for axis in (0, 1, 2, 3, 4, -1)]
    cases += [
        one("Flatten", "default", _X),
        one("Flatten", "rank 1", (4,)),
        one("Flatten", "size unknown", _X, dynamic={0: (0, 2, 3)}),
        one("Squeeze", "one", (2, 1, 3, 1), _whole(1)),
        one("Squeeze", "several", (2, 1, 3, 1), _whole(1, 3)),
        one("Squeeze", "negative", (2, 1, 3, 1), _whole(-1, -3)),
        one("Squeeze", "all", (2, 1, 3, 1), dynamic={}),
        one("Squeeze", "front", (1, 3, 4), _whole(0), dynamic={0: (1,)}),
        one("Unsqueeze", "front", (2, 3), _whole(0)),
        one("Unsqueeze", "middle", (2, 3), _whole(1)),
        one("Unsqueeze", "several", (2, 3), _whole(3, 0)),
        one("Unsqueeze", "negative", (2, 3), _whole(-1, -3)),
        one("Unsqueeze", "scalar", np.array(1.5), _whole(0)),
        one("Transpose", "default", _X),
    ]
    cases += [
        one("Transpose", f"{perm}", _X, perm=list(perm))
        for perm in ((0, 2, 3, 1), (0, 3, 1, 2), (3, 0, 1, 2), (1, 2, 3, 0), (0, 1, 2, 3))
    ]
    cases += [
        one("Expand", f"{x}to{target}".replace(" ", ""), x, _whole(*target), dynamic={})
        for x, target in (
            ((2, 3), (2, 3)),
            ((2, 1), (2, 4)),
            ((1, 3), (4, 3)),
            ((3,), (2, 3)),
            ((3, 1), (2, 3, 4)),
            ((2, 3), (1, 1)),
            ((2, 1, 4), (5, 1, 3, 1)),
            ((), (2, 3)),
            ((1,), (2, 2)),
        )
    ]
    cases.append(one("Expand", "dynamic", (2, 1, 3), _whole(1, 4, 3)))
    return cases


def _joined() -> list[Case]:
    half = {"dynamic": {0: (0,), 1: (0,)}}
    cases = [
        one("Concat", f"axis={axis}", _X, _X, wrt=(0, 1), axis=axis, **half)
        for axis in (1, 3, -1, -2)
    ]
    return [
        *cases,
        one("Concat", "batch", (2, 3), (4, 3), wrt=(0, 1), dynamic={}, axis=0),
        one("Concat", "unequal", (2, 3, 4), (2, 1, 4), (2, 2, 4), wrt=(0, 1, 2), axis=1),
        one("Concat", "with a constant", (2, 3, 4), (2, 1, 4), dynamic={}, axis=1),
        one("Concat", "after a constant", (1, 3), (2, 3), wrt=(1,), dynamic={}, axis=0),
        one("Concat", "single", (2, 3), axis=1),
        one(
            "Concat",
            "size unknown",
            (2, 3, 4),
            (2, 3, 1),
            (2, 3, 5),
            wrt=(0, 1, 2),
            dynamic={0: (0, 2), 1: (0,), 2: (0, 2)},
            axis=2,
        ),
        several(
            "Concat",
            "of the same",
            {"x": (2, 3)},
            Node("Concat", ["x", "x"], ["y"], {"axis": 1}),
        ),
    ]


def _split(name: str, sizes: tuple[int, ...] | None, kept: tuple[int, ...], **options: Any) -> Case:
    """Split along axis 1 (7 long), then the parts in `kept` joined and squared; others unused."""
    parts = len(sizes) if sizes else 3
    nodes = (
        Node(
            "Split",
            ["x"] if sizes is None else ["x", "sizes"],
            [f"part{i}" for i in range(parts)],
            {"axis": 1} | options.pop("attributes", {}),
        ),
        Node("Concat", [f"part{i}" for i in kept], ["joined"], {"axis": 1}),
        Node("Mul", ["joined", "joined"], ["y"]),
    )
    x = (2, sum(sizes) if sizes else 6, 3)
    inputs: dict[str, Any] = {"x": x} | ({"sizes": _whole(*sizes)} if sizes else {})
    return several("Split", name, inputs, *nodes, **options)


def _splits() -> list[Case]:
    count = {"attributes": {"num_outputs": 3}}
    return [
        _split("unequal", (4, 1, 2), (0, 1, 2)),
        _split("out of order", (4, 1, 2), (2, 0, 1)),
        _split("middle unused", (4, 1, 2), (0, 2)),
        _split("first unused", (4, 1, 2), (1, 2)),
        _split("last only", (4, 1, 2), (2,)),
        _split("one used twice", (4, 1, 2), (1, 1, 0)),
        _split("equal, unnamed", None, (0, 2), until=17),
        _split("equal, counted", None, (0, 2), since=18, **count),
        one("Split", "first output", (2, 6), _whole(2, 4), outputs=2, axis=1),
        one("Split", "negative axis", (2, 6), _whole(5, 1), outputs=2, axis=-1),
        one("Split", "single", (2, 6), _whole(6), outputs=1, axis=1),
        one("Split", "batch", (4, 2), _whole(1, 3), outputs=2, dynamic={}),
        one("Split", "the rest shorter", (2, 7), since=18, outputs=3, axis=1, num_outputs=3),
        several(
            "Split",
            "second output",
            {"x": (2, 6), "sizes": _whole(4, 2)},
            Node("Split", ["x", "sizes"], ["unused", "y"], {"axis": 1}),
        ),
    ]


def _slices() -> list[Case]:
    cases = [
        one("Slice", name, (2, 7, 5), *(_whole(*part) for part in parts))
        for name, parts in (
            ("one axis", ([1], [4], [1])),
            ("to the end", ([2], [_TO_END], [1])),
            ("past the end", ([2], [99], [1])),
            ("negative start", ([-3], [_TO_END], [1])),
            ("negative end", ([0], [-2], [1])),
            ("negative axis", ([1], [4], [-2])),
            ("several axes", ([1, 0], [5, 3], [1, 2])),
            ("step 2", ([1], [7], [1], [2])),
            ("step 3", ([0], [6], [1], [3])),
            ("step -1", ([_TO_END], [_TO_FRONT], [1], [-1])),
            ("step -2", ([5], [0], [1], [-2])),
            ("step -2 to the front", ([-1], [-99], [1], [-2])),
            ("step -1 from the middle", ([3], [_TO_FRONT], [1], [-1])),
            ("mixed", ([1, -1], [6, _TO_FRONT], [1, 2], [2, -1])),
            ("untouched batch", ([0, 1], [_TO_END, 3], [0, 1])),
            ("single", ([3], [4], [1])),
            ("last", ([-1], [_TO_END], [1])),
        )
    ]
    cases += [
        one("Slice", f"size unknown,{name}", (2, 7, 5), *map(_whole, bounds), dynamic={0: (0, 1)})
        for name, bounds in (
            ("inside", (1, 4, 1)),
            ("to the end", (2, _TO_END, 1)),
            ("past the end", (2, 99, 1)),
            ("from before the front", (-99, 3, 1)),
            ("negative", (-3, -1, 1)),
            ("whole", (0, _TO_END, 1)),
            ("step 2", (1, 7, 1, 2)),
            ("step 2, to the end", (0, _TO_END, 1, 2)),
            ("step 3", (0, _TO_END, 1, 3)),
            ("step -1", (_TO_END, _TO_FRONT, 1, -1)),
            ("step -2", (-1, _TO_FRONT, 1, -2)),
            ("step -2 from the middle", (4, 0, 1, -2)),
        )
    ]
    cases += [
        one(
            "Slice",
            f"at run time,{start}:{end}:{step},{len(axes)} axes unknown",
            (2, 7, 5),
            *(_whole(number) for number in (start, end, 1, step)),
            runtime=(1, 2),
            dynamic={0: axes},
        )
        for start, end, step in ((1, 4, 1), (-3, 99, 1), (-99, -1, 1), (6, 0, -2), (0, 7, 3))
        for axes in ((0,), (0, 1, 2))
    ]
    return [
        *cases,
        one(
            "Slice",
            "patches of an unknown size",
            (2, 3, 6, 7),
            *(_whole(*part) for part in ((1, 0), (_TO_END, _TO_END), (2, 3), (2, 2))),
            dynamic={0: (0, 2, 3)},
        ),
        one("Slice", "no axes", (2, 7, 5), _whole(0, 1), _whole(2, 4), dynamic={}),
        one("Slice", "batch", (4, 3), _whole(1), _whole(3), _whole(0), dynamic={}),
        one(
            "Slice",
            "steps of 32 bits",
            (2, 7),
            *(np.array([v], np.int32) for v in (1, 6, 1, 2)),
        ),
        several(
            "Slice",
            "negative start below the size",
            {"x": (2, 4), "start": _whole(-9), "end": _whole(2), "axes": _whole(1)},
            Node("Slice", ["x", "start", "end", "axes"], ["y"]),
        ),
    ]


def _gathers() -> list[Case]:
    cases = [
        one("Gather", name, (2, 5, 3), np.array(index, dtype=np.int64), axis=axis)
        for name, index, axis in (
            ("scalar", 2, 1),
            ("scalar, negative", -1, 1),
            ("class token", 0, 1),
            ("first axis but one", [2], -2),
            ("run", [1, 2, 3], 1),
            ("whole", [0, 1, 2, 3, 4], 1),
            ("repeated", [1, 1, 4, 1], 1),
            ("negative", [-1, 0, -5], 1),
            ("unordered", [3, 0, 4], 1),
            ("last axis", [2, 0, 0], -1),
            ("two axes of indices", [[0, 4], [3, 3], [1, -1]], 1),
            ("run in two axes", [[0, 1], [2, 3]], 1),
            ("two axes at the end", [[0, 2], [1, 1]], 2),
        )
    ]
    cases += [
        one(
            "Gather",
            f"size unknown,{name}",
            (2, 5, 3),
            np.array(index, dtype=np.int64),
            dynamic={0: (0, 1, 2)},
            axis=axis,
        )
        for name, index, axis in (
            ("class token", 0, 1),
            ("scalar, negative", -1, 1),
            ("run", [1, 2, 3], 1),
            ("run at the end", [-3, -2, -1], 1),
            ("over the end", [-1, 0], 1),
            ("repeated", [1, 1, -1, 0], 1),
            ("run in two axes", [[0, 1], [2, 3]], 1),
        )
    ]
    runtime = {"runtime": (1,)}
    cases += [
        one(
            "Gather",
            f"at run time,{name}",
            x,
            np.array(index, dtype=np.int64),
            axis=axis,
            **runtime,
        )
        for name, x, index, axis in (
            ("scalar", (2, 5, 3), 2, 1),
            ("row", (2, 5, 3), [3, 0, 3], 1),
            ("negative", (2, 5, 3), [-1, 2], 1),
            ("last axis", (2, 5, 3), [2, 0, 2], 2),
            ("two axes", (2, 5, 3), [[0, 4], [3, 3]], 1),
            ("two axes at the end", (2, 5, 3), [[0, 2], [1, 1]], 2),
            ("batch", (2, 5), [1, 0, 1], 0),
        )
    ]
    return [
        *cases,
        one("Gather", "default axis", (4, 3), _whole(2, 0, 2), dynamic={}),
        one("Gather", "32 bits", (4, 3), np.array([3, 1], np.int32), dynamic={}),
        one("Gather", "vector", (4,), np.array(1, np.int64), dynamic={}),
    ]


def _pads() -> list[Case]:
    """Negative pads are beyond the reference evaluator."""
    cases = []
    for mode, pads in product(
        ("constant", "reflect", "edge"),
        ((0, 0, 1, 2, 0, 0, 1, 2), (0, 0, 0, 1, 0, 0, 3, 0), (0, 1, 0, 0, 0, 2, 0, 0)),
    ):
        cases.append(one("Pad", f"{mode},{pads}".replace(" ", ""), _X, _whole(*pads), mode=mode))
        free = {"dynamic": {0: (0, 2, 3)}, "mode": mode}
        name = f"size unknown,{mode},{pads}".replace(" ", "")
        cases.append(one("Pad", name, _X, _whole(*pads), **free))
    for pads in ((0, 0, 1, 0, 0, 0, 2, 1), (0, 0, -1, 2, 0, 0, -2, -1), (0,) * 8):
        name = f"at run time,{pads}".replace(" ", "")
        free = {"runtime": (1,), "dynamic": {0: (0, 2, 3)}, "oracle": "runtime"}
        cases.append(one("Pad", name, _X, _whole(*pads), **free))
    wrapped = _whole(0, 0, 1, 2, 0, 0, 4, 3)
    negative = _whole(0, -1, 1, -2, 0, 0, -2, 1)
    return [
        *cases,
        one("Pad", "nothing", _X, _whole(*[0] * 8)),
        one("Pad", "filled", _X, _whole(0, 0, 1, 1, 0, 0, 1, 1), np.array(0.7)),
        one("Pad", "filling", _X, _whole(0, 0, 1, 1, 0, 0, 1, 1), np.array(0.7), wrt=(0, 2)),
        one(
            "Pad",
            "filling a crop",
            (2, 5),
            _whole(0, 2, 0, -1),
            np.array(0.7),
            wrt=(2,),
            dynamic={},
            oracle="runtime",
        ),
        one("Pad", "negative", _X, negative, oracle="runtime"),
        one("Pad", "crop", _X, _whole(0, 0, -1, -1, 0, 0, -1, -2), oracle="runtime"),
        one(
            "Pad",
            "crop on one side, fill on the other",
            _X,
            _whole(0, 0, -2, 2, 0, 0, 3, -3),
            oracle="runtime",
        ),
        one(
            "Pad",
            "size unknown,negative",
            _X,
            _whole(0, -1, 1, -2, 0, 0, -2, 1),
            dynamic={0: (0, 2, 3)},
            oracle="runtime",
        ),
        one(
            "Pad",
            "at run time,filled,axes",
            _X,
            _whole(1, 2, 0, 1),
            np.array(0.7),
            _whole(3, 1),
            runtime=(1,),
            dynamic={0: (0, 3)},
            since=18,
        ),
        one("Pad", "batch", (2, 3), _whole(1, 0, 0, 1), dynamic={}),
        one("Pad", "axes", _X, _whole(1, 2, 0, 1), None, _whole(3, 1), since=18),
        one("Pad", "negative axes", _X, _whole(1, 2, 0, 1), None, _whole(-1, -2), since=18),
        one("Pad", "reflect,axes", _X, _whole(2, 1), None, _whole(-1), since=18, mode="reflect"),
        one("Pad", "wrap", _X, wrapped, since=19, mode="wrap"),
        one(
            "Pad",
            "reflect,negative",
            _X,
            _whole(0, 0, -1, 1, 0, 0, 1, -2),
            oracle="runtime",
            mode="reflect",
        ),
        one(
            "Pad",
            "edge,negative",
            _X,
            _whole(0, 0, -1, 1, 0, 0, 1, -2),
            oracle="runtime",
            mode="edge",
        ),
    ]


CASES = [*_shaped(), *_joined(), *_splits(), *_slices(), *_gathers(), *_pads()]
