"""Classifiers whose gradient would be wrong without a word if the exporter looked less closely."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from classifiers import classifier, numeric_gradient, session
from record_cases import BAD, GOOD

from deepinside.exporters import (
    ClassifierError,
    ExportError,
    ScoreError,
    export_saliency,
    export_visualization,
)
from deepinside.exporters.contract import check_record


def _parsed(text: str, **constants: Any) -> onnx.ModelProto:
    """A model in ONNX's text form; what stands in < > after the outputs is set from `constants`."""
    model = onnx.parser.parse_model(text)
    del model.graph.value_info[:]
    for name, value in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return model


def _weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _agrees_with_differences(path: Path, pixels: np.ndarray, output: str = "logits") -> None:
    """The exported gradient along a direction against central differences of the output."""
    run = session(path)
    targets = np.arange(len(pixels)) % 2
    gradient = run.run(["gradient"], {"image": pixels, "target": targets})[0]
    assert gradient.shape == pixels.shape
    # Long enough in large pictures too, in which single pixels hardly count.
    direction = gradient / np.linalg.norm(gradient) * max(1.0, np.sqrt(gradient.size / 1e5))
    expected = numeric_gradient(run, output, pixels, targets, direction)
    np.testing.assert_allclose((gradient * direction).sum(), expected, rtol=2e-3)


def test_what_a_branch_captures_is_not_overlooked(tmp_path: Path) -> None:
    model = _parsed(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[N,3,8,8] image) => (float[N,5] logits) <float[5,3] v> {
          t = Tanh (image)
          large = If (yes) <
            then_branch = a () => (float[N,3,8,8] x) { x = Add (t, t) },
            else_branch = b () => (float[N,3,8,8] y) { y = Identity (t) }
          >
          u = Add (large, t)
          p = GlobalAveragePool (u)
          f = Flatten (p)
          logits = Gemm <transB = 1> (f, v)
        }
        """,
        v=_weights(5, 3),
        yes=np.array(True),
    )
    report = export_saliency(_with_input_condition(model), tmp_path / "s.onnx")
    random = np.random.default_rng(2)
    for sign in (-3, 3):  # one branch, then the other
        pixels = (random.normal(size=(2, 3, 8, 8)) + sign).astype(np.float32)
        _agrees_with_differences(report.path, pixels)


def _with_input_condition(model: onnx.ModelProto) -> onnx.ModelProto:
    """The condition computed from the image, so that folding can't decide it."""
    del model.graph.initializer[-1]
    nodes = [
        onnx.helper.make_node("ReduceSum", ["image"], ["total"], keepdims=0),
        onnx.helper.make_node("Greater", ["total", "zero"], ["yes"]),
    ]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0, np.float32), "zero"))
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    return model


def test_free_picture_sizes_far_from_the_probed_ones(tmp_path: Path) -> None:
    """Six strides of two make 224 and 256 equal; the map must be right at 320 and 448 too."""
    layers = "\n".join(
        f"x{i + 1} = Conv <kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1]> (x{i}, w{i})\n"
        f"t{i + 1} = Tanh (x{i + 1})"
        for i in range(6)
    ).replace("(x0,", "(image,")
    for i in range(1, 6):
        layers = layers.replace(f"(x{i}, w{i})", f"(t{i}, w{i})")
    model = _parsed(
        f"""
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[N,3,H,W] image) => (float[N,4] logits) <float[4,4] v> {{
          {layers}
          p = GlobalAveragePool (t6)
          f = Flatten (p)
          logits = Gemm <transB = 1> (f, v)
        }}
        """,
        v=_weights(4, 4),
        w0=_weights(4, 3, 3, 3) / 3,
        **{f"w{i}": _weights(4, 4, 3, 3, seed=i) / 3 for i in range(1, 6)},
    )
    path = export_saliency(model, tmp_path / "s.onnx").path
    for height, width in ((224, 224), (320, 320), (448, 320)):
        _agrees_with_differences(path, _weights(1, 3, height, width, seed=9))


_SIZES_OF_EITHER_KIND = ((64, 64), (97, 131), (65, 63), (66, 98), (49, 52))


def test_padding_computed_from_a_free_size(tmp_path: Path) -> None:
    """Padding of strides of two that differs between odd and even sizes, at every depth."""
    layers = "\n".join(
        f"""size{i} = Shape <start = 2, end = 4> (t{i})
        odd{i} = Mod (size{i}, two)
        total{i} = Add (odd{i}, one)
        before{i} = Div (total{i}, two)
        after{i} = Sub (total{i}, before{i})
        pads{i} = Concat <axis = 0> (none, before{i}, none, after{i})
        p{i} = Pad (t{i}, pads{i})
        x{i} = Conv <kernel_shape = [3,3], strides = [2,2]> (p{i}, w{i})
        t{i + 1} = Tanh (x{i})"""
        for i in range(5)
    ).replace("(t0", "(image")
    model = _parsed(
        f"""
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[N,3,H,W] image) => (float[N,4] logits)
        <float[4,4] v, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[2] none = {{0, 0}}> {{
          {layers}
          p = GlobalAveragePool (t5)
          f = Flatten (p)
          logits = Gemm <transB = 1> (f, v)
        }}
        """,
        v=_weights(4, 4),
        w0=_weights(4, 3, 3, 3) / 3,
        **{f"w{i}": _weights(4, 4, 3, 3, seed=i) / 3 for i in range(1, 5)},
    )
    path = export_saliency(model, tmp_path / "s.onnx").path
    for height, width in _SIZES_OF_EITHER_KIND:
        _agrees_with_differences(path, _weights(1, 3, height, width, seed=9))


def test_free_sizes_that_must_be_even(tmp_path: Path) -> None:
    """Odd sizes fail in the classifier itself; half of an even one may be odd, and is padded so."""
    model = _parsed(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[N,3,H,W] image) => (float[N,4] logits)
        <float[8,3,3,3] w, float[4,8] v, float[4] twice = {1, 1, 2, 2},
         int64[1] one = {1}, int64[1] two = {2}, int64[2] none = {0, 0}> {
          half = AveragePool <kernel_shape = [2,2], strides = [2,2]> (image)
          coarse = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric",
                           nearest_mode = "floor"> (half, , twice)
          both = Add (image, coarse)
          small = AveragePool <kernel_shape = [2,2], strides = [2,2]> (both)
          size = Shape <start = 2, end = 4> (small)
          odd = Mod (size, two)
          total = Add (odd, one)
          before = Div (total, two)
          after = Sub (total, before)
          pads = Concat <axis = 0> (none, before, none, after)
          p = Pad (small, pads)
          c = Conv <kernel_shape = [3,3], strides = [2,2]> (p, w)
          t = Tanh (c)
          m = GlobalAveragePool (t)
          f = Flatten (m)
          logits = Gemm <transB = 1> (f, v)
        }
        """,
        w=_weights(8, 3, 3, 3),
        v=_weights(4, 8),
    )
    path = export_saliency(model, tmp_path / "s.onnx").path
    for height, width in ((64, 64), (66, 70), (50, 28), (26, 52)):
        _agrees_with_differences(path, _weights(1, 3, height, width, seed=9))


def test_a_crop_of_a_free_size(tmp_path: Path) -> None:
    model = classifier()
    sizes = model.graph.input[0].type.tensor_type.shape.dim
    sizes[2].dim_param, sizes[3].dim_param = "H", "W"
    cut = onnx.helper.make_node("Slice", ["image", "from", "to", "axes"], ["part"], "cut")
    model.graph.node[1].op_type = "Tanh"  # no kinks
    model.graph.node[0].input[0] = "part"
    model.graph.node.insert(0, cut)
    for name, value in (("from", [0, 0]), ("to", [300, 300]), ("axes", [2, 3])):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value), name))
    path = export_saliency(model, tmp_path / "s.onnx").path
    for height, width in ((299, 301), (310, 290), (20, 305)):
        _agrees_with_differences(path, _weights(1, 3, height, width, seed=9))


def _fixed_size_net() -> onnx.ModelProto:
    """Works on 16x16 pictures only, but declares free height and width."""
    return _parsed(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[N,3,H,W] image) => (float[N,5] logits) <float[5,768] v> {
          t = Tanh (image)
          f = Flatten (t)
          logits = Gemm <transB = 1> (f, v)
        }
        """,
        v=_weights(5, 768) / 30,
    )


def test_a_fixed_size_behind_free_axes(tmp_path: Path) -> None:
    record = {**GOOD[0], "resize": "stretch", "resize_size": None, "input_size": [16, 16]}
    record |= {"channel_order": "RGB", "mean": [0.0] * 3, "std": [1.0] * 3}
    with pytest.raises(ClassifierError, match=r"224"):
        export_saliency(_fixed_size_net(), tmp_path / "s.onnx")
    path = export_saliency(_fixed_size_net(), tmp_path / "s.onnx", preprocessing=record).path
    assert session(path).get_inputs()[0].shape == ["N", 3, 16, 16]
    _agrees_with_differences(path, _weights(2, 3, 16, 16))


def test_a_record_of_another_size_is_refused(tmp_path: Path) -> None:
    record = {**GOOD[0], "resize": "stretch", "resize_size": None, "input_size": [9, 8]}
    record |= {"channel_order": "RGB", "mean": [0.0] * 3, "std": [1.0] * 3}
    with pytest.raises(ClassifierError, match=r"input_size is \[9, 8\]"):
        export_saliency(classifier(), tmp_path / "s.onnx", preprocessing=record)


@pytest.mark.parametrize("record", [record for _, record in BAD], ids=[name for name, _ in BAD])
def test_bad_records_are_refused(record: dict[str, Any]) -> None:
    with pytest.raises(ExportError, match="preprocessing record"):
        check_record(record)


@pytest.mark.parametrize("record", GOOD)
def test_good_records_are_taken(record: dict[str, Any]) -> None:
    assert check_record(record) == record


def _to_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    half = onnx.TensorProto.FLOAT16
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = half
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return model


def test_float16_averages_over_more_pixels_than_it_has_numbers(tmp_path: Path) -> None:
    path = export_saliency(_to_float16(classifier(size=256)), tmp_path / "s.onnx").path
    pixels = _weights(1, 3, 256, 256)
    half = (
        session(path)
        .run(["gradient"], {"image": pixels.astype(np.float16), "target": np.array([1])})[0]
        .astype(np.float64)
    )
    full = session(export_saliency(classifier(size=256), tmp_path / "f.onnx").path).run(
        ["gradient"], {"image": pixels, "target": np.array([1])}
    )[0]
    assert half.dtype == np.float64
    cosine = (half * full).sum() / np.linalg.norm(half) / np.linalg.norm(full)
    assert cosine > 0.99


@pytest.mark.parametrize(
    "tail",
    [
        "a = Softmax (s)\n logits = Mul (a, two)",
        "a = Softmax (s)\n logits = Clip (a, small, two)",
        "a = Softmax (s)\n logits = Log (a)",
        "a = Sigmoid (s)\n h = Add (a, two)\n logits = Identity (h)",
    ],
)
def test_a_hidden_activation_asks_for_the_score(tmp_path: Path, tail: str) -> None:
    model = classifier(tail=tail)
    for name, value in (("two", 2.0), ("small", 1e-7)):
        array = np.array(value, np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    with pytest.raises(ScoreError, match="--score-output s "):
        export_saliency(model, tmp_path / "s.onnx")
    report = export_saliency(model, tmp_path / "s.onnx", score_output="s")
    _agrees_with_differences(report.path, _weights(2, 3, 8, 8), report.names["class_scores"])


def test_a_softmax_between_transposes_is_bypassed(tmp_path: Path) -> None:
    model = classifier(
        tail="u = Unsqueeze (s, spatial)\n m = Transpose <perm = [0,2,3,1]> (u)\n"
        " a = Softmax <axis = 3> (m)\n logits = Transpose <perm = [0,3,1,2]> (a)",
        outputs="float[N,5,1,1] logits",
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 3]), "spatial"))
    report = export_saliency(model, tmp_path / "s.onnx")
    assert any("Softmax" in sentence for sentence in report.bypassed)
    plain = session(export_saliency(classifier(), tmp_path / "p.onnx").path)
    pixels = _weights(2, 3, 8, 8)
    for part in ("score", "target_index", "gradient"):
        np.testing.assert_allclose(
            session(report.path).run([part], {"image": pixels})[0],
            plain.run([part], {"image": pixels})[0],
            atol=1e-6,
        )


def test_a_named_inner_tensor_becomes_an_output(tmp_path: Path) -> None:
    model = classifier(tail="a = Softmax (s)\n logits = Neg (a)")
    report = export_saliency(model, tmp_path / "s.onnx", score_output="s")
    assert report.names["class_scores"] == "class_scores"
    run, pixels = session(report.path), _weights(2, 3, 8, 8)
    raw = session(classifier().SerializeToString()).run(None, {"image": pixels})[0]
    np.testing.assert_allclose(run.run(["class_scores"], {"image": pixels})[0], raw, rtol=1e-5)


def test_scores_have_the_images_type_in_mixed_precision(tmp_path: Path) -> None:
    model = classifier(tail="h = Cast <to = 10> (s)\n a = Softmax (h)\n logits = Cast <to = 1> (a)")
    pixels = _weights(2, 3, 8, 8)
    saliency = session(export_saliency(model, tmp_path / "s.onnx").path)
    assert saliency.run(["score"], {"image": pixels})[0].dtype == np.float32
    step = session(export_visualization(model, tmp_path / "v.onnx").path)
    assert {output.type for output in step.get_outputs()} == {"tensor(float)"}


def test_normalized_steps_in_float16(tmp_path: Path) -> None:
    """Squares of these derivatives are 0 in float16 (ONNX Runtime's CPU hides that, GPUs don't)."""
    model = classifier(size=32)
    for tensor in model.graph.initializer:
        if tensor.name == "v":
            small = onnx.numpy_helper.to_array(tensor) / 50
            tensor.CopyFrom(onnx.numpy_helper.from_array(small, "v"))
    model = _to_float16(model)
    path = export_visualization(model, tmp_path / "v.onnx", step_rule="normalized").path
    pixels = _weights(2, 3, 32, 32).astype(np.float16)
    feed = {
        "image": pixels,
        "target": np.array([1, 3]),
        "step_size": np.array(1, np.float16),
        "l2": np.array(0, np.float16),
    }
    moved = session(path).run(["next_image"], feed)[0]
    lengths = np.sqrt(((moved - pixels).astype(np.float64) ** 2).mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(lengths, 1, rtol=2e-2)


def test_a_picture_without_gradient_stays_as_it_is(tmp_path: Path) -> None:
    """The guard against 0/0 must not itself be 0 in float16."""
    model = classifier()
    for tensor in model.graph.initializer:
        if tensor.name == "v":
            nothing = np.zeros((5, 8), np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(nothing, "v"))
    half = _to_float16(model)
    path = export_visualization(half, tmp_path / "v.onnx", step_rule="normalized").path
    pixels = _weights(1, 3, 8, 8).astype(np.float16)
    feed = {
        "image": pixels,
        "target": np.array([1]),
        "step_size": np.array(1, np.float16),
        "l2": np.array(0, np.float16),
    }
    np.testing.assert_array_equal(session(path).run(["next_image"], feed)[0], pixels)


def test_a_file_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    model = classifier()
    lost = model.graph.initializer.pop().name
    with pytest.raises(ClassifierError, match=f"broken: .* takes a tensor '{lost}'"):
        export_saliency(model, tmp_path / "s.onnx")
