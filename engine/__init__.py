"""Runs exported files: saliency maps, class pictures, checks. Needs no graph library."""

from deepinside.engine.boxes import draw_boxes
from deepinside.engine.contract import Contract
from deepinside.engine.decode import Picture, load_picture
from deepinside.engine.engine import Engine, read_contract
from deepinside.engine.errors import (
    DivergenceError,
    EngineError,
    ImageError,
    MissingPackageError,
    ModelFileError,
    NotExportedError,
    OutOfMemoryError,
    OutputError,
    ProviderError,
    RunError,
    RuntimeConflictError,
    RuntimeMissingError,
    SettingError,
    TargetError,
    TaskError,
)
from deepinside.engine.localize import LocalizationSettings, localize
from deepinside.engine.preprocess import Region
from deepinside.engine.presets import PRESETS, Preset
from deepinside.engine.providers import ProviderStatus, probe_providers
from deepinside.engine.record import Preprocessing
from deepinside.engine.render import heatmap, normalise, overlay
from deepinside.engine.results import (
    Box,
    CheckReport,
    ClassImage,
    InputFailure,
    InputMaps,
    Localization,
    SaliencyMap,
    Snapshot,
)
from deepinside.engine.visualize import Progress

__all__ = [
    "PRESETS",
    "Box",
    "CheckReport",
    "ClassImage",
    "Contract",
    "DivergenceError",
    "Engine",
    "EngineError",
    "ImageError",
    "InputFailure",
    "InputMaps",
    "Localization",
    "LocalizationSettings",
    "MissingPackageError",
    "ModelFileError",
    "NotExportedError",
    "OutOfMemoryError",
    "OutputError",
    "Picture",
    "Preprocessing",
    "Preset",
    "Progress",
    "ProviderError",
    "ProviderStatus",
    "Region",
    "RunError",
    "RuntimeConflictError",
    "RuntimeMissingError",
    "SaliencyMap",
    "SettingError",
    "Snapshot",
    "TargetError",
    "TaskError",
    "draw_boxes",
    "heatmap",
    "load_picture",
    "localize",
    "normalise",
    "overlay",
    "probe_providers",
    "read_contract",
]
