"""`deepinside check`: is the gradient the derivative of the score?"""

import dataclasses
from typing import Any

import click

from deepinside.cli.errors import reports_errors
from deepinside.cli.model import exported_file
from deepinside.cli.options import (
    device_option,
    json_option,
    model_option,
    quiet_option,
    size_option,
)
from deepinside.cli.progress import echo_json

__all__ = ["check"]


@click.command()
@model_option
@device_option
@click.option(
    "-t", "--target", default="top1", show_default=True, help="Class: top1, an index or a label."
)
@click.option(
    "--tolerance",
    type=float,
    default=1e-2,
    show_default=True,
    metavar="X",
    help="Largest relative error that passes.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random directions.")
@size_option
@json_option
@quiet_option
@click.pass_context
@reports_errors
def check(
    context: click.Context,
    model: str | None,
    device: str,
    target: str,
    tolerance: float,
    seed: int,
    size: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compare a file's gradient with differences of its score, on this machine's runtime.

    The embedded pictures are used where the file says how a picture becomes its input, random
    smooth ones otherwise. The exit code is 1 when the gradient is wrong.

    \b
    Examples:
      deepinside check
      deepinside check -m saliency.onnx --device cuda
    """  # noqa: D301  (click takes the character \b as "do not rewrap")
    from deepinside import models
    from deepinside.engine import Engine

    engine = Engine(exported_file(model, "saliency", device=device, quiet=quiet), device)
    pictures = None
    if engine.contract.preprocessing is not None:
        pictures = [models.example(name) for name in models.EXAMPLES]
    report = engine.check(pictures, target=target, tolerance=tolerance, seed=seed, size=size)
    verdict = "the gradient is right" if report.passed else "the gradient is WRONG"
    if as_json:
        echo_json(_plain(dataclasses.asdict(report)))
    else:
        click.echo(
            f"relative error {report.error:.2g} on {report.device} "
            f"(tolerance {report.tolerance:g}), {report.blind_error:.2g} along noise "
            f"(tolerance {report.blind_tolerance:g}): {verdict}"
        )
    if not report.passed:
        context.exit(1)


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    """Infinite errors as null, which JSON can hold."""
    from deepinside.engine.batch.manifest import finite

    return {
        name: finite(value) if isinstance(value, float) else value
        for name, value in {
            **fields,
            "errors": [finite(error) for error in fields["errors"]],
            "blind_errors": [finite(error) for error in fields["blind_errors"]],
        }.items()
    }
