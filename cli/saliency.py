"""`deepinside saliency`: maps of pictures."""

import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepinside.cli.errors import reports_errors
from deepinside.cli.inputs import example_path
from deepinside.cli.job_options import JobChoice, job_options
from deepinside.cli.method_options import MethodChoice, method_options
from deepinside.cli.model import exported_file
from deepinside.cli.options import (
    batch_size_option,
    device_option,
    gpu_options,
    json_option,
    labels_option,
    model_option,
    output_option,
    overwrite_option,
    preprocessing_option,
    quiet_option,
    size_option,
)
from deepinside.cli.pages import Pages, pages
from deepinside.cli.progress import Advance, echo_json, progress_bar, say
from deepinside.cli.rendering_options import RenderingChoice, rendering_options
from deepinside.cli.stopping import Stop, stoppable

if TYPE_CHECKING:
    from deepinside.engine.batch import Outcome, Sources

__all__ = ["saliency"]

_TASK = "saliency"


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
    help="Class to explain: top1, top5, an index or a label. May be repeated.",
)
@method_options
@rendering_options
@output_option
@job_options
@device_option
@gpu_options
@batch_size_option("Pictures")
@size_option
@preprocessing_option
@labels_option
@json_option
@overwrite_option
@quiet_option
@click.pass_context
@reports_errors
def saliency(
    context: click.Context,
    /,
    inputs: tuple[str, ...],
    model: str | None,
    targets: tuple[str, ...],
    method: MethodChoice,
    rendering: RenderingChoice,
    output: Path,
    job: JobChoice,
    device: str,
    batch_size: int,
    size: str | None,
    preprocessing: Path | None,
    labels: Path | None,
    as_json: bool,
    overwrite: bool,
    quiet: bool,
    **gpu: bool,
) -> None:
    """Write which pixels of a picture matter most for a class.

    INPUT is a picture, a folder of pictures, a glob, a URL (s3://...), a .tar or .parquet file of
    pictures, a list @FILE.txt, @FILE.csv or @FILE.jsonl, - for a list on standard input, or an
    embedded picture such as example:chelsea. For each picture and class, DIR gets

    \b
      STEM.CLASS.saliency.npy  the map, float32 (H, W), not scaled
      STEM.CLASS.heatmap.png   the map in colours
      STEM.CLASS.overlay.png   the map laid on the picture
      manifest.jsonl           a line per picture: status, classes, scores, files

    Methods other than vanilla put their name in front: STEM.CLASS.METHOD.saliency.npy.

    A picture that can't be read is reported and the others go on; the exit code is then 1.

    A job that was stopped, by Ctrl-C or otherwise, goes on when the command is given again. Results
    that an earlier run made of the very same picture, model, targets and settings are kept. A
    changed picture is explained anew. Where another map stands under a result's name (of a changed
    picture or another model), it is replaced only with --overwrite; without it, the picture is
    reported as failed, and the exit code is 1.

    \b
    Examples:
      deepinside saliency example:chelsea
      deepinside saliency photos/ -t top5 -o maps --report maps.html
      deepinside saliency cat.jpg -t "tiger cat" -t 285 -m resnet50.onnx --device cuda
      deepinside saliency cat.jpg -m any-size.onnx --size original
      deepinside saliency photos/ --device cuda:0,cuda:1 --batch-size 64
      deepinside saliency @photos.csv --target-column class -o maps
      deepinside saliency "shards/*.tar" --format parquet --dtype float16 -o maps
      find photos -name "*.jpg" -print0 | deepinside saliency - -o maps
    """  # noqa: D301  (click takes the character \b as "do not rewrap")
    if not inputs:
        raise click.UsageError(
            "no INPUT was given; possible: pictures, folders, globs, URLs, .tar and .parquet "
            "files, lists, and the embedded picture example:chelsea."
        )
    from deepinside.engine import Engine
    from deepinside.engine.batch import JobSettings, Manifest, Sources, make_sink, run_job
    from deepinside.engine.batch.previews import Previews
    from deepinside.engine.batch.shards import ShardSink
    from deepinside.engine.files import remove_unfinished
    from deepinside.engine.modelfile import content_sha256

    drawn = rendering.rendering()
    with (
        stoppable() as stop,
        Sources(
            inputs, output, columns=job.columns, example=example_path, go_on=lambda: not stop
        ) as sources,
    ):
        file = exported_file(
            model,
            _TASK,
            device=device,
            preprocessing=preprocessing,
            labels=labels,
            quiet=quiet,
            options=method.export_options,
        )
        method.warn(quiet=quiet)
        engine = Engine(file, device, **gpu)
        settings = JobSettings(
            targets,
            engine.method(method.method()),
            size,
            engine.contract.source_sha256,
            content_sha256(file),
            job.form,
            job.dtype,
            drawn,
        )
        sink = make_sink(output, settings, overwrite=overwrite, shard_size=job.shard_size)
        shards = sink if isinstance(sink, ShardSink) else None
        with (
            Manifest(output, None if shards is None else shards.seen) as manifest,
            pages(job, settings, model, engine.device) as page,
            progress_bar("Saliency", quiet=quiet) as advance,
        ):
            if job.resume:
                remove_unfinished(output)
            if shards is not None:
                shards.recover(manifest)
            display = _Display(output, sources.total, advance, page, as_json=as_json, quiet=quiet)
            run_job(
                engine,
                stop.before(sources.items()),
                settings,
                sink,
                manifest,
                batch_size=batch_size,
                done=display.show,
                keep=job.resume or not overwrite,
                preview=Previews(sink, page.pictures) if page.pictures else None,
            )
            page.write(display.counts)
    _tell(display.counts, sources, engine.device, output, quiet=quiet)
    if stop:
        _tell_how_to_go_on(stop)
        context.exit(128 + (stop.signal or 0))
    if display.counts["failed"]:
        context.exit(1)


class _Display:
    """Tells the user of every outcome.

    Attributes:
        counts: outcomes by status.
    """

    def __init__(
        self,
        output: Path,
        total: int | None,
        advance: Advance,
        page: Pages,
        *,
        as_json: bool,
        quiet: bool,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._output = output
        self._total = total
        self._advance = advance
        self._page = page
        self._as_json = as_json
        self._quiet = quiet
        self._shard: str | None = None

    def show(self, outcome: "Outcome") -> None:
        record = outcome.record
        self.counts[record["status"]] += 1
        if record["error"]:
            say(f"Error: {record['error']}")
        if outcome.note:
            say(outcome.note, quiet=self._quiet)
        self._advance(self.counts.total(), self._total, record["input"])
        self._page.add(outcome, self.counts.total())
        if self._as_json:
            echo_json(self._seen_from_here(outcome))
            return
        for entry in record["maps"]:
            for name in entry["files"].values():
                if name != self._shard:  # which holds the maps of many pictures
                    click.echo(self._output / name)
                self._shard = entry["files"].get("shard")

    def _seen_from_here(self, outcome: "Outcome") -> dict[str, Any]:
        """The record, with paths as seen from here."""
        maps = [
            {
                **entry,
                "files": {kind: str(self._output / name) for kind, name in entry["files"].items()},
            }
            for entry in outcome.record["maps"]
        ]
        return {**outcome.record, "maps": maps}


def _tell(
    counts: Counter[str], sources: "Sources", device: str, output: Path, *, quiet: bool
) -> None:
    left_out = ", ".join(f"{count} {kind}" for kind, count in sorted(sources.skipped.items()))
    say(
        f"{counts['ok']} done, {counts['kept']} kept, {counts['failed']} failed, on {device}; "
        f"results are in {output}"
        + (" (kept results are replaced with --overwrite)" if counts["kept"] else "")
        + (f"; left out of folders: {left_out}" if left_out else ""),
        quiet=quiet,
    )


def _tell_how_to_go_on(stop: Stop) -> None:
    again = shlex.join(["deepinside", *(word for word in sys.argv[1:] if word != "--resume")])
    say(f"Stopped before the end; go on with: {again} --resume")
