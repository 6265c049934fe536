"""Resize: for fixed sizes a linear map along each axis, whose transpose is its gradient."""

import math

import numpy as np
import onnx_ir as ir

from deepinside.exporters.builder import Builder
from deepinside.exporters.registry import Cotangents, ForwardNode, vjp
from deepinside.exporters.rules.movement import put_back
from deepinside.exporters.rules.resampling import Scale, multiply_along, resample_back

__all__: list[str] = []


@vjp("Resize", 13, 18, 19)
def resize(g: ir.Value, node: ForwardNode, op: Builder) -> Cotangents:
    """DX = the transpose of each axis' interpolation, applied to g.

    Nearest: an AveragePool times its window where each value is repeated, else a sum of Gathers.
    Linear and cubic, and crops: a MatMul with the weights, worked out here, or at run time where
    the size is dynamic (then also of nearest).
    """
    rank = node.rank(node.x)
    if node.attribute("coordinate_transformation_mode") == "tf_crop_and_resize":
        for axis, crop in _crops(node).items():
            g = multiply_along(g, axis, op.constant(crop, g.dtype), rank, op)
        return (g,)
    result = node.shapes.known(node.y)
    if node.shape(node.x) == result:
        return (g,)  # a copy in ONNX Runtime, also where a scale of 1.1 rounds to the same size
    scales = _scales(node, op)
    nearest = node.attribute("mode") == "nearest"
    if nearest and (factors := _repeats(node, scales)):
        pads = [0] * (2 * len(factors))
        mean = op.AveragePool(g, kernel_shape=factors, strides=factors, pads=pads)
        return (op.Mul(mean, float(math.prod(factors))),)
    for axis, scale in scales.items():
        size, length = op.length(node.x, axis), op.length(node.y, axis)
        if not (
            isinstance(scale, np.float32) and isinstance(size, int) and isinstance(length, int)
        ):
            g = resample_back(g, node, axis, scale, op)
            continue
        at = _coordinates(node, size, length, scale)
        if nearest:
            g = put_back(g, _nearest(node, at, size), axis, size, rank, op)
        else:
            weights = op.constant(_weights(node, at, size, scale), node.x.dtype)
            g = multiply_along(g, axis, weights, rank, op)
    return (g,)


def _crops(node: ForwardNode) -> dict[int, np.ndarray]:
    """The weights of each axis of which the region of interest is not the whole, in its own size.

    What lies outside the input is the extrapolation value, and has no weight.
    """
    rank, roi = node.rank(node.x), node.constant(1)
    if roi is None:
        raise node.error("it crops (tf_crop_and_resize) and gives no region of interest.")
    chosen = [node.axis(node.x, int(axis)) for axis in node.attribute("axes") or range(rank)]
    found = {}
    for i, axis in enumerate(chosen):
        start, end = np.float32(roi[i]), np.float32(roi[len(chosen) + i])
        if node.dim(node.x, axis) == node.dim(node.y, axis):
            if start == 0.0 and end == 1.0:
                continue
            raise node.error(f"it crops axis {axis} to its own size, which ONNX Runtime ignores.")
        size, length = node.size(node.x, axis), node.size(node.y, axis)
        last = np.float32(size - 1)
        if length > 1:
            step = (end - start) * last / np.float32(length - 1)
            at = start * last + np.arange(length, dtype=np.float32) * step
        else:
            at = np.array([(start + end) * last / 2], dtype=np.float32)
        if node.attribute("mode") == "nearest":
            weights = np.eye(size)[_nearest(node, at, size)]
        else:
            weights = _weights(node, at, size, np.float32(length) / np.float32(size))
        found[axis] = weights * ((at >= 0) & (at <= last))[:, None]
    return found


def _scales(node: ForwardNode, op: Builder) -> dict[int, Scale]:
    """The scale of each resized axis.

    Raises:
        GradientError: the node keeps the aspect ratio of a dynamic size.
    """
    rank, result = node.rank(node.x), node.shapes.known(node.y)
    chosen = [node.axis(node.x, int(axis)) for axis in node.attribute("axes") or range(rank)]
    scales: dict[int, Scale] = {}
    if node.input(3) is None:
        given = node.shapes.constant(node.input(2))
        if given is None:
            computed = node.inputs[2]
            return {axis: op.Gather(computed, [i], axis=0) for i, axis in enumerate(chosen)}
        scales = {axis: np.float32(s) for axis, s in zip(chosen, given, strict=True) if s != 1.0}
    else:
        for axis in chosen:
            size, length = op.length(node.x, axis), op.length(node.y, axis)
            if isinstance(size, int) and isinstance(length, int):
                if size != length:
                    scales[axis] = np.float32(length) / np.float32(size)
            elif result is None or node.dim(node.x, axis) != result[axis]:
                scales[axis] = None
        policy = node.attribute("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            sizes = node.constant(3)
            assert sizes is not None
            ratios = [s / node.size(node.x, a) for a, s in zip(chosen, sizes, strict=True)]
            one = np.float32(min(ratios) if policy == "not_larger" else max(ratios))
            scales = {axis: one for axis in chosen if one != 1.0}
    return scales


def _repeats(node: ForwardNode, scales: dict[int, Scale]) -> list[int] | None:
    """How often each value is repeated along each spatial axis; None where one is not evenly.

    Whether it is depends on the scale alone, not on the size: looked at in all probes.
    """
    factors = [1] * (node.rank(node.x) - 2)
    for axis, scale in scales.items():
        if axis < 2 or not isinstance(scale, np.float32) or scale < 2:
            return None
        factors[axis - 2] = int(scale)
        for size, length in zip(node.dim(node.x, axis), node.dim(node.y, axis), strict=True):
            origin = _nearest(node, _coordinates(node, size, length, scale), size)
            if not np.array_equal(origin, np.repeat(np.arange(size), int(scale))):
                return None
    return factors if scales else None


def _coordinates(node: ForwardNode, size: int, length: int, scale: np.float32) -> np.ndarray:
    """Where each of `length` outputs lies in the input; in float32, as runtimes round it."""
    at, half = np.arange(length, dtype=np.float32), np.float32(0.5)
    mode = node.attribute("coordinate_transformation_mode")
    if mode == "align_corners":
        return np.asarray(at * np.float32(size - 1) / np.float32(max(length - 1, 1)))
    if mode == "asymmetric":
        return np.asarray(at / scale, dtype=np.float32)
    if mode == "tf_half_pixel_for_nn":
        return np.asarray((at + half) / scale, dtype=np.float32)
    if mode == "pytorch_half_pixel" and length == 1:
        return at
    pixels = (at + half) / scale - half
    if mode == "half_pixel_symmetric":
        adjustment = np.float32(length) / (scale * np.float32(size))
        pixels = pixels + np.float32(size) * half * (np.float32(1.0) - adjustment)
    return np.asarray(pixels, dtype=np.float32)


def _nearest(node: ForwardNode, at: np.ndarray, size: int) -> np.ndarray:
    """The input that each output copies."""
    below = np.floor(at)
    mode = node.attribute("nearest_mode")
    if mode == "floor":
        found = below
    elif mode == "ceil":
        found = np.ceil(at)
    else:
        half = at - below == 0.5
        found = np.where(half, below + (mode == "round_prefer_ceil"), np.floor(at + 0.5))
    return np.asarray(np.clip(found, 0, size - 1), dtype=np.int64)


def _weights(node: ForwardNode, at: np.ndarray, size: int, scale: np.float32) -> np.ndarray:
    """The weight of every input in every output, (outputs, inputs); outside is the edge's value.

    With exclude_outside the weights inside are scaled to a sum of 1 instead. With antialias the
    kernel is as wide as an output where that is wider than an input.
    """
    cubic = node.attribute("mode") == "cubic"
    width = 1.0 / min(1.0, float(scale)) if node.attribute("antialias", 0) else 1.0
    radius = (2.0 if cubic else 1.0) * width
    at = at.astype(np.float64)
    first = np.floor(at - radius) + 1.0
    weights = np.zeros((len(at), size))
    for tap in range(math.ceil(2.0 * radius)):
        place = first + tap
        distance = np.abs(at - place) / width
        weight = _kernel(distance, float(node.attribute("cubic_coeff_a")), cubic=cubic)
        if node.attribute("exclude_outside"):
            weight = np.where((place >= 0) & (place < size), weight, 0.0)
        inside = np.clip(place, 0, size - 1).astype(np.int64)
        np.add.at(weights, (np.arange(len(at)), inside), weight)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _kernel(distance: np.ndarray, a: float, *, cubic: bool) -> np.ndarray:
    """The interpolation kernel: a triangle, or Keys' cubic with parameter a."""
    d = distance
    if not cubic:
        return np.maximum(1.0 - d, 0.0)
    near = ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
    far = ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a
    return np.where(d <= 1.0, near, np.where(d < 2.0, far, 0.0))
