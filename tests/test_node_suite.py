"""Every float operator of ONNX, measured on ONNX's own node tests."""

import warnings
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import pytest
from gradcheck import GradientMismatch
from node_check import check_case
from node_suite import NodeCase, node_cases

from deepinside.exporters import nondifferentiable, registry
from deepinside.exporters.rules import normalization

# What is refused, as `case:input:output`, with the reason. Exact: a gradient that is refused and
# not listed fails the test, and so does one that is listed and works.
REFUSED: dict[str, tuple[str, ...]] = {
    "training mode": (
        "batchnorm_*_training_mode:*:*",
        "training_dropout:*:0",
        "training_dropout_default:*:0",
        "training_dropout_default_mask:*:0",
        "training_dropout_mask:*:0",
        "training_dropout_zero_ratio:r:0",
        "training_dropout_zero_ratio_mask:r:0",
    ),
    "random numbers": ("bernoulli:x:0", "bernoulli_double:x:0", "bernoulli_seed:x:0"),
    "states that grow from round to round": ("loop11:y:*",),
    "scale and zero point worked out from the values": (
        "dynamicquantizelinear:x:1",
        "dynamicquantizelinear_???_adjusted:x:1",
    ),
    "a size that depends on values": (
        *("onehot_*:depth:0", "range_*_delta:*:0", "resize_*_scales_*:scales:0"),
        *("unique_*:X:0", "upsample_nearest:scales:0"),
    ),
    "mean and deviation of LayerNormalization, which training alone uses": (
        *("layer_normalization_?d_axis?:*:[12]", "layer_normalization_?d_axis_negative_?:*:[12]"),
        *("layer_normalization_3d_axis*_epsilon:*:[12]", "layer_normalization_default_axis:*:[12]"),
    ),
    "the region of interest of a crop": ("resize_tf_crop_and_resize*:roi:0",),
    "factors of a product that may be 0": (
        "scatter_elements_with_reduction_mul:updates:0",
        "scatternd_multiply:updates:0",
    ),
    "no portable form": (
        *("basic_deform_conv_*:*:0", "deform_conv_*:*:0", "det_?d:x:0", "roialign_*:*:0"),
        "gridsample_*bicubic*:*:0",
        "maxunpool_export_with_output_shape:xT:0",
    ),
    "audio and language models": (
        *("cumprod_*:x:0", "melweightmatrix:*_edge_hertz:0", "stft:signal:0"),
        *("stft_with_window:*:0", "tensorscatter*:*:0"),
    ),
    "optional values": ("optional_get_element_tensor:optional_input:0",),
}

# Cases of which no differences can be taken, with the reason; exact too.
INCOMPARABLE: dict[str, tuple[str, ...]] = {
    "a scale counts as a constant: rules/quantisation.py": (
        "dequantizelinear",
        "dequantizelinear_axis",
        "dequantizelinear_e4m3fn",
        "dequantizelinear_e4m3fn_float16",
        "dequantizelinear_e4m3fn_zero_point",
        "dequantizelinear_e5m2",
        "dequantizelinear_uint16",
        "dequantizelinear_int16",
        "dequantizelinear_uint4",
        "dequantizelinear_int4",
        "dequantizelinear_uint2",
        "dequantizelinear_int2",
        "dequantizelinear_float4e2m1",
        "dequantizelinear_blocked",
    ),
    "linear attention, of which no evaluator gives smooth differences": (
        "linear_attention_gated",
        "linear_attention_gated_expanded",
        "linear_attention_gated_per_head_decay",
        "linear_attention_gated_per_head_decay_expanded",
        "linear_attention_delta_expanded",
        "linear_attention_gated_delta",
        "linear_attention_gated_delta_expanded",
        "linear_attention_gated_delta_beta_scalar",
        "linear_attention_gated_delta_beta_scalar_expanded",
        "linear_attention_gated_delta_gqa",
        "linear_attention_gated_delta_mqa",
        "linear_attention_gated_delta_mqa_expanded",
        "linear_attention_explicit_scale",
        "linear_attention_explicit_scale_expanded",
        "linear_attention_fp16",
    ),
    "a batch axis, which Scan had at opset 8 only": ("scan_sum",),
    "random results": (
        "bernoulli_expanded",
        "bernoulli_double_expanded",
        "bernoulli_seed_expanded",
    ),
    "infinite operands and divisors of 0": (
        "mod_float_edge_cases_fmod_0_float16",
        "mod_float_edge_cases_fmod_0_float32",
        "mod_float_edge_cases_fmod_0_float64",
    ),
    "a length that depends on the input": (
        "range_bfloat16_type_positive_delta_expanded",
        "range_float16_type_positive_delta_expanded",
        "range_float_type_positive_delta_expanded",
    ),
}

_PATTERNS = [pattern for patterns in REFUSED.values() for pattern in patterns]
_INCOMPARABLE = {name for names in INCOMPARABLE.values() for name in names}


@pytest.mark.filterwarnings("ignore")  # some cases are about overflow
@pytest.mark.parametrize("case", node_cases(), ids=str)
def test_gradients_of_the_case(case: NodeCase) -> None:
    try:
        found = check_case(case)
    except GradientMismatch:
        if case.name not in _INCOMPARABLE:
            raise
        return
    assert case.name not in _INCOMPARABLE
    refused = {pair: text for pair, text in found.items() if text not in ("checked", "flat")}
    listed = {pair for pair in found if any(fnmatchcase(f"{case}:{pair}", p) for p in _PATTERNS)}
    assert set(refused) == listed, refused


def test_every_entry_of_the_tables_is_a_case() -> None:
    pairs = [
        f"{case}:{wrt}:{output}"
        for case in node_cases()
        for wrt in case.float_inputs
        for output in case.float_outputs
    ]
    assert [p for p in _PATTERNS if not any(fnmatchcase(pair, p) for pair in pairs)] == []
    assert {case.name for case in node_cases()} >= _INCOMPARABLE


def _check(name: str) -> None:
    (case,) = (case for case in node_cases() if case.name == name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_case(case)


@pytest.mark.parametrize(
    "name", ["softmax_axis_1", "tanh", "attention_4d", "attention_3d_gqa_softcap_expanded"]
)
def test_a_wrong_gradient_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousandth too much, in a definition too."""
    for key in (("Softmax", 13), ("Tanh", 13)):
        rule = registry.rules()[key]

        def wrong(g: Any, node: Any, op: Any, rule: registry.Rule = rule) -> Any:
            return op.Mul(rule.function(g, node, op), 1.001)

        monkeypatch.setitem(registry._RULES, key, replace(rule, function=wrong))
    with pytest.raises(GradientMismatch, match="differences give"):
        _check(name)


def test_rows_that_are_masked_as_a_whole_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "attention_23_boolmask_fullymasked_row_nan_robustness"
    _check(name)
    monkeypatch.setattr(normalization, "_is_guarded", lambda value: False)
    with pytest.raises(GradientMismatch, match="nan"):
        _check(name)


def test_an_operator_that_is_wrongly_called_flat_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nondifferentiable, "FLAT", nondifferentiable.FLAT | {"OneHot"})
    with pytest.raises(GradientMismatch, match="is 0, but differences give"):
        _check("onehot_with_axis")
