"""`deepinside saliency`: maps of pictures."""

from pathlib import Path

import click

from deepinside.cli.errors import reports_errors
from deepinside.cli.executor_options import ExecutorChoice, executor_options
from deepinside.cli.inputs import sources_of
from deepinside.cli.job_display import Display, tell, tell_how_to_go_on
from deepinside.cli.job_options import JobChoice, job_options
from deepinside.cli.method_options import MethodChoice, method_options
from deepinside.cli.model import exported_file
from deepinside.cli.options import (
    batch_size_option,
    classifier_options,
    device_option,
    gpu_options,
    model_option,
    output_option,
    result_options,
    size_option,
    targets_option,
)
from deepinside.cli.pages import pages
from deepinside.cli.progress import progress_bar
from deepinside.cli.rendering_options import RenderingChoice, rendering_options
from deepinside.cli.stopping import stoppable

__all__ = ["saliency"]

_TASK = "saliency"


@click.command()
@click.argument("inputs", nargs=-1, metavar="INPUT...")
@model_option
@targets_option("top1", "Class to explain")
@method_options
@rendering_options
@output_option
@job_options
@device_option
@gpu_options
@batch_size_option("Pictures")
@size_option
@classifier_options
@executor_options
@result_options
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
    where: ExecutorChoice,
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
      deepinside saliency "s3://bucket/*.tar" --format parquet -o /shared/maps --executor ray
      find photos -name "*.jpg" -print0 | deepinside saliency - -o maps
    """  # noqa: D301  (click takes the character \b as "do not rewrap")
    from deepinside.engine.batch import JobSettings, Manifest, make_sink
    from deepinside.engine.batch.previews import Previews
    from deepinside.engine.batch.shards import ShardSink
    from deepinside.engine.files import remove_unfinished
    from deepinside.engine.modelfile import content_sha256

    drawn = rendering.rendering()
    with (
        stoppable() as stop,
        sources_of(inputs, output, job, stop) as sources,
        where.open(device) as executor,
    ):
        output = executor.folder(output)
        file = exported_file(
            model,
            _TASK,
            device=executor.device,
            preprocessing=preprocessing,
            labels=labels,
            quiet=quiet,
            options=method.export_options,
        )
        method.warn(quiet=quiet)
        engine = executor.engine(file, **gpu)
        explained_by = executor.name(engine)
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
            pages(job, settings, model, explained_by) as page,
            progress_bar("Saliency", quiet=quiet) as advance,
        ):
            if job.resume:
                remove_unfinished(output)
            if shards is not None:
                shards.recover(manifest)
            load = None if shards is None else shards.load
            preview = Previews(output, drawn, page.pictures, load)
            display = Display(output, sources.total, advance, page, as_json=as_json, quiet=quiet)
            executor.run(
                engine,
                file,
                sources,
                settings,
                sink,
                manifest,
                stop=stop,
                options=gpu,
                batch_size=batch_size,
                done=display.show,
                keep=job.resume or not overwrite,
                preview=preview if page.pictures else None,
            )
            page.write(display.counts)
    tell(display.counts, sources, explained_by, output, quiet=quiet)
    if stop:
        tell_how_to_go_on(stop)
        context.exit(128 + (stop.signal or 0))
    if display.counts["failed"]:
        context.exit(1)
