"""Saliency maps: one gradient per picture and class, in batches of bounded size.

Simonyan et al. 2014, section 3. ONNX Runtime computes the whole graph whatever outputs are asked
for, so no pass is spent on scores alone: the first pass explains each picture's first class and
gives the scores that choose the others.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Literal

import numpy as np

from deepinside.engine.errors import (
    EngineError,
    ImageError,
    OutOfMemoryError,
    RunError,
)
from deepinside.engine.inputs import ImageLike, InputSpec, Prepared, iterate_images, prepare
from deepinside.engine.passes import GradientPass
from deepinside.engine.refinement import Found, refine
from deepinside.engine.results import InputFailure, InputMaps, SaliencyMap
from deepinside.engine.targets import TargetPlan

__all__ = ["saliency_batches"]

_DECODERS = min(4, os.cpu_count() or 1)  # threads; Pillow lets others run while it decodes


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
    maps: dict[tuple[int, int], Found] = {}
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
    if not run.method.one_gradient:
        wanted_pairs = {(position, index) for position in classes for index in classes[position]}
        maps = {pair: found for pair, found in maps.items() if pair in wanted_pairs}
        maps = refine(run, prepared, maps, batch_size)
    done: dict[int, InputMaps | InputFailure] = {}
    for position, image in prepared.items():
        own = [maps[position, index] for index in classes[position]]
        wrong = next((item for item in own if isinstance(item, EngineError)), None)
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
