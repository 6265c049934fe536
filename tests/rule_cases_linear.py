"""Cases of matrix products, normalisation layers and soft-max."""

from itertools import product

from rule_case import Case, Sample, Spec, one

__all__ = ["CASES"]


def _gemm() -> list[Case]:
    cases = []
    for trans_a, trans_b, (alpha, beta) in product((0, 1), (0, 1), ((1.0, 1.0), (0.5, -1.5))):
        a, b = ((4, 2) if trans_a else (2, 4)), ((3, 4) if trans_b else (4, 3))
        for bias in ((3,), (2, 3), (2, 1), (1, 3), (1,), ()):
            cases.append(
                one(
                    "Gemm",
                    f"A{trans_a}B{trans_b},alpha={alpha},beta={beta},C{bias}".replace(" ", ""),
                    a,
                    b,
                    bias,
                    wrt=(0, 1, 2),
                    dynamic={},
                    transA=trans_a,
                    transB=trans_b,
                    alpha=alpha,
                    beta=beta,
                )
            )
    return [
        *cases,
        one("Gemm", "layer", (2, 4), (3, 4), (3,), transB=1),
        one("Gemm", "layer without bias", (2, 4), (4, 3)),
        one("Gemm", "dynamic A^T", (4, 2), (4, 3), (3,), dynamic={0: (1,)}, transA=1),
        one("Gemm", "weights only", (2, 4), (4, 3), (3,), wrt=(1,), dynamic={}),
    ]


def _matmul() -> list[Case]:
    shapes: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
        ((4,), (4,)),
        ((4,), (4, 3)),
        ((2, 4), (4,)),
        ((2, 4), (4, 3)),
        ((4,), (2, 4, 3)),
        ((2, 3, 4), (4,)),
        ((2, 3, 4), (4, 5)),
        ((3, 4), (2, 4, 5)),
        ((2, 3, 4), (2, 4, 5)),
        ((1, 3, 4), (2, 4, 5)),
        ((2, 3, 4), (1, 4, 5)),
        ((2, 5, 3, 4), (4, 3)),
        ((2, 5, 3, 4), (5, 4, 3)),
        ((5, 3, 4), (2, 1, 4, 3)),
        ((2, 1, 3, 4), (1, 5, 4, 3)),
        ((2, 5, 3, 4), (2, 5, 4, 3)),
        ((2, 5, 3, 4), (4,)),
        ((4,), (2, 5, 4, 3)),
        ((1, 4), (4, 1)),
    )
    cases = []
    for a, b in shapes:
        name = f"{a}x{b}".replace(" ", "")
        cases.append(one("MatMul", name, a, b, wrt=(0, 1), dynamic={}))
        if len(a) > 1 and a[0] == 2 and not (len(a) == len(b) > 2 and b[0] == 2):
            cases.append(one("MatMul", f"{name},dynamic", a, b))
        if len(a) == len(b) > 2 and a[0] == b[0]:
            cases.append(one("MatMul", f"{name},both dynamic", a, b, wrt=(0, 1)))
    return cases


def _layers() -> list[Case]:
    cases: list[Case] = []
    for shape, axes in (
        ((2, 3, 4), (-1, 1, 2, -2)),
        ((2, 5), (-1, 1)),
        ((2, 3, 4, 3), (1, -3, -1)),
    ):
        for axis in axes:
            normal = shape[axis:]
            name = f"{shape},axis={axis}".replace(" ", "")
            cases += [
                one("LayerNormalization", name, shape, normal, normal, axis=axis),
                one(
                    "LayerNormalization",
                    f"{name},all",
                    shape,
                    normal,
                    normal,
                    wrt=(0, 1, 2),
                    axis=axis,
                    dynamic={0: (0,)},
                ),
                one("LayerNormalization", f"{name},no bias", shape, normal, axis=axis, epsilon=0.1),
            ]
    cases += [
        one(
            "LayerNormalization",
            "scale of one",
            (2, 3, 4),
            (1,),
            (1,),
            wrt=(0, 1, 2),
            dynamic={0: (0,)},
        ),
        one("LayerNormalization", "scale per row", (2, 3, 4), (3, 1), axis=-2),
        one("LayerNormalization", "three outputs", (2, 3, 4), (4,), (4,), outputs=3),
        one("LayerNormalization", "length unknown", (2, 3, 4), (4,), dynamic={0: (0, 1)}),
    ]
    for size, shape in product((1, 2, 3, 4, 5), ((2, 6, 3, 4), (2, 3, 5))):
        cases.append(
            one(
                "LRN",
                f"{shape},size={size}".replace(" ", ""),
                shape,
                size=size,
                alpha=0.6,
                beta=0.75,
                bias=2.0,
                runs=size % 2 == 1 and len(shape) == 4,
            )
        )
    cases += [
        one("LRN", "defaults", (2, 6, 3, 4), size=5),
        one("LRN", "more than the channels", (2, 3, 3, 4), size=9, alpha=1.0, beta=0.5, bias=1.0),
        one("LRN", "size unknown", (2, 6, 3, 4), size=3, alpha=1.0, dynamic={0: (0, 2, 3)}),
    ]
    for shape in ((2, 3), (2, 3, 4), (2, 3, 4, 5)):
        statistics: list[Spec] = [(3,), (3,), (3,), Sample((3,), 0.5, 2.0)]
        name = f"{shape}".replace(" ", "")
        cases += [
            one("BatchNormalization", name, shape, *statistics),
            one("BatchNormalization", f"{name},epsilon=0.1", shape, *statistics, epsilon=0.1),
        ]
    for operator in ("Softmax", "LogSoftmax"):
        for shape, axis in product(((2, 5), (2, 3, 4), (2, 3, 2, 4)), (-1, 0, 1, -2)):
            name = f"{shape},axis={axis}".replace(" ", "")
            dynamic = {0: (0,)} if axis % len(shape) else {}
            cases.append(one(operator, name, shape, axis=axis, dynamic=dynamic))
        cases.append(one(operator, "default axis", (2, 3, 4)))
        cases.append(one(operator, "batch softmax, dynamic", (2, 3), axis=0))
        cases.append(one(operator, "confident", Sample((2, 6), -9.0, 9.0)))
    return cases


def _einsum() -> list[Case]:
    a, b, c = (2, 3, 4), (4, 5), (2, 3, 5)
    return [
        one(
            "Einsum",
            f"{equation}{shapes}",
            *shapes,
            wrt=tuple(range(len(shapes))),
            dynamic={},
            equation=equation,
        )
        for equation, shapes in (
            ("ij->ji", [(2, 3)]),
            ("ij->i", [(2, 3)]),
            ("ij->", [(2, 3)]),
            ("ij,jk->ik", [(2, 3), (3, 4)]),
            ("ij , jk", [(2, 3), (3, 4)]),
            ("ba,cb", [(2, 3), (4, 2)]),
            ("bij,bjk->bik", [a, (2, 4, 5)]),
            ("bij,jk->bik", [a, b]),
            ("bhwc,hkc->bhwk", [(2, 3, 2, 4), (3, 5, 4)]),
            ("i,j->ij", [(2,), (3,)]),
            ("i,i->", [(3,), (3,)]),
            ("ij,kl->il", [(2, 3), (4, 5)]),
            ("bij,bij->b", [a, a]),
            ("bij,jk,bik->b", [a, b, c]),
            ("...ij,...jk->...ik", [a, (2, 4, 5)]),
            ("...ij,...jk->...ik", [(2, 1, 3, 4), (2, 3, 4, 5)]),
            ("...i,ij", [a, b]),
            ("...i,i->...", [a, (4,)]),
            ("b...,b->...", [a, (2,)]),
            ("Bn,Ab->An", [(2, 3), (4, 5)]),
        )
    ] + [
        one("Einsum", "diagonal", (3, 3), equation="ii->i", dynamic={}),
        one("Einsum", "trace", (2, 3, 3), equation="bii->b"),
        one("Einsum", "sum of a diagonal", (3, 3), equation="ii", dynamic={}),
        one("Einsum", "diagonals of a batch", (2, 3, 3), equation="...ii->...i"),
        one(
            "Einsum",
            "weighted diagonal",
            (2, 3, 3),
            (3, 4),
            wrt=(0, 1),
            equation="bii,ij->bj",
            dynamic={0: (0,)},
        ),
        one("Einsum", "batch", a, b, equation="bij,jk->bik"),
        one("Einsum", "size unknown", a, b, equation="bij,jk->bi", dynamic={0: (0, 1)}),
    ]


CASES = [*_gemm(), *_matmul(), *_layers(), *_einsum()]
