"""A plot of ascents, with matplotlib, which this module imports."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from deepinside.engine.files import replacing

__all__ = ["draw_scores"]

_LEGEND = 40  # characters


def draw_scores(curves: Mapping[str, tuple[Sequence[int], Sequence[float]]], path: Path) -> None:
    """Draw the scores of class pictures over the steps of their ascent, as PNG.

    Args:
        curves: by the name of the class, steps and the scores at them.
        path: of the picture.

    Raises:
        OutputError: it can't be written.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, (steps, scores) in curves.items():
        short = name if len(name) <= _LEGEND else name[: _LEGEND - 1] + "…"
        axes.plot(steps, scores, label=short.replace("$", r"\$"))
    axes.set_xlabel("steps")
    axes.set_ylabel("score")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    with replacing(path) as stream:
        figure.savefig(stream, format="png", dpi=110)
