"""Opening files: contract, header, runtime, devices; and writing results."""

import hashlib
import json
import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from engine_fixtures import RECORD, Recipe, pictures, write
from onnx import TensorProto, helper, numpy_helper
from record_cases import BAD, GOOD

from deepinside import models
from deepinside.engine import (
    Engine,
    ModelFileError,
    NotExportedError,
    OutputError,
    ProviderError,
    RuntimeConflictError,
    RuntimeMissingError,
    SettingError,
    probe_providers,
    read_contract,
)
from deepinside.engine import providers as providers_module
from deepinside.engine import runtime as runtime_module
from deepinside.engine import session as session_module
from deepinside.engine.devices import parse_device
from deepinside.engine.files import replacing, save_array, save_picture, save_text
from deepinside.engine.modelfile import content_sha256, external_files, read_header
from deepinside.engine.providers import PROBE_MODEL
from deepinside.engine.record import parse_record
from deepinside.engine.session import SessionSettings, open_session
from deepinside.exporters import export_saliency


def test_contract_has_every_key(tmp_path: Path) -> None:
    contract = read_contract(write(tmp_path / "f.onnx", Recipe(overrides={"licence": "MIT"})))
    assert contract.contract_version == 1
    assert contract.task == "saliency"
    assert contract.names["image"] == "pixels"
    assert contract.layout == "NCHW"
    assert contract.num_classes == 3
    assert contract.activation == "none"
    assert (contract.score.kind, contract.score.tensor) == ("logit", "logits")
    assert contract.target_input == "optional"
    assert contract.fixed_target is None
    assert contract.step_rule is None
    assert contract.relu == "gradient"
    assert contract.preprocessing is not None
    assert contract.preprocessing.mean == (0.5, 0.25, 0.0)
    assert contract.label(1) == "tiger cat"
    assert contract.licence == "MIT"


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("contract_version", "5", "pip install --upgrade deepinside"),
        ("contract_version", "one", "not a positive number"),
        ("task", "dreaming", "not one of saliency, visualization"),
        ("task", None, "task of .* is missing"),
        ("names", "{", "is not JSON"),
        ("names", "[]", "holds a list, not a dict"),
        ("names", "{}", "lacks image, class_scores"),
        ("names", '{"image": "pixels", "class_scores": "gone"}', "no such input or output"),
        ("names", '{"image": "target", "class_scores": "scores"}', "not a batch"),
        ("layout", "HWCN", "not one of NCHW, NHWC"),
        ("layout", "flat", "picture of .* is missing"),
        ("num_classes", "0", "not a positive number"),
        ("activation", "relu", "not one of"),
        ("score", '{"kind": "logit"}', "lacks kind, tensor or bypassed"),
        ("target_input", "fixed:3", "not optional, required or fixed:INDEX"),
        ("labels", '["a"]', "holds 1 names for 3 classes"),
        ("preprocessing", "{}", "lacks channel_order"),
        ("preprocessing", json.dumps(RECORD | {"input_size": [6, 9]}), "gives inputs of"),
        ("preprocessing", json.dumps(RECORD | {"mean": [1]}), "3 number"),
        ("preprocessing", json.dumps(RECORD | {"std": [1, 0, 1]}), "other than 0"),
        ("preprocessing", json.dumps(RECORD | {"resize": "fit"}), "one of shorter-side"),
        ("preprocessing", json.dumps(RECORD | {"resize": "shorter-side"}), "whole number"),
        ("preprocessing", json.dumps(RECORD | {"resize_size": 3}), "null where"),
        ("preprocessing", json.dumps(RECORD | {"value_range": [0, 2]}), r"\[0, 1\]"),
        ("preprocessing", json.dumps(RECORD | {"input_size": [6.5, 8]}), "whole number"),
    ],
)
def test_broken_metadata(tmp_path: Path, key: str, text: str | None, message: str) -> None:
    path = write(tmp_path / "f.onnx", Recipe(overrides={key: text}))
    with pytest.raises(ModelFileError, match=message) as caught:
        Engine(path, "cpu")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("record", GOOD)
def test_records_that_are_accepted(record: dict[str, Any]) -> None:
    parsed = parse_record(record, where="f.onnx")
    assert list(parsed.input_size) == record["input_size"]
    assert parsed.resize_size == record["resize_size"]
    assert list(parsed.mean) == record["mean"]


@pytest.mark.parametrize("record", [record for _, record in BAD], ids=[name for name, _ in BAD])
def test_records_that_are_refused(record: dict[str, Any]) -> None:
    with pytest.raises(ModelFileError, match=r"preprocessing record of f\.onnx") as caught:
        parse_record(record, where="f.onnx")
    assert "\n" not in str(caught.value)


def test_a_plain_classifier_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "plain.onnx"
    path.write_bytes(PROBE_MODEL)
    with pytest.raises(NotExportedError, match="deepinside export"):
        Engine(path)


@pytest.mark.parametrize(
    "content", [b"", b"hello, world", b"\x08", bytes(100), b"\x3a\xff\xff\x7f"]
)
def test_no_model_at_all(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="not an ONNX model"):
        Engine(path)


def test_missing_truncated_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="there is no model file"):
        Engine(tmp_path / "nowhere.onnx")
    with pytest.raises(ModelFileError, match="can't be read"):
        Engine(tmp_path)
    path = write(tmp_path / "f.onnx")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ModelFileError, match="cut short"):
        Engine(path)


def test_a_graph_that_the_runtime_refuses(tmp_path: Path) -> None:
    path = write(tmp_path / "f.onnx")
    model = onnx.load(path)
    model.graph.node[0].op_type = "Flattten"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="Flattten"):
        Engine(path, "cpu")


def test_header_agrees_with_onnx(tmp_path: Path) -> None:
    path = write(tmp_path / "f.onnx")
    model = onnx.load(path)
    header = read_header(path)
    assert header.ir_version == model.ir_version
    assert header.opset == 17
    assert header.metadata == {item.key: item.value for item in model.metadata_props}


def test_external_data_counts_in_the_hash(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    weight = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    constant = numpy_helper.from_array(np.ones((64, 64), np.float32), "constant")
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=constant)],
        "inner",
        [],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [64, 64])],
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)],
        "outer",
        [helper.make_tensor_value_info("x", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [64, 64])],
        [weight],
    )
    model = helper.make_model(graph)
    onnx.save(
        model,
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=False,
        size_threshold=0,
        convert_attribute=True,
    )
    files = external_files(path)
    assert {file.name for file in files} == set(os.listdir(tmp_path)) - {"m.onnx"}
    assert {file.name for file in files} >= {"w", "constant"}
    before = content_sha256(path)
    files[0].write_bytes(bytes(64 * 64 * 4))
    assert content_sha256(path) != before
    files[0].unlink()
    with pytest.raises(ModelFileError, match="put that file beside it"):
        content_sha256(path)


def test_hash_of_a_single_file_is_its_sha256(tmp_path: Path) -> None:
    path = write(tmp_path / "f.onnx")
    assert external_files(path) == ()
    assert content_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


# --- runtime and devices ---


def test_no_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")

    monkeypatch.setattr(runtime_module, "installed_distributions", dict)
    monkeypatch.setattr(runtime_module.importlib, "import_module", missing)
    with pytest.raises(RuntimeMissingError, match=r"pip install 'deepinside\[cpu\]'"):
        runtime_module.load_runtime.__wrapped__()


def test_a_runtime_that_does_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise ImportError("libfoo.so: cannot open")

    monkeypatch.setattr(runtime_module.importlib, "import_module", broken)
    with pytest.raises(RuntimeMissingError, match="libfoo"):
        runtime_module.load_runtime.__wrapped__()


def test_two_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    two = {"onnxruntime": "1", "onnxruntime-gpu": "1"}
    monkeypatch.setattr(runtime_module, "installed_distributions", lambda: two)
    message = "pip uninstall onnxruntime && pip install --force-reinstall --no-deps onnxruntime-gpu"
    with pytest.raises(RuntimeConflictError, match=message) as caught:
        runtime_module.load_runtime.__wrapped__()
    assert caught.value.distributions == ("onnxruntime", "onnxruntime-gpu")


def test_installed_distributions_finds_the_one_in_use() -> None:
    assert onnxruntime.__version__ in runtime_module.installed_distributions().values()


@pytest.mark.parametrize(
    "text", ["gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "auto:1", "", "CPU"]
)
def test_unknown_devices(text: str) -> None:
    with pytest.raises(SettingError, match="auto, cpu, cuda, cuda:N"):
        parse_device(text)


def test_known_devices() -> None:
    assert [str(parse_device(text)) for text in ("auto", "cpu", "cuda", "cuda:3")] == [
        "auto",
        "cpu",
        "cuda:0",
        "cuda:3",
    ]


needs_no_cuda = pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(),
    reason="this ONNX Runtime has CUDA",
)


@needs_no_cuda
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_is_not_in_this_wheel(tmp_path: Path, device: str) -> None:
    with pytest.raises(ProviderError, match=r"built without CUDA.*pip install 'deepinside\[gpu\]'"):
        Engine(write(tmp_path / "f.onnx"), device)


class FakeSession:
    """A session from which CUDA dropped out silently, as ONNX Runtime's does."""

    placed: tuple[Any, ...] = ()
    kept = ("CPUExecutionProvider",)

    def __init__(self, path: str, options: Any, *, providers: list[Any], enable_fallback: int):
        assert enable_fallback == 0
        self.real = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.cuda = isinstance(providers[0], tuple)

    def get_providers(self) -> list[str]:
        return list(self.kept) if self.cuda else ["CPUExecutionProvider"]

    def get_provider_graph_assignment_info(self) -> tuple[Any, ...]:
        return self.placed

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> type[FakeSession]:
    class Session(FakeSession):
        pass

    fake = SimpleNamespace(**{name: getattr(onnxruntime, name) for name in dir(onnxruntime)})
    fake.InferenceSession = Session
    fake.preload_dlls = lambda: print("would spoil standard output")
    fake.get_available_providers = lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    for module in (session_module, providers_module):
        monkeypatch.setattr(module, "load_runtime", lambda: fake)
    providers_module.preload_libraries.cache_clear()
    return Session


@pytest.mark.usefixtures("fake_cuda")
def test_cuda_that_drops_out_is_an_error_that_says_why(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "f.onnx")
    with pytest.raises(ProviderError, match=r"libonnxruntime_providers_cuda\.so does not load \("):
        Engine(path, "cuda")
    assert capfd.readouterr().out == ""


@pytest.mark.usefixtures("fake_cuda")
def test_auto_takes_what_works_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "f.onnx")
    with caplog.at_level("INFO"):
        engine = Engine(path, "auto")
    assert engine.device == "cpu"
    assert "does not load" in caplog.text
    assert "running on cpu" in caplog.text


def test_nodes_that_left_the_gpu(
    tmp_path: Path,
    fake_cuda: type[FakeSession],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write(tmp_path / "f.onnx")
    fake_cuda.kept = ("CUDAExecutionProvider", "CPUExecutionProvider")
    node = SimpleNamespace(name="conv/grad", op_type="ConvTranspose")
    fake_cuda.placed = (
        SimpleNamespace(ep_name="CUDAExecutionProvider", get_nodes=lambda: [node] * 5),
        SimpleNamespace(ep_name="CPUExecutionProvider", get_nodes=lambda: [node]),
    )
    engine = Engine(path, "cuda")
    assert engine.device == "cuda:0"
    assert engine.off_device is not None
    assert [(n.name, n.op_type) for n in engine.off_device] == [("conv/grad", "ConvTranspose")]
    assert "ConvTranspose 'conv/grad'" in caplog.text
    with pytest.raises(ProviderError, match=r"1 nodes of .* run on the CPU"):
        Engine(path, "cuda", strict=True)
    monkeypatch.setattr(session_module, "nodes_off_device", lambda raw: None)  # an older runtime
    assert Engine(path, "cuda").off_device is None
    with pytest.raises(ProviderError, match="can't tell"):
        Engine(path, "cuda", strict=True)


def test_cuda_errors_while_opening(
    tmp_path: Path, fake_cuda: type[FakeSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA failure 101: invalid device ordinal ; GPU=7\nmore")

    monkeypatch.setattr(fake_cuda, "__init__", failing)
    with pytest.raises(ProviderError, match="invalid device ordinal ; GPU=7\\)"):
        Engine(write(tmp_path / "f.onnx"), "cuda:7")


def test_providers_are_tried() -> None:
    statuses = {status.name: status for status in probe_providers()}
    assert statuses["CPUExecutionProvider"].works
    assert statuses["CPUExecutionProvider"].device == "cpu"
    assert statuses["CUDAExecutionProvider"].device == "cuda"
    cuda = statuses["CUDAExecutionProvider"]
    assert cuda.works == (cuda.reason is None)
    onnx.checker.check_model(onnx.load_from_string(PROBE_MODEL), full_check=True)


@pytest.mark.gpu
@pytest.mark.skipif(
    not any(status.works and status.device == "cuda" for status in probe_providers()),
    reason="CUDA does not work here",
)
def test_cuda_agrees_with_the_cpu(tmp_path: Path) -> None:
    path = write(tmp_path / "f.onnx")
    x = pictures(3)
    for ours, theirs in zip(
        Engine(path, "cuda").saliency(x, "top2"),
        Engine(path, "cpu").saliency(x, "top2"),
        strict=True,
    ):
        assert ours.index == theirs.index
        np.testing.assert_allclose(ours.saliency, theirs.saliency, rtol=1e-4)
    step = write(tmp_path / "v.onnx", Recipe(task="visualization"))
    ours, theirs = (Engine(step, d).visualize([0, 2], steps=5) for d in ("cuda", "cpu"))
    np.testing.assert_allclose(ours[1].image, theirs[1].image, rtol=1e-4)


def test_session_settings(tmp_path: Path) -> None:
    path = write(tmp_path / "f.onnx")
    engine = Engine(path, "cpu", threads=1, spinning=False)
    options = engine.session.raw.get_session_options()
    assert options.intra_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert engine.off_device == ()
    with pytest.raises(SettingError, match="threads"):
        open_session(path, SessionSettings(threads=0))


# --- writing ---


def _killed_while_writing(path: Path) -> None:
    with replacing(path) as stream:
        stream.write(b"half of a longer text")
        raise KeyboardInterrupt


def test_writes_are_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    save_text(path, "one")
    with pytest.raises(KeyboardInterrupt):
        _killed_while_writing(path)
    assert path.read_text() == "one"
    save_text(path, "two")
    assert path.read_text() == "two"
    save_array(tmp_path / "a.npy", np.arange(3))
    save_picture(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8))
    assert sorted(os.listdir(tmp_path)) == ["a.npy", "a.png", "new"]
    assert os.listdir(tmp_path / "new") == ["a.txt"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_unwritable_places(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can't be written"):
        save_text(tmp_path / "file" / "a.txt", "x")
    with pytest.raises(OutputError, match="can't be written"):
        save_text(tmp_path, "x")  # a folder
    assert os.listdir(tmp_path) == ["file"]


def _held(path: Path, *, shrinks: bool) -> int:
    """Kilobytes that a session holds after three runs."""
    session = open_session(path, SessionSettings("cpu", threads=1))
    if not shrinks:
        session._largest_feed = 1 << 40
    before = _resident()
    for _ in range(3):
        session.run(["score"], {"image": np.zeros((8, 3, 224, 224), np.float32)})
    return _resident() - before


def _resident() -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells it in /proc")
def test_a_first_run_gives_its_memory_back(tmp_path: Path) -> None:
    path = tmp_path / "s.onnx"
    export_saliency(models.default_classifier(), path, optimize_for="cpu")
    assert _held(path, shrinks=True) < 0.95 * _held(path, shrinks=False)


def test_memory_is_given_back_where_batches_grow(tmp_path: Path) -> None:
    session = open_session(write(tmp_path / "m.onnx"), SessionSettings("cpu"))
    one, two = np.zeros((1, 3), np.float32), np.zeros((2, 3), np.float32)
    assert [session.grows({"x": x}) for x in (one, one, two, one, two)] == [1, 0, 1, 0, 0]
