"""Runs exported files: saliency maps, class pictures, checks. Needs no graph library."""

from deepinside.engine.boxes import draw_boxes
from deepinside.engine.contract import Contract
from deepinside.engine.decode import ImageFile, Picture, load_picture
from deepinside.engine.engine import Engine, read_contract
from deepinside.engine.errors import (
    DivergenceError,
    EngineError,
    ImageError,
    ModelFileError,
    NotExportedError,
    OutOfMemoryError,
    OutputError,
    PackageMissingError,
    ProviderError,
    RunError,
    RuntimeConflictError,
    RuntimeMissingError,
    SettingError,
    SourceError,
    TargetError,
    TaskError,
)
from deepinside.engine.localize import LocalizationSettings, localize
from deepinside.engine.methods import METHODS, Method
from deepinside.engine.preprocess import Region
from deepinside.engine.presets import PRESETS, Preset
from deepinside.engine.providers import ProviderStatus, probe_providers
from deepinside.engine.record import Preprocessing
from deepinside.engine.render import heatmap, normalise, overlay
from deepinside.engine.rendering import Rendering
from deepinside.engine.results import (
    Box,
    CheckReport,
    ClassImage,
    ClassScore,
    InputFailure,
    InputMaps,
    Localization,
    SaliencyMap,
    Snapshot,
)
from deepinside.engine.visualize import Progress

__all__ = [
    "METHODS",
    "PRESETS",
    "Box",
    "CheckReport",
    "ClassImage",
    "ClassScore",
    "Contract",
    "DivergenceError",
    "Engine",
    "EngineError",
    "ImageError",
    "ImageFile",
    "InputFailure",
    "InputMaps",
    "Localization",
    "LocalizationSettings",
    "Method",
    "ModelFileError",
    "NotExportedError",
    "OutOfMemoryError",
    "OutputError",
    "PackageMissingError",
    "Picture",
    "Preprocessing",
    "Preset",
    "Progress",
    "ProviderError",
    "ProviderStatus",
    "Region",
    "Rendering",
    "RunError",
    "RuntimeConflictError",
    "RuntimeMissingError",
    "SaliencyMap",
    "SettingError",
    "Snapshot",
    "SourceError",
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
