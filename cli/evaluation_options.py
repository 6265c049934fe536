"""The options that say which metrics are measured, and how."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepinside.cli.options import all_of

if TYPE_CHECKING:
    from deepinside.engine.evaluation import EvaluationSettings

__all__ = ["evaluation_options", "evaluation_settings"]

# Written out, as the engine has them: it is not imported for a help text.
_METRICS = ("curves", "road", "sensitivity", "localisation", "randomisation")
_BASELINES = ("blur", "mean", "black")
_MODES = ("cascading", "independent")

_existing_file = click.Path(exists=True, dir_okay=False, path_type=Path)
_existing_folder = click.Path(exists=True, file_okay=False, path_type=Path)

# By the names of the fields of `EvaluationSettings`, and `boxes` and `masks`.
evaluation_options = all_of(
    click.option(
        "--metric",
        "metrics",
        type=click.Choice(_METRICS),
        multiple=True,
        help="May be repeated.  [default: all; localisation with --boxes or --masks]",
    ),
    click.option(
        "--boxes",
        type=_existing_file,
        metavar="FILE",
        help="Boxes of the objects: .json, .jsonl or .csv of input, left, top, right, bottom.",
    ),
    click.option(
        "--masks",
        type=_existing_folder,
        metavar="FOLDER",
        help="Masks of the objects: STEM.png of the picture's size, not 0 where the object is.",
    ),
    click.option(
        "--insertion-from",
        type=click.Choice(_BASELINES),
        default="blur",
        show_default=True,
        help="What insertion starts from.",
    ),
    click.option(
        "--deletion-to",
        type=click.Choice(_BASELINES),
        default="mean",
        show_default=True,
        help="What deleted pixels become, in sensitivity-n too.",
    ),
    click.option(
        "--steps", type=int, default=32, show_default=True, help="Of insertion and deletion."
    ),
    click.option(
        "--randomise",
        type=click.Choice(_MODES),
        default="cascading",
        show_default=True,
        help="Random weights from the scores down to a layer, or in that layer alone.",
    ),
    click.option(
        "--randomise-steps",
        type=int,
        default=8,
        show_default=True,
        metavar="N",
        help="Layers to stop at, the first and the last among them.",
    ),
    click.option(
        "--tolerance",
        type=int,
        default=15,
        show_default=True,
        metavar="PIXELS",
        help="Of the pointing game.",
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Of all that is random."),
)


_OTHERS = ("metrics", "boxes", "masks")


def evaluation_settings(numbers: dict[str, Any]) -> "EvaluationSettings":
    """The settings that the options ask for.

    Raises:
        click.UsageError: options contradict one another.
        EngineError: a setting is not possible, or a package is missing.
    """
    from deepinside.engine.evaluation import METRICS, EvaluationSettings

    placed = numbers["boxes"] is not None or numbers["masks"] is not None
    if numbers["boxes"] is not None and numbers["masks"] is not None:
        raise click.UsageError("give either --boxes or --masks, not both.")
    metrics = numbers["metrics"] or tuple(
        metric for metric in METRICS if metric != "localisation" or placed
    )
    if "localisation" in metrics and not placed:
        raise click.UsageError("--metric localisation needs --boxes FILE or --masks FOLDER.")
    return EvaluationSettings(
        metrics=tuple(dict.fromkeys(metrics)),
        **{name: value for name, value in numbers.items() if name not in _OTHERS},
    )
