"""Where maps come from: a method run on a file, maps that another tool made, or a control."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.engine import Engine
from deepinside.engine.errors import EngineError, ImageError
from deepinside.engine.evaluation.figures import Subject
from deepinside.engine.results import InputFailure

__all__ = ["CONTROLS", "Control", "Explainer", "GivenMaps", "MethodMaps"]

Map = NDArray[np.floating]

CONTROLS = ("random", "edges")
"""Maps that know nothing of the network: noise, and the edges of the picture."""


class Explainer(Protocol):
    """Makes maps of subjects.

    Attributes:
        file: the saliency file whose network is explained; None where none is looked at.
        fixed: whether there are maps of the trained network only.
    """

    @property
    def file(self) -> Path | None: ...  # noqa: D102  (see the class)

    @property
    def fixed(self) -> bool: ...  # noqa: D102

    def __call__(
        self, subjects: Sequence[Subject], file: Path | None = None
    ) -> list[Map | EngineError]:
        """A map `(H, W)` of each subject, or why there is none.

        Args:
            subjects: pictures and classes.
            file: instead of the explainer's own, the same with other weights.

        Raises:
            EngineError: none can be made at all.
        """


@dataclass(frozen=True)
class MethodMaps:
    """Maps of the engine.

    Attributes:
        file: the saliency file.
        method: name of the method.
        device: as in `Engine`.
        batch_size: bounds the memory.
    """

    file: Path
    method: str
    device: str
    batch_size: int
    fixed: bool = False

    def __call__(
        self, subjects: Sequence[Subject], file: Path | None = None
    ) -> list[Map | EngineError]:
        """As in `Explainer`."""
        engine = Engine(file or self.file, self.device)
        found: dict[int, Map | EngineError] = {}
        for index in dict.fromkeys(subject.index for subject in subjects):
            places = [n for n, subject in enumerate(subjects) if subject.index == index]
            arrays = [engine.spec.as_input(subjects[n].image) for n in places]
            results = engine.iter_saliency(
                arrays, index, batch_size=self.batch_size, keep_gradient=False
            )
            for place, result in zip(places, results, strict=True):
                failed = isinstance(result, InputFailure)
                found[place] = result.error if failed else result.maps[0].saliency
        return [found[place] for place in range(len(subjects))]


@dataclass(frozen=True)
class Control:
    """Maps that know nothing of the network.

    Attributes:
        name: out of `CONTROLS`.
        seed: of the noise.
    """

    name: str
    seed: int = 0
    file: Path | None = None
    fixed: bool = False

    def __call__(
        self, subjects: Sequence[Subject], file: Path | None = None
    ) -> list[Map | EngineError]:
        """As in `Explainer`."""
        return [self._map(subject.image) for subject in subjects]

    def _map(self, image: Map) -> Map:
        if self.name == "random":
            return np.random.default_rng(self.seed).random(image.shape[:2])
        assert self.name == "edges"
        grey = image.mean(axis=2)
        slopes = [np.gradient(grey, axis=axis) for axis in (0, 1) if grey.shape[axis] > 1]
        return np.asarray(np.sqrt(sum(slope**2 for slope in slopes)))


@dataclass(frozen=True)
class GivenMaps:
    """Maps that any tool made, as .npy files in a folder.

    `STEM.CLASS.saliency.npy`, as `deepinside saliency` names them (CLASS begins with the index),
    comes before `STEM.npy`, which stands for every class.

    Attributes:
        folder: of the files.
    """

    folder: Path
    file: Path | None = None
    fixed: bool = True

    def __call__(
        self, subjects: Sequence[Subject], file: Path | None = None
    ) -> list[Map | EngineError]:
        """As in `Explainer`."""
        return [self._load(subject) for subject in subjects]

    def path(self, stem: str, index: int) -> Path | None:
        """The file for a picture and a class."""
        for name in sorted(self.folder.glob("*.saliency.npy")):
            words = name.name.removeprefix(f"{stem}.")
            if words != name.name and words.partition("-")[0].partition(".")[0] == str(index):
                return name
        plain = self.folder / f"{stem}.npy"
        return plain if plain.is_file() else None

    def _load(self, subject: Subject) -> Map | EngineError:
        path = self.path(subject.stem, subject.index)
        shape = subject.image.shape[:2]
        if path is None:
            return ImageError(
                subject.source,
                f"{self.folder} has no map of it: neither "
                f"{subject.stem}.{subject.index}-….saliency.npy nor {subject.stem}.npy.",
            )
        try:
            saliency = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            return ImageError(subject.source, f"its map {path} can't be read ({error}).")
        if saliency.shape != shape:
            advice = (
                "reduce it over the channels first"
                if saliency.ndim > 2
                else "resize it to the network's input"
            )
            return ImageError(
                subject.source,
                f"its map {path} has the shape {saliency.shape}, and the network sees {shape} "
                f"(height, width): {advice}.",
            )
        if saliency.dtype.kind not in "fiu" or not np.isfinite(saliency).all():
            return ImageError(
                subject.source, f"its map {path} holds infinite values, NaN or no numbers."
            )
        return np.asarray(saliency, dtype=np.float64)
