"""Model repositories for Triton: read with Triton's own protobuf, held against ONNX Runtime.

What is checked of a configuration is what Triton's onnxruntime backend checks when it loads one;
what is done with requests is what its dynamic batching does.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from classifiers import classifier, session
from click.testing import CliRunner, Result
from engine_fixtures import Recipe, write
from google.protobuf import text_format
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import Fail
from record_cases import SMALL as RECORD
from tritonclient.grpc import model_config_pb2

from deepinside import models
from deepinside.cli.main import cli
from deepinside.engine import Engine, load_picture
from deepinside.engine.preprocess import preprocess
from deepinside.engine.record import parse_record
from deepinside.exporters import (
    ExportError,
    GraphMethod,
    TritonSettings,
    export_saliency,
    export_visualization,
    write_triton_config,
)

Config = model_config_pb2.ModelConfig

LABELS = ["tabby, tabby cat", 'a "quoted" one', "two\nlines", "Käse", "a\\b"]
TYPES = {
    "tensor(float)": "TYPE_FP32",
    "tensor(float16)": "TYPE_FP16",
    "tensor(int64)": "TYPE_INT64",
    "tensor(uint8)": "TYPE_UINT8",
}


def read(path: Path) -> Any:
    return text_format.Parse(path.read_text(encoding="utf-8"), Config())


def loaded(folder: Path) -> tuple[Any, onnxruntime.InferenceSession]:
    """A model of a repository, if Triton would load it."""
    config = read(folder / "config.pbtxt")
    run = session(folder / "1" / "model.onnx")
    assert config.name == folder.name
    assert complaints(config, run) == []
    return config, run


def complaints(config: Any, run: onnxruntime.InferenceSession) -> list[str]:
    """What the onnxruntime backend and Triton's core would refuse."""
    batched = config.max_batch_size > 0
    own = {item.name: item for item in run.get_inputs()}
    defaults = {item.name: item for item in run.get_overridable_initializers()}
    outputs = {item.name: item for item in run.get_outputs()}
    found = []
    if {entry.name for entry in config.input if not entry.optional} != set(own):
        found.append("its inputs are not the file's")
    for entry in (*config.input, *config.output):
        is_output = entry in config.output
        item = (outputs if is_output else own | defaults).get(entry.name)
        if item is None:
            found.append(f"{entry.name} is not in the file")
            continue
        if model_config_pb2.DataType.Name(entry.data_type) != TYPES[item.type]:
            found.append(f"{entry.name} has another type")
        shape = [size if isinstance(size, int) else -1 for size in item.shape]
        given = list(entry.reshape.shape if entry.HasField("reshape") else entry.dims)
        if not entry.dims or any(size < 1 and size != -1 for size in entry.dims):
            found.append(f"{entry.name} has no sizes")
        if batched and (not shape or shape[0] != -1):
            found.append(f"{entry.name} has no batch to begin with")
        if not shape:
            fits = all(size == 1 for size in given)
        else:
            full = [-1, *given] if batched else given
            fits = len(full) == len(shape) and all(
                size == other or (not is_output and size == -1)
                for size, other in zip(shape, full, strict=True)
            )
        if not fits:
            found.append(f"{entry.name} is {shape} in the file")
        if batched and not is_output and entry.optional:
            found.append(f"{entry.name} is optional")
        if not batched and entry.HasField("reshape") and not entry.reshape.shape:
            found.append(f"{entry.name} has an empty reshape")
    if config.HasField("dynamic_batching") and not batched:
        found.append("dynamic batching without a batch")
    return found


def serve(
    config: Any, run: onnxruntime.InferenceSession, requests: Sequence[dict[str, NDArray[Any]]]
) -> list[dict[str, NDArray[Any]]]:
    """Answer requests as Triton does: joined along the first axis of every input."""
    sizes = []
    for request in requests:
        (size,) = {len(array) for array in request.values()}
        sizes.append(size)
        for entry in config.input:
            assert request[entry.name].shape == (size, *entry.dims)
    assert sum(sizes) <= config.max_batch_size
    feeds = {}
    for entry in config.input:
        joined = np.concatenate([request[entry.name] for request in requests])
        inner = entry.reshape.shape if entry.HasField("reshape") else entry.dims
        feeds[entry.name] = joined.reshape(len(joined), *inner)
    names = [entry.name for entry in config.output]
    results = run.run(names, feeds)
    answers: list[dict[str, NDArray[Any]]] = [{} for _ in requests]
    for entry, result in zip(config.output, results, strict=True):
        assert len(result) == sum(sizes)
        parts = np.split(result, np.cumsum(sizes)[:-1])
        for answer, part in zip(answers, parts, strict=True):
            answer[entry.name] = part.reshape(len(part), *entry.dims)
    return answers


def command(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded classifier in a repository, as the command writes it."""
    repository = tmp_path_factory.mktemp("models")
    done = command("export", models.default_classifier(), "--triton", repository)
    folder = repository / "efficientnet-lite0"
    assert done.stdout.split() == [
        str(folder / "1" / "model.onnx"),
        str(folder / "config.pbtxt"),
    ]
    return folder


def test_the_embedded_classifier(embedded: Path) -> None:
    config, _ = loaded(embedded)
    assert config.backend == "onnxruntime"
    assert config.max_batch_size == 8
    assert config.dynamic_batching.max_queue_delay_microseconds == 1000
    (group,) = config.instance_group
    assert model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind) == "KIND_AUTO"
    assert [list(entry.dims) for entry in config.input] == [[3, 224, 224], [1]]
    outputs = {entry.name: entry for entry in config.output}
    assert list(outputs) == ["logits", "score", "target_index", "gradient", "saliency"]
    assert [name for name, entry in outputs.items() if entry.label_filename] == ["logits"]
    labels = (embedded / outputs["logits"].label_filename).read_text(encoding="utf-8")
    assert labels.splitlines() == models.labels()
    assert [warm.batch_size for warm in config.model_warmup] == [1, 8]
    for warm in config.model_warmup:
        assert {key: list(value.dims) for key, value in warm.inputs.items()} == {
            entry.name: list(entry.dims) for entry in config.input
        }


def test_joined_requests_are_answered_like_single_ones(embedded: Path) -> None:
    config, run = loaded(embedded)
    # A client prepares its picture with what the configuration tells, and nothing else.
    record = parse_record(
        json.loads(config.parameters["deepinside.preprocessing"].string_value), where="Triton"
    )
    assert config.parameters["deepinside.layout"].string_value == "NCHW"
    pictures = [
        preprocess(load_picture(models.example(name)), record, "NCHW", dtype=np.dtype(np.float32))[
            0
        ][None]
        for name in models.EXAMPLES
    ]
    requests = [
        {"image": picture, "target": np.array([[target]])}
        for picture, target in zip(pictures, (-1, 282, -1), strict=True)
    ]
    requests.append({key: np.concatenate([r[key] for r in requests[:2]]) for key in requests[0]})
    together = serve(config, run, requests)
    for request, answer in zip(requests, together, strict=True):
        (alone,) = serve(config, run, [request])
        np.testing.assert_array_equal(answer["target_index"], alone["target_index"])
        for name in ("saliency", "gradient", "logits", "score"):
            top = np.abs(alone[name]).max()
            np.testing.assert_allclose(answer[name], alone[name], atol=1e-4 * top, rtol=0)
    assert together[1]["target_index"].tolist() == [[282]]
    engine = Engine(embedded / "1" / "model.onnx", "cpu")
    (expected,) = engine.saliency(models.example(models.EXAMPLES[0]))
    assert together[0]["target_index"].tolist() == [[expected.index]]
    np.testing.assert_allclose(together[0]["saliency"][0], expected.saliency, atol=1e-4)


def is_marked(answer: dict[str, NDArray[Any]], asked: int) -> bool:
    """Whether one row says that its target is no class."""
    assert np.isnan(answer["score"]).all()
    assert answer["target_index"].tolist() == [[asked]]
    maps = [answer[name] for name in ("gradient", "attribution", "saliency") if name in answer]
    return len(maps) == 2 and not any(map(np.any, maps))


def test_a_target_that_is_no_class_spoils_no_other_request(embedded: Path) -> None:
    config, run = loaded(embedded)
    pictures = np.random.default_rng(0).standard_normal((3, 1, 3, 224, 224)).astype(np.float32)
    requests = [
        {"image": picture, "target": np.array([[target]])}
        for picture, target in zip(pictures, (7, 1000, -1), strict=True)
    ]
    answers = serve(config, run, requests)
    assert is_marked(answers[1], 1000)
    for place in (0, 2):
        (alone,) = serve(config, run, [requests[place]])
        for name, values in alone.items():
            top = np.abs(values).max()
            np.testing.assert_allclose(answers[place][name], values, atol=1e-4 * top, rtol=0)


@pytest.mark.parametrize(
    ("tensor", "dims", "complaint"),
    [
        ("input", [1, 3, 224, 224], "image is"),  # the batch's axis given twice
        ("input", [224, 224], "image is"),
        ("output", [1, 1000], "logits is"),
        ("output", [-1], "logits is"),
        ("output", [999], "logits is"),
    ],
)
def test_wrong_sizes_are_noticed(
    embedded: Path, tensor: str, dims: list[int], complaint: str
) -> None:
    config, run = loaded(embedded)
    entry = getattr(config, tensor)[0]
    del entry.dims[:]
    entry.dims.extend(dims)
    assert any(found.startswith(complaint) for found in complaints(config, run))


def put(folder: Path, exporter: Any, network: Any, **options: Any) -> Path:
    exporter(network, folder / "1" / "model.onnx", **options)
    return folder


SALIENCY: dict[str, dict[str, Any]] = {
    "required": {"target_input": "required", "labels": LABELS},
    "fixed": {"target_input": "fixed:2"},
    "subset": {"target_input": "required", "outputs": ["saliency"]},
    "smoothgrad": {
        "target_input": "required",
        "method": GraphMethod("smoothgrad", samples=2),
        "preprocessing": RECORD,
    },
    "integrated": {
        "target_input": "required",
        "method": GraphMethod("integrated-gradients", steps=2),
        "preprocessing": RECORD,
    },
    "layer": {"target_input": "required", "layer": "r"},
}


MARKED: dict[str, dict[str, Any]] = {
    **{name: SALIENCY[name] for name in ("required", "smoothgrad", "integrated", "layer")},
    "probability": {"score": "probability"},
    "float16": {"precision": "float16"},
    "optional": {"target_input": "optional"},
    "cuda": {"optimize_for": "cuda"},
}
CLASSES = {"layer": 8}


@pytest.mark.parametrize("name", MARKED)
def test_targets_that_are_no_class_are_marked(tmp_path: Path, name: str) -> None:
    """Only they: the rows beside them are those of a usual file, which fails as a whole."""
    options = {"target_input": "required", **MARKED[name]}
    usual, marked = (
        session(
            put(tmp_path / str(mark), export_saliency, classifier(), mark_targets=mark, **options)
            / "1"
            / "model.onnx"
        )
        for mark in (False, True)
    )
    image = np.random.default_rng(3).standard_normal((4, 3, 8, 8)).astype(np.float32)
    asked = np.array([1, CLASSES.get(name, 5), 10**12, -1])
    with pytest.raises(Fail, match="GatherElements"):
        usual.run(None, {"image": image, "target": asked})
    outputs = [item.name for item in usual.get_outputs()]
    assert [item.name for item in marked.get_outputs()] == outputs
    expected = usual.run(None, {"image": image, "target": np.array([1, 0, 0, -1])})
    found = marked.run(None, {"image": image, "target": asked})
    for output, one, other in zip(outputs, found, expected, strict=True):
        np.testing.assert_allclose(one[[0, 3]], other[[0, 3]], rtol=1e-5, atol=1e-6)
        if output == "target_index":
            assert one[1:3].tolist() == asked[1:3].tolist()
        elif output in ("score", "completeness_gap", "baseline_score"):
            assert np.isnan(one[1:3]).all()
        elif output in ("gradient", "attribution", "saliency"):
            assert not one[1:3].any()
        else:  # the classifier's own
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SALIENCY)
def test_saliency_files_are_batched(tmp_path: Path, name: str) -> None:
    folder = put(tmp_path / name, export_saliency, classifier(), **SALIENCY[name])
    model = write_triton_config(folder)
    assert (model.max_batch_size, model.notes) == (8, ())
    config, run = loaded(folder)
    assert {item.name for item in run.get_outputs()} == {entry.name for entry in config.output}
    random = np.random.default_rng(3)
    requests = [
        {
            entry.name: random.standard_normal((count, *entry.dims)).astype(np.float32)
            if entry.name == "image"
            else random.integers(-1, 5, (count, *entry.dims))
            for entry in config.input
        }
        for count in (1, 3, 2)
    ]
    for request, answer in zip(requests, serve(config, run, requests), strict=True):
        (alone,) = serve(config, run, [request])
        for key, value in alone.items():
            np.testing.assert_allclose(answer[key], value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("recipe", "dims"),
    [
        (Recipe(dtype="float16", target_input="required"), [3, 6, 8]),
        (Recipe(layout="NHWC", target_input="required"), [6, 8, 3]),
        (Recipe(layout="flat", target_input="required"), [144]),
        (Recipe(batch=4, target_input="fixed:1"), [4, 3, 6, 8]),
    ],
)
def test_types_and_layouts(tmp_path: Path, recipe: Recipe, dims: list[int]) -> None:
    (tmp_path / "hand" / "1").mkdir(parents=True)
    write(tmp_path / "hand" / "1" / "model.onnx", recipe)
    write_triton_config(tmp_path / "hand")
    config, _ = loaded(tmp_path / "hand")
    assert list(config.input[0].dims) == dims
    assert config.parameters["deepinside.layout"].string_value == recipe.layout


def test_weights_beside_the_file_are_in_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepinside.exporters.finish._SINGLE_FILE_LIMIT", 100)
    folder = put(tmp_path / "large", export_saliency, classifier(), target_input="required")
    write_triton_config(folder)
    (data,) = (folder / "1").glob("model.onnx.*.data")
    assert data.stat().st_size > 500
    config, _ = loaded(folder)
    assert [list(entry.dims) for entry in config.input] == [[3, 8, 8], [1]]


def test_an_open_size_stays_open(tmp_path: Path) -> None:
    network = classifier()
    for axis in (2, 3):
        network.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"side{axis}"
    folder = put(tmp_path / "open", export_saliency, network, target_input="required")
    write_triton_config(folder)
    config, _ = loaded(folder)
    assert list(config.input[0].dims) == [3, -1, -1]
    assert list(config.output[-1].dims) == [-1, -1]
    assert not config.model_warmup  # of which size?


def test_an_optional_target_is_left_out_and_said(tmp_path: Path) -> None:
    folder = put(tmp_path / "optional", export_saliency, classifier())
    model = write_triton_config(folder)
    (note,) = model.notes
    assert note.startswith("Left out: target")
    assert "--target-input required" in note
    config, _ = loaded(folder)
    assert [entry.name for entry in config.input] == ["image"]
    # Without batching, Triton does take it.
    assert write_triton_config(folder, TritonSettings(max_batch_size=0)).notes == ()
    config, _ = loaded(folder)
    assert [(entry.name, list(entry.dims), entry.optional) for entry in config.input] == [
        ("image", [-1, 3, 8, 8], False),
        ("target", [-1], True),
    ]
    assert not config.HasField("dynamic_batching")


def test_a_fixed_batch_is_not_batched(tmp_path: Path) -> None:
    network = classifier(batch="2", outputs="float[2,5] logits")
    folder = put(tmp_path / "two", export_saliency, network, target_input="required")
    model = write_triton_config(folder)
    assert model.max_batch_size == 0
    assert model.notes == ("No dynamic batching: the first axis of the input image is fixed at 2.",)
    config, run = loaded(folder)
    assert [list(entry.dims) for entry in config.input] == [[2, 3, 8, 8], [-1]]
    assert [list(entry.dims) for entry in config.output][:2] == [[2, 5], [2]]
    assert len(config.output) == len(run.get_outputs())


@pytest.mark.parametrize("rule", ["plain", "natural"])
def test_steps_have_numbers_for_the_whole_batch(tmp_path: Path, rule: str) -> None:
    folder = put(
        tmp_path / rule,
        export_visualization,
        classifier(),
        step_rule=rule,
        preprocessing=RECORD,
    )
    model = write_triton_config(folder)
    assert model.max_batch_size == 0
    assert "the input step_size is one number for the whole batch" in model.notes[0]
    config, _ = loaded(folder)
    assert {entry.name: list(entry.dims) for entry in config.input}["step_size"] == [1]


def test_a_whole_ascent_is_batched(tmp_path: Path) -> None:
    number = np.array(0.5, np.float32)
    folder = put(
        tmp_path / "draw",
        export_visualization,
        classifier(),
        loop=3,
        defaults={"step_size": number, "l2": number},
        preprocessing=RECORD,
        labels=LABELS,
    )
    model = write_triton_config(folder)
    assert model.max_batch_size == 8
    assert [note.partition(",")[0] for note in model.notes] == [
        "Left out: step_size",
        "Left out: scores",  # (steps + 1, N)
    ]
    assert not (folder / "labels.txt").exists()  # no output has a score per class
    config, run = loaded(folder)
    assert not config.model_warmup  # which would draw a picture at each start
    requests = [{"target": np.array([[k]])} for k in (3, 1)]
    for request, answer in zip(requests, serve(config, run, requests), strict=True):
        (alone,) = serve(config, run, [request])
        np.testing.assert_array_equal(answer["picture"], alone["picture"])


def test_an_input_with_a_first_axis_of_its_own_is_not_joined(tmp_path: Path) -> None:
    network = classifier(tail="t = ReduceSum (bias)\n  logits = Add (s, t)")
    bias = onnx.helper.make_tensor_value_info("bias", onnx.TensorProto.FLOAT, ["M", 1])
    network.graph.input.append(bias)
    folder = put(
        tmp_path / "more", export_saliency, network, target_input="required", image_input="image"
    )
    (note,) = write_triton_config(folder).notes
    assert note.endswith("the first axis of the input bias is not that of the pictures.")
    config, _ = loaded(folder)
    assert config.max_batch_size == 0


def test_settings_are_written(tmp_path: Path) -> None:
    folder = put(tmp_path / "set", export_saliency, classifier(), target_input="required")
    write_triton_config(folder, TritonSettings(max_batch_size=32, queue_delay=0, device="gpu"))
    config, _ = loaded(folder)
    assert config.max_batch_size == 32
    assert config.HasField("dynamic_batching")
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU


def test_labels_are_one_a_line(tmp_path: Path) -> None:
    folder = put(tmp_path / "l", export_saliency, classifier(), labels=LABELS)
    write_triton_config(folder)
    lines = (folder / "labels.txt").read_text(encoding="utf-8").split("\n")
    assert lines == [LABELS[0], LABELS[1], "two lines", *LABELS[3:], ""]


def test_names_of_any_kind_are_quoted(tmp_path: Path) -> None:
    network = classifier(tail="logits = Identity (s)")
    odd = 'lo"gi\\ts/é:0'
    network.graph.node[-1].output[0] = network.graph.output[0].name = odd
    folder = put(tmp_path / "odd", export_saliency, network, target_input="required")
    write_triton_config(folder)
    config, _ = loaded(folder)
    assert config.output[0].name == odd


def test_what_is_no_exported_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"can't read .*model\.onnx"):
        write_triton_config(tmp_path / "m")
    file = tmp_path / "m" / "1" / "model.onnx"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"\xff" * 40)
    with pytest.raises(ExportError, match="is not an ONNX file"):
        write_triton_config(tmp_path / "m")
    onnx.save(classifier(), file)
    with pytest.raises(ExportError, match="was not written by deepinside export"):
        write_triton_config(tmp_path / "m")
    assert not (tmp_path / "m" / "config.pbtxt").exists()
    exported = put(tmp_path / "n", export_saliency, classifier()) / "1" / "model.onnx"
    (tmp_path / "n" / "config.pbtxt").mkdir()
    with pytest.raises(ExportError, match=r"can't write .*config\.pbtxt"):
        write_triton_config(tmp_path / "n")
    model = onnx.load(exported)
    onnx.helper.set_model_props(model, {"deepinside.names": "{}", "deepinside.autodiff": "x"})
    onnx.save(model, exported)
    with pytest.raises(ExportError, match="onnxruntime-training only"):
        write_triton_config(tmp_path / "n")
    with pytest.raises(ExportError, match="names the model"):
        write_triton_config(tmp_path / "a b")
    for wrong in ({"max_batch_size": -1}, {"queue_delay": -1}, {"device": "tpu"}):
        with pytest.raises(ExportError, match=r"can't be negative|can be auto, cpu or gpu"):
            TritonSettings(**wrong)  # type: ignore[arg-type]


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(classifier(), "my net.v1.5.onnx")
    return Path("my net.v1.5.onnx")


def test_the_command_names_the_model_and_keeps_it(network: Path) -> None:
    done = command("export", network, "--triton", "models", "--json", "--triton-device", "cpu")
    line = json.loads(done.stdout)
    folder = Path("models/my-net.v1.5")
    assert line["path"] == str(folder / "1" / "model.onnx")
    assert line["config"] == str(folder / "config.pbtxt")
    assert line["names"]["target"] == "target"
    config, _ = loaded(folder)
    assert [entry.name for entry in config.input] == ["image", "target"]
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_CPU
    before = (folder / "config.pbtxt").read_bytes()
    again = ("export", network, "--triton", "models", "--triton-batch", "2")
    assert "--overwrite" in command(*again, code=2).stderr
    assert (folder / "config.pbtxt").read_bytes() == before
    command(*again, "--overwrite", "--triton-delay", "5")
    config, _ = loaded(folder)
    assert config.max_batch_size == 2
    assert config.dynamic_batching.max_queue_delay_microseconds == 5
    assert sorted(str(path) for path in folder.rglob("*")) == [
        str(folder / name) for name in ("1", "1/model.onnx", "config.pbtxt")
    ]
    done = command(*again, "--triton-name", "other", "--target-input", "optional")
    assert "Left out: target" in done.stderr
    config, _ = loaded(Path("models/other"))
    assert [entry.name for entry in config.input] == ["image"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "-o FILE.onnx, or --triton DIR"),
        (["-o", "o.onnx", "--triton", "m"], "exclude each other"),
        (["-o", "o.onnx", "--triton-batch", "4"], "go with --triton DIR"),
        (["--triton", "m", "--triton-name", "a/b"], "can't name a model"),
        (["--triton", "m", "--triton-name", ".hidden"], "can't name a model"),
        (["--triton", "m", "--autodiff", "ort-training"], "Triton can't run"),
    ],
)
def test_usage_errors_of_the_command(network: Path, options: list[str], message: str) -> None:
    assert message in command("export", network, *options, code=2).stderr
    assert [path.name for path in Path().iterdir()] == [network.name]


def test_a_failed_export_leaves_no_folder_at_which_triton_would_stop(network: Path) -> None:
    network.write_bytes(b"no classifier")
    assert "Error:" in command("export", network, "--triton", "models", code=1).stderr
    assert not Path("models").exists()
