"""Set-up shared by all tests."""

import importlib.util
import os
import warnings
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # each process has a core of its own
    for library in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(library, "1")


def _make_torchvision_importable() -> object:
    """Declare the operators that a torchvision built for another torch can't register itself.

    A CPU build of torch beside PyPI's torchvision (built for CUDA) fails at import otherwise. The
    networks themselves use none of these operators.
    """
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("torchvision") is None:
        return None
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    try:
        import torchvision  # noqa: F401  (a matching build needs no help)
    except (ImportError, RuntimeError):
        _LIBRARY = _make_torchvision_importable()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cached exports of a test run stay in its own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def embedded_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded classifier's saliency file, with its record and labels."""
    from deepinside import models
    from deepinside.exporters import export_saliency

    path = tmp_path_factory.mktemp("embedded") / "saliency.onnx"
    export_saliency(
        models.default_classifier(),
        path,
        preprocessing=models.card()["preprocessing"],
        labels=models.labels(),
    )
    return path
