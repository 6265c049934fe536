"""`deepinside bench`: how fast a model's saliency maps come on this machine."""

import dataclasses
from pathlib import Path

import click

from deepinside.cli.errors import reports_errors
from deepinside.cli.model import exported_file
from deepinside.cli.options import (
    device_option,
    gpu_options,
    json_option,
    model_option,
    quiet_option,
    size_option,
)
from deepinside.cli.progress import echo_json, progress_bar, say

__all__ = ["bench"]


@click.command()
@model_option
@device_option
@gpu_options
@click.option(
    "-b",
    "--batch-size",
    "batch_sizes",
    type=int,
    multiple=True,
    default=(1, 8),
    show_default=True,
    metavar="N",
    help="Images in a run; may be given several times.",
)
@click.option("--rounds", type=int, default=20, show_default=True, help="Timed runs of each.")
@click.option("--threads", type=int, help="Of the CPU's operators.  [default: one per core]")
@size_option
@json_option
@quiet_option
@reports_errors
def bench(
    model: str | None,
    device: str,
    batch_sizes: tuple[int, ...],
    rounds: int,
    threads: int | None,
    size: str | None,
    as_json: bool,
    quiet: bool,
    **gpu: bool,
) -> None:
    """Time saliency maps of a model on this machine, beside the classifier alone.

    The classifier is timed where MODEL is a plain classifier or left out; an exported file is timed
    alone. Medians of interleaved runs with pictures of noise, copies to and from the device
    included, decoding and drawing not.

    \b
    Examples:
      deepinside bench
      deepinside bench -m classifier.onnx --device cuda -b 1 -b 64
    """  # noqa: D301  (click takes the character \b as "do not rewrap")
    from deepinside import models
    from deepinside.engine.bench import bench as measure
    from deepinside.engine.runtime import installed_distributions

    file = exported_file(model, "saliency", device=device, quiet=quiet)
    plain = models.default_classifier() if model is None else Path(model)
    classifier = None if plain == file else plain
    if classifier is None:
        say("An exported file: its classifier alone is not at hand to be timed too.", quiet=quiet)
    with progress_bar("Rounds", quiet=quiet) as progress:
        report = measure(
            file,
            device,
            classifier=classifier,
            batch_sizes=batch_sizes,
            rounds=rounds,
            threads=threads,
            size=size,
            progress=progress,
            **gpu,
        )
    runtime = " ".join(f"{name} {version}" for name, version in installed_distributions().items())
    if as_json:
        facts = dataclasses.asdict(report)
        facts |= {"file": str(file), "model": str(plain), "runtime": runtime}
        echo_json(facts)
        return
    click.echo(f"{plain.name} on {report.device}, {runtime}, medians of {report.rounds} rounds")
    if report.classifier_bytes is not None and report.classifier_open_seconds is not None:
        click.echo(
            f"classifier {report.classifier_bytes / 1e6:.1f} MB, opened in "
            f"{report.classifier_open_seconds:.2f} s"
        )
    click.echo(f"saliency file {report.bytes / 1e6:.1f} MB, opened in {report.open_seconds:.2f} s")
    click.echo(f"{'batch':>5} {'classifier':>14} {'saliency':>14} {'ratio':>7} {'images/s':>10}")
    for timing in report.timings:
        alone = "" if timing.classifier_ms is None else f"{timing.classifier_ms:.1f} ms"
        ratio = "" if timing.ratio is None else f"{timing.ratio:.2f}"
        click.echo(
            f"{timing.batch:>5} {alone:>14} {timing.saliency_ms:>11.1f} ms {ratio:>7} "
            f"{timing.images_per_second:>10.1f}"
        )
