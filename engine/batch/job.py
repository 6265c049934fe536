"""The job: items in, maps and records out. Knows nothing of where items come from or who watches.

    items -> what is done already -> engine -> sink -> manifest

Each arrow holds a few batches at most, so that memory is bounded whatever the number of items.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, Self

from deepinside.engine.batch.files import FileSink
from deepinside.engine.batch.items import Item
from deepinside.engine.batch.manifest import Manifest
from deepinside.engine.batch.settings import JobSettings, files_of, new_record
from deepinside.engine.batch.shards import NpzSink, ParquetSink, ShardSink
from deepinside.engine.batch.threads import in_threads
from deepinside.engine.batch.work import Outcome, Work
from deepinside.engine.engine import Engine
from deepinside.engine.errors import EngineError
from deepinside.engine.inputs import ImageFile
from deepinside.engine.results import InputFailure, InputMaps

__all__ = [
    "Preview",
    "Sink",
    "explain",
    "list_results",
    "make_sink",
    "process",
    "run_job",
    "work_of",
]

# Overlays of larger pictures are drawn on smaller copies: what waits to be written is bounded.
PICTURE_PIXELS = 1 << 24

Preview = Callable[[Work, Outcome, InputMaps | None], tuple[bytes, ...]]


class Sink(Protocol):
    """Puts maps where they stay."""

    @property
    def needs_picture(self) -> bool:
        """Whether it draws on the picture."""

    @property
    def shard_size(self) -> int:
        """Maps in a file of several pictures; 0 where each picture has its own files."""

    def write(self, work: Work, result: InputMaps) -> Outcome:
        """Write a picture's maps, or make them ready; called in any thread."""

    def commit(self, outcome: Outcome) -> list[Outcome]:
        """Take an outcome in its turn; return those that are safe now and may be listed."""

    def finish(self) -> list[Outcome]:
        """The outcomes that were held back, safe now."""

    def part(self, name: str) -> Self:
        """A sink for a part of the job that another process does, for `adopt` by this one."""

    def adopt(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Make a finished part's results this sink's own; the outcomes may be listed then."""


def make_sink(
    folder: Path, settings: JobSettings, *, overwrite: bool, shard_size: int
) -> FileSink | ShardSink:
    """The sink of a job's format.

    Raises:
        PackageMissingError: it needs a package that is not installed.
    """
    if settings.format == "files":
        return FileSink(folder, settings, overwrite)
    kind = NpzSink if settings.format == "npz" else ParquetSink
    return kind(folder, settings, shard_size)


def explain(
    engine: Engine,
    works: Iterable[Work],
    settings: JobSettings,
    *,
    batch_size: int,
    picture_pixels: int | None,
) -> Iterator[InputMaps | InputFailure]:
    """The maps of pictures, in order; a picture that gives none is a failure and no end.

    Args:
        engine: with a saliency file.
        works: pictures.
        settings: of the job.
        batch_size: bounds the memory.
        picture_pixels: of the pictures that come with the maps; 0 for none.

    Raises:
        TargetError: the job's targets are none; at once.
    """
    return engine.iter_saliency(
        (ImageFile(work.item.name, work.open, work.item.targets) for work in works),
        settings.targets,
        method=settings.method,
        batch_size=batch_size,
        keep_gradient=settings.format == "files" and settings.rendering.signed,
        size=settings.size,
        ahead=1,
        picture_pixels=picture_pixels,
    )


def run_job(
    engine: Engine,
    items: Iterable[Item],
    settings: JobSettings,
    sink: Sink,
    manifest: Manifest,
    *,
    batch_size: int,
    done: Callable[[Outcome], None],
    keep: bool = True,
    preview: Preview | None = None,
) -> None:
    """Explain items, write their maps and list them.

    Args:
        engine: with a saliency file.
        items: pictures; taken as they are needed, in this thread.
        settings: of the job.
        sink: of the settings' format.
        manifest: of the folder, open.
        batch_size: bounds the memory.
        done: called in this thread with every outcome once it is listed, in the order of items; but
            for what is kept, which comes as soon as it is seen.
        keep: whether what the folder holds of exactly this job is kept.
        preview: makes previews, in any thread.

    Raises:
        OutputError: a result can't be written; what was listed is safe.
        EngineError: the file can't be run.
    """
    works = (work_of(item, settings, manifest) for item in items)
    for outcomes in process(
        engine,
        works,
        settings,
        sink,
        manifest.folder,
        batch_size=batch_size,
        kept=done,
        keep=keep,
        preview=preview,
    ):
        list_results(outcomes, manifest, done)


def process(
    engine: Engine,
    works: Iterable[Work],
    settings: JobSettings,
    sink: Sink,
    folder: Path,
    *,
    batch_size: int,
    kept: Callable[[Outcome], None],
    keep: bool = True,
    preview: Preview | None = None,
) -> Iterator[list[Outcome]]:
    """Explain pictures and write their maps; what has to be listed, as soon as it is safe.

    Args:
        engine: with a saliency file.
        works: pictures; taken as they are needed, in this thread.
        settings: of the job.
        sink: of the settings' format.
        folder: of the results.
        batch_size: bounds the memory.
        kept: called in this thread with the outcomes of what is listed already.
        keep: whether what the folder holds of exactly this job is kept.
        preview: makes previews, in any thread.

    Raises:
        OutputError: a result can't be written.
        EngineError: the file can't be run.
    """
    begun: deque[Work] = deque()

    def to_do() -> Iterator[Work]:
        """What is not done yet; all that is waits for nothing, however many there are."""
        checks = (partial(_check, work, settings, folder, keep, preview) for work in works)
        for work, outcome in in_threads(checks, ahead=batch_size):
            if outcome is not None:
                kept(outcome)
            else:
                begun.append(work)
                yield work

    def tasks() -> Iterator[Callable[[], Outcome]]:
        pixels = PICTURE_PIXELS if sink.needs_picture or preview is not None else 0
        for result in explain(
            engine, to_do(), settings, batch_size=batch_size, picture_pixels=pixels
        ):
            yield partial(_write, begun.popleft(), result, settings, sink, preview)

    for outcome in in_threads(tasks(), ahead=batch_size):
        yield sink.commit(outcome)
    yield sink.finish()


def list_results(
    outcomes: Sequence[Outcome], manifest: Manifest, done: Callable[[Outcome], None]
) -> None:
    """List what is safe: in one write, as all of it is on disk.

    Raises:
        OutputError: the manifest can't be written.
    """
    if outcomes:
        manifest.add(*(outcome.record for outcome in outcomes))
    for outcome in outcomes:
        done(outcome)


def work_of(item: Item, settings: JobSettings, manifest: Manifest) -> Work:
    """An item with its stem and what an earlier run left of it."""
    # What is known not to be a picture has no stem, and takes none from others.
    stem = manifest.stem(item.name, item.stem, shared=item.shared) if item.stem else ""
    return Work(item, stem, manifest.get(settings.task, item.name, settings.variant))


def _check(
    work: Work, settings: JobSettings, folder: Path, keep: bool, preview: Preview | None
) -> tuple[Work, Outcome | None]:
    """The outcome of a picture of which the folder holds exactly what is wanted."""
    record = work.earlier
    if (
        not keep
        or record is None
        or record["status"] != "ok"
        or not record.get("input_sha256")
        or any(settings.differences(record, work.item))
        or not all((folder / name).exists() for name in set(files_of(record)))
    ):
        return work, None
    try:
        work.open().close()
    except (OSError, EngineError):
        return work, None  # which decoding it will tell
    if work.has_changed:
        return work, None
    outcome = Outcome({**record, "status": "kept"})
    if preview is not None:
        outcome.previews = preview(work, outcome, None)
    return work, outcome


def _write(
    work: Work,
    result: InputMaps | InputFailure,
    settings: JobSettings,
    sink: Sink,
    preview: Preview | None,
) -> Outcome:
    if isinstance(result, InputFailure):
        return Outcome(new_record(settings, work.item, work.sha256, error=str(result.error)))
    outcome = sink.write(work, result)
    if preview is not None and not outcome.record["error"]:
        outcome.previews = preview(work, outcome, result)
    return outcome
