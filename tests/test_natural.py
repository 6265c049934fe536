"""Preset natural: the step against PyTorch, the ascent, loops, layers and mixes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from classifiers import classifier, session
from numpy.typing import NDArray
from PIL import Image

from deepinside.engine import Engine, SettingError, TargetError, TaskError
from deepinside.engine.goals import Goal, find_goal
from deepinside.engine.natural import spectrum_of, start_spectrum
from deepinside.engine.state import AscentState, load_state, save_state
from deepinside.exporters import (
    ExportError,
    ScoreError,
    export_saliency,
    export_visualization,
    layers_of,
)

SIZE = 12
RECORD: dict[str, Any] = {
    "input_size": [SIZE, SIZE],
    "resize": "stretch",
    "resize_size": None,
    "interpolation": "bilinear",
    "channel_order": "RGB",
    "value_range": [0, 255],
    "mean": [120.0, 110.0, 100.0],
    "std": [60.0, 58.0, 57.0],
}
COLOURS = torch.tensor(
    [[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]], dtype=torch.float64
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return natural_file(tmp_path / "n.onnx")


def natural_file(path: Path, **options: Any) -> Path:
    record = options.pop("preprocessing", RECORD)
    model = options.pop("model", None) or classifier(size=SIZE)
    export_visualization(model, path, step_rule="natural", preprocessing=record, **options)
    return path


def transposed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The classifier with pictures (N, H, W, C)."""
    graph = model.graph
    graph.node[0].input[0] = "moved"
    moved = onnx.helper.make_node("Transpose", ["image"], ["moved"], perm=[0, 3, 1, 2])
    graph.node.insert(0, moved)
    sizes = graph.input[0].type.tensor_type.shape.dim
    sizes[1].dim_value, sizes[3].dim_value = SIZE, 3
    return model


# --- one step, reimplemented ---


def feed(**changes: Any) -> dict[str, Any]:
    random = np.random.default_rng(5)
    shape = (2, 3, SIZE, SIZE)
    turn, scale = np.deg2rad(7.0), 1.2
    cosine, sine = scale * np.cos(turn), scale * np.sin(turn)
    row = [cosine, -sine, 1.3, sine, cosine, -0.7, 0.6, 0.5]
    values: dict[str, Any] = {
        "spectrum": random.standard_normal(shape) * 0.3,
        "first_moment": random.standard_normal(shape) * 0.01,
        "second_moment": random.random(shape) * 1e-4,
        "weights": np.array([[1.0, 0.0], [0.7, 0.4]]),
        "step_size": np.array(0.1),
        "l2": np.array(0.003),
        "total_variation": np.array(2.0),
        "schedule": np.array([[1.0, 0, 0, 0, 1.0, 0, 1, 1], row, [1.0, 0, 0, 0, 1.0, 0, 1, 0]]),
    }
    values |= changes
    found = {name: np.asarray(value, dtype=np.float32) for name, value in values.items()}
    return {**found, "step": np.array(1), "target": np.array([[1, 0], [3, 2]])}


def run(file: Path, feeds: dict[str, Any]) -> dict[str, NDArray[Any]]:
    runtime = session(file)
    names = [output.name for output in runtime.get_outputs()]
    return dict(zip(names, runtime.run(None, feeds), strict=True))


def hat(distance: torch.Tensor) -> torch.Tensor:
    return torch.clamp(1 - distance.abs(), min=0)


def torch_view(x: torch.Tensor, row: NDArray[Any]) -> torch.Tensor:
    """Places and weights written out pixel by pixel, in the two passes of the contract."""
    a, b, s, c, d, t = row[:6].astype(np.float64)
    size = x.shape[-1]
    middle = (size - 1) / 2
    at = torch.arange(size, dtype=torch.float64) - middle

    def resample(x: torch.Tensor, lean: float, zoom: float, shift: float) -> torch.Tensor:
        wide = max(zoom, 1.0)
        lines = []
        for v in range(size):
            sheared = hat(at[:, None] - (at[None, :] + lean * at[v]))  # (from, to)
            zoomed = hat((at[:, None] - (zoom * at[None, :] + shift)) / wide) / wide
            lines.append(x[:, :, v, :] @ sheared @ zoomed)
        return torch.stack(lines, dim=2)

    x = resample(x, b / d, a - b * c / d, s - b * t / d)
    return resample(x.transpose(2, 3), c, d, t).transpose(2, 3)


def torch_cosines(size: int) -> torch.Tensor:
    n, k = torch.arange(size, dtype=torch.float64), torch.arange(size, dtype=torch.float64)
    basis = torch.cos(torch.pi * (n[:, None] + 0.5) * k[None, :] / size)
    return basis / basis.norm(dim=0)


def torch_picture(spectrum: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    k = torch.arange(SIZE, dtype=torch.float64) / (2 * SIZE)
    waves = torch.clamp(torch.hypot(k[:, None], k[None, :]), min=1 / SIZE)
    basis = torch_cosines(SIZE)
    plane = basis @ (spectrum / waves / 4) @ basis.T
    matrix = COLOURS / COLOURS.norm(dim=0).max()
    pixels = torch.sigmoid(torch.einsum("ij,njhw->nihw", matrix, plane))
    mean = torch.tensor(RECORD["mean"]).double()[:, None, None]
    std = torch.tensor(RECORD["std"]).double()[:, None, None]
    return pixels, (pixels * 255 - mean) / std


def torch_scores(images: torch.Tensor) -> torch.Tensor:
    weights = {
        item.name: torch.tensor(onnx.numpy_helper.to_array(item)).double()
        for item in classifier(size=SIZE).graph.initializer
        if item.name != "flat"
    }
    features = torch.relu(torch.nn.functional.conv2d(images, weights["w"], padding=1))
    return features.mean(dim=(2, 3)) @ weights["v"].T + weights["b"]


def test_a_step_is_that_of_an_independent_implementation(file: Path) -> None:
    feeds = feed()
    found = run(file, feeds)
    spectrum = torch.tensor(feeds["spectrum"]).double().requires_grad_()
    row = feeds["schedule"][1]
    pixels, picture = torch_picture(spectrum)
    scores = torch_scores(torch_view(picture, row))
    chosen = torch.gather(scores, 1, torch.tensor(feeds["target"]))
    score = (chosen * torch.tensor(feeds["weights"])).sum(dim=1)
    np.testing.assert_allclose(found["score"], score.detach(), rtol=1e-5)
    np.testing.assert_allclose(found["image"], picture.detach(), atol=1e-5)

    down = pixels[:, :, 1:, :-1] - pixels[:, :, :-1, :-1]
    across = pixels[:, :, :-1, 1:] - pixels[:, :, :-1, :-1]
    rough = torch.sqrt(down**2 + across**2 + 1e-6).mean(dim=(1, 2, 3))
    square = (picture**2).sum(dim=(1, 2, 3))
    (score - 2.0 * rough - 0.003 * square).sum().backward()
    gradient = spectrum.grad
    assert gradient is not None
    gradient_found = (found["next_first_moment"] - 0.9 * feeds["first_moment"]) / 0.1
    for expected, given in zip(gradient, gradient_found, strict=True):
        cosine = torch.nn.functional.cosine_similarity(
            expected.flatten(), torch.tensor(given).double().flatten(), dim=0
        )
        assert cosine >= 0.99999
    first = 0.9 * feeds["first_moment"] + 0.1 * gradient.numpy()
    second = 0.999 * feeds["second_moment"] + 0.001 * gradient.numpy() ** 2
    np.testing.assert_allclose(found["next_first_moment"], first, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["next_second_moment"], second, rtol=1e-4, atol=1e-7)
    assert found["next_step"] == 2
    move = (first / (1 - 0.9**2)) / (np.sqrt(second / (1 - 0.999**2)) + 1e-8)
    k = np.arange(SIZE) / (2 * SIZE)
    waves = np.maximum(np.hypot(k[:, None], k[None, :]), 1 / SIZE)
    expected = feeds["spectrum"] + 0.1 * 0.5 * move * (waves <= 0.6 * waves.max())
    np.testing.assert_allclose(found["next_spectrum"], expected, atol=1e-5)
    assert (found["next_spectrum"] == feeds["spectrum"]).mean() > 0.2


def test_a_view_is_what_grid_sample_sees(tmp_path: Path) -> None:
    """The matrix means what the contract says: PyTorch's sampling agrees on smooth pictures."""
    size = 48
    record = {**RECORD, "input_size": [size, size]}
    pixel = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3,48,48] image) => (float[N,K] s) <int64[2] flat> { s = Reshape (image, flat) }
"""
    model = onnx.parser.parse_model(pixel)
    model.graph.initializer.append(
        onnx.numpy_helper.from_array(np.array([-1, 3 * size * size]), "flat")
    )
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3 * size * size
    file = natural_file(tmp_path / "v.onnx", model=model, preprocessing=record)
    random = np.random.default_rng(2)
    spectrum = np.zeros((1, 3, size, size), np.float32)
    spectrum[:, :, :4, :4] = random.standard_normal((1, 3, 4, 4))
    turn, scale = np.deg2rad(-9.0), 0.85
    cosine, sine = scale * np.cos(turn), scale * np.sin(turn)
    rows = np.array([[cosine, -sine, 4.0, sine, cosine, -3.0, 1, 0]], np.float32)
    places = np.array([[c * size * size + y * size + x for c in range(3) for y in range(10, 38, 3)
                        for x in range(10, 38, 3)]])  # fmt: skip
    runtime = session(file)
    seen, picture = [], None
    for place in places[0]:
        feeds = feed(
            spectrum=spectrum,
            first_moment=spectrum,
            second_moment=spectrum**2,
            weights=[[1.0]],
            schedule=rows,
        )
        feeds |= {"target": np.array([[place]]), "step": np.array(0)}
        score, picture = runtime.run(["score", "image"], feeds)
        seen.append(float(score[0]))
    theta = torch.tensor(
        [[cosine, -sine, 4.0 * 2 / size], [sine, cosine, -3.0 * 2 / size]], dtype=torch.float64
    )
    image = torch.tensor(picture).double()
    grid = torch.nn.functional.affine_grid(theta[None], list(image.shape), align_corners=False)
    sampled = torch.nn.functional.grid_sample(image, grid, align_corners=False)
    expected = sampled.flatten()[torch.tensor(places[0])].numpy()
    assert np.std(expected) > 0.3
    np.testing.assert_allclose(seen, expected, atol=0.02)


# --- the ascent ---


def test_the_score_rises_and_the_seed_decides(file: Path) -> None:
    engine = Engine(file, "cpu")
    options: dict[str, Any] = {"steps": 30, "step_size": 0.1, "score_every": 10}
    first, other = engine.visualize([1, 3], seed=2, **options)
    assert first.settings["preset"] == "natural"
    assert first.scores[-1] > first.scores[0]
    again, _ = engine.visualize([1, 3], seed=2, **options)
    np.testing.assert_array_equal(first.image, again.image)
    (alone,) = engine.visualize(3, seed=2, **options)
    np.testing.assert_allclose(alone.image, other.image, atol=1e-2)
    (reseeded,) = engine.visualize(3, seed=3, **options)
    assert np.abs(reseeded.image - alone.image).max() > 0.1
    # The score at the end is the classifier's own, of the picture itself.
    raw = session(classifier(size=SIZE).SerializeToString()).run(None, {"image": first.image[None]})
    assert first.score == pytest.approx(float(raw[0][0, 1]), rel=1e-4)
    assert first.picture is not None
    assert first.picture.shape == (SIZE, SIZE, 3)


def test_reading_scores_and_pictures_does_not_disturb(file: Path) -> None:
    engine = Engine(file, "cpu")
    (seldom,) = engine.visualize(0, steps=12, score_every=12)
    (often,) = engine.visualize(0, steps=12, score_every=1, snapshot_every=2)
    np.testing.assert_array_equal(seldom.image, often.image)
    assert [snapshot.step for snapshot in often.snapshots] == [2, 4, 6, 8, 10, 12]
    np.testing.assert_array_equal(often.snapshots[-1].picture, often.picture)


@pytest.mark.parametrize("order", ["RGB", "BGR", "L"])
def test_a_start_from_a_photo_is_that_photo(tmp_path: Path, order: str) -> None:
    channels = len(order)
    model = classifier(size=SIZE)
    record = {**RECORD, "channel_order": order}
    if channels == 1:
        record |= {"mean": [100.0], "std": [50.0]}
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
        weights = np.ones((8, 1, 3, 3), np.float32)
        for item in model.graph.initializer:
            if item.name == "w":
                item.CopyFrom(onnx.numpy_helper.from_array(weights, "w"))
    file = natural_file(tmp_path / "p.onnx", model=model, preprocessing=record)
    photo = np.random.default_rng(0).integers(20, 235, (SIZE, SIZE, 3), dtype=np.uint8)
    if channels == 1:
        photo[:] = photo[..., :1]
    (found,) = Engine(file, "cpu").visualize(0, steps=1, step_size=1e-9, init=photo)
    assert found.picture is not None
    assert np.abs(found.picture.astype(int) - photo).mean() < 1.5


def test_noise_of_a_start_depends_on_seed_and_class_only() -> None:
    class Record:
        std, mean, value_range, channel_order = (1.0,) * 3, (0.0,) * 3, (0, 1), "RGB"

    picture = np.full((8, 6, 3), 0.5)
    options: dict[str, Any] = {"grey": True}
    first = start_spectrum(picture, Record(), seed=1, index=4, **options)  # type: ignore[arg-type]
    assert first.shape == (3, 8, 6)
    for seed, index in ((2, 4), (1, 5)):
        other = start_spectrum(picture, Record(), seed=seed, index=index, **options)  # type: ignore[arg-type]
        assert np.abs(first - other).max() > 0
    np.testing.assert_allclose(spectrum_of(picture, Record()), 0, atol=1e-9)  # type: ignore[arg-type]


def test_resuming_gives_the_picture_of_an_undisturbed_run(file: Path, tmp_path: Path) -> None:
    engine = Engine(file, "cpu")
    options: dict[str, Any] = {"steps": 9, "score_every": 2, "snapshot_every": 3}
    states: list[AscentState] = []
    whole = engine.visualize([1, 4], state_every=4, on_state=states.append, **options)
    assert [(state.goal.index, state.step) for state in states] == [(1, 4), (4, 4), (1, 8), (4, 8)]
    save_state(tmp_path / "a.npz", states[0])
    save_state(tmp_path / "b.npz", states[1])
    loaded = [load_state(tmp_path / name) for name in ("a.npz", "b.npz")]
    resumed = engine.visualize([1, 4], resume=loaded, **options)
    for one, other in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        assert one.scores == other.scores
        assert one.score_steps == other.score_steps
        assert [s.step for s in other.snapshots] == [3, 6, 9]
    with pytest.raises(SettingError, match="settings steps"):
        engine.visualize([1, 4], resume=loaded, **{**options, "steps": 10})
    with pytest.raises(SettingError, match="of one step"):
        engine.visualize([1, 4], resume=[states[0], states[3]], **options)
    with pytest.raises(SettingError, match="class or classifier"):
        engine.visualize([1, 3], resume=loaded, **options)
    (tmp_path / "c.npz").write_bytes(b"PK broken")
    with pytest.raises(SettingError, match="holds no state"):
        load_state(tmp_path / "c.npz")


def test_the_plain_step_resumes_too(tmp_path: Path) -> None:
    export_visualization(classifier(size=SIZE), tmp_path / "p.onnx", preprocessing=RECORD)
    engine = Engine(tmp_path / "p.onnx", "cpu")
    states: list[AscentState] = []
    (whole,) = engine.visualize(2, steps=7, state_every=3, on_state=states.append)
    (resumed,) = engine.visualize(2, steps=7, resume=states[:1])
    np.testing.assert_array_equal(whole.image, resumed.image)


@pytest.mark.parametrize("batch", ["N", "2"])
def test_other_layouts_and_batches(tmp_path: Path, batch: str) -> None:
    options: dict[str, Any] = {"steps": 4, "score_every": 4}
    plain = natural_file(tmp_path / "a.onnx", model=classifier(size=SIZE, batch=batch))
    moved = natural_file(
        tmp_path / "b.onnx", model=transposed(classifier(size=SIZE, batch=batch)), layout="NHWC"
    )
    for one, other in zip(
        Engine(plain, "cpu").visualize([0, 1, 2], **options),
        Engine(moved, "cpu").visualize([0, 1, 2], **options),
        strict=True,
    ):
        np.testing.assert_allclose(one.image, other.image.transpose(2, 0, 1), atol=1e-4)
        np.testing.assert_array_equal(one.picture, other.picture)


def test_the_gradient_is_checked_on_the_runtime_in_use(file: Path, tmp_path: Path) -> None:
    report = Engine(file, "cpu").check(target=3)
    assert report.passed
    assert report.error < 1e-2
    model = onnx.load(file)
    for node in model.graph.node:
        for i, name in enumerate(node.output):
            if name == "next_first_moment":
                node.output[i] = "right"
    factor = onnx.numpy_helper.from_array(np.array(1.1, np.float32), "factor")
    model.graph.initializer.append(factor)
    model.graph.node.append(
        onnx.helper.make_node("Mul", ["right", "factor"], ["next_first_moment"])
    )
    onnx.save(model, tmp_path / "wrong.onnx")
    assert not Engine(tmp_path / "wrong.onnx", "cpu").check(target=3).passed


# --- mixes ---


def test_a_mix_climbs_the_weighted_sum(file: Path) -> None:
    engine = Engine(file, "cpu")
    (found,) = engine.visualize("0.5*1 + 2*3", steps=5)
    raw = session(classifier(size=SIZE).SerializeToString()).run(None, {"image": found.image[None]})
    scores = raw[0][0]
    assert found.score == pytest.approx(float(0.5 * scores[1] + 2 * scores[3]), rel=1e-4)
    assert (found.index, found.label) == (3, "0.5*1 + 2*3")
    (single,) = engine.visualize(3, steps=5)
    assert np.abs(single.image - found.image).max() > 1e-3


def test_how_a_mix_is_written(file: Path, tmp_path: Path) -> None:
    contract = Engine(file, "cpu").contract
    assert find_goal(" 1 * 0+-0.3*2 + .5*4", contract) == Goal(((0, 1.0), (2, -0.3), (4, 0.5)))
    assert not find_goal("1*2", contract).is_mix
    for text, message in (
        ("0.5*1 + 2", "can't be read"),
        ("x*1", "can't be read"),
        ("0.5*1 + 0.5*1", "twice"),
        ("-1*1", "positive weight"),
        ("0.5*1 + 0.5*9", "no class 9"),
    ):
        with pytest.raises(TargetError, match=message):
            find_goal(text, contract)
    export_visualization(classifier(size=SIZE), tmp_path / "p.onnx", preprocessing=RECORD)
    with pytest.raises(TargetError, match="preset natural"):
        Engine(tmp_path / "p.onnx", "cpu").visualize("0.5*1 + 0.5*2", steps=1)


# --- loops ---


def test_a_loop_is_the_engines_ascent(tmp_path: Path) -> None:
    """Run with ONNX Runtime alone, from nothing but the classes."""
    numbers = {"step_size": np.array(0.5), "l2": np.array(0.01)}
    model = classifier(size=SIZE)
    model.graph.node[1].op_type = "Sigmoid"  # Relu gives no gradient at the zero image
    report = export_visualization(
        model, tmp_path / "l.onnx", loop=5, defaults=numbers, preprocessing=RECORD
    )
    export_visualization(model, tmp_path / "s.onnx", preprocessing=RECORD)
    runtime = session(report.path)
    assert [i.name for i in runtime.get_inputs()] == ["target"]
    names = ["final_image", "final_score", "scores", "picture"]
    images, final, scores, pictures = runtime.run(names, {"target": np.array([1, 4])})
    expected = Engine(tmp_path / "s.onnx", "cpu").visualize(
        [1, 4], steps=5, step_size=0.5, l2=0.01, score_every=1
    )
    for n, one in enumerate(expected):
        np.testing.assert_allclose(images[n], one.image, atol=1e-5)
        np.testing.assert_allclose(scores[:, n], one.scores, rtol=1e-4, atol=1e-5)
        assert final[n] == pytest.approx(one.score, rel=1e-4)
        assert pictures.dtype == np.uint8
        assert one.picture is not None
        assert np.abs(pictures[n].astype(int) - one.picture).max() <= 1
    other = runtime.run(["final_image"], {"target": np.array([1]), "l2": np.array(0.5, "f")})[0]
    assert np.abs(other[0] - images[0]).max() > 1e-3


def test_a_natural_loop_is_the_engines_ascent(file: Path, tmp_path: Path) -> None:
    from deepinside.engine.natural import loop_defaults

    numbers = loop_defaults(6, (SIZE, SIZE), 3, seed=4)
    random = np.random.default_rng([4, 2])  # the engine's noise of class 2
    numbers["spectrum"] = (random.standard_normal((3, SIZE, SIZE)) * 0.01).astype(np.float32)
    loop = natural_file(tmp_path / "l.onnx", loop=6, defaults=numbers)
    images, pictures = session(loop).run(["final_image", "picture"], {"target": np.array([2, 0])})
    (expected,) = Engine(file, "cpu").visualize(2, steps=6, seed=4)
    np.testing.assert_allclose(images[0], expected.image, atol=1e-3)
    assert expected.picture is not None
    assert np.abs(pictures[0].astype(int) - expected.picture).max() <= 1
    assert np.abs(images[1] - images[0]).max() > 1e-3


def test_a_loop_is_no_step(tmp_path: Path) -> None:
    numbers = {"step_size": np.array(0.5), "l2": np.array(0.01)}
    path = tmp_path / "l.onnx"
    export_visualization(classifier(size=SIZE), path, loop=3, defaults=numbers)
    engine = Engine(path, "cpu")
    assert engine.contract.loop == 3
    for call in (lambda: engine.visualize(0), engine.check):
        with pytest.raises(TaskError, match="whole ascent of 3 steps"):
            call()
    with pytest.raises(ExportError, match="loop is 0"):
        export_visualization(classifier(), tmp_path / "x.onnx", loop=0, defaults=numbers)
    with pytest.raises(ExportError, match="defaults for step_size"):
        export_visualization(classifier(), tmp_path / "x.onnx", loop=2)


# --- layers ---


@pytest.mark.parametrize("neuron", [None, (2, 5)])
def test_a_channel_of_a_layer_is_explained(tmp_path: Path, neuron: tuple[int, ...] | None) -> None:
    report = export_saliency(classifier(size=SIZE), tmp_path / "s.onnx", layer="c", neuron=neuron)
    image = np.random.default_rng(0).standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)
    names = ["score", "gradient"]
    score, gradient = session(report.path).run(names, {"image": image, "target": np.array([6])})
    weights = next(
        torch.tensor(onnx.numpy_helper.to_array(item))
        for item in classifier(size=SIZE).graph.initializer
        if item.name == "w"
    )
    x = torch.tensor(image, requires_grad=True)
    maps = torch.nn.functional.conv2d(x, weights, padding=1)[0, 6]
    wanted = maps.mean() if neuron is None else maps[neuron]
    wanted.backward()
    assert score[0] == pytest.approx(wanted.item(), rel=1e-4)
    assert x.grad is not None
    np.testing.assert_allclose(gradient, x.grad, atol=1e-6)
    engine = Engine(report.path, "cpu")
    assert (engine.contract.layer, engine.contract.neuron) == ("c", neuron)
    assert engine.contract.num_classes == 8
    assert engine.check().passed


def test_layers_that_are_not_there(tmp_path: Path) -> None:
    layers = {layer.name: layer for layer in layers_of(classifier(size=SIZE))}
    assert (layers["r"].operator, layers["r"].channels) == ("Relu", 8)
    assert layers["r"].places == (SIZE, SIZE)
    for options, message in (
        ({"layer": "conv"}, "no layer 'conv'; its last convolutions are c"),
        ({"layer": "r", "neuron": (0, SIZE)}, "no neuron at .* 12 x 12"),
        ({"layer": "r", "neuron": (0,)}, "no neuron"),
    ):
        with pytest.raises(ScoreError, match=message):
            export_saliency(classifier(size=SIZE), tmp_path / "s.onnx", **options)
    with pytest.raises(ExportError, match="name it with layer"):
        export_saliency(classifier(size=SIZE), tmp_path / "s.onnx", neuron=(0, 0))


# --- what does not go together ---


def test_what_the_natural_step_refuses(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="preprocessing record"):
        natural_file(tmp_path / "x.onnx", preprocessing=None)
    with pytest.raises(ExportError, match="autodiff standard only"):
        natural_file(tmp_path / "x.onnx", autodiff="ort-training")
    with pytest.raises(TaskError, match=r"step rule 'natural'.*--step-rule plain"):
        Engine(file, "cpu").visualize(0, preset="paper")
    export_visualization(classifier(size=SIZE), tmp_path / "p.onnx", preprocessing=RECORD)
    plain = Engine(tmp_path / "p.onnx", "cpu")
    with pytest.raises(TaskError, match="--step-rule natural"):
        plain.visualize(0, preset="natural")
    with pytest.raises(SettingError, match="jitter is a setting of preset natural"):
        plain.visualize(0, jitter=0.1)
    with pytest.raises(SettingError, match="rotation is 40"):
        Engine(file, "cpu").visualize(0, rotation=40.0)


def test_metadata(file: Path) -> None:
    properties = {p.key: p.value for p in onnx.load(file).metadata_props}
    assert properties["deepinside.contract_version"] == "3"
    assert properties["deepinside.step_rule"] == "natural"
    names = json.loads(properties["deepinside.names"])
    assert {value.name for value in onnx.load(file).graph.input} <= set(names.values())
    assert {node.domain for node in onnx.load(file).graph.node} == {""}


def test_the_embedded_classifier_sees_its_class_from_any_view(tmp_path: Path) -> None:
    """A few steps are enough for a class to win, also in pictures that are turned and moved."""
    from deepinside import models

    file = natural_file(
        tmp_path / "e.onnx",
        model=onnx.load(models.default_classifier()),
        preprocessing=models.card()["preprocessing"],
        optimize_for="cpu",
    )
    (found,) = Engine(file, "cpu", threads=2).visualize(130, steps=16, score_every=16)
    assert found.picture is not None
    run = session(models.default_classifier())
    turned = np.asarray(Image.fromarray(found.picture).rotate(6, translate=(9, -7)))
    for pixels in (found.picture, turned):
        image = ((pixels.astype(np.float32) - 127) / 128).transpose(2, 0, 1)[None]
        assert run.run(None, {"image": image})[0].argmax() == 130
