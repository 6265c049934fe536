"""How a file is run: the settings of a session, and what they are called in ONNX Runtime."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import platformdirs

from deepinside.engine.devices import CPU, CUDA, TENSORRT, Device
from deepinside.engine.errors import SettingError
from deepinside.engine.files import make_folder
from deepinside.engine.runtime import load_runtime

__all__ = ["SessionSettings", "provider_list", "session_options"]


@dataclass(frozen=True)
class SessionSettings:
    """How a file is run.

    Attributes:
        device: `auto` (the best that truly works), `cpu`, `cuda`, `cuda:N`, `cuda:all`, the same
            with `tensorrt`, or several with commas between.
        threads: threads of the CPU's operators; None leaves the choice to ONNX Runtime.
        spinning: idle threads wait actively: faster on an idle machine, wasteful on a busy one.
        strict: a node that left the GPU is an error instead of a log message.
        tf32: let CUDA round float32 factors to 10 bits: faster, relative errors around 1e-3.
        float16: let TensorRT compute in float16 where it finds that faster. For CUDA, the file
            itself is exported so.
        channels_last: let CUDA run convolutions in NHWC layout.
        cuda_graph: record the launches of a batch once and replay them, at fixed shapes.
        optimize: let ONNX Runtime optimise the graph; off for merely looking into a file.
    """

    device: str = "auto"
    threads: int | None = None
    spinning: bool = True
    strict: bool = False
    tf32: bool = False
    float16: bool = False
    channels_last: bool = False
    cuda_graph: bool = False
    optimize: bool = True

    def on(self, device: Device) -> "SessionSettings":
        """The same for one device."""
        return replace(self, device=str(device))

    def require_possible(self, device: Device) -> None:
        """Refuse what a device can't do, rather than leave it out.

        Raises:
            SettingError: a setting is not possible, or not on this device.
        """
        if self.threads is not None and self.threads < 1:
            raise SettingError(f"threads is {self.threads}; it must be at least 1.")
        if self.cuda_graph and not device.on_gpu:
            raise SettingError(
                f"CUDA graphs need a GPU, and the device is {device}: choose --device cuda, or do "
                "without them."
            )
        if self.float16 and device.kind != "tensorrt":
            raise SettingError(
                f"float16 as a setting is TensorRT's, and the device is {device}: for others, "
                "export the classifier with --precision float16."
            )


def session_options(device: Device, settings: SessionSettings) -> Any:
    """ONNX Runtime's `SessionOptions`."""
    runtime = load_runtime()
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # its warnings concern the optimiser, not the user
    if settings.threads is not None:
        options.intra_op_num_threads = settings.threads
    if not settings.spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not settings.optimize:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if device.on_gpu:
        # Recorded for the report of nodes that left the GPU; older runtimes ignore the entry.
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def provider_list(device: Device, settings: SessionSettings, *, one_stream: bool) -> list[Any]:
    """The providers that a session may use, the wanted one first.

    The CPU stands behind the others for what works out shapes; `engine.placement` tells what else
    would run there. CUDA stands behind TensorRT, whose documented companion it is.

    Args:
        device: to run on.
        settings: of the session.
        one_stream: all runs go into one queue of the GPU, so that one may begin before the host
            knows that the one before has ended.
    """
    providers: list[Any] = [CPU]
    if device.on_gpu:
        cuda = {
            "device_id": str(device.index),
            "use_tf32": str(int(settings.tf32)),
            "prefer_nhwc": str(int(settings.channels_last)),
            "enable_cuda_graph": str(int(settings.cuda_graph and device.kind == "cuda")),
            "use_ep_level_unified_stream": str(int(one_stream)),
        }
        providers.insert(0, (CUDA, cuda))
    if device.kind == "tensorrt":
        cache = Path(platformdirs.user_cache_dir("deepinside")) / "tensorrt"
        make_folder(cache)
        tensorrt = {
            "device_id": str(device.index),
            "trt_fp16_enable": str(int(settings.float16)),
            "trt_cuda_graph_enable": str(int(settings.cuda_graph)),
            # Engines take minutes to build: they are kept, by file, shape, GPU and version.
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(cache),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(cache),
        }
        providers.insert(0, (TENSORRT, tensorrt))
    return providers
