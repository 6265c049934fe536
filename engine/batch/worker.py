"""What a process of a cluster does: blocks of pictures, one after the other."""

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

import deepinside.engine.batch.job as jobs
from deepinside.engine.batch.previews import Previews
from deepinside.engine.batch.settings import JobSettings
from deepinside.engine.batch.work import Outcome, Work
from deepinside.engine.engine import Engine
from deepinside.engine.errors import EngineError, OutputError
from deepinside.engine.files import hidden
from deepinside.engine.modelfile import require_weights

__all__ = ["Block", "Result", "Task", "Worker", "file_contents"]

# Times that a block is begun. What ends its process every time would do so forever.
_ATTEMPTS = 2


@dataclass(frozen=True)
class Task:
    """What all blocks of a job have in common.

    Attributes:
        token: of this run of the job, in the names of its hidden files.
        folder: of the results, absolute; every machine of the cluster sees it.
        settings: of the job.
        model: name of the exported file.
        engine: how it is opened.
        batch_size: bounds the memory.
        keep: whether what the folder holds of exactly this job is kept.
        version: of deepinside.
    """

    token: str
    folder: Path
    settings: JobSettings
    model: str
    engine: Mapping[str, Any]
    batch_size: int
    keep: bool
    version: str

    @property
    def stop_file(self) -> Path:
        """While it exists, no block is begun."""
        return self.folder / hidden(f"{self.token}-stop")

    def attempts_file(self, block: "Block") -> Path:
        """As many bytes as the block was begun; it goes when the block is done."""
        return self.folder / hidden(f"{self.token}-{block.number}-begun")


@dataclass(frozen=True)
class Block:
    """Pictures that one process explains together.

    Attributes:
        number: in the job.
        works: the pictures.
        sink: takes their maps.
        preview: makes previews; None for none.
    """

    number: int
    works: list[Work]
    sink: jobs.Sink
    preview: Previews | None


@dataclass
class Result:
    """What came of a block.

    Attributes:
        number: of the block.
        outcomes: of its pictures, those that are to be listed; none where it was not done.
        kept: outcomes of those that are listed already.
        gave_up: its process died every time.
        error: that ends the job.
    """

    number: int
    outcomes: list[Outcome] = field(default_factory=list)
    kept: list[Outcome] = field(default_factory=list)
    gave_up: bool = False
    error: str | None = None


class Worker:
    """A process of the cluster, with the classifier on its device; Ray Data calls it."""

    def __init__(self, task: Task, files: Any) -> None:
        """Open the classifier. What fails is the result of the first block.

        Args:
            task: of the job.
            files: reference to the `file_contents` of the exported file.
        """
        import ray

        self._task = task
        self._error: str | None = None
        try:
            self._engine = _open(task, ray.get(files))
        except EngineError as error:
            self._error = str(error)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A pickled `Result` of a pickled `Block`."""
        block = pickle.loads(row["block"])
        return {"result": pickle.dumps(self._result(block))}

    def _result(self, block: Block) -> Result:
        if self._error is not None:
            return Result(block.number, error=self._error)
        result = Result(block.number)
        try:
            if self._task.stop_file.exists():
                return result
            with _counted(self._task.attempts_file(block)) as attempts:
                if attempts > _ATTEMPTS:
                    return Result(block.number, gave_up=True)
                for outcomes in jobs.process(
                    self._engine,
                    block.works,
                    self._task.settings,
                    block.sink,
                    self._task.folder,
                    batch_size=self._task.batch_size,
                    kept=result.kept.append,
                    keep=self._task.keep,
                    preview=block.preview,
                ):
                    result.outcomes += outcomes
        except EngineError as error:
            result.error = str(error)
        return result


def file_contents(model: Path) -> dict[str, NDArray[np.uint8]]:
    """An exported file, and what it keeps weights in, by their names in its folder.

    Raises:
        ModelFileError: a file is missing.
    """
    parts = (model, *require_weights(model))
    return {str(part.relative_to(model.parent)): np.fromfile(part, np.uint8) for part in parts}


def _open(task: Task, files: Mapping[str, NDArray[np.uint8]]) -> Engine:
    from importlib.metadata import version

    if version("deepinside") != task.version:
        raise EngineError(
            f"a machine of the cluster has deepinside {version('deepinside')}, the job is of "
            f"{task.version}: install the same on all."
        )
    if not task.folder.is_dir():
        raise OutputError(
            f"a machine of the cluster does not see the folder {task.folder}: results, and "
            "pictures that are given by path, have to be on a file system that all machines share."
        )
    # Once it is open, the engine reads the file no more.
    with TemporaryDirectory(prefix="deepinside-") as folder:
        for name, content in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            content.tofile(path)
        return Engine(Path(folder, task.model), **task.engine)


@contextmanager
def _counted(path: Path) -> Iterator[int]:
    """How often this was begun without coming to an end, this time included.

    Raises:
        OutputError: the folder can't be written.
    """
    try:
        with path.open("ab", buffering=0) as stream:
            stream.write(b".")
            attempts = stream.tell()
    except OSError as error:
        raise OutputError(f"{path.parent} can't be written: {error.strerror or error}.") from error
    try:
        yield attempts
    finally:
        with suppress(OSError):
            path.unlink()
