"""What the classifier says of changed pictures: the one thing that metrics ask a model."""

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.errors import OutOfMemoryError, TaskError
from deepinside.engine.graphfile import load_graph
from deepinside.engine.inputs import InputSpec
from deepinside.engine.probabilities import probabilities
from deepinside.engine.session import Session, SessionSettings, open_session

__all__ = ["Image", "Score", "Scorer"]

_log = logging.getLogger(__name__)

Image = NDArray[np.floating]
"""A picture as the network sees it, normalised: `(H, W, C)`."""

Score = Callable[[Iterable[Image]], NDArray[np.float64]]
"""From N pictures to N rows of scores, `(N, Q)`; one number each, `(N,)`, will do too."""


class Scorer:
    """Scores pictures with the classifier's half of a saliency file, without the gradient's.

    A context manager: the half lies in a temporary file.

    Attributes:
        quantities: what the columns of a `Score` of this are: `probability` of the class, `top1`
            (1 where it is the best class, else 0), and `logit`, the unnormalised score, where the
            file gives it.
    """

    def __init__(
        self, file: Path, spec: InputSpec, *, batch_size: int = 8, device: str = "auto"
    ) -> None:
        """Open the half.

        Args:
            file: a saliency file.
            spec: its image input.
            batch_size: pictures at once.
            device: as in `Engine`.

        Raises:
            EngineError: the file or the device does not work.
            TaskError: it is not a saliency file.
        """
        contract = spec.contract
        if contract.task != "saliency":
            raise TaskError(
                f"{file} is a {contract.task} file: export the classifier with --task saliency."
            )
        logit = contract.score.kind == "logit" and "score" in contract.names
        self.quantities = ("probability", "top1", *(("logit",) if logit else ()))
        self.spec = spec
        self._batch_size = spec.batch or batch_size
        parts = ["class_scores", *(("score",) if logit else ())]
        self._outputs = [contract.names[part] for part in parts]
        self._folder = tempfile.TemporaryDirectory(prefix="deepinside-")
        try:
            half = load_graph(file).save(Path(self._folder.name) / file.name, self._outputs)
            self._session: Session = open_session(half, SessionSettings(device=device))
        except BaseException:
            self._folder.cleanup()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        del self._session  # Windows keeps an open file
        self._folder.cleanup()

    def class_scores(self, image: Image) -> NDArray[np.float64]:
        """The classifier's own output `(K,)` for one picture."""
        scores, _ = self._run([image], 0)
        return scores.reshape(-1)

    def of_class(self, index: int) -> Score:
        """The scores of one class: pictures to `(N, Q)`, Q as in `quantities`."""

        def score(images: Iterable[Image]) -> NDArray[np.float64]:
            source: Iterator[Image] = iter(images)
            rows = []
            while batch := list(islice(source, self._batch_size)):
                rows.append(self._rows(batch, index))
            return np.concatenate(rows) if rows else np.empty((0, len(self.quantities)))

        return score

    def _rows(self, batch: Sequence[Image], index: int) -> NDArray[np.float64]:
        scores, logits = self._run(batch, index)
        columns = [
            probabilities(scores, self.spec.contract.activation)[:, index],
            (scores.argmax(axis=1) == index).astype(np.float64),
            *([] if logits is None else [logits]),
        ]
        return np.stack(columns, axis=1)

    def _run(
        self, images: Sequence[Image], index: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Class scores `(N, K)` and the logits of a class `(N,)`."""
        count, names = len(images), self.spec.contract.names
        batch = np.stack([self.spec.as_input(image) for image in images]).astype(self.spec.dtype)
        if self.spec.batch is not None:
            batch = np.concatenate([batch, np.repeat(batch[-1:], self.spec.batch - count, axis=0)])
        feeds: dict[str, NDArray[Any]] = {names["image"]: batch}
        if names.get("target") in self._session.inputs:
            feeds[names["target"]] = np.full(len(batch), index, dtype=np.int64)
        try:
            outputs = self._session.run(self._outputs, feeds)
        except OutOfMemoryError as error:
            if count == 1 or self.spec.batch is not None:
                raise
            self._batch_size = half = count // 2
            _log.warning("%s Going on with batches of %d.", error, half)
            first, second = self._run(images[:half], index), self._run(images[half:], index)
            logits = (
                None
                if first[1] is None or second[1] is None
                else np.concatenate([first[1], second[1]])
            )
            return np.concatenate([first[0], second[0]]), logits
        scores, *rest = (output[:count].astype(np.float64) for output in outputs)
        return scores.reshape(count, -1), rest[0].reshape(-1) if rest else None
