"""Cases of ConvTranspose, of Conv's weights, and of Resize: linear, with differences at run time.

The reference evaluator of onnx 1.23.2 fails on a grouped ConvTranspose, and rounds other
coordinates than ONNX Runtime in Resize.
"""

from itertools import product
from typing import Any

import numpy as np
from rule_case import Case, one

__all__ = ["CASES"]

_X = (2, 4, 5, 6)
_FREE = {0: (0, 2, 3)}


def _written(**attributes: Any) -> str:
    return ",".join(f"{key}={value}" for key, value in attributes.items()).replace(" ", "")


def _conv(
    x: tuple[int, ...], w: tuple[int, ...], *, prefix: str = "", bias: int = 0, **options: Any
) -> Case:
    name = f"{prefix}x{x},w{w},{_written(**options)}".replace(" ", "")
    biases = [(bias,)] if bias else []
    return one("ConvTranspose", name, x, w, *biases, oracle="runtime", **options)


def _transposed() -> list[Case]:
    cases = [
        _conv(_X, (4, 3, 3, 3)),
        _conv(_X, (4, 3, 2, 2), strides=[2, 2], bias=3),
        _conv(_X, (4, 3, 3, 2), strides=[2, 3], pads=[1, 0, 0, 1]),
        _conv(_X, (4, 3, 3, 3), dilations=[2, 1], pads=[1, 2, 1, 0], kernel_shape=[3, 3]),
        _conv(_X, (4, 3, 3, 3), strides=[3, 2], output_padding=[2, 1], pads=[1, 1, 1, 1]),
        _conv(_X, (4, 3, 3, 3), strides=[1, 2], dilations=[2, 2], output_padding=[0, 1]),
        _conv(_X, (4, 1, 3, 3), group=4, strides=[2, 2], pads=[1, 1, 1, 1]),
        _conv(_X, (4, 3, 3, 3), group=2, strides=[2, 2], bias=6),
        _conv(_X, (4, 3, 4, 4), strides=[2, 2], output_shape=[9, 11]),
        _conv(_X, (4, 3, 3, 3), strides=[2, 2], output_shape=[10, 12]),
        _conv(_X, (4, 3, 3, 3), strides=[2, 2], output_shape=[10, 12], auto_pad="SAME_UPPER"),
        _conv((2, 3, 7), (3, 2, 4), strides=[2], pads=[1, 2]),
        _conv((2, 3, 3, 4, 2), (3, 2, 2, 3, 2), strides=[2, 1, 2]),
        _conv(_X, (4, 3, 3, 3), prefix="size unknown,", dynamic=_FREE, strides=[2, 2]),
        _conv(
            _X,
            (4, 3, 3, 3),
            prefix="size unknown,",
            dynamic=_FREE,
            strides=[3, 2],
            dilations=[1, 2],
            output_padding=[2, 1],
        ),
    ]
    for mode, stride, kernel in product(("SAME_UPPER", "SAME_LOWER", "VALID"), (1, 2, 3), (2, 3)):
        w = (4, 3, kernel, kernel)
        if kernel >= stride:
            cases.append(_conv(_X, w, auto_pad=mode, strides=[stride, stride]))
            free: dict[str, Any] = {"prefix": "size unknown,", "dynamic": _FREE}
            cases.append(_conv(_X, w, auto_pad=mode, strides=[stride, stride], **free))
    return cases


def _weights() -> list[Case]:
    """Convolutions whose weights and bias depend on the image."""
    cases = []
    for x, w, options in (
        ((2, 4, 7, 6), (3, 4, 3, 2), {}),
        ((2, 4, 7, 6), (3, 4, 3, 3), {"strides": [2, 3], "pads": [1, 0, 2, 1]}),
        ((2, 4, 7, 6), (3, 4, 2, 2), {"dilations": [2, 3], "strides": [2, 1]}),
        ((2, 4, 7, 6), (6, 2, 3, 3), {"group": 2, "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ((2, 4, 7, 6), (4, 1, 3, 3), {"group": 4}),
        ((1, 6, 5, 5), (4, 3, 5, 5), {"group": 2, "auto_pad": "SAME_UPPER"}),
        ((2, 4, 9), (3, 4, 4), {"strides": [4]}),
        ((2, 2, 3, 4, 5), (3, 2, 2, 2, 2), {"strides": [1, 2, 2]}),
    ):
        name = f"weights,x{x},w{w},{_written(**options)}".replace(" ", "")
        both: dict[str, Any] = {"oracle": "runtime", "dynamic": {}} | options
        cases.append(one("Conv", name, x, w, (w[0],), wrt=(1, 2), runtime=(0,), **both))
    for x, w, options in (
        ((2, 4, 5, 6), (4, 3, 3, 2), {}),
        ((2, 4, 5, 6), (4, 3, 3, 3), {"strides": [2, 3], "pads": [1, 0, 2, 1]}),
        ((2, 4, 5, 6), (4, 3, 2, 2), {"strides": [2, 2], "output_padding": [1, 1]}),
        ((2, 4, 5, 6), (4, 3, 3, 3), {"group": 2, "strides": [2, 2], "dilations": [1, 2]}),
        ((2, 4, 5, 6), (4, 1, 3, 3), {"group": 4}),
        ((2, 3, 7), (3, 2, 4), {"strides": [2], "auto_pad": "SAME_UPPER"}),
    ):
        name = f"weights,x{x},w{w},{_written(**options)}".replace(" ", "")
        bias, both = (w[1] * int(options.get("group", 1)),), {"dynamic": {}} | options
        cases.append(
            one(
                "ConvTranspose",
                name,
                x,
                w,
                bias,
                wrt=(1, 2),
                runtime=(0,),
                oracle="runtime",
                **both,
            )
        )
    batch: dict[str, Any] = {"wrt": (1,), "runtime": (0,), "dynamic": {0: (0,)}}
    return [
        *cases,
        one("Conv", "weights,batch", (2, 4, 7, 6), (3, 4, 3, 3), oracle="runtime", **batch),
        one(
            "Conv",
            "weights,batch,group",
            (2, 4, 7, 6),
            (6, 2, 3, 3),
            oracle="runtime",
            group=2,
            **batch,
        ),
    ]


def _resize(
    x: tuple[int, ...],
    *,
    scales: tuple[float, ...] = (),
    sizes: tuple[int, ...] = (),
    run_time: bool = False,
    **options: Any,
) -> Case:
    prefix = "at run time," if run_time else ""
    name = f"{prefix}{x},{_written(scales=scales, sizes=sizes, **options)}".replace(" ", "")
    inputs = (
        (None, np.array(scales, np.float32)) if scales else (None, None, np.array(sizes, np.int64))
    )
    if run_time:
        options["runtime"] = (2,) if scales else (3,)
    return one("Resize", name, x, *inputs, oracle="runtime", **options)


def _resized() -> list[Case]:
    cases = []
    for mode, transform in product(
        ("nearest", "linear", "cubic"),
        ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"),
    ):
        both = {"mode": mode, "coordinate_transformation_mode": transform}
        cases += [
            _resize(_X, scales=(1.0, 1.0, 2.0, 2.0), **both),
            _resize(_X, scales=(1.0, 1.0, 0.6, 1.7), **both),
            _resize(_X, sizes=(2, 4, 7, 3), dynamic={}, **both),
            *(
                _resize(_X, scales=(1.0, 1.0, *scales), dynamic=_FREE, **both)
                for scales in ((2.0, 2.0), (0.6, 1.7), (3.0, 1.0), (1.1, 1.1), (0.5, 1.0))
            ),
            _resize(_X, sizes=(9, 4), axes=[2, 3], dynamic=_FREE, since=18, **both),
            _resize(_X, sizes=(7, 9), axes=[2, 3], dynamic=_FREE, run_time=True, since=18, **both),
            _resize(_X, scales=(1.5, 0.7), axes=[2, 3], run_time=True, since=18, **both),
        ]
    for rounding, transform in product(
        ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"), ("half_pixel", "asymmetric")
    ):
        both = {"nearest_mode": rounding, "coordinate_transformation_mode": transform}
        cases += [
            _resize((2, 3, 6, 4), scales=(1.0, 1.0, 0.5, 3.0), **both),
            _resize((2, 3, 6, 4), scales=(1.0, 1.0, 1.5, 2.0), **both),
            _resize((2, 3, 6, 4), scales=(1.0, 1.0, 1.5, 2.0), dynamic=_FREE, **both),
            _resize((2, 3, 6, 4), scales=(1.0, 1.0, 2.0, 3.0), dynamic=_FREE, **both),
        ]
    for mode, (region, size) in product(
        ("nearest", "linear", "cubic"),
        (
            ((0, 0, 0, 0, 1, 1, 1, 1), (2, 4, 7, 3)),
            ((0, 0, 0.2, 0.4, 1, 1, 0.9, 0.8), (2, 4, 4, 9)),
            ((0, 0, -0.3, 0.6, 1, 1, 0.7, 1.4), (2, 4, 4, 1)),
        ),
    ):
        cases.append(
            one(
                "Resize",
                f"crop,{mode},{region},{size}".replace(" ", ""),
                _X,
                np.array(region, np.float32),
                None,
                np.array(size, np.int64),
                oracle="runtime",
                dynamic={},
                mode=mode,
                coordinate_transformation_mode="tf_crop_and_resize",
                extrapolation_value=0.7,
            )
        )
    symmetric = {"coordinate_transformation_mode": "half_pixel_symmetric", "since": 19}
    return [
        *cases,
        _resize(_X, scales=(1.0, 1.0, 1.0, 1.0)),
        _resize(_X, scales=(1.0, 1.0, 3.0, 1.0), mode="linear"),
        _resize(_X, scales=(1.0, 1.0, 1.1, 1.0), mode="linear"),
        _resize(_X, sizes=(2, 4, 1, 1), mode="linear", dynamic={}),
        _resize((2, 3, 5), scales=(1.0, 1.0, 2.0), coordinate_transformation_mode="asymmetric"),
        _resize((2, 3, 5), scales=(1.0, 2.0, 2.0), mode="nearest"),
        _resize((2, 2, 2, 3, 4), scales=(1.0, 1.0, 2.0, 2.0, 2.0), mode="nearest"),
        _resize((2, 2, 2, 3, 4), scales=(1.0, 1.0, 2.0, 1.5, 0.5), mode="linear"),
        _resize(_X, scales=(1.0, 1.0, 2.0, 1.5), mode="cubic", cubic_coeff_a=-0.5),
        _resize(_X, scales=(1.0, 1.0, 2.0, 0.7), mode="cubic", exclude_outside=1),
        _resize(_X, scales=(1.0, 1.0, 1.3, 0.7), mode="linear", **symmetric),
        _resize(_X, scales=(1.0, 1.0, 1.3, 0.7), mode="nearest", **symmetric),
        _resize(_X, scales=(1.0, 1.0, 1.3, 0.7), mode="linear", dynamic=_FREE, **symmetric),
        _resize(
            _X,
            scales=(1.0, 1.0, 2.0, 0.7),
            mode="cubic",
            exclude_outside=1,
            cubic_coeff_a=-0.5,
            dynamic=_FREE,
        ),
        _resize(_X, scales=(2.0, 1.5), axes=[2, 3], mode="linear", since=18),
        _resize(_X, sizes=(9, 3), axes=[-1, -2], mode="nearest", since=18),
        _resize(_X, scales=(2.0, 2.0), axes=[2, 3], mode="linear", antialias=1, since=18),
        *(
            _resize((2, 3, 9, 11), scales=scales, mode=mode, antialias=1, since=18, **options)
            for scales in ((1.0, 1.0, 0.4, 0.7), (1.0, 1.0, 0.5, 1.6))
            for mode in ("linear", "cubic")
            for options in (
                {},
                {"exclude_outside": 1},
                {"coordinate_transformation_mode": "align_corners"},
            )
        ),
        _resize(
            _X,
            sizes=(9, 9),
            axes=[2, 3],
            mode="linear",
            keep_aspect_ratio_policy="not_larger",
            since=18,
        ),
        _resize(
            _X,
            sizes=(9, 9),
            axes=[2, 3],
            mode="nearest",
            keep_aspect_ratio_policy="not_smaller",
            since=18,
        ),
    ]


CASES = [*_transposed(), *_weights(), *_resized()]
