"""Checks a gradient rule against central differences of the forward model.

A case is a small model. Its gradient graph, built as the exporter builds it, runs on ONNX Runtime
in float32; the derivative that it has to reproduce is taken from the forward model alone, in
float64 by ONNX's reference evaluator. Differences in float32 would be noise, and ONNX Runtime has
few float64 kernels. The reference evaluator is no judge of gradient graphs: onnx 1.23.2 fails on a
valid grouped ConvTranspose.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops import op_grid_sample
from rule_case import Array, Case, model

from deepinside.exporters.builder import Builder
from deepinside.exporters.gradient import backpropagate
from deepinside.exporters.registry import ReluMode
from deepinside.exporters.shapes import probe_shapes

__all__ = [
    "GradientMismatch",
    "Run",
    "check",
    "evaluator",
    "gradient_model",
    "half_against_single",
    "run_gradient",
    "runtime",
    "with_gradient",
]

Run = Callable[[Mapping[str, Array]], list[Array]]


class GradientMismatch(AssertionError):  # noqa: N818  (an assertion, not an error of the program)
    """A gradient graph's result is not the derivative."""


def gradient_model(
    case: Case,
    wrt: str,
    opset: int,
    *,
    dtype: str | None = None,
    dynamic: bool = True,
    relu: ReluMode = "gradient",
) -> onnx.ModelProto:
    """The case's model with input `seed`, the cotangent of `y`, and output `dx`, that of `wrt`."""
    whole = ir.from_proto(model(case, opset, dtype or case.dtype, dynamic=dynamic))
    return with_gradient(whole, wrt, relu=relu)


def with_gradient(
    whole: ir.Model, wrt: str, output: int = 0, *, relu: ReluMode = "gradient"
) -> onnx.ModelProto:
    """A model with input `seed`, the cotangent of one output, and output `dx`, that of `wrt`."""
    graph = whole.graph
    shapes = probe_shapes(whole)
    score = graph.outputs[output]
    image = next(value for value in graph.inputs if value.name == wrt)
    seed = ir.Value(name="seed", shape=score.shape, type=score.type)
    graph.inputs.append(seed)
    shapes.record(seed, shapes.known(score))
    op = Builder(graph, graph.opset_imports[""], shapes)
    gradient = backpropagate(op, seed, score=score, image=image, relu=relu)
    if gradient.producer() is None or gradient.is_graph_output():
        gradient = op.Identity(gradient)
    gradient.name, gradient.shape, gradient.dtype = "dx", image.shape, image.dtype
    graph.outputs.append(gradient)
    proto = ir.to_proto(whole)
    onnx.checker.check_model(proto, full_check=True)
    assert all(node.domain == "" for node in proto.graph.node)
    assert not proto.functions
    return proto


def runtime(proto: onnx.ModelProto) -> Run:
    """The model on ONNX Runtime's CPU provider."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    loaded = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda feeds: loaded.run(None, dict(feeds))


class Erf(OpRun):
    """Erf in the input's precision: onnx 1.23.2 rounds it to float32."""

    op_domain = ""

    def _run(self, x: Array) -> tuple[Array]:
        return (np.asarray(np.vectorize(math.erf)(x), dtype=x.dtype),)


class Gelu(OpRun):
    """Gelu with the Erf above: the evaluator expands it into its own."""

    op_domain = ""

    def _run(self, x: Array, approximate: str) -> tuple[Array]:
        if approximate == "tanh":
            inner = np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))
        else:
            inner = np.vectorize(math.erf)(x * math.sqrt(0.5))
        return ((0.5 * x * (1.0 + inner)).astype(x.dtype),)


class LRN(OpRun):
    """LRN of all channels: onnx 1.23.2 stops at the channel whose number is the batch size."""

    op_domain = ""

    def _run(self, x: Array, alpha: float, beta: float, bias: float, size: int) -> tuple[Array]:
        squares = np.zeros_like(x)
        for c in range(x.shape[1]):
            window = slice(max(0, c - (size - 1) // 2), c + size // 2 + 1)
            squares[:, c] = (x[:, window] ** 2).sum(axis=1)
        return ((x / (bias + alpha / size * squares) ** beta).astype(x.dtype),)


class GroupNormalization(OpRun):
    """GroupNormalization in the input's precision: the function's body goes through float32."""

    op_domain = ""

    def _run(
        self, x: Array, scale: Array, bias: Array, epsilon: float, num_groups: int, stash_type: int
    ) -> tuple[Array]:
        groups = x.reshape(x.shape[0], num_groups, -1)
        centred = groups - groups.mean(axis=2, keepdims=True)
        variance = (centred**2).mean(axis=2, keepdims=True)
        normal = (centred / np.sqrt(variance + epsilon)).reshape(x.shape)
        column = (-1, *[1] * (x.ndim - 2))
        return ((normal * scale.reshape(column) + bias.reshape(column)).astype(x.dtype),)


class GridSample(op_grid_sample.GridSample):  # type: ignore[misc]
    """GridSample with coordinates in the input's precision: onnx 1.23.2 rounds them to float32."""

    op_domain = ""

    def _gs_denormalize_coordinates(self, n: Any, dims: Any, align_corners: bool) -> Array:
        pairs = zip(n, dims, strict=True)
        return np.array([self._gs_denormalize(v, dim, align_corners) for v, dim in pairs])


class GlobalLpPool(OpRun):
    """GlobalLpPool, which onnx 1.23.2 lacks."""

    op_domain = ""

    def _run(self, x: Array, p: int) -> tuple[Array]:
        axes = tuple(range(2, x.ndim))
        return (((np.abs(x) ** p).sum(axis=axes, keepdims=True) ** (1.0 / p)).astype(x.dtype),)


class LpNormalization(OpRun):
    """LpNormalization of absolute values: onnx 1.23.2 adds up signed ones for p = 1."""

    op_domain = ""

    def _run(self, x: Array, axis: int, p: int) -> tuple[Array]:
        norm = (np.abs(x) ** p).sum(axis=axis, keepdims=True) ** (1.0 / p)
        return ((x / np.where(norm == 0.0, 1.0, norm)).astype(x.dtype),)


_OURS: list[type[OpRun]] = [
    Erf,
    Gelu,
    GlobalLpPool,
    GridSample,
    GroupNormalization,
    LpNormalization,
    LRN,
]


def evaluator(proto: onnx.ModelProto) -> Run:
    """The model on ONNX's reference evaluator."""
    loaded = ReferenceEvaluator(proto, new_ops=_OURS)
    return lambda feeds: [np.asarray(result) for result in loaded.run(None, dict(feeds))]


def run_gradient(
    case: Case, wrt: str, seed: Array, opset: int, *, dtype: str | None = None, **options: Any
) -> tuple[Array, Array]:
    """Forward result and gradient at the case's point."""
    kind = dtype or case.dtype
    run = runtime(gradient_model(case, wrt, opset, dtype=kind, **options))
    y, dx = run(_feeds(case, kind) | {"seed": seed})
    return y, dx


def _feeds(case: Case, dtype: str) -> dict[str, Array]:
    return {
        name: value.astype(dtype) if value.dtype == np.float64 else value
        for name, value in case.values.items()
        if name in case.wrt or name in case.runtime
    }


def check(case: Case, opset: int, *, dynamic: bool = True) -> None:
    """Compare the case's gradients with differences of its forward model.

    For two random cotangents `s` of `y` and directions `v` of the input, with `d` the derivative of
    `y` along `v`: `|<v, dx> - <d, s>| <= tolerance * |v| * |dx|`.

    Raises:
        GradientMismatch: a gradient is not the derivative, or not of its input's shape and type.
    """
    load = runtime if case.runs else evaluator
    forward = load(model(case, opset, case.dtype, dynamic=dynamic))
    point = _feeds(case, case.dtype)
    (y,) = forward(point)
    evaluate = runtime if case.oracle == "runtime64" else evaluator
    reference = evaluate(model(case, case.precise or opset, "float64", dynamic=False))

    def precise(feeds: Mapping[str, Array]) -> Array:
        return reference(feeds)[0].astype(np.float64)

    if case.oracle != "runtime":
        expected = precise(_feeds(case, "float64"))
        assert expected.shape == y.shape, f"{case}: the evaluators disagree, use the runtime"
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    for wrt in case.wrt:
        run = load(gradient_model(case, wrt, opset, dynamic=dynamic))
        random = np.random.default_rng(7)
        for _ in range(2):
            s = random.normal(size=y.shape).astype(y.dtype)
            again, dx = run(point | {"seed": s})
            np.testing.assert_allclose(again, y, rtol=1e-5, atol=1e-6)
            _compare_kind(case, wrt, dx, point[wrt])
            gradient = dx.astype(np.float64)
            length = float(np.linalg.norm(gradient))
            if case.flat != (length == 0.0):
                raise GradientMismatch(f"{case}, {wrt}: |dx| = {length}, flat: {case.flat}")
            # Random, and along the gradient, so that an error of scale can't hide.
            v = random.normal(size=dx.shape)
            if np.isfinite(length) and length > 0.0:
                v *= -1.0 if np.vdot(v, gradient) < 0.0 else 1.0  # the two must not cancel
                v += gradient * (np.linalg.norm(v) / length)
            v *= 0.4 / max(float(np.abs(v).max(initial=0.0)), 1e-30)
            if case.oracle != "runtime":
                d = _difference(precise, _feeds(case, "float64"), wrt, v, 1e-4)
            else:
                v = v.astype(case.dtype).astype(np.float64)
                d = _difference(lambda feeds: forward(feeds)[0], point, wrt, v, 1.0)
            found, wanted = float(np.vdot(v, gradient)), float(np.vdot(d, s.astype(np.float64)))
            allowed = case.tolerance * float(np.linalg.norm(v)) * length
            if not abs(found - wanted) <= allowed:  # also when it is not a number
                raise GradientMismatch(
                    f"{case}, {wrt}, opset {opset}: <v, dx> = {found:.9g}, but differences give "
                    f"{wanted:.9g}; allowed is {allowed:.2g}"
                )


def _compare_kind(case: Case, wrt: str, dx: Array, x: Array) -> None:
    if (dx.shape, dx.dtype) != (x.shape, x.dtype):
        raise GradientMismatch(
            f"{case}, {wrt}: the gradient is {dx.dtype} {dx.shape}, its input {x.dtype} {x.shape}"
        )


def _difference(
    run: Callable[[Mapping[str, Array]], Array],
    point: Mapping[str, Array],
    wrt: str,
    v: Array,
    step: float,
) -> Array:
    """Derivative of `run` along v: the central difference."""
    x = point[wrt]
    ahead, behind = (
        run({**point, wrt: np.asarray(x + sign * step * v).astype(x.dtype)}).astype(np.float64)
        for sign in (1.0, -1.0)
    )
    return (ahead - behind) / (2.0 * step)


def half_against_single(case: Case, wrt: str, opset: int) -> float:
    """Relative difference between the float16 and the float32 model's gradients."""
    point = _feeds(case, "float16")
    (y,) = runtime(model(case, opset, "float16", dynamic=True))(point)
    seed = np.random.default_rng(7).normal(size=y.shape).astype(np.float16)
    _, half = runtime(gradient_model(case, wrt, opset, dtype="float16"))(point | {"seed": seed})
    assert half.dtype == np.float16
    wide = {
        name: value.astype(np.float32) if value.dtype == np.float16 else value
        for name, value in (point | {"seed": seed}).items()
    }
    _, single = runtime(gradient_model(case, wrt, opset, dtype="float32"))(wide)
    return float(np.linalg.norm(half.astype(np.float64) - single) / np.linalg.norm(single))
