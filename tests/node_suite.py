"""ONNX's own node tests as test cases of the gradient: models and points written by others.

Every case of `onnx.backend.test.case.node` with a float input and a float output. The case's model
gets its gradient as the exporter builds it, which runs on ONNX Runtime; it has to reproduce
differences of the forward model in float64, by ONNX's reference evaluator. That evaluator is
believed where it reproduces the outputs that the case was published with.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from gradcheck import GradientMismatch, Run, evaluator, runtime, with_gradient
from onnx import TensorProto
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidGraph, NotImplemented

from deepinside.exporters.errors import ExportError
from deepinside.exporters.gradient import path_between
from deepinside.exporters.prepare import prepare
from deepinside.exporters.registry import OPSET_FLOOR
from deepinside.exporters.shapes import probe_shapes

__all__ = ["NodeCase", "check_case", "node_cases"]

Array = np.ndarray

_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_IR_VERSION = 10
# Allowed error, relative to the gradient's length, by type of the model.
_TOLERANCE = {np.float64: 1e-6, np.float32: 1e-4, np.float16: 1e-2}
# Rounding of published results, relative to the largest.
_ROUNDING = {np.dtype(np.float16): 2e-3, np.dtype(ml_dtypes.bfloat16): 2e-2}
# Points that are scaled and shifted, since results or slopes are infinite at the published ones.
_MOVED = {"pow": (0.1, 0.5)}
# Float inputs that are settings, constant in a classifier.
_SETTINGS = {("Resize", 1), ("Resize", 2), ("Upsample", 1), ("Dropout", 1), ("OneHot", 1)}


@dataclass(frozen=True, eq=False)
class NodeCase:
    """One of ONNX's node tests.

    Attributes:
        name: without the leading `test_`.
        model: the case's model, at opset 17 or later; bfloat16 is replaced by float32, since ONNX
            Runtime has few kernels for it.
        point: the inputs, by name.
        results: the published outputs.
    """

    name: str
    model: onnx.ModelProto
    point: Mapping[str, Array]
    results: Sequence[Array]

    def __str__(self) -> str:
        return self.name

    @property
    def float_inputs(self) -> list[str]:
        """Names of the inputs that could be an image."""
        return [value.name for value in self.model.graph.input if _is_float(value)]

    @property
    def float_outputs(self) -> list[int]:
        """Positions of the outputs that could be scores."""
        return [i for i, value in enumerate(self.model.graph.output) if _is_float(value)]


@cache
def node_cases() -> tuple[NodeCase, ...]:
    """All cases of the default domain with a float input and a float output."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they compute out of range on purpose
        from onnx.backend.test.case.node import collect_testcases

        collected = collect_testcases(None)
    cases = []
    for each in collected:
        model = onnx.ModelProto.FromString(each.model.SerializeToString())
        if any(node.domain for node in model.graph.node):
            continue
        _change_types(model.graph, (TensorProto.BFLOAT16,), TensorProto.FLOAT)
        inputs, results = ([_array(value) for value in values] for values in each.data_sets[0])
        name = each.name.removeprefix("test_")
        inputs = [_single(value) for value in inputs]
        point = dict(zip((value.name for value in model.graph.input), inputs, strict=True))
        case = NodeCase(name, _lifted(model), point, results)
        if case.float_inputs and case.float_outputs:
            cases.append(case)
    return tuple(cases)


def _dtype_of(value: onnx.ValueInfoProto) -> np.dtype[Any]:
    return onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)


def _is_float(value: onnx.ValueInfoProto) -> bool:
    return value.type.HasField("tensor_type") and value.type.tensor_type.elem_type in _FLOATS


def _array(value: Any) -> Any:
    """A published value as an array; sequences and omitted optionals stay what they are."""
    if isinstance(value, TensorProto):
        return onnx.numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic | float | int) else value


def _single(value: Any) -> Any:
    is_brain = isinstance(value, np.ndarray) and value.dtype == ml_dtypes.bfloat16
    return value.astype(np.float32) if is_brain else value


def _change_types(graph: onnx.GraphProto, old: Sequence[int], new: int) -> None:
    """Replace float types by another, in casts, constants and inner graphs too."""
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in old:
            value.type.tensor_type.elem_type = new
    tensors = [*graph.initializer]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _change_types(attribute.g, old, new)
            if attribute.HasField("t"):
                tensors.append(attribute.t)
            if attribute.name in ("to", "dtype", "softmax_precision") and attribute.i in old:
                attribute.i = new
            if attribute.name in ("value_float", "value_floats") and TensorProto.FLOAT in old:
                numbers = onnx.helper.get_attribute_value(attribute)
                attribute.Clear()
                attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
                attribute.t.CopyFrom(onnx.numpy_helper.from_array(np.array(numbers, np.float32)))
                tensors.append(attribute.t)
    for tensor in tensors:
        if tensor.data_type in old:
            array = onnx.numpy_helper.to_array(tensor)
            kind = onnx.helper.tensor_dtype_to_np_dtype(new)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(kind), tensor.name))


def _lifted(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model at opset 17 or later: by number alone where its operators are the same there."""
    model.ir_version = _IR_VERSION
    (opset,) = (each for each in model.opset_import if each.domain == "")
    if opset.version >= OPSET_FLOOR:
        return model
    same = all(
        onnx.defs.get_schema(node.op_type, opset.version, "").since_version
        == onnx.defs.get_schema(node.op_type, OPSET_FLOOR, "").since_version
        for node in model.graph.node
    )
    if same:
        opset.version = OPSET_FLOOR
        return model
    return onnx.version_converter.convert_version(model, OPSET_FLOOR)


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
        whole = _prepared(case, wrt)
        gradients: dict[int, Run | None] = {}
        for output in case.float_outputs:
            try:
                gradients[output] = _gradient(whole, wrt, output)
                found[f"{wrt}:{output}"] = "flat" if gradients[output] is None else "checked"
            except ExportError as error:
                found[f"{wrt}:{output}"] = str(error)
        if gradients:
            _compare(case, whole, wrt, gradients)
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
        if value.name != wrt and (not _is_float(value) or value.name in settings):
            tensor = onnx.numpy_helper.from_array(case.point[value.name], value.name)
            model.graph.initializer.append(tensor)
            model.graph.input.remove(value)
    return prepare(ir.from_proto(model))


def _gradient(whole: ir.Model, wrt: str, output: int) -> Run | None:
    """The gradient model, ready to run; None where no path leads from the input to the output."""
    model = whole.clone()
    probe_shapes(model)  # fills in types, without which there are no paths
    image = next(value for value in model.graph.inputs if value.name == wrt)
    if not path_between(model.graph, image, model.graph.outputs[output]):
        return None
    proto = with_gradient(model, wrt, output)
    try:
        run = runtime(proto)
    except (NotImplemented, InvalidGraph):  # no kernel of this version or type
        run = evaluator(proto)
    names = {value.name for value in proto.graph.input}
    return lambda feeds: run({name: value for name, value in feeds.items() if name in names})


@dataclass(frozen=True)
class _Oracle:
    """A way to compute the forward results.

    Attributes:
        run: from inputs to outputs, in float64 or close to it.
        step: of differences.
        slack: factor on the tolerance.
    """

    run: Run
    step: float = 1e-6
    slack: float = 1.0


def _oracles(case: NodeCase, whole: ir.Model) -> Iterator[_Oracle]:
    """Evaluators that reproduce the case's published outputs, the most precise one first."""
    wide = onnx.ModelProto.FromString(case.model.SerializeToString())
    _change_types(wide.graph, _FLOATS, TensorProto.DOUBLE)
    expanded = ir.to_proto(whole)
    _change_types(expanded.graph, _FLOATS, TensorProto.DOUBLE)
    single = onnx.ModelProto.FromString(case.model.SerializeToString())
    _change_types(single.graph, _FLOATS, TensorProto.FLOAT)
    for model, load, oracle in (
        (wide, evaluator, {}),
        (expanded, evaluator, {}),
        (single, runtime, {"step": 1e-2, "slack": 100.0}),
    ):
        names = {value.name for value in model.graph.input}
        kind = np.float32 if load is runtime else np.float64
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                loaded = load(model)

                def run(
                    feeds: Mapping[str, Array],
                    loaded: Run = loaded,
                    names: set[str] = names,
                    kind: Any = kind,
                ) -> list[Array]:
                    given = {name: value for name, value in feeds.items() if name in names}
                    return loaded({n: _as(kind, value) for n, value in given.items()})

                results = run(case.point)
            except Exception:
                continue
            if all(
                not _is_float_array(theirs) or _close(ours, theirs)
                for ours, theirs in zip(results, case.results, strict=True)
            ):
                yield _Oracle(run, **oracle)


def _is_float_array(value: Any) -> bool:
    brain = isinstance(value, np.ndarray) and value.dtype == ml_dtypes.bfloat16
    return brain or (isinstance(value, np.ndarray) and value.dtype.kind == "f")


def _as(kind: Any, value: Any) -> Any:
    return value.astype(kind) if _is_float_array(value) else value


def _close(ours: Array, theirs: Array) -> bool:
    """Equal but for the published numbers' rounding."""
    rounding = _ROUNDING.get(theirs.dtype, 1e-4)
    if ours.shape != theirs.shape:
        return False
    finite = np.where(np.isfinite(theirs), np.abs(theirs.astype(np.float64)), 0.0)
    floor = rounding * float(finite.max(initial=0.0))
    return bool(
        np.allclose(
            ours, theirs.astype(np.float64), rtol=rounding, atol=floor + 1e-9, equal_nan=True
        )
    )


def _compare(
    case: NodeCase, whole: ir.Model, wrt: str, gradients: Mapping[int, Run | None]
) -> None:
    """Compare with differences, beside the case's point where that lies on a kink or a tie."""
    kind = case.point[wrt].dtype
    random = np.random.default_rng(7)
    scale, offset = _MOVED.get(case.name, (1.0, 0.0))
    x = case.point[wrt].astype(np.float64) * scale + offset
    for oracle in _oracles(case, whole):
        for distance in (0.0, 0.01, 0.03):
            moved = x + distance * np.where(np.isfinite(x), random.normal(size=x.shape), 0.0)
            point = {
                name: np.asarray(_as(np.float64, value) * scale + offset)
                if _is_float_array(value)
                else value
                for name, value in case.point.items()
            }
            point[wrt] = np.asarray(moved).astype(kind).astype(np.float64)
            if _compare_at(case, oracle, point, wrt, gradients, random):
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
    for _ in range(2):
        v = random.normal(size=point[wrt].shape)
        seeds, results = {}, {}
        for output, run in gradients.items():
            seed = random.normal(size=here[output].shape)
            seed = np.where(np.isfinite(here[output]), seed, 0.0)
            seeds[output] = seed.astype(_dtype_of(case.model.graph.output[output]))
            if run is None:
                continue
            dx = run({**feeds, "seed": seeds[output]})[-1]
            if (dx.shape, dx.dtype) != (v.shape, kind):
                raise GradientMismatch(f"{case}: the gradient of {wrt} is {dx.dtype} {dx.shape}")
            results[output] = dx.astype(np.float64)
            length = float(np.linalg.norm(results[output]))
            if np.isfinite(length) and length > 0.0:
                v *= -1.0 if np.vdot(v, results[output]) < 0.0 else 1.0  # they must not cancel
                v += results[output] * (np.linalg.norm(v) / length)
        v /= max(float(np.abs(v).max(initial=0.0)), 1e-30)
        ahead, behind = (
            oracle.run({**point, wrt: np.asarray(point[wrt] + sign * oracle.step * v)})
            for sign in (1.0, -1.0)
        )
        for output, seed in seeds.items():
            if not ahead[output].shape == here[output].shape == behind[output].shape:
                return False
            finite = np.isfinite(here[output])
            with np.errstate(invalid="ignore"):
                slopes = [
                    np.where(finite, (b - a).astype(np.float64) / oracle.step, 0.0)
                    for a, b in ((here[output], ahead[output]), (behind[output], here[output]))
                ]
            scale = max((float(np.abs(slope).max(initial=0.0)) for slope in slopes), default=0.0)
            smooth = np.allclose(*slopes, rtol=0.0, atol=1e-3 * oracle.slack**0.5 * scale + 1e-7)
            if not smooth or scale > 1e3 * (1.0 + np.abs(here[output][finite]).max(initial=0.0)):
                return False
            d = (slopes[0] + slopes[1]) / 2.0
            gradient = results.get(output, np.zeros_like(v))
            found, wanted = float(np.vdot(v, gradient)), float(np.vdot(d, seed.astype(np.float64)))
            size = float(np.linalg.norm(v) * np.linalg.norm(gradient))
            allowed = _TOLERANCE[kind.type] * oracle.slack * (size + 1e-3)
            if not abs(found - wanted) <= allowed:
                raise GradientMismatch(
                    f"{case}, {wrt}: <v, dx> of output {output} is {found:.9g}, but differences "
                    f"give {wanted:.9g}; allowed is {allowed:.2g}"
                )
    return True
