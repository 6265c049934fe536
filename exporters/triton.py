"""The configuration with which NVIDIA's Triton serves an exported file.

A model repository holds `NAME/config.pbtxt` and the file as `NAME/1/model.onnx`; Triton's backend
onnxruntime runs it. Its dynamic batching joins requests along the first axis of every input, so
that each of them has to have the pictures there; other files are configured without batching.
"""

import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import onnx
from google.protobuf.message import DecodeError
from google.protobuf.text_encoding import CEscape
from onnx import TensorProto

from deepinside.exporters.errors import ExportError

__all__ = ["TritonModel", "TritonSettings", "write_triton_config"]

Device = Literal["auto", "cpu", "gpu"]

_LABELS = "labels.txt"
_NOT_TOLD = ("deepinside.labels", "deepinside.score")  # in a file of their own; long
_TYPES: dict[int, str] = {
    TensorProto.BOOL: "BOOL",
    TensorProto.UINT8: "UINT8",
    TensorProto.UINT16: "UINT16",
    TensorProto.UINT32: "UINT32",
    TensorProto.UINT64: "UINT64",
    TensorProto.INT8: "INT8",
    TensorProto.INT16: "INT16",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.FLOAT: "FP32",
    TensorProto.DOUBLE: "FP64",
    TensorProto.STRING: "STRING",
}


@dataclass(frozen=True)
class TritonSettings:
    """How Triton runs a file.

    Attributes:
        max_batch_size: most pictures in one run; 0 for no batching.
        queue_delay: microseconds that a request waits at most for others to be run with it.
        device: `auto` (GPUs where there are any), `cpu` or `gpu`.
    """

    max_batch_size: int = 8
    queue_delay: int = 1000
    device: Device = "auto"

    def __post_init__(self) -> None:
        """Refuse values outside the choices."""
        for name in ("max_batch_size", "queue_delay"):
            if getattr(self, name) < 0:
                raise ExportError(f"{name} is {getattr(self, name)}; it can't be negative.")
        if self.device not in get_args(Device):
            raise ExportError(f"device can be auto, cpu or gpu, not {self.device!r}.")


@dataclass(frozen=True)
class TritonModel:
    """What was configured.

    Attributes:
        config: path of the configuration.
        max_batch_size: pictures in one run; 0 where the file can't be batched.
        notes: a sentence for each thing that Triton can't offer of the file.
    """

    config: Path
    max_batch_size: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Tensor:
    """An input or output of the file; a free size is -1, and an unknown shape None."""

    name: str
    dtype: str | None
    shape: tuple[int, ...] | None
    symbol: str  # of the first axis

    @classmethod
    def of(cls, value: onnx.ValueInfoProto) -> "_Tensor":
        kind = value.type.tensor_type
        sizes = kind.shape.dim
        return cls(
            value.name,
            _TYPES.get(kind.elem_type),
            tuple(d.dim_value if d.HasField("dim_value") else -1 for d in sizes)
            if kind.HasField("shape")
            else None,
            sizes[0].dim_param if sizes else "",
        )

    @property
    def is_batched(self) -> bool:
        return bool(self.shape) and self.shape is not None and self.shape[0] == -1

    def dims(self, *, batched: bool) -> tuple[int, ...]:
        """Sizes as Triton has them: without the batch, and never none."""
        assert self.shape is not None
        return self.shape[1 if batched else 0 :] or (1,)

    def fields(self, *, batched: bool, more: Sequence[str] = ()) -> list[str]:
        """Lines of its entry in the configuration."""
        lines = [
            f"name: {_quoted(self.name)}",
            f"data_type: TYPE_{self.dtype}",
            f"dims: {_numbers(self.dims(batched=batched))}",
        ]
        # One number per picture: `[1]` for the client, none for the file.
        lines += ["reshape { shape: [] }"] if batched and len(self.shape or ()) == 1 else []
        return [*lines, *more]


def write_triton_config(folder: str | Path, settings: TritonSettings | None = None) -> TritonModel:
    """Write `config.pbtxt`, and the labels if there are any, for the file `1/model.onnx` beside.

    Args:
        folder: of the model; its name is the model's.
        settings: how Triton runs it.

    Returns:
        What was configured, and what was left out.

    Raises:
        ExportError: there is no exported file, Triton has not its types, or nothing can be
            written.
    """
    folder, settings = Path(folder), settings or TritonSettings()
    if not re.fullmatch(r"\w[\w.-]*", folder.resolve().name, re.ASCII):
        raise ExportError(
            f"the folder {folder} names the model: use letters, digits, _, . and - only."
        )
    model = _read(folder / "1" / "model.onnx")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if "deepinside.names" not in metadata:
        raise ExportError(f"{folder / '1' / 'model.onnx'} was not written by deepinside export.")
    names: dict[str, str] = json.loads(metadata["deepinside.names"])
    labels = json.loads(metadata.get("deepinside.labels", "null"))
    plan = _plan(model.graph, names, settings)
    table = names.get("class_scores") if labels else None
    warm = metadata.get("deepinside.task") == "saliency"
    text = _text(folder.resolve().name, plan, settings, labelled=table, warm=warm)
    # Clients that have no file read here how a picture becomes the input.
    text += _parameters({key: value for key, value in metadata.items() if key not in _NOT_TOLD})
    if labels:
        # One a line, so that none may hold another.
        _write(folder / _LABELS, "".join(f"{' '.join(label.split())}\n" for label in labels))
    _write(folder / "config.pbtxt", text)
    return TritonModel(folder / "config.pbtxt", plan.max_batch_size, plan.notes)


@dataclass(frozen=True)
class _Plan:
    """The tensors that Triton gets to know."""

    inputs: list[_Tensor]
    optional: list[_Tensor]
    outputs: list[_Tensor]
    max_batch_size: int
    notes: tuple[str, ...]


def _plan(graph: onnx.GraphProto, names: dict[str, str], settings: TritonSettings) -> _Plan:
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [_Tensor.of(value) for value in graph.input if value.name not in weights]
    # Old files list weights as inputs too: only the contract's are meant to be given.
    known = set(names.values()) & weights
    optional = [_Tensor.of(value) for value in graph.input if value.name in known]
    outputs = [_Tensor.of(value) for value in graph.output]
    for tensor in inputs:
        if tensor.dtype is None or tensor.shape is None:
            raise ExportError(f"Triton can't take the input {tensor.name!r}: its type is unknown.")
    notes = []
    most = settings.max_batch_size
    obstacles = _obstacles(inputs, names)
    if most and obstacles:
        notes.append(f"No dynamic batching: {'; '.join(obstacles)}.")
        most = 0
    if most and optional:
        target = names.get("target") in {tensor.name for tensor in optional}
        notes.append(
            f"Left out: {_listed(optional)}, since Triton takes optional inputs only without "
            "batching; "
            + (
                "every picture's best class is explained (--target-input required lets clients "
                "choose)."
                if target
                else "the file's own values are used."
            )
        )
        optional = []
    kept = [out for out in outputs if out.dtype and out.shape is not None]
    kept = [out for out in kept if out.is_batched or not most]
    if len(kept) < len(outputs):
        left = [out for out in outputs if out not in kept]
        notes.append(f"Left out: {_listed(left)}, without the pictures along the first axis.")
    return _Plan(inputs, optional, kept, most, tuple(notes))


def _obstacles(inputs: Iterable[_Tensor], names: dict[str, str]) -> list[str]:
    """Why requests can't be joined along the first axis of all inputs."""
    inputs = list(inputs)
    image = next((t for t in inputs if t.name == names.get("image")), None)
    found = []
    for tensor in inputs:
        if not tensor.shape:
            found.append(f"the input {tensor.name} is one number for the whole batch")
        elif not tensor.is_batched:
            found.append(f"the first axis of the input {tensor.name} is fixed at {tensor.shape[0]}")
        elif image and tensor.symbol != image.symbol and tensor.name != names.get("target"):
            found.append(f"the first axis of the input {tensor.name} is not that of the pictures")
    return found


def _text(
    name: str, plan: _Plan, settings: TritonSettings, *, labelled: str | None, warm: bool
) -> str:
    batched = plan.max_batch_size > 0
    inputs = [tensor.fields(batched=batched) for tensor in plan.inputs]
    inputs += [tensor.fields(batched=False, more=["optional: true"]) for tensor in plan.optional]
    outputs = [
        tensor.fields(
            batched=batched,
            more=[f"label_filename: {_quoted(_LABELS)}"] if tensor.name == labelled else [],
        )
        for tensor in plan.outputs
    ]
    lines = [
        f"name: {_quoted(name)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {plan.max_batch_size}",
        *(line for fields in inputs for line in _block("input", fields)),
        *(line for fields in outputs for line in _block("output", fields)),
    ]
    if batched:
        delay = f"max_queue_delay_microseconds: {settings.queue_delay}"
        lines += _block("dynamic_batching", [delay])
    lines += _block("instance_group", ["count: 1", f"kind: KIND_{settings.device.upper()}"])
    if warm and batched and all(min(t.dims(batched=True)) > 0 for t in plan.inputs):
        # A run before the model is ready: what does not work is said at the start.
        for size in sorted({1, plan.max_batch_size}):
            lines += _warm_up(plan.inputs, size)
    return "\n".join(lines) + "\n"


def _warm_up(inputs: Iterable[_Tensor], size: int) -> list[str]:
    fields = [f'name: "batch of {size}"', f"batch_size: {size}"]
    for tensor in inputs:
        value = [
            f"data_type: TYPE_{tensor.dtype}",
            f"dims: {_numbers(tensor.dims(batched=True))}",
            "zero_data: true",
        ]
        fields += _block("inputs", [f"key: {_quoted(tensor.name)}", *_block("value", value)])
    return _block("model_warmup", fields)


def _parameters(values: Mapping[str, str]) -> str:
    lines = [
        line
        for key, value in values.items()
        if key.startswith("deepinside.")
        for line in _block(
            "parameters",
            [f"key: {_quoted(key)}", f"value {{ string_value: {_quoted(value)} }}"],
        )
    ]
    return "".join(f"{line}\n" for line in lines)


def _block(name: str, lines: Iterable[str]) -> list[str]:
    return [f"{name} {{", *(f"  {line}" for line in lines), "}"]


def _quoted(text: str) -> str:
    return f'"{CEscape(text, as_utf8=True)}"'


def _numbers(values: Iterable[int]) -> str:
    return f"[{', '.join(map(str, values))}]"


def _listed(tensors: Iterable[_Tensor]) -> str:
    return ", ".join(tensor.name for tensor in tensors)


def _read(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(path, format="protobuf", load_external_data=False)
    except OSError as error:
        raise ExportError(f"can't read {path}: {error.strerror or error}.") from error
    except DecodeError as error:
        raise ExportError(f"{path} is not an ONNX file.") from error


def _write(path: Path, text: str) -> None:
    """Write a file under a temporary name and rename it."""
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".deepinside-") as folder:
            draft = Path(folder) / path.name
            draft.write_text(text, encoding="utf-8")
            os.replace(draft, path)
    except OSError as error:
        raise ExportError(f"can't write {path}: {error.strerror or error}.") from error
