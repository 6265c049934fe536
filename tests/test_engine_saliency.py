"""Saliency against closed forms."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_fixtures import Recipe, pictures, write
from numpy.typing import NDArray

from deepinside.engine import (
    Engine,
    InputFailure,
    InputMaps,
    ModelFileError,
    OutOfMemoryError,
    TargetError,
    TaskError,
)

RECIPES = {
    "plain": Recipe(),
    "nhwc": Recipe(layout="NHWC"),
    "flat": Recipe(layout="flat"),
    "flat gradient only": Recipe(layout="flat", outputs=("gradient",), record=None),
    "batch of one": Recipe(batch=1),
    "batch of four": Recipe(batch=4),
    "required target": Recipe(target_input="required"),
    "gradient only": Recipe(outputs=("gradient",)),
    "saliency only": Recipe(outputs=("saliency", "score")),
}


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(write(tmp_path / "file.onnx"), "cpu")


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_every_value_has_its_closed_form(tmp_path: Path, recipe: Recipe, batch_size: int) -> None:
    engine = Engine(write(tmp_path / "file.onnx", recipe), "cpu")
    x = pictures(6, recipe)
    maps = engine.saliency(x, ["top1", 2], batch_size=batch_size)

    scores = recipe.scores(x)
    expected = []
    for n, best in enumerate(scores.argmax(1)):
        expected += [(n, int(index)) for index in dict.fromkeys([int(best), 2])]
    assert [(int(m.source[1:]), m.index) for m in maps] == expected
    for m, (n, index) in zip(maps, expected, strict=True):
        gradient = recipe.gradient(x[n], index)
        expected_map = np.abs(recipe.picture(gradient)).max(axis=2)
        np.testing.assert_allclose(m.saliency, expected_map, rtol=1e-5)
        assert m.saliency.dtype == np.float32
        assert m.saliency.base is None
        if "gradient" in recipe.outputs:
            assert m.gradient is not None
            assert m.gradient.base is None
            np.testing.assert_allclose(m.gradient, gradient, rtol=1e-4, atol=1e-6)
        if "score" in recipe.outputs:
            assert m.score == pytest.approx(scores[n, index], rel=1e-4)
        exponentials = np.exp(scores[n] - scores[n].max())
        assert m.probability == pytest.approx((exponentials / exponentials.sum())[index], rel=1e-3)
        assert m.label == ["tabby, tabby cat", "tiger cat", "Great Dane"][index]
        assert m.region is None
        assert m.size is None


@pytest.mark.parametrize("activation", ["none", "softmax", "log_softmax", "sigmoid"])
def test_probability_follows_the_activation(tmp_path: Path, activation: str) -> None:
    recipe = Recipe(activation=activation)
    engine = Engine(write(tmp_path / "file.onnx", recipe), "cpu")
    x = pictures(1) * 0.1
    logits = recipe.scores(x)[0]
    softmax = np.exp(logits) / np.exp(logits).sum()
    expected = 1 / (1 + np.exp(-logits)) if activation == "sigmoid" else softmax
    found = [m.probability for m in engine.saliency(x, [0, 1, 2])]
    assert found == pytest.approx(list(expected), rel=1e-4)


def test_a_single_class_has_a_sigmoid(tmp_path: Path) -> None:
    recipe = Recipe(classes=1, labels=None)
    engine = Engine(write(tmp_path / "file.onnx", recipe), "cpu")
    x = pictures(1) * 0.1
    (found,) = engine.saliency(x)
    assert found.probability == pytest.approx(1 / (1 + np.exp(-recipe.scores(x)[0, 0])), rel=1e-4)
    assert found.label is None


def test_top_classes_come_in_the_order_of_their_scores(engine: Engine) -> None:
    x = pictures(3)
    order = np.argsort(-Recipe().scores(x), axis=1)
    maps = engine.saliency(x, "top3", batch_size=2)
    assert [m.index for m in maps] == order.ravel().tolist()
    assert [m.index for m in engine.saliency(x, ["top2", "top3"])] == order.ravel().tolist()


def test_float16_file(tmp_path: Path) -> None:
    recipe = Recipe(dtype="float16")
    engine = Engine(write(tmp_path / "file.onnx", recipe), "cpu")
    x = pictures(2, recipe)
    for n, m in enumerate(engine.saliency(x, 1)):
        assert m.gradient is not None
        assert m.gradient.dtype == np.float16
        np.testing.assert_allclose(m.gradient, recipe.gradient(x[n], 1), atol=5e-3)
        assert m.saliency.dtype == np.float32


def test_gradients_are_left_out_on_request(engine: Engine) -> None:
    (found,) = engine.saliency(pictures(1), keep_gradient=False)
    assert found.gradient is None


def test_one_bad_image_never_stops_the_rest(engine: Engine) -> None:
    good = pictures(2)
    bad = np.full_like(good[0], np.nan)
    images = [good[0], bad, np.zeros((3, 5, 5), np.float32), "nowhere.png", object(), good[1]]
    for batch_size in (1, 3, 8):
        found = list(engine.iter_saliency(images, batch_size=batch_size))
        kinds = [type(item) for item in found]
        assert kinds == [InputMaps, *[InputFailure] * 4, InputMaps]
        assert [item.position for item in found] == list(range(6))
        assert isinstance(found[-1], InputMaps)
        np.testing.assert_array_equal(
            found[-1].maps[0].saliency, engine.saliency(good[1])[0].saliency
        )


def test_images_are_read_as_they_are_needed(engine: Engine) -> None:
    read = 0

    def endless() -> object:
        nonlocal read
        while True:
            read += 1
            yield pictures(1)[0]

    results = engine.iter_saliency(endless(), batch_size=2)  # type: ignore[arg-type]
    for _ in range(3):
        next(results)
    assert read == 4


def test_a_gradient_that_is_no_number_is_a_failure(tmp_path: Path) -> None:
    engine = Engine(write(tmp_path / "file.onnx", Recipe(gradient_factor=float("inf"))), "cpu")
    (found,) = engine.iter_saliency(pictures(1))
    assert isinstance(found, InputFailure)
    assert "infinite" in str(found.error)


def test_fixed_target_takes_no_other(tmp_path: Path) -> None:
    engine = Engine(write(tmp_path / "file.onnx", Recipe(target_input="fixed:1")), "cpu")
    (found,) = engine.saliency(pictures(1), "tiger cat")
    assert found.index == 1
    with pytest.raises(TargetError, match="for class 1 only"):
        engine.saliency(pictures(1))


def test_wrong_task(tmp_path: Path, engine: Engine) -> None:
    other = Engine(write(tmp_path / "v.onnx", Recipe(task="visualization")), "cpu")
    with pytest.raises(TaskError, match="--task saliency"):
        other.saliency(pictures(1))
    with pytest.raises(TaskError, match="--task visualization"):
        engine.visualize(1)


def test_pictures_need_a_record(tmp_path: Path) -> None:
    engine = Engine(write(tmp_path / "file.onnx", Recipe(record=None)), "cpu")
    (found,) = engine.iter_saliency(np.zeros((9, 9, 3), np.uint8))
    assert isinstance(found, InputFailure)
    assert "--preprocessing" in str(found.error)
    assert len(engine.saliency(pictures(1))) == 1


def test_pictures_are_preprocessed_and_mapped_back(engine: Engine) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    (found,) = engine.iter_saliency(picture, 0)
    assert isinstance(found, InputMaps)
    x = (picture / 255 - [0.5, 0.25, 0]) / [0.5, 0.25, 1]
    expected = Recipe().gradient(x.transpose(2, 0, 1), 0)
    gradient = found.maps[0].gradient
    assert gradient is not None
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)
    assert found.maps[0].size == (6, 8)
    np.testing.assert_array_equal(found.picture.pixels, picture)  # type: ignore[union-attr]


def test_a_flat_file_takes_pictures_and_vectors_alike(tmp_path: Path) -> None:
    """Pixel (1, 2) of a picture is the elements 1 * W * C + 2 * C ... of the vector."""
    engine = Engine(write(tmp_path / "flat.onnx", Recipe(layout="flat")), "cpu")
    picture = np.zeros((6, 8, 3), np.uint8)
    picture[1, 2] = 255, 0, 255
    vector = np.tile(np.float32([-1, -1, 0]), 6 * 8)  # black, normalised
    vector[30:33] = 1, -1, 1
    (by_picture,) = engine.saliency(picture, 1)
    (by_vector,) = engine.saliency(vector, 1)
    (in_batch,) = engine.saliency(vector[np.newaxis], 1)
    assert by_vector.saliency.shape == (6, 8)
    np.testing.assert_array_equal(by_picture.saliency, by_vector.saliency)
    np.testing.assert_array_equal(in_batch.saliency, by_vector.saliency)
    assert by_picture.size == (6, 8)


def test_a_flat_file_whose_picture_does_not_fit_is_refused(tmp_path: Path) -> None:
    recipe = Recipe(layout="flat", record=None, overrides={"picture": "[6, 9, 3]"})
    with pytest.raises(ModelFileError, match=r"a picture of \(6, 9, 3\)"):
        Engine(write(tmp_path / "flat.onnx", recipe), "cpu")


@pytest.mark.parametrize("text", ["[6, 8]", "[6, 8, 0]", "[6, 8.0, 3]", "3", "[6, true, 3]"])
def test_a_flat_file_with_a_broken_picture_is_refused(tmp_path: Path, text: str) -> None:
    recipe = Recipe(layout="flat", record=None, overrides={"picture": text})
    with pytest.raises(ModelFileError, match=r"deepinside\.picture of"):
        Engine(write(tmp_path / "flat.onnx", recipe), "cpu")


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_batches_can_be_read_ahead(engine: Engine, ahead: int) -> None:
    x = pictures(10, Recipe())
    read: list[int] = []

    def source() -> Iterator[NDArray[Any]]:
        for number, picture in enumerate(x):
            read.append(number)
            yield picture

    results = engine.iter_saliency(source(), batch_size=2, ahead=ahead)
    first = next(results)
    assert len(read) == 2 * (1 + ahead)
    found = [first, *results]
    expected = engine.saliency(x)
    assert [item.position for item in found] == list(range(10))
    for item, single in zip(found, expected, strict=True):
        assert isinstance(item, InputMaps)
        np.testing.assert_allclose(item.maps[0].saliency, single.saliency, rtol=1e-6)


class SmallMemory:
    """ONNX Runtime's session on a device that holds so many images."""

    def __init__(self, raw: Any, most: int) -> None:
        self.raw, self.most, self.sizes = raw, most, list[int]()

    def run(
        self, outputs: list[str], feeds: dict[str, NDArray[Any]], *options: Any
    ) -> list[NDArray[Any]]:
        count = len(next(iter(feeds.values())))
        self.sizes.append(count)
        if count > self.most:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 12345")
        return list(self.raw.run(outputs, feeds, *options))


def test_a_batch_too_large_for_the_memory_is_halved(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    x = pictures(7, Recipe())
    expected = engine.saliency(x)
    small = SmallMemory(engine.session.raw, most=2)
    engine.session.raw = small
    found = engine.saliency(x, batch_size=7)
    assert small.sizes == [7, 4, 2, 2, 2, 1]  # halved until it fits, and not tried again
    assert "Going on with batches of 2" in caplog.text
    for one, other in zip(found, expected, strict=True):
        assert one.source == other.source
        np.testing.assert_allclose(one.saliency, other.saliency, rtol=1e-6)


def test_one_image_too_large_for_the_memory(engine: Engine) -> None:
    engine.session.raw = SmallMemory(engine.session.raw, most=0)
    with pytest.raises(OutOfMemoryError, match="smaller batch size"):
        engine.saliency(pictures(3, Recipe()))
