"""`deepinside export`: a classifier becomes a saliency or visualization file."""

import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from deepinside.cli.errors import Failure, reports_errors
from deepinside.cli.method_export_options import graph_method, method_export_options
from deepinside.cli.model import classifier_facts, read_labels, read_record, run_export
from deepinside.cli.options import (
    image_size,
    input_shape,
    json_option,
    labels_option,
    overwrite_option,
    place,
    preprocessing_option,
    quiet_option,
)
from deepinside.cli.progress import echo_json, say
from deepinside.cli.triton_options import TritonChoice, triton_options

__all__ = ["export"]

# Options that one task's export has and the other's has not.
_ONLY = {"saliency": ("target_input", "outputs", "method"), "visualization": ("step_rule", "loop")}


@click.command()
@click.argument("classifier")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.onnx",
    help="File to write.",
)
@triton_options
@click.option(
    "--task",
    type=click.Choice(["saliency", "visualization"]),
    default="saliency",
    show_default=True,
    help="What the file is for.",
)
@click.option(
    "--score",
    type=click.Choice(["logit", "probability"]),
    default="logit",
    show_default=True,
    help="Differentiate the unnormalised score or the probability.",
)
@click.option("--score-output", metavar="NAME", help="Output (or tensor) with the class scores.")
@click.option("--image-input", metavar="NAME", help="Input that takes the picture.")
@click.option("--layout", type=click.Choice(["NCHW", "NHWC", "flat"]), help="Axes of the picture.")
@click.option(
    "--image-size", metavar="HxW", help="Picture in a flat input, where no record says it."
)
@click.option(
    "--relu",
    type=click.Choice(["gradient", "deconvnet", "guided"]),
    help="Backward rule of ReLU.  [default: gradient]",
)
@click.option(
    "--autodiff",
    type=click.Choice(["standard", "ort-training"]),
    help="What builds the gradient; ort-training's runs on onnxruntime-training only, and is "
    "checked before it is kept.  [default: standard]",
)
@click.option(
    "--optimize-for",
    type=click.Choice(["any", "cpu", "cuda"]),
    help="Forms of the gradient: for all runtimes (TensorRT and browsers too), or those for ONNX "
    "Runtime's CPU or CUDA provider.  [default: any]",
)
@click.option(
    "--precision",
    type=click.Choice(["float16"]),
    help="Let the network compute in float16; inputs and outputs stay as they are.",
)
@click.option(
    "--gradient-scale",
    type=int,
    metavar="N",
    help="With float16: power of two that keeps the gradient from underflow.  [default: 1024]",
)
@click.option(
    "--target-input",
    metavar="optional|required|fixed:INDEX",
    help="How the class is given (saliency).  [default: optional]",
)
@click.option(
    "--outputs",
    metavar="LIST",
    help="Comma-separated outputs (saliency).  [default: score,target_index,gradient,saliency]",
)
@method_export_options
@click.option(
    "--step-rule",
    type=click.Choice(["plain", "normalized", "natural"]),
    help="The step: plain, of a fixed length, or preset natural's (visualization).  [default: "
    "plain]",
)
@click.option(
    "--loop",
    type=click.IntRange(min=1),
    metavar="N",
    help="Write a whole ascent of N steps, with its preset's numbers, as one graph "
    "(visualization).",
)
@click.option(
    "--layer",
    metavar="NAME",
    help="Explain channels of a layer instead of classes (inspect --layers).",
)
@click.option("--neuron", metavar="Y,X", help="One place of the layer instead of their means.")
@preprocessing_option
@labels_option
@click.option("--licence", metavar="TEXT", help="Licence of the weights.")
@click.option(
    "--input-shape",
    metavar="N,C,H,W",
    help="Shape of the input, batch included, where a front door does not know it.",
)
@click.option(
    "--dynamic-size",
    is_flag=True,
    default=None,
    help="Leave height and width open, for torch: and timm: only.",
)
@click.option(
    "--weights",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Weights for torch: and timm:, safetensors or a state dictionary; no code is run.",
)
@click.option(
    "--random-weights",
    is_flag=True,
    default=None,
    help="An untrained network, for timm:, hf:CONFIG.json and keras:applications.NAME.",
)
@json_option
@overwrite_option
@quiet_option
@reports_errors
def export(
    classifier: str,
    output: Path | None,
    triton: TritonChoice | None,
    task: str,
    as_json: bool,
    overwrite: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Append the input gradient to a classifier.

    CLASSIFIER is an .onnx file, or one of

    \b
      torch:package.module:factory   PyTorch, modules of the current folder too
      timm:NAME                      timm
      hf:FOLDER or hf:CONFIG.json    transformers, from local files
      keras:FILE.keras               Keras 3
      keras:applications.NAME        Keras' own networks
      jax:package.module:factory     JAX: flax, equinox or a function
      sklearn:FILE.skops             scikit-learn, with --image-size HxW

    The saliency file written is a drop-in replacement for the classifier; any ONNX runtime loads
    it.

    \b
    Examples:
      deepinside export classifier.onnx -o saliency.onnx
      deepinside export classifier.onnx -o smooth.onnx --method smoothgrad --samples 25
      deepinside export classifier.onnx -o step.onnx --task visualization
      deepinside export classifier.onnx -o draw.onnx --task visualization --loop 300
      deepinside export timm:resnet50 -o resnet50.onnx --labels imagenet.txt
      deepinside export sklearn:digits.skops -o digits.onnx --image-size 8x8
      deepinside export classifier.onnx --triton models
    """  # noqa: D301  (click takes the character \b as "do not rewrap")
    from deepinside.engine.files import make_folder

    options = {name: value for name, value in given.items() if value is not None}
    for other in _ONLY["visualization" if task == "saliency" else "saliency"]:
        if other in options:
            raise click.UsageError(f"--{other.replace('_', '-')} does not go with --task {task}.")
    if triton is not None:
        if output is not None:
            raise click.UsageError("-o and --triton exclude each other.")
        if options.get("autodiff") == "ort-training":
            raise click.UsageError("Triton can't run what --autodiff ort-training writes.")
        output = triton.model_file(classifier)
        if task == "saliency":
            # Triton has no optional inputs where it batches, and joins requests of several clients.
            options.setdefault("target_input", "required")
            options["mark_targets"] = True
    if output is None:
        raise click.UsageError("say where to: -o FILE.onnx, or --triton DIR.")
    if output.exists() and not overwrite:
        raise click.UsageError(f"{output} exists: replace it with --overwrite.")
    if output.exists() and Path(classifier).exists() and output.samefile(classifier):
        raise click.UsageError("the classifier can't be replaced by its own export.")
    if "preprocessing" in options:
        options["preprocessing"] = read_record(options["preprocessing"])
    if "labels" in options:
        options["labels"] = read_labels(options["labels"])
    if "outputs" in options:
        options["outputs"] = tuple(name.strip() for name in options["outputs"].split(","))
    if "input_shape" in options:
        options["input_shape"] = input_shape(options["input_shape"])
    if "image_size" in options:
        options["image_size"] = image_size(options["image_size"])
    if "method" in options:
        options["method"] = graph_method(options["method"])
    if "neuron" in options:
        options["neuron"] = place(options["neuron"])
    options = {**classifier_facts(Path(classifier)), **options}
    if "loop" in options:
        options["defaults"] = _loop_defaults(options)
    if classifier.startswith(("torch:", "jax:")):
        sys.path.insert(0, "")  # a factory may stand in the current folder, as with python -m
    if triton is None:
        make_folder(output.parent)  # a repository gets a folder with its model, or none at all
    if options.get("autodiff") == "ort-training":
        report = _export_checked(classifier, output, task, options)
    else:
        report = run_export(classifier, output, task, options)
    for sentence in report.bypassed:
        say(f"Bypassed: {sentence}", quiet=quiet)
    if report.straight_through:
        say(
            f"Quantised: the gradient passes {report.straight_through} rounding nodes straight "
            "through, as if they did not round.",
            quiet=quiet,
        )
    growth = 100 * (report.size_after / report.size_before - 1)
    say(
        f"{task} file at opset {report.opset}: {report.nodes_before} nodes became "
        f"{report.nodes_after}, {report.size_after / 1e6:.1f} MB ({growth:+.1f} %), "
        f"{report.seconds:.1f} s",
        quiet=quiet,
    )
    config = None if triton is None else triton.configure(output, quiet=quiet)
    if as_json:
        fields = {item.name: getattr(report, item.name) for item in dataclasses.fields(report)}
        fields |= {"path": str(report.path), "names": dict(report.names)}
        fields |= {} if config is None else {"config": str(config)}
        echo_json(fields)
        return
    click.echo(report.path)
    if config is not None:
        click.echo(config)


def _export_checked(classifier: str, output: Path, task: str, options: dict[str, Any]) -> Any:
    """Export with the second back end, whose gradient can be wrong: keep it if it is not."""
    from deepinside.engine import Engine, EngineError

    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".deepinside-") as folder:
        draft = Path(folder) / output.name
        report = run_export(classifier, draft, task, options)
        try:
            checked = Engine(draft, device="cpu").check()
        except EngineError as error:
            raise Failure(
                f"the gradient of onnxruntime-training can't be checked: {error}"
            ) from error
        if not checked.passed:
            raise Failure(
                "onnxruntime-training's gradient of this classifier is wrong (it differs from "
                f"differences of the score by {checked.error:.0%}): export it without --autodiff."
            )
        # The model last: with it, all is there.
        for part in sorted(Path(folder).iterdir(), key=lambda part: part.name == output.name):
            part.replace(output.parent / part.name)
    return dataclasses.replace(report, path=output)


def _loop_defaults(options: dict[str, Any]) -> dict[str, Any]:
    """What a loop is run with where its caller gives nothing else: the preset's numbers."""
    from deepinside.engine.natural import loop_defaults
    from deepinside.engine.presets import find_preset

    rule = options.get("step_rule", "plain")
    if rule != "natural":
        preset = find_preset("paper")
        return {"step_size": preset.step_size, "l2": preset.l2}
    record = options.get("preprocessing")
    if record is None:
        raise click.UsageError("--loop with the natural step needs --preprocessing FILE.json.")
    return loop_defaults(options["loop"], tuple(record["input_size"]), len(record["channel_order"]))
