"""`deepinside localize`: boxes and masks of the classes in pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from deepinside.cli.errors import reports_errors
from deepinside.cli.executor_options import ExecutorChoice, executor_options
from deepinside.cli.inputs import sources_of
from deepinside.cli.job_display import Display, tell, tell_how_to_go_on
from deepinside.cli.job_options import InputChoice, input_options
from deepinside.cli.method_options import MethodChoice, method_options
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
from deepinside.cli.progress import progress_bar
from deepinside.cli.stopping import stoppable

if TYPE_CHECKING:
    from deepinside.engine.batch import Outcome

__all__ = ["localize"]


@click.command()
@click.argument("inputs", nargs=-1, metavar="INPUT...")
@model_option
@targets_option("top5", "Class to find")
@method_options
@click.option(
    "--foreground",
    type=float,
    default=95,
    show_default=True,
    metavar="PERCENTILE",
    help="Pixels above this percentile of the map are seeds of the object.",
)
@click.option(
    "--background",
    type=float,
    default=30,
    show_default=True,
    metavar="PERCENTILE",
    help="Pixels below this percentile are background.",
)
@click.option(
    "--smoothing",
    type=float,
    default=0.05,
    show_default=True,
    metavar="X",
    help="Blur of the map, standard deviation in parts of its shorter side.",
)
@click.option(
    "--work-size",
    type=int,
    default=256,
    show_default=True,
    metavar="N",
    help="Cut the picture at this many pixels of its longer side.",
)
@click.option(
    "--rounds",
    type=int,
    default=3,
    show_default=True,
    metavar="N",
    help="Fit the colours to the last cut and cut again so often; the paper's method: 0.",
)
@output_option
@input_options
@device_option
@batch_size_option("Pictures")
@size_option
@classifier_options
@executor_options
@result_options
@click.pass_context
@reports_errors
def localize(
    context: click.Context,
    /,
    inputs: tuple[str, ...],
    model: str | None,
    targets: tuple[str, ...],
    method: MethodChoice,
    output: Path,
    job: InputChoice,
    device: str,
    batch_size: int,
    size: str | None,
    preprocessing: Path | None,
    labels: Path | None,
    where: ExecutorChoice,
    as_json: bool,
    overwrite: bool,
    quiet: bool,
    **numbers: float,
) -> None:
    """Find where a class is in a picture, without ever having seen a box.

    The most and the least salient pixels of the class are seeds of object and background; the
    picture is cut in two by the colours of both, and the object is the largest connected part. For
    each picture, DIR gets

    \b
      STEM.CLASS.mask.png  the object of a class, white on black
      STEM.boxes.png       the picture with the boxes of its classes
      manifest.jsonl       a line per picture: status, classes, scores, boxes, files

    and, of all pictures that the manifest knows,

    \b
      boxes.jsonl          a line per box: [left, top, right, bottom] in pixels of the picture
      boxes.coco.json      COCO results: bbox [left, top, width, height], segmentation

    A class of which nothing was found has no box; that is no failure. INPUT, TARGET, and what
    happens to pictures that can't be read and to jobs that are stopped, are as in saliency. Results
    that an earlier run made of the very same picture, model, targets and settings are kept; other
    ones under the same names are replaced only with --overwrite.

    Needs OpenCV: pip install 'deepinside[localize]'.

    \b
    Examples:
      deepinside localize example:coffee
      deepinside localize photos/ -t top1 -o boxes
      deepinside localize @photos.csv --target-column class -o boxes
      deepinside localize cat.jpg -t "tiger cat" --foreground 90 --rounds 0
    """  # noqa: D301  (click takes the character \b as "do not rewrap")
    from deepinside.engine import LocalizationSettings
    from deepinside.engine.batch import Manifest
    from deepinside.engine.batch.object_lists import ObjectLists
    from deepinside.engine.batch.objects import LocalizationJob, ObjectSink, pycocotools
    from deepinside.engine.files import remove_unfinished
    from deepinside.engine.graphcut import opencv
    from deepinside.engine.modelfile import content_sha256

    localization = LocalizationSettings(**numbers)  # type: ignore[arg-type]
    opencv()
    pycocotools()
    with (
        stoppable() as stop,
        sources_of(inputs, output, job, stop) as sources,
        where.open(device) as executor,
    ):
        output = executor.folder(output)
        file = exported_file(
            model,
            "saliency",
            device=executor.device,
            preprocessing=preprocessing,
            labels=labels,
            quiet=quiet,
            options=method.export_options,
        )
        method.warn(quiet=quiet)
        engine = executor.engine(file)
        explained_by = executor.name(engine)
        settings = LocalizationJob(
            targets,
            engine.method(method.method()),
            size,
            engine.contract.source_sha256,
            content_sha256(file),
            localization=localization,
        )
        with (
            Manifest(output) as manifest,
            ObjectLists(manifest, settings.task) as lists,
            progress_bar("Localization", quiet=quiet) as advance,
        ):
            if job.resume:
                remove_unfinished(output)
            display = Display(output, sources.total, advance, as_json=as_json, quiet=quiet)

            def done(outcome: Outcome) -> None:
                if outcome.record["status"] == "ok":  # the lists have what is kept
                    lists.add(outcome.record)
                display.show(outcome)

            executor.run(
                engine,
                file,
                sources,
                settings,
                ObjectSink(output, settings, overwrite),
                manifest,
                stop=stop,
                options={},
                batch_size=batch_size,
                done=done,
                keep=job.resume or not overwrite,
            )
    for path in () if as_json else lists.paths:
        click.echo(path)
    tell(display.counts, sources, explained_by, output, quiet=quiet)
    if stop:
        tell_how_to_go_on(stop)
        context.exit(128 + (stop.signal or 0))
    if display.counts["failed"]:
        context.exit(1)
