"""Saliency maps: one gradient per picture and class, in batches of bounded size.

Simonyan et al. 2014, section 3. ONNX Runtime computes the whole graph whatever outputs are asked
for, so no pass is spent on scores alone: the first pass explains each picture's first class and
gives the scores that choose the others.
"""

import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.binding import Run
from deepinside.engine.contract import Contract
from deepinside.engine.errors import (
    DivergenceError,
    EngineError,
    ImageError,
    OutOfMemoryError,
    RunError,
    TaskError,
)
from deepinside.engine.inputs import ImageLike, InputSpec, Prepared, iterate_images, prepare
from deepinside.engine.lanes import in_lanes
from deepinside.engine.results import InputFailure, InputMaps, SaliencyMap
from deepinside.engine.session import Session
from deepinside.engine.targets import TargetPlan

__all__ = ["GradientPass", "saliency_batches"]

_log = logging.getLogger(__name__)

_Chunk = list[tuple[int, Future[Prepared]]]

_DECODERS = min(4, os.cpu_count() or 1)  # threads; Pillow lets others run while it decodes


class GradientPass:
    """Runs a saliency file on prepared images, a batch at a time.

    Attributes:
        session: the open file.
        spec: its image input.
        keep_gradient: whether the maps hold the gradient.
    """

    def __init__(
        self,
        session: Session,
        spec: InputSpec,
        *,
        keep_gradient: bool,
        run: Run | None = None,
        fixed: int | None = None,
    ) -> None:
        """Choose what runs the file.

        Args:
            session: an open saliency file.
            spec: its image input.
            keep_gradient: whether the maps hold the gradient.
            run: runs the session; None for the session itself.
            fixed: batch that smaller ones are filled up to, where the file leaves it open.
        """
        self.session = session
        self.spec = spec
        self.keep_gradient = keep_gradient
        self._run = run or session.run
        self._most: int | None = None  # images that have turned out to fit into memory
        self._fixed = fixed
        self._stacked: tuple[list[Prepared], NDArray[Any]] = ([], np.empty(0))

    def __call__(
        self, images: Sequence[Prepared], targets: Sequence[int]
    ) -> list[tuple[SaliencyMap | DivergenceError, NDArray[Any]]]:
        """One map, or why there is none, and all classes' scores `(K,)`, per image.

        A batch that the device's memory does not hold is run in halves, and later ones too.

        Args:
            images: at most a fixed batch size of the file.
            targets: class index per image; -1 for its best class.

        Raises:
            RunError: ONNX Runtime failed.
        """
        most = self._most or len(images)
        if len(images) > most:
            starts = range(0, len(images), most)
            return [r for i in starts for r in self(images[i : i + most], targets[i : i + most])]
        try:
            parts = self._compute(images, targets)
        except OutOfMemoryError as error:
            if len(images) == 1 or self.spec.batch is not None:
                raise
            self._most = (len(images) + 1) // 2
            self._fixed = self._fixed and self._most
            _log.warning("%s Going on with batches of %d.", error, self._most)
            return self(images, targets)
        scores = np.asarray(parts["class_scores"], dtype=np.float64).reshape(len(images), -1)
        return [
            (self._map(image, n, targets[n], parts, scores[n]), scores[n])
            for n, image in enumerate(images)
        ]

    def _compute(
        self, images: Sequence[Prepared], targets: Sequence[int]
    ) -> dict[str, NDArray[Any]]:
        names, count = self.spec.contract.names, len(images)
        wanted = [part for part in ("score", "target_index", "saliency") if part in names]
        if "gradient" in names and (self.keep_gradient or "saliency" not in names):
            wanted.append("gradient")
        elif "saliency" not in names:
            raise TaskError(
                f"{self.session.path} gives neither saliency nor gradient: export the classifier "
                "again with these outputs."
            )
        batch = self._stack(images)
        feeds = {names["image"]: batch}
        if "target" in names:
            indices = np.asarray(targets, dtype=np.int64)
            spare = np.repeat(indices[-1:], len(batch) - count)
            feeds[names["target"]] = np.concatenate([indices, spare])
        wanted.append("class_scores")
        outputs = self._run([names[part] for part in wanted], feeds)
        return {part: output[:count] for part, output in zip(wanted, outputs, strict=True)}

    def _stack(self, images: Sequence[Prepared]) -> NDArray[Any]:
        """The images as one array, filled up where the batch is fixed.

        The next class of the same images gets the same array, which then is on the device already.
        """
        size = self.spec.batch or self._fixed or len(images)
        before, batch = self._stacked
        same = all(one is other for one, other in zip(before, images, strict=False))
        if same and len(before) == len(images) and len(batch) == size:
            return batch
        filled = [*images, *[images[-1]] * (size - len(images))]
        batch = np.stack([image.array for image in filled])
        self._stacked = (list(images), batch)
        return batch

    def _map(
        self,
        image: Prepared,
        n: int,
        target: int,
        parts: dict[str, NDArray[Any]],
        scores: NDArray[np.float64],
    ) -> SaliencyMap | DivergenceError:
        contract = self.spec.contract
        best = int(np.argmax(scores)) if target < 0 else target
        index = int(parts["target_index"][n]) if "target_index" in parts else best
        gradient = parts["gradient"][n] if "gradient" in parts else None
        if "saliency" in parts:
            saliency = parts["saliency"][n]
        else:
            assert gradient is not None
            saliency = np.abs(self.spec.as_picture(gradient)).max(axis=2)
        if not np.isfinite(saliency).all():
            return DivergenceError(
                f"{image.source}: the gradient of class {index} is infinite or not a number in "
                f"{self.session.path.name}: try another precision or device."
            )
        score = float(parts["score"][n]) if "score" in parts else None
        return SaliencyMap(
            # Copies: a view would keep the whole batch in memory.
            saliency=np.array(saliency, dtype=np.float32),
            gradient=gradient.copy() if gradient is not None and self.keep_gradient else None,
            score=score,
            probability=_probability(scores, index, contract),
            index=index,
            label=contract.label(index),
            source=image.source,
            region=image.region,
            size=None if image.picture is None else image.picture.size,
        )


def saliency_batches(
    passes: Sequence[GradientPass],
    images: ImageLike | Iterable[ImageLike],
    plan: TargetPlan,
    *,
    batch_size: int,
    size: tuple[int, int] | Literal["original"] | None = None,
    ahead: int = 0,
) -> Iterator[InputMaps | InputFailure]:
    """The maps of each input, in order.

    Threads decode; while a batch runs, those that are read ahead. A bad input gives an
    `InputFailure` and the others go on. Inputs of one size run together.

    Args:
        passes: what runs batches, each at the same time as the others.
        images: as in `Engine.saliency`.
        plan: which classes are explained.
        batch_size: inputs at once in one pass.
        size: of the inputs, where the file leaves it open.
        ahead: batches of inputs that are read while others run. 0: one pass works, and nothing is
            read before the result of what came before is taken.
    """
    spec = passes[0].spec
    if spec.batch is not None:
        batch_size = spec.batch

    def explain(run: GradientPass, chunk: _Chunk) -> list[InputMaps | InputFailure]:
        return _explain_chunk(run, chunk, plan, batch_size)

    chunks = _prepared(images, spec, batch_size, size, ahead)
    for done in in_lanes(passes if ahead else passes[:1], chunks, explain):
        yield from done


def _explain_chunk(
    run: GradientPass, chunk: _Chunk, plan: TargetPlan, batch_size: int
) -> list[InputMaps | InputFailure]:
    """The maps of the inputs of a batch, or why there are none."""
    prepared: dict[int, Prepared] = {}
    done: dict[int, InputMaps | InputFailure] = {}
    for position, future in chunk:
        try:
            prepared[position] = future.result()
        except ImageError as error:
            done[position] = InputFailure(error.source, position, error)
    for group in _by_shape(prepared):
        try:
            done |= _explain(run, group, plan, batch_size)
        except RunError as error:
            if _is_usual(group, run.spec):
                raise
            done |= _unsuitable(group, error)
    return [done[position] for position, _ in chunk]


def _prepared(
    images: ImageLike | Iterable[ImageLike],
    spec: InputSpec,
    batch_size: int,
    size: tuple[int, int] | Literal["original"] | None,
    ahead: int,
) -> Iterator[_Chunk]:
    """Batches of inputs that are being prepared, `ahead` of them begun before they are needed."""
    numbered = enumerate(iterate_images(images, spec))
    with ThreadPoolExecutor(_DECODERS, thread_name_prefix="decode") as pool:

        def begin() -> _Chunk:
            return [
                (position, pool.submit(prepare, image, position, spec, size))
                for position, image in islice(numbered, batch_size)
            ]

        begun = deque(begin() for _ in range(ahead))
        while True:
            begun.append(begin())
            if not (current := begun.popleft()):
                return
            yield current


def _by_shape(prepared: dict[int, Prepared]) -> list[dict[int, Prepared]]:
    """The inputs in groups of one shape, which a batch can hold."""
    groups: dict[tuple[int, ...], dict[int, Prepared]] = {}
    for position, image in prepared.items():
        groups.setdefault(image.array.shape, {})[position] = image
    return list(groups.values())


def _is_usual(group: dict[int, Prepared], spec: InputSpec) -> bool:
    """Whether the inputs are of the file's own size, so that a failure is not their fault."""
    return next(iter(group.values())).array.shape == spec.shape_at()


def _unsuitable(group: dict[int, Prepared], error: RunError) -> dict[int, InputMaps | InputFailure]:
    """Failures of inputs of a size that the network can't run at; others may go on."""
    failures: dict[int, InputMaps | InputFailure] = {}
    for position, image in group.items():
        reason: EngineError = error
        if not isinstance(error, OutOfMemoryError):
            reason = ImageError(
                image.source,
                f"the network does not run at an input of {image.array.shape}; it may need larger "
                f"pictures, or sides that are multiples of a number ({error})",
            )
        failures[position] = InputFailure(image.source, position, reason)
    return failures


def _explain(
    run: GradientPass, prepared: dict[int, Prepared], plan: TargetPlan, batch_size: int
) -> dict[int, InputMaps | InputFailure]:
    """All maps of one chunk of images."""
    maps: dict[tuple[int, int], SaliencyMap | DivergenceError] = {}
    classes: dict[int, list[int]] = {}
    first = run(list(prepared.values()), [plan.first] * len(prepared))
    for position, (result, scores) in zip(prepared, first, strict=True):
        best = int(np.argmax(scores))
        if isinstance(result, SaliencyMap) and plan.first < 0:
            best = result.index  # the graph's own choice among equal scores
        classes[position] = plan.classes(scores if plan.needs_scores else None, best)
        # A tie of scores can put another class first than the graph chose.
        index = best if plan.first < 0 else plan.first
        maps[position, index] = result
    rest = {
        position: [index for index in wanted if (position, index) not in maps]
        for position, wanted in classes.items()
    }
    # All images' second classes, then their third ones: batches of the same images.
    pairs = iter(
        (position, indices[rank])
        for rank in range(max(map(len, rest.values())))
        for position, indices in rest.items()
        if rank < len(indices)
    )
    while batch := list(islice(pairs, batch_size)):
        results = run([prepared[position] for position, _ in batch], [i for _, i in batch])
        maps.update({pair: result for pair, (result, _) in zip(batch, results, strict=True)})
    done: dict[int, InputMaps | InputFailure] = {}
    for position, image in prepared.items():
        own = [maps[position, index] for index in classes[position]]
        wrong = next((item for item in own if isinstance(item, DivergenceError)), None)
        done[position] = (
            InputMaps(
                image.source,
                position,
                image.picture,
                tuple(item for item in own if isinstance(item, SaliencyMap)),
            )
            if wrong is None
            else InputFailure(image.source, position, wrong)
        )
    return done


def _probability(scores: NDArray[np.float64], index: int, contract: Contract) -> float:
    """The class's probability from the classifier's own output and what it has applied to it."""
    if contract.activation == "none":
        if len(scores) == 1:
            return float(1 / (1 + np.exp(-scores[0])))
        exponentials = np.exp(scores - scores.max())
        return float(exponentials[index] / exponentials.sum())
    return float(np.exp(scores[index]) if contract.activation == "log_softmax" else scores[index])
