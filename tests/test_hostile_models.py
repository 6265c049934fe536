"""Broken and hostile model files: each a sentence, and nothing read outside the model's folder."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from classifiers import classifier, session
from click.testing import CliRunner
from engine_fixtures import Recipe, write
from onnx import TensorProto, helper, numpy_helper

from deepinside.cli.main import cli
from deepinside.engine import Engine, ModelFileError, read_contract
from deepinside.engine.modelfile import content_sha256, external_files
from deepinside.exporters import ClassifierError, ExportError, MissingRuleError, export_saliency
from deepinside.exporters import finish as finish_module

Spoil = Callable[[onnx.ModelProto], None]


def tensor(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(item for item in model.graph.initializer if item.name == name)


def put_aside(model: onnx.ModelProto, place: str, name: str = "w", **entries: str) -> bytes:
    """Say that a weight is in another file; its bytes."""
    weight = tensor(model, name)
    content = bytes(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": place, **entries}.items():
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    return content


def save(model: onnx.ModelProto, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


# --- weights in other files ---

OUTSIDE = [
    "../secret.bin",
    "x/../../secret.bin",
    "{root}/secret.bin",
    "link.bin",
    "folder/secret.bin",
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a secret, which has the weights' size, and a folder for a model with links."""
    (tmp_path / "model").mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(864))
    (tmp_path / "model" / "link.bin").symlink_to("../secret.bin")
    (tmp_path / "model" / "folder").symlink_to(tmp_path)
    return tmp_path


@pytest.mark.parametrize("place", OUTSIDE)
def test_weights_outside_are_refused_before_any_library_reads(
    root: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = classifier()
    put_aside(model, place.format(root=root))
    path = save(model, root / "model" / "m.onnx")
    with pytest.raises(ClassifierError, match="outside its own folder"):
        export_saliency(path, root / "s.onnx")
    for read in (external_files, content_sha256):
        with pytest.raises(ModelFileError, match="outside its own folder"):
            read(path)
    exported = onnx.load(write(root / "model" / "e.onnx"))
    put_aside(exported, place.format(root=root), "w")
    save(exported, root / "model" / "e.onnx")
    monkeypatch.setattr("deepinside.engine.session.load_runtime", lambda: pytest.fail("was loaded"))
    with pytest.raises(ModelFileError, match="outside its own folder"):
        Engine(root / "model" / "e.onnx", "cpu")


def constant_in_a_body(model: onnx.ModelProto) -> None:
    weight = numpy_helper.from_array(np.zeros(216, np.float32), "hidden")
    constant = helper.make_node("Constant", [], ["z"], value=weight)
    info = [helper.make_tensor_value_info("z", TensorProto.FLOAT, [216])]
    body = helper.make_graph([constant], "body", [], info)
    node = helper.make_node("If", ["yes"], ["unused"], then_branch=body, else_branch=body)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(node)
    for attribute in model.graph.node[-1].attribute:
        hidden = attribute.g.node[0].attribute[0].t
        hidden.ClearField("raw_data")
        hidden.data_location = TensorProto.EXTERNAL
        hidden.external_data.add(key="location", value="../secret.bin")


def constant_in_a_function(model: onnx.ModelProto) -> None:
    weight = numpy_helper.from_array(np.zeros(216, np.float32), "hidden")
    nodes = [
        helper.make_node("Constant", [], ["c"], value=weight),
        helper.make_node("Identity", ["x"], ["y"]),
    ]
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("own", "F", ["x"], ["y"], nodes, opsets))
    hidden = model.functions[0].node[0].attribute[0].t
    hidden.ClearField("raw_data")
    hidden.data_location = TensorProto.EXTERNAL
    hidden.external_data.add(key="location", value="../secret.bin")


@pytest.mark.parametrize("hide", [constant_in_a_body, constant_in_a_function])
def test_weights_outside_are_found_wherever_they_hide(root: Path, hide: Spoil) -> None:
    model = classifier()
    hide(model)
    path = save(model, root / "model" / "m.onnx")
    with pytest.raises(ClassifierError, match="outside its own folder"):
        export_saliency(path, root / "s.onnx")
    with pytest.raises(ModelFileError, match="outside its own folder"):
        external_files(path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": ""}, "without a name"),
        ({"location": "a\0b"}, "without a name"),
        ({"location": "."}, "missing"),
        ({"location": "nowhere.bin"}, "missing"),
        ({"location": "w.bin", "offset": "-4"}, "does not fit its shape"),
        ({"location": "w.bin", "offset": "9" * 40}, "does not fit its shape"),
        ({"location": "w.bin", "offset": "ten"}, "does not fit its shape"),
        ({"location": "w.bin", "length": "860"}, "does not fit its shape"),
        ({"location": "w.bin", "offset": "4"}, "cut off: it has 864 bytes and needs 868"),
    ],
)
def test_weights_that_are_not_whole(tmp_path: Path, entries: dict[str, str], message: str) -> None:
    model = classifier()
    rest = {key: value for key, value in entries.items() if key != "location"}
    (tmp_path / "w.bin").write_bytes(put_aside(model, entries["location"], **rest))
    with pytest.raises(ClassifierError, match=message):
        export_saliency(save(model, tmp_path / "m.onnx"), tmp_path / "s.onnx")


def test_a_pipe_is_no_model_and_no_weights(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    model = classifier()
    put_aside(model, "pipe")
    path = save(model, tmp_path / "m.onnx")
    for file, message in ((path, "missing"), (tmp_path / "pipe", "not a file")):
        with pytest.raises(ClassifierError, match=message):
            export_saliency(file, tmp_path / "s.onnx")
        with pytest.raises(ModelFileError, match=message):
            content_sha256(file)


def test_a_cache_of_links_is_read(tmp_path: Path) -> None:
    """Downloads are kept so: links with good names to files with hashes for names."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "shown").mkdir()
    model = classifier()
    (tmp_path / "blobs" / "b").write_bytes(put_aside(model, "m.onnx.data"))
    save(model, tmp_path / "blobs" / "a")
    path = tmp_path / "shown" / "m.onnx"
    path.symlink_to("../blobs/a")
    (tmp_path / "shown" / "m.onnx.data").symlink_to("../blobs/b")
    assert len(external_files(path)) == 1
    export_saliency(path, tmp_path / "s.onnx")
    export_saliency(classifier(), tmp_path / "t.onnx")
    pixels = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    got, wanted = (
        session(tmp_path / name).run(["gradient"], {"image": pixels})[0]
        for name in ("s.onnx", "t.onnx")
    )
    np.testing.assert_array_equal(got, wanted)


def test_large_weights_in_other_files_come_along(tmp_path: Path) -> None:
    """More than 1024 numbers, which are not read for inference; the file stands for itself."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[N,3,8,8] image) => (float[N,9] logits) <float[9,192] w> {
      f = Flatten (image)
      logits = Gemm <transB = 1> (f, w)
    }"""
    model = onnx.parser.parse_model(text)
    values = np.random.default_rng(0).standard_normal((9, 192)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(values, "w"))
    (tmp_path / "w.bin").write_bytes(put_aside(model, "w.bin"))
    report = export_saliency(save(model, tmp_path / "m.onnx"), tmp_path / "out" / "s.onnx")
    assert os.listdir(tmp_path / "out") == ["s.onnx"]
    pixels = np.zeros((1, 3, 8, 8), np.float32)
    feeds = {"image": pixels, "target": np.array([4])}
    gradient = session(report.path).run(["gradient"], feeds)[0]
    np.testing.assert_array_equal(gradient.ravel(), values[4])


def test_a_model_in_memory_without_its_weights(tmp_path: Path) -> None:
    model = classifier()
    put_aside(model, "w.bin")
    with pytest.raises(ClassifierError, match="give the path"):
        export_saliency(model, tmp_path / "s.onnx")


# --- pairs of files ---


def test_a_pair_of_files_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish_module, "_SINGLE_FILE_LIMIT", 100)
    path = tmp_path / "s.onnx"
    export_saliency(classifier(), path)
    first = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    with monkeypatch.context() as patch:
        real = Path.replace

        def failing(part: Path, target: Path) -> Path:
            if target == path:
                raise OSError(28, "No space left on device")
            return real(part, target)

        patch.setattr(Path, "replace", failing)
        with pytest.raises(ExportError, match="No space left"):
            export_saliency(classifier(seed=1), path)
    # The old file still has its own weights.
    assert {name: (tmp_path / name).read_bytes() for name in first} == first
    session(path)
    export_saliency(classifier(seed=2), path)
    assert not set(first) - {"s.onnx"} & set(os.listdir(tmp_path))  # the old weights are gone
    session(path)


def test_a_pair_of_files_goes_through_all_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finish_module, "_SINGLE_FILE_LIMIT", 100)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = classifier()
    (tmp_path / "w.bin").write_bytes(put_aside(model, "w.bin"))
    plain = save(model, tmp_path / "m.onnx")
    exported = tmp_path / "s.onnx"
    record = tmp_path / "r.json"
    record.write_text(json.dumps(Recipe().record | {"input_size": [8, 8]}))
    given = ["--preprocessing", record]
    for arguments in (
        ["export", plain, "-o", exported, "--preprocessing", record],
        ["inspect", exported],
        ["check", "-m", exported],
        ["saliency", "example:chelsea", "-m", exported, "-o", tmp_path / "a"],
        ["saliency", "example:chelsea", "-m", plain, "-o", tmp_path / "b", *given],
    ):
        result = CliRunner().invoke(cli, list(map(str, arguments)))
        assert result.exit_code == 0, result.output
    cached = os.listdir(tmp_path / "cache" / "deepinside" / "exports")
    assert len(cached) == 2
    assert not any(name.startswith(".") for name in cached)
    before = content_sha256(exported)
    (data,) = external_files(exported)
    data.write_bytes(bytes(data.stat().st_size))
    assert content_sha256(exported) != before


# --- broken graphs ---


def _raw(change: Callable[[bytes], bytes]) -> Spoil:
    def spoil(model: onnx.ModelProto) -> None:
        tensor(model, "w").raw_data = change(tensor(model, "w").raw_data)

    return spoil


def _sized(*dims: int) -> Spoil:
    def spoil(model: onnx.ModelProto) -> None:
        tensor(model, "w").dims[:] = dims

    return spoil


def _opset(version: int) -> Spoil:
    def spoil(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = version

    return spoil


def _image(size: int) -> Spoil:
    def spoil(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = size

    return spoil


def _typed(model: onnx.ModelProto) -> None:
    tensor(model, "w").data_type = 99


def _too_few(model: onnx.ModelProto) -> None:
    tensor(model, "w").ClearField("raw_data")
    tensor(model, "w").float_data.extend([1.0] * 3)


def _circle(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "r"


def _recursive(model: onnx.ModelProto) -> None:
    nodes = [helper.make_node("F", ["x"], ["y"], domain="own")]
    opsets = [helper.make_opsetid("own", 1)]
    model.functions.append(helper.make_function("own", "F", ["x"], ["y"], nodes, opsets))
    model.opset_import.extend(opsets)
    model.graph.node[1].op_type, model.graph.node[1].domain = "F", "own"


def _explosive(model: onnx.ModelProto) -> None:
    """Twelve functions that call the one before ten times."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    called, domain = "Relu", ""
    for number in range(12):
        names = ["x", *(f"t{place}" for place in range(9)), "y"]
        nodes = [
            helper.make_node(called, [names[at]], [names[at + 1]], domain=domain)
            for at in range(10)
        ]
        called, domain = f"F{number}", "own"
        model.functions.append(helper.make_function("own", called, ["x"], ["y"], nodes, opsets))
    model.opset_import.append(opsets[1])
    model.graph.node[1].op_type, model.graph.node[1].domain = called, domain


BROKEN: dict[str, tuple[Spoil, str]] = {
    "too few bytes": (_raw(lambda raw: raw[:-4]), "860 bytes instead of 864"),
    "too many bytes": (_raw(lambda raw: raw + b"1234"), "868 bytes instead of 864"),
    "too few numbers": (_too_few, "3 numbers instead of 216"),
    "negative size": (_sized(-8, 3, 3, 3), "negative size"),
    "enormous size": (_sized(1 << 40, 3, 3, 3), "864 bytes instead of 118747255799808"),
    "unknown type": (_typed, "unknown type"),
    "opset 0": (_opset(0), "imports no opset"),
    "negative opset": (_opset(-3), "imports no opset"),
    "opset of tomorrow": (_opset(999), "upgrade the package onnx"),
    "negative picture": (_image(-8), "a size that no picture has"),
    "picture of nothing": (_image(0), "a size that no picture has"),
    "enormous picture": (_image(1 << 40), "a size that no picture has"),
    "circle": (_circle, "not a valid ONNX model"),
    "recursive function": (_recursive, "call themselves"),
    "exploding functions": (_explosive, "more than 1000000 nodes"),
}


@pytest.mark.parametrize(("spoil", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_classifiers(spoil: Spoil, message: str, tmp_path: Path) -> None:
    model = classifier()
    spoil(model)
    with pytest.raises(ClassifierError, match=message) as caught:
        export_saliency(save(model, tmp_path / "m.onnx"), tmp_path / "s.onnx")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "s.onnx").exists()


def test_an_operator_that_nobody_knows(tmp_path: Path) -> None:
    model = classifier()
    model.graph.node[1].op_type = "Frob"
    with pytest.raises(MissingRuleError, match=r"Frob.*ONNX has no such operator"):
        export_saliency(model, tmp_path / "s.onnx")


def test_bugs_stay_bugs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def buggy(*_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("deepinside.exporters.stage.prepare", buggy)
    onnx.save(classifier(), tmp_path / "m.onnx")
    with pytest.raises(ValueError, match="a bug"):
        export_saliency(tmp_path / "m.onnx", tmp_path / "s.onnx")


def test_weights_that_are_no_numbers_fail_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = classifier()
    tensor(model, "w").raw_data = np.full(216, np.nan, np.float32).tobytes()
    save(model, tmp_path / "m.onnx")
    (tmp_path / "r.json").write_text(json.dumps(Recipe().record | {"input_size": [8, 8]}))
    given = ["-m", tmp_path / "m.onnx", "--preprocessing", tmp_path / "r.json"]
    arguments = ["saliency", "example:chelsea", *given, "-o", tmp_path / "out"]
    result = CliRunner().invoke(cli, list(map(str, arguments)))
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert "not a number" in result.stderr


# --- metadata ---


def test_metadata_do_not_steer_the_terminal(tmp_path: Path) -> None:
    labels = ["\x1b[2Jcat", "<script>alert(1)</script>", "dog\r\nfile  /etc/shadow"]
    path = write(tmp_path / "s.onnx", Recipe(labels=labels, overrides={"licence": "\x9b31mMIT"}))
    result = CliRunner().invoke(cli, ["inspect", str(path)])
    assert result.exit_code == 0
    assert all(c.isprintable() or c == "\n" for c in result.output)
    assert "\\x1b[2Jcat" in result.output
    assert "\nfile  /etc/shadow" not in result.output


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("names", "[" * 100_000),
        ("names", '{"image": "pixels", "class_scores": "scores", "score": ["a"]}'),
        ("num_classes", "1" * 5000),
        ("num_classes", "٣"),  # an Arabic 3, which int() reads
        ("labels", "[" + "9" * 5000 + "]"),
        ("labels", '[{"a": 1}, null, 3]'),
        ("score", '{"kind": "logit", "tensor": "logits", "bypassed": [1]}'),
        ("layer", '{"name": "l", "neuron": [null]}'),
        ("layer", '{"name": "l", "neuron": [1e999]}'),
        ("target_input", "fixed:" + "1" * 5000),
        ("preprocessing", json.dumps(Recipe().record | {"input_size": [10**9, 10**9]})),
    ],
)
def test_metadata_that_mean_harm(tmp_path: Path, key: str, text: str) -> None:
    path = write(tmp_path / "s.onnx", Recipe(overrides={key: text}))
    with pytest.raises(ModelFileError, match=key):
        read_contract(path)


def test_messages_nested_without_end(tmp_path: Path) -> None:
    content = b""
    for _ in range(500):  # a graph in a node in a graph ...
        for tag in (0x32, 0x2A, 0x0A):
            size, length = len(content), b""
            while size > 127:
                length, size = length + bytes([size & 127 | 128]), size >> 7
            content = bytes([tag]) + length + bytes([size]) + content
    size, length = len(content), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    path = tmp_path / "deep.onnx"
    path.write_bytes(b"\x08\x08\x3a" + length + bytes([size]) + content)
    with pytest.raises(ModelFileError, match="not an ONNX model"):
        external_files(path)
    with pytest.raises(ClassifierError, match="not an ONNX file"):
        export_saliency(path, tmp_path / "s.onnx")
