"""The connection to a Ray cluster, and the processes that it has room for (extra `[ray]`)."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from deepinside.engine.devices import parse_devices
from deepinside.engine.errors import EngineError, PackageMissingError, SettingError

__all__ = ["Cluster", "ClusterSettings", "connected"]


@dataclass(frozen=True)
class ClusterSettings:
    """What is asked of a cluster.

    Attributes:
        address: of its head, such as `10.0.0.1:6379`; `auto` for the one that this machine belongs
            to, `local` for one on this machine that ends with the job.
        workers: processes; None for as many as there is room for.
        worker_cpus: of each process; one on a GPU has them for decoding and writing.
    """

    address: str = "auto"
    workers: int | None = None
    worker_cpus: int = 1


@dataclass(frozen=True)
class Cluster:
    """A cluster that is connected.

    Attributes:
        ray: the package.
        device: of every process: `cpu`, `cuda` or `tensorrt`.
        workers: processes.
        worker_cpus: of each process.
    """

    ray: Any
    device: str
    workers: int
    worker_cpus: int

    @property
    def worker_gpus(self) -> int:
        """Of each process."""
        return 0 if self.device == "cpu" else 1

    def __str__(self) -> str:
        """For the summary of a job."""
        return f"{self.workers} Ray workers ({self.device})"


@contextmanager
def connected(settings: ClusterSettings, device: str) -> Iterator[Cluster]:
    """Connect to a cluster for as long as the block lasts.

    Args:
        settings: what is asked of it.
        device: `auto` (GPUs where the cluster has any), `cpu`, `cuda` or `tensorrt`.

    Raises:
        PackageMissingError: Ray is not installed.
        SettingError: the cluster has no room for one process, or the device is none of these.
        EngineError: there is no cluster.
    """
    if device not in ("auto", "cpu", "cuda", "tensorrt"):
        parse_devices(device)  # which says what is no device at all
        raise SettingError(
            f"the device is {device!r}; on a Ray cluster it must be auto, cpu, cuda or tensorrt: "
            "which GPU a process has is the cluster's to say."
        )
    ray = _ray()
    mine = not ray.is_initialized()
    if mine:
        _initialise(ray, settings.address)
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if device == "auto":
            device = "cuda" if any(node.get("GPU", 0) >= 1 for node in nodes) else "cpu"
        gpus = 0 if device == "cpu" else 1
        room = sum(_room(node, settings.worker_cpus, gpus) for node in nodes)
        if settings.workers is None and room == 0:
            raise SettingError(_no_room(nodes, settings.worker_cpus, gpus))
        # More than there is room for wait for nodes that a cluster starts when they are wanted.
        yield Cluster(ray, device, settings.workers or room, settings.worker_cpus)
    finally:
        if mine:
            ray.shutdown()


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise PackageMissingError(
            error.name or "ray",
            f"a Ray cluster needs the package {error.name}: run pip install 'deepinside[ray]', on "
            "every machine of the cluster.",
        ) from None
    return ray


def _initialise(ray: Any, address: str) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.WARNING,
            **({"include_dashboard": False} if address == "local" else {}),
        )
    # Ray has no base class for what goes wrong here.
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise EngineError(
            f"there is no Ray cluster at {address!r} ({error}): start one with ray start --head, "
            "give its address with --ray-address, or take --ray-address local."
        ) from error
    finally:
        # Ray takes the signal for itself; the job has to end in good order.
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
    # It logs what it raises, too.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def _room(resources: dict[str, float], cpus: int, gpus: int) -> int:
    """How many processes a node has room for."""
    room = resources.get("CPU", 0) // cpus
    return int(min(room, resources.get("GPU", 0)) if gpus else room)


def _no_room(nodes: list[dict[str, float]], cpus: int, gpus: int) -> str:
    wanted = f"{cpus} CPUs and a GPU" if gpus else f"{cpus} CPUs"
    found = ", ".join(
        f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes
    )
    return (
        f"a worker takes {wanted} of one machine of the Ray cluster, which has machines with "
        f"{found or 'nothing'}: choose other --worker-cpus or another --device, or give the number "
        "of --workers where the cluster starts machines when they are wanted."
    )
