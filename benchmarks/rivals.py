"""Other makers of gradient graphs, as cases of benchmarks/cpu.py.

onnx-ad (`pip install onnx-ad`) writes adjoint models that ONNX Runtime runs here.
onnxruntime-training needs an environment of its own, in which `deepinside[training-cpu]` is
installed: its Python runs this file as a worker, a run for each line that it is sent.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

Case = Callable[[], Any]


def open_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """Opens a file with a pool that sleeps while others compute."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def onnx_ad(classifier: Path, image: np.ndarray, classes: np.ndarray, threads: int) -> Case:
    """The adjoint by onnx-ad, seeded with one class per image; batches are fixed there."""
    import onnx
    import onnx_ad as package
    from onnxruntime.tools.make_dynamic_shape_fixed import make_input_shape_fixed

    model = onnx.load(classifier)
    name = model.graph.input[0].name
    make_input_shape_fixed(model.graph, name, list(image.shape))
    model = onnx.shape_inference.infer_shapes(model)
    adjoint = package.reverse(model, layout="onnx")
    seed_input = adjoint.graph.input[-1]
    count = seed_input.type.tensor_type.shape.dim[1].dim_value
    seeds = np.zeros((len(image), count, 1), np.float32)
    seeds[np.arange(len(image)), classes] = 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adjoint.onnx"
        onnx.save(adjoint, path)
        session = open_session(path, threads)
    feed = {name: image, seed_input.name: seeds}
    return lambda: session.run(None, feed)


class Training:
    """A process of onnxruntime-training's Python that runs a file when it is called."""

    def __init__(self, python: Path, classifier: Path, image: np.ndarray, threads: int) -> None:
        """Export there, open, and run once.

        Raises:
            RuntimeError: onnxruntime-training can't.
        """
        self._folder = tempfile.TemporaryDirectory()
        picture = Path(self._folder.name) / "image.npy"
        np.save(picture, image)
        self._process = subprocess.Popen(
            [str(python), __file__, str(classifier), str(picture), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            self()
        except RuntimeError:
            _, complaints = self._process.communicate()
            reason = complaints.strip().rpartition("\n")[2]
            raise RuntimeError(reason or f"exit {self._process.returncode}") from None

    def __call__(self) -> None:
        """One run."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise RuntimeError("the worker is gone") from None
        if not self._process.stdout.readline().endswith("done\n"):
            raise RuntimeError("the worker is gone")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()


def _serve(classifier: str, picture: str, threads: str) -> None:
    """The worker's side: a run for each line of standard input."""
    from deepinside.exporters import export_saliency

    image = np.load(picture)
    path = Path(picture).with_name("training.onnx")
    export_saliency(classifier, path, autodiff="ort-training")
    session = open_session(path, int(threads))
    feed = {session.get_inputs()[0].name: image}
    for _ in sys.stdin:
        session.run(None, feed)
        print("done", flush=True)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
