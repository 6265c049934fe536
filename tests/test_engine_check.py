"""The check passes right gradients and, above all, fails wrong ones."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from engine_fixtures import Recipe, pictures, write
from onnx import numpy_helper

from deepinside.engine import Engine, SettingError, TaskError

SIZE = Recipe(size=(16, 24), record=None)


@pytest.mark.parametrize(
    "recipe",
    [SIZE, SIZE.but(layout="NHWC"), SIZE.but(layout="flat"), SIZE.but(batch=1), SIZE.but(batch=3)],
    ids=["nchw", "nhwc", "flat", "one", "three"],
)
@pytest.mark.parametrize("task", ["saliency", "visualization"])
def test_a_right_gradient_passes(tmp_path: Path, recipe: Recipe, task: str) -> None:
    report = Engine(write(tmp_path / "f.onnx", recipe.but(task=task)), "cpu").check()
    assert report.passed
    assert report.error <= 2.5e-3
    assert report.blind_error <= 5e-2
    assert len(report.errors) == 2
    assert report.device == "cpu"


@pytest.mark.parametrize("factor", [0.0, 0.97, 1.03, -1.0, 2.0, float("nan")])
def test_a_wrong_length_fails(tmp_path: Path, factor: float) -> None:
    engine = Engine(write(tmp_path / "f.onnx", SIZE.but(gradient_factor=factor)), "cpu")
    report = engine.check()
    assert not report.passed
    assert max(report.error, report.blind_error) > 0.02
    reachable = np.isfinite(report.error) and np.isfinite(report.blind_error)
    assert engine.check(tolerance=1e9).passed == reachable


def spoil(path: Path, change: str) -> None:
    """Change the rows that the gradient comes from; the score stays right."""
    model = onnx.load(path)
    rows = next(item for item in model.graph.initializer if item.name == "rows")
    w = numpy_helper.to_array(rows).reshape(-1, 3, 16, 24).copy()
    if change == "mirrored":
        w = w[..., ::-1]
    elif change == "shifted":
        w = np.roll(w, 1, axis=3)
    elif change == "channels":
        w = w[:, ::-1]
    elif change == "patch":
        w[..., 2:7, 3:9] = 0
    elif change == "one class":
        w[:] = w[:1]
    rows.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(w.reshape(len(w), -1)), "rows"))
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("change", ["mirrored", "shifted", "channels", "patch", "one class"])
def test_a_wrong_gradient_fails(tmp_path: Path, change: str) -> None:
    path = write(tmp_path / "f.onnx", SIZE)
    spoil(path, change)
    assert not Engine(path, "cpu").check(target=2).passed


def test_images_target_and_seed_of_ones_own(tmp_path: Path) -> None:
    engine = Engine(write(tmp_path / "f.onnx"), "cpu")
    report = engine.check(pictures(3), target="tiger cat", seed=5)
    assert report.passed
    assert len(report.errors) == 3


def test_what_can_not_be_checked(tmp_path: Path) -> None:
    cases = [
        (SIZE.but(overrides={"relu": "guided"}), "'guided'"),
        (SIZE.but(outputs=("saliency",)), "lacks the output gradient, score, target_index"),
        (SIZE.but(task="visualization", overrides={"step_rule": "normalized"}), "normalized"),
    ]
    for recipe, message in cases:
        with pytest.raises(TaskError, match=message):
            Engine(write(tmp_path / "f.onnx", recipe), "cpu").check()
    engine = Engine(write(tmp_path / "f.onnx"), "cpu")
    with pytest.raises(SettingError, match="tolerance"):
        engine.check(tolerance=0)
    with pytest.raises(SettingError, match="no images"):
        engine.check([])
