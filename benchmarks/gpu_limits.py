"""What a GPU can do by its data sheet, and what a network asks of it at least."""

import re
from pathlib import Path
from typing import Any

import onnx

# Dense peaks: FLOP/s by precision, and bytes/s of memory, by NVIDIA's data sheets of these GPUs;
# figures with sparsity are halved. float32 is that of the ordinary cores. H100 and
# H200 agree with published tables; compare the others before shares are quoted.
_SHEETS: dict[str, dict[str, float]] = {
    "H200": {"float32": 67e12, "tf32": 494.5e12, "float16": 989.5e12, "bytes": 4.8e12},
    "H100 PCIe": {"float32": 51e12, "tf32": 378e12, "float16": 756e12, "bytes": 2.0e12},
    "H100 NVL": {"float32": 60e12, "tf32": 417.5e12, "float16": 835.5e12, "bytes": 3.9e12},
    "H100": {"float32": 67e12, "tf32": 494.5e12, "float16": 989.5e12, "bytes": 3.35e12},
    "A100-SXM4-80GB": {"float32": 19.5e12, "tf32": 156e12, "float16": 312e12, "bytes": 2.039e12},
    "A100 80GB": {"float32": 19.5e12, "tf32": 156e12, "float16": 312e12, "bytes": 1.935e12},
    "A100": {"float32": 19.5e12, "tf32": 156e12, "float16": 312e12, "bytes": 1.555e12},
    "L4": {"float32": 30.3e12, "tf32": 60e12, "float16": 121e12, "bytes": 0.3e12},
    "T4": {"float32": 8.1e12, "float16": 65e12, "bytes": 0.32e12},
}
# These only say what a tensor's shape is, and move nothing.
_VIEWS = {"Flatten", "Identity", "Reshape", "Shape", "Squeeze", "Unsqueeze"}


def limits(name: str) -> dict[str, float] | None:
    """The data sheet of a GPU by its driver's name of it; None where it is not known here."""
    found = (sheet for part, sheet in _SHEETS.items() if re.search(rf"\b{part}\b", name))
    return next(found, None)


def count_flops(module: Any, image: Any) -> int:
    """FLOPs of a forward pass and the gradient of its input, by PyTorch's counter."""
    from torch.utils.flop_counter import FlopCounterMode

    leaf = image.detach().clone().requires_grad_(True)
    with FlopCounterMode(display=False) as counter:
        module(leaf).amax(dim=1).sum().backward()
    return int(counter.get_total_flops())


def count_traffic(path: Path, batch: int) -> int:
    """Bytes that the nodes of a file read and write, each its operands once.

    Kernels that are fused need less; those that work in several passes need more.
    """
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = 1 if dim.dim_param == "T" else batch  # T: one target for all
    for info in list(model.graph.value_info):
        model.graph.value_info.remove(info)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    sizes = {tensor.name: _bytes(tensor.data_type, tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.output, *inferred.value_info):
        kind = value.type.tensor_type
        sizes.setdefault(
            value.name, _bytes(kind.elem_type, [dim.dim_value for dim in kind.shape.dim])
        )
    return sum(
        sizes.get(name, 0)
        for node in inferred.node
        if node.op_type not in _VIEWS
        for name in (*node.input, *node.output)
    )


def _bytes(elem_type: int, dims: Any) -> int:
    size = onnx.helper.tensor_dtype_to_np_dtype(elem_type).itemsize if elem_type else 0
    for dim in dims:
        size *= dim
    return int(size)
