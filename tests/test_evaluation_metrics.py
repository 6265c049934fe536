"""Metrics of maps against closed forms and implementations by others."""

import subprocess
import sys
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from engine_fixtures import RECORD
from numpy.typing import NDArray

from deepinside.engine import Region, SettingError
from deepinside.engine.evaluation import (
    Curve,
    baseline_of,
    boxes_on_map,
    cosine,
    curve,
    energy_inside,
    imputed,
    mask_on_map,
    pointing_game,
    ranking,
    removal_curve,
    remove_at_random,
    spearman,
    ssim,
    summarise,
)
from deepinside.engine.record import parse_record

SHAPE = (12, 16, 3)
RANDOM = np.random.default_rng(3)
WEIGHTS = RANDOM.standard_normal(SHAPE)
IMAGE = RANDOM.standard_normal(SHAPE)
ZEROS = np.zeros(SHAPE)


def linear(images: Iterable[NDArray[Any]]) -> NDArray[np.float64]:
    """A linear classifier's score."""
    return np.array([float((WEIGHTS * image).sum()) for image in images])


def shares() -> NDArray[np.float64]:
    """Each pixel's part of the linear score: what integrated gradients give from zeros."""
    return np.asarray((WEIGHTS * IMAGE).sum(axis=2))


def test_ranking_is_the_saliencys_with_ties_at_random() -> None:
    saliency = RANDOM.random((5, 7))
    np.testing.assert_array_equal(ranking(saliency), np.argsort(-saliency.ravel()))
    flat = np.zeros((20, 20))
    flat[19, 19] = 1
    order = ranking(flat)
    assert order[0] == 399
    assert sorted(order) == list(range(400))
    assert abs(np.corrcoef(order[1:], np.arange(399))[0, 1]) < 0.2  # not from the top down
    np.testing.assert_array_equal(order, ranking(flat))
    assert not np.array_equal(order, ranking(flat, seed=1))


@pytest.mark.parametrize("steps", [1, 5, 192])
def test_a_linear_models_curves_are_known(steps: int) -> None:
    own = shares()
    order = ranking(own)
    deletion = curve(linear, IMAGE, ZEROS, order, steps=steps)
    gone = np.concatenate([[0], np.cumsum(own.ravel()[order])])
    counts = np.rint(deletion.shares * own.size).astype(int)
    np.testing.assert_allclose(deletion.values, own.sum() - gone[counts], atol=1e-9)
    insertion = curve(linear, ZEROS, IMAGE, order, steps=steps)
    np.testing.assert_allclose(insertion.values, gone[counts], atol=1e-9)
    assert deletion.shares[0] == 0
    assert deletion.shares[-1] == 1
    if steps == 192:
        mean = (gone[:-1] + gone[1:]).sum() / 2 / own.size
        assert insertion.area == pytest.approx(mean)
        for seed in range(5):  # no order inserts better than the true one
            other = np.random.default_rng(seed).permutation(own.size)
            assert curve(linear, ZEROS, IMAGE, other, steps=steps).area < insertion.area


def test_curves_leave_the_pictures_alone_and_keep_several_scores() -> None:
    before = IMAGE.copy()

    def two(images: Iterable[NDArray[Any]]) -> NDArray[np.float64]:
        found = linear(images)
        return np.stack([found, -2 * found], axis=1)

    found = curve(two, IMAGE, ZEROS, ranking(shares()), steps=4)
    assert found.values.shape == (5, 2)
    assert found.area[1] == pytest.approx(-2 * found.area[0])
    np.testing.assert_array_equal(IMAGE, before)
    with pytest.raises(SettingError, match="possible: 1 to 192"):
        curve(linear, IMAGE, ZEROS, ranking(shares()), steps=193)


def test_the_area_is_petsiuks() -> None:
    values = RANDOM.random(9)
    ours = Curve(np.linspace(0, 1, 9), values).area
    assert ours == pytest.approx((values.sum() - values[0] / 2 - values[-1] / 2) / 8)


def test_deletion_is_quantus_pixel_flipping() -> None:
    """Quantus flips the same pixels of a grey picture to black and sees the same scores."""
    quantus = _quantus()
    grey, weights = IMAGE[..., :1], WEIGHTS[..., :1]

    def score(images: Iterable[NDArray[Any]]) -> NDArray[np.float64]:
        return np.array([float((weights * image).sum()) for image in images])

    class Model:
        def predict(self, x: NDArray[Any], **_: Any) -> NDArray[Any]:
            return score(x.reshape(-1, 1, 12, 16).transpose(0, 2, 3, 1))[:, None]

        def shape_input(self, x: NDArray[Any], shape: Any, **_: Any) -> NDArray[Any]:
            return x.reshape(-1, *shape[-3:])

    metric = quantus.PixelFlipping(
        features_in_step=8,
        perturb_baseline=0.0,
        normalise=False,
        abs=False,
        disable_warnings=True,
        display_progressbar=False,
    )
    own = np.abs(weights * grey)[..., 0]
    theirs = metric.evaluate_batch(
        model=Model(),
        x_batch=grey.transpose(2, 0, 1)[None],
        y_batch=np.array([0]),
        a_batch=own[None, None],
    )[0]
    ours = curve(score, grey, np.zeros_like(grey), ranking(own), steps=24)
    np.testing.assert_allclose(ours.values[1:], np.ravel(theirs), atol=1e-9)


def _quantus() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("quantus", reason="its checks are run where it is installed")


def test_imputation_solves_the_papers_equations() -> None:
    removed = RANDOM.random((12, 16)) < 0.7
    result = imputed(IMAGE, removed, noise=0.0)
    np.testing.assert_array_equal(result[~removed], IMAGE[~removed])
    for row, column in zip(*np.nonzero(removed), strict=True):
        total, weights = np.zeros(3), 0.0
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                y, x = row + dy, column + dx
                if (dy, dx) != (0, 0) and 0 <= y < 12 and 0 <= x < 16:
                    weight = 1 / 6 if dy * dx == 0 else 1 / 12
                    total += weight * result[y, x]
                    weights += weight
        np.testing.assert_allclose(result[row, column], total / weights, atol=1e-9)


def test_imputation_is_quantus() -> None:
    _quantus()
    from quantus.functions.perturb_func import noisy_linear_imputation

    removed = RANDOM.random((12, 16)) < 0.5
    theirs = noisy_linear_imputation(
        IMAGE.transpose(2, 0, 1), np.nonzero(removed.ravel())[0], noise=0.0
    )
    ours = imputed(IMAGE, removed, noise=0.0)
    np.testing.assert_allclose(ours, theirs.transpose(1, 2, 0), atol=1e-9)


def test_imputation_adds_noise_to_what_is_removed_only() -> None:
    removed = RANDOM.random((12, 16)) < 0.5
    noise = imputed(IMAGE, removed, noise=0.5) - imputed(IMAGE, removed, noise=0.0)
    assert not noise[~removed].any()
    assert 0.4 < noise[removed].std() < 0.6
    np.testing.assert_array_equal(imputed(IMAGE, np.zeros((12, 16), bool)), IMAGE)
    with pytest.raises(SettingError, match="all pixels"):
        imputed(IMAGE, np.ones((12, 16), bool))


def test_road_tells_a_right_order_from_a_wrong_one() -> None:
    order = ranking(shares())
    most = removal_curve(linear, IMAGE, order)
    least = removal_curve(linear, IMAGE, order, least_first=True)
    turned = removal_curve(linear, IMAGE, order[::-1])
    np.testing.assert_allclose(turned.values, least.values)
    assert most.area < least.area - 1
    assert list(most.shares) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    for wrong in ((0.5, 1.0), (0.2, 0.1), (0.1, 0.1)):
        with pytest.raises(SettingError, match="below 1"):
            removal_curve(linear, IMAGE, order, shares=wrong)


def test_integrated_gradients_of_a_linear_model_have_sensitivity_one() -> None:
    removals = remove_at_random(linear, IMAGE, ZEROS, counts=(1, 20, 150), samples=16)
    np.testing.assert_allclose(removals.sensitivity(shares()), 1, atol=1e-9)
    np.testing.assert_allclose(removals.sensitivity(-3 * shares()), -1, atol=1e-9)
    np.testing.assert_array_equal(removals.sensitivity(np.ones((12, 16))), 0)
    other = removals.sensitivity(RANDOM.standard_normal((12, 16)))
    assert (np.abs(other) < 0.8).all()


def test_sensitivity_is_numpys_correlation() -> None:
    def curved(images: Iterable[NDArray[Any]]) -> NDArray[np.float64]:
        found = linear(images)
        return np.stack([found, np.sin(found)], axis=1)

    removals = remove_at_random(curved, IMAGE, ZEROS, counts=(7,), samples=40, seed=2)
    attribution = np.abs(shares())
    found = removals.sensitivity(attribution)
    (places,), (drops,) = removals.sets, removals.drops
    sums = [attribution.ravel()[chosen].sum() for chosen in places]
    for column in (0, 1):
        expected = np.corrcoef(sums, drops[:, column])[0, 1]
        assert found[0, column] == pytest.approx(expected)
    for counts, samples in (((0,), 8), ((192,), 8), ((3,), 1)):
        with pytest.raises(SettingError, match="1 to 191 pixels"):
            remove_at_random(linear, IMAGE, ZEROS, counts=counts, samples=samples)


def test_boxes_and_masks_land_where_the_network_sees_them() -> None:
    # The network sees the right half of a picture of 8 x 16 (height x width), at 4 x 4.
    region = Region(8, 0, 16, 8)
    inside = boxes_on_map([(8, 0, 12, 2)], region, (4, 4))
    expected = np.zeros((4, 4), bool)
    expected[0, :2] = True
    np.testing.assert_array_equal(inside, expected)
    mask = np.zeros((8, 16), bool)
    mask[:2, 8:12] = True
    np.testing.assert_array_equal(mask_on_map(mask, region, (4, 4)), expected)
    assert not boxes_on_map([(0, 0, 8, 8)], region, (4, 4)).any()
    # Filling beside the picture is never inside.
    wide = Region(-8, 0, 24, 8)
    filled = mask_on_map(np.ones((8, 16), bool), wide, (4, 8))
    np.testing.assert_array_equal(filled.any(axis=0), [False] * 2 + [True] * 4 + [False] * 2)


def test_pointing_game_and_energy() -> None:
    inside = np.zeros((6, 6), bool)
    inside[:3] = True
    saliency = np.ones((6, 6))
    saliency[4, 2] = 9
    assert not pointing_game(saliency, inside)
    assert not pointing_game(saliency, inside, tolerance=1)
    assert pointing_game(saliency, inside, tolerance=2)
    assert energy_inside(saliency, inside) == pytest.approx(18 / 44)
    assert energy_inside(np.ones((6, 6)), inside) == 0.5
    assert energy_inside(np.zeros((6, 6)), inside) == 0.5
    signed = np.where(inside, 2.0, -1.0)
    assert energy_inside(signed, inside) == 1


def test_energy_is_quantus_relevance_mass() -> None:
    quantus = _quantus()
    saliency, inside = RANDOM.random((12, 16)), RANDOM.random((12, 16)) < 0.3
    metric = quantus.RelevanceMassAccuracy(
        normalise=False, abs=False, disable_warnings=True, display_progressbar=False
    )
    theirs = metric.evaluate_batch(a_batch=saliency[None, None], s_batch=inside[None, None])
    assert energy_inside(saliency, inside) == pytest.approx(float(theirs[0]))


def test_similarities_against_scipy_and_scikit_image() -> None:
    from scipy.stats import spearmanr
    from skimage.metrics import structural_similarity

    first = RANDOM.random((40, 30)) ** 4
    second = np.round(first + RANDOM.random((40, 30)), 1)  # with ties
    assert spearman(first, second) == pytest.approx(spearmanr(first.ravel(), second.ravel())[0])
    assert spearman(first, np.exp(first)) == pytest.approx(1)
    assert spearman(first, np.ones((40, 30))) == 0
    scaled = [np.clip(each / np.percentile(each, 99.5), 0, 1) for each in (first, second)]
    theirs = structural_similarity(
        *scaled, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(first, second) == pytest.approx(theirs, abs=1e-6)
    assert ssim(first, 7 * first) == pytest.approx(1, abs=1e-6)
    assert ssim(first[:5, :6], first[:5, :6]) == pytest.approx(1)  # smaller than the window
    assert cosine(first, -first) == pytest.approx(-1)


def test_baselines() -> None:
    record = parse_record(RECORD, where="here")
    image = np.float32(IMAGE)
    assert not baseline_of(image, "mean", None).any()
    black = baseline_of(image, "black", record)
    np.testing.assert_allclose(black[3, 4] * [0.5, 0.25, 1] + [0.5, 0.25, 0], 0, atol=1e-7)
    assert (black.shape, black.dtype) == (image.shape, image.dtype)
    blurred = baseline_of(image, "blur", None, blur=0.2)
    scipy = pytest.importorskip("scipy.ndimage")
    for channel in range(3):
        theirs = scipy.gaussian_filter(image[..., channel], 0.2 * 12, mode="reflect", radius=8)
        np.testing.assert_allclose(blurred[..., channel], theirs, atol=1e-5)
    with pytest.raises(SettingError, match="--preprocessing"):
        baseline_of(image, "black", None)
    with pytest.raises(SettingError, match="blur, mean, black"):
        baseline_of(image, "white", None)


def test_summaries() -> None:
    found = summarise([{"a": 1.0, "b": None}, {"a": 3.0, "b": 5.0}])
    assert (found["a"].mean, found["a"].spread, found["a"].count) == (2, pytest.approx(2**0.5), 2)
    assert (found["b"].mean, found["b"].spread, found["b"].count) == (5, None, 1)


def test_the_package_is_importable_without_its_extras() -> None:
    code = (
        "import sys, deepinside.engine.evaluation; "
        "print([n for n in ('scipy', 'skimage', 'matplotlib') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
