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
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

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
from deepinside.engine.results import InputFailure, InputMaps, SaliencyMap
from deepinside.engine.session import Session
from deepinside.engine.targets import TargetPlan

__all__ = ["GradientPass", "saliency_batches"]

_log = logging.getLogger(__name__)

_DECODERS = min(4, os.cpu_count() or 1)  # threads; Pillow lets others run while it decodes


@dataclass(frozen=True, eq=False)
class GradientPass:
    """Runs a saliency file on prepared images.

    Attributes:
        session: the open file.
        spec: its image input.
        keep_gradient: whether the maps hold the gradient.
    """

    session: Session
    spec: InputSpec
    keep_gradient: bool

    def __call__(
        self, images: Sequence[Prepared], targets: Sequence[int]
    ) -> list[tuple[SaliencyMap | DivergenceError, NDArray[Any]]]:
        """One map, or why there is none, and all classes' scores `(K,)`, per image.

        A batch that the device's memory does not hold is run in halves.

        Args:
            images: at most a fixed batch size of the file.
            targets: class index per image; -1 for its best class.

        Raises:
            RunError: ONNX Runtime failed.
        """
        try:
            parts = self._run(np.stack([image.array for image in images]), targets)
        except OutOfMemoryError as error:
            if len(images) == 1 or self.spec.batch is not None:
                raise
            half = len(images) // 2
            _log.warning("%s Going on with batches of %d.", error, half)
            return self(images[:half], targets[:half]) + self(images[half:], targets[half:])
        scores = np.asarray(parts["class_scores"], dtype=np.float64).reshape(len(images), -1)
        return [
            (self._map(image, n, targets[n], parts, scores[n]), scores[n])
            for n, image in enumerate(images)
        ]

    def _run(self, batch: NDArray[Any], targets: Sequence[int]) -> dict[str, NDArray[Any]]:
        names, count = self.spec.contract.names, len(batch)
        wanted = [part for part in ("score", "target_index", "saliency") if part in names]
        if "gradient" in names and (self.keep_gradient or "saliency" not in names):
            wanted.append("gradient")
        elif "saliency" not in names:
            raise TaskError(
                f"{self.session.path} gives neither saliency nor gradient: export the classifier "
                "again with these outputs."
            )
        indices = np.asarray(targets, dtype=np.int64)
        if self.spec.batch is not None:
            missing = self.spec.batch - count
            batch = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
            indices = np.concatenate([indices, np.repeat(indices[-1:], missing)])
        feeds = {names["image"]: batch}
        if "target" in names:
            feeds[names["target"]] = indices
        wanted.append("class_scores")
        outputs = self.session.run([names[part] for part in wanted], feeds)
        return {part: output[:count] for part, output in zip(wanted, outputs, strict=True)}

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
    run: GradientPass,
    images: ImageLike | Iterable[ImageLike],
    plan: TargetPlan,
    *,
    batch_size: int,
    size: tuple[int, int] | Literal["original"] | None = None,
    ahead: int = 0,
) -> Iterator[InputMaps | InputFailure]:
    """The maps of each input, in order; `1 + ahead` batches of inputs are held at a time.

    Threads decode; while a batch runs, those that are read ahead. A bad input gives an
    `InputFailure` and the others go on. Inputs of one size run together.
    """
    if run.spec.batch is not None:
        batch_size = run.spec.batch
    for chunk in _prepared(images, run.spec, batch_size, size, ahead):
        prepared: dict[int, Prepared] = {}
        failures: dict[int, InputFailure] = {}
        for position, future in chunk:
            try:
                prepared[position] = future.result()
            except ImageError as error:
                failures[position] = InputFailure(error.source, position, error)
        done: dict[int, InputMaps | InputFailure] = {**failures}
        for group in _by_shape(prepared):
            try:
                done |= _explain(run, group, plan, batch_size)
            except RunError as error:
                if _is_usual(group, run.spec):
                    raise
                done |= _unsuitable(group, error)
        for position, _ in chunk:
            yield done[position]


def _prepared(
    images: ImageLike | Iterable[ImageLike],
    spec: InputSpec,
    batch_size: int,
    size: tuple[int, int] | Literal["original"] | None,
    ahead: int,
) -> Iterator[list[tuple[int, Future[Prepared]]]]:
    """Batches of inputs that are being prepared, `ahead` of them begun before they are needed."""
    numbered = enumerate(iterate_images(images, spec))
    with ThreadPoolExecutor(_DECODERS, thread_name_prefix="decode") as pool:

        def begin() -> list[tuple[int, Future[Prepared]]]:
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
    pairs = iter(
        (position, index)
        for position, wanted in classes.items()
        for index in wanted
        if (position, index) not in maps
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
