"""Turns image classifiers into ONNX files with an appended input-gradient graph."""

from deepinside.exporters.averaging import GraphMethod
from deepinside.exporters.errors import (
    ClassifierError,
    ExportError,
    GradientError,
    MissingPackageError,
    MissingRuleError,
    ScoreError,
)
from deepinside.exporters.export import (
    SALIENCY_OUTPUTS,
    export_saliency,
    export_visualization,
)
from deepinside.exporters.layers import Layer
from deepinside.exporters.stage import ExportReport, GraphOptions, layers_of
from deepinside.exporters.triton import TritonModel, TritonSettings, write_triton_config

__all__ = [
    "SALIENCY_OUTPUTS",
    "ClassifierError",
    "ExportError",
    "ExportReport",
    "GradientError",
    "GraphMethod",
    "GraphOptions",
    "Layer",
    "MissingPackageError",
    "MissingRuleError",
    "ScoreError",
    "TritonModel",
    "TritonSettings",
    "export_saliency",
    "export_visualization",
    "layers_of",
    "write_triton_config",
]
