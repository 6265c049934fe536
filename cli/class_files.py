"""What `deepinside visualize` leaves in its folder: files per class, and lines of the manifest."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deepinside.cli.progress import echo_json

if TYPE_CHECKING:
    from deepinside.engine import ClassImage
    from deepinside.engine.batch import Record
    from deepinside.engine.contract import Contract
    from deepinside.engine.goals import Goal
    from deepinside.engine.state import AscentState

__all__ = [
    "TASK",
    "batches_of",
    "differences",
    "empty",
    "goal_name",
    "keep_state",
    "read_states",
    "show",
    "state_file",
    "write",
    "write_curves",
    "write_sheet",
]

TASK = "visualization"


def goal_name(goal: "Goal", contract: "Contract") -> str:
    """Stem of a goal's files: `285-egyptian-cat`; of a mix the parts: `0.5x282-tiger-cat+...`."""
    from deepinside.engine.batch.names import class_slug

    words = [(weight, class_slug(index, contract.label(index))) for index, weight in goal.parts]
    if not goal.is_mix:
        return words[0][1]
    return "+".join(f"{weight:g}x{word}" for weight, word in words)


def state_file(output: Path, name: str) -> Path:
    """Where the state of an unfinished class is kept."""
    return output / f"{name}.state.npz"


def write(
    image: "ClassImage", name: str, output: Path, *, animation: str | None, snapshots: bool
) -> "Record":
    """Write a class picture's files, its array last, and return its record.

    Args:
        image: the result.
        name: stem of the files.
        output: the folder.
        animation: `gif` or `apng`, of the snapshots and the final picture; None for none.
        snapshots: whether they become files of their own.
    """
    from deepinside.engine.batch.manifest import finite
    from deepinside.engine.files import save_array, save_picture
    from deepinside.engine.sheet import AnimationFormat, save_animation

    files = []
    frames = [s.picture for s in image.snapshots if s.picture is not None]
    if animation is not None and image.picture is not None:
        kind: AnimationFormat = "gif" if animation == "gif" else "apng"
        # Browsers and viewers know animated PNG by the ending of a still one.
        files.append(f"{name}.ascent.{'gif' if kind == 'gif' else 'png'}")
        save_animation(output / files[-1], [*frames, image.picture], kind=kind)
    for snapshot in image.snapshots if snapshots else ():
        if snapshot.picture is not None:
            files.append(f"{name}.step-{snapshot.step:05d}.png")
            save_picture(output / files[-1], snapshot.picture)
    if image.picture is not None:
        files.insert(0, f"{name}.png")
        save_picture(output / files[0], image.picture)
    # Last: its presence says that the class is done.
    files.insert(0, f"{name}.npy")
    save_array(output / files[0], image.image)
    return {
        "task": TASK,
        "input": name,
        "status": "ok",
        "index": image.index,
        "label": image.label,
        "score": finite(image.score),
        "steps": image.steps,
        "stopped_early": image.stopped_early,
        "score_curve": {"steps": list(image.score_steps), "scores": list(image.scores)},
        "files": files,
        "warning": _warning(image, name),
        "error": None,
    }


def _warning(image: "ClassImage", name: str) -> str | None:
    """What is suspicious about a picture."""
    if image.steps == 0 or len(set(image.scores)) > 1:
        return None
    return (
        f"{name}: its score was {image.score:.6g} from the first step to the last, so that nothing "
        "moved the picture towards it: of a layer, the channel may be dead; try another start with "
        "--init noise or --init IMAGE."
    )


def differences(known: "Record | None", made_with: "Record") -> Iterator[str]:
    """What an existing class picture was made with otherwise, in words."""
    if known is None or "settings" not in known:
        yield "nothing says how"
        return
    for name, value in made_with["settings"].items():
        earlier = known["settings"].get(name)
        if earlier != value:
            yield f"{name} {_word(earlier)} instead of {_word(value)}"
    if known.get("model_sha256") != made_with["model_sha256"]:
        yield "another model"
    elif known.get("file_sha256") != made_with["file_sha256"]:
        yield "another export of the model"
    if (
        known["settings"].get("init") == made_with["settings"]["init"]
        and known.get("init_sha256") != made_with["init_sha256"]
    ):
        yield "the picture it starts from has changed"


def _word(value: object) -> str:
    return "none" if value is None else str(value)


def empty(name: str, index: int, label: str | None, error: str | None) -> "Record":
    """The record of a class without a picture."""
    return {
        "task": TASK,
        "input": name,
        "status": "failed",
        "index": index,
        "label": label,
        "files": [],
        "error": error,
    }


def show(record: "Record", output: Path, *, as_json: bool) -> None:
    """Print what a class left: its record, or the paths of its files."""
    paths = [str(output / name) for name in record["files"]]
    if as_json:
        echo_json({**record, "files": paths})
        return
    for path in paths:
        click.echo(path)


def read_states(
    output: Path, names: dict["Goal", str], wanted: "Sequence[Goal]"
) -> dict["Goal", "AscentState"]:
    """The states that the folder holds of unfinished classes."""
    from deepinside.engine.state import load_state

    files = {goal: state_file(output, names[goal]) for goal in wanted}
    return {goal: load_state(file) for goal, file in files.items() if file.exists()}


def batches_of(
    wanted: "Sequence[Goal]", states: dict["Goal", "AscentState"], size: int
) -> "Iterator[list[Goal]]":
    """Batches of at most `size` goals that begin at the same step."""
    begins = {goal: states[goal].step if goal in states else 0 for goal in wanted}
    for begin in sorted(set(begins.values()), reverse=True):
        group = [goal for goal in wanted if begins[goal] == begin]
        for start in range(0, len(group), size):
            yield group[start : start + size]


def keep_state(output: Path, names: dict["Goal", str], state: "AscentState") -> None:
    """Keep the state of an unfinished class in place of its last one."""
    from deepinside.engine.state import save_state

    save_state(state_file(output, names[state.goal]), state)


def write_sheet(path: Path, output: Path, records: "Sequence[Record | None]") -> None:
    """The pictures of this call's classes; those that failed are left out."""
    from deepinside.engine import load_picture
    from deepinside.engine.sheet import contact_sheet, save_sheet

    pictures, captions = [], []
    for record in records:
        if record is None or f"{record['input']}.png" not in record["files"]:
            continue
        pictures.append(load_picture(output / f"{record['input']}.png").pixels)
        label = (record["label"] or f"{record['index']}").split(",")[0]
        captions.append(f"{label}  {record['score']:.1f}")
    if pictures:
        save_sheet(path, contact_sheet(pictures, captions))


def write_curves(path: Path, records: "Sequence[Record | None]") -> None:
    """How the scores of this call's classes rose; those that failed are left out."""
    from deepinside.engine.score_plot import draw_scores

    curves = {
        record["label"] or record["input"]: (
            record["score_curve"]["steps"],
            record["score_curve"]["scores"],
        )
        for record in records
        if record is not None and record["status"] == "ok"
    }
    if curves:
        draw_scores(curves, path)
