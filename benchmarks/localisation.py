"""How well `localize` finds objects: `python benchmarks/localisation.py [--method M] [--each]`.

Prints the tables of docs/localisation.md. Needs deepinside[cpu,localize] and scikit-image, for its
pictures. An IoU is the area of what two boxes (or masks) share, over the area of what either has.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from scenes import Scene, photographs, scenes

from deepinside import models
from deepinside.engine import (
    Box,
    Engine,
    LocalizationSettings,
    Picture,
    SaliencyMap,
    load_picture,
    localize,
)
from deepinside.engine.graphcut import largest_component
from deepinside.engine.localize import bounding_box
from deepinside.engine.render import fit, smooth
from deepinside.exporters import export_saliency

Way = Callable[[SaliencyMap, Picture], NDArray[np.bool_]]


@dataclass(frozen=True, eq=False)
class Case:
    """A scene with the map of its object's best class."""

    scene: Scene
    picture: Picture
    saliency: SaliencyMap
    seen: bool  # whether that class is among the five best


def box_iou(first: Box | None, second: Box | None) -> float:
    """Intersection over union of two boxes."""
    if first is None or second is None:
        return 0.0
    width = min(first.right, second.right) - max(first.left, second.left)
    height = min(first.bottom, second.bottom) - max(first.top, second.top)
    shared = max(0, width) * max(0, height)
    areas = [(box.right - box.left) * (box.bottom - box.top) for box in (first, second)]
    return shared / (sum(areas) - shared)


def mask_iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks."""
    return float((first & second).sum() / max(1, (first | second).sum()))


def cut(**numbers: float) -> Way:
    """The method with settings."""
    settings = LocalizationSettings(**numbers)  # type: ignore[arg-type]
    return lambda saliency, picture: localize(saliency, picture, settings).mask


def seen_part(saliency: SaliencyMap, picture: Picture) -> NDArray[np.bool_]:
    """For comparison: all that the network sees."""
    assert saliency.region is not None
    mask = np.zeros(picture.size, dtype=np.bool_)
    rows, columns, _ = fit(saliency.saliency, saliency.region, picture.size)
    mask[rows, columns] = True
    return mask


def threshold(saliency: SaliencyMap, picture: Picture) -> NDArray[np.bool_]:
    """For comparison: the smoothed map above its 70 % percentile, its largest part, no cut."""
    assert saliency.region is not None
    mask = np.zeros(picture.size, dtype=np.bool_)
    smoothed = smooth(saliency.saliency, 0.05 * min(saliency.saliency.shape))
    rows, columns, values = fit(smoothed, saliency.region, picture.size)
    mask[rows, columns] = values > np.percentile(values, 70)
    return largest_component(mask)


WAYS: dict[str, Way] = {
    "all that the network sees": seen_part,
    "map above its 70 % percentile, no cut": threshold,
    "**the defaults**": cut(),
    "0 rounds (the paper's one cut)": cut(rounds=0),
    "0 rounds, no smoothing": cut(rounds=0, smoothing=0),
    "6 rounds": cut(rounds=6),
    "smoothing 0": cut(smoothing=0),
    "smoothing 0.03": cut(smoothing=0.03),
    "smoothing 0.07": cut(smoothing=0.07),
    "foreground 90": cut(foreground=90),
    "foreground 98": cut(foreground=98),
    "background 15": cut(background=15),
    "background 50": cut(background=50),
    "work size 128": cut(work_size=128),
    "work size 512": cut(work_size=512),
}


def cases_of(engine: Engine, group: Sequence[Scene], method: str = "vanilla") -> list[Case]:
    """The maps of scenes' objects, by a saliency method."""
    cases = []
    for scene in group:
        best = engine.saliency(scene.pixels, "top5", keep_gradient=False)
        right = [item.index for item in best if item.index in scene.classes]
        index = right[0] if right else scene.classes[0]
        (saliency,) = engine.saliency(scene.pixels, index, method=method, keep_gradient=False)
        picture = load_picture(scene.pixels, scene.name)
        cases.append(Case(scene, picture, saliency, bool(right)))
    return cases


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", action="store_true", help="also print every scene")
    parser.add_argument("--method", default="vanilla", help="of the maps")
    arguments = parser.parse_args()
    each, method = arguments.each, arguments.method
    card = models.card()
    with TemporaryDirectory() as folder:
        file = Path(folder) / "saliency.onnx"
        export_saliency(
            models.default_classifier(),
            file,
            preprocessing=card["preprocessing"],
            labels=models.labels(),
        )
        engine = Engine(file, "cpu")
        composed = cases_of(engine, list(scenes()), method)
        real = cases_of(engine, list(photographs()), method)
    print(
        f"{len(composed)} scenes ({sum(case.seen for case in composed)} with the object among the "
        f"five best classes) and {len(real)} photographs; opencv-python-headless "
        f"{version('opencv-python-headless')}, {os.cpu_count()} x {platform.machine()}; method "
        f"{method}\n"
    )
    print("| way | box IoU | mask IoU | boxes >= 0.5 | photographs' boxes | ms |")
    print("|---|---|---|---|---|---|")
    for name, way in WAYS.items():
        start = time.perf_counter()
        masks = [way(case.saliency, case.picture) for case in composed]
        spent = 1000 * (time.perf_counter() - start) / len(composed)
        boxes = np.array([_box_iou(case, mask) for case, mask in zip(composed, masks, strict=True)])
        shapes = [
            mask_iou(mask, case.scene.mask) for case, mask in zip(composed, masks, strict=True)
        ]
        photos = [_box_iou(case, way(case.saliency, case.picture)) for case in real]
        print(
            f"| {name} | {boxes.mean():.2f} | {np.mean(shapes):.2f} | {np.mean(boxes >= 0.5):.0%} "
            f"| {', '.join(f'{iou:.2f}' for iou in photos)} | {spent:.0f} |"
        )
        if each:
            for case, iou in zip(composed, boxes, strict=True):
                print(f"  {case.scene.name}: {iou:.2f}{'' if case.seen else ' (class not seen)'}")


def _box_iou(case: Case, mask: NDArray[np.bool_]) -> float:
    return box_iou(bounding_box(mask), bounding_box(case.scene.mask))


if __name__ == "__main__":
    main()
