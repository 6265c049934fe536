"""Which devices truly work: providers of ONNX Runtime, and reasons why not."""

import contextlib
import ctypes
import functools
import io
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

from deepinside.engine.devices import CPU, CUDA, TENSORRT, Device, parse_devices
from deepinside.engine.errors import ProviderError
from deepinside.engine.runtime import load_runtime, runtime_errors

__all__ = [
    "PROBE_MODEL",
    "ProviderStatus",
    "load_failure",
    "preload_libraries",
    "probe_provider",
    "probe_providers",
    "require_provider",
    "runs_on_cpu",
    "runs_on_cuda",
]

_log = logging.getLogger(__name__)

_INSTALL_GPU = (
    "install the GPU runtime with pip uninstall onnxruntime && pip install 'deepinside[gpu]', "
    "or use the device cpu"
)

# `y = Identity(x)` on float32 (1,) at opset 17: the smallest model that a provider can be tried on.
PROBE_MODEL = bytes.fromhex(
    "08083a370a100a017812017922084964656e746974791201705a0f0a0178120a0a08080112040a02"
    "0801620f0a0179120a0a08080112040a02080142040a001011"
)


@dataclass(frozen=True)
class ProviderStatus:
    """Whether an execution provider works on this machine.

    Attributes:
        name: ONNX Runtime's name of it.
        device: how it is asked for (`cpu`, `cuda`), or None where deepinside can't choose it.
        works: whether a session really runs on it.
        reason: why not; None where it works.
    """

    name: str
    device: str | None
    works: bool
    reason: str | None


@functools.cache
def preload_libraries() -> None:
    """Load the CUDA and cuDNN libraries of the `nvidia-*` wheels, where there are any.

    ONNX Runtime finds them by itself only on the system's library path.
    """
    runtime = load_runtime()
    if CUDA not in runtime.get_available_providers() or not hasattr(runtime, "preload_dlls"):
        return
    # It prints what it misses; standard output carries results here.
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        runtime.preload_dlls()
    if printed.getvalue():
        _log.debug("preloading CUDA libraries: %s", printed.getvalue().strip())


def require_provider(device: Device) -> None:
    """Check that the installed runtime was built for a device.

    Raises:
        ProviderError: this distribution of ONNX Runtime has no provider for it.
    """
    runtime = load_runtime()
    if device.provider not in runtime.get_available_providers():
        raise ProviderError(
            str(device),
            f"the installed ONNX Runtime {runtime.__version__} was built without {device.provider}",
            _INSTALL_GPU,
        )


def runs_on_cpu(text: str) -> bool:
    """Whether devices that are asked for are CPUs, or `auto` that has nothing else to try."""
    kinds = {device.kind for device in parse_devices(text)}
    return kinds == {"cpu"} or (
        kinds == {"auto"} and CUDA not in load_runtime().get_available_providers()
    )


def runs_on_cuda(text: str) -> bool:
    """Whether devices that are asked for are CUDA's, or `auto` that will try it."""
    kinds = {device.kind for device in parse_devices(text)}
    return kinds == {"cuda"} or (kinds == {"auto"} and not runs_on_cpu(text))


def load_failure(device: Device) -> ProviderError:
    """Why a GPU's provider dropped out of a session, from its library's own loading error."""
    preload_libraries()
    folder = Path(load_runtime().__file__ or "").parent / "capi"
    windows = sys.platform == "win32"
    pattern = "onnxruntime_providers_{}.dll" if windows else "libonnxruntime_providers_{}.so"
    reason = "its provider library loads, but ONNX Runtime found no usable GPU"
    for part in ("shared", device.kind):
        library = folder / pattern.format(part)
        try:
            # The provider resolves symbols of `shared`, hence global.
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            reason = f"{library.name} does not load ({error})"
            break
    advice = "check the driver with nvidia-smi and install the CUDA and cuDNN libraries with "
    advice += "pip install 'deepinside[gpu]', or use the device cpu"
    if device.kind == "tensorrt":
        advice = (
            "install the TensorRT that this onnxruntime-gpu was built for and put its libraries on "
            "the library path, or use the device cuda"
        )
    return ProviderError(str(device), reason, advice)


def probe_provider(name: str) -> ProviderStatus:
    """Open a tiny model on one provider and see whether it stays there."""
    runtime = load_runtime()
    device = {CPU: "cpu", CUDA: "cuda", TENSORRT: "tensorrt"}.get(name)
    if name not in runtime.get_available_providers():
        reason = f"the installed ONNX Runtime {runtime.__version__} was built without it"
        return ProviderStatus(name, device, works=False, reason=reason)
    if name in (CUDA, TENSORRT):
        preload_libraries()
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = runtime.InferenceSession(
            PROBE_MODEL, options, providers=[name], enable_fallback=0
        )
    except runtime_errors() as error:
        return ProviderStatus(name, device, works=False, reason=_first_line(error))
    if name in session.get_providers():
        return ProviderStatus(name, device, works=True, reason=None)
    reason = (
        load_failure(Device(device)).reason
        if device in ("cuda", "tensorrt")
        else "ONNX Runtime dropped it while it opened a session"
    )
    return ProviderStatus(name, device, works=False, reason=reason)


def probe_providers() -> tuple[ProviderStatus, ...]:
    """The status of every provider of the installed runtime, and of CUDA in any case."""
    available = list(load_runtime().get_available_providers())
    return tuple(probe_provider(name) for name in dict.fromkeys([CUDA, *available]))


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
