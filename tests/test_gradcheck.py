"""Tests of the tests: the checker has to fail on wrong rules, and no rule may go unchecked."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import rule_cases_wrong as wrong_rules
from gradcheck import GradientMismatch, check
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException
from rule_case import Case, Node, one, several
from rule_cases import CASES, cases_for, opset_of
from rule_cases_chains import CASES as CHAINS
from rule_cases_kinks import KINKS, check_kink

import deepinside.exporters.export  # noqa: F401  (registers all rules)
from deepinside.exporters import gradient, registry
from deepinside.exporters.builder import Builder
from deepinside.exporters.registry import ForwardNode, RuleFunction
from deepinside.exporters.rules import convolution, movement, pooling, resize
from deepinside.exporters.rules.quantisation import STRAIGHT_THROUGH

Wrong = Callable[[Any, ForwardNode, Builder], Any]

# A graph of wrong shapes is noticed before any number is computed.
_NOTICED = (GradientMismatch, onnx.checker.ValidationError, onnx.shape_inference.InferenceError)
_SHAPES = (*_NOTICED, Fail, InvalidArgument, RuntimeException, ValueError)


# Differences see their staircase, and not the slope under it: tests/test_quantised.py.
_NOT_DERIVATIVES = STRAIGHT_THROUGH | {"DequantizeLinear"}
_DERIVATIVES = sorted(key for key in registry.rules() if key[0] not in _NOT_DERIVATIVES)


def test_every_rule_has_a_case() -> None:
    assert [key for key in _DERIVATIVES if not cases_for(*key)] == []


def test_every_case_belongs_to_a_rule() -> None:
    operators = {operator for operator, _ in registry.rules()}
    assert {case.operator for case in CASES} <= operators


def _no_rule(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
    return g


def test_a_rule_is_registered_once() -> None:
    before = registry.rules()
    with pytest.raises(ValueError, match="Relu version 14 exists already"):
        registry.vjp("Relu", 14)(_no_rule)
    assert registry.rules() == before


@pytest.mark.parametrize(("operator", "version"), [("Relu", 15), ("Relu", 13), ("Rleu", 14)])
def test_a_rule_needs_a_version_that_exists(operator: str, version: int) -> None:
    before = registry.rules()
    with pytest.raises(ValueError, match=f"{operator} has no version {version}"):
        registry.vjp(operator, version)(_no_rule)
    assert registry.rules() == before


def _scaled(function: RuleFunction) -> RuleFunction:
    """The rule, a thousandth too large."""

    def grown(entry: Any, op: Builder) -> Any:
        if entry is None:
            return None
        return lambda: op.Mul(entry() if callable(entry) else entry, 1.001)

    def wrong(g: Any, node: ForwardNode, op: Builder) -> Any:
        result = function(g, node, op)
        entries: Sequence[Any] = (result,) if isinstance(result, ir.Value) else result
        return [grown(entry, op) for entry in entries]

    return wrong


@pytest.mark.parametrize(("operator", "version"), _DERIVATIVES)
def test_a_thousandth_too_much_is_noticed(
    operator: str, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = registry.rules()[operator, version]
    wrong = replace(rule, function=_scaled(rule.function))
    monkeypatch.setitem(registry._RULES, (operator, version), wrong)
    covered: set[str] = set()
    for case in cases_for(operator, version):
        # One case per differentiated input is enough; a slack one can't tell.
        if case.tolerance > 1e-5 or case.flat or set(case.wrt) <= covered:
            continue
        for wrt in case.wrt:
            with pytest.raises(GradientMismatch, match="differences give"):
                check(
                    replace(case, wrt=(wrt,), runtime=(*case.runtime, *case.wrt)), opset_of(version)
                )
        covered.update(case.wrt)
    assert covered


@pytest.mark.parametrize(
    ("operator", "wrong"),
    [
        ("Softmax", wrong_rules.softmax),
        ("LogSoftmax", wrong_rules.identity),
        ("LayerNormalization", wrong_rules.layer_normalization),
        ("BatchNormalization", wrong_rules.batch_normalization),
        ("Gemm", wrong_rules.gemm),
        ("LeakyRelu", wrong_rules.leaky_relu),
        ("Erf", wrong_rules.erf),
        ("Pow", wrong_rules.pow),
        ("Div", wrong_rules.div),
        ("Transpose", wrong_rules.transpose),
        ("Concat", wrong_rules.concat),
        ("ReduceMean", wrong_rules.reduce_mean),
        ("GlobalAveragePool", wrong_rules.identity),
        ("AveragePool", wrong_rules.average_pool),
        ("Clip", wrong_rules.identity),
        ("ReduceProd", wrong_rules.reduce_prod),
        ("CumSum", wrong_rules.cum_sum),
        ("DepthToSpace", wrong_rules.depth_to_space),
    ],
)
def test_a_wrong_rule_is_noticed(
    operator: str, wrong: Wrong, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, version in registry.rules():
        if name == operator:
            rule = replace(registry.rules()[name, version], function=wrong)
            monkeypatch.setitem(registry._RULES, (name, version), rule)
    assert _notices(operator)


def _notices(operator: str, errors: tuple[type[Exception], ...] = _NOTICED) -> bool:
    """Whether a case of the operator's first version fails."""
    version = min(v for o, v in registry.rules() if o == operator)
    cases = cases_for(operator, version)
    return any(_fails(case, opset_of(version), errors=errors) for case in cases)


def _fails(case: Case, opset: int = 17, *, errors: tuple[type[Exception], ...] = _NOTICED) -> bool:
    try:
        check(case, opset)
    except errors:
        return True
    return False


def test_an_unflipped_kernel_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "_flipped", wrong_rules.unflipped)
    assert _notices("Conv")


def test_exchanged_pads_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = wrong_rules.exchanged_pads(convolution.transposed_convolution)
    monkeypatch.setattr(convolution, "transposed_convolution", wrong)
    assert _notices("Conv")


def test_exchanged_pads_of_a_transposed_convolution_are_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = convolution._transposed_pads

    def exchanged(*arguments: Any) -> list[int]:
        pads = right(*arguments)
        half = len(pads) // 2
        return pads[half:] + pads[:half]

    monkeypatch.setattr(convolution, "_transposed_pads", exchanged)
    assert _notices("ConvTranspose")


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_misplaced_pixels_are_noticed(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def corners(node: ForwardNode, size: int, length: int, scale: np.float32) -> Any:
        return np.arange(length, dtype=np.float32) / scale

    monkeypatch.setattr(resize, "_coordinates", corners)
    cases = [c for c in cases_for("Resize", 13) if f"mode={mode}" in c.name]
    assert any(_fails(case) for case in cases)


@pytest.mark.parametrize("operator", ["Gather", "Pad"])
def test_a_lost_copy_is_noticed(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movement, "put_back", wrong_rules.first_only)
    assert _notices(operator)


@pytest.mark.parametrize("operator", ["Slice", "Gather", "MaxPool"])
def test_one_place_off_is_noticed(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Builder, "pad", wrong_rules.shifted_pad)
    assert _notices(operator)


@pytest.mark.parametrize("operator", ["Add", "Mul", "MatMul", "Expand"])
def test_a_missing_sum_over_broadcast_axes_is_noticed(
    operator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradient, "_undo_broadcast", lambda op, forward, rule, g, value: g)
    assert _notices(operator, _SHAPES)


def test_a_compact_cotangent_in_a_broadcasting_node_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gradient, "_takes_compact", lambda op, rule, *_: rule.elementwise)
    noticed = {case.name for case in CHAINS if _fails(case)}
    assert noticed >= {"mean of Add, larger", "mean of Expand", "mean of plus its mean"}


@pytest.mark.parametrize(
    "operator", ["Conv", "MatMul", "Transpose", "Slice", "Pad", "Concat", "AveragePool"]
)
def test_a_compact_cotangent_where_none_is_understood_is_noticed(
    operator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradient, "_takes_compact", lambda *_: True)
    chains = [case for case in CHAINS if case.name == f"mean of {operator}"]
    assert chains
    assert all(_fails(case, errors=_SHAPES) for case in chains)


@pytest.mark.parametrize(
    "operator", ["AveragePool", "Concat", "Conv", "DepthToSpace", "MaxPool", "Pad", "Slice", "Tile"]
)
def test_a_dynamic_size_taken_for_a_static_one_is_noticed(
    operator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_probe(op: Builder, x: ir.Value, axis: int) -> int:
        shape = op.shapes.known(x)
        assert shape is not None
        return shape[axis][0]

    monkeypatch.setattr(Builder, "length", first_probe)
    assert _notices(operator, _SHAPES)


def _kink_fails(operator: str, name: str) -> bool:
    (kink,) = (k for k in KINKS if k.case.operator == operator and k.case.name.startswith(name))
    try:
        check_kink(kink, 20)
    except GradientMismatch:
        return True
    return False


@pytest.mark.parametrize(
    ("operator", "version", "name", "wrong"),
    [
        ("Relu", 14, "zero", wrong_rules.relu_at_zero),
        ("Clip", 13, "relu6", wrong_rules.clip),
        ("Max", 13, "ties (2, 3, 4)with(4,)", wrong_rules.all_winners),
        ("ReduceMax", 20, "rows", wrong_rules.every_extremum),
        ("Where", 16, "root of the positive", wrong_rules.masked),
    ],
)
def test_another_choice_at_a_kink_is_noticed(
    operator: str, version: int, name: str, wrong: Wrong, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = replace(registry.rules()[operator, version], function=wrong)
    monkeypatch.setitem(registry._RULES, (operator, version), rule)
    # Right everywhere else, so that only the kink can tell.
    assert not _notices(operator)
    assert _kink_fails(operator, name)


def test_a_slope_to_the_left_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """GridSample at whole coordinates: Ceil - 1 is Floor everywhere else."""

    def left(op: Builder, x: ir.Value) -> ir.Value:
        return op.Sub(op.Ceil(x), 1.0)

    monkeypatch.setattr(Builder, "Floor", left, raising=False)
    assert _kink_fails("GridSample", "zeros,True")


def test_duplicated_ties_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooling, "_undo_max_along", wrong_rules.every_tie)
    assert _kink_fails("MaxPool", "ties (6, 6),")


def test_an_overwritten_cotangent_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Builder, "Add", lambda op, a, b: op.Identity(b), raising=False)
    assert any(_fails(case) for case in CHAINS if case.name == "square")


def test_a_gradient_that_is_not_a_number_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(g: ir.Value, node: ForwardNode, op: Builder) -> ir.Value:
        return op.Log(op.Neg(op.Exp(g)))

    rule = replace(registry.rules()["Exp", 13], function=wrong)
    monkeypatch.setitem(registry._RULES, ("Exp", 13), rule)
    with pytest.raises(GradientMismatch, match="nan"):
        check(one("Exp", "not a number", (2, 3)), 17)


def test_a_gradient_of_zero_is_noticed() -> None:
    dead = several("chain", "dead", {"x": -np.ones((2, 3))}, Node("Relu", ["x"], ["y"]))
    with pytest.raises(GradientMismatch, match=r"\|dx\| = 0"):
        check(dead, 17)
    check(replace(dead, flat=True), 17)
