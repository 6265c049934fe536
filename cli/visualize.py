"""`deepinside visualize`: pictures of classes."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepinside.cli.errors import reports_errors
from deepinside.cli.inputs import EXAMPLE_PREFIX, example_path, file_sha256
from deepinside.cli.manifest import Manifest, Record, finite
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
from deepinside.cli.slugs import class_slug

if TYPE_CHECKING:
    from deepinside.engine import ClassImage, Progress

__all__ = ["visualize"]

_TASK = "visualization"


@click.command()
@click.option(
    "-t",
    "--target",
    "targets",
    multiple=True,
    required=True,
    metavar="CLASS",
    help="Class to draw: an index or a label. May be repeated.",
)
@model_option
@output_option
@click.option("--preset", default="paper", show_default=True, help="Named settings.")
@click.option("--steps", type=int, metavar="N", help="Number of steps.  [default: the preset's]")
@click.option("--step-size", type=float, metavar="X", help="Length factor of a step.")
@click.option("--l2", type=float, metavar="X", help="Weight of the penalty l2 * |picture|^2.")
@click.option(
    "--init",
    default="zeros",
    show_default=True,
    metavar="zeros|noise|IMAGE",
    help="Start: the mean picture, faint noise, or a picture.",
)
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Of the noise.")
@click.option("--snapshot-every", type=int, metavar="N", help="Also write every Nth step.")
@click.option(
    "--score-every",
    type=int,
    default=10,
    show_default=True,
    metavar="N",
    help="Read the score every N steps.",
)
@click.option(
    "--patience", type=int, metavar="N", help="Stop when the scores have not risen for N steps."
)
@size_option
@device_option
@batch_size_option("Classes")
@preprocessing_option
@labels_option
@json_option
@overwrite_option
@quiet_option
@click.pass_context
@reports_errors
def visualize(
    context: click.Context,
    /,
    targets: tuple[str, ...],
    model: str | None,
    output: Path,
    device: str,
    batch_size: int,
    preprocessing: Path | None,
    labels: Path | None,
    as_json: bool,
    overwrite: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Draw what the classifier takes for the ideal of a class.

    The picture climbs from its start along the gradient of the class's score, held back by an L2
    penalty. For each class, DIR gets

    \b
      CLASS.png       the picture
      CLASS.npy       the network's input, float32, normalised
      manifest.jsonl  a line per class: settings, score, score curve, files

    A class that DIR holds already is kept where it was made with the same settings and the same
    model. One that was made otherwise is replaced only with --overwrite; without it, the class is
    reported as failed, with what differs, and the exit code is 1.

    \b
    Examples:
      deepinside visualize -t goose
      deepinside visualize -t 285 -t dalmatian --steps 400 --l2 0.005
      deepinside visualize -t ostrich --init noise --seed 7 --snapshot-every 50
    """  # noqa: D301  (click takes the character \b as "do not rewrap")
    from deepinside.engine import DivergenceError, Engine
    from deepinside.engine.modelfile import content_sha256
    from deepinside.engine.visualize import ascent_settings

    file = exported_file(
        model, _TASK, device=device, preprocessing=preprocessing, labels=labels, quiet=quiet
    )
    engine = Engine(file, device)
    classes = engine.classes(targets)
    init = settings["init"]
    if init.startswith(EXAMPLE_PREFIX):
        settings["init"] = example_path(init)
    made_with = {
        "settings": {**dataclasses.asdict(ascent_settings(**settings)), "init": init},
        "init_sha256": None if init in ("zeros", "noise") else file_sha256(Path(settings["init"])),
        "model_sha256": engine.contract.source_sha256,
        "file_sha256": content_sha256(file),
    }
    failed = kept = 0
    with Manifest(output) as manifest:
        names = {index: class_slug(index, engine.contract.label(index)) for index in classes}
        wanted = []
        for index in classes:
            existing = output / f"{names[index]}.npy"
            if overwrite or not existing.exists():
                wanted.append(index)
                continue
            known = manifest.get(_TASK, names[index])
            differences = ", ".join(_differences(known, made_with))
            if known is None or differences:
                failed += 1
                error = (
                    f"{existing} was made otherwise ({differences}): replace it with --overwrite, "
                    "or choose another folder with -o."
                )
                say(f"Error: {error}")
                record = _empty(names[index], index, engine.contract.label(index), error)
                # The rest goes on describing the files that are there.
                manifest.add({**(known or record), "status": "failed", "error": error})
                _show(record, output, as_json=as_json)
            elif not all((output / name).exists() for name in known["files"]):
                wanted.append(index)
            else:
                kept += 1
                say(f"Kept: {existing} exists; replace it with --overwrite.", quiet=quiet)
                if known["status"] != "ok":
                    manifest.add({**known, "status": "ok", "error": None})
                _show({**known, "status": "kept", "error": None}, output, as_json=as_json)
        size = engine.spec.batch or batch_size
        total = -(-len(wanted) // size)
        for number, start in enumerate(range(0, len(wanted), size), 1):
            part = wanted[start : start + size]
            title = "Classes" if total == 1 else f"Classes, batch {number} of {total}"
            try:
                with progress_bar(title, quiet=quiet) as advance:

                    def shown(state: "Progress", advance: Any = advance) -> None:
                        advance(state.step, state.steps, f"score {state.scores.mean():.2f}")

                    images = engine.visualize(part, batch_size=size, progress=shown, **settings)
            except DivergenceError as error:
                say(f"Error: {error}")
                failed += len(part)
                for index in part:
                    label = engine.contract.label(index)
                    record = _empty(names[index], index, label, str(error))
                    manifest.add(record)
                    _show(record, output, as_json=as_json)
                continue
            for image in images:
                record = _write(image, names[image.index], output) | made_with
                manifest.add(record)
                _show(record, output, as_json=as_json)
    if wanted and engine.contract.preprocessing is None:
        say("No PNG was written: the model file has no preprocessing record.", quiet=quiet)
    done = len(classes) - failed - kept
    say(
        f"{done} done, {kept} kept, {failed} failed, on {engine.device}; results are in {output}",
        quiet=quiet,
    )
    if failed:
        context.exit(1)


def _write(image: "ClassImage", name: str, output: Path) -> Record:
    from deepinside.engine.files import save_array, save_picture

    files = []
    for snapshot in image.snapshots:
        if snapshot.picture is not None:
            files.append(f"{name}.step-{snapshot.step:05d}.png")
            save_picture(output / files[-1], snapshot.picture)
    if image.picture is not None:
        files.insert(0, f"{name}.png")
        save_picture(output / files[0], image.picture)
    # Last: its presence says that the class is done.
    files.insert(0, f"{name}.npy")
    save_array(output / files[0], image.image)
    return {
        "task": _TASK,
        "input": name,
        "status": "ok",
        "index": image.index,
        "label": image.label,
        "score": finite(image.score),
        "steps": image.steps,
        "stopped_early": image.stopped_early,
        "score_curve": {"steps": list(image.score_steps), "scores": list(image.scores)},
        "files": files,
        "error": None,
    }


def _differences(known: Record | None, made_with: Record) -> Iterator[str]:
    """What an existing class picture was made with otherwise, in words."""
    if known is None or "settings" not in known:
        yield "nothing says how"
        return
    for name, value in made_with["settings"].items():
        earlier = known["settings"].get(name)
        if earlier != value:
            yield f"{name} {_word(earlier)} instead of {_word(value)}"
    if known.get("model_sha256") != made_with["model_sha256"]:
        yield "another model"
    elif known.get("file_sha256") != made_with["file_sha256"]:
        yield "another export of the model"
    if (
        known["settings"].get("init") == made_with["settings"]["init"]
        and known.get("init_sha256") != made_with["init_sha256"]
    ):
        yield "the picture it starts from has changed"


def _word(value: object) -> str:
    return "none" if value is None else str(value)


def _empty(name: str, index: int, label: str | None, error: str | None) -> Record:
    """The record of a class without a picture."""
    return {
        "task": _TASK,
        "input": name,
        "status": "failed",
        "index": index,
        "label": label,
        "files": [],
        "error": error,
    }


def _show(record: Record, output: Path, *, as_json: bool) -> None:
    paths = [str(output / name) for name in record["files"]]
    if as_json:
        click.echo(json.dumps({**record, "files": paths}, ensure_ascii=False))
        return
    for path in paths:
        click.echo(path)
