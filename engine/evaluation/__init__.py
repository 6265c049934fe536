"""Can a map be trusted? Metrics over any map of a picture, and what the classifier says of it."""

from deepinside.engine.evaluation.baselines import BASELINES, Baseline, baseline_of
from deepinside.engine.evaluation.curves import Curve, curve, ranking
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
    compare,
    layers_of,
    randomised,
)
from deepinside.engine.evaluation.road import imputed, removal_curve
from deepinside.engine.evaluation.scoring import Score, Scorer
from deepinside.engine.evaluation.sensitivity import sensitivity_n
from deepinside.engine.evaluation.similarity import SIMILARITIES, cosine, spearman, ssim
from deepinside.engine.evaluation.summary import Statistic, summarise

__all__ = [
    "BASELINES",
    "MODES",
    "SIMILARITIES",
    "Baseline",
    "Curve",
    "Layer",
    "Randomised",
    "Score",
    "Scorer",
    "Statistic",
    "baseline_of",
    "boxes_on_map",
    "compare",
    "cosine",
    "curve",
    "energy_inside",
    "imputed",
    "layers_of",
    "mask_on_map",
    "pointing_game",
    "randomised",
    "ranking",
    "removal_curve",
    "sensitivity_n",
    "spearman",
    "ssim",
    "summarise",
]
