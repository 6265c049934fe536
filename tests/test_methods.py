"""Saliency methods against closed forms, on a file made by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_fixtures import RECORD, Recipe, pictures, write

from deepinside.cli.method_options import NAMES
from deepinside.engine import (
    METHODS,
    Engine,
    InputFailure,
    InputMaps,
    Method,
    Region,
    SettingError,
    TaskError,
)
from deepinside.engine.passes import GradientPass


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


SAMPLED = [name for name in METHODS if not Method(name).one_gradient]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SAMPLED)
def test_maps_do_not_depend_on_batch_and_order(tmp_path: Path, name: str) -> None:
    ours, x = engine(tmp_path), pictures(3)
    forwards = ours.saliency(x, ["top1", 2], method=name, batch_size=2)
    backwards = ours.saliency(x[::-1], [2, "top1"], method=name, batch_size=32)
    others = {(2 - int(item.source[1:]), item.index): item for item in backwards}
    for item in forwards:
        other = others[int(item.source[1:]), item.index]
        np.testing.assert_allclose(item.attribution, other.attribution, rtol=1e-4, atol=1e-5)
        assert item.saliency.min() >= 0


@pytest.mark.parametrize("name", ["smoothgrad", "vargrad"])
def test_the_seed_is_what_changes_noise(tmp_path: Path, name: str) -> None:
    ours, x = engine(tmp_path), pictures(1)
    maps = [
        ours.saliency(x, 2, method=Method(name, samples=3, seed=seed))[0]  # type: ignore[arg-type]
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(maps[0].saliency, maps[1].saliency)
    assert not np.allclose(maps[0].saliency, maps[2].saliency)


def test_batches_are_full_across_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    compute = GradientPass._compute

    def counted(*given: Any) -> dict[str, np.ndarray]:
        sizes.append(len(given[1]))
        return compute(*given)

    monkeypatch.setattr(GradientPass, "_compute", counted)
    ours = engine(tmp_path)
    ours.saliency(pictures(4), 1, method=Method("smoothgrad", samples=5), batch_size=8)
    assert sizes == [4, 8, 8, 4]
    sizes.clear()  # one after the other, but beside one another
    guided = Method("guided-ig", steps=3)
    ours.saliency(pictures(4), 1, method=guided, batch_size=4)
    assert sizes == [4, 4, 4, 4]


def test_noise_of_a_quadratic_has_a_known_mean_and_variance(tmp_path: Path) -> None:
    """The gradient is w + a x: its mean under noise is itself, its variance a^2 sigma^2."""
    recipe, x = Recipe(), pictures(1)
    ours = engine(tmp_path)
    sigma = 0.5 / np.array([0.5, 0.25, 1.0])  # of the record's range, normalised
    slope = recipe.weights[1][2]
    settings = {"samples": 1000, "noise": 0.5}
    (mean,) = ours.saliency(x, 2, method=Method("smoothgrad", **settings))  # type: ignore[arg-type]
    (spread,) = ours.saliency(x, 2, method=Method("vargrad", **settings))  # type: ignore[arg-type]
    np.testing.assert_allclose(mean.attribution, recipe.gradient(x[0], 2), atol=0.02)
    for channel in range(3):
        found = np.asarray(spread.attribution)[channel].mean()
        assert found == pytest.approx((slope * sigma[channel]) ** 2, rel=0.05)


@pytest.mark.parametrize("name", ["integrated-gradients", "blur-ig", "guided-ig"])
@pytest.mark.parametrize("layout", ["NCHW", "flat"])
def test_integrals_are_complete(tmp_path: Path, name: str, layout: str) -> None:
    recipe = Recipe(layout=layout)
    x = pictures(2, recipe)
    for item in engine(tmp_path, recipe).saliency(x, 1, method=name):
        assert item.score == pytest.approx(recipe.scores(x)[int(item.source[1:]), 1], rel=1e-4)
        assert item.completeness_gap == pytest.approx(0, abs=0.1)
        total = np.asarray(item.attribution).sum()
        assert total == pytest.approx(item.score - item.baseline_score, abs=0.1)


def test_integrated_gradients_of_a_quadratic(tmp_path: Path) -> None:
    """Of w x + a / 2 x^2 from b: (x - b) (w + a (x + b) / 2), with a single Gauss step."""
    recipe, x = Recipe(), pictures(1)
    record = recipe.record
    assert record is not None
    black = (-np.array(record["mean"]) / record["std"])[:, None, None]
    middle = (x[0] + black) / 2
    expected = (x[0] - black) * recipe.gradient(middle, 0)
    (found,) = engine(tmp_path).saliency(x, 0, method=Method("integrated-gradients", steps=1))
    np.testing.assert_allclose(found.attribution, expected, rtol=1e-4, atol=1e-4)


def test_ten_crops_are_put_back_in_their_places(tmp_path: Path) -> None:
    record = {**RECORD, "input_size": [6, 6], "resize": "shorter-side", "resize_size": 8}
    recipe = Recipe(size=(6, 6), record=record)
    ours = engine(tmp_path, recipe)
    picture = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    (found,) = ours.saliency(picture, 1, method=Method(crops=10), batch_size=3)
    # Slowly, from the definition: the 8 x 8 square in the middle, windows of 6 x 6.
    square = (picture[:, 2:10] / 255 - record["mean"]) / record["std"]
    total, count = np.zeros((8, 8)), np.zeros((8, 8))
    for top, left in ((0, 0), (0, 2), (2, 0), (2, 2), (1, 1)):
        window = square[top : top + 6, left : left + 6]
        for step in (1, -1):
            seen = window[:, ::step].transpose(2, 0, 1)
            back = np.abs(recipe.gradient(seen, 1)).max(axis=0)[:, ::step]
            total[top : top + 6, left : left + 6] += back
            count[top : top + 6, left : left + 6] += 1
    np.testing.assert_allclose(found.saliency, total / count, rtol=1e-4)
    assert found.signed is None  # a mean of magnitudes
    assert found.region == Region(2, 0, 10, 8)
    assert found.attribution is None
    assert found.method.variant == "10-crops"


def test_crops_need_pictures(tmp_path: Path) -> None:
    ours = engine(tmp_path)
    good = np.zeros((9, 9, 3), np.uint8)
    found = list(ours.iter_saliency([pictures(1)[0], good], method=Method(crops=10)))
    assert isinstance(found[0], InputFailure)
    assert "crops need a picture" in str(found[0].error)
    assert isinstance(found[1], InputMaps)
    with pytest.raises(SettingError, match="leave size out"):
        ours.saliency(good, method=Method(crops=10), size=(6, 8))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "smoothgrad", "samples": 0}, "samples is 0; it must be at least 1"),
        ({"name": "smoothgrad", "noise": -0.1}, "noise is -0.1"),
        ({"name": "smoothgrad", "noise": float("nan")}, "noise is nan"),
        ({"name": "smoothgrad", "steps": 5}, "not a setting of the method smoothgrad, which has"),
        ({"name": "vanilla", "crops": 5}, "crops is 5; it must be 1 or 10"),
        ({"name": "vargrad", "samples": 1}, "needs at least 2"),
        ({"name": "integrated-gradients", "baseline": "white"}, "black or mean or blur or noise"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Method(**settings)


def test_black_needs_a_record(tmp_path: Path) -> None:
    bare = engine(tmp_path, Recipe(record=None))
    with pytest.raises(SettingError, match="says what black is: choose the baseline mean"):
        bare.saliency(pictures(1), method="integrated-gradients")
    bare.saliency(pictures(1), method=Method("integrated-gradients", baseline="mean"))


def test_the_rule_of_relu_must_be_the_files(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="again with --relu guided for guided-backprop"):
        engine(tmp_path).saliency(pictures(1), method="guided-backprop")
    guided = engine(tmp_path, Recipe(overrides={"relu": "guided"}))
    assert guided.saliency(pictures(1))[0].method == Method("guided-backprop")
    with pytest.raises(TaskError, match=r"gives guided-backprop: export .* --relu gradient"):
        guided.saliency(pictures(1), method="smoothgrad")


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"deconvnet", "guided-backprop"}))
def test_maps_are_reduced_from_attributions(tmp_path: Path, name: str) -> None:
    """The largest magnitude over the channels; of shares of a score, the magnitude of their sum."""
    settings = {"samples": 3, "steps": 3}
    own = {key: value for key, value in settings.items() if key in METHODS[name]}
    (found,) = engine(tmp_path).saliency(pictures(1), 1, method=Method(name, **own))  # type: ignore[arg-type]
    assert found.attribution is not None
    assert found.attribution.ndim == 3
    assert found.attribution.shape[0] == 3
    shares = name in {"input-x-gradient", "integrated-gradients", "blur-ig", "guided-ig"}
    magnitude = np.abs(found.attribution)
    expected = np.abs(found.attribution.sum(axis=0)) if shares else magnitude.max(axis=0)
    np.testing.assert_allclose(found.saliency, expected, rtol=1e-5, atol=1e-7)
    assert not np.allclose(magnitude.max(axis=0), magnitude.mean(axis=0))  # channels differ
    if name in {"smoothgrad-squared", "vargrad"}:
        assert found.signed is None
    else:
        assert found.signed is not None
        np.testing.assert_allclose(
            found.signed, found.attribution.sum(axis=0), rtol=1e-5, atol=1e-7
        )
