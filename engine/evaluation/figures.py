"""All figures of one map: what the metrics say of it, by name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.evaluation.baselines import baseline_of
from deepinside.engine.evaluation.curves import Curve, curve, ranking
from deepinside.engine.evaluation.localisation import energy_inside, pointing_game
from deepinside.engine.evaluation.road import removal_curve
from deepinside.engine.evaluation.scoring import Image, Score
from deepinside.engine.evaluation.sensitivity import Removals, remove_at_random
from deepinside.engine.evaluation.settings import EvaluationSettings
from deepinside.engine.record import Preprocessing

__all__ = ["Explained", "Figures", "Subject", "figures_of"]


@dataclass(frozen=True, eq=False)
class Subject:
    """A picture and a class, of which maps are evaluated.

    Attributes:
        source: path or name of the picture.
        stem: its file name without ending, by which given maps are found.
        image: as the network sees it, `(H, W, C)`.
        index: of the class.
        label: of the class, where there is one.
        score: from pictures to that class's scores `(N, Q)`.
        quantities: what the Q columns are.
        record: the file's preprocessing.
        inside: `(H, W)`, where the object is; None where that is not known.
        settings: of the evaluation.
    """

    source: str
    stem: str
    image: Image
    index: int
    label: str | None
    score: Score
    quantities: tuple[str, ...]
    record: Preprocessing | None
    inside: NDArray[np.bool_] | None
    settings: EvaluationSettings

    @cached_property
    def deleted(self) -> Image:
        """What deleted pixels become."""
        return baseline_of(self.image, self.settings.deletion_to, self.record)

    @cached_property
    def inserted_into(self) -> Image:
        """What insertion starts from."""
        return baseline_of(self.image, self.settings.insertion_from, self.record)

    @cached_property
    def removals(self) -> Removals:
        """Random sets of pixels, removed; the same for all maps."""
        pixels = self.image.shape[0] * self.image.shape[1]
        counts = [max(1, round(share * pixels)) for share in self.settings.sensitivity_shares]
        return remove_at_random(
            self.score,
            self.image,
            self.deleted,
            counts=counts,
            samples=self.settings.sensitivity_samples,
            seed=self.settings.seed,
        )


@dataclass(frozen=True, eq=False)
class Explained:
    """A map of a subject.

    Attributes:
        saliency: `(H, W)`; larger is more important.
        attribution: `(H, W)`, with a sign, where the method gives shares of the score; their sums
            are what sensitivity-n looks at. None where the map itself has to do.
    """

    saliency: NDArray[np.floating]
    attribution: NDArray[np.floating] | None = None


@dataclass(frozen=True, eq=False)
class Figures:
    """What the metrics say of a map.

    Attributes:
        numbers: by name, such as `deletion.probability`.
        curves: `insertion`, `deletion`, `road_most`, `road_least`, whose values are `(S, Q)`.
        randomisation: similarity -> its value at each step of the sanity check; None where the
            randomised network gave no map.
    """

    numbers: dict[str, float]
    curves: dict[str, Curve]
    randomisation: dict[str, list[float | None]] = field(default_factory=dict)


def figures_of(explained: Explained, subject: Subject) -> Figures:
    """All metrics that take a map and its picture, without the sanity check.

    Args:
        explained: the map.
        subject: what it is a map of.

    Raises:
        EngineError: a setting is not possible for this picture, or the classifier failed.
    """
    settings, image, score = subject.settings, subject.image, subject.score
    saliency = explained.saliency
    numbers: dict[str, float] = {}
    curves: dict[str, Curve] = {}
    order = ranking(saliency, seed=settings.seed)
    if "curves" in settings.metrics:
        for name, start, end in (
            ("insertion", subject.inserted_into, image),
            ("deletion", image, subject.deleted),
        ):
            curves[name] = curve(score, start, end, order, steps=settings.steps)
            numbers |= _named(name, curves[name].area, subject)
    if "road" in settings.metrics:
        for name, least_first in (("road_most", False), ("road_least", True)):
            curves[name] = removal_curve(
                score,
                image,
                order,
                shares=settings.road_shares,
                least_first=least_first,
                seed=settings.seed,
            )
            numbers |= _named(name, curves[name].area, subject)
        numbers |= _named("road", curves["road_least"].area - curves["road_most"].area, subject)
    if "sensitivity" in settings.metrics:
        attribution = explained.attribution
        found = subject.removals.sensitivity(saliency if attribution is None else attribution)
        numbers |= _named("sensitivity", found.mean(axis=0), subject)
        for share, values in zip(settings.sensitivity_shares, found, strict=True):
            numbers |= _named(f"sensitivity_{share:g}", values, subject)
    if "localisation" in settings.metrics and subject.inside is not None:
        numbers["pointing"] = float(
            pointing_game(saliency, subject.inside, tolerance=settings.tolerance)
        )
        numbers["energy"] = energy_inside(saliency, subject.inside)
        numbers["object_area"] = float(subject.inside.mean())
    return Figures(numbers, curves)


def _named(name: str, values: NDArray[np.float64], subject: Subject) -> Mapping[str, float]:
    return {
        f"{name}.{quantity}": float(value)
        for quantity, value in zip(subject.quantities, values, strict=True)
    }
