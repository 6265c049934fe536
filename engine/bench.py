"""How fast a saliency file runs on this machine, beside the classifier that it was made of."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.binding import runs_of
from deepinside.engine.contract import parse_contract
from deepinside.engine.errors import SettingError, TaskError
from deepinside.engine.inputs import InputSpec, input_spec
from deepinside.engine.modelfile import read_header
from deepinside.engine.session import Session, SessionSettings, open_session
from deepinside.engine.sizes import PictureSize, chosen_size

__all__ = ["BenchReport", "Timing", "bench"]

_WARM_UP = 3


@dataclass(frozen=True)
class Timing:
    """Time of one batch size.

    Attributes:
        batch: number of images.
        saliency_ms: median time of the saliency file, all outputs, from host to host.
        saliency_quartiles_ms: a quarter of the rounds took less than the first, and more than the
            second.
        images_per_second: at the median.
        classifier_ms, classifier_quartiles_ms: the same of the classifier alone; None without one.
        ratio: saliency over classifier; None without one.
    """

    batch: int
    saliency_ms: float
    saliency_quartiles_ms: tuple[float, float]
    images_per_second: float
    classifier_ms: float | None
    classifier_quartiles_ms: tuple[float, float] | None
    ratio: float | None


@dataclass(frozen=True)
class BenchReport:
    """What was measured.

    Attributes:
        file: the saliency file.
        device: that it ran on.
        threads: of the CPU's operators; None where ONNX Runtime chose.
        rounds: of each batch size.
        bytes: size of the file.
        open_seconds: until it was ready to run.
        classifier_bytes, classifier_open_seconds: the same of the classifier, None without one.
        timings: one for each batch size.
    """

    file: Path
    device: str
    threads: int | None
    rounds: int
    bytes: int
    open_seconds: float
    classifier_bytes: int | None
    classifier_open_seconds: float | None
    timings: tuple[Timing, ...]


def bench(
    file: str | PathLike[str],
    device: str = "auto",
    *,
    classifier: str | PathLike[str] | None = None,
    batch_sizes: Sequence[int] = (1, 8),
    rounds: int = 20,
    threads: int | None = None,
    size: PictureSize | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, note: None,
    **gpu: bool,
) -> BenchReport:
    """Time a saliency file and its classifier, interleaved, on pictures of noise.

    A round runs each once, so that a busy moment of the machine hits both; their ratio is steadier
    than the times. Idle threads sleep, so that the two don't take each other's cores.

    Args:
        file: exported saliency file.
        device: as in `Engine`.
        classifier: the file that it was exported from, for comparison.
        batch_sizes: numbers of images in a run; a file with a fixed one runs that alone.
        rounds: timed runs of each; three more come before.
        threads: as in `Engine`.
        size: height and width of the input, where the file leaves them open.
        progress: called with the rounds done, all of them, and what runs.
        gpu: settings of GPUs, by the names of `SessionSettings`, such as `tf32`.

    Raises:
        EngineError: a setting is not possible, or a file or the device does not work.
    """
    if rounds < 1:
        raise SettingError(f"rounds is {rounds}; it must be at least 1.")
    if not batch_sizes or min(batch_sizes) < 1:
        raise SettingError(f"the batch sizes are {list(batch_sizes)}; each must be at least 1.")
    contract = parse_contract(read_header(Path(file)).metadata, where=str(file))
    if contract.task != "saliency":
        raise TaskError(f"{file} is a {contract.task} file: bench times saliency files.")
    settings = SessionSettings(device=device, threads=threads, spinning=False, **gpu)
    saliency, seconds = _open(Path(file), settings)
    spec = input_spec(saliency, contract)
    sessions, plain_seconds = [saliency], None
    if classifier is not None:
        plain, plain_seconds = _open(Path(classifier), settings.on(saliency.device))
        sessions.append(plain)
    sizes = [spec.batch] if spec.batch is not None else list(batch_sizes)
    shape = _shape(spec, size, Path(file))
    timings = []
    for number, batch in enumerate(sizes):

        def note(done: int, number: int = number, batch: int = batch) -> None:
            progress(number * rounds + done, len(sizes) * rounds, f"batch {batch}")

        random = np.random.default_rng(0)
        pixels = random.standard_normal((batch, *shape), dtype=np.float32).astype(spec.dtype)
        feeds: dict[str, NDArray[Any]] = {contract.names["image"]: pixels}
        extra = {}
        if contract.target_input == "required":
            extra[contract.names["target"]] = np.zeros(batch, np.int64)
        timings.append(_timing(batch, sessions, feeds, extra, rounds, note))
    return BenchReport(
        file=Path(file),
        device=str(saliency.device),
        threads=threads,
        rounds=rounds,
        bytes=Path(file).stat().st_size,
        open_seconds=seconds,
        classifier_bytes=None if classifier is None else Path(classifier).stat().st_size,
        classifier_open_seconds=plain_seconds,
        timings=tuple(timings),
    )


def _open(path: Path, settings: SessionSettings) -> tuple[Session, float]:
    started = time.perf_counter()
    session = open_session(path, settings)
    return session, time.perf_counter() - started


def _shape(spec: InputSpec, size: PictureSize | None, file: Path) -> tuple[int, ...]:
    chosen = chosen_size(size, spec, str(file))
    shape = None if chosen == "original" else spec.shape_at(chosen)
    if shape is None:
        raise SettingError(f"{file} leaves the picture's size open: give one, such as 224x224.")
    return shape


def _timing(
    batch: int,
    sessions: Sequence[Session],
    feeds: dict[str, NDArray[Any]],
    extra: dict[str, NDArray[Any]],
    rounds: int,
    note: Callable[[int], None],
) -> Timing:
    """Run the saliency file, and the classifier where there is one, `rounds` times each."""
    times: list[list[float]] = [[] for _ in sessions]
    runs = [runs_of(session, 1)[0] for session in sessions]
    # Other arrays every time: what is on the GPU already would not be sent again.
    turns = [feeds, {name: array.copy() for name, array in feeds.items()}]
    for number in range(-_WARM_UP, rounds):
        for index, session in enumerate(sessions):
            given = turns[number % 2] | (extra if index == 0 else {})
            started = time.perf_counter()
            runs[index](list(session.outputs), given)
            if number >= 0:
                times[index].append(1000 * (time.perf_counter() - started))
        note(max(number + 1, 0))
    found = [statistics.median(values) for values in times]
    quartiles = [_quartiles(values) for values in times]
    compared = len(sessions) > 1
    return Timing(
        batch=batch,
        saliency_ms=found[0],
        saliency_quartiles_ms=quartiles[0],
        images_per_second=1000 * batch / found[0],
        classifier_ms=found[1] if compared else None,
        classifier_quartiles_ms=quartiles[1] if compared else None,
        ratio=found[0] / found[1] if compared else None,
    )


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(values, [0.25, 0.75])
    return float(low), float(high)
