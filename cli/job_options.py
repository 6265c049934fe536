"""The options of jobs over many pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deepinside.cli.options import Decorator, gathered

if TYPE_CHECKING:
    from deepinside.engine.batch import Columns
    from deepinside.engine.batch.settings import Format, Number

__all__ = ["InputChoice", "JobChoice", "input_options", "job_options"]


@dataclass(frozen=True)
class InputChoice:
    """What the user asked for, of any job over pictures.

    Attributes:
        image_column: of tables; None for the usual ones.
        target_column: of tables; None for none.
        resume: go on with a stopped job.
    """

    image_column: str | None
    target_column: str | None
    resume: bool

    @property
    def columns(self) -> "Columns":
        """Of tables and lists."""
        from deepinside.engine.batch import Columns

        return Columns(self.image_column, self.target_column)


@dataclass(frozen=True)
class JobChoice(InputChoice):
    """What the user asked for, of a job that leaves maps.

    Attributes:
        form: of the results.
        dtype: of the stored maps.
        shard_size: maps in a shard.
        report: HTML page to write; None for none.
        sheet: contact sheet to write; None for none.
        rows: pictures on the page.
    """

    form: "Format"
    dtype: "Number"
    shard_size: int
    report: Path | None
    sheet: Path | None
    rows: int


_FILE = click.Path(dir_okay=False, path_type=Path)
_INPUT_OPTIONS = (
    click.option(
        "--image-column",
        metavar="NAME",
        help="Column of the pictures.  [default: image, file, ...]",
    ),
    click.option(
        "--target-column",
        metavar="NAME",
        help="Column of each picture's class, in CSV, JSON Lines and Parquet; in tar files the "
        "ending of the file beside it, such as cls.",
    ),
    click.option(
        "--resume",
        is_flag=True,
        help="Go on with a job that was stopped: clear what it left unfinished, and keep what it "
        "had done even with --overwrite.",
    ),
)
_OPTIONS = (
    click.option(
        "--format",
        "form",
        type=click.Choice(["files", "npz", "parquet"]),
        default="files",
        show_default=True,
        help="Results: files for every picture, or maps only, some hundred in a file.",
    ),
    click.option(
        "--dtype",
        type=click.Choice(["float32", "float16", "uint8"]),
        default="float32",
        show_default=True,
        help="Numbers of the maps; the smaller ones come with a scale.",
    ),
    click.option(
        "--shard-size",
        type=click.IntRange(min=1),
        default=256,
        show_default=True,
        metavar="N",
        help="Maps in an npz or Parquet file; they wait in memory.",
    ),
    click.option("--report", type=_FILE, metavar="FILE.html", help="Also write a page to look at."),
    click.option(
        "--report-rows",
        "rows",
        type=click.IntRange(min=1),
        default=1000,
        show_default=True,
        metavar="N",
        help="Pictures on the page, the first ones; failures beyond are listed, as many again.",
    ),
    click.option(
        "--sheet", type=_FILE, metavar="FILE.png|FILE.jpg", help="Also write overlays on a sheet."
    ),
)


def _gathered(kind: type[InputChoice], options: Sequence[Decorator]) -> Decorator:
    """The command gets the options as one `job`, of a kind that has them for its fields."""
    names = [field.name for field in fields(kind)]
    return gathered("job", lambda given: kind(**given), names, options)


input_options = _gathered(InputChoice, _INPUT_OPTIONS)
job_options = _gathered(JobChoice, (*_INPUT_OPTIONS, *_OPTIONS))
