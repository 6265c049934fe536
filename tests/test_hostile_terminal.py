"""Names and labels from files never steer the terminal, whatever command prints them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from classifiers import classifier
from engine_fixtures import RECORD
from PIL import Image

# Red, red by the one-byte form of the same, the bell, text to the left, and a new line.
STEERING = "a\x1b[31mb\x9b31mc\x07d\u202ee\x85f"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier, labels and a picture with such names."""
    folder = tmp_path_factory.mktemp("names")
    model = classifier()
    model.producer_name = STEERING
    outputs = {output.name for output in model.graph.output}
    inner = {name for node in model.graph.node for name in node.output} - outputs
    for node in model.graph.node:
        node.name = f"{node.op_type}{STEERING}"
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                names[position] = name + STEERING if name in inner else name
    del model.graph.value_info[:]
    onnx.save(model, folder / "plain.onnx")
    (folder / "labels.txt").write_text("\n".join(f"{STEERING}{number}" for number in range(5)))
    (folder / "record.json").write_text(json.dumps({**RECORD, "input_size": [8, 8]}))
    Image.new("RGB", (20, 16), "teal").save(folder / f"{STEERING}.png")
    (folder / f"bad{STEERING}.png").write_bytes(b"no picture")
    (folder / os.fsdecode(b"bytes\xff.png")).write_bytes(b"no picture")
    export = ["export", "plain.onnx", "-o", "s.onnx", "--preprocessing", "record.json"]
    run(folder, *export, "--labels", "labels.txt")
    assert (folder / "s.onnx").exists()
    return folder


def run(folder: Path, *arguments: str) -> str:
    """What a command prints, all of it printable."""
    command = [sys.executable, "-m", "deepinside.cli", *arguments]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "PYTHONUTF8": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
    for stream in (done.stdout, done.stderr):
        text = stream.decode()
        assert "Traceback" not in text
        assert [c for c in text if not c.isprintable() and c != "\n"] == []
    return done.stdout.decode()


@pytest.mark.parametrize(
    "line",
    [
        "inspect s.onnx",
        "inspect plain.onnx --layers",
        "export plain.onnx -o again.onnx --labels labels.txt --json",
        "-v export plain.onnx -o other.onnx --preprocessing record.json --labels labels.txt",
        "saliency . -m s.onnx -o maps -t top2",
        "visualize -m plain.onnx -t 0 --steps 1 -o classes --preprocessing record.json",
        "saliency . -m s.onnx -t nothing -o none",
        "export plain.onnx -o x.onnx --score nowhere",
    ],
)
def test_commands_print_no_control_characters(folder: Path, line: str) -> None:
    run(folder, *line.split())


@pytest.mark.parametrize(
    "line",
    [
        "inspect s.onnx --json",
        "inspect plain.onnx --layers --json",
        "saliency . -m s.onnx -o maps-json --json",
        "evaluate . -m s.onnx -o evaluation --json",
        "localize . -m s.onnx -o objects --json",
    ],
)
def test_json_says_the_names_as_they_are(folder: Path, line: str) -> None:
    found = [json.loads(each) for each in run(folder, *line.split()).splitlines()]
    assert "\x9b31mc" in json.dumps(found, ensure_ascii=False)
