"""Where the nodes of a session run, and whether tensors are copied between host and device."""

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepinside.engine.devices import CPU, Device
from deepinside.engine.errors import ProviderError
from deepinside.engine.modelfile import operators

__all__ = ["PlacedNode", "count_copies", "nodes_off_device", "providers_of_nodes", "report"]

_log = logging.getLogger(__name__)

_TOLD = 8  # nodes in a message
_COPIES = ("MemcpyFromHost", "MemcpyToHost")


@dataclass(frozen=True)
class PlacedNode:
    """A node that runs elsewhere than on the session's device.

    Attributes:
        name: of the node.
        op_type: its operator.
        provider: where it runs.
    """

    name: str
    op_type: str
    provider: str


def providers_of_nodes(raw: Any) -> Counter[str] | None:
    """Number of nodes by provider; None where the runtime can't tell."""
    if not hasattr(raw, "get_provider_graph_assignment_info"):
        return None
    counts: Counter[str] = Counter()
    for part in raw.get_provider_graph_assignment_info():
        counts[part.ep_name] += len(part.get_nodes())
    return counts


def nodes_off_device(raw: Any) -> tuple[PlacedNode, ...] | None:
    """The nodes that run on the host; None where the runtime can't tell."""
    if not hasattr(raw, "get_provider_graph_assignment_info"):
        return None
    return tuple(
        PlacedNode(node.name, node.op_type, part.ep_name)
        for part in raw.get_provider_graph_assignment_info()
        if part.ep_name == CPU
        for node in part.get_nodes()
    )


def count_copies(optimised: Path) -> int:
    """Number of nodes that copy tensors between host and device.

    Args:
        optimised: the graph as ONNX Runtime runs it, which has nodes for that.
    """
    counts = operators(optimised)
    return sum(counts[operator] for operator in _COPIES)


def report(
    device: Device,
    name: str,
    off_device: tuple[PlacedNode, ...] | None,
    copies: int | None,
    *,
    strict: bool,
) -> None:
    """Tell which nodes left the device.

    Nodes that only work out shapes run on the host by ONNX Runtime's choice, where sizes are known
    anyway: they are told apart by that nothing is copied for them.

    Args:
        device: of the session.
        name: of the file.
        off_device: nodes on the host; None where the runtime can't tell.
        copies: nodes that copy between host and device; None where they were not counted.
        strict: copies, or nodes on the host where these are not counted, are an error.

    Raises:
        ProviderError: in strict mode.
    """
    if off_device is None:
        if strict:
            raise ProviderError(
                str(device),
                "this ONNX Runtime can't tell which nodes left the device, as strict needs",
                "update onnxruntime-gpu, or do without strict",
            )
        return
    if not off_device:
        return
    nodes = ", ".join(f"{node.op_type} {node.name!r}" for node in off_device[:_TOLD])
    if len(off_device) > _TOLD:
        nodes += f" and {len(off_device) - _TOLD} more"
    if strict and copies != 0:
        moved = "" if copies is None else f", for which {copies} nodes copy between host and device"
        raise ProviderError(
            str(device),
            f"{len(off_device)} nodes of {name} run on the CPU ({nodes}){moved}",
            "do without strict, or export the file again with a newer deepinside",
        )
    _log.warning("%d nodes left %s: %s", len(off_device), device, nodes)
