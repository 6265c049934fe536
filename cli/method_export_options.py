"""The options of `deepinside export` that put a whole saliency method into the file."""

import functools
from collections.abc import Callable
from typing import Any

import click

from deepinside.cli.errors import Failure

__all__ = ["graph_method", "method_export_options"]

_OPTIONS = {
    "name": click.option(
        "--method",
        "name",
        type=click.Choice(["vanilla", "smoothgrad", "integrated-gradients"]),
        help="Saliency method that the file computes as a whole (saliency).  [default: vanilla]",
    ),
    "samples": click.option(
        "--samples", type=int, metavar="N", help="Noisy copies of smoothgrad.  [default: 25]"
    ),
    "noise": click.option(
        "--noise",
        type=float,
        metavar="SHARE",
        help="Their noise, a share of the input's range.  [default: 0.15]",
    ),
    "seed": click.option("--seed", type=int, metavar="N", help="Of the noise.  [default: 0]"),
    "steps": click.option(
        "--steps",
        type=int,
        metavar="N",
        help="Gradients of integrated-gradients.  [default: 50]",
    ),
    "baseline": click.option(
        "--baseline",
        type=click.Choice(["black", "mean"]),
        help="Where its way begins.  [default: black]",
    ),
    "quadrature": click.option(
        "--quadrature",
        type=click.Choice(["gauss-legendre", "riemann"]),
        help="How it sums.  [default: gauss-legendre]",
    ),
}
_SETTINGS = {
    "smoothgrad": ("samples", "noise", "seed"),
    "integrated-gradients": ("steps", "baseline", "quadrature"),
}


def method_export_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate the command; it gets the options as one `method`, a dictionary or None."""

    @functools.wraps(command)
    def wrapped(*args: Any, **given: Any) -> Any:
        chosen = {name: given.pop(name) for name in _OPTIONS}
        chosen = {name: value for name, value in chosen.items() if value is not None}
        name = chosen.get("name", "vanilla")
        for setting in chosen.keys() - {"name", *_SETTINGS.get(name, ())}:
            raise click.UsageError(f"--{setting} does not go with --method {name}.")
        return command(*args, method=None if name == "vanilla" else chosen, **given)

    result: Callable[..., Any] = wrapped
    for option in reversed(_OPTIONS.values()):
        result = option(result)
    return result


def graph_method(settings: dict[str, Any]) -> Any:
    """The exporter's form of the method.

    Raises:
        Failure: a setting is not possible.
    """
    from deepinside.exporters import ExportError, GraphMethod

    try:
        return GraphMethod(**settings)
    except ExportError as error:
        raise Failure(str(error)) from error
