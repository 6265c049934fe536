"""Plots of an evaluation's summary, with matplotlib: imported by this module alone."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deepinside.engine.evaluation.explainers import CONTROLS
from deepinside.engine.files import replacing

__all__ = ["draw"]

Summary = Mapping[str, Any]

_PANELS = {
    "curves": {
        "insertion": "Insertion (higher is better)",
        "deletion": "Deletion (lower is better)",
    },
    "road": {
        "road_most": "ROAD, most salient first (lower is better)",
        "road_least": "ROAD, least salient first (higher is better)",
    },
}
_SIMILARITIES = {"spearman": "Spearman's rank correlation", "ssim": "SSIM"}
_COLOURS = mpl.color_sequences["tab10"]


def draw(summary: Summary, folder: Path, score: str) -> list[Path]:
    """Draw what the summary has.

    Args:
        summary: as evaluation.json holds it.
        folder: where the pictures go, as `evaluation.NAME.png`.
        score: whose curves: `probability`, `logit` or `top1`.

    Returns:
        The files' paths.

    Raises:
        OutputError: a file can't be written.
    """
    methods, written = summary["methods"], []
    first = next(iter(methods.values()))
    for name, panels in _PANELS.items():
        if not all(score in first["curves"].get(panel, ()) for panel in panels):
            continue

        def curve(axes: Axes, panel: str, facts: Summary, style: Mapping[str, Any]) -> None:
            found = facts["curves"][panel]
            axes.plot([100 * share for share in found["shares"]], found[score], **style)
            axes.set_xlabel("pixels replaced, %")
            axes.set_ylabel(score)

        written.append(_save(folder / f"evaluation.{name}.png", panels, methods, curve))
    if summary["depths"]:

        def cascade(axes: Axes, panel: str, facts: Summary, style: Mapping[str, Any]) -> None:
            values = facts["randomisation"].get(panel)
            if values:
                whole = summary["settings"]["randomise"] == "cascading"
                depths = [0, *summary["depths"]] if whole else summary["depths"]
                axes.plot(depths, [1.0, *values] if whole else values, marker=".", **style)
            axes.set_xlabel(
                "layers with random weights, from the scores down"
                if summary["settings"]["randomise"] == "cascading"
                else "the one layer with random weights, counted from the scores"
            )
            axes.set_ylabel("similarity to the trained network's map")
            axes.set_ylim(min(0, axes.get_ylim()[0]), 1.02)

        path = folder / "evaluation.randomisation.png"
        written.append(_save(path, _SIMILARITIES, methods, cascade))
    return written


def _save(
    path: Path,
    panels: Mapping[str, str],
    methods: Mapping[str, Summary],
    draw_line: Callable[[Axes, str, Summary, Mapping[str, Any]], None],
) -> Path:
    """Panels side by side, a line for each method, one legend."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for axes, (panel, title) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for name, style in _styles(methods).items():
            draw_line(axes, panel, methods[name], {"label": name, **style})
        axes.set_title(title, fontsize=11)
        axes.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    with replacing(path) as stream:
        figure.savefig(stream, format="png", dpi=110)
    return path


def _styles(methods: Mapping[str, Summary]) -> dict[str, dict[str, Any]]:
    """Colours of the methods; the controls are grey and broken."""
    found: dict[str, dict[str, Any]] = {}
    for name in methods:
        number = len(found)
        found[name] = {
            "color": _COLOURS[number % len(_COLOURS)],
            "linestyle": "-" if number < len(_COLOURS) else "--",
        }
    for name, line in zip(CONTROLS, (":", "--"), strict=True):
        if name in found:
            found[name] = {"color": "0.45", "linestyle": line}
    return found
