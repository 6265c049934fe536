"""Where a job runs: in this process, or on a Ray cluster."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepinside.cli.options import gathered
from deepinside.cli.stopping import Stop

if TYPE_CHECKING:
    from deepinside.engine import Engine
    from deepinside.engine.batch import JobSettings, Manifest, Sink, Sources
    from deepinside.engine.batch.connection import Cluster

__all__ = ["Executor", "ExecutorChoice", "executor_options"]


@dataclass(frozen=True)
class Executor:
    """Where the pictures of a job are explained.

    Attributes:
        device: that does it, for the export of a plain classifier.
        cluster: that does it; None for this process.
    """

    device: str
    cluster: "Cluster | None" = None

    def engine(self, file: Path, **options: bool) -> "Engine":
        """Open a file here: to explain pictures, or to see at once what is wrong with it."""
        from deepinside.engine import Engine

        if self.cluster is None:
            return Engine(file, self.device, **options)
        return Engine(file, "cpu")

    def folder(self, output: Path) -> Path:
        """The folder of results, as every machine finds it."""
        return output if self.cluster is None else output.absolute()

    def name(self, engine: "Engine") -> str:
        """What explains the pictures, for the summary."""
        return engine.device if self.cluster is None else str(self.cluster)

    def run(
        self,
        engine: "Engine",
        file: Path,
        sources: "Sources",
        settings: "JobSettings",
        sink: "Sink",
        manifest: "Manifest",
        *,
        stop: Stop,
        options: dict[str, bool],
        **arguments: Any,
    ) -> None:
        """Do the job; arguments are those of `run_job` and `run_on_cluster`."""
        if self.cluster is None:
            from deepinside.engine.batch import run_job

            items = stop.before(sources.items())
            run_job(engine, items, settings, sink, manifest, **arguments)
            return
        from deepinside.engine.batch import explain
        from deepinside.engine.batch.cluster import run_on_cluster

        # Classes that are none are an error before anything is sent, as they are here.
        explain(engine, (), settings, batch_size=1, picture_pixels=0)
        run_on_cluster(
            self.cluster,
            file,
            stop.before(sources.items(by_place=True)),
            settings,
            sink,
            manifest,
            engine=options,
            go_on=lambda: not stop,
            **arguments,
        )


@dataclass(frozen=True)
class ExecutorChoice:
    """What the user asked for.

    Attributes:
        executor: `local` or `ray`.
        ray_address: of the cluster.
        workers: processes; None for as many as there is room for.
        worker_cpus: of each.
    """

    executor: str
    ray_address: str
    workers: int | None
    worker_cpus: int

    @contextmanager
    def open(self, device: str) -> Iterator[Executor]:
        """What does the job, on a device that was asked for.

        Raises:
            EngineError: there is no such cluster.
        """
        if self.executor == "local":
            yield Executor(device)
            return
        from deepinside.engine.batch.connection import ClusterSettings, connected

        settings = ClusterSettings(self.ray_address, self.workers, self.worker_cpus)
        with connected(settings, device) as cluster:
            yield Executor(cluster.device, cluster)


_OPTIONS = (
    click.option(
        "--executor",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Do the job here, or on a Ray cluster, whose machines share DIR and the pictures.",
    ),
    click.option(
        "--ray-address",
        default="auto",
        show_default=True,
        metavar="HOST:PORT",
        help="Head of the cluster; auto is the one of this machine, local starts one here.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        metavar="N",
        help="Ray: processes.  [default: a GPU each, or as many as there are CPUs for]",
    ),
    click.option(
        "--worker-cpus",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        metavar="N",
        help="Ray: CPUs of a process.",
    ),
)

executor_options = gathered(
    "where",
    lambda given: ExecutorChoice(**given),
    ("executor", "ray_address", "workers", "worker_cpus"),
    _OPTIONS,
)
