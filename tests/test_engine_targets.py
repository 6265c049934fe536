"""Which class a target means."""

import numpy as np
import pytest
from engine_fixtures import Recipe, metadata

from deepinside.engine import Contract, TargetError
from deepinside.engine.contract import parse_contract
from deepinside.engine.targets import find_class, plan_targets

LABELS = ["tabby, tabby cat", "tiger cat", "Great Dane", "crane", "crane", "T-shirt"]


def contract(labels: list[str] | None) -> Contract:
    names = {"image": "x", "class_scores": "y"}
    recipe = Recipe(classes=len(LABELS), labels=labels)
    return parse_contract(metadata(recipe, names), where="f.onnx")


@pytest.mark.parametrize(
    ("spec", "index"),
    [
        (2, 2),
        ("2", 2),
        (np.int64(3), 3),
        ("tiger cat", 1),
        ("TIGER CAT", 1),
        ("tiger-cat", 1),
        ("tabby", 0),
        ("tabby cat", 0),
        ("great", 2),
        ("dane", 2),
        ("t shirt", 5),
    ],
)
def test_one_class(spec: int | str, index: int) -> None:
    assert find_class(spec, contract(LABELS)) == index


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (6, "possible: 0 to 5"),
        (-1, "possible: 0 to 5"),
        ("-1", "possible: 0 to 5"),
        (True, "not True"),
        (1.5, "not 1.5"),
        ("zebra", "no class is labelled 'zebra'"),
        ("tab", "similar ones are 0 tabby"),
        ("", "no class is labelled"),
        ("crane", r"2 classes \(3 crane; 4 crane\)"),
        ("cat", r"2 classes \(0 tabby, tabby cat; 1 tiger cat\)"),
    ],
)
def test_no_class(spec: int | str, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        find_class(spec, contract(LABELS))


def test_candidates_are_attributes() -> None:
    with pytest.raises(TargetError) as caught:
        find_class("crane", contract(LABELS))
    assert caught.value.candidates == ((3, "crane"), (4, "crane"))


def test_labels_need_labels() -> None:
    with pytest.raises(TargetError, match="no labels"):
        find_class("tabby", contract(None))


def test_plan() -> None:
    scores = np.array([0.0, 3.0, 1.0, 3.0, -1.0, 2.0])
    plan = plan_targets(["tabby", "top3", 5, 5], contract(LABELS))
    assert plan.first == 0
    assert plan.needs_scores
    assert plan.classes(scores, 1) == [0, 1, 3, 5]
    assert plan_targets("top1", contract(LABELS)).classes(None, 4) == [4]
    equal = plan_targets("top3", contract(LABELS)).classes(np.zeros(1000), 0)
    assert equal == [0, 1, 2]
    for wrong in ("top0", "top7", []):
        with pytest.raises(TargetError):
            plan_targets(wrong, contract(LABELS))
