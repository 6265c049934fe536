"""`deepinside evaluate`: can the maps be trusted?"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepinside.cli.errors import reports_errors
from deepinside.cli.evaluation import EvaluationJob
from deepinside.cli.evaluation_summary import Summary, table
from deepinside.cli.inputs import sources_of
from deepinside.cli.job_display import tell, tell_how_to_go_on
from deepinside.cli.job_options import InputChoice, input_options
from deepinside.cli.method_options import method_of
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
from deepinside.cli.progress import progress_bar, say
from deepinside.cli.stopping import stoppable

if TYPE_CHECKING:
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
    multiple=True,
    metavar="NAME[:SETTING=X,...]",
    help="Saliency method, perhaps with settings: smoothgrad:samples=50,noise=0.2. May be repeated "
    "to compare several; saliency -h names them.  [default: vanilla, without --maps]",
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
@input_options
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
    job: InputChoice,
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

    INPUT, TARGET, and what happens to pictures that can't be read and to jobs that are stopped, are
    as in saliency. Pictures that an earlier run evaluated in the same way are kept; other settings
    need --overwrite, or another folder. --json prints the lines of the pictures, then the summary
    in one line.

    \b
    Examples:
      deepinside evaluate example:chelsea
      deepinside evaluate photos/ --method vanilla --method input-x-gradient --plots -o evaluation
      deepinside evaluate photos/ --method smoothgrad --method smoothgrad:samples=100,noise=0.1
      deepinside evaluate photos/ --boxes boxes.csv --metric localisation
      deepinside evaluate "shards/*.tar" --target-column cls -o evaluation
      deepinside evaluate photos/ --maps gradcam/ --maps ours/ -m classifier.onnx
    """  # noqa: D301  (click takes the character \b as "do not rewrap")
    from deepinside.engine.batch import Manifest
    from deepinside.engine.batch.manifest import json_text
    from deepinside.engine.evaluation import CONTROLS, Control
    from deepinside.engine.files import remove_unfinished
    from deepinside.engine.packages import require_package

    if plots:
        require_package("matplotlib", "--plots", "plots")
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

    counts: Counter[str] = Counter()
    summary = Summary()
    with stoppable() as stop, sources_of(inputs, output, job, stop) as sources:
        file = exported()
        explainers: dict[str, Explainer] = {
            **_methods(methods or (() if folders else ("vanilla",)), exported, device, batch_size),
            **_given(folders, methods),
            **({} if no_controls else {name: Control(name, settings.seed) for name in CONTROLS}),
        }
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
                resume=job.resume,
            ) as evaluation,
            progress_bar("Evaluation", quiet=quiet) as advance,
        ):
            if job.resume:
                remove_unfinished(output)
            for record in evaluation.records(stop.before(sources.items())):
                summary.add(record)
                counts[record["status"]] += 1
                if record["error"]:
                    say(f"Error: {record['error']}")
                advance(counts.total(), sources.total, record["input"])
                if as_json:
                    click.echo(json_text(record))
    _finish(summary.result(), output, score, plots=plots, as_json=as_json)
    tell(counts, sources, evaluation.device, output, quiet=quiet)
    if stop:
        tell_how_to_go_on(stop)
        context.exit(128 + (stop.signal or 0))
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
    texts: Sequence[str], exported: Callable[[str], Path], device: str, batch_size: int
) -> "dict[str, Explainer]":
    """The engine's methods, each with the file that it needs.

    Raises:
        EngineError: a method does not go with the file that was given.
    """
    from deepinside.engine import read_contract
    from deepinside.engine.evaluation import MethodMaps
    from deepinside.engine.methods import find_method

    found: dict[str, Explainer] = {}
    for text in texts:
        method = method_of(text)
        file = exported(method.relu)
        find_method(method, read_contract(file), where=str(file))
        found[text] = MethodMaps(file, method, device, batch_size)
    return found


def _given(folders: Sequence[Path], methods: Sequence[str]) -> "dict[str, Explainer]":
    """Maps of other tools, by the names of their folders."""
    from deepinside.engine.evaluation import CONTROLS, GivenMaps

    found: dict[str, Explainer] = {}
    for folder in folders:
        name = folder.resolve().name
        if name in (*found, *CONTROLS, *methods):
            raise click.UsageError(
                f"--maps {folder} would be called {name!r} in the results, as something else is "
                "called already: give the folder another name."
            )
        found[name] = GivenMaps(folder)
    return found


def _finish(
    summary: dict[str, Any] | None, output: Path, score: str, *, plots: bool, as_json: bool
) -> None:
    """Write and show the summary, if there is one."""
    from deepinside.engine.files import save_text

    if summary is None:
        return
    path = output / "evaluation.json"
    save_text(path, json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    written = [path]
    if plots:
        from deepinside.engine.evaluation.plots import draw

        written += draw(summary, output, score)
    if as_json:
        click.echo(json.dumps(summary, ensure_ascii=False))
        return
    click.echo(table(summary, score))
    for each in written:
        click.echo(each)
