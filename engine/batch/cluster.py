"""The job on many machines: Ray Data hands blocks of pictures to processes on a cluster.

    items -> blocks -> a window of blocks -> processes that explain and write -> manifest

Only this process knows what is listed and names what is shared: a process that dies, and is begun
anew by Ray, writes the same once more. A window bounds what waits, whatever the number of items;
the processes are begun anew with each, so that windows grow.
"""

import pickle
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain, count
from pathlib import Path
from typing import Any

from deepinside.engine.batch.connection import Cluster
from deepinside.engine.batch.items import Item
from deepinside.engine.batch.job import Sink, list_results, work_of
from deepinside.engine.batch.manifest import Manifest
from deepinside.engine.batch.previews import Previews
from deepinside.engine.batch.settings import JobSettings, new_record
from deepinside.engine.batch.work import Outcome, Work
from deepinside.engine.batch.worker import Block, Result, Task, Worker, file_contents
from deepinside.engine.errors import EngineError
from deepinside.engine.files import remove_unfinished

__all__ = ["run_on_cluster"]

_BATCHES = 4  # in a block of files
_BLOCKS = 16  # of a process, in the first window
_WINDOW = 1 << 14  # blocks, at most
_WINDOW_BYTES = 256 << 20  # of packed blocks: names, and bytes of pictures that have no place


@dataclass
class _Packed:
    """A block, and its bytes until they are sent."""

    block: Block
    content: bytes


def run_on_cluster(
    cluster: Cluster,
    model: Path,
    items: Iterable[Item],
    settings: JobSettings,
    sink: Sink,
    manifest: Manifest,
    *,
    engine: Mapping[str, Any],
    batch_size: int,
    done: Callable[[Outcome], None],
    go_on: Callable[[], bool] = lambda: True,
    keep: bool = True,
    preview: Previews | None = None,
) -> None:
    """Explain items on a cluster, write their maps and list them; as `run_job` does here.

    Args:
        cluster: connected.
        model: exported file; it is sent to the processes.
        items: by place.
        settings: of the job.
        sink: of the settings' format, in a folder that all machines see, given absolutely.
        manifest: of that folder, open.
        engine: further arguments of `Engine` in each process.
        batch_size: bounds a process's memory.
        done: called in this thread with every outcome once it is listed, in the order of items.
        go_on: asked after every block; where it says no, blocks that are begun are finished.
        keep: whether what the folder holds of exactly this job is kept.
        preview: makes previews.

    Raises:
        OutputError: a result can't be written; what was listed is safe.
        EngineError: the file can't be run on the cluster.
    """
    threads = {"threads": cluster.worker_cpus} if cluster.device == "cpu" else {}
    task = Task(
        secrets.token_hex(4),
        manifest.folder,
        settings,
        model.name,
        {"device": cluster.device, **threads, **engine},
        batch_size,
        keep,
        version("deepinside"),
    )
    files = cluster.ray.put(file_contents(model))
    # Twice as many, as pictures that fail are not shown.
    pictures = 0 if preview is None else 2 * preview.limit
    numbers = count()

    def pack(works: list[Work], first: int) -> _Packed:
        number = next(numbers)
        part = sink.part(f"{task.token}-{number}")
        block = Block(number, works, part, preview if first < pictures else None)
        # By value what can't be found by name, such as functions in functions.
        return _Packed(block, cluster.ray.cloudpickle.dumps(block))

    def blocks() -> Iterator[_Packed]:
        works = (work_of(item, settings, manifest) for item in items)
        first = 0
        for block in _blocks(works, settings, sink.shard_size, _BATCHES * batch_size):
            yield pack(block, first)
            first += len(block)

    waiting = blocks()
    limit = min(_BLOCKS * cluster.workers, _WINDOW)
    try:
        while go_on() and (window := _window(waiting, limit)):
            alone: list[_Packed] = []
            for packed, result in _results(cluster, task, files, window):
                if result.gave_up and len(packed.block.works) > 1:
                    # Which picture it is, is found by giving each a process.
                    alone += (pack([work], pictures) for work in packed.block.works)
                elif result.gave_up:
                    list_results([_failed(packed.block.works[0], settings)], manifest, done)
                else:
                    _take(result, sink, manifest, done)
                if not go_on():
                    task.stop_file.touch()
            waiting = chain(alone, waiting)
            limit = min(2 * limit, _WINDOW)
        remove_unfinished(manifest.folder)  # of processes that died
    finally:
        with suppress(OSError):
            task.stop_file.unlink()


def _blocks(
    works: Iterable[Work], settings: JobSettings, maps: int, pictures: int
) -> Iterator[list[Work]]:
    """Works in lists of so many pictures, or of so many maps where that is not 0."""
    block: list[Work] = []
    weight = 0
    for work in works:
        block.append(work)
        weight += _maps(work.item.targets or settings.targets) if maps else 1
        if weight >= (maps or pictures):
            yield block
            block, weight = [], 0
    if block:
        yield block


def _maps(targets: Iterable[int | str]) -> int:
    return sum(5 if target == "top5" else 1 for target in targets)


def _window(blocks: Iterator[_Packed], limit: int) -> list[_Packed]:
    window: list[_Packed] = []
    size = 0
    while len(window) < limit and size < _WINDOW_BYTES:
        block = next(blocks, None)
        if block is None:
            break
        window.append(block)
        size += len(block.content)
    return window


def _results(
    cluster: Cluster, task: Task, files: Any, window: list[_Packed]
) -> Iterator[tuple[_Packed, Result]]:
    """The blocks of a window and what came of them, in order."""
    import pyarrow

    data = cluster.ray.data
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    rows = [pyarrow.table({"block": [packed.content]}) for packed in window]
    for packed in window:
        packed.content = b""  # the cluster has it
    by_number = {packed.block.number: packed for packed in window}
    results = data.from_blocks(rows).map(
        Worker,
        fn_constructor_args=(task, files),
        compute=data.ActorPoolStrategy(size=min(cluster.workers, len(window))),
        num_cpus=cluster.worker_cpus,
        num_gpus=cluster.worker_gpus,
    )
    try:
        for row in results.iter_rows():
            result: Result = pickle.loads(row["result"])
            yield by_number[result.number], result
    except cluster.ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        advice = "see its logs"
        if "No module named" in reason:
            advice = "install deepinside and its packages on every machine of it"
        raise EngineError(f"the Ray cluster can't do the job ({reason}): {advice}.") from error


def _take(result: Result, sink: Sink, manifest: Manifest, done: Callable[[Outcome], None]) -> None:
    for outcome in result.kept:
        done(outcome)
    list_results(sink.adopt(result.outcomes), manifest, done)
    if result.error is not None:
        raise EngineError(result.error)


def _failed(work: Work, settings: JobSettings) -> Outcome:
    error = (
        f"{work.item.name}: the process that explained it died every time; memory may have been "
        "short: choose a smaller --batch-size, or give each process more of it with --worker-cpus."
    )
    return Outcome(new_record(settings, work.item, None, error=error))
