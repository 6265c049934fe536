"""Checks the gradients of one of ONNX's node tests against differences of its forward model.

The gradient is built as the exporter builds it and runs on ONNX Runtime. Differences are taken in
float64 by ONNX's reference evaluator, which is believed where it reproduces the outputs that the
case was published with; else by ONNX Runtime in float32, with large steps.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from gradcheck import GradientMismatch, Run, evaluator, runtime, with_gradient
from node_suite import FLOATS, Array, NodeCase, change_types, dtype_of, is_float
from onnx import TensorProto
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidGraph, NotImplemented

from deepinside.exporters.errors import ExportError
from deepinside.exporters.gradient import path_between, reached_from
from deepinside.exporters.prepare import prepare
from deepinside.exporters.shapes import probe_shapes

__all__ = ["check_case"]

# Allowed error, relative to the gradient's length, by type of the model.
_TOLERANCE = {np.float64: 1e-6, np.float32: 1e-4, np.float16: 1e-2}
# Rounding of published results, relative to the largest.
_ROUNDING = {np.dtype(np.float16): 2e-3, np.dtype(ml_dtypes.bfloat16): 2e-2}
# Factor and offset of points at which results or slopes are infinite.
_MOVED = {"acosh_example": (1.0, 0.5), "pow": (0.1, 0.5)}
# Factor on the tolerance, for differences of nearly equal numbers in float32: two sums of 6480
# terms, and 1 - tanh^2 of saturated cells.
_CANCELLING = {
    "sce_NCd1d2d3d4d5_mean_weight_log_prob": 10.0,
    "rnn_seq_length": 30.0,
    "simple_rnn_bidirectional": 100.0,
}
# Cases that ONNX Runtime computes otherwise than published: with align_corners, it takes the
# rounded size of the output for the exact one. The gradient is that of the runtime.
_AS_THE_RUNTIME = {
    "resize_downsample_scales_linear_align_corners",
    "resize_downsample_scales_cubic_align_corners",
}
# Float inputs that are settings, constant in a classifier.
_SETTINGS = {("Resize", 1), ("Resize", 2), ("Upsample", 1), ("Dropout", 1), ("OneHot", 1)}


def check_case(case: NodeCase) -> dict[str, str]:
    """Check the gradients of all float outputs with respect to all float inputs.

    Returns:
        For every `input:output` what was found: `checked`, `flat` (no differentiable path leads
        from one to the other, and differences are 0), or why the gradient is refused.

    Raises:
        GradientMismatch: a gradient is not the derivative.
    """
    found: dict[str, str] = {}
    for wrt in case.float_inputs:
        prepared = _prepared(case, wrt)
        gradients: dict[int, Run | None] = {}
        for output in case.float_outputs:
            try:
                gradients[output] = _gradient(prepared, wrt, output)
                found[f"{wrt}:{output}"] = "flat" if gradients[output] is None else "checked"
            except ExportError as error:
                found[f"{wrt}:{output}"] = str(error)
        if gradients:
            _compare(case, prepared, wrt, gradients)
    return found


def _prepared(case: NodeCase, wrt: str) -> ir.Model:
    """The model as the exporter prepares it; integers and settings are constants."""
    model = onnx.ModelProto.FromString(case.model.SerializeToString())
    settings = {
        name
        for node in model.graph.node
        for index, name in enumerate(node.input)
        if (node.op_type, index) in _SETTINGS
    }
    for value in list(model.graph.input):
        if value.name != wrt and (not is_float(value) or value.name in settings):
            tensor = onnx.numpy_helper.from_array(case.point[value.name], value.name)
            model.graph.initializer.append(tensor)
            model.graph.input.remove(value)
    prepared = prepare(ir.from_proto(model))
    probe_shapes(prepared)  # fills in types, by which paths are found
    return prepared


def _gradient(prepared: ir.Model, wrt: str, output: int) -> Run | None:
    """The gradient model, ready to run; None where no path leads from the input to the output."""
    image = next(value for value in prepared.graph.inputs if value.name == wrt)
    reached = reached_from(prepared.graph, [image])
    if not path_between(prepared.graph, reached, [prepared.graph.outputs[output]]):
        return None
    proto = with_gradient(prepared.clone(), wrt, output)
    try:
        return _given(proto, runtime(proto))
    except (NotImplemented, InvalidGraph):  # no kernel of this version or type
        return _given(proto, evaluator(proto))


def _given(proto: onnx.ModelProto, run: Run) -> Run:
    """The model's run, of those feeds that are inputs of it."""
    names = {value.name for value in proto.graph.input}
    return lambda feeds: run({name: value for name, value in feeds.items() if name in names})


@dataclass(frozen=True)
class _Oracle:
    """A way to compute the forward results.

    Attributes:
        run: from inputs to outputs.
        step: of differences.
        slack: factor on the tolerance.
    """

    run: Run
    step: float = 1e-6
    slack: float = 1.0


def _oracles(case: NodeCase, prepared: ir.Model) -> Iterator[_Oracle]:
    """Evaluators that reproduce the case's published outputs, the most precise one first."""
    if case.name not in _AS_THE_RUNTIME:
        slack = _CANCELLING.get(case.name.removesuffix("_expanded"), 1.0)
        # The evaluator runs a function of ONNX in float32 at places; the prepared model has its
        # body, which is made float64.
        for model in (case.model, ir.to_proto(prepared)):
            run = _evaluator_of(model)
            if _reproduces(case, run):
                yield _Oracle(run, slack=slack)
    single = onnx.ModelProto.FromString(case.model.SerializeToString())
    change_types(single.graph, FLOATS, TensorProto.FLOAT)
    try:
        run = _in_type(np.float32, _given(single, runtime(single)))
    except (NotImplemented, InvalidGraph):
        return
    if case.name in _AS_THE_RUNTIME or _reproduces(case, run):
        yield _Oracle(run, step=1e-2, slack=100.0)


def _evaluator_of(model: onnx.ModelProto) -> Run:
    wide = onnx.ModelProto.FromString(model.SerializeToString())
    change_types(wide.graph, FLOATS, TensorProto.DOUBLE)
    return _in_type(np.float64, _given(wide, evaluator(wide)))


def _in_type(kind: Any, run: Run) -> Run:
    return lambda feeds: run({name: _as(kind, value) for name, value in feeds.items()})


def _reproduces(case: NodeCase, run: Run) -> bool:
    """Whether the published results come out, as far as they are rounded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # overflow, which some cases are about
        try:
            results = run(case.point)
        except Exception:  # the evaluator raises whatever NumPy does; another one is asked then
            return False
    return all(
        not _is_float_array(theirs) or _close(ours, theirs)
        for ours, theirs in zip(results, case.results, strict=True)
    )


def _close(ours: Array, theirs: Array) -> bool:
    if ours.shape != theirs.shape:
        return False
    rounding = _ROUNDING.get(theirs.dtype, 1e-4)
    wide = theirs.astype(np.float64)
    largest = float(np.abs(wide[np.isfinite(wide)]).max(initial=0.0))
    floor = rounding * largest + 1e-9
    return np.allclose(ours, wide, rtol=rounding, atol=floor, equal_nan=True)


def _is_float_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) and (
        value.dtype.kind == "f" or value.dtype == ml_dtypes.bfloat16
    )


def _as(kind: Any, value: Any) -> Any:
    return np.asarray(value).astype(kind) if _is_float_array(value) else value


def _compare(
    case: NodeCase, prepared: ir.Model, wrt: str, gradients: Mapping[int, Run | None]
) -> None:
    """Compare with differences, beside the case's point where that lies on a kink or a tie."""
    kind = case.point[wrt].dtype
    random = np.random.default_rng(7)
    factor, offset = _MOVED.get(case.name, (1.0, 0.0))
    point = {
        name: np.asarray(_as(np.float64, value) * factor + offset)
        if _is_float_array(value)
        else value
        for name, value in case.point.items()
    }
    for oracle in _oracles(case, prepared):
        for distance in (0.0, 0.01, 0.03):
            noise = np.where(np.isfinite(point[wrt]), random.normal(size=point[wrt].shape), 0.0)
            moved = np.asarray(point[wrt] + distance * noise).astype(kind).astype(np.float64)
            if _compare_at(case, oracle, {**point, wrt: moved}, wrt, gradients, random):
                return
    raise GradientMismatch(f"{case}, {wrt}: no differences can be taken")


def _compare_at(
    case: NodeCase,
    oracle: _Oracle,
    point: Mapping[str, Array],
    wrt: str,
    gradients: Mapping[int, Run | None],
    random: np.random.Generator,
) -> bool:
    """Compare `<v, dx>` with `<d, s>`, as gradcheck does; False where the function has a kink.

    There the slopes ahead and behind differ. The choice at kinks is PyTorch's, which
    rule_cases_kinks.py checks.
    """
    here = oracle.run(point)
    kind = case.point[wrt].dtype
    feeds = {name: _as(case.point[name].dtype, value) for name, value in point.items()}
    v = random.normal(size=point[wrt].shape)
    pairs: list[tuple[int, Array, Array]] = []
    for output, run in gradients.items():
        for _ in range(2):
            seed = random.normal(size=here[output].shape)
            seed = np.where(np.isfinite(here[output]), seed, 0.0)
            seed = seed.astype(dtype_of(case.model.graph.output[output]))
            dx = np.zeros(v.shape, kind) if run is None else run({**feeds, "seed": seed})[-1]
            if (dx.shape, dx.dtype) != (v.shape, kind):
                raise GradientMismatch(f"{case}: the gradient of {wrt} is {dx.dtype} {dx.shape}")
            gradient = dx.astype(np.float64)
            pairs.append((output, seed.astype(np.float64), gradient))
            length = float(np.linalg.norm(gradient))
            if np.isfinite(length) and length > 0.0:
                v *= -1.0 if np.vdot(v, gradient) < 0.0 else 1.0  # the two must not cancel
                v += gradient * (np.linalg.norm(v) / length)
    v /= max(float(np.abs(v).max(initial=0.0)), 1e-30)
    ahead, behind = (
        oracle.run({**point, wrt: np.asarray(point[wrt] + sign * oracle.step * v)})
        for sign in (1.0, -1.0)
    )
    for output, seed, gradient in pairs:
        d = _slope([behind[output], here[output], ahead[output]], oracle)
        if d is None:
            return False
        found, wanted = float(np.vdot(v, gradient)), float(np.vdot(d, seed))
        size = float(np.linalg.norm(v) * np.linalg.norm(gradient))
        allowed = _TOLERANCE[kind.type] * oracle.slack * (size + 1e-3)
        if not abs(found - wanted) <= allowed:
            raise GradientMismatch(
                f"{case}, {wrt}: <v, dx> of output {output} is {found:.9g}, but differences give "
                f"{wanted:.9g}; allowed is {allowed:.2g}"
            )
    return True


def _slope(values: Sequence[Array], oracle: _Oracle) -> Array | None:
    """The central difference of three values, or None when they show a kink or a jump."""
    if len({value.shape for value in values}) > 1:
        return None
    behind, here, ahead = (value.astype(np.float64) for value in values)
    finite = np.isfinite(here)
    with np.errstate(invalid="ignore"):
        first, second = (
            np.where(finite, (b - a) / oracle.step, 0.0) for a, b in ((behind, here), (here, ahead))
        )
    steepest = max(float(np.abs(slope).max(initial=0.0)) for slope in (first, second))
    kinked = not np.allclose(
        first, second, rtol=0.0, atol=1e-3 * oracle.slack**0.5 * steepest + 1e-7
    )
    jumps = steepest > 1e3 * (1.0 + float(np.abs(here[finite]).max(initial=0.0)))
    return None if kinked or jumps else (first + second) / 2.0
