"""What goes on GPUs: tested here with several CPU sessions and with fakes, there with GPUs."""

import itertools
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from engine_fixtures import Recipe, pictures, write
from onnx import helper

from deepinside import models
from deepinside.engine import (
    DivergenceError,
    Engine,
    InputFailure,
    OutOfMemoryError,
    ProviderError,
    SettingError,
    probe_providers,
)
from deepinside.engine import binding as binding_module
from deepinside.engine import session as session_module
from deepinside.engine.binding import BoundRun, runs_of
from deepinside.engine.devices import ALL, Device, parse_devices
from deepinside.engine.lanes import in_lanes
from deepinside.engine.modelfile import operators
from deepinside.engine.options import SessionSettings, provider_list
from deepinside.engine.placement import count_copies
from deepinside.engine.session import open_session
from deepinside.exporters import export_saliency, export_visualization


def test_lanes_keep_the_order_and_work_at_once() -> None:
    meeting = threading.Barrier(3, timeout=10)  # nobody passes before three work

    def work(lane: str, task: int) -> tuple[str, int]:
        meeting.wait()
        return lane, task

    found = list(in_lanes(["a", "b", "c"], range(9), work))
    assert [task for _, task in found] == list(range(9))
    assert {lane for lane, _ in found} == {"a", "b", "c"}


@pytest.mark.parametrize("lanes", [1, 3])
def test_lanes_take_no_more_tasks_than_they_need(lanes: int) -> None:
    taken = []

    def tasks() -> Any:
        for number in itertools.count():
            taken.append(number)
            yield number

    results = in_lanes(list(range(lanes)), tasks(), lambda _, task: task)
    assert [next(results) for _ in range(5)] == list(range(5))
    assert len(taken) <= 5 + lanes
    results.close()  # type: ignore[attr-defined]


def test_what_a_task_raises_comes_in_its_turn() -> None:
    def work(_: int, task: int) -> int:
        if task == 2:
            raise ValueError("two")
        return task

    results = in_lanes([0, 1], range(100), work)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)


def test_several_sessions_give_what_one_gives(tmp_path: Path) -> None:
    path, x = write(tmp_path / "f.onnx"), pictures(11)
    expected = Engine(path, "cpu").saliency(x, "top2", batch_size=2)
    engine = Engine(path, "cpu,cpu,cpu", in_flight=2)
    assert engine.device == "cpu,cpu,cpu"
    assert len(set(map(id, engine.sessions))) == 3
    found = engine.saliency(x, "top2", batch_size=2)
    assert [(m.source, m.index) for m in found] == [(m.source, m.index) for m in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.saliency, other.saliency, rtol=1e-6)


def test_a_bad_input_among_several_sessions(tmp_path: Path) -> None:
    path = write(tmp_path / "f.onnx")
    x: list[Any] = [*pictures(5), tmp_path / "none.png", *pictures(5)]
    found = list(Engine(path, "cpu,cpu").iter_saliency(x, batch_size=2, ahead=1))
    assert [item.position for item in found] == list(range(11))
    assert [isinstance(item, InputFailure) for item in found].index(True) == 5


def test_one_by_one_uses_one_session_and_reads_nothing_ahead(tmp_path: Path) -> None:
    read = []

    def camera() -> Any:
        for number, picture in enumerate(pictures(4)):
            read.append(number)
            yield picture

    engine = Engine(write(tmp_path / "f.onnx"), "cpu,cpu")
    results = engine.iter_saliency(camera(), batch_size=1, ahead=0)
    next(results)
    assert read == [0]


def test_several_sessions_draw_too(tmp_path: Path) -> None:
    path, steps = write(tmp_path / "v.onnx", Recipe(task="visualization")), []
    drawn = [
        Engine(path, device).visualize([0, 1, 2], steps=5, batch_size=1, progress=steps.append)
        for device in ("cpu", "cpu,cpu")
    ]
    assert [image.index for image in drawn[1]] == [0, 1, 2]
    for one, other in zip(*drawn, strict=True):
        np.testing.assert_array_equal(one.image, other.image)


@pytest.mark.parametrize("text", ["cuda:all", "tensorrt:1", "cuda:0,cuda:1", "cpu,cuda:2"])
def test_devices(text: str) -> None:
    assert ",".join(map(str, parse_devices(text))) == text


def test_all_stands_alone() -> None:
    assert parse_devices("cuda:all") == (Device("cuda", ALL),)
    for text in ("cuda:all,cuda:0", "auto,cpu"):
        with pytest.raises(SettingError, match="stands alone"):
            parse_devices(text)


def test_what_a_device_can_not_do_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "f.onnx")
    with pytest.raises(SettingError, match="CUDA graphs need a GPU, and the device is cpu"):
        Engine(path, "cpu", cuda_graph=True)
    with pytest.raises(SettingError, match="export the classifier with --precision float16"):
        Engine(path, "cpu", float16=True)
    with pytest.raises(SettingError, match="in_flight is 0"):
        Engine(path, "cpu", in_flight=0)


def test_providers_by_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settings = SessionSettings(tf32=True, float16=True, cuda_graph=True, channels_last=True)
    (tensorrt, engines), (cuda, options), cpu = provider_list(
        Device("tensorrt", 2), settings, one_stream=True
    )
    assert (tensorrt, cuda, cpu) == (
        "TensorrtExecutionProvider",
        "CUDAExecutionProvider",
        "CPUExecutionProvider",
    )
    assert engines["device_id"] == options["device_id"] == "2"
    assert engines["trt_fp16_enable"] == engines["trt_cuda_graph_enable"] == "1"
    assert Path(engines["trt_engine_cache_path"]).is_dir()
    assert (options["use_tf32"], options["prefer_nhwc"]) == ("1", "1")
    assert options["enable_cuda_graph"] == "0"  # TensorRT's own is on
    assert options["use_ep_level_unified_stream"] == "1"
    assert provider_list(Device("cpu"), settings, one_stream=False) == ["CPUExecutionProvider"]


def test_the_same_pictures_are_not_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three classes of the same pictures: the pictures go up once, the classes three times."""
    session = open_session(write(tmp_path / "f.onnx"), SessionSettings("cpu"))
    sent: list[tuple[int, ...]] = []

    class Value:
        def __init__(self, real: Any) -> None:
            self.real = real

        @classmethod
        def ortvalue_from_numpy(cls, array: Any, *place: Any) -> "Value":
            sent.append(array.shape)
            return cls(onnxruntime.OrtValue.ortvalue_from_numpy(array.copy(), *place))

        def update_inplace(self, array: Any) -> None:
            sent.append(array.shape)
            self.real.update_inplace(array)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

    fake = SimpleNamespace(OrtValue=Value)
    monkeypatch.setattr(binding_module, "load_runtime", lambda: fake)
    engine = Engine(session.path, "cpu")
    engine._runs = [(session, BoundRun(session).run)]
    x = pictures(4)
    found = engine.saliency(x, "top3", batch_size=2, keep_gradient=False)
    images = [shape for shape in sent if len(shape) == 4]
    assert images == [(2, 3, 6, 8)] * 2
    assert len(sent) == 2 + 6
    for one, other in zip(found, Engine(session.path, "cpu").saliency(x, "top3"), strict=True):
        assert one.index == other.index
        np.testing.assert_allclose(one.saliency, other.saliency, rtol=1e-6)


def test_batches_of_a_recorded_graph_are_filled_up(tmp_path: Path) -> None:
    session = open_session(write(tmp_path / "f.onnx"), SessionSettings("cpu"))
    engine, shapes = Engine(session.path, "cpu"), []
    session.cuda_graph = True

    def run(outputs: Any, feeds: Any) -> Any:
        shapes.append({name: array.shape for name, array in feeds.items()})
        return list(session.raw.run(list(outputs), dict(feeds)))

    engine._runs = [(session, run)]
    found = engine.saliency(pictures(5), "top1", batch_size=4)
    assert len(found) == 5
    assert shapes == [{"pixels": (4, 3, 6, 8), "target": (4,)}] * 2


@pytest.mark.parametrize(
    ("kind", "graph", "count", "expected"),
    [
        ("cpu", False, None, 1),
        ("cuda", False, None, 2),
        ("cuda", True, None, 1),
        ("tensorrt", False, 3, 3),
    ],
)
def test_how_many_runs_at_once(kind: str, graph: bool, count: int | None, expected: int) -> None:
    session: Any = SimpleNamespace(device=Device(kind), cuda_graph=graph, run=None)
    assert len(runs_of(session, count)) == expected


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("Invalid device ID: 3, must be between 0 and 1", ProviderError, "nvidia-smi"),
        ("CUDNN_STATUS_ALLOC_FAILED", OutOfMemoryError, "does not hold"),
        (
            "FAIL : This session cannot use the graph capture feature as requested by the user as "
            "the model has control flow nodes",
            ProviderError,
            "can't be recorded as a CUDA graph .* control flow nodes",
        ),
        ("Please install TensorRT libraries", ProviderError, "does not load"),
    ],
)
def test_errors_while_opening(text: str, kind: type[Exception], words: str) -> None:
    device = Device("tensorrt" if "TensorRT" in text else "cuda", 3)
    error = session_module._opening_failed(Path("f.onnx"), device, RuntimeError(text))
    assert isinstance(error, kind)
    with pytest.raises(kind, match=words):
        raise error


def test_tensorrt_that_takes_nothing_is_an_error() -> None:
    parts = [SimpleNamespace(ep_name="CUDAExecutionProvider", get_nodes=lambda: [1, 2])]
    raw = SimpleNamespace(get_provider_graph_assignment_info=lambda: parts)
    with pytest.raises(ProviderError, match="TensorRT takes none of the 2 nodes"):
        session_module._require_share(raw, Device("tensorrt"), Path("f.onnx"))
    parts.append(SimpleNamespace(ep_name="TensorrtExecutionProvider", get_nodes=lambda: [3]))
    session_module._require_share(raw, Device("tensorrt"), Path("f.onnx"))


def test_copies_are_counted(tmp_path: Path) -> None:
    names = ["Relu", "MemcpyToHost", "Add", "MemcpyFromHost", "MemcpyToHost"]
    nodes = [helper.make_node(name, [], []) for name in names]
    path = tmp_path / "optimised.onnx"
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [], [])), path)
    assert operators(path) == Counter(names)
    assert count_copies(path) == 3
    onnx.save(helper.make_model(helper.make_graph(nodes[:1], "g", [], [])), path)
    assert count_copies(path) == 0


def test_the_natural_step_reads_no_size_of_its_schedule(tmp_path: Path) -> None:
    """GPUs leave what depends on Shape to the host, and copy it back."""
    path = tmp_path / "natural.onnx"
    record = models.card()["preprocessing"]
    export_visualization(
        models.default_classifier(), path, step_rule="natural", preprocessing=record
    )
    readers = [n.op_type for n in onnx.load(path).graph.node if "schedule" in n.input]
    assert sorted(readers) == ["Gather", "Slice"]


cuda_works = any(status.works and status.device == "cuda" for status in probe_providers())
on_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not cuda_works, reason="CUDA does not work here"),
]
FORMS = [("any", None), ("cpu", None), ("cuda", None), ("cuda", "float16")]


def _classifier(name: str, folder: Path) -> Path | str:
    if name == "embedded":
        return models.default_classifier()
    pytest.importorskip("timm")
    return f"timm:{name}"


class TestOnGpu:
    pytestmark = on_gpu

    @pytest.mark.parametrize(
        "name", ["embedded", "resnet50", "mobilenetv2_100", "vit_tiny_patch16_224"]
    )
    @pytest.mark.parametrize(("forms", "precision"), FORMS)
    def test_no_copies_and_the_cpu_s_gradient(
        self, name: str, forms: str, precision: str | None, tmp_path: Path
    ) -> None:
        path = tmp_path / "f.onnx"
        source = _classifier(name, tmp_path)
        options = {} if name == "embedded" else {"random_weights": True}
        export_saliency(source, path, optimize_for=forms, precision=precision, **options)
        x = np.random.default_rng(0).standard_normal((3, 3, 224, 224)).astype(np.float32)
        engine = Engine(path, "cuda", strict=True)
        assert engine.session.copies == 0
        found = engine.saliency(x, 7, batch_size=2)
        if (forms, precision) == ("cuda", "float16"):
            return  # the CPU has no float16 ScatterElements to compare with
        for one, other in zip(found, Engine(path, "cpu").saliency(x, 7), strict=True):
            assert one.gradient is not None
            assert other.gradient is not None
            product = float((one.gradient * other.gradient).sum())
            lengths = np.linalg.norm(one.gradient) * np.linalg.norm(other.gradient)
            assert product / lengths > 0.999

    @pytest.mark.parametrize("rule", ["plain", "natural"])
    def test_a_recorded_ascent_is_the_same(self, rule: str, tmp_path: Path) -> None:
        path = tmp_path / "step.onnx"
        export_visualization(
            models.default_classifier(),
            path,
            step_rule=rule,
            preprocessing=models.card()["preprocessing"],
            optimize_for="cuda",
        )
        engines = [Engine(path, "cuda", strict=True, cuda_graph=graph) for graph in (False, True)]
        plain, recorded = (engine.visualize([130], steps=20)[0] for engine in engines)
        np.testing.assert_allclose(recorded.scores, plain.scores, rtol=1e-2)

    def test_a_recorded_batch_is_the_same(self, tmp_path: Path) -> None:
        path, x = write(tmp_path / "f.onnx"), pictures(7)
        engine = Engine(path, "cuda", cuda_graph=True)
        for _ in range(2):
            for one, other in zip(
                engine.saliency(x, "top2", batch_size=4),
                Engine(path, "cpu").saliency(x, "top2"),
                strict=True,
            ):
                np.testing.assert_allclose(one.saliency, other.saliency, rtol=1e-4)

    def test_all_gpus(self, tmp_path: Path) -> None:
        path, x = write(tmp_path / "f.onnx"), pictures(9)
        engine = Engine(path, "cuda:all")
        assert engine.device.startswith("cuda:0")
        for one, other in zip(
            engine.saliency(x, batch_size=2), Engine(path, "cpu").saliency(x), strict=True
        ):
            np.testing.assert_allclose(one.saliency, other.saliency, rtol=1e-4)


def test_overflow_is_told(tmp_path: Path) -> None:
    """A gradient that left float16 is an error, not a map."""
    path = write(tmp_path / "f.onnx", Recipe(gradient_factor=float("inf")))
    with pytest.raises(DivergenceError, match="infinite or not a number"):
        Engine(path, "cpu").saliency(pictures(1))
