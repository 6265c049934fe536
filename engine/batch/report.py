"""One HTML page of a job's results, which needs nothing beside it.

Names and labels come from outside: every text is escaped, and the page's own policy lets it run
its one script and load nothing.
"""

import base64
import hashlib
import tempfile
from html import escape
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from deepinside.engine.batch.manifest import Record
from deepinside.engine.batch.work import Outcome
from deepinside.engine.files import replacing

__all__ = ["Report"]

_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2rem; color: #1c1c1c; background: #fff; }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
dl { display: grid; grid-template-columns: max-content auto; gap: 0 1rem; color: #555; }
dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; }
th { text-align: left; border-bottom: 2px solid #888; padding: .4rem .6rem; position: sticky;
  top: 0; background: #fff; }
th button { font: inherit; font-weight: 600; background: none; border: 0; padding: 0;
  cursor: pointer; }
th[aria-sort=ascending] button::after { content: " \\25b2"; }
th[aria-sort=descending] button::after { content: " \\25bc"; }
td { vertical-align: top; padding: .5rem .6rem; border-bottom: 1px solid #ddd; }
td.name { max-width: 18rem; overflow-wrap: anywhere; white-space: pre-wrap; }
figure { display: inline-block; margin: 0 .4rem .3rem 0; max-width: 200px; vertical-align: top; }
figcaption { font-size: 12px; color: #555; } img { display: block; background: #eee; }
table.top td, table.top th { border: 0; padding: 0 .5rem .1rem 0; }
meter { width: 6rem; }
"""
_SCRIPT = """
"use strict";
const table = document.getElementById("results");
function sort(key, descending) {
  const heads = [...table.tHead.rows[0].cells];
  const head = heads.find(cell => cell.dataset.key === key);
  if (!head) return;
  const numeric = "numeric" in head.dataset;
  const value = row => numeric ? Number(row.dataset[key]) : row.dataset[key];
  const compare = (a, b) => numeric ? a - b : a.localeCompare(b, undefined, {numeric: true});
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => compare(value(a), value(b)) * (descending ? -1 : 1)
    || Number(a.dataset.number) - Number(b.dataset.number));
  for (const cell of heads) cell.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  table.tBodies[0].append(...rows);
}
for (const button of table.tHead.querySelectorAll("button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const descending = head.getAttribute("aria-sort") === "ascending";
    history.replaceState(null, "", "#" + head.dataset.key + (descending ? "-down" : "-up"));
    sort(head.dataset.key, descending);
  });
}
const wanted = /^#(\\w+)-(up|down)$/.exec(location.hash);
if (wanted) sort(wanted[1], wanted[2] === "down");
"""
_HEADS = (
    ("number", "#", True),
    ("name", "Input", False),
    ("", "Picture", False),
    ("label", "Saliency", False),
    ("probability", "Best classes", True),
)


class Report:
    """A page that grows row by row; only what it shows is kept, and that on disk.

    Attributes:
        rows: pictures it shows at most, and failures it lists at most.
    """

    def __init__(self, path: Path, rows: int) -> None:
        """Begin a page.

        Args:
            path: where it is written in the end.
            rows: pictures and failures at most.
        """
        self.rows = rows
        self._path = path
        self._results = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the page)
        self._failures = tempfile.TemporaryFile()  # noqa: SIM115
        self._shown = self._listed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._results.close()
        self._failures.close()

    def add(self, outcome: Outcome, number: int) -> None:
        """Show an outcome, the `number`th of the job."""
        record = outcome.record
        if record["error"] is not None:
            if self._listed < self.rows:
                self._listed += 1
                self._failures.write(_failure(record).encode(errors="replace"))
        elif self._shown < self.rows:
            self._shown += 1
            self._results.write(_row(record, outcome.previews, number).encode(errors="replace"))

    def write(self, facts: dict[str, Any], counts: dict[str, int]) -> None:
        """Write the page.

        Args:
            facts: of the job, by name.
            counts: of outcomes, by status.

        Raises:
            OutputError: it can't be written.
        """
        done = counts.get("ok", 0) + counts.get("kept", 0)
        failed = counts.get("failed", 0)
        with replacing(self._path) as page:

            def put(text: str) -> None:
                page.write(text.encode(errors="replace"))

            put(_head())
            put("<h1>Saliency maps</h1>\n<dl>\n")
            shown = {**facts, "pictures": f"{done} explained, {failed} failed"}
            for name, value in shown.items():
                put(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>\n")
            put("</dl>\n")
            put(f"<h2>Results{_of(self._shown, done)}</h2>\n")
            put('<table id="results"><thead><tr>')
            for key, title, numeric in _HEADS:
                marks = f' data-key="{key}"' + (" data-numeric" if numeric else "") if key else ""
                name = f"<button>{title}</button>" if key else title
                put(f"<th{marks}>{name}</th>")
            put("</tr></thead><tbody>\n")
            _copy(self._results, page)
            put("</tbody></table>\n")
            if failed:
                put(f"<h2>Failures{_of(self._listed, failed)}</h2>\n")
                put("<table><thead><tr><th>Input</th><th>Reason</th></tr></thead><tbody>\n")
                _copy(self._failures, page)
                put("</tbody></table>\n")
            put(f"<script>{_SCRIPT}</script>\n</body></html>\n")


def _head() -> str:
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Saliency maps</title>\n<style>{_STYLE}</style></head><body>\n"
    )


def _hash(content: str) -> str:
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _of(shown: int, total: int) -> str:
    return "" if shown == total else f" (the first {shown} of {total}; manifest.jsonl lists all)"


def _copy(source: Any, target: Any) -> None:
    source.seek(0)
    while block := source.read(1 << 20):
        target.write(block)


def _row(record: Record, previews: tuple[bytes, ...], number: int) -> str:
    maps, best = record["maps"], record.get("top5", [])
    first = maps[0]
    probability = best[0]["probability"] if best else first["probability"]
    figures = "".join(
        f"<figure>{_image(preview, 'saliency map on the picture')}"
        f"<figcaption>{_class(entry)}, {_percent(entry['probability'])}</figcaption></figure>"
        for preview, entry in zip(previews[1:] or [b""] * len(maps), maps, strict=False)
    )
    classes = "".join(
        f'<tr><td>{_class(entry)}</td><td><meter value="{entry["probability"] or 0:.4f}"></meter>'
        f"</td><td>{_percent(entry['probability'])}</td></tr>"
        for entry in best
    )
    return (
        f'<tr data-number="{number}" data-name="{_text(record["input"])}" '
        f'data-label="{_text(first["label"] or first["index"])}" '
        f'data-probability="{-1 if probability is None else probability:.6f}">'
        f'<td>{number}</td><td class="name">{_text(record["input"])}</td>'
        f"<td>{_image(previews[0], 'the picture') if previews else ''}</td><td>{figures}</td>"
        f'<td><table class="top">{classes}</table></td></tr>\n'
    )


def _failure(record: Record) -> str:
    name = record["input"]
    reason = record["error"].removeprefix(f"{name}: ")
    return f'<tr><td class="name">{_text(name)}</td><td class="name">{_text(reason)}</td></tr>\n'


def _image(jpeg: bytes, alternative: str) -> str:
    if not jpeg:
        return ""
    data = base64.b64encode(jpeg).decode()
    return f'<img alt="{alternative}" src="data:image/jpeg;base64,{data}">'


def _class(entry: Record) -> str:
    label = (entry["label"] or "").split(",")[0]
    return f"{_text(label)} ({entry['index']})" if label else f"class {entry['index']}"


def _percent(probability: float | None) -> str:
    return "?" if probability is None else f"{100 * probability:.1f} %"


def _text(value: object) -> str:
    """A text from outside; what is no Unicode in it and NUL are shown as such."""
    text = str(value).encode(errors="backslashreplace").decode()
    return escape(text.replace("\0", "\ufffd"))
