"""Cleans the graph, checks it, and writes it in one piece."""

import hashlib
import os
import re
import tempfile
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
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

    Nothing is left half written: the file appears under its name when it is whole. Weights beyond
    the limit of a single file are written beside it, as `NAME.onnx.HASH.data`. Their name depends
    on what they are, so that a file that is replaced has its own weights until it is.

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
            if weights > _SINGLE_FILE_LIMIT:
                _write_in_two(model, draft)
            else:
                ir.external_data.load_to_model(model)  # the classifier's, which may be elsewhere
                ir.save(model, draft, format="protobuf")
            if portable:
                _check(draft)
            return _move(Path(folder), path)
    except OSError as error:
        raise ExportError(f"can't write {path}: {error.strerror or error}.") from error


def _write_in_two(model: ir.Model, draft: Path) -> None:
    """Write the weights beside the graph, under a name with the hash of what is in them."""
    first = draft.with_name("weights")
    ir.save(model, draft, format="protobuf", external_data=first.name)
    with first.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    named = f"{draft.name}.{digest}.data"
    first.rename(draft.with_name(named))
    proto = onnx.load(draft, format="protobuf", load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = named
    draft.write_bytes(proto.SerializeToString())


def _move(folder: Path, path: Path) -> int:
    """Move what is in a folder to the place of `path`; bytes moved."""
    written = 0
    before = _own_data_files(path)
    # The model last: with it, all is there.
    parts = sorted(folder.iterdir(), key=lambda part: part.name == path.name)
    for part in parts:
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        written += part.stat().st_size
        part.replace(path.parent / part.name)
    for left in before - {path.parent / part.name for part in parts}:
        left.unlink(missing_ok=True)
    return written


def _own_data_files(path: Path) -> set[Path]:
    """The data files of the export that `path` is by now, if it is one."""
    pattern = re.compile(re.escape(path.name) + r"\.[0-9a-f]{16}\.data")
    there = {name for name in os.listdir(path.parent) if pattern.fullmatch(name)}
    if not there or not path.is_file():
        return set()
    try:
        proto = onnx.load(path, format="protobuf", load_external_data=False)
    except DecodeError:
        return set()
    used = {entry.value for tensor in proto.graph.initializer for entry in tensor.external_data}
    return {path.parent / name for name in there & used}


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
