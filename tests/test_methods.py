"""Saliency methods against closed forms, on a file made by hand."""

from pathlib import Path

import numpy as np
import pytest
from engine_fixtures import Recipe, pictures, write

from deepinside.cli.method_options import NAMES
from deepinside.engine import METHODS, Engine, Method, SettingError, TaskError


def engine(folder: Path, recipe: Recipe | None = None) -> Engine:
    return Engine(write(folder / "file.onnx", recipe), "cpu")


def test_the_command_offers_every_method() -> None:
    assert tuple(METHODS) == NAMES


def test_wrong_settings_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no saliency method 'grad-cam'; possible: vanilla"):
        engine(tmp_path).saliency(pictures(1), method="grad-cam")


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "flat"])
def test_input_times_gradient(tmp_path: Path, layout: str) -> None:
    recipe = Recipe(layout=layout)
    x = pictures(3, recipe)
    found = engine(tmp_path, recipe).saliency(x, [2, 0], method="input-x-gradient", batch_size=2)
    for number, item in enumerate(found):
        picture, index = x[number // 2], (2, 0)[number % 2]
        expected = picture * recipe.gradient(picture, index)
        assert item.method == Method("input-x-gradient")
        assert item.index == index
        assert item.attribution is not None
        np.testing.assert_allclose(item.attribution, expected, rtol=1e-4, atol=1e-6)
        shares = np.abs(recipe.picture(expected).sum(axis=2))
        np.testing.assert_allclose(item.saliency, shares, rtol=1e-3, atol=1e-5)


def test_vanilla_attributes_the_gradient(tmp_path: Path) -> None:
    (plain,) = engine(tmp_path).saliency(pictures(1))
    (named,) = engine(tmp_path).saliency(pictures(1), method=Method())
    assert plain.method == named.method == Method("vanilla")
    np.testing.assert_array_equal(plain.attribution, plain.gradient)
    np.testing.assert_array_equal(plain.saliency, named.saliency)


def test_a_file_without_gradient_has_vanilla_only(tmp_path: Path) -> None:
    bare = engine(tmp_path, Recipe(outputs=("saliency", "score")))
    assert bare.saliency(pictures(1))[0].gradient is None
    with pytest.raises(TaskError, match="gives no gradient: export the classifier again"):
        bare.saliency(pictures(1), method="input-x-gradient")
