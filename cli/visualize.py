"""`deepinside visualize`: pictures of classes."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepinside.cli.ascent_options import ascent_options
from deepinside.cli.class_files import (
    TASK,
    batches_of,
    differences,
    empty,
    goal_name,
    keep_state,
    read_states,
    show,
    state_file,
    write,
    write_curves,
    write_sheet,
)
from deepinside.cli.errors import reports_errors
from deepinside.cli.inputs import EXAMPLE_PREFIX, example_path, file_sha256
from deepinside.cli.model import exported_file
from deepinside.cli.options import (
    batch_size_option,
    classifier_options,
    device_option,
    gpu_options,
    gpu_settings,
    model_option,
    output_option,
    place,
    result_options,
    size_option,
)
from deepinside.cli.progress import progress_bar, say

if TYPE_CHECKING:
    from deepinside.engine import Engine, Progress

__all__ = ["visualize"]

_FRAMES = 32  # of an animation, about


@click.command()
@click.option(
    "-t",
    "--target",
    "targets",
    multiple=True,
    metavar="CLASS",
    help="Class to draw: an index, a label, or a mix '0.5*tiger cat + 0.5*ostrich'. May be "
    "repeated.",
)
@click.option("--layer", metavar="NAME", help="Draw channels of a layer (inspect --layers).")
@click.option(
    "--channel",
    "channels",
    type=int,
    multiple=True,
    metavar="N",
    help="Channel of the layer. May be repeated.",
)
@click.option("--neuron", metavar="Y,X", help="One place of the layer instead of all.")
@model_option
@output_option
@ascent_options
@click.option(
    "--animation", type=click.Choice(["gif", "apng"]), help="Also write the ascent as a film."
)
@click.option(
    "--sheet",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.png|FILE.jpg",
    help="Also write all pictures on one sheet.",
)
@click.option(
    "--curves",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.png",
    help="Also draw how the scores rose. Needs matplotlib: pip install 'deepinside[plots]'.",
)
@click.option(
    "--state-every", type=click.IntRange(min=1), metavar="N", help="Keep the state every N steps."
)
@click.option("--resume", is_flag=True, help="Go on from the states that DIR holds.")
@size_option
@device_option
@gpu_options
@batch_size_option("Classes")
@classifier_options
@result_options
@click.pass_context
@reports_errors
def visualize(
    context: click.Context,
    /,
    targets: tuple[str, ...],
    layer: str | None,
    channels: tuple[int, ...],
    neuron: str | None,
    model: str | None,
    output: Path,
    device: str,
    batch_size: int,
    preprocessing: Path | None,
    labels: Path | None,
    animation: str | None,
    sheet: Path | None,
    curves: Path | None,
    state_every: int | None,
    resume: bool,
    as_json: bool,
    overwrite: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Draw what the classifier takes for the ideal of a class.

    The picture climbs from its start along the gradient of the class's score. Preset paper holds it
    back by an L2 penalty, as the paper does; preset natural draws a spectrum that is seen from
    changing views, which gives pictures on modern networks too. For each class, DIR gets

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
      deepinside visualize -t flamingo -t goldfish --preset natural --sheet sheet.png
      deepinside visualize -t "0.5*tiger cat + 0.5*ostrich" --preset natural --animation gif
      deepinside visualize --layer head --channel 7 --preset natural
      deepinside visualize -t ostrich --init noise --seed 7 --snapshot-every 50
    """  # noqa: D301  (click takes the character \b as "do not rewrap")
    from deepinside.engine import DivergenceError, Engine
    from deepinside.engine.batch import Manifest
    from deepinside.engine.modelfile import content_sha256
    from deepinside.engine.packages import require_package
    from deepinside.engine.settings import ascent_settings

    if curves is not None:
        require_package("matplotlib", "--curves", "plots")
    targets = _targets(targets, layer, channels, neuron)
    file = exported_file(
        model,
        TASK,
        device=device,
        preprocessing=preprocessing,
        labels=labels,
        quiet=quiet,
        options=_export_options(settings["preset"], layer, neuron),
    )
    engine = Engine(file, device, **gpu_settings(settings))
    if len(engine.sessions) > 1:
        raise click.UsageError(
            f"visualize runs on one device, not on {engine.device}: several are for saliency."
        )
    _check_layer(engine, layer, neuron)
    settings["preset"] = engine.fitting_preset(settings["preset"])
    goals = engine.goals(targets)
    init = settings["init"]
    if init.startswith(EXAMPLE_PREFIX):
        settings["init"] = example_path(init)
    snapshots = settings["snapshot_every"] is not None
    if animation is not None and not snapshots:
        steps = ascent_settings(**settings).steps
        settings["snapshot_every"] = max(1, steps // _FRAMES)
    made_with: dict[str, Any] = {
        "settings": {**dataclasses.asdict(ascent_settings(**settings)), "init": init},
        "init_sha256": None if init in ("zeros", "noise") else file_sha256(Path(settings["init"])),
        "model_sha256": engine.contract.source_sha256,
        "file_sha256": content_sha256(file),
    }
    if animation is not None:
        made_with["settings"]["animation"] = animation
    failed = kept = 0
    with Manifest(output) as manifest:
        names = {goal: goal_name(goal, engine.contract) for goal in goals}
        wanted = []
        for goal in goals:
            name, label = names[goal], goal.label(engine.contract)
            existing = output / f"{name}.npy"
            if overwrite or not existing.exists():
                wanted.append(goal)
                continue
            known = manifest.get(TASK, name)
            unlike = ", ".join(differences(known, made_with))
            if known is None or unlike:
                failed += 1
                error = (
                    f"{existing} was made otherwise ({unlike}): replace it with --overwrite, "
                    "or choose another folder with -o."
                )
                say(f"Error: {error}")
                record = empty(name, goal.index, label, error)
                # The rest goes on describing the files that are there.
                manifest.add({**(known or record), "status": "failed", "error": error})
                show(record, output, as_json=as_json)
            elif not all((output / part).exists() for part in known["files"]):
                wanted.append(goal)
            else:
                kept += 1
                say(f"Kept: {existing} exists; replace it with --overwrite.", quiet=quiet)
                if known["status"] != "ok":
                    manifest.add({**known, "status": "ok", "error": None})
                show({**known, "status": "kept", "error": None}, output, as_json=as_json)
        states = read_states(output, names, wanted) if resume else {}
        parts = list(batches_of(wanted, states, engine.spec.batch or batch_size))
        for number, part in enumerate(parts, 1):
            title = "Classes" if len(parts) == 1 else f"Classes, batch {number} of {len(parts)}"
            try:
                with progress_bar(title, quiet=quiet) as advance:

                    def shown(state: "Progress", advance: Any = advance) -> None:
                        advance(state.step, state.steps, f"score {state.scores.mean():.2f}")

                    images = engine.visualize(
                        part,
                        batch_size=len(part),
                        progress=shown,
                        resume=[states[goal] for goal in part] if part[0] in states else None,
                        state_every=state_every,
                        on_state=lambda state: keep_state(output, names, state),
                        **settings,
                    )
            except DivergenceError as error:
                say(f"Error: {error}")
                failed += len(part)
                for goal in part:
                    label = goal.label(engine.contract)
                    record = empty(names[goal], goal.index, label, str(error))
                    manifest.add(record)
                    show(record, output, as_json=as_json)
                continue
            for goal, image in zip(part, images, strict=True):
                found = write(image, names[goal], output, animation=animation, snapshots=snapshots)
                record = found | made_with
                manifest.add(record)
                if record["warning"] is not None:
                    say(f"Warning: {record['warning']}", quiet=quiet)
                state_file(output, names[goal]).unlink(missing_ok=True)
                show(record, output, as_json=as_json)
        drawn = [manifest.get(TASK, names[goal]) for goal in goals]
        if sheet is not None:
            write_sheet(sheet, output, drawn)
        if curves is not None:
            write_curves(curves, drawn)
    if wanted and engine.contract.preprocessing is None:
        say("No PNG was written: the model file has no preprocessing record.", quiet=quiet)
    done = len(goals) - failed - kept
    say(
        f"{done} done, {kept} kept, {failed} failed, on {engine.device}; results are in {output}",
        quiet=quiet,
    )
    if failed:
        context.exit(1)


def _targets(
    targets: tuple[str, ...], layer: str | None, channels: tuple[int, ...], neuron: str | None
) -> tuple[str, ...]:
    """Classes, or the channels that stand in their place."""
    if layer is None:
        if channels or neuron is not None:
            raise click.UsageError("--channel and --neuron are of a layer: name it with --layer.")
        if not targets:
            raise click.UsageError("Missing option '-t' / '--target'.")
        return targets
    if targets or not channels:
        raise click.UsageError("--layer goes with --channel N, and without -t.")
    return tuple(str(channel) for channel in channels)


def _export_options(preset: str | None, layer: str | None, neuron: str | None) -> dict[str, Any]:
    """How a plain classifier is exported for the preset."""
    options: dict[str, Any] = {"step_rule": "natural"} if preset == "natural" else {}
    if layer is not None:
        options["layer"] = layer
    if neuron is not None:
        options["neuron"] = place(neuron)
    return options


def _check_layer(engine: "Engine", layer: str | None, neuron: str | None) -> None:
    """An exported file has the layer that it was exported for."""
    contract = engine.contract
    asked = (layer, None if neuron is None else place(neuron))
    if asked not in ((None, None), (contract.layer, contract.neuron)):
        raise click.UsageError(
            f"{engine.session.path} is exported already, for "
            f"{'classes' if contract.layer is None else 'the layer ' + contract.layer}: export the "
            "classifier again with --layer and --neuron."
        )
