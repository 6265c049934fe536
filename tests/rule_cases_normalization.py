"""Cases of normalisation layers other than LayerNormalization and LRN."""

from itertools import product
from typing import Any

import numpy as np
from rule_case import Case, Node, Sample, one, several

__all__ = ["CASES"]

_FREE = {0: (0, 2, 3)}
_SHAPES: tuple[tuple[int, ...], ...] = ((2, 3, 5), (2, 3, 4, 5), (1, 2, 3, 2, 2))


def _instances() -> list[Case]:
    cases = [
        one("InstanceNormalization", f"{x},epsilon={epsilon}".replace(" ", ""), x, *parameters, **o)
        for x, epsilon in product(_SHAPES, (None, 0.1))
        for parameters in [[(x[1],), (x[1],)]]
        for o in [{} if epsilon is None else {"epsilon": epsilon}]
    ]
    unknown = one("InstanceNormalization", "size unknown", (2, 3, 4, 5), (3,), (3,), dynamic=_FREE)
    batch = one("InstanceNormalization", "all", (2, 3, 4, 5), (3,), (3,), wrt=(0, 1, 2), dynamic={})
    return [*cases, unknown, batch]


def _batches() -> list[Case]:
    variance = Sample((3,), 0.5, 2.0)
    return [
        one(
            "BatchNormalization",
            f"all of {x}".replace(" ", ""),
            *(x, (3,), (3,), (3,), variance),
            wrt=(0, 1, 2, 3, 4),
            epsilon=0.01,
            dynamic={},
        )
        for x in ((2, 3), (2, 3, 4), (2, 3, 4, 5))
    ]


def _groups() -> list[Case]:
    """With a Reshape behind: ONNX's inference finds no shape for the operator's output."""
    cases = []
    for groups, x in product((1, 2, 6), ((2, 6, 4), (2, 6, 3, 4), (2, 6, 2, 3, 2))):
        name = f"{x},{groups}".replace(" ", "")
        cases.append(_group(name, x, {"num_groups": groups, "epsilon": 0.01}))
    free = {"dynamic": {"x": (0, 2, 3)}}
    return [
        *cases,
        _group("defaults", (2, 6, 3, 4), {"num_groups": 3}),
        _group("size unknown", (2, 6, 3, 4), {"num_groups": 3}, **free),
        _group("all", (2, 6, 3, 4), {"num_groups": 3}, wrt=("x", "scale", "bias"), dynamic={}),
    ]


def _group(name: str, x: tuple[int, ...], attributes: dict[str, Any], **options: Any) -> Case:
    return several(
        "GroupNormalization",
        name,
        {"x": x, "scale": (6,), "bias": (6,), "shape": np.array([0, 6, -1])},
        Node("GroupNormalization", ["x", "scale", "bias"], ["t"], attributes),
        Node("Reshape", ["t", "shape"], ["y"]),
        **options,
    )


def _roots() -> list[Case]:
    cases = []
    for shape, axis in (((2, 3, 4), -1), ((2, 3, 4), 1), ((2, 5), -1), ((2, 3, 2, 4), 2)):
        name, normal = f"{shape},axis={axis}".replace(" ", ""), shape[axis:]
        cases += [
            one("RMSNormalization", name, shape, normal, axis=axis),
            one(
                "RMSNormalization",
                f"{name},all",
                shape,
                normal,
                wrt=(0, 1),
                axis=axis,
                epsilon=0.1,
                dynamic={0: (0,)},
            ),
        ]
    return cases


def _lengths() -> list[Case]:
    cases = []
    for p, (shape, axis) in product((1, 2), (((2, 3, 4), -1), ((2, 3, 4), 1), ((4, 3), 0))):
        x = Sample(shape, kinks=(0.0,))
        name = f"{shape},axis={axis},p={p}".replace(" ", "")
        dynamic = {} if axis == 0 else {0: (0,)}
        cases.append(one("LpNormalization", name, x, axis=axis, p=p, dynamic=dynamic))
    return [*cases, one("LpNormalization", "defaults", (2, 3, 4))]


CASES = [*_batches(), *_instances(), *_groups(), *_roots(), *_lengths()]
