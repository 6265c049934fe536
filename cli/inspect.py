"""`deepinside inspect`: what is in a file."""

import dataclasses
from pathlib import Path
from typing import Any

import click

from deepinside.cli.errors import reports_errors
from deepinside.cli.options import json_option
from deepinside.cli.progress import echo_json, printable

__all__ = ["inspect"]

_SHOWN_LABELS = 3


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--layers", is_flag=True, help="List a plain classifier's layers, for visualize --layer."
)
@json_option
@reports_errors
def inspect(file: Path, layers: bool, as_json: bool) -> None:
    """Show a file's contract, inputs, outputs and preprocessing.

    It works on a plain classifier too, and then says that it is not exported yet.

    \b
    Examples:
      deepinside inspect saliency.onnx
      deepinside inspect saliency.onnx --json
      deepinside inspect classifier.onnx --layers
    """  # noqa: D301  (click takes the character \b as "do not rewrap")
    if layers:
        _show_layers(file, as_json=as_json)
        return
    facts = _facts(file)
    if as_json:
        echo_json(facts)
    else:
        for line in _lines(facts):
            click.echo(printable(line))


def _show_layers(file: Path, *, as_json: bool) -> None:
    """A line per layer: name, operator, channels and places."""
    from deepinside.cli.model import layers_of

    for layer in layers_of(file):
        fields = dataclasses.asdict(layer)
        places = " x ".join("any" if size is None else str(size) for size in layer.places)
        text = f"{layer.name:<40} {layer.operator:<20} {layer.channels} channels  {places}"
        if as_json:
            echo_json(fields)
        else:
            click.echo(printable(text))


def _facts(file: Path) -> dict[str, Any]:
    from deepinside.engine import NotExportedError, RuntimeMissingError, read_contract
    from deepinside.engine.modelfile import external_files, read_header

    header = read_header(file)
    weights = [path for path in external_files(file) if path.exists()]
    facts: dict[str, Any] = {
        "file": str(file),
        "bytes": sum(path.stat().st_size for path in (file, *weights)),
        "opset": header.opset,
        "producer": header.producer,
        "contract": None,
        "inputs": None,
        "outputs": None,
    }
    try:
        contract = read_contract(file)
        fields = {item.name: getattr(contract, item.name) for item in dataclasses.fields(contract)}
        fields["names"] = dict(contract.names)
        fields["score"] = dataclasses.asdict(contract.score)
        if contract.preprocessing is not None:
            fields["preprocessing"] = dataclasses.asdict(contract.preprocessing)
        facts["contract"] = fields
    except NotExportedError:
        pass
    try:
        facts["inputs"], facts["outputs"] = _tensors(file)
    except RuntimeMissingError as error:
        click.echo(f"Inputs and outputs are not shown: {error}", err=True)
    return facts


def _tensors(file: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    from deepinside.engine.session import SessionSettings, open_session

    session = open_session(file, SessionSettings(device="cpu", optimize=False))
    inputs, outputs = (
        [
            {
                "name": info.name,
                "type": None if info.dtype is None else str(info.dtype),
                "shape": list(info.shape),
            }
            for info in tensors.values()
        ]
        for tensors in (session.inputs, session.outputs)
    )
    return inputs, outputs


def _lines(facts: dict[str, Any]) -> list[str]:
    contract = facts["contract"]
    rows: list[tuple[str, str]] = [
        ("file", f"{facts['file']} ({facts['bytes'] / 1e6:.1f} MB, opset {facts['opset']})")
    ]
    if contract is None:
        advice = f"no; write one with deepinside export {facts['file']} -o FILE.onnx"
        rows.append(("exported", advice))
    parts = {} if contract is None else {name: part for part, name in contract["names"].items()}
    for kind in ("inputs", "outputs"):
        for tensor in facts[kind] or ():
            shape = ", ".join("?" if size is None else str(size) for size in tensor["shape"])
            part = parts.get(tensor["name"])
            note = f"  [{part}]" if part and part != tensor["name"] else ""
            rows.append((kind[:-1], f"{tensor['name']}: {tensor['type']} ({shape}){note}"))
    if contract is not None:
        rows.extend(_contract_rows(contract))
        rows.extend(_size_rows(facts))
    return [f"{name:<17}{text}" for name, text in rows]


def _size_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Which picture sizes the file takes, where a runtime could tell its inputs."""
    contract = facts["contract"]
    for tensor in facts["inputs"] or ():
        if tensor["name"] == contract["names"]["image"]:
            if contract["layout"] == "flat":
                return []  # its row "picture" says it
            axes = (2, 3) if contract["layout"] == "NCHW" else (1, 2)
            height, width = (tensor["shape"][axis] for axis in axes)
            if isinstance(height, int) and isinstance(width, int):
                return [("picture size", f"{height}x{width} only")]
            return [("picture size", "open: choose one with --size HxW or --size original")]
    return []


def _contract_rows(contract: dict[str, Any]) -> list[tuple[str, str]]:
    labels = contract["labels"]
    score = contract["score"]
    record = contract["preprocessing"]
    rows = [
        (
            "task",
            f"{contract['task']} (contract {contract['contract_version']}, written by "
            f"deepinside {contract['tool_version']})",
        ),
        ("classifier", f"sha256 {contract['source_sha256']}"),
        ("layout", contract["layout"]),
        *(
            [("picture", "{} x {} x {}".format(*contract["picture"]))]
            if contract["picture"]
            else []
        ),
        ("classes", str(contract["num_classes"])),
        ("labels", "not known" if labels is None else ", ".join(labels[:_SHOWN_LABELS]) + " ..."),
        ("score", f"{score['kind']}, tensor {score['tensor']}"),
        *(("bypassed", sentence) for sentence in score["bypassed"]),
        ("activation", contract["activation"]),
        ("relu", contract["relu"]),
        ("autodiff", contract["autodiff"]),
    ]
    if contract["straight_through"]:
        rows.append(("quantised", f"{contract['straight_through']} nodes passed straight through"))
    if contract["layer"] is not None:
        where = "" if contract["neuron"] is None else f" at {tuple(contract['neuron'])}"
        rows.append(("layer", f"{contract['layer']}{where}, a class is a channel"))
    if contract["loop"] is not None:
        rows.append(("loop", f"a whole ascent of {contract['loop']} steps"))
    for key in ("target_input", "step_rule", "licence"):
        if contract[key] is not None:
            rows.append((key, contract[key]))
    if record is None:
        rows.append(("preprocessing", "not known: only preprocessed arrays can be explained"))
    else:
        rows.extend((f"  {key}", str(value)) for key, value in record.items())
    return rows
