"""Opens an exported file on devices, and never lets it fall back to another one silently."""

import itertools
import logging
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.devices import ALL, CUDA, Device, parse_devices
from deepinside.engine.errors import (
    ModelFileError,
    OutOfMemoryError,
    ProviderError,
    RunError,
)
from deepinside.engine.modelfile import read_header, require_weights
from deepinside.engine.options import SessionSettings, provider_list, session_options
from deepinside.engine.placement import (
    PlacedNode,
    count_copies,
    nodes_off_device,
    providers_of_nodes,
    report,
)
from deepinside.engine.providers import load_failure, preload_libraries, require_provider
from deepinside.engine.runtime import load_runtime, require_training, runtime_errors

__all__ = [
    "PlacedNode",
    "Session",
    "SessionSettings",
    "TensorInfo",
    "open_session",
    "open_sessions",
]

_log = logging.getLogger(__name__)

_DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
}
_OUT_OF_MEMORY = (
    "failed to allocate memory",
    "out of memory",
    "bad_alloc",
    "bad allocation",
    "alloc_failed",  # cuBLAS and cuDNN
)
_NO_SUCH_GPU = ("invalid device id", "invalid device ordinal")


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of the file.

    Attributes:
        name: of the tensor.
        dtype: numpy type, or None for a type that deepinside does not use.
        shape: a number where the size is fixed, a name or None where it is not.
    """

    name: str
    dtype: np.dtype[Any] | None
    shape: tuple[int | str | None, ...]


class Session:
    """An open file on one device.

    Attributes:
        path: of the file.
        device: the device that it really runs on.
        cuda_graph: whether launches are recorded and replayed.
        providers: ONNX Runtime's providers in use.
        off_device: nodes on the host although the device is a GPU; None where the runtime can't
            tell.
        copies: nodes that copy tensors between host and GPU; None where they were not counted.
        inputs: required and optional inputs by name.
        outputs: outputs by name.
        raw: the `onnxruntime.InferenceSession`.
    """

    def __init__(
        self,
        path: Path,
        device: Device,
        raw: Any,
        *,
        cuda_graph: bool = False,
        copies: int | None = None,
    ) -> None:
        self.path = path
        self.device = device
        self.raw = raw
        self.cuda_graph = cuda_graph
        self.copies = copies
        self.providers: tuple[str, ...] = tuple(raw.get_providers())
        self.off_device = nodes_off_device(raw) if device.on_gpu else ()
        optional = raw.get_overridable_initializers()
        self.inputs = {item.name: _tensor_info(item) for item in (*raw.get_inputs(), *optional)}
        self.outputs = {item.name: _tensor_info(item) for item in raw.get_outputs()}
        self._graph_ids = itertools.count()
        self._largest_feed = 0  # bytes

    def run(self, outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Run once, from host arrays to host arrays.

        Args:
            outputs: names of the wanted outputs.
            feeds: input name -> array.

        Raises:
            OutOfMemoryError: the batch does not fit into memory.
            RunError: ONNX Runtime failed otherwise.
        """
        arguments: list[Any] = [list(outputs), dict(feeds)]
        if self.cuda_graph:
            # A recorded run would read the buffers that it was recorded with, not these arrays.
            arguments.append(self.run_options(graph=-1))
        elif self.grows(feeds):
            arguments.append(self.run_options(shrink=True))
        try:
            return list(self.raw.run(*arguments))
        except runtime_errors() as error:
            raise self.translate(error) from error

    def grows(self, feeds: Mapping[str, NDArray[Any]]) -> bool:
        """Whether a CPU run takes larger inputs than any before it.

        Such a run allocates tensor by tensor; from its end on, ONNX Runtime knows how all of them
        fit into one block, and takes that beside what it has. Giving the latter back in between
        spares up to half of the memory (docs/performance.md) and costs later runs nothing.
        """
        size = sum(array.nbytes for array in feeds.values())
        if self.device.kind != "cpu" or sys.maxsize < 2**32 or size <= self._largest_feed:
            return False  # on 32 bits there is no arena
        self._largest_feed = size
        return True

    def run_options(
        self, *, graph: int | None = None, wait: bool = True, shrink: bool = False
    ) -> Any:
        """ONNX Runtime's `RunOptions`.

        Args:
            graph: number of the recorded run to replay, or to record the first time; -1 for none.
            wait: whether the host waits until the GPU is done.
            shrink: give the CPU memory that is free after the run back.
        """
        options = load_runtime().RunOptions()
        if graph is not None:
            options.add_run_config_entry("gpu_graph_id", str(graph))
        if not wait:
            options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if shrink:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        return options

    def new_graph(self) -> int:
        """A number for a recorded run that no other has."""
        return next(self._graph_ids)

    def translate(self, error: Exception) -> RunError:
        """An error of ONNX Runtime as one of ours."""
        text = str(error)
        if _is_out_of_memory(text):
            return OutOfMemoryError(
                f"the memory of {self.device} does not hold this batch of {self.path.name}: use a "
                "smaller batch size."
            )
        return RunError(f"ONNX Runtime failed in {self.path.name} on {self.device}: {text}")


def open_session(path: str | Path, settings: SessionSettings | None = None) -> Session:
    """Open an ONNX file on the device of the settings, the first one of several.

    Args:
        path: of the file.
        settings: device and threads.

    Raises:
        ModelFileError: the file is missing or broken.
        ProviderError: the device that was asked for does not work, or `strict` and nodes left it.
        RuntimeMissingError: ONNX Runtime is not installed.
        SettingError: a setting has an impossible value.
    """
    settings = settings or SessionSettings()
    device = parse_devices(settings.device)[0]
    first = Device(device.kind) if device.index == ALL else device
    return open_sessions(path, settings.on(first))[0]


def open_sessions(path: str | Path, settings: SessionSettings) -> tuple[Session, ...]:
    """Open an ONNX file on each device of the settings.

    Raises:
        EngineError: as `open_session`.
    """
    path = Path(path)
    devices = parse_devices(settings.device)
    header = read_header(path)  # a clear error for what is no model at all
    require_weights(path)  # before ONNX Runtime reads any file
    load_runtime()
    if header.metadata.get("deepinside.autodiff") == "ort-training":
        require_training(path)
    # An ascent goes from state to state in one queue; batches of pictures need no order.
    one_stream = header.metadata.get("deepinside.task") == "visualization"
    if devices[0].kind == "auto":
        return (_open_best(path, settings, one_stream=one_stream),)
    if devices[0].index == ALL:
        return tuple(_open_all(path, devices[0], settings, one_stream=one_stream))
    return tuple(_open_on(path, device, settings, one_stream=one_stream) for device in devices)


def _open_best(path: Path, settings: SessionSettings, *, one_stream: bool) -> Session:
    if CUDA in load_runtime().get_available_providers():
        try:
            session = _open_on(path, Device("cuda"), settings, one_stream=one_stream)
        except ProviderError as error:
            _log.info("device auto: %s", error)
        else:
            _log.info("device auto: running on %s", session.device)
            return session
    _log.info("device auto: running on cpu")
    return _open_on(path, Device("cpu"), settings, one_stream=one_stream)


def _open_all(
    path: Path, devices: Device, settings: SessionSettings, *, one_stream: bool
) -> list[Session]:
    """A session on each GPU: on the first one, and on others until there is no such GPU."""
    sessions: list[Session] = []
    while True:
        device = Device(devices.kind, len(sessions))
        try:
            sessions.append(_open_on(path, device, settings, one_stream=one_stream))
        except ProviderError as error:
            if not sessions or not any(words in str(error).lower() for words in _NO_SUCH_GPU):
                raise
            return sessions


def _open_on(path: Path, device: Device, settings: SessionSettings, *, one_stream: bool) -> Session:
    settings.require_possible(device)
    require_provider(device)
    options = session_options(device, settings)
    if device.on_gpu:
        preload_libraries()
    providers = provider_list(device, settings, one_stream=one_stream)
    runtime = load_runtime()
    copies = None
    with tempfile.TemporaryDirectory(prefix="deepinside-") as folder:
        optimised = Path(folder) / "optimised.onnx"
        # TensorRT's engines can't be written as nodes.
        if settings.strict and device.kind == "cuda":
            options.optimized_model_filepath = str(optimised)
        try:
            raw = runtime.InferenceSession(
                str(path), options, providers=providers, enable_fallback=0
            )
        except runtime_errors() as error:
            raise _opening_failed(path, device, error) from error
        if optimised.exists():
            copies = count_copies(optimised)
    raw.disable_fallback()
    if device.provider not in raw.get_providers():
        raise load_failure(device)
    if device.kind == "tensorrt":
        _require_share(raw, device, path)
    session = Session(path, device, raw, cuda_graph=settings.cuda_graph, copies=copies)
    report(device, path.name, session.off_device, copies, strict=settings.strict)
    return session


def _is_out_of_memory(text: str) -> bool:
    return any(words in text.lower() for words in _OUT_OF_MEMORY)


def _opening_failed(path: Path, device: Device, error: Exception) -> Exception:
    """What it means that ONNX Runtime did not open a file."""
    text = str(error).strip()
    if "graph capture" in text:
        return ProviderError(
            str(device),
            f"{path.name} can't be recorded as a CUDA graph ({text.rpartition(':')[2].strip()})",
            "do without CUDA graphs, or export the classifier again with a newer deepinside",
        )
    if _is_out_of_memory(text):
        return OutOfMemoryError(
            f"the memory of {device} does not hold {path.name}: free some, or choose another."
        )
    if "TensorRT libraries" in text:
        return load_failure(device)
    if device.on_gpu and any(word in text for word in ("device ID", "CUDA", "cuDNN", "CUBLAS")):
        first = text[max(text.find("Invalid device ID"), 0) :].partition("\n")[0]
        return ProviderError(
            str(device),
            f"CUDA failed while the file was opened ({first})",
            "choose a GPU that nvidia-smi lists, or use the device cpu",
        )
    if "NOT_IMPLEMENTED" in text:
        # Mostly bfloat16, for which the CPU has few kernels.
        return ModelFileError(
            f"ONNX Runtime has no kernel on the device {device} for an operator of {path} in "
            f"its number type ({text.partition(chr(10))[0]}): use another --device, or export "
            "a float32 version of the classifier."
        )
    return ModelFileError(f"ONNX Runtime can't open {path}: {text}")


def _require_share(raw: Any, device: Device, path: Path) -> None:
    """Refuse a TensorRT session in which TensorRT runs nothing."""
    counts = providers_of_nodes(raw)
    if counts is None:
        return
    if not counts[device.provider]:
        raise ProviderError(
            str(device),
            f"TensorRT takes none of the {counts.total()} nodes of {path.name}",
            "use the device cuda",
        )
    _log.info("%s: nodes by provider %s", device, dict(counts))


def _tensor_info(item: Any) -> TensorInfo:
    dtype = _DTYPES.get(item.type)
    return TensorInfo(item.name, None if dtype is None else np.dtype(dtype), tuple(item.shape))
