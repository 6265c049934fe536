"""Methods that need many gradients per picture and class, packed into full batches.

An estimate says at which pictures it wants the gradient, and makes something of what it gets. The
points of all estimates at hand fill the batches, so that one picture with 25 noisy copies and 25
pictures with one copy each run alike. No more than a batch of points exists at a time.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.inputs import InputSpec
from deepinside.engine.methods import Method
from deepinside.engine.passes import GradientPass
from deepinside.engine.preprocess import Region

__all__ = ["Estimate", "Finding", "Job", "generator", "input_range", "run_jobs"]

Picture = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Finding:
    """What an estimate comes to.

    Attributes:
        attribution: `(H, W, C)`; None where there is only a map.
        saliency: `(H, W)`; None where it follows from the attribution.
        region: what the map covers, where that is not the input's region.
        baseline_score: S_c where the way begins.
    """

    attribution: NDArray[np.floating] | None = None
    saliency: NDArray[np.float32] | None = None
    region: Region | None = None
    baseline_score: float | None = None


class Estimate(ABC):
    """One picture and class on their way.

    Attributes:
        one_at_a_time: whether each point depends on the gradient at the one before.
    """

    one_at_a_time = False

    @abstractmethod
    def points(self) -> Iterator[Picture]:
        """Inputs `(H, W, C)` at which the gradient is wanted."""

    @abstractmethod
    def add(self, gradient: NDArray[np.floating], score: float | None) -> None:
        """Take the gradient `(H, W, C)` and the score at the next point, in order."""

    @abstractmethod
    def finding(self) -> Finding:
        """The result, once all points are done."""


@dataclass(eq=False)
class Job:
    """An estimate in the queue.

    Attributes:
        key: position of the input, and class.
        estimate: of them.
        waiting: its points that were not yet run.
        done: whether there are no more.
    """

    key: tuple[int, int]
    estimate: Estimate
    waiting: Iterator[Picture]
    done: bool = False

    def take(self, room: int) -> list[Picture]:
        """At most so many points."""
        wanted = min(room, 1) if self.estimate.one_at_a_time else room
        taken = list(islice(self.waiting, wanted))
        self.done = len(taken) < wanted
        return taken


def run_jobs(
    run: GradientPass, estimates: Iterable[tuple[tuple[int, int], Estimate]], batch_size: int
) -> Iterator[tuple[tuple[int, int], Finding]]:
    """Run estimates of one input shape; each is begun when there is room, and given when done.

    Args:
        run: of the file.
        estimates: position of the input and class, and the estimate.
        batch_size: points that are run at once.

    Raises:
        RunError: ONNX Runtime failed.
    """
    spec = run.spec
    size = spec.batch or batch_size
    wanted = [part for part in ("score", "gradient") if part in spec.contract.names]
    queue = (Job(key, estimate, estimate.points()) for key, estimate in estimates)
    active: list[Job] = []
    while True:
        batch: list[tuple[Job, Picture]] = []
        for job in active:
            batch += [(job, point) for point in job.take(size - len(batch))]
        while len(batch) < size and (begun := next(queue, None)) is not None:
            active.append(begun)
            batch += [(begun, point) for point in begun.take(size - len(batch))]
        if batch:
            arrays = [spec.as_input(point).astype(spec.dtype) for _, point in batch]
            parts = run.run(arrays, [job.key[1] for job, _ in batch], wanted)
            for n, (job, _) in enumerate(batch):
                score = float(parts["score"][n]) if "score" in parts else None
                job.estimate.add(spec.as_picture(parts["gradient"][n]), score)
        yield from ((job.key, job.estimate.finding()) for job in active if job.done)
        active = [job for job in active if not job.done]
        if not batch and not active:
            return


def generator(method: Method, picture: Picture) -> np.random.Generator:
    """Random numbers that depend on the seed and the picture, and on nothing beside it."""
    digest = hashlib.sha256(np.ascontiguousarray(picture, dtype=np.float32).tobytes()).digest()
    assert method.seed is not None
    return np.random.default_rng([method.seed, *np.frombuffer(digest, dtype=np.uint32).tolist()])


def input_range(spec: InputSpec, picture: Picture) -> tuple[Picture, Picture]:
    """The least and the largest input, `(C,)`: of black and white, as the record says.

    Where there is no record, those of the picture itself.
    """
    record = spec.contract.preprocessing
    if record is None:
        channels = picture.shape[2]
        ends = (picture.min(), picture.max())
        low, high = (np.full(channels, end, dtype=np.float32) for end in ends)
        return low, high
    mean, std = (np.array(row, dtype=np.float32) for row in (record.mean, record.std))
    low, high = ((np.float32(end) - mean) / std for end in record.value_range)
    return low, high
