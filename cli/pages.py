"""What a job leaves to look at: the HTML page and the contact sheet."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from deepinside.cli.job_options import JobChoice

if TYPE_CHECKING:
    from deepinside.engine.batch import JobSettings, Outcome
    from deepinside.engine.batch.report import Report

__all__ = ["Pages", "pages"]

_SHEET = 120  # overlays


class Pages:
    """The page and the sheet that were asked for, if any.

    Attributes:
        pictures: of how many pictures they need previews.
    """

    def __init__(self, job: JobChoice, report: "Report | None", facts: dict[str, str]) -> None:
        """Begin with nothing.

        Args:
            job: what the user asked for.
            report: the page.
            facts: of the job, for the page.
        """
        self._sheet = job.sheet
        self._report = report
        self._facts = facts
        self.pictures = max(0 if report is None else job.rows, _SHEET if job.sheet else 0)
        self._previews: list[bytes] = []
        self._captions: list[str] = []

    def add(self, outcome: "Outcome", number: int) -> None:
        """Show an outcome, the `number`th of the job."""
        if self._report is not None:
            self._report.add(outcome, number)
        if self._sheet is None:
            return
        for preview, entry in zip(outcome.previews[1:], outcome.record["maps"], strict=False):
            if len(self._previews) < _SHEET:
                label = (entry["label"] or str(entry["index"])).split(",")[0]
                chance = "" if entry["probability"] is None else f"  {entry['probability']:.0%}"
                self._previews.append(preview)
                self._captions.append(label + chance)

    def write(self, counts: Counter[str]) -> None:
        """Write what was asked for; a job that was stopped shows what it had done.

        Raises:
            OutputError: it can't be written.
        """
        if self._report is not None:
            self._report.write(self._facts, counts)
        if self._sheet is not None and self._previews:
            from deepinside.engine.batch.previews import sheet_of
            from deepinside.engine.sheet import save_sheet

            save_sheet(self._sheet, sheet_of(self._previews, self._captions))


@contextmanager
def pages(
    job: JobChoice, settings: "JobSettings", model: str | None, device: str
) -> Iterator[Pages]:
    """The page and the sheet of a job."""
    facts = {
        "model": model or "the embedded classifier",
        "targets": ", ".join(map(str, settings.targets)),
        "method": settings.method.name,
        "device": device,
    }
    if drawn := settings.rendering.settings:
        facts["drawn with"] = ", ".join(f"{name} {value}" for name, value in drawn.items())
    if job.report is None:
        yield Pages(job, None, facts)
        return
    from deepinside.engine.batch.report import Report

    with Report(job.report, job.rows) as report:
        yield Pages(job, report, facts)
