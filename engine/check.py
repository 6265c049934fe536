"""Checks a file's gradient against differences of its own score, on the runtime in use.

For a unit direction v, `(S(I + h v) - S(I - h v)) / (2 h)` must be `<gradient, v>`. In float32
this needs care:

- Aimed directions: the gradient itself, and the gradient restricted to random patches of the
  picture. Their signal is as strong as it gets, so that they measure the error precisely, and a
  gradient that is too long, shifted or mirrored fails. But they can't see where the gradient is
  zero and should not be.
- Blind directions: white noise, which sees every pixel alike. It is almost orthogonal to the
  gradient, so that its difference half drowns in rounding: a right gradient is within a few per
  cent, and 20 times the tolerance is allowed. A gradient that misses 5 % of its energy fails.
- A small h drowns in rounding, a large h leaves the linear neighbourhood and crosses the kinks of
  ReLU and MaxPool. Steps are therefore chosen by how much they should change the score, several
  are tried until one is well within the tolerance, and each group of directions counts with its
  best one. A wrong gradient fails at every step length.

The error of a group is `|d - p| / |p|` over its directions, d the differences and p the
predictions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deepinside.engine.contract import Contract
from deepinside.engine.errors import SettingError, TaskError
from deepinside.engine.inputs import InputSpec
from deepinside.engine.natural import spectrum_of
from deepinside.engine.results import CheckReport
from deepinside.engine.session import Session

__all__ = ["check_gradient", "smooth_images"]

# Changes of the score that the steps aim at, as fractions of its size.
# The likeliest to fit come first.
_AIMED_CHANGES = (3e-4, 1e-3, 1e-4, 3e-3, 1e-2)
_BLIND_CHANGES = (3e-5, 1e-4, 1e-5, 3e-4)
_PATCHES = 4
_BLIND = 8
_BLIND_ALLOWANCE = 20
_COARSE = 8  # cells per side of a smooth picture, and of the patches' grid

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Scorer:
    """Score and gradient of single images, for either task's file.

    In a file with the natural step, the images are spectra `(C, H, W)`, seen from a turned view.
    """

    session: Session
    spec: InputSpec
    target: int

    @property
    def natural(self) -> bool:
        """Whether the file holds the natural step."""
        return self.spec.contract.step_rule == "natural"

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the images."""
        return np.dtype(np.float32) if self.natural else self.spec.dtype

    def masked(self, image: Floats, mask: NDArray[np.bool_]) -> Floats:
        """An image with a mask `(H, W, 1)` laid on."""
        if self.natural:
            return image * mask[..., 0]
        return self.spec.as_input(self.spec.as_picture(image) * mask)

    def size(self, image: Floats) -> tuple[int, int]:
        """Height and width."""
        height, width = image.shape[1:] if self.natural else self.spec.as_picture(image).shape[:2]
        return height, width

    def scores(self, images: Sequence[NDArray[np.floating]], index: int) -> Floats:
        """S_c of each image, one class for all."""
        found: list[float] = []
        size = self.spec.batch or 4
        for start in range(0, len(images), size):
            part = images[start : start + size]
            batch = np.stack([*part, *[part[-1]] * (size - len(part))]).astype(self.dtype)
            output = self._run(["score"], batch, index)["score"]
            found.extend(output[: len(part)].astype(np.float64))
        return np.array(found)

    def gradient(self, image: NDArray[np.floating]) -> tuple[Floats, int]:
        """dS_c/dI and the class that it belongs to."""
        batch = np.stack([image] * (self.spec.batch or 1)).astype(self.dtype)
        if self.spec.contract.task == "saliency":
            parts = self._run(["gradient", "target_index"], batch, self.target)
            return parts["gradient"][0].astype(np.float64), int(parts["target_index"][0])
        if self.natural:
            # Adam's first moment, from 0 and before any step, is a tenth of the gradient.
            moment = self._run(["next_first_moment"], batch, max(self.target, 0))
            return moment["next_first_moment"][0].astype(np.float64) * 10, max(self.target, 0)
        # next_image - I is step_size * gradient; the picture is small against a long step.
        length = 1e4
        moved = self._run(["next_image"], batch, max(self.target, 0), length)["next_image"]
        change = moved[0].astype(np.float64) - batch[0].astype(np.float64)
        return change / length, max(self.target, 0)

    def _run(
        self, parts: list[str], batch: NDArray[np.floating], index: int, length: float = 0.0
    ) -> dict[str, NDArray[np.floating]]:
        names = self.spec.contract.names
        if self.natural:
            given = _natural_inputs(batch.astype(np.float32), index)
            outputs = self.session.run(
                [names[part] for part in parts],
                {names[part]: value for part, value in given.items()},
            )
            return dict(zip(parts, outputs, strict=True))
        feeds: dict[str, NDArray[np.generic]] = {names["image"]: batch}
        if "target" in names:
            feeds[names["target"]] = np.full(len(batch), index, dtype=np.int64)
        if self.spec.contract.task == "visualization":
            feeds[names["step_size"]] = np.asarray(length, dtype=self.spec.dtype)
            feeds[names["l2"]] = np.asarray(0, dtype=self.spec.dtype)
        outputs = self.session.run([names[part] for part in parts], feeds)
        return dict(zip(parts, outputs, strict=True))


def _natural_inputs(spectra: NDArray[np.float32], index: int) -> dict[str, NDArray[np.generic]]:
    """Inputs of a natural step whose objective is the score of one class."""
    cosine, sine = 1.1 * np.cos(0.1), 1.1 * np.sin(0.1)
    view = [cosine, -sine, 2.0, sine, cosine, -1.0]
    nothing = np.zeros((), np.float32)
    return {
        "spectrum": spectra,
        "first_moment": np.zeros_like(spectra),
        "second_moment": np.zeros_like(spectra),
        "step": np.zeros((), np.int64),
        "target": np.full((len(spectra), 1), index, dtype=np.int64),
        "weights": np.ones((len(spectra), 1), np.float32),
        "schedule": np.array([[*view, 1.0, 1.0]], np.float32),
        **dict.fromkeys(("step_size", "l2", "total_variation"), nothing),
    }


def check_gradient(
    session: Session,
    spec: InputSpec,
    images: Sequence[NDArray[np.floating]],
    *,
    target: int = -1,
    tolerance: float = 1e-2,
    seed: int = 0,
) -> CheckReport:
    """Compare the file's gradient with central differences of its score.

    Args:
        session: an open file of either task.
        spec: its image input.
        images: image inputs without batch axis; in a file with the natural step, their spectra
            are moved.
        target: class index; -1 for each image's best class (class 0 in a visualization file).
        tolerance: largest relative error that passes.
        seed: of the random directions.

    Raises:
        RunError: ONNX Runtime failed.
        SettingError: the tolerance is not positive.
        TaskError: the file's `gradient` is not meant to be the derivative, or it lacks an output.
    """
    if not tolerance > 0:
        raise SettingError(f"tolerance is {tolerance}; it must be positive.")
    _require_derivative(session, spec.contract)
    scorer = _Scorer(session, spec, target)
    record = spec.contract.preprocessing
    if scorer.natural and record is not None:
        images = [spectrum_of(spec.as_picture(image), record) for image in images]
    random = np.random.default_rng(seed)
    pairs = [_check_image(scorer, image, random, tolerance) for image in images]
    aimed, blind = (tuple(group) for group in zip(*pairs, strict=True))
    return CheckReport(
        passed=max(aimed) <= tolerance and max(blind) <= _BLIND_ALLOWANCE * tolerance,
        error=max(aimed),
        blind_error=max(blind),
        tolerance=tolerance,
        blind_tolerance=_BLIND_ALLOWANCE * tolerance,
        errors=aimed,
        blind_errors=blind,
        device=str(session.device),
    )


def smooth_images(spec: InputSpec, shape: tuple[int, ...], *, count: int, seed: int) -> Floats:
    """Random smooth pictures in normalised input space, `(count, *shape)`, deviation 1.

    Args:
        spec: the image input.
        shape: of one input.
        count: of the pictures.
        seed: of the noise that they are made from.
    """
    random = np.random.default_rng(seed)
    height, width, channels = spec.as_picture(np.empty(shape)).shape
    return np.stack([spec.as_input(_smooth(height, width, channels, random)) for _ in range(count)])


def _require_derivative(session: Session, contract: Contract) -> None:
    if contract.relu != "gradient":
        raise TaskError(
            f"{session.path} was exported with the ReLU rule {contract.relu!r}, whose result is "
            "not the derivative of the score: there is nothing to check it against."
        )
    if contract.straight_through:
        raise TaskError(
            f"{session.path} is quantised: its score is a staircase, and its gradient that of the "
            f"slope under it ({contract.straight_through} nodes are passed straight through), so "
            "that differences say nothing: check an export of the classifier before quantisation."
        )
    if contract.step_rule == "normalized":
        raise TaskError(
            f"{session.path} was exported with the step rule 'normalized', which hides the "
            "gradient's length: check an export with --step-rule plain."
        )
    needed = {"score", "gradient", "target_index"} if contract.task == "saliency" else set()
    missing = sorted(needed - contract.names.keys())
    if missing:
        raise TaskError(
            f"{session.path} lacks the output {', '.join(missing)}, which the check needs: export "
            "the classifier again with all outputs."
        )


def _check_image(
    scorer: _Scorer, image: NDArray[np.floating], random: np.random.Generator, tolerance: float
) -> tuple[float, float]:
    """Errors of the aimed and of the blind directions."""
    point = image.astype(scorer.dtype)
    gradient, index = scorer.gradient(point)
    base = float(scorer.scores([point], index)[0])
    if not np.isfinite(gradient).all() or not np.isfinite(base):
        return float("inf"), float("inf")
    aimed = _aimed_directions(gradient, scorer, random)
    blind = [_unit(random.standard_normal(gradient.shape)) for _ in range(_BLIND)]
    length = float(np.linalg.norm(gradient))
    # What one step of length 1 changes; without any gradient the score must stand still.
    scale = max(abs(base), 1e-3) / (length or 1.0)
    wide = float(np.sqrt(gradient.size)) * scale
    found = []
    for directions, steps, allowed in (
        (aimed, [change * scale for change in _AIMED_CHANGES], tolerance),
        (blind, [change * wide for change in _BLIND_CHANGES], tolerance * _BLIND_ALLOWANCE),
    ):
        best = float("inf")
        for step in steps:
            best = min(best, _error(scorer, point, gradient, index, directions, step))
            if best <= allowed / 4:
                break
        found.append(best)
    return found[0], found[1]


def _error(
    scorer: _Scorer,
    point: NDArray[np.floating],
    gradient: Floats,
    index: int,
    directions: Sequence[Floats],
    step: float,
) -> float:
    """`|d - p| / |p|` for steps of one length."""
    moved = [
        (point + sign * step * v).astype(point.dtype) for v in directions for sign in (1.0, -1.0)
    ]
    scores = scorer.scores(moved, index)
    differences = scores[0::2] - scores[1::2]
    # Moved pixels are rounded; the prediction is for the way that they really went.
    predicted = np.array(
        [
            float((gradient * (ahead.astype(np.float64) - behind)).sum())
            for ahead, behind in zip(moved[0::2], moved[1::2], strict=True)
        ]
    )
    wrong = float(np.linalg.norm(differences - predicted))
    size = float(np.linalg.norm(predicted))
    if not np.isfinite(wrong):
        return float("inf")
    return wrong / size if size else (float("inf") if wrong else 0.0)


def _aimed_directions(
    gradient: Floats, scorer: _Scorer, random: np.random.Generator
) -> list[Floats]:
    """The gradient and patches of it, unit vectors."""
    height, width = scorer.size(gradient)
    masks = [
        _smooth(height, width, 1, random, Image.Resampling.NEAREST) > 0 for _ in range(_PATCHES)
    ]
    return [_unit(gradient), *(_unit(scorer.masked(gradient, mask)) for mask in masks)]


def _unit(vector: Floats) -> Floats:
    norm = float(np.linalg.norm(vector))
    return vector / norm if norm else vector


def _smooth(
    height: int,
    width: int,
    channels: int,
    random: np.random.Generator,
    resampling: Image.Resampling = Image.Resampling.BICUBIC,
) -> Floats:
    """Coarse noise drawn large, `(H, W, C)`."""
    planes = [
        np.asarray(
            Image.fromarray(random.standard_normal((_COARSE, _COARSE), dtype=np.float32)).resize(
                (width, height), resampling
            ),
            dtype=np.float64,
        )
        for _ in range(channels)
    ]
    return np.stack(planes, axis=2)
