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

# IR versions that brought tensor types, newest first.
_TYPES_SINCE = (
    (13, {"INT2", "UINT2"}),
    (12, {"FLOAT8E8M0"}),
    (11, {"FLOAT4E2M1"}),
    (10, {"INT4", "UINT4"}),
    (9, {"FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ"}),
)


def finish(model: ir.Model, path: Path, *, portable: bool = True) -> int:
    """Remove dead code, check the model and write it.

    Nothing is left half written: the file appears under its name when it is whole.

    Args:
        model: the exported graph.
        path: of the file.
        portable: whether it is made of ONNX's own operators; ONNX's checker knows no others.

    Returns:
        Bytes written.

    Raises:
        ExportError: ONNX's checker refuses the model, or the file can't be written.
    """
    ir.passes.Sequential(passes.RemoveUnusedNodesPass(), passes.RemoveUnusedOpsetsPass())(model)
    model.ir_version = _ir_version(model)
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
            if portable:
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


def _ir_version(model: ir.Model) -> int:
    """The oldest version of the format that has what is used: old runtimes refuse newer ones."""
    opsets = [onnx.helper.make_opsetid(*entry) for entry in model.graph.opset_imports.items()]
    oldest: int = onnx.helper.find_min_ir_version_for(opsets, ignore_unknown=True)
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    values += [output for node in model.graph for output in node.outputs]
    used = {value.dtype.name for value in values if value.dtype is not None}
    return max([oldest, *(version for version, types in _TYPES_SINCE if types & used)])


def _check(path: Path) -> None:
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"the exported graph does not pass ONNX's checker, which is a bug in deepinside or an "
            f"invalid classifier: {error}"
        ) from error
