"""`deepinside evaluate`: can the maps be trusted?"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepinside.cli.errors import reports_errors
from deepinside.cli.evaluation import EvaluationJob
from deepinside.cli.evaluation_options import evaluation_options, evaluation_settings
from deepinside.cli.evaluation_summary import Summary, table
from deepinside.cli.inputs import sources_of
from deepinside.cli.job_display import tell, tell_how_to_go_on
from deepinside.cli.job_options import InputChoice, input_options
from deepinside.cli.method_options import method_of
from deepinside.cli.model import exported_file
from deepinside.cli.options import (
    batch_size_option,
    classifier_options,
    device_option,
    model_option,
    output_option,
    result_options,
    size_option,
    targets_option,
)
from deepinside.cli.progress import echo_json, progress_bar, say
from deepinside.cli.stopping import stoppable

if TYPE_CHECKING:
    from deepinside.engine.evaluation import Explainer

__all__ = ["evaluate"]

_SCORES = ("probability", "logit", "top1")


@click.command()
@click.argument("inputs", nargs=-1, metavar="INPUT...")
@model_option
@targets_option("top1", "Class whose maps are evaluated")
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
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    multiple=True,
    metavar="FOLDER",
    help="Maps that any tool made: STEM.npy, or as deepinside saliency names them, (H, W) as the "
    "network sees the picture. May be repeated.",
)
@evaluation_options
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
@classifier_options
@result_options
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
    from deepinside.engine.evaluation import CONTROLS, Control
    from deepinside.engine.files import remove_unfinished
    from deepinside.engine.packages import require_package

    if plots:
        require_package("matplotlib", "--plots", "plots")
    settings = evaluation_settings(numbers)

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
                    echo_json(record)
    _finish(summary.result(), output, score, plots=plots, as_json=as_json)
    tell(counts, sources, evaluation.device, output, quiet=quiet)
    if stop:
        tell_how_to_go_on(stop)
        context.exit(128 + (stop.signal or 0))
    if counts["failed"]:
        context.exit(1)


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
        echo_json(summary)
        return
    click.echo(table(summary, score))
    for each in written:
        click.echo(each)
