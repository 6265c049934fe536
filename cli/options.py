"""Options that several commands share, so that they mean the same everywhere."""

import functools
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = [
    "Decorator",
    "all_of",
    "batch_size_option",
    "classifier_options",
    "device_option",
    "gathered",
    "gpu_options",
    "gpu_settings",
    "image_size",
    "input_shape",
    "json_option",
    "labels_option",
    "model_option",
    "output_option",
    "overwrite_option",
    "place",
    "preprocessing_option",
    "quiet_option",
    "result_options",
    "size_option",
    "targets_option",
]

_F = TypeVar("_F", bound=Callable[..., Any])
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def all_of(*options: Decorator) -> Decorator:
    """One decorator for several options, in this order."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def gathered(
    argument: str,
    make: Callable[[dict[str, Any]], Any],
    names: Collection[str],
    options: Sequence[Decorator],
) -> Decorator:
    """One decorator for several options that a command gets as one argument.

    Args:
        argument: of the command.
        make: what it is, of the options' values by name.
        names: of the options.
        options: in their order.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def wrapped(*args: Any, **given: Any) -> Any:
            values = {name: given.pop(name) for name in names}
            return command(*args, **{argument: make(values)}, **given)

        return all_of(*options)(wrapped)

    return decorate


DEFAULT_OUTPUT = "deepinside-results"

model_option = click.option(
    "-m",
    "--model",
    metavar="MODEL",
    help="ONNX file: an exported one, or a plain classifier.  [default: the embedded classifier]",
)
device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="DEVICE",
    help="auto, cpu, cuda, cuda:N, cuda:all, the same with tensorrt, or several with commas. "
    "auto takes the best that works; the others work or fail.",
)
output_option = click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_OUTPUT,
    show_default=True,
    metavar="DIR",
    help="Folder for the results.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, a line a result.")
overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace existing results instead of keeping them."
)
quiet_option = click.option(
    "-q", "--quiet", is_flag=True, help="No progress and no summary; errors are still shown."
)
preprocessing_option = click.option(
    "--preprocessing",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE.json",
    help="How a picture becomes the classifier's input: a preprocessing record.",
)
labels_option = click.option(
    "--labels",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE.txt",
    help="Names of the classes, one a line.",
)
# What a plain classifier is exported with.
classifier_options = all_of(preprocessing_option, labels_option)
# How results are told and kept.
result_options = all_of(json_option, overwrite_option, quiet_option)
size_option = click.option(
    "--size",
    metavar="HxW|original",
    help="Run the network at this size, or at each picture's own, where the file leaves height and "
    "width open (inspect tells).  [default: the preprocessing record's]",
)


# The options of GPUs, by the names of `Engine`'s.
gpu_options = all_of(
    click.option("--tf32", is_flag=True, help="GPU: round factors to 10 bits; faster."),
    click.option(
        "--float16", is_flag=True, help="TensorRT: compute in float16 (for CUDA, export so)."
    ),
    click.option("--channels-last", is_flag=True, help="GPU: convolutions in NHWC layout."),
    click.option(
        "--cuda-graph", is_flag=True, help="GPU: record the launches of a batch and replay them."
    ),
    click.option(
        "--strict", is_flag=True, help="GPU: fail where tensors are copied to and from the host."
    ),
)


def gpu_settings(options: dict[str, Any]) -> dict[str, bool]:
    """The options of GPUs taken out of a command's options."""
    names = ("tf32", "float16", "channels_last", "cuda_graph", "strict")
    return {name: options.pop(name) for name in names}


def targets_option(default: str, what: str) -> Callable[[_F], _F]:
    """`-t`, of the classes that a command is about: `what` they are for."""
    return click.option(
        "-t",
        "--target",
        "targets",
        multiple=True,
        default=(default,),
        show_default=True,
        metavar="TARGET",
        help=f"{what}: top1, top5, an index or a label. May be repeated.",
    )


def batch_size_option(what: str) -> Callable[[_F], _F]:
    """`--batch-size`, of `what`."""
    return click.option(
        "--batch-size",
        type=click.IntRange(min=1),
        default=8,
        show_default=True,
        metavar="N",
        help=f"{what} at once; bounds the memory.",
    )


def place(text: str) -> tuple[int, ...]:
    """The numbers of a place in a layer, such as `3,4`.

    Raises:
        click.UsageError: they are no whole numbers.
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise click.UsageError(f"--neuron is {text!r}; it must be whole numbers such as 3,4.")
    return tuple(int(part) for part in parts)


def input_shape(text: str) -> tuple[int, ...]:
    """The sizes of `--input-shape`.

    Raises:
        click.UsageError: they are no whole numbers above 0.
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise click.UsageError(
            f"--input-shape is {text!r}; it must be whole numbers such as 1,3,224,224."
        )
    return tuple(int(part) for part in parts)


def image_size(text: str) -> tuple[int, int]:
    """(H, W) of `--image-size`.

    Raises:
        click.UsageError: it is no height and width.
    """
    sizes = [int(part) for part in text.lower().split("x") if part.strip().isdecimal()]
    if len(sizes) != 2 or text.lower().count("x") != 1 or 0 in sizes:
        raise click.UsageError(f"--image-size is {text!r}; it must be HxW in pixels, such as 8x8.")
    return sizes[0], sizes[1]
