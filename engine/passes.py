"""One run of a saliency file over a batch: from prepared images to maps."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.binding import Run
from deepinside.engine.contract import Contract
from deepinside.engine.errors import DivergenceError, OutOfMemoryError, TaskError
from deepinside.engine.inputs import InputSpec, Prepared
from deepinside.engine.methods import Method
from deepinside.engine.probabilities import probabilities
from deepinside.engine.results import ClassScore, SaliencyMap
from deepinside.engine.session import Session

__all__ = ["GradientPass", "best_classes"]

_log = logging.getLogger(__name__)


class GradientPass:
    """Runs a saliency file on prepared images, a batch at a time.

    Attributes:
        session: the open file.
        spec: its image input.
        method: of the maps.
        keep: whether the maps hold gradient and attribution.
    """

    def __init__(
        self,
        session: Session,
        spec: InputSpec,
        method: Method,
        *,
        keep: bool,
        run: Run | None = None,
        fixed: int | None = None,
    ) -> None:
        """Choose what runs the file.

        Args:
            session: an open saliency file.
            spec: its image input.
            method: of the maps.
            keep: whether the maps hold gradient and attribution.
            run: runs the session; None for the session itself.
            fixed: batch that smaller ones are filled up to, where the file leaves it open.
        """
        self.session = session
        self.spec = spec
        self.method = method
        self.keep = keep
        self._run = run or session.run
        self._most: int | None = None  # images that have turned out to fit into memory
        self._fixed = fixed
        self._stacked: tuple[list[NDArray[Any]], NDArray[Any]] = ([], np.empty(0))

    def __call__(
        self, images: Sequence[Prepared], targets: Sequence[int]
    ) -> list[tuple[SaliencyMap | DivergenceError, NDArray[Any]]]:
        """One map, or why there is none, and all classes' scores `(K,)`, per image.

        Args:
            images: at most a fixed batch size of the file.
            targets: class index per image; -1 for its best class.

        Raises:
            RunError: ONNX Runtime failed.
        """
        parts = self.run([image.array for image in images], targets, self._wanted())
        scores = np.asarray(parts["class_scores"], dtype=np.float64).reshape(len(images), -1)
        return [
            (self._map(image, n, targets[n], parts, scores[n]), scores[n])
            for n, image in enumerate(images)
        ]

    def run(
        self, images: Sequence[NDArray[Any]], targets: Sequence[int], wanted: Sequence[str]
    ) -> dict[str, NDArray[Any]]:
        """Parts of the contract, with batch axis, for inputs without one.

        A batch that the device's memory does not hold is run in halves, and later ones too.

        Args:
            images: at most a fixed batch size of the file.
            targets: class index per image; -1 for its best class.
            wanted: parts.

        Raises:
            RunError: ONNX Runtime failed.
        """
        most = self._most or len(images)
        if len(images) > most:
            starts = range(0, len(images), most)
            runs = [self.run(images[i : i + most], targets[i : i + most], wanted) for i in starts]
            return {part: np.concatenate([found[part] for found in runs]) for part in wanted}
        try:
            return self._compute(images, targets, wanted)
        except OutOfMemoryError as error:
            if len(images) == 1 or self.spec.batch is not None:
                raise
            self._most = (len(images) + 1) // 2
            self._fixed = self._fixed and self._most
            _log.warning("%s Going on with batches of %d.", error, self._most)
        return self.run(images, targets, wanted)

    def _compute(
        self, images: Sequence[NDArray[Any]], targets: Sequence[int], wanted: Sequence[str]
    ) -> dict[str, NDArray[Any]]:
        names, count = self.spec.contract.names, len(images)
        batch = self._stack(images)
        feeds = {names["image"]: batch}
        if "target" in names:
            indices = np.asarray(targets, dtype=np.int64)
            spare = np.repeat(indices[-1:], len(batch) - count)
            feeds[names["target"]] = np.concatenate([indices, spare])
        outputs = self._run([names[part] for part in wanted], feeds)
        return {part: output[:count] for part, output in zip(wanted, outputs, strict=True)}

    def _stack(self, images: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """The images as one array, filled up where the batch is fixed.

        The next class of the same images gets the same array, which then is on the device already.
        """
        size = self.spec.batch or self._fixed or len(images)
        before, batch = self._stacked
        same = all(one is other for one, other in zip(before, images, strict=False))
        if same and len(before) == len(images) and len(batch) == size:
            return batch
        batch = np.stack([*images, *[images[-1]] * (size - len(images))])
        self._stacked = (list(images), batch)
        return batch

    def _wanted(self) -> list[str]:
        """The parts to ask the file for.

        Raises:
            TaskError: it has not what the method needs.
        """
        names = self.spec.contract.names
        wanted = [part for part in ("score", "target_index") if part in names]
        if self.in_file:
            return [*wanted, *self._wanted_of_method(), "class_scores"]
        plain = self.method.one_gradient and not self.method.gives_shares
        needs_gradient = not plain or "saliency" not in names
        if needs_gradient and "gradient" not in names:
            lacking = "no gradient" if "saliency" in names else "neither saliency nor gradient"
            raise TaskError(
                f"{self.session.path} gives {lacking}: export the classifier again with these "
                "outputs."
            )
        if "gradient" in names and (self.keep or needs_gradient):
            wanted.append("gradient")
        if not needs_gradient:
            wanted.append("saliency")
        return [*wanted, "class_scores"]

    @property
    def in_file(self) -> bool:
        """Whether the file computes the method as a whole."""
        return self.spec.contract.method is not None

    def _wanted_of_method(self) -> list[str]:
        names = self.spec.contract.names
        wanted = [part for part in ("completeness_gap", "baseline_score") if part in names]
        if "saliency" in names:
            wanted.append("saliency")
        elif "attribution" not in names:
            raise TaskError(
                f"{self.session.path} gives neither saliency nor attribution: export the "
                "classifier again with these outputs."
            )
        if "attribution" in names and (self.keep or "saliency" not in names):
            wanted.append("attribution")
        return wanted

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
        # Copies: a view would keep the whole batch in memory.
        gradient = parts["gradient"][n].copy() if "gradient" in parts else None
        attribution = parts["attribution"][n].copy() if "attribution" in parts else gradient
        if self.method.name == "input-x-gradient":
            assert gradient is not None
            attribution = image.array * gradient
        if "saliency" in parts:
            saliency = np.array(parts["saliency"][n], dtype=np.float32)
        else:
            assert attribution is not None
            saliency = self.reduce(attribution)
        if not np.isfinite(saliency).all():
            return DivergenceError(
                f"{image.source}: the gradient of class {index} is infinite or not a number in "
                f"{self.session.path.name}: try another precision or device."
            )
        return SaliencyMap(
            saliency=saliency,
            gradient=gradient if self.keep else None,
            score=float(parts["score"][n]) if "score" in parts else None,
            probability=float(probabilities(scores, contract.activation)[index]),
            index=index,
            label=contract.label(index),
            source=image.source,
            region=image.region,
            size=image.size,
            method=self.method,
            attribution=attribution if self.keep else None,
            signed=self.signed(attribution),
            **{
                part: float(parts[part][n])
                for part in ("completeness_gap", "baseline_score")
                if part in parts
            },
        )

    def reduce(self, attribution: NDArray[np.floating]) -> NDArray[np.float32]:
        """The map `(H, W)` of an attribution in the model's layout.

        The largest magnitude over the channels (Simonyan et al. 2014); of shares of a score, the
        magnitude of their sum.
        """
        picture = self.spec.as_picture(attribution).astype(np.float32)
        if self.method.gives_shares:
            return np.asarray(np.abs(picture.sum(axis=2)))
        return np.asarray(np.abs(picture).max(axis=2))

    def signed(self, attribution: NDArray[np.floating] | None) -> NDArray[np.float32] | None:
        """The sum over the channels `(H, W)`, where it is to be kept and means something."""
        if attribution is None or not self.keep or not self.method.signed:
            return None
        picture = self.spec.as_picture(attribution)
        return np.asarray(picture.sum(axis=2, dtype=np.float32))


def best_classes(
    scores: NDArray[np.float64], contract: Contract, count: int = 5
) -> tuple[ClassScore, ...]:
    """The classes with the best scores `(K,)`, best first; equal ones in the order of classes."""
    order = np.argsort(-scores, kind="stable")[:count]
    shares = probabilities(scores, contract.activation)
    return tuple(
        ClassScore(int(index), contract.label(int(index)), float(shares[index])) for index in order
    )
