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

from deepinside.exporters.errors import ExportError
from deepinside.exporters.triton_plan import Plan, Tensor, plan_of

__all__ = ["TritonModel", "TritonSettings", "write_triton_config"]

Device = Literal["auto", "cpu", "gpu"]

_LABELS = "labels.txt"
_NOT_TOLD = ("deepinside.labels", "deepinside.score")  # in a file of their own; long


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
    names, labels = _told(metadata, folder / "1" / "model.onnx")
    plan = plan_of(model.graph, names, settings.max_batch_size)
    scores = {out.name for out in plan.outputs} & {names.get("class_scores")}
    table = scores.pop() if labels and scores else None
    warm = metadata.get("deepinside.task") == "saliency"
    text = _text(folder.resolve().name, plan, settings, labelled=table, warm=warm)
    # Clients that have no file read here how a picture becomes the input.
    text += _parameters({key: value for key, value in metadata.items() if key not in _NOT_TOLD})
    if labels and table is not None:
        # One a line, so that none may hold another.
        _write(folder / _LABELS, "".join(f"{' '.join(label.split())}\n" for label in labels))
    _write(folder / "config.pbtxt", text)
    return TritonModel(folder / "config.pbtxt", plan.max_batch_size, plan.notes)


def _told(metadata: Mapping[str, str], file: Path) -> tuple[dict[str, str], list[str] | None]:
    """The names of the file's parts, and of the classes."""
    if "deepinside.names" not in metadata:
        raise ExportError(f"{file} was not written by deepinside export.")
    if "deepinside.autodiff" in metadata:
        raise ExportError(
            f"{file} runs on onnxruntime-training only: export it for Triton without --autodiff."
        )
    names = json.loads(metadata["deepinside.names"])
    return names, json.loads(metadata.get("deepinside.labels", "null"))


def _text(
    name: str, plan: Plan, settings: TritonSettings, *, labelled: str | None, warm: bool
) -> str:
    batched = plan.max_batch_size > 0
    inputs = [_entry(tensor, batched=batched) for tensor in plan.inputs]
    inputs += [_entry(tensor, batched=False, more=["optional: true"]) for tensor in plan.optional]
    outputs = [
        _entry(
            tensor,
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


def _entry(tensor: Tensor, *, batched: bool, more: Sequence[str] = ()) -> list[str]:
    """Lines of an input or output."""
    lines = [
        f"name: {_quoted(tensor.name)}",
        f"data_type: TYPE_{tensor.dtype}",
        f"dims: {_numbers(tensor.dims(batched=batched))}",
    ]
    # One number per picture: `[1]` for the client, none for the file.
    lines += ["reshape { shape: [] }"] if batched and len(tensor.shape or ()) == 1 else []
    return [*lines, *more]


def _warm_up(inputs: Iterable[Tensor], size: int) -> list[str]:
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
