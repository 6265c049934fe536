"""`deepinside providers`: where models can run on this machine."""

import dataclasses

import click

from deepinside.cli.errors import reports_errors
from deepinside.cli.options import json_option
from deepinside.cli.progress import echo_json

__all__ = ["providers"]


@click.command()
@json_option
@reports_errors
def providers(as_json: bool) -> None:
    """Show which runtime is installed, which devices truly work, and why the others don't.

    \b
    Examples:
      deepinside providers
      deepinside providers --json
    """  # noqa: D301  (click takes the character \b as "do not rewrap")
    from deepinside.engine import probe_providers
    from deepinside.engine.runtime import installed_distributions

    statuses = probe_providers()
    installed = installed_distributions()
    if as_json:
        for status in statuses:
            echo_json({**dataclasses.asdict(status), "installed": installed})
        return
    for name, version in installed.items():
        click.echo(f"{name} {version}")
    for status in statuses:
        state = "works" if status.works else f"does not work: {status.reason}"
        device = f"--device {status.device}" if status.device else ""
        click.echo(f"  {status.name:<28}{device:<15}{state}")
