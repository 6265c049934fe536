"""How maps are evaluated."""

from dataclasses import dataclass
from typing import Literal, get_args

from deepinside.engine.errors import SettingError
from deepinside.engine.evaluation.baselines import BASELINES, Baseline
from deepinside.engine.evaluation.randomisation import MODES, Mode
from deepinside.engine.evaluation.road import SHARES
from deepinside.engine.packages import require_package

__all__ = ["METRICS", "EvaluationSettings", "Metric"]

Metric = Literal["curves", "road", "sensitivity", "localisation", "randomisation"]
METRICS: tuple[Metric, ...] = get_args(Metric)


@dataclass(frozen=True)
class EvaluationSettings:
    """Which metrics, and with which numbers.

    Attributes:
        metrics: names out of `METRICS`.
        insertion_from: what insertion starts from.
        deletion_to: what deleted pixels become, in sensitivity-n too.
        steps: of insertion and deletion.
        road_shares: of the pixels that ROAD removes.
        sensitivity_shares: of the pixels that sensitivity-n removes at once.
        sensitivity_samples: sets of each size.
        tolerance: of the pointing game, in pixels of the map.
        randomise: mode of the sanity check.
        randomise_steps: layers at which it stops.
        seed: of all that is random.
    """

    metrics: tuple[Metric, ...] = ("curves", "road", "sensitivity", "randomisation")
    insertion_from: Baseline = "blur"
    deletion_to: Baseline = "mean"
    steps: int = 32
    road_shares: tuple[float, ...] = SHARES
    sensitivity_shares: tuple[float, ...] = (0.01, 0.1, 0.5)
    sensitivity_samples: int = 64
    tolerance: int = 15
    randomise: Mode = "cascading"
    randomise_steps: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        """Check what can be checked without a picture.

        Raises:
            PackageMissingError: a metric's package is not installed.
            SettingError: a value is not possible.
        """
        for name, value, possible in (
            *(("metric", metric, METRICS) for metric in self.metrics),
            ("insertion_from", self.insertion_from, BASELINES),
            ("deletion_to", self.deletion_to, BASELINES),
            ("randomise", self.randomise, MODES),
        ):
            if value not in possible:
                choices = ", ".join(possible)
                raise SettingError(f"{name} can't be {value!r}; possible: {choices}.")
        for name, number, least in (
            ("steps", self.steps, 1),
            ("sensitivity_samples", self.sensitivity_samples, 2),
            ("tolerance", self.tolerance, 0),
            ("randomise_steps", self.randomise_steps, 1),
            ("seed", self.seed, 0),
        ):
            if number < least:
                raise SettingError(f"{name} is {number}; it must be at least {least}.")
        if "road" in self.metrics:
            require_package("scipy", "the metric road", "evaluate")
        if "randomisation" in self.metrics:
            require_package("skimage", "the metric randomisation", "evaluate")
