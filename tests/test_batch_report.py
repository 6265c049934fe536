"""The page and the sheet of a job."""

import base64
import http.server
import io
import re
import shutil
import subprocess
import tarfile
import threading
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from engine_fixtures import Recipe, write
from PIL import Image

from deepinside.cli.main import cli
from deepinside.engine import load_picture

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-sync", "--disable-background-networking", "--disable-component-update"]


class Page(HTMLParser):
    """What is on a page: elements by name, and the names in its rows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def names(self) -> list[str | None]:
        return [row["data-name"] for row in self.all("tr") if "data-name" in row]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    labels = ['<script>alert("x")</script>', "b", "c"]
    write(tmp_path / "m.onnx", Recipe(labels=labels))
    return tmp_path


def pictures(*names: str) -> None:
    with tarfile.open("s.tar", "w") as archive:
        for seed, name in enumerate(names):
            pixels = np.random.default_rng(seed).integers(0, 256, (12, 20, 3), dtype=np.uint8)
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "PNG")
            info = tarfile.TarInfo(name)
            info.size = len(stream.getvalue())
            archive.addfile(info, io.BytesIO(stream.getvalue()))
    Path("bad<b>.png").write_bytes(b"x")


def run(*arguments: str) -> None:
    command = ["saliency", "-m", "m.onnx", "s.tar", "bad<b>.png", "-t", "0", "-t", "top1"]
    result = CliRunner().invoke(cli, [*command, "--report", "r.html", *arguments])
    assert result.exit_code == 1, result.output


@pytest.mark.parametrize("form", ["files", "npz"])
def test_everything_is_on_the_page_and_nothing_runs(form: str) -> None:
    hostile = '<img src="http://example.org/x" onerror="alert(1)">.png'
    pictures("1.png", hostile, "3.png")
    for _ in range(2):  # the second time from what is kept
        run("--format", form, "--sheet", "s.png")
        page = Page(Path("r.html").read_text(encoding="utf-8"))
        assert page.names == ["s.tar::1.png", f"s.tar::{hostile}", "s.tar::3.png"]
        assert len(page.all("script")) == 1
        assert all(
            str(image["src"]).startswith("data:image/jpeg;base64,") for image in page.all("img")
        )
        assert len(page.all("img")) >= 6
        assert not any(name.startswith("on") for _, found in page.elements for name in found)
        assert not page.all("b")
        assert len(page.all("meter")) == 9
        text = Path("r.html").read_text(encoding="utf-8")
        assert "is not a picture in a format" in text
        assert "3 explained, 1 failed" in text
        assert load_picture("s.png").size[0] > 200


def test_a_page_has_so_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures("1.png", "2.png", "3.png")
    run("--report-rows", "2")
    page = Path("r.html").read_text(encoding="utf-8")
    assert len(Page(page).names) == 2
    assert "(the first 2 of 3; manifest.jsonl lists all)" in page


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("files", ["--signed", "--colour-map", "berlin"]),
        ("files", ["--norm", "batch", "--opacity", "0.2"]),
        ("npz", ["--colour-map", "viridis"]),
    ],
)
def test_previews_are_drawn_as_the_maps_are(form: str, options: list[str]) -> None:
    pixels = np.full((90, 120, 3), (200, 120, 60), np.uint8)
    pixels[:, :, 1] = np.arange(120)  # smooth: JPEG keeps it
    Image.fromarray(pixels).save("a.png")
    command = ["saliency", "-m", "m.onnx", "a.png", "-t", "0", "-t", "1", *options]
    plain = CliRunner().invoke(cli, [*command, "-o", "plain"])
    assert plain.exit_code == 0, plain.output
    overlays = [load_picture(path).pixels for path in sorted(Path("plain").glob("*.overlay.png"))]
    usual = CliRunner().invoke(cli, [*command[:8], "-o", "usual"])
    assert usual.exit_code == 0, usual.output
    others = [load_picture(path).pixels for path in sorted(Path("usual").glob("*.overlay.png"))]
    pages = [*command, "--format", form, "--report", "r.html", "--sheet", "s.png", "-o", "out"]
    for status in ("1 done, 0 kept", "0 done, 1 kept"):
        result = CliRunner().invoke(cli, pages)
        assert status in result.output
        text = Path("r.html").read_text(encoding="utf-8")
        assert "drawn with" in text
        assert options[0].removeprefix("--").replace("-", "_") in text
        _, *shown = (
            load_picture(base64.b64decode(str(image["src"]).partition(",")[2])).pixels.astype(int)
            for image in Page(text).all("img")
        )
        assert len(shown) == len(overlays) == 2
        for preview, overlay, other in zip(shown, overlays, others, strict=True):
            assert np.abs(preview - overlay).mean() < 3
            assert np.abs(preview - other).mean() > 6
        sheet = load_picture("s.png").pixels.astype(int)[55:145, 40:160]  # the middle of its frame
        assert np.abs(sheet - overlays[0]).mean() < 4


def test_maps_without_signs_are_not_drawn_signed() -> None:
    pictures("1.png")
    command = ["saliency", "-m", "m.onnx", "s.tar", "--signed", "--format", "npz"]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 2
    assert "npz shards hold maps without signs" in result.stderr


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_in_a_browser(tmp_path: Path) -> None:
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        pictures("1.png", f'"><img src="{address}/x">.png', "3.png")
        run()

        def shown(url: str, profile: str) -> str:
            command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / profile}", "--dump-dom"]
            done = subprocess.run([*command, url], capture_output=True, text=True, timeout=120)
            return done.stdout

        page = Path("r.html").absolute().as_uri()
        up, down = (Page(shown(f"{page}#name-{way}", way)) for way in ("up", "down"))
        assert not asked
        # The server would have noticed.
        Path("open.html").write_text(f'<img src="{address}/x">', encoding="utf-8")
        shown(Path("open.html").absolute().as_uri(), "open")
        assert asked == ["/x"]
        server.shutdown()
    assert len(up.names) == 3
    assert up.names == down.names[::-1]
    assert [head.get("aria-sort") for head in down.all("th")][1] == "descending"
    assert not re.search(r"https?://(?!127)", Path("r.html").read_text(encoding="utf-8"))
