"""Localisation: seeds, cut, component and box in closed form; scenes with known objects; limits."""

import importlib.util
import itertools
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from deepinside import models
from deepinside.engine import (
    Box,
    Engine,
    ImageError,
    Localization,
    LocalizationSettings,
    PackageMissingError,
    Picture,
    Region,
    SaliencyMap,
    SettingError,
    draw_boxes,
    load_picture,
    localize,
)
from deepinside.engine.graphcut import largest_component, segment
from deepinside.engine.localize import bounding_box, find_seeds
from deepinside.engine.render import fit
from deepinside.exporters import export_saliency

REPOSITORY = Path(__file__).parents[1]
SHARP = LocalizationSettings(smoothing=0)


def scene(size: tuple[int, int], box: Box, seed: int = 0) -> Picture:
    """A red rectangle on blue, both with a little noise."""
    random = np.random.default_rng(seed)
    pixels = np.full((*size, 3), (30, 60, 200), dtype=np.int16)
    pixels[box.top : box.bottom, box.left : box.right] = (210, 40, 30)
    pixels += random.integers(-15, 16, pixels.shape, dtype=np.int16)
    return Picture(pixels.astype(np.uint8), "scene.png")


def saliency_of(
    values: NDArray[np.floating], region: Region | None, size: tuple[int, int] | None
) -> SaliencyMap:
    return SaliencyMap(
        saliency=np.asarray(values, dtype=np.float32),
        gradient=None,
        score=3.5,
        probability=0.25,
        index=7,
        label="square",
        source="scene.png",
        region=region,
        size=size,
    )


def blob(shape: tuple[int, int], centre: tuple[float, float], width: float) -> NDArray[np.float64]:
    """A hill that falls in all directions, in cells."""
    rows, columns = np.indices(shape)
    squared = (rows + 0.5 - centre[0]) ** 2 + (columns + 0.5 - centre[1]) ** 2
    return np.asarray(np.exp(-squared / (2 * width**2)))


# --- seeds, component, box ---


def test_seeds_are_the_quantiles() -> None:
    values = np.random.default_rng(3).permutation(200).reshape(10, 20).astype(float)
    seeds = find_seeds(values, 95, 30)
    assert seeds is not None
    # Of 0 .. 199, the percentiles are 189.05 and 59.7.
    np.testing.assert_array_equal(seeds == 1, values >= 190)
    np.testing.assert_array_equal(seeds == -1, values <= 59)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 5], [-1] * 9 + [1]),
        ([0, 0, 0, 0, 1, 2, 3, 4, 4, 4], [-1] * 4 + [0] * 3 + [1] * 3),
        ([0, 5, 5, 5, 5, 5, 5, 5, 5, 5], [-1] + [1] * 9),
        ([2, 2, 3], [-1, -1, 1]),
    ],
)
def test_seeds_of_values_that_tie(values: list[float], expected: list[int]) -> None:
    seeds = find_seeds(np.array([values], dtype=float), 95, 30)
    assert seeds is not None
    assert seeds[0].tolist() == expected


@pytest.mark.parametrize("value", [0.0, 1e-30, 7.0])
def test_a_constant_map_has_no_seeds(value: float) -> None:
    rounded = value * (1 + 1e-7 * np.random.default_rng(0).standard_normal((9, 9)))
    assert find_seeds(rounded, 95, 30) is None
    assert find_seeds(np.zeros((0, 5)), 95, 30) is None


def test_the_largest_part_is_connected_by_sides() -> None:
    text = ["##..#", "##.#.", "...#.", "###.#"]
    mask = np.array([[letter == "#" for letter in row] for row in text])
    expected = np.zeros_like(mask)
    expected[:2, :2] = True
    np.testing.assert_array_equal(largest_component(mask), expected)
    assert not largest_component(np.zeros((3, 4), dtype=bool)).any()


def test_the_box_is_around_the_mask() -> None:
    mask = np.zeros((6, 9), dtype=bool)
    mask[2, 3] = mask[4, 7] = True
    assert bounding_box(mask) == Box(left=3, top=2, right=8, bottom=5)
    assert bounding_box(np.zeros((6, 9), dtype=bool)) is None


def test_a_map_at_the_pixels_of_a_picture() -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    rows, columns, same = fit(values, Region(2, 1, 6, 4), (5, 7))
    assert (rows, columns) == (slice(1, 4), slice(2, 6))
    np.testing.assert_array_equal(same, values)
    rows, columns, none = fit(values, Region(0.1, 0, 0.4, 9), (9, 1))
    assert none.shape == (9, 0)


# --- the cut ---


@pytest.mark.parametrize("rounds", [0, 3])
def test_the_cut_follows_colours_from_few_seeds(rounds: int) -> None:
    picture = scene((40, 50), Box(10, 5, 30, 25))
    seeds = np.zeros((40, 50), dtype=np.int8)
    seeds[12:16, 12:16] = 1
    seeds[35:, :] = -1
    seeds[2, 2] = 1  # a seed off the object is given up
    mask = segment(picture.pixels, seeds, rounds=rounds)
    expected = np.zeros((40, 50), dtype=bool)
    expected[5:25, 10:30] = True
    np.testing.assert_array_equal(mask, expected)


def test_background_seeds_stay_background() -> None:
    picture = scene((40, 50), Box(10, 5, 30, 25))
    seeds = np.zeros((40, 50), dtype=np.int8)
    seeds[12:16, 12:16] = 1
    seeds[35:, :] = -1
    seeds[20, 20:22] = -1
    mask = segment(picture.pixels, seeds, rounds=3)
    assert not mask[20, 20:22].any()
    assert mask[6:18, 11:29].all()


def test_an_empty_cut_finds_nothing() -> None:
    # Background seeds have the object's colours too, and more of them.
    picture = scene((40, 50), Box(10, 5, 30, 25))
    seeds = np.zeros((40, 50), dtype=np.int8)
    seeds[12:16, 12:16] = 1
    seeds[35:, :] = -1
    seeds[5:25, 28:30] = -1
    mask = segment(picture.pixels, seeds, rounds=3)
    assert not mask.any()
    assert bounding_box(largest_component(mask)) is None


def test_nothing_undecided() -> None:
    picture = scene((40, 50), Box(0, 0, 50, 20))
    seeds = np.full((40, 50), -1, dtype=np.int8)
    seeds[:20] = 1
    mask = segment(picture.pixels, seeds, rounds=3)
    assert mask[:20].all()
    assert not mask[20:].any()


# --- from map to original pixels ---


def test_a_box_in_original_pixels() -> None:
    # The map covers the middle square of a wide picture, and lies on the object.
    box = Box(left=90, top=30, right=130, bottom=80)
    picture = scene((100, 200), box)
    hill = blob((28, 28), ((55 - 0) * 0.28, (110 - 50) * 0.28), 4)
    saliency = saliency_of(hill, Region(50, 0, 150, 100), (100, 200))
    found = localize(saliency, picture)
    assert found.box == box
    expected = np.zeros((100, 200), dtype=bool)
    expected[30:80, 90:130] = True
    np.testing.assert_array_equal(found.mask, expected)
    assert (found.index, found.label, found.score, found.probability, found.source) == (
        7,
        "square",
        3.5,
        0.25,
        "scene.png",
    )


def test_an_object_reaches_beyond_what_the_network_saw() -> None:
    box = Box(left=110, top=30, right=190, bottom=80)
    hill = blob((28, 28), (55 * 0.28, 80 * 0.28), 4)
    found = localize(saliency_of(hill, Region(50, 0, 150, 100), (100, 200)), scene((100, 200), box))
    assert found.box == box


def test_of_two_objects_of_one_colour_the_larger_is_found() -> None:
    large, small = Box(left=20, top=20, right=80, bottom=70), Box(130, 75, 150, 90)
    picture = scene((100, 200), large)
    pixels = picture.pixels.copy()
    pixels[small.top : small.bottom, small.left : small.right] = pixels[30:45, 30:50]
    hill = blob((50, 100), (22.5, 25), 10) + blob((50, 100), (41, 70), 5)
    region = Region(0, 0, 200, 100)
    found = localize(saliency_of(hill, region, (100, 200)), Picture(pixels, "scene.png"))
    assert found.box == large
    assert not found.mask[small.top : small.bottom, small.left : small.right].any()


def test_a_large_picture_is_cut_at_its_work_size() -> None:
    box = Box(left=420, top=200, right=700, bottom=500)
    picture = scene((600, 1000), box)
    hill = blob((30, 50), (350 * 0.05, 560 * 0.05), 5)
    saliency = saliency_of(hill, Region(0, 0, 1000, 600), (600, 1000))
    for size in (100, 250):
        found = localize(saliency, picture, replace(SHARP, work_size=size))
        assert found.box is not None
        assert found.mask.shape == (600, 1000)
        np.testing.assert_allclose(
            [found.box.left, found.box.top, found.box.right, found.box.bottom],
            [420, 200, 700, 500],
            atol=1000 / size,
        )


def test_smoothing_gathers_single_cells() -> None:
    box = Box(left=20, top=20, right=60, bottom=60)
    picture = scene((100, 100), box)
    random = np.random.default_rng(5)
    noise = random.exponential(1, (50, 50)) * np.where(blob((50, 50), (20, 20), 8) > 0.3, 3, 1)
    saliency = saliency_of(noise, Region(0, 0, 100, 100), (100, 100))
    assert localize(saliency, picture).box == box
    rough = localize(saliency, picture, SHARP).mask
    assert np.mean(rough[20:60, 20:60]) < 0.9  # background seeds all over the object


def test_the_same_result_in_any_thread_and_after_other_random_numbers() -> None:
    picture = load_picture(models.example("coffee"))
    hill = blob((56, 56), (20, 28), 9)
    saliency = saliency_of(hill, Region(100, 0, 500, 400), picture.size)
    first = localize(saliency, picture)
    assert first.box is not None
    cv2.setRNGSeed(99)
    cv2.randu(np.zeros((5, 5), dtype=np.uint8), 0, 255)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: localize(saliency, picture), range(6)):
            np.testing.assert_array_equal(found.mask, first.mask)


# --- limits ---


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (1, 300), (700, 1), (2, 2), (3, 2)])
@pytest.mark.parametrize("rounds", [0, 3])
def test_tiny_pictures(size: tuple[int, int], rounds: int) -> None:
    height, width = size
    picture = Picture(
        np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8), "tiny.png"
    )
    saliency = saliency_of(blob((8, 8), (1, 1), 3), Region(0, 0, width, height), size)
    found = localize(saliency, picture, replace(SHARP, rounds=rounds))
    assert found.mask.shape == size
    assert found.box == bounding_box(found.mask)
    if size == (1, 1):
        assert found.box is None


def test_a_constant_map_finds_nothing() -> None:
    picture = scene((60, 80), Box(10, 10, 30, 30))
    for value in (0.0, 0.3):
        saliency = saliency_of(np.full((24, 24), value), Region(0, 0, 80, 60), (60, 80))
        found = localize(saliency, picture)
        assert found.box is None
        assert not found.mask.any()


def test_a_picture_of_one_colour() -> None:
    picture = Picture(np.full((60, 80, 3), 90, dtype=np.uint8), "grey.png")
    saliency = saliency_of(blob((24, 24), (8, 8), 4), Region(0, 0, 80, 60), (60, 80))
    found = localize(saliency, picture)
    assert found.box == bounding_box(found.mask)


def test_letterboxed_inputs() -> None:
    box = Box(left=20, top=10, right=60, bottom=40)
    hill = blob((30, 30), ((25 + 25) * 0.3, 40 * 0.3), 4)
    saliency = saliency_of(hill, Region(0, -25, 100, 75), (50, 100))
    assert localize(saliency, scene((50, 100), box)).box == box


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P"])
def test_other_kinds_of_pictures(mode: str, tmp_path: Path) -> None:
    box = Box(left=20, top=20, right=60, bottom=60)
    Image.fromarray(scene((100, 100), box).pixels).convert(mode).save(tmp_path / "a.png")
    picture = load_picture(tmp_path / "a.png")
    saliency = saliency_of(blob((50, 50), (20, 20), 8), Region(0, 0, 100, 100), (100, 100))
    found = localize(saliency, picture)
    assert found.box == box


def test_a_map_of_another_picture_is_refused() -> None:
    picture = scene((60, 80), Box(10, 10, 30, 30))
    values = blob((24, 24), (8, 8), 4)
    with pytest.raises(ImageError, match=r"not that of the map's picture, \(60, 90\)"):
        localize(saliency_of(values, Region(0, 0, 90, 60), (60, 90)), picture)
    with pytest.raises(ImageError, match="the map was made of"):
        localize(saliency_of(values, None, None), picture)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"foreground": 100}, "below 100"),
        ({"background": 0}, "above 0"),
        ({"foreground": 20}, "not the higher one"),
        ({"smoothing": -0.1}, "smoothing is -0.1"),
        ({"smoothing": float("nan")}, "smoothing is nan"),
        ({"work_size": 0}, "work_size is 0"),
        ({"rounds": -1}, "rounds is -1"),
    ],
)
def test_impossible_settings(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        LocalizationSettings(**setting)


def test_missing_opencv_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(
        PackageMissingError, match=r"pip install 'deepinside\[localize\]'"
    ) as caught:
        largest_component(np.ones((2, 2), dtype=bool))
    assert len(str(caught.value).splitlines()) == 1


# --- drawing ---


def found_at(box: Box | None, size: tuple[int, int], label: str = "thing") -> Localization:
    part = np.zeros((1, 1), dtype=bool)
    return Localization(part, size, box, 1.0, 0.5, 3, label, "x.png")


def test_boxes_are_drawn_at_their_edges() -> None:
    pixels = np.zeros((300, 400, 3), dtype=np.uint8)
    drawn = draw_boxes(pixels, [found_at(Box(100, 120, 300, 280), (300, 400))])
    assert drawn.shape == pixels.shape
    colour = drawn[279, 200]
    assert colour.any()
    for row, column in ((200, 100), (200, 299), (120, 250)):
        np.testing.assert_array_equal(drawn[row, column], colour)
    for row, column in ((200, 99), (200, 300), (280, 250), (200, 200)):
        assert not drawn[row, column].any()
    assert not pixels.any()


def test_small_pictures_are_enlarged_and_labels_keep_apart() -> None:
    pixels = np.full((30, 40, 3), 255, dtype=np.uint8)
    boxes = [found_at(Box(2, 2, 20, 20), (30, 40), name) for name in ("one", "two", "three")]
    drawn = draw_boxes(pixels, boxes)
    assert drawn.shape == (240, 320, 3)
    colours = {tuple(map(int, row)) for row in drawn.reshape(-1, 3)}
    for named in ((230, 159, 0), (86, 180, 233), (0, 158, 115)):
        area = int((drawn == named).all(axis=2).sum())
        assert named in colours
        assert area > 300  # the label's ground, not hidden by another
    unchanged = draw_boxes(pixels, [found_at(None, (30, 40))])
    assert (unchanged == 255).all()
    assert draw_boxes(np.zeros((1, 9000, 3), dtype=np.uint8), []).shape == (1, 9000, 3)


# --- scenes with known objects ---


def benchmark(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def benchmarks() -> Iterator[ModuleType]:
    benchmark("scenes")
    yield benchmark("localisation")
    del sys.modules["scenes"], sys.modules["localisation"]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    file = tmp_path_factory.mktemp("model") / "saliency.onnx"
    export_saliency(models.default_classifier(), file, preprocessing=models.card()["preprocessing"])
    return Engine(file, "cpu")


def test_intersection_over_union(benchmarks: ModuleType) -> None:
    assert benchmarks.box_iou(Box(0, 0, 4, 2), Box(2, 0, 6, 2)) == pytest.approx(1 / 3)
    assert benchmarks.box_iou(Box(0, 0, 2, 2), Box(2, 2, 4, 4)) == 0
    assert benchmarks.box_iou(None, Box(2, 2, 4, 4)) == 0
    left, right = np.array([[True, True, False]]), np.array([[False, True, True]])
    assert benchmarks.mask_iou(left, right) == pytest.approx(1 / 3)


PLACED = list(itertools.product(("cup", "cat"), ("lawn", "wood"), (0, 1)))


def test_objects_in_composed_scenes(benchmarks: ModuleType, engine: Engine) -> None:
    """Cup and cat from the embedded pictures on other backgrounds, found by their class."""
    compose = sys.modules["scenes"].compose
    group = [compose(name, ground, place) for name, ground, place in PLACED]
    cases = benchmarks.cases_of(engine, group)
    assert all(case.seen for case in cases)

    def overlaps(way: Any) -> list[float]:
        masks = [way(case.saliency, case.picture) for case in cases]
        return [
            benchmarks.box_iou(bounding_box(mask), bounding_box(case.scene.mask))
            for mask, case in zip(masks, cases, strict=True)
        ]

    found = overlaps(benchmarks.cut())
    assert np.mean(found) > 0.85
    assert np.mean(found) > np.mean(overlaps(benchmarks.threshold)) + 0.3
    assert np.mean(found) > np.mean(overlaps(benchmarks.seen_part)) + 0.3
