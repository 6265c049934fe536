"""Cleans the graph, checks it, and writes it in one piece."""

import os
import tempfile
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from deepinside.exporters.errors import ExportError

__all__ = ["finish"]

# A protobuf holds at most 2 GiB; above this, weights go to a file beside.
_SINGLE_FILE_LIMIT = 1_900_000_000


def finish(model: ir.Model, path: Path) -> int:
    """Remove dead code, check the model and write it.

    Nothing is left half written: the file appears under its name when it is whole.

    Returns:
        Bytes written.

    Raises:
        ExportError: ONNX's checker refuses the model, or the file can't be written.
    """
    ir.passes.Sequential(passes.RemoveUnusedNodesPass(), passes.RemoveUnusedOpsetsPass())(model)
    weights = sum(
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".deepinside-") as folder:
            draft = Path(folder) / path.name
            data = f"{path.name}.data" if weights > _SINGLE_FILE_LIMIT else None
            ir.save(model, draft, external_data=data)
            _check(draft)
            written = 0
            for name in (data, path.name):  # the model last: it is whole once it is there
                if name is None:
                    continue
                part = Path(folder) / name
                with part.open("rb+") as file:
                    os.fsync(file.fileno())
                written += part.stat().st_size
                part.replace(path.parent / name)
    except OSError as error:
        raise ExportError(f"can't write {path}: {error.strerror or error}.") from error
    return written


def _check(path: Path) -> None:
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"the exported graph does not pass ONNX's checker, which is a bug in deepinside or an "
            f"invalid classifier: {error}"
        ) from error
