"""Cases of control flow."""

import numpy as np
from rule_case import Case, Node, graph, several

__all__ = ["CASES"]

_X = (2, 3)


def _bool(value: bool) -> np.ndarray:
    return np.array(value)


def _if() -> list[Case]:
    squares = graph("squares () => (T[N, 3] a) { a = Mul(x, x) }")
    sines = graph("sines () => (T[N, 3] b) { r = Sin(x)  b = Mul(r, w) }")
    weight = {"x": _X, "w": (3,)}
    branches = {"then_branch": squares, "else_branch": sines}
    cases = [
        several(
            "If",
            f"{chosen}",
            {**weight, "c": _bool(chosen)},
            Node("If", ["c"], ["y"], branches),
            runtime=("c",),
            wrt=wrt,
            **options,
        )
        # The branch that is taken does not use w.
        for chosen, wrt, options in ((True, ("x",), {}), (False, ("x", "w"), {}))
    ]
    cases.append(
        several(
            "If",
            "condition from the input",
            {"x": np.array([[1.0, 2.0, -0.5], [0.3, 0.7, -1.0]]), "w": (3,)},
            Node("ReduceSum", ["x"], ["total"], {"keepdims": 0}),
            Node("Constant", [], ["limit"], {"value_float": 1.0}),
            Node("CastLike", ["limit", "x"], ["bound"]),
            Node("Greater", ["total", "bound"], ["c"]),
            Node("If", ["c"], ["y"], branches),
        )
    )
    two = {
        "then_branch": graph("one () => (T[N, 3] a, T[N, 3] b) { a = Exp(x)  b = Neg(x) }"),
        "else_branch": graph("two () => (T[N, 3] d, T[N, 3] e) { d = Neg(x)  e = Mul(x, x) }"),
    }
    cases.append(
        several(
            "If",
            "two outputs",
            {"x": _X, "c": _bool(False)},
            Node("If", ["c"], ["p", "q"], two),
            Node("Mul", ["p", "q"], ["y"]),
            runtime=("c",),
        )
    )
    ordered = graph(
        """outer () => (T[N, 3] a) {
             s = Tanh(x)
             f = If(d) <then_branch = deep () => (T[N, 3] g) { g = Mul(x, s) },
                        else_branch = flat () => (T[N, 3] h) { h = Neg(s) }>
             a = Mul(f, s) }"""
    )
    cases.append(
        several(
            "If",
            "in an If",
            {"x": _X, "c": _bool(True), "d": _bool(True)},
            Node("If", ["c"], ["y"], {"then_branch": ordered, "else_branch": squares}),
            runtime=("c", "d"),
        )
    )
    return cases


def _loop() -> list[Case]:
    power = graph(
        """body (int64 i, bool on, T[N, 3] s) => (bool still, T[N, 3] t) {
             still = Identity(on)  u = Mul(s, w)  v = Sin(u)  t = Add(v, x) }"""
    )
    outputs = graph(
        """body (int64 i, bool on, T[N, 3] s) => (bool still, T[N, 3] t, T[N, 3] v) {
             still = Identity(on)
             k = Gather(w, i)  u = Mul(s, k)  t = Cos(u)  v = Mul(t, x) }"""
    )
    stops = graph(
        """body (int64 i, bool on, T[N, 3] s) => (bool still, T[N, 3] t) {
             r = Constant <value_int = 2> ()  still = Less(i, r)  t = Mul(s, x) }"""
    )
    rows, rounds = np.array([-1, 3]), np.array(4)
    flat = Node("Reshape", ["z", "rows"], ["y"])  # ONNX infers no shape for a Loop's states
    return [
        several(
            "Loop",
            "states",
            {"x": _X, "w": (2, 3), "m": rounds, "c": _bool(True), "rows": rows},
            Node("Loop", ["m", "c", "x"], ["z"], {"body": power}),
            flat,
            wrt=("x", "w"),
            dynamic={"x": (0,), "w": (0,)},
        ),
        several(
            "Loop",
            "rounds at run time",
            {"x": _X, "w": (3,), "m": rounds, "rows": rows},
            Node("Loop", ["m", "", "x"], ["z"], {"body": power}),
            flat,
            runtime=("m",),
            oracle="runtime64",  # the reference evaluator makes no round without a condition
        ),
        several(
            "Loop",
            "an output each round",
            {"x": _X, "w": (5,), "m": np.array(3), "first": np.array([0]), "rows": rows},
            Node("Loop", ["m", "", "x"], ["f", "o"], {"body": outputs}),
            Node("ReduceSum", ["o", "first"], ["p"], {"keepdims": 0}),
            Node("Mul", ["p", "f"], ["z"]),
            flat,
            oracle="runtime64",
        ),
        several(
            "Loop",
            "stops itself",
            {"x": _X, "c": _bool(True), "rows": rows},
            Node("Loop", ["", "c", "x"], ["z"], {"body": stops}),
            flat,
        ),
    ]


def _scan() -> list[Case]:
    running = graph(
        """body (T[3] s, T[3] a) => (T[3] t, T[3] o) {
             u = Mul(s, a)  v = Add(u, w)  t = Tanh(v)  o = Mul(t, a) }"""
    )
    cases = []
    for name, outer, options in (
        ("plain", "t", {}),
        ("reversed", "t", {"scan_input_directions": [1]}),
        ("output reversed", "t", {"scan_output_directions": [1]}),
        ("both reversed", "s", {"scan_input_directions": [1], "scan_output_directions": [1]}),
        ("output axis", "p", {"scan_output_axes": [1]}),
        ("input axis", "p", {"scan_input_axes": [1], "scan_output_axes": [-1]}),
    ):
        cases.append(
            several(
                "Scan",
                name,
                {"s": (3,), "x": (3, 3), "w": (3,)},
                Node(
                    "Scan",
                    ["s", "x"],
                    ["t", "o"],
                    {"body": running, "num_scan_inputs": 1} | options,
                ),
                Node("ReduceSum", ["o"], ["p"], {"keepdims": 1}),
                Node("Mul", ["o", "o"], ["q"]),
                Node("Add", ["p", "q"], ["r"]),
                Node("Add", ["r", outer], ["y"]),
                wrt=("x", "s", "w"),
                dynamic={"x": tuple(options.get("scan_input_axes", (0,)))},
                oracle="runtime64",  # the reference evaluator knows neither axes nor directions
            )
        )
    return cases


CASES: tuple[Case, ...] = (*_if(), *_loop(), *_scan())
