"""Saliency maps: one gradient per picture and class, in batches of bounded size.

Simonyan et al. 2014, section 3. ONNX Runtime computes the whole graph whatever outputs are asked
for, so no pass is spent on scores alone: the first pass explains each picture's first class and
gives the scores that choose the others.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from typing import Literal

import numpy as np

from deepinside.engine.contract import Contract
from deepinside.engine.errors import (
    EngineError,
    ImageError,
    OutOfMemoryError,
    RunError,
    TargetError,
)
from deepinside.engine.inputs import (
    ImageFile,
    ImageLike,
    InputSpec,
    Prepared,
    iterate_images,
    prepare,
)
from deepinside.engine.lanes import in_lanes
from deepinside.engine.passes import GradientPass, best_classes
from deepinside.engine.refinement import Found, refine
from deepinside.engine.results import ClassScore, InputFailure, InputMaps, SaliencyMap
from deepinside.engine.targets import TargetPlan, plan_targets

__all__ = ["saliency_batches"]

_DECODERS = min(4, os.cpu_count() or 1)  # threads; Pillow lets others run while it decodes


@dataclass(frozen=True, eq=False)
class _Begun:
    """An input that is being prepared, and the classes that are wanted of it."""

    position: int
    name: str
    plan: TargetPlan | TargetError
    prepared: Future[Prepared]


_Results = tuple[list[int], dict[int, InputMaps | InputFailure]]


def saliency_batches(
    passes: Sequence[GradientPass],
    images: ImageLike | Iterable[ImageLike],
    plan: TargetPlan,
    *,
    batch_size: int,
    size: tuple[int, int] | Literal["original"] | None = None,
    ahead: int = 0,
    picture_pixels: int | None = None,
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
        picture_pixels: as in `Engine.iter_saliency`.
    """
    spec = passes[0].spec
    if spec.batch is not None:
        batch_size = spec.batch
    work = partial(prepare, spec=spec, size=size, picture_pixels=picture_pixels)
    begun = _begun(iterate_images(images, spec), work, plan, spec.contract)

    def explain(run: GradientPass, chunk: list[_Begun]) -> _Results:
        positions = [item.position for item in chunk]
        done = _results(run, chunk, batch_size)
        # Nothing else holds the pictures: each goes as soon as the caller is done with it.
        chunk.clear()
        return positions, done

    chunks = _chunks(begun, batch_size, ahead)
    for positions, done in in_lanes(passes if ahead else passes[:1], chunks, explain):
        for position in positions:
            yield done.pop(position)


def _results(
    run: GradientPass, chunk: Sequence[_Begun], batch_size: int
) -> dict[int, InputMaps | InputFailure]:
    """The maps of the inputs of a batch, or why there are none."""
    prepared: dict[int, Prepared] = {}
    plans: dict[int, TargetPlan] = {}
    done: dict[int, InputMaps | InputFailure] = {}
    for item in chunk:
        try:
            image = item.prepared.result()
        except ImageError as error:
            done[item.position] = InputFailure(error.source, item.position, error)
            continue
        if isinstance(item.plan, TargetError):
            reason = TargetError(f"{item.name}: {item.plan}", item.plan.candidates)
            done[item.position] = InputFailure(image.source, item.position, reason)
        else:
            prepared[item.position], plans[item.position] = image, item.plan
    for group in _by_shape(prepared):
        try:
            done |= _explain(run, group, plans, batch_size)
        except RunError as error:
            if _is_usual(group, run.spec):
                raise
            done |= _unsuitable(group, error)
    return done


def _begun(
    images: Iterator[ImageLike],
    work: Callable[[ImageLike, int], Prepared],
    plan: TargetPlan,
    contract: Contract,
) -> Iterator[_Begun]:
    """Inputs in threads, begun when they are asked for."""
    planned = lru_cache(maxsize=1024)(partial(plan_targets, contract=contract))
    with ThreadPoolExecutor(_DECODERS, thread_name_prefix="decode") as pool:
        for position, image in enumerate(images):
            wanted: TargetPlan | TargetError = plan
            name = f"#{position}"
            if isinstance(image, ImageFile):
                name = image.name
                if image.target is not None:
                    try:
                        wanted = planned(_hashable(image.target))
                    except TargetError as error:
                        wanted = error
            yield _Begun(position, name, wanted, pool.submit(work, image, position))


def _hashable(target: int | str | Sequence[int | str]) -> int | str | tuple[int | str, ...]:
    return target if isinstance(target, (int, str)) else tuple(target)


def _chunks(begun: Iterator[_Begun], batch_size: int, ahead: int) -> Iterator[list[_Begun]]:
    """Batches of inputs, `ahead` of them begun before they are needed."""
    waiting = deque(list(islice(begun, batch_size)) for _ in range(ahead))
    while True:
        waiting.append(list(islice(begun, batch_size)))
        if not waiting[0]:
            return
        yield waiting.popleft()


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
    run: GradientPass,
    prepared: dict[int, Prepared],
    plans: dict[int, TargetPlan],
    batch_size: int,
) -> dict[int, InputMaps | InputFailure]:
    """All maps of one chunk of images."""
    maps: dict[tuple[int, int], Found] = {}
    classes: dict[int, list[int]] = {}
    tops: dict[int, tuple[ClassScore, ...]] = {}
    first = run(list(prepared.values()), [plans[position].first for position in prepared])
    for position, (result, scores) in zip(prepared, first, strict=True):
        plan = plans[position]
        best = int(np.argmax(scores))
        if isinstance(result, SaliencyMap) and plan.first < 0:
            best = result.index  # the graph's own choice among equal scores
        classes[position] = plan.classes(scores if plan.needs_scores else None, best)
        # A tie of scores can put another class first than the graph chose.
        index = best if plan.first < 0 else plan.first
        maps[position, index] = result
        tops[position] = best_classes(scores, run.spec.contract)
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
    if not (run.method.one_gradient or run.in_file):
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
                tops[position],
            )
            if wrong is None
            else InputFailure(image.source, position, wrong)
        )
    return done
