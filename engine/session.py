"""Opens an exported file on a device, and never lets it fall back to another one silently."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.errors import (
    ModelFileError,
    OutOfMemoryError,
    ProviderError,
    RunError,
    SettingError,
)
from deepinside.engine.modelfile import read_header, require_weights
from deepinside.engine.providers import (
    CPU,
    CUDA,
    Device,
    load_failure,
    parse_device,
    preload_libraries,
    require_provider,
)
from deepinside.engine.runtime import load_runtime, require_training, runtime_errors

__all__ = ["PlacedNode", "Session", "SessionSettings", "TensorInfo", "open_session"]

_log = logging.getLogger(__name__)

_DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
}
_OUT_OF_MEMORY = ("failed to allocate memory", "out of memory", "bad_alloc", "bad allocation")


@dataclass(frozen=True)
class SessionSettings:
    """How a file is run.

    Attributes:
        device: `auto` (the best that truly works), `cpu`, `cuda` or `cuda:N`.
        threads: threads of the CPU's operators; None leaves the choice to ONNX Runtime.
        spinning: idle threads wait actively: faster on an idle machine, wasteful on a busy one.
        strict: a node that left the GPU is an error instead of a log message.
        tf32: let CUDA round float32 factors to 10 bits: faster, relative errors around 1e-3.
        optimize: let ONNX Runtime optimise the graph; off for merely looking into a file.
    """

    device: str = "auto"
    threads: int | None = None
    spinning: bool = True
    strict: bool = False
    tf32: bool = False
    optimize: bool = True


@dataclass(frozen=True)
class PlacedNode:
    """A node that runs elsewhere than on the session's device.

    Attributes:
        name: of the node.
        op_type: its operator.
        provider: where it runs.
    """

    name: str
    op_type: str
    provider: str


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
        providers: ONNX Runtime's providers in use.
        off_device: nodes that left the device; None where the runtime can't tell.
        inputs: required and optional inputs by name.
        outputs: outputs by name.
        raw: the `onnxruntime.InferenceSession`.
    """

    def __init__(self, path: Path, device: Device, raw: Any) -> None:
        self.path = path
        self.device = device
        self.raw = raw
        self.providers: tuple[str, ...] = tuple(raw.get_providers())
        self.off_device = _nodes_off_device(raw) if device.kind == "cuda" else ()
        optional = raw.get_overridable_initializers()
        self.inputs = {item.name: _tensor_info(item) for item in (*raw.get_inputs(), *optional)}
        self.outputs = {item.name: _tensor_info(item) for item in raw.get_outputs()}

    def run(self, outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Run once, from host arrays to host arrays.

        Args:
            outputs: names of the wanted outputs.
            feeds: input name -> array.

        Raises:
            OutOfMemoryError: the batch does not fit into memory.
            RunError: ONNX Runtime failed otherwise.
        """
        try:
            return list(self.raw.run(list(outputs), dict(feeds)))
        except runtime_errors() as error:
            raise self.translate(error) from error

    def translate(self, error: Exception) -> RunError:
        """An error of ONNX Runtime as one of ours."""
        text = str(error)
        if any(words in text.lower() for words in _OUT_OF_MEMORY):
            return OutOfMemoryError(
                f"the memory of {self.device} does not hold this batch of {self.path.name}: use a "
                "smaller batch size."
            )
        return RunError(f"ONNX Runtime failed in {self.path.name} on {self.device}: {text}")


def open_session(path: str | Path, settings: SessionSettings | None = None) -> Session:
    """Open an ONNX file.

    Args:
        path: of the file.
        settings: device and threads.

    Raises:
        ModelFileError: the file is missing or broken.
        ProviderError: the device that was asked for does not work, or `strict` and nodes left it.
        RuntimeMissingError: ONNX Runtime is not installed.
        SettingError: a setting has an impossible value.
    """
    path, settings = Path(path), settings or SessionSettings()
    device = parse_device(settings.device)
    if settings.threads is not None and settings.threads < 1:
        raise SettingError(f"threads is {settings.threads}; it must be at least 1.")
    header = read_header(path)  # a clear error for what is no model at all
    require_weights(path)  # before ONNX Runtime reads any file
    load_runtime()
    if header.metadata.get("deepinside.autodiff") == "ort-training":
        require_training(path)
    if device.kind == "auto":
        session = _open_best(path, settings)
    else:
        require_provider(device)
        session = _open_on(path, device, settings)
    _report_placement(session, settings)
    return session


def _open_best(path: Path, settings: SessionSettings) -> Session:
    if CUDA in load_runtime().get_available_providers():
        try:
            session = _open_on(path, Device("cuda"), settings)
        except ProviderError as error:
            _log.info("device auto: %s", error)
        else:
            _log.info("device auto: running on %s", session.device)
            return session
    _log.info("device auto: running on cpu")
    return _open_on(path, Device("cpu"), settings)


def _open_on(path: Path, device: Device, settings: SessionSettings) -> Session:
    runtime = load_runtime()
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # its warnings concern the optimiser, not the user
    if settings.threads is not None:
        options.intra_op_num_threads = settings.threads
    if not settings.spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not settings.optimize:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    providers: list[Any] = [CPU]
    if device.kind == "cuda":
        preload_libraries()
        # Recorded for the report of nodes that left the GPU; older runtimes ignore the entry.
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        cuda = {"device_id": str(device.index), "use_tf32": str(int(settings.tf32))}
        providers = [(CUDA, cuda), CPU]
    try:
        raw = runtime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
    except runtime_errors() as error:
        text = str(error).strip()
        if "CUDA" in text or "cuDNN" in text or "CUBLAS" in text:
            raise ProviderError(
                str(device),
                f"CUDA failed while the file was opened ({text.partition(chr(10))[0]})",
                "choose a GPU that nvidia-smi lists, or use the device cpu",
            ) from error
        if "NOT_IMPLEMENTED" in text:
            # Mostly bfloat16, for which the CPU has few kernels.
            raise ModelFileError(
                f"ONNX Runtime has no kernel on the device {device} for an operator of {path} in "
                f"its number type ({text.partition(chr(10))[0]}): use another --device, or export "
                "a float32 version of the classifier."
            ) from error
        raise ModelFileError(f"ONNX Runtime can't open {path}: {text}") from error
    raw.disable_fallback()
    wanted = CUDA if device.kind == "cuda" else CPU
    if wanted not in raw.get_providers():
        raise load_failure(device)
    return Session(path, device, raw)


def _nodes_off_device(raw: Any) -> tuple[PlacedNode, ...] | None:
    if not hasattr(raw, "get_provider_graph_assignment_info"):
        return None
    return tuple(
        PlacedNode(node.name, node.op_type, part.ep_name)
        for part in raw.get_provider_graph_assignment_info()
        if part.ep_name != CUDA
        for node in part.get_nodes()
    )


def _report_placement(session: Session, settings: SessionSettings) -> None:
    if session.off_device is None:
        if settings.strict:
            raise ProviderError(
                str(session.device),
                "this ONNX Runtime can't tell which nodes left the device, as strict needs",
                "update onnxruntime-gpu, or do without strict",
            )
        return
    if not session.off_device:
        return
    nodes = ", ".join(f"{node.op_type} {node.name!r}" for node in session.off_device)
    if settings.strict:
        raise ProviderError(
            str(session.device),
            f"{len(session.off_device)} nodes of {session.path.name} run on the CPU ({nodes})",
            "do without strict, or export the file again with a newer deepinside",
        )
    _log.warning("%d nodes left %s: %s", len(session.off_device), session.device, nodes)


def _tensor_info(item: Any) -> TensorInfo:
    dtype = _DTYPES.get(item.type)
    return TensorInfo(item.name, None if dtype is None else np.dtype(dtype), tuple(item.shape))
