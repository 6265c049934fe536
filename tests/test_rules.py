"""Every gradient rule against central differences, in every schema version it is registered for."""

from typing import Any

import numpy as np
import pytest
from gradcheck import check, gradient_model, half_against_single, run_gradient
from rule_case import Case, one
from rule_cases import CASES, cases_for, opset_of
from rule_cases_chains import CASES as CHAINS
from rule_cases_kinks import KINKS, Kink, check_kink

import deepinside.exporters.export  # noqa: F401  (registers all rules)
from deepinside.exporters import GradientError, registry
from deepinside.exporters.registry import ReluMode


def _every_rule() -> list[Any]:
    parameters, seen = [], set()
    for operator, version in sorted(registry.rules()):
        for case in cases_for(operator, version):
            label = f"{operator}-{version}-{case.name}"
            if any(case.dynamic.values()):
                parameters.append(pytest.param(case, version, True, id=f"{label}-dynamic"))
            # The static form is the simpler one: where there are both, its first version will do.
            if case not in seen or not any(case.dynamic.values()):
                parameters.append(pytest.param(case, version, False, id=f"{label}-static"))
            seen.add(case)
    return parameters


@pytest.mark.parametrize(("case", "version", "dynamic"), _every_rule())
def test_gradient_is_the_derivative(case: Case, version: int, dynamic: bool) -> None:
    check(case, opset_of(version), dynamic=dynamic)


@pytest.mark.parametrize(("dynamic", "opset"), [(True, 17), (True, 22), (False, 17)], ids=str)
@pytest.mark.parametrize("case", CHAINS, ids=str)
def test_gradient_of_a_chain_is_the_derivative(case: Case, dynamic: bool, opset: int) -> None:
    check(case, opset, dynamic=dynamic)


@pytest.mark.parametrize("opset", [20, 22])
@pytest.mark.parametrize("kink", KINKS, ids=str)
def test_kinks_and_ties_are_those_of_autograd(kink: Kink, opset: int) -> None:
    check_kink(kink, opset)


def _half_cases() -> list[Any]:
    """One case of each operator; casts choose their own types, and Celu has float32 only."""
    first = {c.operator: c for c in reversed(CASES) if c.operator not in ("Cast", "Celu")}
    scattered = one("Gather", "half", (2, 5, 3), np.array([3, 0, 3]), axis=1, runtime=(1,))
    chosen = [first[operator] for operator in sorted(first)]
    return [pytest.param(case, id=str(case)) for case in (*chosen, scattered)]


@pytest.mark.parametrize("case", _half_cases())
def test_float16_models_have_float16_gradients(case: Case) -> None:
    version = min(v for o, v in registry.rules() if o == case.operator)
    for wrt in case.wrt:
        assert half_against_single(case, wrt, opset_of(version)) < 0.01


@pytest.mark.parametrize("mode", ["gradient", "deconvnet", "guided"])
def test_backward_rules_of_relu(mode: ReluMode) -> None:
    x = np.array([[-1.0, -1.0, 0.0, 0.0, 2.0, 2.0]])
    g = np.array([[-3.0, 4.0, -3.0, 4.0, -3.0, 4.0]], dtype=np.float32)
    expected = {
        "gradient": [[0.0, 0.0, 0.0, 0.0, -3.0, 4.0]],
        "deconvnet": [[0.0, 4.0, 0.0, 4.0, 0.0, 4.0]],
        "guided": [[0.0, 0.0, 0.0, 0.0, 0.0, 4.0]],
    }
    _, dx = run_gradient(one("Relu", mode, x), "x0", g, 17, relu=mode)
    np.testing.assert_array_equal(dx, np.array(expected[mode], dtype=np.float32))


@pytest.mark.parametrize("mode", ["gradient", "deconvnet", "guided"])
def test_backward_rules_of_relu6(mode: ReluMode) -> None:
    x = np.array([[-1.0, -1.0, 2.0, 2.0, 7.0, 7.0]])
    g = np.array([[-3.0, 4.0, -3.0, 4.0, -3.0, 4.0]], dtype=np.float32)
    expected = {
        "gradient": [[0.0, 0.0, -3.0, 4.0, 0.0, 0.0]],
        "deconvnet": [[0.0, 4.0, 0.0, 4.0, 0.0, 4.0]],
        "guided": [[0.0, 0.0, 0.0, 4.0, 0.0, 0.0]],
    }
    bounds = np.array(0.0), np.array(6.0)
    _, dx = run_gradient(one("Clip", mode, x, *bounds), "x0", g, 17, relu=mode)
    np.testing.assert_array_equal(dx, np.array(expected[mode], dtype=np.float32))
    # Other bounds are no rectifier's.
    bounds = np.array(-1.5), np.array(6.0)
    _, dx = run_gradient(one("Clip", mode, x, *bounds), "x0", g, 17, relu=mode)
    np.testing.assert_array_equal(dx, [[-3.0, 4.0, -3.0, 4.0, 0.0, 0.0]])


_YES = np.array(True)
_CHANNELS = (np.ones(3),) * 4
_FREE = {0: (0, 2, 3)}


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (one("Dropout", "training", (2, 3), np.array(0.5), _YES), "training mode"),
        (
            one(
                "BatchNormalization",
                "training",
                (2, 3, 4),
                *_CHANNELS,
                outputs=3,
                training_mode=1,
            ),
            "training mode",
        ),
        (
            one("MaxPool", "late", (2, 3, 6), kernel_shape=[2], strides=[3], ceil_mode=1),
            "nothing but padding",
        ),
        (
            one(
                "Pad",
                "wrap",
                (2, 3, 6),
                np.array([0, 0, 1, 0, 0, 1]),
                dynamic={0: (0, 2)},
                mode="wrap",
            ),
            "axis 2 of 'x0' is dynamic",
        ),
        (
            one(
                "ConvTranspose",
                "one size out",
                (2, 3, 6, 6),
                (3, 4, 3, 3),
                dynamic=_FREE,
                output_shape=[12, 12],
                strides=[2, 2],
            ),
            "is dynamic",
        ),
        (
            one(
                "Conv",
                "weights of unknown size",
                (2, 3, 6, 6),
                (4, 3, 3, 3),
                wrt=(1,),
                runtime=(0,),
                dynamic=_FREE,
            ),
            "is dynamic",
        ),
        (
            one("ReduceL2", "nothing", (2, 3), since=18, noop_with_empty_axes=1),
            "reduces no axis",
        ),
        (
            one("ScatterND", "factor", (3, 4), np.array([[1]]), (1, 4), wrt=(2,), reduction="mul"),
            "input 2",
        ),
        (
            one(
                "Resize",
                "crop",
                (2, 3, 6),
                None,
                np.array([1.0, 1.0, 2.0], np.float32),
                coordinate_transformation_mode="tf_crop_and_resize",
            ),
            "no region",
        ),
        (
            one(
                "Resize",
                "same size",
                (2, 3, 6),
                np.array([0, 0, 0, 1, 1, 0.5], np.float32),
                np.array([1.0, 1.0, 1.0], np.float32),
                coordinate_transformation_mode="tf_crop_and_resize",
            ),
            "ignores",
        ),
    ],
    ids=str,
)
def test_forms_without_a_gradient_are_refused_by_name(case: Case, words: str) -> None:
    wrt = case.wrt[0]
    with pytest.raises(GradientError, match=words) as caught:
        gradient_model(case, wrt, 19)
    assert (caught.value.operator, caught.value.node) == (case.operator, f"{case.operator}_0")
