"""Evaluates maps of several methods on the same pictures, the sanity check included."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepinside.engine.engine import read_contract
from deepinside.engine.errors import EngineError
from deepinside.engine.evaluation.explainers import Explainer
from deepinside.engine.evaluation.figures import Explained, Figures, Subject, figures_of
from deepinside.engine.evaluation.randomisation import randomised
from deepinside.engine.evaluation.settings import EvaluationSettings
from deepinside.engine.evaluation.similarity import SIMILARITIES

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Figures of all methods on all subjects.

    Attributes:
        figures: for each subject, method -> figures, or the error of the first that failed.
        depths: how many layers were random at each step of the sanity check.
        layers: the deepest of them.
    """

    figures: list[dict[str, Figures] | EngineError]
    depths: list[int]
    layers: list[str]


def evaluate(
    explainers: Mapping[str, Explainer],
    subjects: Sequence[Subject],
    settings: EvaluationSettings,
) -> Evaluation:
    """Evaluate some subjects, whose maps are all held in memory.

    Args:
        explainers: by the name of the method.
        subjects: pictures and classes.
        settings: which metrics.

    Raises:
        EngineError: no map can be made, or a setting is not possible.
    """
    maps = {name: explainer(subjects) for name, explainer in explainers.items()}
    found: list[dict[str, Figures] | EngineError] = []
    for number, subject in enumerate(subjects):
        own = {name: each[number] for name, each in maps.items()}
        wrong = next((each for each in own.values() if isinstance(each, EngineError)), None)
        found.append(
            wrong
            or {
                name: figures_of(each, subject)
                for name, each in own.items()
                if not isinstance(each, EngineError)
            }
        )
    if "randomisation" not in settings.metrics:
        return Evaluation(found, [], [])
    depths, layers = _randomise(explainers, subjects, maps, found, settings)
    return Evaluation(found, depths, layers)


def _randomise(
    explainers: Mapping[str, Explainer],
    subjects: Sequence[Subject],
    trained: Mapping[str, Sequence[Explained | EngineError]],
    found: Sequence[dict[str, Figures] | EngineError],
    settings: EvaluationSettings,
) -> tuple[list[int], list[str]]:
    """Add the similarities to the figures; the depths and names of the steps."""
    depths: list[int] = []
    layers: list[str] = []
    # Methods may need files of their own, whose classifier is the same.
    files = dict.fromkeys(each.file for each in explainers.values() if each.file is not None)
    with tempfile.TemporaryDirectory(prefix="deepinside-") as folder:
        for file in files:
            copies = randomised(
                file,
                read_contract(file).score.tensor,
                Path(folder),
                mode=settings.randomise,
                steps=settings.randomise_steps,
                seed=settings.seed,
            )
            depths.clear()
            layers.clear()
            for copy in copies:
                depths.append(copy.depth)
                layers.append(copy.layers[-1])
                for name, explainer in explainers.items():
                    if explainer.file == file:
                        _compare(name, explainer(subjects, copy.path), trained[name], found)
    for name, explainer in explainers.items():
        if explainer.file is None and not explainer.fixed:
            for _ in depths:
                _compare(name, explainer(subjects), trained[name], found)
    return depths, layers


def _compare(
    name: str,
    maps: Sequence[Explained | EngineError],
    trained: Sequence[Explained | EngineError],
    found: Sequence[dict[str, Figures] | EngineError],
) -> None:
    """Add one step's similarities."""
    for figures, one, other in zip(found, trained, maps, strict=True):
        if isinstance(figures, EngineError) or isinstance(one, EngineError):
            continue
        for kind, similarity in SIMILARITIES.items():
            value = None
            if not isinstance(other, EngineError):
                value = similarity(one.saliency, other.saliency)
            figures[name].randomisation.setdefault(kind, []).append(value)
