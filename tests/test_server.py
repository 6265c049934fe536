"""examples/server.py as it is run: uvicorn in a process of its own, clients in threads."""

import base64
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepinside import models
from deepinside.engine import Engine, heatmap

SERVER = Path(__file__).parents[1] / "examples" / "server.py"
PICTURES = {name: models.example(name).read_bytes() for name in models.EXAMPLES}
TARGETS = ("top1", "282", "espresso", "top2")


@pytest.fixture(scope="module")
def url(embedded_file: Path) -> Iterator[str]:
    """Of a running server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = embedded_file.with_suffix(".log")
    with (
        log.open("wb") as stream,
        subprocess.Popen(
            [sys.executable, "-W", "error", str(SERVER), str(embedded_file), str(port)],
            stdout=stream,
            stderr=subprocess.STDOUT,
        ) as server,
    ):
        address = f"http://127.0.0.1:{port}"
        try:
            deadline = time.monotonic() + 60
            while True:
                assert server.poll() is None, log.read_text(encoding="utf-8")
                try:
                    assert get(f"{address}/health") == {"status": "ok", "device": "cpu"}
                    break
                except urllib.error.URLError:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            yield address
            text = log.read_text(encoding="utf-8")
            assert "Traceback" not in text
            assert "Warning" not in text
        finally:
            server.terminate()
            server.wait(20)


def get(address: str, body: bytes | None = None) -> Any:
    with urllib.request.urlopen(address, body, timeout=60) as answer:
        return json.load(answer)


def explain(url: str, picture: bytes, **query: str) -> Any:
    return get(f"{url}/saliency?{urllib.parse.urlencode(query)}", picture)


def refusal(url: str, picture: bytes, **query: str) -> tuple[int, str]:
    with pytest.raises(urllib.error.HTTPError) as caught:
        explain(url, picture, **query)
    with caught.value as answer:
        return answer.code, json.load(answer)["detail"]


def png(entry: dict[str, Any]) -> np.ndarray:
    with Image.open(BytesIO(base64.b64decode(entry["heatmap"], validate=True))) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture)


def test_requests_at_the_same_time_get_their_own_maps(embedded_file: Path, url: str) -> None:
    engine = Engine(embedded_file, "cpu")
    expected = {
        (name, target): engine.saliency(picture, target)
        for name, picture in PICTURES.items()
        for target in TARGETS
    }
    everything = sorted(expected)

    def client(number: int) -> list[tuple[tuple[str, str], Any]]:
        turns = [everything[(number + 5 * turn) % len(everything)] for turn in range(5)]
        return [(turn, explain(url, PICTURES[turn[0]], target=turn[1])) for turn in turns]

    with ThreadPoolExecutor(8) as clients:
        answers = [pair for found in clients.map(client, range(8)) for pair in found]
    assert len(answers) == 40
    assert {turn for turn, _ in answers} == set(everything)
    for turn, answer in answers:
        assert [entry["index"] for entry in answer] == [item.index for item in expected[turn]]
        for entry, item in zip(answer, expected[turn], strict=True):
            assert entry["label"] == item.label
            assert entry["score"] == pytest.approx(item.score, abs=1e-4)
            assert entry["probability"] == pytest.approx(item.probability, abs=1e-5)
            # Another picture's or class's map is far away; threads may round otherwise.
            difference = png(entry).astype(int) - heatmap(item.saliency).astype(int)
            assert np.abs(difference).max() <= 2


def test_what_can_not_be_explained_is_said(url: str) -> None:
    picture = PICTURES["coffee"]
    assert refusal(url, b"hello") == (
        400,
        "the picture: is not a picture in a format that Pillow can read.",
    )
    assert refusal(url, b"") == (400, "the picture: is empty.")
    code, text = refusal(url, picture[: len(picture) // 2])
    assert (code, "cut short" in text) == (400, True)
    for target in ("no such class", "1000", "-2", "top0", "cat"):
        code, text = refusal(url, picture, target=target)
        assert code == 400
        assert "class" in text
    assert refusal(url, picture, target="top1000")[0] == 400
    code, text = refusal(url, bytes(20_000_001))
    assert (code, text) == (413, "the picture has more than 20000000 bytes.")


def test_a_client_that_leaves_is_no_error(url: str) -> None:
    place = urllib.parse.urlsplit(url)
    with socket.create_connection((place.hostname, place.port)) as client:
        client.sendall(b"POST /saliency HTTP/1.1\r\nHost: h\r\nContent-Length: 900\r\n\r\nhalf")
        time.sleep(0.2)
    # The fixture looks for tracebacks once the server has stopped.
    assert get(f"{url}/health")["status"] == "ok"


def test_bombs_are_refused_and_the_server_lives(url: str) -> None:
    stream = BytesIO()
    Image.new("1", (10_000, 5_001)).save(stream, "PNG")
    assert len(stream.getvalue()) < 100_000
    code, text = refusal(url, stream.getvalue())
    assert (code, "at most 50000000 pixels" in text) == (400, True)
    (entry,) = explain(url, PICTURES["coffee"])
    assert entry["label"] == "espresso"


def test_large_photographs_are_read_at_a_reduced_size(url: str) -> None:
    coarse = Image.open(BytesIO(PICTURES["coffee"])).convert("RGB")
    stream = BytesIO()
    coarse.resize((9_000, 6_000), Image.Resampling.BILINEAR).save(stream, "JPEG", quality=80)
    (entry,) = explain(url, stream.getvalue())
    assert entry["label"] == "espresso"


def test_usage_is_said(embedded_file: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SERVER)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "python server.py MODEL.onnx" in done.stderr
