"""The options of `deepinside export` that write a model repository for Triton."""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from deepinside.cli.errors import Failure
from deepinside.cli.progress import say

__all__ = ["TritonChoice", "triton_options"]

_OPTIONS = (
    click.option(
        "--triton",
        "triton_folder",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        help="In place of -o: write a model of Triton's model repository DIR.",
    ),
    click.option(
        "--triton-name", metavar="NAME", help="The model's name there.  [default: the classifier's]"
    ),
    click.option(
        "--triton-batch",
        "triton_max_batch_size",
        type=click.IntRange(min=0),
        metavar="N",
        help="Most pictures that Triton runs at once; 0: no batching.  [default: 8]",
    ),
    click.option(
        "--triton-delay",
        "triton_queue_delay",
        type=click.IntRange(min=0),
        metavar="MICROSECONDS",
        help="How long a request waits for others to run with.  [default: 1000]",
    ),
    click.option(
        "--triton-device",
        type=click.Choice(["auto", "cpu", "gpu"]),
        help="Where Triton runs the model.  [default: auto]",
    ),
)
_PREFIX = "triton_"
# Of classifiers' files; the rest of a name stays, as in v1.5.
_SUFFIXES = re.compile(r"\.(onnx|keras|skops|json)$", re.IGNORECASE)


@dataclass(frozen=True)
class TritonChoice:
    """A model of a repository.

    Attributes:
        folder: the repository.
        name: of the model; None for the classifier's.
        settings: those of `TritonSettings` that were given.
    """

    folder: Path
    name: str | None
    settings: dict[str, Any] = field(default_factory=dict)

    def model_file(self, classifier: str) -> Path:
        """Where the exported file goes.

        Raises:
            click.UsageError: the name can't be a model's.
        """
        name = self.name
        if name is None:
            # `timm:resnet50` is resnet50, and `torch:package.module:factory` is factory.
            last = _SUFFIXES.sub("", Path(classifier.rpartition(":")[2]).name)
            name = re.sub(r"[^\w.-]+|^\W+", "-", last, flags=re.ASCII).strip("-.")
        if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
            raise click.UsageError(
                f"{name!r} can't name a model of Triton; give one with --triton-name, of letters, "
                "digits, _, . and -."
            )
        return self.folder / name / "1" / "model.onnx"

    def configure(self, file: Path, *, quiet: bool) -> Path:
        """Write the configuration for the file, and say what it lacks; returns its path.

        Raises:
            Failure: it can't be written.
        """
        from deepinside.exporters import ExportError, TritonSettings, write_triton_config

        try:
            model = write_triton_config(file.parents[1], TritonSettings(**self.settings))
        except ExportError as error:
            raise Failure(str(error)) from error
        for note in model.notes:
            say(note, quiet=quiet)
        return model.config


def triton_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate the command; it gets the options as one `triton`, a `TritonChoice` or None."""

    @functools.wraps(command)
    def wrapped(*args: Any, **given: Any) -> Any:
        names = [name for name in given if name.startswith(_PREFIX)]
        values = {name.removeprefix(_PREFIX): given.pop(name) for name in names}
        chosen = {name: value for name, value in values.items() if value is not None}
        if chosen and "folder" not in chosen:
            raise click.UsageError("options --triton-... go with --triton DIR.")
        choice = None
        if chosen:
            choice = TritonChoice(chosen.pop("folder"), chosen.pop("name", None), chosen)
        return command(*args, triton=choice, **given)

    result: Callable[..., Any] = wrapped
    for option in reversed(_OPTIONS):
        result = option(result)
    return result
