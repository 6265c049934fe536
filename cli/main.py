"""The command `deepinside` with its subcommands; nothing heavy is imported here."""

import logging
import signal
import sys
from types import FrameType

import click

from deepinside.cli.bench import bench
from deepinside.cli.check import check
from deepinside.cli.evaluate import evaluate
from deepinside.cli.export import export
from deepinside.cli.inspect import inspect
from deepinside.cli.localize import localize
from deepinside.cli.progress import PlainFormatter
from deepinside.cli.providers import providers
from deepinside.cli.saliency import saliency
from deepinside.cli.visualize import visualize

__all__ = ["cli", "main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="deepinside")
@click.option("-v", "--verbose", is_flag=True, help="Say more about what is done, on stderr.")
def cli(verbose: bool) -> None:
    """Saliency maps and class pictures of any image classifier, through ONNX Runtime.

    MODEL is a file written by `deepinside export`, or a plain classifier in ONNX form, which is
    then exported on the fly and kept in a cache. Without one, the embedded classifier is used.

    Results go to standard output (paths, or JSON Lines with --json), everything else to standard
    error. Exit codes: 0 all done, 1 something failed, 2 wrong usage.

    \b
    Examples:
      deepinside saliency example:chelsea
      deepinside visualize -t goose -t dalmatian
      deepinside export classifier.onnx -o saliency.onnx
    """  # noqa: D301  (click takes the character \b as "do not rewrap")
    handler = logging.StreamHandler()
    handler.setFormatter(PlainFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])
    logging.captureWarnings(True)  # which quote files, too
    if not verbose:
        logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # broken graphs become our errors


for _command in (
    export,
    saliency,
    visualize,
    localize,
    evaluate,
    inspect,
    check,
    bench,
    providers,
):
    cli.add_command(_command)


def main() -> None:
    """Entry point of the console script."""
    # `kill` then ends the program as Ctrl-C does: temporary files go, the manifest is closed.
    signal.signal(signal.SIGTERM, _terminate)
    cli(prog_name="deepinside")


def _terminate(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)
