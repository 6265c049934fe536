"""Can a map be trusted? Metrics over any map of a picture, and what the classifier says of it."""

from deepinside.engine.evaluation.baselines import BASELINES, Baseline, baseline_of
from deepinside.engine.evaluation.curves import Curve, curve, ranking
from deepinside.engine.evaluation.evaluate import Evaluation, evaluate
from deepinside.engine.evaluation.explainers import (
    CONTROLS,
    Control,
    Explainer,
    GivenMaps,
    MethodMaps,
)
from deepinside.engine.evaluation.figures import Explained, Figures, Subject, figures_of
from deepinside.engine.evaluation.localisation import (
    boxes_on_map,
    energy_inside,
    mask_on_map,
    pointing_game,
)
from deepinside.engine.evaluation.randomisation import (
    MODES,
    Layer,
    Randomised,
    layers_of,
    randomised,
)
from deepinside.engine.evaluation.road import imputed, removal_curve
from deepinside.engine.evaluation.scoring import Score, Scorer
from deepinside.engine.evaluation.sensitivity import Removals, remove_at_random
from deepinside.engine.evaluation.settings import METRICS, EvaluationSettings
from deepinside.engine.evaluation.similarity import SIMILARITIES, cosine, spearman, ssim
from deepinside.engine.evaluation.summary import Running, Statistic, summarise

__all__ = [
    "BASELINES",
    "CONTROLS",
    "METRICS",
    "MODES",
    "SIMILARITIES",
    "Baseline",
    "Control",
    "Curve",
    "Evaluation",
    "EvaluationSettings",
    "Explained",
    "Explainer",
    "Figures",
    "GivenMaps",
    "Layer",
    "MethodMaps",
    "Randomised",
    "Removals",
    "Running",
    "Score",
    "Scorer",
    "Statistic",
    "Subject",
    "baseline_of",
    "boxes_on_map",
    "cosine",
    "curve",
    "energy_inside",
    "evaluate",
    "figures_of",
    "imputed",
    "layers_of",
    "mask_on_map",
    "pointing_game",
    "randomised",
    "ranking",
    "removal_curve",
    "remove_at_random",
    "spearman",
    "ssim",
    "summarise",
]
