"""From the plain maps of a chunk of inputs to those of a method that needs more gradients."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from deepinside.engine.crops import TenCrops
from deepinside.engine.errors import DivergenceError, EngineError, ImageError
from deepinside.engine.estimates import Estimate, Finding, Picture, run_jobs
from deepinside.engine.inputs import InputSpec, Prepared
from deepinside.engine.integration import BlurPath, GuidedPath, StraightPath
from deepinside.engine.methods import Method
from deepinside.engine.passes import GradientPass
from deepinside.engine.results import SaliencyMap
from deepinside.engine.smoothing import NoisyGradients

__all__ = ["refine"]

Key = tuple[int, int]
Found = SaliencyMap | EngineError

_ESTIMATES: Mapping[str, Callable[[Method, InputSpec, Picture], Estimate]] = {
    "smoothgrad": NoisyGradients,
    "smoothgrad-squared": NoisyGradients,
    "vargrad": NoisyGradients,
    "integrated-gradients": StraightPath,
    "blur-ig": BlurPath,
    "guided-ig": GuidedPath,
}


def refine(
    run: GradientPass,
    prepared: Mapping[int, Prepared],
    maps: Mapping[Key, Found],
    batch_size: int,
) -> dict[Key, Found]:
    """Replace plain maps by the method's; what failed already stays as it is.

    Args:
        run: of the file, with the method.
        prepared: the inputs by position, of one shape.
        maps: by position and class.
        batch_size: gradients that are computed at once.

    Raises:
        RunError: ONNX Runtime failed.
    """
    found = dict(maps)

    def estimates() -> Iterator[tuple[Key, Estimate]]:
        for key, plain in maps.items():
            if isinstance(plain, EngineError):
                continue
            try:
                yield key, _estimate(run, prepared[key[0]])
            except ImageError as error:
                found[key] = error

    for key, finding in run_jobs(run, estimates(), batch_size):
        plain = maps[key]
        assert isinstance(plain, SaliencyMap)
        found[key] = _map(run, plain, finding)
    return found


def _estimate(run: GradientPass, image: Prepared) -> Estimate:
    if run.method.crops == 10:
        return TenCrops(run.spec, image)
    picture = run.spec.as_picture(image.array).astype(np.float32)
    return _ESTIMATES[run.method.name](run.method, run.spec, picture)


def _map(run: GradientPass, plain: SaliencyMap, finding: Finding) -> Found:
    attribution, saliency, gap = None, finding.saliency, None
    if finding.attribution is not None:
        attribution = run.spec.as_input(finding.attribution).astype(np.float32)
        saliency = run.reduce(attribution)
        if finding.baseline_score is not None and plain.score is not None:
            total = float(finding.attribution.sum())
            gap = total - (plain.score - finding.baseline_score)
    assert saliency is not None
    if not np.isfinite(saliency).all():
        return DivergenceError(
            f"{plain.source}: the {run.method.name} map of class {plain.index} is infinite or not "
            f"a number in {run.session.path.name}: try another precision or device."
        )
    return replace(
        plain,
        saliency=saliency,
        region=finding.region or plain.region,
        attribution=attribution if run.keep else None,
        signed=run.signed(attribution),
        completeness_gap=gap,
        baseline_score=finding.baseline_score,
    )
