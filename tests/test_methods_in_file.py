"""SmoothGrad and integrated gradients as graphs, against the plain gradient's file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from classifiers import classifier, session
from click.testing import CliRunner
from numpy.typing import NDArray
from record_cases import SMALL as RECORD

from deepinside.cli.main import cli
from deepinside.engine import Engine, Method, TaskError, read_contract
from deepinside.exporters import ExportError, GraphMethod, export_saliency

FLAT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N,192] image) => (float[N,4] logits) <float[192,16] v, float[16,4] w> {
  a = MatMul (image, v)
  b = Tanh (a)
  logits = MatMul (b, w)
}
"""


def flat_classifier() -> onnx.ModelProto:
    model = onnx.parser.parse_model(FLAT)
    random = np.random.default_rng(0)
    for name, shape in (("v", (192, 16)), ("w", (16, 4))):
        values = random.standard_normal(shape).astype(np.float32) / 8
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return model


def last_classifier() -> onnx.ModelProto:
    """Channels last."""
    model = classifier()
    sizes = model.graph.input[0].type.tensor_type.shape.dim
    sizes[1].dim_value, sizes[2].dim_value, sizes[3].dim_value = 8, 8, 3
    move = onnx.helper.make_node("Transpose", ["image"], ["moved"], "move", perm=[0, 3, 1, 2])
    model.graph.node[0].input[0] = "moved"
    model.graph.node.insert(0, move)
    return model


def softmax_classifier() -> onnx.ModelProto:
    return classifier(tail="shares = Softmax (s)", outputs="float[N,5] shares")


def batch_classifier() -> onnx.ModelProto:
    return classifier(batch="2")


CASES = {
    "NCHW": (classifier, (3, 8, 8)),
    "NHWC": (last_classifier, (8, 8, 3)),
    "flat": (flat_classifier, (192,)),
    "softmax": (softmax_classifier, (3, 8, 8)),
    "fixed batch": (batch_classifier, (3, 8, 8)),
}


def files(folder: Path, model: Any, method: Any, **options: Any) -> tuple[Path, Path]:
    """The plain gradient's file, and the method's."""
    paths = folder / "plain.onnx", folder / "method.onnx"
    export_saliency(model, paths[0], preprocessing=RECORD, **options)
    export_saliency(model, paths[1], preprocessing=RECORD, method=method, **options)
    return paths


def images(shape: tuple[int, ...], count: int = 2) -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((count, *shape)).astype(np.float32)


def noise(method: GraphMethod, shape: tuple[int, int]) -> NDArray[np.float64]:
    """(samples, C, H, W), slowly, from docs/file-contract.md."""
    random = np.random.default_rng(method.seed)
    table = random.standard_normal(256 * 256).reshape(256, 256)
    rows, columns = random.integers(0, 256, (2, method.samples, 3))
    found = np.zeros((method.samples, 3, *shape))
    for k in range(method.samples):
        for c in range(3):
            for y in range(shape[0]):
                for x in range(shape[1]):
                    cell = table[(y + rows[k, c]) % 256, (x + columns[k, c]) % 256]
                    found[k, c, y, x] = cell * method.noise / RECORD["std"][c]
    return found


def in_layout(picture: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """(C, H, W) in the layout of an input of that shape."""
    return picture if shape[0] == 3 else picture.transpose(1, 2, 0).reshape(shape)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("optimize_for", ["any", "cpu"])
def test_smoothgrad_is_the_mean_at_the_tables_noise(
    tmp_path: Path, case: Any, optimize_for: str
) -> None:
    make, shape = case
    method = GraphMethod("smoothgrad", samples=6, noise=0.2, seed=3)
    plain, smooth = files(tmp_path, make(), method, optimize_for=optimize_for)
    x = images(shape)
    targets = np.array([2, 0])
    feeds = {"image": x, "target": targets}
    before = dict(zip(*_run(plain, feeds), strict=True))
    found = dict(zip(*_run(smooth, feeds), strict=True))
    expected = np.zeros(x.shape)
    for drawn in noise(method, (8, 8)):
        moved = (x + in_layout(drawn, shape)).astype(np.float32)
        expected += dict(zip(*_run(plain, {**feeds, "image": moved}), strict=True))["gradient"] / 6
    largest = np.abs(expected).max()
    np.testing.assert_allclose(found["attribution"], expected, atol=1e-5 * largest)
    picture = found["attribution"].reshape(2, *((3, 8, 8) if shape[0] == 3 else (8, 8, 3)))
    axis = 1 if shape[0] == 3 else 3
    np.testing.assert_allclose(found["saliency"], np.abs(picture).max(axis=axis))
    # All that the classifier gives is that of the picture itself.
    for part in before.keys() - {"gradient", "saliency"}:
        np.testing.assert_allclose(found[part], before[part], rtol=1e-5)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("settings", [{}, {"quadrature": "riemann", "baseline": "mean"}])
def test_integrated_gradients_are_the_engines(
    tmp_path: Path, case: Any, settings: dict[str, Any]
) -> None:
    make, shape = case
    method = GraphMethod("integrated-gradients", steps=9, **settings)
    plain, integrated = files(tmp_path, make(), method)
    x = images(shape, 3)
    host = Method("integrated-gradients", steps=9, **settings)
    wanted = Engine(plain, "cpu").saliency(x, ["top1", 2], method=host)
    found = Engine(integrated, "cpu").saliency(x, ["top1", 2])
    for one, other in zip(found, wanted, strict=True):
        assert (one.source, one.index, one.method) == (other.source, other.index, other.method)
        largest = float(np.abs(other.attribution).max())  # type: ignore[arg-type]
        np.testing.assert_allclose(one.attribution, other.attribution, atol=1e-5 * largest)
        np.testing.assert_allclose(one.saliency, other.saliency, atol=2e-5 * largest)
        assert one.completeness_gap == pytest.approx(other.completeness_gap, abs=1e-4)
        assert one.baseline_score == pytest.approx(other.baseline_score, rel=1e-4)
        assert one.signed is not None


def _run(path: Path, feeds: dict[str, Any]) -> tuple[list[str], list[Any]]:
    opened = session(path)
    names = [output.name for output in opened.get_outputs()]
    return names, opened.run(names, feeds)


def test_open_heights_and_widths_stay_open(tmp_path: Path) -> None:
    model = classifier()
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "HW"[axis - 2]
    method = GraphMethod("smoothgrad", samples=4)
    plain, smooth = files(tmp_path, model, method)
    x = images((3, 11, 7))
    found = dict(zip(*_run(smooth, {"image": x}), strict=True))
    target = found["target_index"]
    expected = np.zeros(x.shape)
    for drawn in noise(method, (11, 7)):
        feeds = {"image": (x + drawn).astype(np.float32), "target": target}
        expected += dict(zip(*_run(plain, feeds), strict=True))["gradient"] / 4
    np.testing.assert_allclose(found["attribution"], expected, atol=1e-5)
    assert found["saliency"].shape == (2, 11, 7)


def test_the_file_says_what_it_holds(tmp_path: Path) -> None:
    method = GraphMethod("smoothgrad", samples=6)
    plain, smooth = files(tmp_path, classifier(), method)
    contract = read_contract(smooth)
    assert contract.contract_version == 4
    assert read_contract(plain).contract_version == 1
    assert dict(contract.method or {}) == {
        "name": "smoothgrad",
        "samples": 6,
        "noise": 0.15,
        "seed": 0,
    }
    # The weights are stored once; the noise table is a quarter of a megabyte.
    assert smooth.stat().st_size < plain.stat().st_size + 300_000
    engine = Engine(smooth, "cpu")
    x = images((3, 8, 8))
    for given in (None, "smoothgrad", Method("smoothgrad", samples=6)):
        assert engine.saliency(x, method=given)[0].method == Method("smoothgrad", samples=6)
    for other in ("vanilla", "integrated-gradients", Method("smoothgrad")):
        with pytest.raises(TaskError, match=r"holds smoothgrad \(samples 6, noise 0.15, seed 0\)"):
            engine.saliency(x, method=other)
    with pytest.raises(TaskError, match="no derivative of the score"):
        engine.check()


def test_a_choice_of_outputs_and_targets(tmp_path: Path) -> None:
    method = GraphMethod("integrated-gradients", steps=3)
    file = tmp_path / "f.onnx"
    chosen = ("saliency",)
    export_saliency(
        classifier(),
        file,
        method=method,
        preprocessing=RECORD,
        outputs=chosen,
        target_input="fixed:2",
    )
    names, _ = _run(file, {"image": images((3, 8, 8))})
    assert names == ["logits", "saliency"]
    (found, _) = Engine(file, "cpu").saliency(images((3, 8, 8)), 2)
    assert found.index == 2
    assert found.attribution is None
    assert found.completeness_gap is None
    with pytest.raises(ExportError, match=r"outputs can be .*attribution.*not.*gradient"):
        export_saliency(
            classifier(), file, method=method, preprocessing=RECORD, outputs=("gradient",)
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "vargrad"}, "can be smoothgrad or integrated-gradients, not 'vargrad'"),
        ({"name": "smoothgrad", "samples": 0}, "samples can be 1 to 10000"),
        ({"name": "smoothgrad", "noise": -1.0}, "noise can be"),
        ({"name": "integrated-gradients", "baseline": "blur"}, "black or mean, not 'blur'"),
    ],
)
def test_impossible_methods(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        GraphMethod(**settings)


def test_noise_needs_a_record(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"--preprocessing FILE\.json"):
        export_saliency(classifier(), tmp_path / "f.onnx", method="smoothgrad")
    mean = GraphMethod("integrated-gradients", steps=2, baseline="mean")
    export_saliency(classifier(), tmp_path / "f.onnx", method=mean)
    assert Engine(tmp_path / "f.onnx", "cpu").method().steps == 2


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(classifier(), "c.onnx")
    Path("record.json").write_text(json.dumps(RECORD))

    def run(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == code, result.output
        return str(result.stdout if code == 0 else result.stderr)

    export = ["export", "c.onnx", "-o", "s.onnx", "--preprocessing", "record.json"]
    run(*export, "--method", "smoothgrad", "--samples", "3")
    paths = run("saliency", "example:chelsea", "-m", "s.onnx", "-t", "2").splitlines()
    assert [Path(path).name for path in paths] == [
        f"chelsea.2.smoothgrad.{part}" for part in ("saliency.npy", "heatmap.png", "overlay.png")
    ]
    record = json.loads(Path("deepinside-results/manifest.jsonl").read_text())
    assert record["method"] == {"name": "smoothgrad", "samples": 3, "noise": 0.15, "seed": 0}
    conflict = ["saliency", "example:chelsea", "-m", "s.onnx", "--method", "vanilla"]
    assert "holds smoothgrad" in run(*conflict, code=1)
    assert "--steps does not go with --method smoothgrad" in run(
        *export, "--overwrite", "--method", "smoothgrad", "--steps", "3", code=2
    )
    assert "does not go with --task visualization" in run(
        *export, "--overwrite", "--method", "smoothgrad", "--task", "visualization", code=2
    )
