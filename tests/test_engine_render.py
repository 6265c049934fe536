"""Maps as pictures."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deepinside.engine import (
    InputMaps,
    Picture,
    Region,
    Rendering,
    SaliencyMap,
    SettingError,
    heatmap,
    normalise,
    overlay,
)
from deepinside.engine.render import colour_table, smooth

BLACK = (0, 0, 4)  # inferno's first colour


def test_normalise() -> None:
    values = np.arange(1000, dtype=np.float32).reshape(20, 50)
    scaled = normalise(values, percentile=99.5)
    assert scaled.dtype == np.float32
    assert scaled[0, 0] == 0
    assert scaled.max() == 1
    assert scaled[10, 0] == pytest.approx(500 / np.percentile(values, 99.5))


@pytest.mark.parametrize("value", [0.0, 1e-30, 3.0])
def test_constant_maps_never_crash(value: float) -> None:
    saliency = np.full((8, 9), value, np.float32)
    expected = 0 if value == 0 else 1
    np.testing.assert_array_equal(normalise(saliency), expected)
    assert heatmap(saliency).shape == (8, 9, 3)
    picture = np.zeros((5, 5, 3), np.uint8)
    assert overlay(picture, saliency, Region(0, 0, 5, 5)).shape == (5, 5, 3)


def test_a_single_salient_pixel_is_not_lost() -> None:
    saliency = np.zeros((100, 100), np.float32)
    saliency[3, 4] = 2
    scaled = normalise(saliency)
    assert scaled[3, 4] == 1
    assert scaled.sum() == 1


def test_heat_map_is_dark_at_zero_and_bright_at_the_top() -> None:
    colours = heatmap(np.array([[0.0, 1.0], [0.5, 1.0]], np.float32))
    assert colours.dtype == np.uint8
    assert tuple(colours[0, 0]) == BLACK
    brightness = colours.astype(int).sum(2)
    assert brightness[0, 0] < brightness[1, 0] < brightness[0, 1]


def test_unknown_colours_and_percentiles() -> None:
    with pytest.raises(SettingError, match="colour map 'no-such'"):
        heatmap(np.ones((2, 2)), colour_map="no-such")
    for percentile in (0, -1, 101):
        with pytest.raises(SettingError, match="percentile"):
            heatmap(np.ones((2, 2)), percentile=percentile)


def test_overlay_marks_the_region_only_and_where_it_is_salient() -> None:
    picture = np.full((40, 60, 3), 128, np.uint8)
    saliency = np.zeros((10, 10), np.float32)
    saliency[2, 7] = 1
    shown = overlay(picture, saliency, Region(10, 0, 50, 40), smoothing=0)
    changed = (shown != picture).any(2)
    rows, columns = np.nonzero(changed)
    # Cell (2, 7) covers rows 8 to 12 and columns 38 to 42; interpolation spreads it by a cell.
    assert (rows.min(), rows.max()) >= (4, 8)
    assert rows.max() <= 15
    assert columns.min() >= 34
    assert columns.max() <= 45
    assert changed[9:11, 39:41].all()
    np.testing.assert_array_equal(picture, 128)


def test_overlay_with_a_region_beyond_the_picture() -> None:
    picture = np.full((20, 40, 3), 128, np.uint8)
    saliency = np.zeros((40, 40), np.float32)
    saliency[0:10] = 5  # filling above the picture
    saliency[20, 20] = 5
    shown = overlay(picture, saliency, Region(0, -10, 40, 30), smoothing=0)
    rows, columns = np.nonzero((shown != picture).any(2))
    assert set(rows) == {10}
    assert set(columns) == {20}


def test_overlay_of_a_region_smaller_than_a_pixel() -> None:
    picture = np.full((1, 1, 3), 128, np.uint8)
    shown = overlay(picture, np.ones((8, 8), np.float32), Region(0.6, 0.6, 0.9, 0.9))
    np.testing.assert_array_equal(shown, picture)
    shown = overlay(picture, np.ones((8, 8), np.float32), Region(0.06, 0.06, 0.94, 0.94))
    assert (shown != picture).any()


def test_smoothing_keeps_sums_and_constants() -> None:
    np.testing.assert_allclose(smooth(np.full((9, 7), 2.0), 1.5), 2.0, rtol=1e-6)
    point = np.zeros((31, 31))
    point[15, 15] = 1
    blurred = smooth(point, 2.0)
    assert blurred.sum() == pytest.approx(1, rel=1e-5)
    assert blurred[15, 17] / blurred[15, 15] == pytest.approx(np.exp(-0.5), rel=1e-3)
    np.testing.assert_array_equal(smooth(point, 0), point.astype(np.float32))


def result(values: NDArray[Any], signed: NDArray[Any] | None = None) -> SaliencyMap:
    height, width = values.shape
    return SaliencyMap(
        saliency=values.astype(np.float32),
        gradient=None,
        score=None,
        probability=1.0,
        index=0,
        label=None,
        source="x",
        region=Region(0, 0, 2 * width, 2 * height),
        size=(2 * height, 2 * width),
        signed=signed,
    )


def item(*maps: SaliencyMap) -> InputMaps:
    picture = Picture(np.full((12, 16, 3), 90, np.uint8), "x")
    return InputMaps("x", 0, picture, maps)


def test_norms_say_what_the_end_of_the_scale_is() -> None:
    strong, weak = np.linspace(0, 4, 48).reshape(6, 8), np.linspace(0, 1, 48).reshape(6, 8)
    maps = item(result(strong), result(weak))
    table = colour_table("inferno")

    def level(each: SaliencyMap, **settings: Any) -> float:
        """How far up the scale the map's largest value is drawn."""
        colours = Rendering(percentile=100, **settings).heatmap(each, maps)
        return float(np.argmax((table == colours[-1, -1]).all(axis=1))) / 255

    first, second = maps.maps
    assert [level(first), level(second)] == [1, 1]
    assert [level(first, norm="batch"), level(second, norm="batch")] == [
        1,
        pytest.approx(0.25, abs=0.01),
    ]
    assert level(second, norm="fixed", level=2.0) == pytest.approx(0.5, abs=0.01)
    assert level(second, norm="none") == 1
    assert level(first, norm="fixed", level=40.0) == pytest.approx(0.1, abs=0.01)


def test_signs_have_two_colours_around_a_light_middle() -> None:
    signed = np.zeros((6, 8), np.float32)
    signed[0, 0], signed[5, 7] = 3, -3
    each = result(np.abs(signed), signed)
    colours = Rendering(signed=True, percentile=100).heatmap(each, item(each)).astype(int)
    assert colours[3, 3].min() > 200
    assert colours[0, 0, 0] > colours[0, 0, 2]  # vik: brown above, blue below
    assert colours[5, 7, 2] > colours[5, 7, 0]
    laid = Rendering(signed=True, smoothing=0, upsampling="nearest").overlay(each, item(each))
    assert (laid[5:7, 5:7] == 90).all()
    assert (laid[0, 0] != 90).any()
    with pytest.raises(SettingError, match="no signs here"):
        Rendering(signed=True).heatmap(result(signed), item(result(signed)))


@pytest.mark.parametrize("value", [0.0, 1e-30, 5.0])
@pytest.mark.parametrize("norm", ["image", "batch", "none"])
@pytest.mark.parametrize("signed", [False, True])
def test_constant_maps_are_drawn(value: float, norm: Any, signed: bool) -> None:
    flat = np.full((6, 8), value, np.float32)
    each = result(flat, flat)
    rendering = Rendering(norm=norm, signed=signed, upsampling="lanczos")
    assert rendering.heatmap(each, item(each)).shape == (6, 8, 3)
    assert rendering.overlay(each, item(each)).shape == (12, 16, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "all"}, "image or batch or fixed or none"),
        ({"norm": "fixed"}, "give both or neither"),
        ({"level": 1.0}, "give both or neither"),
        ({"norm": "fixed", "level": -1.0}, "positive"),
        ({"opacity": 1.5}, "opacity is 1.5"),
        ({"percentile": 0}, "percentile is 0"),
        ({"colour_map": "nope"}, "no colour map 'nope'"),
        ({"upsampling": "cubic"}, "nearest or bilinear"),
    ],
)
def test_impossible_renderings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Rendering(**settings)
