"""Files with an open height and width, run at sizes other than the preprocessing record's."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from classifiers import classifier
from click.testing import CliRunner
from engine_fixtures import Recipe, write
from PIL import Image
from record_cases import GOOD

from deepinside.cli.main import cli
from deepinside.engine import Engine, ImageError, InputFailure, Region, SettingError
from deepinside.exporters import export_saliency, export_visualization

_RECORD = {
    **GOOD[0],
    "resize": "shorter-side",
    "resize_size": 40,
    "input_size": [32, 32],
    "interpolation": "bilinear",
    "channel_order": "RGB",
    "value_range": [0, 1],
    "mean": [0.5] * 3,
    "std": [0.25] * 3,
}


def _open_classifier() -> onnx.ModelProto:
    """Any size from 8 on: its first layer has a kernel of 8."""
    model = classifier()
    for axis, name in ((2, "H"), (3, "W")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    model.graph.node[0].attribute[0].ints[:] = [8, 8]
    model.graph.node[0].attribute[1].ints[:] = [0, 0, 0, 0]
    weights = np.random.default_rng(0).standard_normal((8, 3, 8, 8)) / 8
    position = [value.name for value in model.graph.initializer].index("w")
    model.graph.initializer[position].CopyFrom(
        onnx.numpy_helper.from_array(weights.astype(np.float32), "w")
    )
    return model


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("open") / "saliency.onnx"
    return export_saliency(_open_classifier(), path, preprocessing=_RECORD).path


@pytest.fixture(scope="module")
def engine(file: Path) -> Engine:
    return Engine(file, "cpu")


def _picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        (None, (32, 32)),
        ((48, 17), (48, 17)),
        ("48x17", (48, 17)),
        (21, (21, 21)),
        ("21", (21, 21)),
        ("original", (40, 61)),
    ],
)
def test_the_map_has_the_size_asked_for(
    engine: Engine, size: str | None, shape: tuple[int, int]
) -> None:
    (found,) = engine.saliency(_picture(40, 61), size=size)
    assert found.saliency.shape == shape
    assert found.gradient is not None
    assert found.gradient.shape == (3, *shape)
    assert found.saliency.max() > 0


def test_original_is_the_whole_picture_pixel_by_pixel(engine: Engine) -> None:
    picture = _picture(40, 61)
    (found,) = engine.saliency(picture, 1, size="original")
    assert found.region == Region(0, 0, 61, 40)
    array = ((picture / np.float32(255) - 0.5) / 0.25).transpose(2, 0, 1).astype(np.float32)
    (same,) = engine.saliency(array, 1)
    np.testing.assert_allclose(found.saliency, same.saliency, rtol=1e-5)


@pytest.mark.parametrize("shape", [(80, 120), (120, 80)])
@pytest.mark.parametrize("size", [(64, 64), (48, 96), (96, 48)])
def test_another_size_crops_the_same_share(
    engine: Engine, shape: tuple[int, int], size: tuple[int, int]
) -> None:
    """40 pixels to a crop of 32: four fifths of the side that limits, and no filling."""
    (found,) = engine.saliency(_picture(*shape), size=size)
    region = found.region
    assert region is not None
    height, width = region.bottom - region.top, region.right - region.left
    assert max(height / shape[0], width / shape[1]) == pytest.approx(0.8, abs=0.02)
    assert height / width == pytest.approx(size[0] / size[1], rel=0.03)
    assert min(region.left, region.top) > 0


def test_pictures_of_many_sizes_in_one_call(engine: Engine) -> None:
    pictures = [_picture(40, 61, 1), _picture(20, 33, 2), _picture(40, 61, 3)]
    together = engine.saliency(pictures, ["top1", 2], size="original", batch_size=3)
    alone = [
        result
        for picture in pictures
        for result in engine.saliency(picture, ["top1", 2], size="original")
    ]
    assert [item.index for item in together] == [item.index for item in alone]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.saliency, other.saliency, rtol=1e-5, atol=1e-9)


def test_a_picture_below_the_least_size_fails_alone(engine: Engine) -> None:
    pictures = [_picture(40, 61), _picture(6, 50), _picture(9, 8)]
    found = list(engine.iter_saliency(pictures, size="original"))
    assert [isinstance(item, InputFailure) for item in found] == [False, True, False]
    assert isinstance(found[1].error, ImageError)  # type: ignore[union-attr]
    assert "(3, 6, 50)" in str(found[1].error)  # type: ignore[union-attr]


@pytest.mark.parametrize("size", ["0x8", "8x", "large", "1x2x3", (8,), (0, 8), -4, "original "])
def test_what_is_no_size(engine: Engine, size: str) -> None:
    with pytest.raises(SettingError, match="HxW"):
        engine.saliency(_picture(40, 61), size=size)


@pytest.mark.parametrize("size", ["original", "6x9", (7, 8)])
def test_a_file_of_one_size_takes_no_other(tmp_path: Path, size: str) -> None:
    engine = Engine(write(tmp_path / "s.onnx", Recipe(size=(6, 8))), "cpu")
    with pytest.raises(SettingError, match="pictures of 6x8 only"):
        engine.saliency(_picture(40, 61), size=size)
    assert engine.saliency(_picture(40, 61), size="6x8")[0].saliency.shape == (6, 8)


def test_class_pictures_of_any_size(tmp_path: Path) -> None:
    path = export_visualization(_open_classifier(), tmp_path / "v.onnx", preprocessing=_RECORD).path
    engine = Engine(path, "cpu")
    (plain,) = engine.visualize(1, steps=3)
    assert plain.image.shape == (3, 32, 32)
    (found,) = engine.visualize(1, steps=3, size=(24, 40))
    assert found.image.shape == (3, 24, 40)
    assert found.picture is not None
    assert found.picture.shape == (24, 40, 3)
    assert found.settings["size"] == "24x40"
    (drawn,) = engine.visualize(1, steps=3, init=_picture(40, 61), size="original")
    assert drawn.image.shape == (3, 40, 61)
    with pytest.raises(SettingError, match="a picture to start from"):
        engine.visualize(1, steps=3, size="original")


def test_the_check_at_another_size(engine: Engine) -> None:
    assert engine.check(size=(41, 27)).passed


def test_the_command_line_at_another_size(file: Path, tmp_path: Path) -> None:
    Image.fromarray(_picture(40, 61)).save(tmp_path / "p.png")
    common = ["saliency", str(tmp_path / "p.png"), "-m", str(file), "-t", "1", "-q"]
    common += ["-o", str(tmp_path / "out"), "--json"]

    def run(*options: str) -> tuple[int, dict[str, object]]:
        done = CliRunner().invoke(cli, [*common, *options])
        return done.exit_code, json.loads(done.stdout)

    assert run("--size", "24x40")[0] == 0
    (maps,) = (tmp_path / "out").glob("*.saliency.npy")
    assert np.load(maps).shape == (24, 40)
    assert run("--size", "24x40")[1]["status"] == "kept"
    code, record = run("--size", "original")
    assert code == 1
    assert "another size" in str(record["error"])
    assert run("--size", "original", "--overwrite")[0] == 0
    assert np.load(maps).shape == (40, 61)


@pytest.mark.parametrize("is_open", [True, False])
def test_inspect_says_whether_the_size_is_open(file: Path, is_open: bool, tmp_path: Path) -> None:
    path = file if is_open else write(tmp_path / "s.onnx")
    shown = CliRunner().invoke(cli, ["inspect", str(path)]).stdout
    assert ("--size original" in shown) == is_open
    assert ("6x8 only" in shown) == (not is_open)
