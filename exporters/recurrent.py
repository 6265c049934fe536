"""Writes LSTM, GRU and RNN out as a Scan over the steps, by their definitions.

The Scan has a gradient (rules/control.py) and keeps the states that the way back needs; it takes
the operator's place, so that forward and backward share it. What comes from the inputs of all steps
is one matrix product before it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from deepinside.exporters.builder import Builder
from deepinside.exporters.errors import GradientError
from deepinside.exporters.inner import InnerGraph
from deepinside.exporters.shapes import Shapes

__all__ = ["expand_recurrent"]

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_STATES = {"LSTM": 2, "GRU": 1, "RNN": 1}
_DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
_ACTIVATIONS = (
    "Elu",
    "HardSigmoid",
    "LeakyRelu",
    "Relu",
    "Sigmoid",
    "Softplus",
    "Softsign",
    "Tanh",
)


def expand_recurrent(model: ir.Model) -> None:
    """Replace the recurrent operators of a model's main graph; its nodes have to be sorted after.

    Raises:
        GradientError: one stands in a form that is not covered.
    """
    graph = model.graph
    for node in list(graph):
        if node.domain == "" and node.op_type in _STATES:
            op = Builder(graph, model.opset_imports[""], Shapes({}, {}, 1))
            op.scope = str(node.name)
            outputs = _Layer.of(node, op).emit()[: len(node.outputs)]
            ir.convenience.replace_all_uses_with(node.outputs, outputs, replace_graph_outputs=True)
            declared = [(output.name, output.type, output.shape) for output in node.outputs]
            graph.remove(node, safe=True)
            for output, (name, kind, shape) in zip(outputs, declared, strict=True):
                output.name, output.type, output.shape = name, kind or output.type, shape


@dataclass(frozen=True)
class _Layer:
    """A recurrent node: T steps, N pictures, I inputs, H states, G gates, D directions.

    Its inputs are X [T, N, I], W [D, G H, I], R [D, G H, H] and perhaps B [D, 2 G H], lengths [N],
    initial h and c [D, N, H], P [D, 3 H]; with layout 1, N stands first in X and in the states.
    """

    node: ir.Node
    op: Builder
    hidden: int
    functions: tuple[str, ...]
    directions: tuple[int, ...]  # 1 where the steps are taken from the last to the first
    batch_first: bool
    reset_late: bool

    @classmethod
    def of(cls, node: ir.Node, op: Builder) -> "_Layer":
        """Read the node's attributes, and refuse what is not covered."""

        def attribute(name: str, default: Any) -> Any:
            return node.attributes[name].value if name in node.attributes else default

        kind = node.op_type
        direction = attribute("direction", "forward")
        directions = {"forward": (0,), "reverse": (1,), "bidirectional": (0, 1)}[direction]
        weights = node.inputs[2]
        hidden = attribute("hidden_size", None)
        if hidden is None and weights is not None and weights.shape is not None:
            hidden = weights.shape[2]
        functions = attribute("activations", _DEFAULTS[kind] * len(directions))
        spelled = {name.lower(): name for name in _ACTIVATIONS}
        unknown = [name for name in functions if name.lower() not in spelled]
        for refused, reason in (
            (not isinstance(hidden, int), "the size of its state is not known"),
            (unknown, f"its activations {', '.join(unknown)} are not covered"),
            ("activation_alpha" in node.attributes, "it sets activation_alpha"),
            ("activation_beta" in node.attributes, "it sets activation_beta"),
            ("clip" in node.attributes, "it clips its cells"),
            (attribute("input_forget", 0), "it couples the input and forget gates"),
        ):
            if refused:
                raise GradientError(kind, node.version or 0, str(node.name), f"{reason}.")
        return cls(
            node,
            op,
            int(hidden),
            tuple(spelled[name.lower()] for name in functions),
            directions,
            bool(attribute("layout", 0)),
            bool(attribute("linear_before_reset", 0)),
        )

    def emit(self) -> list[ir.Value]:
        """Emit all directions; returns Y [T, D, N, H], Y_h [D, N, H] and, for LSTM, Y_c."""
        op, steps = self.op, self._given(0)
        if steps.type is None:
            steps.type = self._given(2).type
        if self.batch_first:
            steps = op.transpose(steps, 1, 0, 2)
        mask = self._mask(steps)
        runs = [self._direction(d, steps, mask) for d in range(len(self.directions))]
        joined = []
        for number, values in enumerate(zip(*runs, strict=True)):
            axis = 1 if number == 0 else 0
            whole = op.Concat(*(op.Unsqueeze(value, [axis]) for value in values), axis=axis)
            if self.batch_first:
                whole = op.transpose(whole, *((2, 0, 1, 3) if number == 0 else (1, 0, 2)))
            joined.append(whole)
        return joined

    def _direction(self, d: int, steps: ir.Value, mask: ir.Value | None) -> list[ir.Value]:
        """Emit one direction; returns y [T, N, H] and the last states [N, H]."""
        op, reverse = self.op, self.directions[d]
        weights, recurrent = (op.Gather(self._given(i), d, axis=0) for i in (1, 2))
        bias, late_bias = self._biases(d)
        products = op.MatMul(steps, op.transpose(weights, 1, 0))
        if bias is not None:
            products = op.Add(products, bias)
        initial = [self._initial(5 + i, d, steps, recurrent) for i in range(self._states)]
        for value in (*initial, products):
            if value.type is None:  # a file may leave out the types of inner tensors
                value.type = self._given(2).type

        body = InnerGraph(op, f"step_{d}")
        before = [body.input(name, value) for name, value in zip("hc", initial, strict=False)]
        x = body.input("x", products)
        cell = _Cell(body.op, self.hidden, self._activations(d))
        if self.node.op_type == "LSTM":
            after = cell.lstm(x, before[0], before[1], recurrent, self._row(7, d))
        elif self.node.op_type == "GRU":
            after = cell.gru(x, before[0], recurrent, late_bias, late=self.reset_late)
        else:
            after = cell.rnn(x, before[0], recurrent)
        output = after[0]
        if mask is not None:  # after the end of its sequence nothing changes, and zeros come out
            m = body.input("mask", mask)
            output = body.op.Mul(m, after[0])
            after = [
                body.op.Add(old, body.op.Mul(m, body.op.Sub(new, old)))
                for old, new in zip(before, after, strict=True)
            ]
        body.give([*after, output])
        slices = [products] if mask is None else [products, mask]
        *last, y = op.emit(
            "Scan",
            *initial,
            *slices,
            outputs=self._states + 1,
            body=body.graph,
            num_scan_inputs=len(slices),
            scan_input_directions=[reverse] * len(slices),
            scan_output_directions=[reverse],
        )
        return [y, *last]

    @property
    def _states(self) -> int:
        return _STATES[self.node.op_type]

    def _activations(self, d: int) -> tuple[str, ...]:
        count = len(_DEFAULTS[self.node.op_type])
        return self.functions[d * count : (d + 1) * count]

    def _input(self, index: int) -> ir.Value | None:
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def _given(self, index: int) -> ir.Value:
        value = self._input(index)
        assert value is not None
        return value

    def _row(self, index: int, d: int, axis: int = 0) -> ir.Value | None:
        """One direction of an input."""
        value = self._input(index)
        return None if value is None else self.op.Gather(value, d, axis=axis)

    def _biases(self, d: int) -> tuple[ir.Value | None, ir.Value | None]:
        """What is added to the products [G H], and what stands inside a GRU's late reset [H]."""
        op, both = self.op, self._row(3, d)
        if both is None:
            return None, None
        size = _GATES[self.node.op_type] * self.hidden
        of_input, of_state = op.emit("Split", both, [size, size], outputs=2, axis=0)
        if not self.reset_late:
            return op.Add(of_input, of_state), None
        parts = [2 * self.hidden, self.hidden]
        gates, candidate = op.emit("Split", of_input, parts, outputs=2, axis=0)
        more, late = op.emit("Split", of_state, parts, outputs=2, axis=0)
        return op.Concat(op.Add(gates, more), candidate, axis=0), late

    def _initial(self, index: int, d: int, steps: ir.Value, recurrent: ir.Value) -> ir.Value:
        """The states before the first step [N, H]: zeros where they are not given."""
        op = self.op
        given = self._row(index, d, axis=1 if self.batch_first else 0)
        if given is not None:
            return given
        pictures = op.Gather(op.Shape(steps), [1], axis=0)
        zero = op.constant(np.array(0.0), recurrent.dtype)
        return op.Expand(zero, op.Concat(pictures, [self.hidden], axis=0))

    def _mask(self, steps: ir.Value) -> ir.Value | None:
        """1 for the steps inside each sequence, 0 after its end: [T, N, 1]; None for full ones."""
        op, lengths = self.op, self._input(4)
        if lengths is None:
            return None
        places = op.Range(0, op.Gather(op.Shape(steps), 0, axis=0), 1)
        whole = op.Cast(lengths, to=ir.DataType.INT64)
        return op.Unsqueeze(op.mask(op.Less(op.Unsqueeze(places, [1]), whole), steps), [2])


@dataclass(frozen=True)
class _Cell:
    """One step: from what comes from the input, x [N, G H], and the states to the new states."""

    op: Builder
    hidden: int
    activations: tuple[str, ...]

    def lstm(
        self, x: ir.Value, h: ir.Value, c: ir.Value, recurrent: ir.Value, peepholes: ir.Value | None
    ) -> list[ir.Value]:
        """C = f c + i g(...), H = o h(C), with gates in the order i, o, f, c."""
        op, (gate, candidate, out) = self.op, self.activations
        i, o, f, k = self._gates(op.Add(x, op.MatMul(h, op.transpose(recurrent, 1, 0))), 4)
        if peepholes is not None:
            to_i, to_o, to_f = op.emit("Split", peepholes, [self.hidden] * 3, outputs=3, axis=0)
            i, f = op.Add(i, op.Mul(to_i, c)), op.Add(f, op.Mul(to_f, c))
        kept = op.Mul(self._apply(gate, f), c)
        new = op.Add(kept, op.Mul(self._apply(gate, i), self._apply(candidate, k)))
        if peepholes is not None:
            o = op.Add(o, op.Mul(to_o, new))
        return [op.Mul(self._apply(gate, o), self._apply(out, new)), new]

    def gru(
        self, x: ir.Value, h: ir.Value, recurrent: ir.Value, bias: ir.Value | None, *, late: bool
    ) -> list[ir.Value]:
        """H = (1 - z) n + z h, with gates in the order z, r, n; r comes after R_n h if `late`."""
        op, (gate, candidate) = self.op, self.activations
        parts = [2 * self.hidden, self.hidden]
        of_gates, of_candidate = op.emit("Split", recurrent, parts, outputs=2, axis=0)
        x_gates, x_candidate = op.emit("Split", x, parts, outputs=2, axis=-1)
        sums = op.Add(x_gates, op.MatMul(h, op.transpose(of_gates, 1, 0)))
        z, r = self._gates(self._apply(gate, sums), 2)
        back = op.transpose(of_candidate, 1, 0)
        if late:
            inside = op.MatMul(h, back)
            inside = op.Mul(r, inside if bias is None else op.Add(inside, bias))
        else:
            inside = op.MatMul(op.Mul(r, h), back)
        n = self._apply(candidate, op.Add(x_candidate, inside))
        return [op.Add(n, op.Mul(z, op.Sub(h, n)))]

    def rnn(self, x: ir.Value, h: ir.Value, recurrent: ir.Value) -> list[ir.Value]:
        """H = f(x + R h)."""
        op = self.op
        sums = op.Add(x, op.MatMul(h, op.transpose(recurrent, 1, 0)))
        return [self._apply(self.activations[0], sums)]

    def _gates(self, sums: ir.Value, count: int) -> tuple[ir.Value, ...]:
        sizes = [self.hidden] * count
        return self.op.emit("Split", sums, sizes, outputs=count, axis=-1)

    def _apply(self, activation: str, x: ir.Value) -> ir.Value:
        return self.op.emit(activation, x)[0]
