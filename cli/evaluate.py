"""`deepinside evaluate`: can the maps be trusted?"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepinside.cli.errors import reports_errors
from deepinside.cli.evaluation import EvaluationJob
from deepinside.cli.evaluation_summary import summary_of, table
from deepinside.cli.method_options import NAMES
from deepinside.cli.model import exported_file
from deepinside.cli.options import (
    batch_size_option,
    device_option,
    json_option,
    labels_option,
    model_option,
    output_option,
    overwrite_option,
    preprocessing_option,
    quiet_option,
    size_option,
)
from deepinside.cli.pictures import expand_inputs
from deepinside.cli.progress import echo_json, progress_bar, say

if TYPE_CHECKING:
    from deepinside.engine.batch import Record
    from deepinside.engine.evaluation import EvaluationSettings, Explainer

__all__ = ["evaluate"]

# Written out, as the engine has them: it is not imported for a help text.
_METRICS = ("curves", "road", "sensitivity", "localisation", "randomisation")
_BASELINES = ("blur", "mean", "black")
_MODES = ("cascading", "independent")
_SCORES = ("probability", "logit", "top1")

_existing_file = click.Path(exists=True, dir_okay=False, path_type=Path)
_existing_folder = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("inputs", nargs=-1, metavar="INPUT...")
@model_option
@click.option(
    "-t",
    "--target",
    "targets",
    multiple=True,
    default=("top1",),
    show_default=True,
    metavar="TARGET",
    help="Class whose maps are evaluated: top1, top5, an index or a label. May be repeated.",
)
@click.option(
    "--method",
    "methods",
    type=click.Choice(NAMES),
    multiple=True,
    help="Saliency method; may be repeated to compare several.  [default: vanilla, without --maps]",
)
@click.option(
    "--maps",
    "folders",
    type=_existing_folder,
    multiple=True,
    metavar="FOLDER",
    help="Maps that any tool made: STEM.npy, or as deepinside saliency names them, (H, W) as the "
    "network sees the picture. May be repeated.",
)
@click.option(
    "--metric",
    "metrics",
    type=click.Choice(_METRICS),
    multiple=True,
    help="May be repeated.  [default: all; localisation with --boxes or --masks]",
)
@click.option(
    "--boxes",
    type=_existing_file,
    metavar="FILE",
    help="Boxes of the objects: .json, .jsonl or .csv of input, left, top, right, bottom.",
)
@click.option(
    "--masks",
    type=_existing_folder,
    metavar="FOLDER",
    help="Masks of the objects: STEM.png of the picture's size, not 0 where the object is.",
)
@click.option(
    "--insertion-from",
    type=click.Choice(_BASELINES),
    default="blur",
    show_default=True,
    help="What insertion starts from.",
)
@click.option(
    "--deletion-to",
    type=click.Choice(_BASELINES),
    default="mean",
    show_default=True,
    help="What deleted pixels become, in sensitivity-n too.",
)
@click.option("--steps", type=int, default=32, show_default=True, help="Of insertion and deletion.")
@click.option(
    "--randomise",
    type=click.Choice(_MODES),
    default="cascading",
    show_default=True,
    help="Random weights from the scores down to a layer, or in that layer alone.",
)
@click.option(
    "--randomise-steps",
    type=int,
    default=8,
    show_default=True,
    metavar="N",
    help="Layers to stop at, the first and the last among them.",
)
@click.option(
    "--tolerance",
    type=int,
    default=15,
    show_default=True,
    metavar="PIXELS",
    help="Of the pointing game.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of all that is random.")
@click.option(
    "--score",
    type=click.Choice(_SCORES),
    default="probability",
    show_default=True,
    help="What table and plots show; the files have all of them.",
)
@click.option(
    "--no-controls",
    is_flag=True,
    help="Leave out the maps that know nothing of the network: noise, and the picture's edges.",
)
@click.option("--plots", is_flag=True, help="Draw curves and the sanity check, as PNG.")
@output_option
@device_option
@batch_size_option("Pictures")
@size_option
@preprocessing_option
@labels_option
@json_option
@overwrite_option
@quiet_option
@click.pass_context
@reports_errors
def evaluate(
    context: click.Context,
    /,
    inputs: tuple[str, ...],
    model: str | None,
    targets: tuple[str, ...],
    methods: tuple[str, ...],
    folders: tuple[Path, ...],
    output: Path,
    device: str,
    batch_size: int,
    size: str | None,
    preprocessing: Path | None,
    labels: Path | None,
    score: str,
    no_controls: bool,
    plots: bool,
    as_json: bool,
    overwrite: bool,
    quiet: bool,
    **numbers: Any,
) -> None:
    """Measure whether maps say what the classifier looks at.

    \b
      curves         insertion and deletion (Petsiuk 2018): most salient pixels come, or go, first
      road           the same with pixels imputed (Rong 2022): least minus most salient first
      sensitivity    do summed attributions tell what removing pixels does (Ancona 2018)?
      localisation   is the peak, and how much of the map, on the object?
      randomisation  with random weights, a map must change (Adebayo 2018): 1 means it does not

    Beside the methods stand two controls that know nothing of the network: noise, and the edges of
    the picture. A map that is no better than they are says little. docs/evaluation.md says how
    to read the figures.

    The table is printed; DIR gets

    \b
      manifest.jsonl       a line per picture: all figures and curves
      evaluation.json      mean, spread (standard deviation) and count over the maps
      evaluation.*.png     with --plots

    A picture that fails is reported and the others go on; the exit code is then 1. Pictures that an
    earlier run evaluated in the same way are kept; other settings need --overwrite, or another
    folder. --json prints the lines of the pictures, then the summary in one line.

    \b
    Examples:
      deepinside evaluate example:chelsea
      deepinside evaluate photos/ --method vanilla --method input-x-gradient --plots -o evaluation
      deepinside evaluate photos/ --boxes boxes.csv --metric localisation
      deepinside evaluate photos/ --maps gradcam/ --maps ours/ -m classifier.onnx
    """  # noqa: D301  (click takes the character \b as "do not rewrap")
    from deepinside.engine.batch import Manifest
    from deepinside.engine.evaluation import CONTROLS, Control
    from deepinside.engine.packages import require_package

    if plots:
        require_package("matplotlib", "--plots", "plots")
    pictures = expand_inputs(inputs, output)
    settings = _settings(numbers)

    def exported(relu: str = "gradient") -> Path:
        """The classifier with a backward rule of ReLU; an exported file as it is."""
        return exported_file(
            model,
            "saliency",
            device=device,
            preprocessing=preprocessing,
            labels=labels,
            quiet=quiet,
            options={} if relu == "gradient" else {"relu": relu},
        )

    file = exported()
    explainers: dict[str, Explainer] = {
        **_methods(methods or (() if folders else ("vanilla",)), exported, device, batch_size),
        **_given(folders),
        **({} if no_controls else {name: Control(name, settings.seed) for name in CONTROLS}),
    }
    counts = dict.fromkeys(("ok", "kept", "failed"), 0)
    records: list[Record] = []
    with (
        Manifest(output) as manifest,
        EvaluationJob(
            manifest,
            file,
            explainers,
            settings,
            targets=targets,
            objects=(numbers["boxes"], numbers["masks"]),
            size=size,
            device=device,
            batch_size=batch_size,
            overwrite=overwrite,
        ) as job,
        progress_bar("Evaluation", quiet=quiet) as advance,
    ):
        for record in job.records(pictures):
            records.append(record)
            counts[record["status"]] += 1
            if record["error"]:
                say(f"Error: {record['error']}")
            advance(len(records), len(pictures), record["input"])
            if as_json:
                echo_json(record)
    _finish(records, output, score, plots=plots, as_json=as_json)
    say(
        f"{counts['ok']} done, {counts['kept']} kept, {counts['failed']} failed; "
        f"figures are in {output}",
        quiet=quiet,
    )
    if counts["failed"]:
        context.exit(1)


def _settings(numbers: dict[str, Any]) -> "EvaluationSettings":
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
        **{name: value for name, value in numbers.items() if name not in _NOT_SETTINGS},
    )


_NOT_SETTINGS = ("metrics", "boxes", "masks")


def _methods(
    names: Sequence[str], exported: Callable[[str], Path], device: str, batch_size: int
) -> "dict[str, Explainer]":
    """The engine's methods, each with the file that it needs.

    Raises:
        EngineError: a method does not go with the file that was given.
    """
    from deepinside.engine import Method, read_contract
    from deepinside.engine.evaluation import MethodMaps
    from deepinside.engine.methods import find_method

    found: dict[str, Explainer] = {}
    for name in names:
        method = Method(name)  # type: ignore[arg-type]
        file = exported(method.relu)
        find_method(method, read_contract(file), where=str(file))
        found[name] = MethodMaps(file, method, device, batch_size)
    return found


def _given(folders: Sequence[Path]) -> "dict[str, Explainer]":
    """Maps of other tools, by the names of their folders."""
    from deepinside.engine.evaluation import CONTROLS, GivenMaps

    found: dict[str, Explainer] = {}
    for folder in folders:
        name = folder.resolve().name
        if name in found or name in CONTROLS or name in NAMES:
            raise click.UsageError(
                f"--maps {folder} would be called {name!r} in the results, as something else is "
                "called already: give the folder another name."
            )
        found[name] = GivenMaps(folder)
    return found


def _finish(
    records: "list[Record]", output: Path, score: str, *, plots: bool, as_json: bool
) -> None:
    """Write and show the summary."""
    from deepinside.engine.files import save_text

    summary = summary_of(records)
    if summary is None:
        return
    path = output / "evaluation.json"
    save_text(path, json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    written = [path]
    if plots:
        from deepinside.engine.evaluation.plots import draw

        written += draw(summary, output, score)
    if as_json:
        echo_json(summary)
        return
    click.echo(table(summary, score))
    for each in written:
        click.echo(each)
