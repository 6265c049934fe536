"""Imports ONNX Runtime, or says in one sentence what to install or remove."""

import functools
import importlib
import importlib.metadata
from pathlib import Path
from types import ModuleType

from deepinside.engine.errors import RuntimeConflictError, RuntimeMissingError

__all__ = [
    "check_single",
    "installed_distributions",
    "load_runtime",
    "require_training",
    "runtime_errors",
]

# Each of these installs the import package `onnxruntime`; two of them overwrite each other.
_DISTRIBUTIONS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-training",
    "onnxruntime-training-cpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
    "onnxruntime-migraphx",
    "onnxruntime-webgpu",
    "onnxruntime-silicon",
    "onnxruntime-azure",
    "onnxruntime-cann",
    "onnxruntime-vitisai",
    "ort-nightly",
    "ort-nightly-gpu",
    "ort-nightly-directml",
)


def installed_distributions() -> dict[str, str]:
    """Name -> version of every installed distribution that provides `onnxruntime`."""
    found = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def check_single(names: list[str]) -> None:
    """Check that at most one distribution provides `onnxruntime`.

    Raises:
        RuntimeConflictError: two or more do.
    """
    if len(names) < 2:
        return
    # The most capable one is most likely the wanted one; the plain one came in as a dependency.
    keep = next((name for name in names if name != "onnxruntime"), names[0])
    remove = " ".join(name for name in names if name != keep)
    raise RuntimeConflictError(
        names,
        f"the packages {', '.join(names)} overwrite each other's files: keep one, for example "
        f"{keep}, with: pip uninstall {remove} && pip install --force-reinstall --no-deps {keep}",
    )


@functools.cache
def load_runtime() -> ModuleType:
    """The module `onnxruntime`.

    Raises:
        RuntimeConflictError: several distributions of it are installed.
        RuntimeMissingError: none is, or it can't be imported.
    """
    check_single(list(installed_distributions()))
    try:
        return importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        raise RuntimeMissingError(
            "ONNX Runtime is not installed: run pip install 'deepinside[cpu]', or "
            "pip install 'deepinside[gpu]' for NVIDIA GPUs."
        ) from None
    except ImportError as error:
        raise RuntimeMissingError(
            f"ONNX Runtime is installed but can't be imported ({error}): reinstall it with "
            "pip install --force-reinstall onnxruntime, or onnxruntime-gpu for NVIDIA GPUs."
        ) from error


def require_training(path: Path) -> None:
    """Check that the runtime has the operators of onnxruntime-training's gradients.

    Raises:
        RuntimeMissingError: it is another build.
    """
    load_runtime()
    state = importlib.import_module("onnxruntime.capi._pybind_state")
    if not hasattr(state, "GradientGraphBuilder"):
        raise RuntimeMissingError(
            f"{path} was exported with --autodiff ort-training and runs on onnxruntime-training "
            "only: install that in an environment of its own, or export the classifier again "
            "without the option."
        )


@functools.cache
def runtime_errors() -> tuple[type[Exception], ...]:
    """Every exception that ONNX Runtime raises for a model, an input or a device.

    Its classes derive from `Exception` directly and have no common base.
    """
    load_runtime()
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    own = [
        value
        for value in vars(state).values()
        if isinstance(value, type) and issubclass(value, Exception)
    ]
    return (*own, RuntimeError, ValueError)
