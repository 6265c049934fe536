"""Makes the README's picture: `python docs/make_pictures.py`, with deepinside[cpu] installed."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from deepinside import models
from deepinside.engine import Engine, heatmap, overlay
from deepinside.exporters import export_saliency

_HEIGHT = 300
_GAP = 8


def main() -> None:
    """Picture, map, and both together, of the embedded cat, side by side."""
    card = models.card()
    picture = models.example("chelsea")
    with TemporaryDirectory() as folder:
        file = Path(folder) / "saliency.onnx"
        export_saliency(
            models.default_classifier(),
            file,
            preprocessing=card["preprocessing"],
            labels=models.labels(),
        )
        (result,) = Engine(file, "cpu").saliency(picture)
    pixels = Image.open(picture).convert("RGB")
    assert result.region is not None
    tiles = [
        pixels,
        Image.fromarray(heatmap(result.saliency)),
        Image.fromarray(overlay(np.asarray(pixels), result.saliency, result.region)),
    ]
    scaled = [tile.resize((round(tile.width * _HEIGHT / tile.height), _HEIGHT)) for tile in tiles]
    width = sum(tile.width for tile in scaled) + _GAP * (len(scaled) - 1)
    sheet = Image.new("RGB", (width, _HEIGHT), "white")
    left = 0
    for tile in scaled:
        sheet.paste(tile, (left, 0))
        left += tile.width + _GAP
    target = Path(__file__).parent / "images" / "main-job.png"
    sheet.save(target, optimize=True)
    print(target)


if __name__ == "__main__":
    main()
