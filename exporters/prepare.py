"""Brings a classifier into the form that the gradient code expects.

Functions inlined, constants as initializers, constant shape arithmetic folded, BatchNormalization
folded into the convolution before it, opset at least 17, every node named.
"""

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnxscript import optimizer
from onnxscript.rewriter import RewriteRuleSet
from onnxscript.rewriter.rules.common import fuse_batchnorm_into_conv_rule

from deepinside.exporters.classical import rewrite_classical
from deepinside.exporters.errors import ClassifierError
from deepinside.exporters.registry import OPSET_FLOOR

__all__ = ["prepare"]

# Larger constants are weights, and stay as they are stored.
_SMALL = 1024


def prepare(model: ir.Model) -> ir.Model:
    """Return the prepared classifier; the argument may be changed.

    Raises:
        ClassifierError: the model has no default-domain opset, or an old one that ONNX's version
            converter can't lift to opset 17.
    """
    opset = model.graph.opset_imports.get("", model.opset_imports.get(""))
    if opset is None:
        raise ClassifierError("the classifier imports no opset of ONNX's default domain.")
    if opset > onnx.defs.onnx_opset_version():
        raise ClassifierError(
            f"the classifier uses opset {opset}, and the installed onnx {onnx.__version__} knows "
            f"opsets up to {onnx.defs.onnx_opset_version()}: upgrade the package onnx."
        )
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor) and value.const_value.size <= _SMALL:
            # Shape inference reads small constants, and can't in another file.
            value.const_value = ir.tensor(value.const_value.numpy().copy(), name=value.name)
    if opset < OPSET_FLOOR:
        model = _convert_up(model, opset)
    ir.passes.Sequential(
        passes.RemoveInitializersFromInputsPass(),
        passes.InlinePass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.RemoveUnusedNodesPass(),
    )(model)
    rewrite_classical(model)
    optimizer.fold_constants_ir(model, input_size_limit=_SMALL, output_size_limit=_SMALL)
    RewriteRuleSet([fuse_batchnorm_into_conv_rule]).apply_to_model(model)
    ir.passes.Sequential(
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.RemoveUnusedNodesPass(),
        passes.NameFixPass(),
        passes.TopologicalSortPass(),
    )(model)
    return model


def _convert_up(model: ir.Model, opset: int) -> ir.Model:
    """Lift an old model to the floor with ONNX's converter."""
    try:
        return ir.from_proto(
            onnx.version_converter.convert_version(ir.to_proto(model), OPSET_FLOOR)
        )
    except (RuntimeError, ValueError, onnx.version_converter.ConvertError) as error:
        raise ClassifierError(
            f"the classifier's opset {opset} is below {OPSET_FLOOR}, and ONNX's version converter "
            f"can't lift it ({error}); export it again at opset {OPSET_FLOOR} or later."
        ) from error
