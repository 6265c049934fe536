"""`deepinside localize`: boxes and masks of the classes in pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deepinside.cli.errors import reports_errors
from deepinside.cli.localize_files import (
    files_of,
    require_pycocotools,
    write_lists,
    write_picture,
)
from deepinside.cli.method_options import MethodChoice, method_options
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
from deepinside.cli.picture_job import PictureJob
from deepinside.cli.pictures import Input, expand_inputs
from deepinside.cli.progress import echo_json, progress_bar, say

if TYPE_CHECKING:
    from deepinside.engine.batch import Record

__all__ = ["localize"]

_TASK = "localization"


@click.command()
@click.argument("inputs", nargs=-1, metavar="INPUT...")
@model_option
@click.option(
    "-t",
    "--target",
    "targets",
    multiple=True,
    default=("top5",),
    show_default=True,
    metavar="TARGET",
    help="Class to find: top1, top5, an index or a label. May be repeated.",
)
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
def localize(
    context: click.Context,
    /,
    inputs: tuple[str, ...],
    model: str | None,
    targets: tuple[str, ...],
    method: MethodChoice,
    output: Path,
    device: str,
    batch_size: int,
    size: str | None,
    preprocessing: Path | None,
    labels: Path | None,
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

    A class of which nothing was found has no box; that is no failure. A picture that can't be read
    is reported and the others go on; the exit code is then 1. Results that an earlier run made of
    the very same picture, model and settings are kept; other ones under the same names are replaced
    only with --overwrite.

    INPUT and TARGET are as in saliency. Needs OpenCV: pip install 'deepinside[localize]'.

    \b
    Examples:
      deepinside localize example:coffee
      deepinside localize photos/ -t top1 -o boxes
      deepinside localize cat.jpg -t "tiger cat" --foreground 90 --rounds 0
    """  # noqa: D301  (click takes the character \b as "do not rewrap")
    from deepinside.engine import Engine, InputFailure, InputMaps, LocalizationSettings
    from deepinside.engine import localize as find
    from deepinside.engine.batch import Manifest, read_records
    from deepinside.engine.batch.threads import in_threads
    from deepinside.engine.graphcut import opencv
    from deepinside.engine.modelfile import content_sha256

    settings = LocalizationSettings(**numbers)  # type: ignore[arg-type]
    opencv()
    require_pycocotools()
    pictures = expand_inputs(inputs, output)
    file = exported_file(
        model, "saliency", device=device, preprocessing=preprocessing, labels=labels, quiet=quiet
    )
    engine = Engine(file, device)
    chosen = engine.method(method.method())
    made_with = {
        "targets": list(targets),
        "method": {"name": chosen.name, **chosen.settings},
        "settings": dataclasses.asdict(settings),
        "input_size": size,
        "model_sha256": engine.contract.source_sha256,
        "file_sha256": content_sha256(file),
    }
    with Manifest(output) as manifest:
        job = PictureJob(_TASK, manifest, made_with, files_of, overwrite)
        stems = job.stems(pictures)
        finished = job.finished(pictures)
        results = engine.iter_saliency(
            job.paths(item for item in pictures if item.name not in finished),
            targets,
            method=chosen,
            batch_size=batch_size,
            keep_gradient=False,
            size=size,
            ahead=1,
        )

        def write(item: Input, maps: InputMaps, earlier: Record | None) -> Record:
            stem = stems[item.name]
            assert maps.picture is not None
            found = [find(saliency, maps.picture, settings) for saliency in maps.maps]
            content, foreign = write_picture(output, stem, maps.picture, found, overwrite=overwrite)
            error = job.foreign(item, "another picture", foreign, earlier) if foreign else None
            return job.record(item, error, stem=stem, **content)

        def record_of(item: Input) -> Callable[[], Record]:
            """What makes the record of a picture, files and all; run by a thread."""
            if item.name in finished:
                return lambda: {**finished[item.name], "status": "kept"}
            result = next(results)
            if isinstance(result, InputFailure):
                return lambda: job.record(item, str(result.error), stem=None, objects=[])
            earlier = manifest.get(_TASK, item.name)  # here: its index is this thread's
            return lambda: write(item, result, earlier)

        counts = dict.fromkeys(("ok", "kept", "failed"), 0)
        records = in_threads(map(record_of, pictures), ahead=batch_size)
        with progress_bar("Localization", quiet=quiet) as advance:
            for number, (item, record) in enumerate(zip(pictures, records, strict=True), 1):
                if record["status"] != "kept":
                    manifest.add(record)
                if record["error"]:
                    say(f"Error: {record['error']}")
                counts[record["status"]] += 1
                advance(number, len(pictures), item.path.name)
                _show(record, output, as_json=as_json)
    known = read_records(output / "manifest.jsonl")
    latest = {record["input"]: record for record in known if record["task"] == _TASK}
    lists = write_lists(output, latest.values())
    for path in () if as_json else lists:
        click.echo(path)
    say(
        f"{counts['ok']} done, {counts['kept']} kept, {counts['failed']} failed, on "
        f"{engine.device}; results are in {output}"
        + (" (kept results are replaced with --overwrite)" if counts["kept"] else ""),
        quiet=quiet,
    )
    if counts["failed"]:
        context.exit(1)


def _show(record: Record, output: Path, *, as_json: bool) -> None:
    """The record with paths as seen from here, or only the paths."""
    if not as_json:
        for name in files_of(record):
            click.echo(output / name)
        return
    picture = record.get("picture")
    objects = [{**entry, "mask": str(output / entry["mask"])} for entry in record["objects"]]
    shown = {**record, "picture": picture and str(output / picture), "objects": objects}
    echo_json(shown)
