"""The front door of transformers: image classifiers of Hugging Face, from local files only.

No code that comes with a file is run: no remote code, no pickled weights, no network. No file
outside the folder is read, wherever its links and its lists of weights point.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from deepinside.exporters import pytorch
from deepinside.exporters.errors import ClassifierError
from deepinside.exporters.frontdoor import Opened, explained, less_talk, require
from deepinside.exporters.huggingface_record import preprocessing_record

__all__ = ["load"]

_log = logging.getLogger(__name__)

_PURPOSE = "a classifier of transformers"
_READ = {".json", ".safetensors"}  # by transformers, of a folder
_LOCAL = {"local_files_only": True, "trust_remote_code": False}


def load(
    classifier: Any,
    *,
    example_input: Any = None,
    input_shape: Sequence[int] | None = None,
    random_weights: bool = False,
) -> Opened:
    """Turn `hf:FOLDER`, `hf:CONFIG.json` or an image classifier of transformers into ONNX.

    Args:
        classifier: a folder as `save_pretrained` writes it, a configuration alone, or a model.
        example_input: pixel values `(N, C, H, W)`, an array or tensor.
        input_shape: of the input, where the configuration does not give its size.
        random_weights: don't load the weights; a configuration alone needs it.

    Raises:
        MissingPackageError: transformers or PyTorch is not installed.
        ClassifierError: it can't be read, or is no image classifier.
    """
    torch = require("torch", "hf", _PURPOSE)
    transformers = require("transformers", "hf", _PURPOSE)
    record = None
    network = classifier
    if isinstance(classifier, str):
        path = Path(classifier.partition(":")[2])
        network = _read(transformers, path, random_weights)
        folder = path if path.is_dir() else path.parent
        if (folder / "preprocessor_config.json").is_file():
            _require_inside(folder, ["preprocessor_config.json", "processor_config.json"])
            record = _record(transformers, folder)
    config = network.config
    if example_input is not None:
        example_input = torch.as_tensor(example_input)
    shape = input_shape or _input_shape(config, record)
    model = pytorch.to_onnx(_scores_alone(network), example_input, shape)
    return Opened(model, record, _labels(config))


def _read(transformers: Any, path: Path, random_weights: bool) -> Any:
    """The network, in eval mode."""
    if path.is_file() and not random_weights:
        raise ClassifierError(
            f"{path} is a configuration without weights: give the folder that holds both, or ask "
            "for an untrained network with --random-weights."
        )
    file = path if path.is_file() else path / "config.json"
    if not file.is_file():
        raise ClassifierError(
            f"there is no {file}: hf: takes a folder as save_pretrained writes it, or its "
            "config.json; nothing is fetched from the network."
        )
    hub = require("huggingface_hub", "hf", _PURPOSE)
    safetensors = require("safetensors", "hf", _PURPOSE)
    own = (hub.errors.StrictDataclassError, safetensors.SafetensorError)
    failure = f"transformers can't make an image classifier of {path} without running code from it"
    with explained(failure, *own), less_talk("transformers"):
        _require_inside(path, (found.name for found in path.glob("*") if found.suffix in _READ))
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or "model_type" not in content:
            raise ClassifierError(f"{file} is not a configuration of transformers.")
        _require_inside(path, _named(path, content))
        config = transformers.AutoConfig.from_pretrained(str(file), **_LOCAL)
        automatic = transformers.AutoModelForImageClassification
        settings = {"attn_implementation": "eager", "dtype": "float32"}
        if random_weights:
            network = automatic.from_config(config, trust_remote_code=False, **settings)
        else:
            network, loaded = automatic.from_pretrained(
                str(path),
                use_safetensors=True,
                output_loading_info=True,
                **settings,
                **_LOCAL,
            )
            if missing := ", ".join(sorted(loaded["missing_keys"])):
                raise ClassifierError(
                    f"{path} lacks weights of a classifier, which would be random: {missing[:200]}."
                )
    return network.eval()


def _named(folder: Path, config: dict[str, Any]) -> Iterator[str]:
    """The weights that files of the folder name; none is read before it has been yielded."""
    indexes = [file.name for file in folder.glob("*.index.json")]
    if "transformers_weights" in config:  # a name in place of the usual ones
        indexes.append(str(config["transformers_weights"]))
    for name in indexes:
        yield name
        if name.endswith(".index.json") and (folder / name).is_file():
            content = json.loads((folder / name).read_text(encoding="utf-8"))
            yield from map(str, content["weight_map"].values())


def _require_inside(folder: Path, names: Iterable[str]) -> None:
    """Refuse files that lie elsewhere; the cache of Hugging Face's hub has links to its blobs.

    Raises:
        ClassifierError: one does.
    """
    home = folder.resolve()
    homes = [home, home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [home]
    for name in names:
        place = (home / name).resolve()
        if not any(place.is_relative_to(allowed) for allowed in homes):
            raise ClassifierError(
                f"{folder} has {name!r} outside of itself ({place}), which is refused."
            )


def _record(transformers: Any, folder: Path) -> dict[str, Any] | None:
    """The preprocessing of the folder's image processor."""
    with explained(f"{folder / 'preprocessor_config.json'} is no preprocessing of transformers"):
        processor = transformers.AutoImageProcessor.from_pretrained(
            str(folder), backend="pil", **_LOCAL
        )
        record, problem = preprocessing_record(processor)
    if record is None:
        _log.warning(
            "no preprocessing record was written: %s. Give one with --preprocessing.", problem
        )
    return record


def _input_shape(config: Any, record: dict[str, Any] | None) -> tuple[int, ...] | None:
    """The shape that the image processor, else the configuration, gives."""
    channels = getattr(config, "num_channels", 3)
    if record is not None:
        return (1, channels, *record["input_size"])
    size = getattr(config, "image_size", None)
    if size is None:
        size = getattr(getattr(config, "vision_config", None), "image_size", None)
    if isinstance(size, int):
        size = (size, size)
    return None if size is None else (1, channels, *size)


def _labels(config: Any) -> list[str] | None:
    """The classes' names; None where they are only numbered."""
    if not config.id2label:
        return None
    with explained(f"the configuration has no names of all its {config.num_labels} classes"):
        names = [str(config.id2label[index]) for index in range(config.num_labels)]
    numbered = all(name == f"LABEL_{index}" for index, name in enumerate(names))
    return None if numbered else names


def _scores_alone(network: Any) -> Any:
    """A module from pixel values to scores, in place of one with a structure of results."""
    torch = require("torch", "hf", _PURPOSE)

    class ScoresAlone(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: Any) -> Any:
            result = self.network(pixel_values=image, return_dict=True)
            if not hasattr(result, "logits"):
                raise RuntimeError(f"{type(self.network).__name__} gives no logits")
            return result.logits

    return ScoresAlone().train(network.training)
