"""The exported files: the contract, point by point, and the errors of the front door."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from classifiers import classifier, session

from deepinside.exporters import (
    ClassifierError,
    ExportError,
    GradientError,
    MissingRuleError,
    ScoreError,
    export_saliency,
    export_visualization,
)

_RECORD = {
    "input_size": [8, 8],
    "resize": "stretch",
    "resize_size": None,
    "interpolation": "bilinear",
    "channel_order": "RGB",
    "value_range": [0, 255],
    "mean": [127.0, 127.0, 127.0],
    "std": [128.0, 128.0, 128.0],
}


def _pixels(count: int = 3, size: int = 8) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((count, 3, size, size), dtype=np.float32)


def _closed_form(model: onnx.ModelProto, pixels: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """dS/dI of the small network in float64, written out independently with PyTorch."""
    torch = pytest.importorskip("torch")
    weights = {t.name: torch.tensor(onnx.numpy_helper.to_array(t)) for t in model.graph.initializer}
    image = torch.tensor(pixels, dtype=torch.float64, requires_grad=True)
    hidden = torch.relu(torch.conv2d(image, weights["w"].double(), padding=1)).mean((2, 3))
    scores = hidden @ weights["v"].double().T + weights["b"].double()
    scores[range(len(pixels)), targets].sum().backward()
    gradient: np.ndarray = image.grad.numpy()
    return gradient


def _metadata(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def test_the_file_is_a_drop_in_replacement(tmp_path: Path) -> None:
    model = classifier()
    report = export_saliency(model, tmp_path / "s.onnx")
    before, after = session(model.SerializeToString()), session(report.path)
    assert [i.name for i in after.get_inputs()] == ["image"]
    assert [i.name for i in after.get_overridable_initializers()] == ["target"]
    assert [o.name for o in after.get_outputs()] == [
        "logits", "score", "target_index", "gradient", "saliency",
    ]  # fmt: skip
    assert after.get_outputs()[0].shape == before.get_outputs()[0].shape
    pixels = _pixels()
    np.testing.assert_allclose(
        after.run(["logits"], {"image": pixels})[0],
        before.run(None, {"image": pixels})[0],
        rtol=1e-6,
    )


@pytest.mark.parametrize("count", [1, 3])
def test_without_a_target_the_top_class_is_explained(tmp_path: Path, count: int) -> None:
    model = classifier()
    run = session(export_saliency(model, tmp_path / "s.onnx").path)
    pixels = _pixels(count)
    logits, score, index, gradient, saliency = run.run(None, {"image": pixels})
    np.testing.assert_array_equal(index, logits.argmax(axis=1))
    np.testing.assert_array_equal(score, logits.max(axis=1))
    np.testing.assert_allclose(gradient, _closed_form(model, pixels, index), atol=1e-6)
    np.testing.assert_array_equal(saliency, np.abs(gradient).max(axis=1))


@pytest.mark.parametrize("targets", [[2], [0, 4, -1]])
def test_targets_are_per_image_or_for_all(tmp_path: Path, targets: list[int]) -> None:
    model = classifier()
    run = session(export_saliency(model, tmp_path / "s.onnx").path)
    pixels = _pixels(3)
    logits, _, index, gradient, _ = run.run(None, {"image": pixels, "target": np.array(targets)})
    expected = np.where(np.array(targets) < 0, logits.argmax(axis=1), np.array(targets))
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_allclose(gradient, _closed_form(model, pixels, index), atol=1e-6)


def test_a_target_that_is_no_class_fails_instead_of_giving_zeros(tmp_path: Path) -> None:
    run = session(export_saliency(classifier(), tmp_path / "s.onnx").path)
    with pytest.raises(Exception, match=r"(?i)out of"):
        run.run(["score"], {"image": _pixels(1), "target": np.array([5])})


def test_target_required_and_fixed(tmp_path: Path) -> None:
    required = session(export_saliency(classifier(), tmp_path / "r", target_input="required").path)
    assert [i.name for i in required.get_inputs()] == ["image", "target"]
    fixed = session(export_saliency(classifier(), tmp_path / "f", target_input="fixed:3").path)
    assert [i.name for i in fixed.get_inputs()] == ["image"]
    assert fixed.get_overridable_initializers() == []
    assert fixed.run(["target_index"], {"image": _pixels(2)})[0].tolist() == [3, 3]
    for wrong in ("fixed:5", "fixed:x", "sometimes"):
        with pytest.raises(ExportError, match="target"):
            export_saliency(classifier(), tmp_path / "w", target_input=wrong)


def test_a_subset_of_outputs(tmp_path: Path) -> None:
    path = export_saliency(classifier(), tmp_path / "s.onnx", outputs=["saliency"]).path
    assert [o.name for o in session(path).get_outputs()] == ["logits", "saliency"]
    with pytest.raises(ExportError, match="outputs can be score"):
        export_saliency(classifier(), tmp_path / "s.onnx", outputs=["map"])


def test_names_that_the_classifier_uses_are_avoided(tmp_path: Path) -> None:
    model = classifier(
        tail="saliency = Relu (s)\n score = Identity (s)",
        outputs="float[N,5] score, float[N,5] saliency",
    )
    report = export_saliency(model, tmp_path / "s.onnx", score_output="score")
    names = json.loads(_metadata(report.path)["deepinside.names"])
    assert names["score"] == "deepinside_score"
    assert names["saliency"] == "deepinside_saliency"
    assert names["class_scores"] == "score"
    assert names["image"] == "image"
    run, pixels = session(report.path), _pixels(2)
    found = dict(zip([o.name for o in run.get_outputs()], run.run(None, {"image": pixels})))  # noqa: B905
    original = session(model.SerializeToString()).run(None, {"image": pixels})
    np.testing.assert_allclose(found["score"], original[0], rtol=1e-6)
    np.testing.assert_allclose(found["saliency"], original[1], rtol=1e-6)
    np.testing.assert_allclose(found["deepinside_score"], original[0].max(axis=1), rtol=1e-6)


@pytest.mark.parametrize(
    ("operator", "activation"),
    [("Softmax <axis = 1>", "softmax"), ("LogSoftmax", "log_softmax"), ("Sigmoid", "sigmoid")],
)
def test_the_score_is_found_behind_a_final_activation(
    tmp_path: Path, operator: str, activation: str
) -> None:
    model = classifier(tail=f"a = {operator} (s)\n logits = Identity (a)")
    plain = session(export_saliency(classifier(), tmp_path / "p.onnx").path)
    report = export_saliency(model, tmp_path / "s.onnx")
    assert any(operator.split()[0] in sentence for sentence in report.bypassed)
    metadata = _metadata(report.path)
    assert metadata["deepinside.activation"] == activation
    assert json.loads(metadata["deepinside.score"])["bypassed"] == list(report.bypassed)
    pixels = _pixels()
    for part in ("score", "target_index", "gradient"):
        np.testing.assert_allclose(
            session(report.path).run([part], {"image": pixels})[0],
            plain.run([part], {"image": pixels})[0],
            atol=1e-6,
        )


@pytest.mark.parametrize("tail", ["logits = Softmax (s)", "logits = Identity (s)"])
def test_the_probability_can_be_explained_instead(tmp_path: Path, tail: str) -> None:
    report = export_saliency(classifier(tail=tail), tmp_path / "s.onnx", score="probability")
    assert report.bypassed == ()
    pixels, targets = _pixels(2), np.array([1, 4])
    score, gradient = session(report.path).run(
        ["score", "gradient"], {"image": pixels, "target": targets}
    )
    raw = session(classifier().SerializeToString()).run(None, {"image": pixels})[0]
    shares = np.exp(raw) / np.exp(raw).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(score, shares[[0, 1], targets], rtol=1e-5)
    model = classifier()
    per_class = [_closed_form(model, pixels, np.array([k, k])) for k in range(5)]
    # dP_c = P_c (dS_c - sum_k P_k dS_k)
    mean = sum(shares[:, k, None, None, None] * per_class[k] for k in range(5))
    own = np.stack([per_class[t][i] for i, t in enumerate(targets)])
    np.testing.assert_allclose(gradient, score[:, None, None, None] * (own - mean), atol=1e-6)


def test_relu_modes_differ_and_follow_their_definitions(tmp_path: Path) -> None:
    model, pixels = classifier(), _pixels(1)
    found = {
        mode: session(export_saliency(model, tmp_path / f"{mode}.onnx", relu=mode).path).run(
            ["gradient"], {"image": pixels, "target": np.array([2])}
        )[0]
        for mode in ("gradient", "deconvnet", "guided")
    }
    torch = pytest.importorskip("torch")
    weights = {t.name: torch.tensor(onnx.numpy_helper.to_array(t)) for t in model.graph.initializer}
    hidden = torch.conv2d(torch.tensor(pixels), weights["w"], padding=1)
    backward = (weights["v"][2] / 64)[None, :, None, None].expand_as(hidden)
    masks = {
        "gradient": hidden > 0,
        "deconvnet": backward > 0,
        "guided": (hidden > 0) & (backward > 0),
    }
    for mode, mask in masks.items():
        expected = torch.nn.functional.conv_transpose2d(backward * mask, weights["w"], padding=1)
        np.testing.assert_allclose(found[mode], expected.numpy(), atol=1e-6)


def test_channels_last_stays_channels_last(tmp_path: Path) -> None:
    model = classifier()
    image = model.graph.input[0]
    sizes = image.type.tensor_type.shape.dim
    sizes[1].dim_value, sizes[2].dim_value, sizes[3].dim_value = 8, 8, 3
    move = onnx.helper.make_node("Transpose", ["image"], ["moved"], "move", perm=[0, 3, 1, 2])
    model.graph.node[0].input[0] = "moved"
    model.graph.node.insert(0, move)
    report = export_saliency(model, tmp_path / "s.onnx")
    assert _metadata(report.path)["deepinside.layout"] == "NHWC"
    pixels = _pixels(2)
    index, gradient, saliency = session(report.path).run(
        ["target_index", "gradient", "saliency"], {"image": pixels.transpose(0, 2, 3, 1)}
    )
    expected = _closed_form(classifier(), pixels, index).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    np.testing.assert_array_equal(saliency, np.abs(gradient).max(axis=3))


@pytest.mark.parametrize("opset", range(17, 26))
def test_the_models_own_opset_and_default_domain_are_kept(tmp_path: Path, opset: int) -> None:
    report = export_saliency(classifier(opset=opset), tmp_path / "s.onnx")
    written = onnx.load(report.path)
    assert [(o.domain, o.version) for o in written.opset_import] == [("", opset)]
    assert {node.domain for node in written.graph.node} == {""}
    pixels = _pixels(2)
    index, gradient = session(report.path).run(["target_index", "gradient"], {"image": pixels})
    np.testing.assert_allclose(gradient, _closed_form(classifier(), pixels, index), atol=1e-6)


def test_older_opsets_are_lifted_to_17(tmp_path: Path) -> None:
    report = export_saliency(classifier(opset=11), tmp_path / "s.onnx")
    assert report.opset == 17
    pixels = _pixels(2)
    index, gradient = session(report.path).run(["target_index", "gradient"], {"image": pixels})
    np.testing.assert_allclose(gradient, _closed_form(classifier(), pixels, index), atol=1e-6)


def test_static_batch_and_dynamic_picture_size(tmp_path: Path) -> None:
    fixed = session(export_saliency(classifier(batch="2"), tmp_path / "b.onnx").path)
    assert fixed.get_outputs()[-1].shape == [2, 8, 8]
    model = classifier()
    for axis, name in ((2, "H"), (3, "W")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    report = export_saliency(model, tmp_path / "d.onnx")
    run = session(report.path)
    assert run.get_outputs()[-1].shape == ["N", "H", "W"]
    for size in (8, 13):
        pixels = _pixels(2, size)
        index, gradient = run.run(["target_index", "gradient"], {"image": pixels})
        np.testing.assert_allclose(gradient, _closed_form(classifier(), pixels, index), atol=1e-6)


def test_metadata_is_complete(tmp_path: Path) -> None:
    labels = ["ant", "bee", "cat", "dog", "emu"]
    model = classifier()
    path = tmp_path / "classifier.onnx"
    onnx.save(model, path)
    report = export_saliency(
        path, tmp_path / "s.onnx", preprocessing=_RECORD, labels=labels, licence="MIT"
    )
    metadata = _metadata(report.path)
    import hashlib

    assert metadata["deepinside.source_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert metadata["deepinside.contract_version"] == "1"
    assert metadata["deepinside.task"] == "saliency"
    assert metadata["deepinside.num_classes"] == "5"
    assert metadata["deepinside.layout"] == "NCHW"
    assert metadata["deepinside.relu"] == "gradient"
    assert metadata["deepinside.target_input"] == "optional"
    assert json.loads(metadata["deepinside.labels"]) == labels
    assert json.loads(metadata["deepinside.preprocessing"]) == _RECORD
    assert metadata["deepinside.licence"] == "MIT"
    with pytest.raises(ExportError, match="4 labels were given for 5 classes"):
        export_saliency(path, tmp_path / "s.onnx", labels=labels[:4])
    for broken in (
        {**_RECORD, "mean": [1.0]},
        {**_RECORD, "std": [1.0, 0, 1]},
        {**_RECORD, "resize": "squash"},
        {**_RECORD, "resize": "shorter-side"},
        {"input_size": [8, 8]},
    ):
        with pytest.raises(ExportError, match="preprocessing record"):
            export_saliency(path, tmp_path / "s.onnx", preprocessing=broken)


def test_weights_in_external_files(tmp_path: Path) -> None:
    model = classifier()
    path = tmp_path / "classifier.onnx"
    onnx.save(
        classifier(), path, save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    report = export_saliency(path, tmp_path / "out" / "s.onnx")
    pixels = _pixels(2)
    index, gradient = session(report.path).run(["target_index", "gradient"], {"image": pixels})
    np.testing.assert_allclose(gradient, _closed_form(model, pixels, index), atol=1e-6)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ClassifierError, match="missing"):
        export_saliency(path, tmp_path / "s.onnx")


def test_external_weights_outside_the_models_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = folder / "classifier.onnx"
    proto = classifier()
    onnx.save(proto, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (folder / "w.bin").rename(tmp_path / "secret.bin")
    loaded = onnx.load(path, load_external_data=False)
    for tensor in loaded.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../secret.bin"
    path.write_bytes(loaded.SerializeToString())
    with pytest.raises(ClassifierError, match="outside its own folder"):
        export_saliency(path, tmp_path / "s.onnx")


def test_batch_normalization_is_folded_and_weights_are_stored_once(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layers: list[Any] = []
    for width in (3, 64, 64):
        layers += [torch.nn.Conv2d(width, 64, 3, padding=1), torch.nn.BatchNorm2d(64)]
        layers += [torch.nn.ReLU()]
    module = torch.nn.Sequential(
        *layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(64, 10)
    )
    module.train()(torch.randn(8, 3, 16, 16))
    report = export_saliency(module, tmp_path / "s.onnx", example_input=torch.zeros(1, 3, 16, 16))
    assert module.training  # as it was given
    assert report.size_after <= 1.05 * report.size_before
    written = onnx.load(report.path)
    assert "BatchNormalization" not in {node.op_type for node in written.graph.node}


def test_visualization_step(tmp_path: Path) -> None:
    model = classifier(tail="logits = Softmax (s)")
    report = export_visualization(model, tmp_path / "v.onnx", preprocessing=_RECORD)
    run, pixels, targets = session(report.path), _pixels(2), np.array([1, 3])
    assert [i.name for i in run.get_inputs()] == ["image", "target", "step_size", "l2"]
    assert [o.name for o in run.get_outputs()] == ["next_image", "score"]
    moved, score = run.run(
        None,
        {
            "image": pixels,
            "target": targets,
            "step_size": np.array(0.5, np.float32),
            "l2": np.array(0.1, np.float32),
        },
    )
    ascent = _closed_form(classifier(), pixels, targets) - 0.2 * pixels
    np.testing.assert_allclose(moved, pixels + 0.5 * ascent, atol=1e-6)
    raw = session(classifier().SerializeToString()).run(None, {"image": pixels})[0]
    np.testing.assert_allclose(score, raw[[0, 1], targets], rtol=1e-5)
    assert _metadata(report.path)["deepinside.task"] == "visualization"


def test_visualization_step_normalized(tmp_path: Path) -> None:
    report = export_visualization(classifier(), tmp_path / "v.onnx", step_rule="normalized")
    pixels = _pixels(2)
    feed = {
        "image": pixels,
        "target": np.array([1, 3]),
        "step_size": np.array(0.5, np.float32),
        "l2": np.array(0.0, np.float32),
    }
    moved = session(report.path).run(["next_image"], feed)[0]
    lengths = np.sqrt(((moved - pixels) ** 2).mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(lengths, 0.5, rtol=1e-5)
    with pytest.raises(ExportError, match="step_rule"):
        export_visualization(classifier(), tmp_path / "v.onnx", step_rule="adam")  # type: ignore[arg-type]


def _broken(kind: str) -> onnx.ModelProto:
    """Classifiers that can't be exported, one for each sentence."""
    model = classifier()
    image = model.graph.input[0]
    if kind == "no path":
        model = classifier(tail="h = Floor (s)\n logits = Identity (h)")
    elif kind == "no rule":
        model = classifier(tail="logits = Bernoulli (s)")
    elif kind == "custom operator":
        model = classifier()
        model.graph.node[1].domain = "com.example"
        model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    elif kind == "two images":
        second = onnx.helper.make_tensor_value_info("mask", 1, ["N", 3, 8, 8])
        model.graph.input.append(second)
    elif kind == "integer image":
        image.type.tensor_type.elem_type = onnx.TensorProto.UINT8
        model.graph.node.insert(0, onnx.helper.make_node("Cast", ["image"], ["x"], to=1))
        model.graph.node[1].input[0] = "x"
    elif kind == "flat input":
        for _ in range(2):
            image.type.tensor_type.shape.dim.pop()
    elif kind == "detection":
        model = classifier(tail="logits = Unsqueeze <axes = [2]> (s)", outputs="float[N,7,4] boxes")
    elif kind == "two tables":
        model = classifier(
            tail="logits = Identity (s)\n other = Neg (s)",
            outputs="float[N,5] logits, float[N,5] other",
        )
    elif kind == "training mode":
        model = classifier(tail="logits = Dropout (s, ratio, on)")
        for name, value in (("ratio", np.float32(0.5)), ("on", np.bool_(True))):
            array = np.array(value)
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    elif kind == "wrong shapes":
        model.graph.node[-2].attribute[0].i = 0
    elif kind == "wrong channels":
        image.type.tensor_type.shape.dim[1].dim_value = 4
    return model


@pytest.mark.parametrize(
    ("kind", "error", "sentence"),
    [
        ("no path", ClassifierError, "no differentiable path"),
        ("no rule", MissingRuleError, r"Bernoulli \(version 15\) at node .*: this operator has no"),
        ("custom operator", ExportError, "com.example"),
        ("two images", ClassifierError, "several image inputs.*--image-input.*mask"),
        ("integer image", ClassifierError, "holds integers"),
        ("flat input", ClassifierError, "flat vector: .*--image-size"),
        ("two tables", ScoreError, "several outputs.*--score-output"),
        ("training mode", GradientError, "training mode"),
        ("wrong channels", GradientError, "has 4 channels and its weights expect 3"),
        ("wrong shapes", ClassifierError, "shape inference rejects"),
    ],
)
def test_what_cannot_be_exported_is_said_in_a_sentence(
    tmp_path: Path, kind: str, error: type[ExportError], sentence: str
) -> None:
    with pytest.raises(error, match=sentence) as caught:
        export_saliency(_broken(kind), tmp_path / "s.onnx")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []  # nothing half written


def test_a_detection_model_is_refused(tmp_path: Path) -> None:
    model = classifier(
        tail="u = Unsqueeze (s, two)\n logits = Concat <axis = 2> (u, u, u, u)",
        outputs="float[N,5,4] logits",
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2]), "two"))
    with pytest.raises(ScoreError, match="not an image classifier"):
        export_saliency(model, tmp_path / "s.onnx")


def test_missing_rule_lists_what_is_supported(tmp_path: Path) -> None:
    with pytest.raises(MissingRuleError) as caught:
        export_saliency(_broken("no rule"), tmp_path / "s.onnx")
    assert caught.value.operator == "Bernoulli"
    assert caught.value.version == 15
    assert "Conv" in caught.value.supported


@pytest.mark.parametrize(
    ("content", "name", "sentence"),
    [
        (b"", "empty.onnx", "not an ONNX file"),
        (b"\x00\x01 no model \xff" * 9, "random.onnx", "not an ONNX file"),
        (None, "absent.onnx", "can't read"),
        (b"anything", "weights.pth", "pickle"),
    ],
)
def test_files_that_are_no_model(
    tmp_path: Path, content: bytes | None, name: str, sentence: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ClassifierError, match=sentence):
        export_saliency(path, tmp_path / "s.onnx")


def test_a_truncated_model_is_refused(tmp_path: Path) -> None:
    whole = classifier().SerializeToString()
    for length in (10, len(whole) // 2, len(whole) - 7):
        path = tmp_path / "cut.onnx"
        path.write_bytes(whole[:length])
        with pytest.raises(ExportError):
            export_saliency(path, tmp_path / "s.onnx")


@pytest.mark.parametrize("option", ["score", "relu", "layout"])
def test_options_outside_their_choices(tmp_path: Path, option: str) -> None:
    with pytest.raises(ExportError, match=f"{option} can be .*, not 'other'"):
        export_saliency(classifier(), tmp_path / "s.onnx", **{option: "other"})


def test_score_output_can_name_any_tensor(tmp_path: Path) -> None:
    model = classifier(
        tail="logits = Relu (s)\n other = Neg (s)",
        outputs="float[N,5] logits, float[N,5] other",
    )
    report = export_saliency(model, tmp_path / "s.onnx", score_output="s")
    pixels = _pixels(2)
    index, gradient = session(report.path).run(["target_index", "gradient"], {"image": pixels})
    np.testing.assert_allclose(gradient, _closed_form(model, pixels, index), atol=1e-6)
    with pytest.raises(ScoreError, match="no tensor 'absent'; its outputs are: 'logits'"):
        export_saliency(model, tmp_path / "s.onnx", score_output="absent")


def test_a_large_model_is_written_with_a_data_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepinside.exporters.finish._SINGLE_FILE_LIMIT", 100)
    report = export_saliency(classifier(), tmp_path / "s.onnx")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 2
    assert re.fullmatch(r"s\.onnx\.[0-9a-f]{16}\.data", names[1])
    assert report.size_after == sum(path.stat().st_size for path in tmp_path.iterdir())
    pixels = _pixels(2)
    index, gradient = session(report.path).run(["target_index", "gradient"], {"image": pixels})
    np.testing.assert_allclose(gradient, _closed_form(classifier(), pixels, index), atol=1e-6)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ExportError, match="can't write"):
        export_saliency(classifier(), tmp_path / "file" / "s.onnx")
