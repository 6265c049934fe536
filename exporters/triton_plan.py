"""What Triton gets to know of an exported file: its tensors, and whether requests can be joined."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from deepinside.exporters.errors import ExportError

__all__ = ["Plan", "Tensor", "plan_of"]

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
class Tensor:
    """An input or output of the file.

    Attributes:
        name: in the file.
        dtype: Triton's word for the element type; None where it has none.
        shape: free sizes are -1; None where nothing is declared.
        symbol: name of the first axis' size.
    """

    name: str
    dtype: str | None
    shape: tuple[int, ...] | None
    symbol: str

    @classmethod
    def of(cls, value: onnx.ValueInfoProto) -> "Tensor":
        """An input or output as the graph declares it."""
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
        """Whether its first axis is free."""
        return self.shape is not None and self.shape[:1] == (-1,)

    def dims(self, *, batched: bool) -> tuple[int, ...]:
        """Sizes as Triton has them: without the batch, and never none."""
        assert self.shape is not None
        return self.shape[1 if batched else 0 :] or (1,)


@dataclass(frozen=True)
class Plan:
    """The tensors that Triton gets to know.

    Attributes:
        inputs: that every request brings.
        optional: that it may bring.
        outputs: that it may ask for.
        max_batch_size: pictures in one run; 0 where requests can't be joined.
        notes: a sentence for each thing that was left out.
    """

    inputs: list[Tensor]
    optional: list[Tensor]
    outputs: list[Tensor]
    max_batch_size: int
    notes: tuple[str, ...]


def plan_of(graph: onnx.GraphProto, names: Mapping[str, str], most: int) -> Plan:
    """What Triton gets to know of a file.

    Args:
        graph: of the file.
        names: part of the contract -> tensor name.
        most: pictures in one run; 0 for no batching.

    Raises:
        ExportError: Triton can't give it its inputs.
    """
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [Tensor.of(value) for value in graph.input if value.name not in weights]
    # Old files list weights as inputs too: only the contract's are meant to be given.
    known = set(names.values()) & weights
    optional = [Tensor.of(value) for value in graph.input if value.name in known]
    outputs = [Tensor.of(value) for value in graph.output]
    for tensor in inputs:
        if tensor.dtype is None or tensor.shape is None:
            raise ExportError(f"Triton can't take the input {tensor.name!r}: its type is unknown.")
    notes = []
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
    known_outputs = [out for out in outputs if out.dtype and out.shape is not None]
    kept = [out for out in known_outputs if out.is_batched or not most]
    for left, why in (
        ([out for out in outputs if out not in known_outputs], "whose type Triton does not know"),
        ([out for out in known_outputs if out not in kept], "whose first axis has no pictures"),
    ):
        if left:
            notes.append(f"Left out: {_listed(left)}, {why}.")
    return Plan(inputs, optional, kept, most, tuple(notes))


def _obstacles(inputs: Iterable[Tensor], names: Mapping[str, str]) -> list[str]:
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


def _listed(tensors: Iterable[Tensor]) -> str:
    return ", ".join(tensor.name for tensor in tensors)
