"""What the user of a job over pictures sees: each outcome, a summary, and how to go on."""

import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deepinside.cli.pages import Pages
from deepinside.cli.progress import Advance, echo_json, say
from deepinside.cli.stopping import Stop

if TYPE_CHECKING:
    from deepinside.engine.batch import Outcome, Record, Sources

__all__ = ["Display", "tell", "tell_how_to_go_on"]


class Display:
    """Tells the user of every outcome.

    Attributes:
        counts: outcomes by status.
    """

    def __init__(
        self,
        output: Path,
        total: int | None,
        advance: Advance,
        page: Pages | None = None,
        *,
        as_json: bool,
        quiet: bool,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._output = output
        self._total = total
        self._advance = advance
        self._page = page
        self._as_json = as_json
        self._quiet = quiet
        self._last: str | None = None

    def show(self, outcome: "Outcome") -> None:
        """Tell of an outcome: its record as JSON, or the names of its files."""
        from deepinside.engine.batch.settings import files_of

        record = outcome.record
        self.counts[record["status"]] += 1
        if record["error"]:
            say(f"Error: {record['error']}")
        if outcome.note:
            say(outcome.note, quiet=self._quiet)
        self._advance(self.counts.total(), self._total, record["input"])
        if self._page is not None:
            self._page.add(outcome, self.counts.total())
        if self._as_json:
            echo_json(_seen_from_here(record, self._output))
            return
        for name in files_of(record):
            if name != self._last:  # a shard, which holds the maps of many pictures
                click.echo(self._output / name)
            self._last = name


def _seen_from_here(record: "Record", output: Path) -> "Record":
    """A record with the paths of its files."""
    shown = dict(record)
    if record.get("picture"):
        shown["picture"] = str(output / record["picture"])
    if "objects" in record:
        shown["objects"] = [
            {**entry, "mask": str(output / entry["mask"])} for entry in record["objects"]
        ]
    if "maps" in record:
        shown["maps"] = [
            {**entry, "files": {kind: str(output / name) for kind, name in entry["files"].items()}}
            for entry in record["maps"]
        ]
    return shown


def tell(
    counts: Counter[str], sources: "Sources", device: str, output: Path, *, quiet: bool
) -> None:
    """The summary of a job."""
    left_out = ", ".join(f"{count} {kind}" for kind, count in sorted(sources.skipped.items()))
    say(
        f"{counts['ok']} done, {counts['kept']} kept, {counts['failed']} failed, on {device}; "
        f"results are in {output}"
        + (" (kept results are replaced with --overwrite)" if counts["kept"] else "")
        + (f"; left out of folders: {left_out}" if left_out else ""),
        quiet=quiet,
    )


def tell_how_to_go_on(stop: Stop) -> None:
    """The command that goes on with a job that was stopped."""
    again = shlex.join(["deepinside", *(word for word in sys.argv[1:] if word != "--resume")])
    say(f"Stopped before the end; go on with: {again} --resume")
