"""Cases of Conv and of the pools.

Pools take their differences on ONNX Runtime: the reference evaluator of onnx 1.23.2 disagrees with
it in ceil_mode, SAME_LOWER and GlobalMaxPool of other than two spatial axes. An average is linear,
and a maximum of whole numbers is linear for steps of less than one half, so that this is exact.
"""

from itertools import product
from typing import Any

import numpy as np
from rule_case import Case, Sample, one

__all__ = ["CASES"]

# All but the channels are dynamic: the gradient is built for sizes other than the case's.
_FREE = {0: (0, 2, 3)}


def _written(**attributes: Any) -> str:
    shown = {key: value for key, value in attributes.items() if key not in ("runs", "dynamic")}
    return ",".join(f"{key}={value}" for key, value in shown.items()).replace(" ", "")


def _conv(
    x: tuple[int, ...], w: tuple[int, ...], *, prefix: str = "", bias: bool = False, **options: Any
) -> Case:
    name = f"{prefix}x{x},w{w},{_written(**options)}".replace(" ", "").rstrip(",")
    return one("Conv", name, x, w, *([(w[0],)] if bias else []), **options)


def _conv_2d() -> list[Case]:
    cases = []
    for channels, kernel, stride, pad, dilation, size in product(
        (3, 8), (1, 3), (1, 2, 3), (0, 1), (1, 2), (7, 8)
    ):
        if (kernel == 1 and (dilation > 1 or pad)) or (stride == 3 and dilation > 1):
            continue
        cases.append(
            _conv(
                (2, channels, size, size + 1),
                (4, channels, kernel, kernel),
                strides=[stride, stride],
                pads=[pad] * 4,
                dilations=[dilation, dilation],
            )
        )
    return cases


def _conv_special() -> list[Case]:
    x3, x16 = (2, 3, 8, 7), (2, 16, 8, 7)
    cases = [
        _conv(x3, (4, 3, 3, 3)),
        _conv(x16, (4, 16, 3, 3)),
        _conv(x3, (4, 3, 3, 3), bias=True, prefix="bias,", kernel_shape=[3, 3]),
        # Patch embeddings, and what only looks like one.
        _conv((2, 3, 8, 8), (5, 3, 4, 4), strides=[4, 4]),
        _conv((2, 3, 9, 11), (5, 3, 4, 4), strides=[4, 4]),
        _conv((2, 3, 12, 8), (5, 3, 4, 4), strides=[4, 4], bias=True, prefix="bias,"),
        _conv((2, 3, 8, 8), (5, 3, 4, 4), strides=[4, 4], pads=[2, 2, 2, 2]),
        _conv((2, 3, 8, 10), (5, 3, 4, 5), strides=[4, 5]),
        _conv((2, 8, 8, 8), (8, 2, 4, 4), strides=[4, 4], group=4),
        _conv((2, 8, 6, 6), (5, 8, 2, 2), strides=[2, 2]),
        _conv((2, 8, 6, 6), (5, 8, 2, 2), strides=[3, 3]),
        # Unequal kernels, strides, pads and dilations.
        _conv(x3, (4, 3, 3, 2), strides=[2, 1], pads=[1, 0, 0, 1]),
        _conv(x16, (4, 16, 1, 3), pads=[0, 1, 0, 1]),
        _conv(x16, (4, 16, 3, 1), pads=[1, 0, 1, 0], strides=[1, 2]),
        _conv(x16, (4, 16, 3, 2), dilations=[2, 3], pads=[2, 1, 1, 2]),
        _conv(x16, (4, 16, 2, 2), pads=[0, 0, 1, 1]),
        _conv(x16, (4, 16, 2, 2), pads=[1, 1, 1, 1]),
        _conv(x16, (4, 16, 3, 3), pads=[3, 3, 3, 3]),
        _conv(x16, (4, 16, 3, 3), pads=[2, 0, 1, 4]),
        _conv(x3, (4, 3, 3, 3), pads=[3, 4, 2, 0], strides=[2, 3]),
        _conv(x3, (4, 3, 3, 3), pads=[0, 0, 2, 3], strides=[3, 2], dilations=[2, 1]),
        # Windows that end before the input does.
        _conv((2, 3, 9, 10), (4, 3, 2, 2), strides=[4, 4], pads=[1, 0, 0, 0]),
        _conv((2, 8, 9, 10), (4, 8, 1, 1), strides=[4, 3]),
        _conv((1, 3, 15, 16), (4, 3, 7, 7), strides=[2, 2], pads=[3, 3, 3, 3]),
        _conv((2, 1, 6, 6), (1, 1, 3, 3)),
        # Other numbers of axes.
        _conv((2, 3, 9), (4, 3, 3)),
        _conv((2, 8, 9), (4, 8, 3), pads=[1, 1]),
        _conv((2, 8, 9), (4, 8, 4), pads=[0, 2], strides=[2]),
        _conv((2, 8, 12), (4, 8, 4), strides=[4]),
        _conv((2, 4, 9), (4, 1, 3), group=4, pads=[2, 0], dilations=[2]),
        _conv((2, 3, 5, 6, 4), (4, 3, 2, 3, 2)),
        _conv((2, 8, 5, 6, 4), (4, 8, 2, 3, 2), pads=[1, 0, 0, 0, 1, 1]),
        _conv((2, 2, 5, 6, 4), (4, 1, 3, 3, 1), group=2, pads=[1, 1, 0, 1, 1, 0]),
        _conv((2, 3, 5, 6, 4), (4, 3, 2, 3, 2), strides=[2, 3, 1], pads=[1, 0, 0, 0, 1, 1]),
    ]
    for stride, dilation, pads in product((1, 2), (1, 2), ([1, 1, 1, 1], [0, 1, 2, 0])):
        shared: dict[str, Any] = {
            "strides": [stride, stride],
            "dilations": [dilation, dilation],
            "pads": pads,
        }
        cases += [
            _conv((2, 8, 8, 7), (6, 4, 3, 3), group=2, **shared),
            _conv((2, 6, 8, 7), (6, 1, 3, 3), group=6, **shared),  # depthwise
            _conv((2, 3, 8, 7), (6, 1, 3, 3), group=3, **shared),  # with a multiplier
            _conv((2, 12, 8, 7), (4, 3, 3, 3), group=4, **shared),
        ]
    for mode, stride, kernel, channels in product(
        ("SAME_UPPER", "SAME_LOWER", "VALID"), (1, 2, 3), (2, 3), (3, 8)
    ):
        cases.append(
            _conv(
                (2, channels, 8, 7),
                (4, channels, kernel, kernel),
                auto_pad=mode,
                strides=[stride, stride],
                **({} if mode == "VALID" or stride > 1 else {"kernel_shape": [kernel, kernel]}),
            )
        )
    cases += [
        _conv(x16, (4, 16, 3, 3), auto_pad=mode, dilations=[2, 1], runs=False)
        for mode in ("SAME_UPPER", "SAME_LOWER")
    ]
    cases += [
        _conv(x, w, prefix="size unknown,", dynamic=_FREE, **attributes)
        for x, w, attributes in (
            (x3, (4, 3, 3, 3), {}),
            (x16, (4, 16, 3, 3), {"pads": [1, 1, 1, 1]}),
            (x16, (4, 16, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
            ((2, 16, 9, 9), (4, 16, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
            (x3, (4, 3, 3, 3), {"pads": [0, 1, 2, 0], "strides": [3, 2]}),
            ((2, 3, 8, 12), (4, 3, 4, 4), {"strides": [4, 4]}),
            (x16, (16, 1, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2], "group": 16}),
            (x16, (16, 1, 3, 3), {"pads": [1, 1, 1, 1], "group": 16}),
            (x16, (4, 16, 1, 1), {"strides": [2, 2]}),
            # Patches with and without a rest.
            ((2, 3, 9, 11), (4, 3, 4, 4), {"strides": [4, 4]}),
            ((2, 3, 9, 10), (5, 3, 4, 5), {"strides": [4, 5]}),
            ((2, 3, 9, 9), (4, 3, 2, 2), {"strides": [4, 4], "pads": [1, 0, 0, 0]}),
            (x3, (4, 3, 3, 3), {"pads": [3, 4, 2, 0], "strides": [2, 3]}),
            (x3, (4, 3, 3, 3), {"dilations": [2, 1], "strides": [3, 2], "pads": [0, 1, 2, 3]}),
        )
    ]
    for mode, stride, kernel, size in product(
        ("SAME_UPPER", "SAME_LOWER"), (1, 2, 3), (1, 2, 3), ((8, 7), (9, 6), (7, 11))
    ):
        shared = {"auto_pad": mode, "strides": [stride, stride], "dynamic": _FREE}
        cases.append(_conv((2, 3, *size), (4, 3, kernel, kernel), prefix="size unknown,", **shared))
    cases += [
        _conv((2, 8, 9, 8), w, prefix="size unknown,", dynamic=_FREE, **attributes)
        for w, attributes in (
            ((8, 1, 3, 3), {"group": 8, "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
            ((8, 1, 5, 5), {"group": 8, "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
            ((4, 8, 3, 2), {"strides": [2, 3], "auto_pad": "SAME_LOWER"}),
        )
    ]
    cases.append(
        _conv(x3, (4, 3, 3, 3), prefix="width unknown,", dynamic={0: (3,)}, strides=[2, 2])
    )
    return cases


def _pool(operator: str, spatial: tuple[int, ...], **options: Any) -> Case:
    free = f"axes{options['dynamic'][0]}unknown," if "dynamic" in options else ""
    name = f"{free}{spatial},{_written(**options)}".replace(" ", "")
    x = (2, 3, *spatial)
    spec = Sample(x, distinct=True) if operator == "MaxPool" else Sample(x)
    if options.get("ceil_mode") and _ends_in_padding(spatial, **options):
        options = {"since": 22} | options  # refused in older versions, see test_rules.py
    return one(operator, name, spec, oracle="runtime", **options)


def _ends_in_padding(
    spatial: tuple[int, ...],
    *,
    kernel_shape: list[int],
    strides: list[int] | None = None,
    pads: list[int] | None = None,
    dilations: list[int] | None = None,
    **_: Any,
) -> bool:
    """Whether rounding the number of windows up adds one that lies behind the input."""
    rank = len(spatial)
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    pads = pads or [0] * (2 * rank)
    for i, size in enumerate(spatial):
        extent = dilations[i] * (kernel_shape[i] - 1) + 1
        steps = -(-(size + pads[i] + pads[rank + i] - extent) // strides[i])
        if steps * strides[i] >= pads[i] + size:
            return True
    return False


def _pools(operator: str) -> list[Case]:
    """What MaxPool and AveragePool share."""
    cases = []
    for kernel, stride, ceil, pad, size in product((2, 3), (1, 2, 3), (0, 1), (0, 1), (6, 7)):
        cases.append(
            _pool(
                operator,
                (size, size + 1),
                kernel_shape=[kernel, kernel],
                strides=[stride, stride],
                pads=[pad] * 4,
                ceil_mode=ceil,
            )
        )
    for mode, stride, kernel in product(("SAME_UPPER", "SAME_LOWER", "VALID"), (1, 2, 3), (2, 3)):
        cases.append(
            _pool(
                operator,
                (8, 7),
                kernel_shape=[kernel, kernel],
                strides=[stride, stride],
                auto_pad=mode,
            )
        )
    cases += [
        _pool(operator, (6, 5), kernel_shape=[2, 2]),
        _pool(operator, (6, 5), kernel_shape=[1, 1]),
        _pool(operator, (6, 5), kernel_shape=[1, 1], strides=[2, 2]),
        _pool(operator, (6, 5), kernel_shape=[6, 5]),
        _pool(operator, (9, 8), kernel_shape=[3, 2], strides=[1, 3], pads=[2, 0, 1, 1]),
        _pool(operator, (9, 8), kernel_shape=[1, 3], strides=[2, 1], pads=[0, 1, 0, 0]),
        _pool(operator, (9, 9), kernel_shape=[4, 4], strides=[2, 2], pads=[1, 2, 2, 1]),
        _pool(operator, (9, 9), kernel_shape=[2, 2], strides=[4, 5]),
        _pool(operator, (8,), kernel_shape=[2], strides=[2]),
        _pool(operator, (9,), kernel_shape=[3], strides=[2], pads=[1, 1], ceil_mode=1),
        _pool(operator, (9,), kernel_shape=[3], pads=[0, 2]),
        _pool(operator, (4, 6, 2), kernel_shape=[2, 2, 2], strides=[2, 2, 2]),
        _pool(operator, (4, 5, 3), kernel_shape=[2, 3, 2], strides=[1, 2, 1]),
        _pool(operator, (4, 5, 3), kernel_shape=[3, 3, 3], pads=[1] * 6),
        _pool(operator, (4, 5, 3), kernel_shape=[3, 2, 1], strides=[2, 2, 2], ceil_mode=1),
    ]
    for kernel, stride, ceil, pad, size in product(
        (2, 3), (1, 2, 3), (0, 1), (0, 1), ((6, 7), (7, 8), (8, 9))
    ):
        attributes: dict[str, Any] = {
            "kernel_shape": [kernel, kernel],
            "strides": [stride, stride],
            "pads": [pad] * 4,
            "ceil_mode": ceil,
        }
        cases.append(_pool(operator, size, dynamic=_FREE, **attributes))
    for mode, stride, kernel, size in product(
        ("SAME_UPPER", "SAME_LOWER"), (1, 2, 3), (2, 3), ((8, 7), (9, 6))
    ):
        shared = {"kernel_shape": [kernel, kernel], "strides": [stride, stride], "auto_pad": mode}
        if kernel >= stride:  # else ONNX Runtime computes a negative padding for some sizes
            cases.append(_pool(operator, size, dynamic=_FREE, **shared))
    cases += [
        _pool(operator, size, dynamic=_FREE, **attributes)
        for size, attributes in (
            ((9, 8), {"kernel_shape": [3, 2], "strides": [1, 3], "pads": [2, 0, 1, 1]}),
            ((9, 8), {"kernel_shape": [1, 3], "strides": [2, 1], "pads": [0, 1, 0, 0]}),
            ((9, 9), {"kernel_shape": [4, 4], "strides": [2, 2], "pads": [1, 2, 2, 1]}),
            ((9, 9), {"kernel_shape": [2, 2], "strides": [4, 5]}),
            ((6, 5), {"kernel_shape": [6, 5]}),
        )
    ]
    cases += [
        _pool(
            operator, (6, 7), dynamic={0: (axis,)}, kernel_shape=[3, 3], strides=[2, 2], **options
        )
        for axis, options in product((2, 3), ({}, {"ceil_mode": 1}, {"auto_pad": "SAME_UPPER"}))
    ]
    return cases


def _dilated(operator: str, since: int) -> list[Case]:
    return [
        _pool(operator, size, since=since, dilations=dilations, kernel_shape=kernel, **attributes)
        for size, dilations, kernel, attributes in (
            ((8, 7), [2, 2], [2, 2], {}),
            ((8, 7), [2, 3], [3, 2], {"strides": [2, 1]}),
            ((8, 7), [2, 2], [3, 3], {"strides": [2, 3], "pads": [1, 2, 2, 1]}),
            ((9, 9), [2, 1], [3, 3], {"strides": [3, 2], "pads": [1, 1, 1, 1]}),
            ((9, 9), [3, 3], [2, 2], {"strides": [2, 2], "ceil_mode": 1}),
            ((11,), [4], [3], {"strides": [2]}),
            ((6, 5, 4), [2, 1, 3], [2, 2, 2], {}),
            ((8, 7), [2, 3], [3, 2], {"strides": [2, 1], "dynamic": _FREE}),
            (
                (8, 7),
                [2, 2],
                [3, 3],
                {"strides": [2, 3], "pads": [1, 2, 2, 1], "dynamic": _FREE},
            ),
            ((9, 9), [3, 3], [2, 2], {"strides": [2, 2], "ceil_mode": 1, "dynamic": _FREE}),
        )
    ]


def _average_special() -> list[Case]:
    cases = [
        _pool(
            "AveragePool",
            size,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=pads,
            ceil_mode=ceil,
            count_include_pad=1,
        )
        for size, kernel, stride, pads, ceil in product(
            ((6, 7),), (2, 3), (1, 2, 3), ([1, 1, 1, 1], [0, 1, 1, 0]), (0, 1)
        )
    ]
    cases += [
        _pool("AveragePool", (8, 7), kernel_shape=[3, 3], auto_pad=mode, count_include_pad=1)
        for mode in ("SAME_UPPER", "SAME_LOWER")
    ]
    cases += [
        _pool("AveragePool", size, dynamic=_FREE, count_include_pad=1, **attributes)
        for size, attributes in product(
            ((6, 7), (7, 9)),
            (
                {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
                {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]},
                {"kernel_shape": [3, 2], "pads": [0, 1, 1, 0], "strides": [2, 3], "ceil_mode": 1},
                {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]},
            ),
        )
    ]
    return cases


def _global() -> list[Case]:
    shapes: tuple[tuple[int, ...], ...] = ((2, 3, 5), (2, 3, 4, 5), (2, 3, 1, 1), (2, 3, 2, 3, 4))
    negative = np.array([[[-3.0, -1.0, -2.0], [-5.0, -7.0, -6.0]]])
    cases = [
        one("GlobalAveragePool", "size unknown", (2, 3, 4, 5), dynamic=_FREE),
        one(
            "GlobalMaxPool",
            "size unknown",
            Sample((2, 3, 4, 5), distinct=True),
            dynamic=_FREE,
            oracle="runtime",
        ),
        one("GlobalMaxPool", "negative", negative, oracle="runtime"),
    ]
    for shape in shapes:
        distinct = Sample(shape, distinct=True)
        cases.append(one("GlobalAveragePool", str(shape), shape))
        cases.append(one("GlobalMaxPool", str(shape), distinct, oracle="runtime"))
    return cases


CASES = [
    *_conv_2d(),
    *_conv_special(),
    *_pools("MaxPool"),
    *_dilated("MaxPool", 12),
    *_pools("AveragePool"),
    *_dilated("AveragePool", 19),
    *_average_special(),
    *_global(),
]
