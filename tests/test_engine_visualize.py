"""The ascent against its closed form."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_fixtures import LABELS, RECORD, Recipe, write

from deepinside.engine import (
    PRESETS,
    DivergenceError,
    Engine,
    Progress,
    SettingError,
    TargetError,
    TaskError,
)

STEP = Recipe(task="visualization")


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(write(tmp_path / "v.onnx", STEP), "cpu")


def climb(start: Any, index: int, steps: int, step_size: float, l2: float) -> Any:
    x = np.array(start, dtype=np.float64)
    for _ in range(steps):
        x = x + step_size * (STEP.gradient(x, index) - 2 * l2 * x)
    return x


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("batch", [None, 1, 4])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "flat"])
def test_pictures_and_scores(tmp_path: Path, steps: int, batch: int | None, layout: str) -> None:
    recipe = STEP.but(batch=batch, layout=layout)
    engine = Engine(write(tmp_path / "v.onnx", recipe), "cpu")
    found = engine.visualize(
        [2, "tiger cat"], steps=steps, step_size=0.1, l2=0.3, batch_size=2, score_every=3
    )
    assert [image.index for image in found] == [2, 1]
    for image in found:
        x = np.zeros(recipe.shape)
        expected = []
        for _ in range(steps + 1):
            expected.append((x, recipe.scores(x[np.newaxis])[0, image.index]))
            x = x + 0.1 * (recipe.gradient(x, image.index) - 0.6 * x)
        np.testing.assert_allclose(image.image, expected[steps][0], rtol=1e-4, atol=1e-5)
        assert image.image.dtype == np.float32
        assert image.score_steps == (*range(0, steps, 3), steps)
        wanted = [expected[step][1] for step in image.score_steps]
        np.testing.assert_allclose(image.scores, wanted, rtol=1e-3, atol=1e-4)
        assert image.score == image.scores[-1]
        assert image.steps == steps
        assert not image.stopped_early
        assert image.label == LABELS[image.index]
        shown = (recipe.picture(image.image) * RECORD["std"] + RECORD["mean"]) * 255
        np.testing.assert_allclose(image.picture, np.clip(shown, 0, 255), atol=0.51)


def test_start_from_noise_is_seeded_per_class(engine: Engine) -> None:
    options: dict[str, Any] = {"steps": 1, "step_size": 1e-6, "init": "noise"}
    first, other = engine.visualize([0, 1], seed=3, **options)
    (alone,) = engine.visualize(1, seed=3, **options)
    (reseeded,) = engine.visualize(1, seed=4, **options)
    np.testing.assert_array_equal(other.image, alone.image)
    assert np.abs(first.image - other.image).max() > 0.1
    assert np.abs(reseeded.image - alone.image).max() > 0.1
    assert other.image.std() == pytest.approx(0.1, rel=0.2)


def test_start_from_a_picture_or_an_array(engine: Engine) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    (found,) = engine.visualize(0, steps=1, step_size=1e-9, init=pixels)
    np.testing.assert_allclose(found.picture, pixels, atol=1)
    assert found.settings["init"] == "array"
    start = np.full(STEP.shape, 0.5, np.float32)
    (found,) = engine.visualize(0, steps=3, step_size=0.1, l2=0.1, init=start)
    np.testing.assert_allclose(found.image, climb(start, 0, 3, 0.1, 0.1), rtol=1e-4)
    np.testing.assert_array_equal(start, 0.5)


def test_snapshots_and_progress(engine: Engine) -> None:
    seen: list[Progress] = []
    (found,) = engine.visualize(0, steps=7, snapshot_every=3, score_every=5, progress=seen.append)
    assert [snapshot.step for snapshot in found.snapshots] == [3, 6]
    assert found.snapshots[0].picture is not None
    assert [state.step for state in seen] == [0, 5, 7]
    assert seen[0].steps == 7
    assert seen[0].classes == (0,)


def test_the_picture_is_copied_to_the_host_only_at_the_end(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepinside.engine.binding import PingPong

    reads = []
    for name in ("state", "output"):
        real = getattr(PingPong, name)

        def counted(loop: PingPong, part: str, real: Any = real) -> Any:
            reads.append(part)
            return real(loop, part)

        monkeypatch.setattr(PingPong, name, counted)
    engine.visualize([0, 1], steps=20, score_every=10)
    assert sorted(reads) == ["image", "score", "score", "score"]


def test_early_stop(engine: Engine) -> None:
    options: dict[str, Any] = {"step_size": 0.4, "l2": 1.0, "steps": 500, "score_every": 1}
    (found,) = engine.visualize(1, patience=5, **options)
    assert found.stopped_early
    assert found.steps < 100
    (whole,) = engine.visualize(1, **options)
    assert not whole.stopped_early
    assert found.score == pytest.approx(whole.score, rel=1e-2)


def test_divergence_is_an_error(engine: Engine) -> None:
    with pytest.raises(DivergenceError, match=r"class 1 .* step size 1e\+06 is too large"):
        engine.visualize(1, steps=100, step_size=1e6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"score_every": 0}, "score_every is 0"),
        ({"snapshot_every": 0}, "snapshot_every is 0"),
        ({"patience": 0}, "patience is 0"),
        ({"step_size": 0.0}, "step_size is 0"),
        ({"step_size": float("nan")}, "step_size is nan"),
        ({"l2": -1.0}, "l2 is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"preset": "baroque"}, "possible: paper"),
    ],
)
def test_impossible_settings(engine: Engine, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        engine.visualize(0, **options)


def test_targets(engine: Engine) -> None:
    assert [image.index for image in engine.visualize(["dane", 2, "2"], steps=1)] == [2]
    for wrong in (7, "zebra", []):
        with pytest.raises(TargetError):
            engine.visualize(wrong, steps=1)


def test_without_a_record_there_is_no_picture(tmp_path: Path) -> None:
    engine = Engine(write(tmp_path / "v.onnx", STEP.but(record=None)), "cpu")
    (found,) = engine.visualize(0, steps=1)
    assert found.picture is None
    assert found.image.shape == STEP.shape


def test_open_sizes_need_a_start(tmp_path: Path, engine: Engine) -> None:
    object.__setattr__(engine.spec, "shape", (3, None, None))
    object.__setattr__(engine.spec.contract, "preprocessing", None)
    with pytest.raises(TaskError, match="size open"):
        engine.visualize(0, steps=1)


def test_preset_settings_are_recorded(engine: Engine) -> None:
    (found,) = engine.visualize(0, steps=2, l2=0.5)
    paper = PRESETS["paper"]
    assert found.settings["steps"] == 2
    assert found.settings["l2"] == 0.5
    assert found.settings["step_size"] == paper.step_size
    assert found.settings["preset"] == "paper"


def test_a_class_may_be_a_number_of_numpy(engine: Engine) -> None:
    assert engine.classes(np.int64(2)) == [2]
    assert engine.classes(np.array([2, 0])) == [2, 0]  # type: ignore[arg-type]
    assert [image.index for image in engine.visualize(np.int64(1), steps=1)] == [1]
