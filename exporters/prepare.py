"""Brings a classifier into the form that the gradient code expects.

Functions inlined, ONNX Runtime's fused and quantised operators and scikit-learn's written out in
standard ones, operators without a rule replaced by their definition, constants as initializers,
constant shape arithmetic folded, BatchNormalization folded into the convolution before it, opset at
least 17, every node named.
"""

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnxscript import optimizer
from onnxscript.rewriter import RewriteRuleSet
from onnxscript.rewriter.rules.common import fuse_batchnorm_into_conv_rule

from deepinside.exporters.bodies import undefined
from deepinside.exporters.classical import rewrite_classical
from deepinside.exporters.defuse import defuse
from deepinside.exporters.errors import ClassifierError
from deepinside.exporters.functions import expand_functions
from deepinside.exporters.legacy import lift, name_default_domain
from deepinside.exporters.qoperator import rewrite_qoperators
from deepinside.exporters.recurrent import expand_recurrent
from deepinside.exporters.registry import OPSET_FLOOR
from deepinside.exporters.weights import SMALL

__all__ = ["prepare"]


def prepare(model: ir.Model) -> ir.Model:
    """Return the prepared classifier; the argument may be changed.

    Raises:
        ClassifierError: the model has no default-domain opset, or an old one that can't be
            lifted to opset 17, or it uses tensors that it does not have.
    """
    name_default_domain(model)
    opset = model.graph.opset_imports.get("", model.opset_imports.get(""))
    if opset is None or opset < 1:
        raise ClassifierError("the classifier imports no opset of ONNX's default domain.")
    if opset > onnx.defs.onnx_opset_version():
        raise ClassifierError(
            f"the classifier uses opset {opset}, and the installed onnx {onnx.__version__} knows "
            f"opsets up to {onnx.defs.onnx_opset_version()}: upgrade the package onnx."
        )
    for node, value in undefined(model.graph):
        raise ClassifierError(
            f"the classifier is broken: node {node.name!r} ({node.op_type}) takes a tensor "
            f"{value.name!r}, which is no weight, no input and no other node's output. Export it "
            "again, with another version of its framework or another exporter."
        )
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor) and value.const_value.size <= SMALL:
            # Shape inference reads small constants, and can't in another file.
            value.const_value = ir.tensor(value.const_value.numpy().copy(), name=value.name)
    if opset < OPSET_FLOOR:
        model = lift(model, opset)
    ir.passes.Sequential(
        passes.RemoveInitializersFromInputsPass(),
        passes.InlinePass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.RemoveUnusedNodesPass(),
    )(model)
    rewrite_classical(model)
    defuse(model)
    rewrite_qoperators(model)
    expand_functions(model)
    optimizer.fold_constants_ir(model, input_size_limit=SMALL, output_size_limit=SMALL)
    RewriteRuleSet([fuse_batchnorm_into_conv_rule]).apply_to_model(model)
    _give_ranges_scalars(model)
    ir.passes.Sequential(
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.NameFixPass(),
        passes.LiftSubgraphInitializersToMainGraphPass(),
    )(model)
    expand_recurrent(model)
    ir.passes.Sequential(
        passes.RemoveUnusedNodesPass(),
        passes.TopologicalSortPass(),
    )(model)
    return model


def _give_ranges_scalars(model: ir.Model) -> None:
    """Squeeze what Range is given, unless it is known to be a scalar.

    ONNX rejects vectors of one number where it sees them. Runtimes let them pass until then, and
    networks have them, ONNX's own definition of AffineGrid too.
    """
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.op_type != "Range" or node.domain:
            continue
        for index, value in enumerate(node.inputs):
            if value is None or (value.shape is not None and value.shape.rank() == 0):
                continue
            squeeze = ir.node("Squeeze", [value])
            if value.dtype is not None:
                squeeze.outputs[0].dtype = value.dtype
            node.prepend(squeeze)
            node.replace_input_with(index, squeeze.outputs[0])
