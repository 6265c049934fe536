"""Where maps come from: a method run on a file, maps that another tool made, or a control."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.engine import Engine
from deepinside.engine.errors import EngineError, ImageError
from deepinside.engine.evaluation.figures import Explained, Subject
from deepinside.engine.files import load_array
from deepinside.engine.methods import Method
from deepinside.engine.results import InputFailure, SaliencyMap

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
    ) -> list[Explained | EngineError]:
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
        method: name of the method, or one with its settings.
        device: as in `Engine`.
        batch_size: bounds the memory.
    """

    file: Path
    method: str | Method
    device: str
    batch_size: int
    fixed: bool = False

    def __call__(
        self, subjects: Sequence[Subject], file: Path | None = None
    ) -> list[Explained | EngineError]:
        """As in `Explainer`."""
        engine = Engine(file or self.file, self.device)
        found: dict[int, Explained | EngineError] = {}
        for index in dict.fromkeys(subject.index for subject in subjects):
            places = [n for n, subject in enumerate(subjects) if subject.index == index]
            arrays = [engine.spec.as_input(subjects[n].image) for n in places]
            results = engine.iter_saliency(
                arrays, index, method=self.method, batch_size=self.batch_size
            )
            for place, result in zip(places, results, strict=True):
                if isinstance(result, InputFailure):
                    found[place] = result.error
                else:
                    found[place] = _explained(result.maps[0], engine)
        return [found[place] for place in range(len(subjects))]


def _explained(found: SaliencyMap, engine: Engine) -> Explained:
    shares = None
    if found.method.gives_shares and found.attribution is not None:
        shares = engine.spec.as_picture(found.attribution).sum(axis=2, dtype=np.float64)
    return Explained(found.saliency, shares)


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
    ) -> list[Explained | EngineError]:
        """As in `Explainer`."""
        return [Explained(self._map(subject.image)) for subject in subjects]

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
    ) -> list[Explained | EngineError]:
        """As in `Explainer`."""
        return [self._load(subject) for subject in subjects]

    def paths(self, stem: str, index: int) -> list[Path]:
        """The files for a picture and a class: several where methods stand beside one another."""
        start = f"{stem}.{index}"
        named = [
            path
            for path in sorted(self.folder.glob("*.saliency.npy"))
            if path.name.startswith((f"{start}.", f"{start}-"))
        ]
        plain = self.folder / f"{stem}.npy"
        return named or ([plain] if plain.is_file() else [])

    def _load(self, subject: Subject) -> Explained | EngineError:
        paths = self.paths(subject.stem, subject.index)
        if len(paths) != 1:
            names = ", ".join(path.name for path in paths)
            start = f"{subject.stem}.{subject.index}"
            return ImageError(
                subject.source,
                f"{self.folder} has several maps of it ({names}): give a folder with one."
                if paths
                else f"{self.folder} has no map of it: neither {start}-….saliency.npy, as "
                f"deepinside saliency writes it, nor {subject.stem}.npy.",
            )
        try:
            saliency = load_array(paths[0])
        except (OSError, ValueError) as error:
            return ImageError(subject.source, f"its map {paths[0]} can't be read ({error}).")
        problem = _problem(saliency, subject.image.shape[:2])
        if problem is not None:
            return ImageError(subject.source, f"its map {paths[0]} {problem}.")
        return Explained(np.asarray(saliency, dtype=np.float64))


def _problem(saliency: NDArray[np.generic], shape: tuple[int, ...]) -> str | None:
    """Why an array is no map of a picture of this shape."""
    if saliency.shape != shape:
        advice = "resize it to the network's input"
        if saliency.ndim != 2:
            advice = "a map has one number per pixel, so reduce it over the channels first"
        return (
            f"has the shape {saliency.shape}, and the network sees {shape} (height, width): "
            f"{advice}"
        )
    if saliency.dtype.kind not in "fiu":
        return f"holds {saliency.dtype}, not numbers"
    if not np.isfinite(saliency).all():
        return "holds infinite values or NaN"
    return None
