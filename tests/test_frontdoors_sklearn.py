"""scikit-learn classifiers of handwritten digits: flat inputs that are shown as pictures."""

import json
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from classifiers import session
from PIL import Image

from deepinside.engine import Engine
from deepinside.exporters import (
    ClassifierError,
    ExportError,
    GradientError,
    export_saliency,
    export_visualization,
)

pytest.importorskip("sklearn")
pytest.importorskip("skl2onnx")
skops_io = pytest.importorskip("skops.io")

from sklearn.datasets import load_digits  # noqa: E402
from sklearn.decomposition import PCA  # noqa: E402
from sklearn.ensemble import RandomForestClassifier  # noqa: E402
from sklearn.linear_model import (  # noqa: E402
    LinearRegression,
    LogisticRegression,
    RidgeClassifier,
    SGDClassifier,
)
from sklearn.naive_bayes import BernoulliNB, GaussianNB  # noqa: E402
from sklearn.neural_network import MLPClassifier  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import (  # noqa: E402
    Binarizer,
    FunctionTransformer,
    MinMaxScaler,
    Normalizer,
    StandardScaler,
)
from sklearn.svm import SVC, LinearSVC  # noqa: E402

DIGITS, NUMBERS = load_digits(return_X_y=True)
# A digit's 16 grey levels: a pixel of 0..1 divided by 1/16.
RECORD = {
    "input_size": [8, 8],
    "resize": "stretch",
    "resize_size": None,
    "interpolation": "box",
    "channel_order": "L",
    "value_range": [0, 1],
    "mean": [0.0],
    "std": [0.0625],
}


def trained(estimator: Any, classes: int = 10) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged, which is of no matter here
        chosen = np.isin(NUMBERS, range(classes))
        return estimator.fit(DIGITS[chosen], NUMBERS[chosen])


def unnormalised(estimator: Any, x: np.ndarray) -> np.ndarray:
    """The scores behind scikit-learn's own results, float64; soft-max's up to one number a row."""
    if hasattr(estimator, "decision_function"):
        scores = estimator.decision_function(x)
        return np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores
    if hasattr(estimator, "predict_joint_log_proba"):
        joint: np.ndarray = estimator.predict_joint_log_proba(x)
        return joint
    probabilities = estimator.predict_proba(x)
    if probabilities.shape[1] == 2:
        score = np.log(probabilities[:, 1] / probabilities[:, 0])
        return np.stack([-score, score], axis=1)
    return np.log(probabilities)


ESTIMATORS: dict[str, Callable[[], Any]] = {
    "logistic": lambda: LogisticRegression(max_iter=300),
    "perceptron": lambda: MLPClassifier((16,), max_iter=60, random_state=0, tol=1e-2),
    "tanh": lambda: MLPClassifier((8, 8), activation="tanh", max_iter=60, random_state=0, tol=1e-2),
    "linear SVM": lambda: LinearSVC(random_state=0, tol=1e-2),
    "SVM": SVC,
    "SVM, polynomial": lambda: SVC(kernel="poly", coef0=1.0),
    "SVM, sigmoid": lambda: SVC(kernel="sigmoid", gamma=1e-4),
    "ridge": RidgeClassifier,
    "stochastic": lambda: SGDClassifier(loss="log_loss", random_state=0),
    "naive Bayes": lambda: GaussianNB(var_smoothing=1e-2),
    "scaled": lambda: make_pipeline(StandardScaler(), PCA(20), LogisticRegression()),
    "scaled SVM": lambda: make_pipeline(StandardScaler(), SVC()),
    "per row": lambda: make_pipeline(
        MinMaxScaler(), Normalizer(), MLPClassifier((8,), max_iter=60, random_state=0, tol=1e-2)
    ),
    "per row, L1": lambda: make_pipeline(Normalizer("l1"), LogisticRegression()),
}


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_gradient_is_that_of_the_estimators_own_scores(
    tmp_path: Path, name: str, classes: int
) -> None:
    estimator = trained(ESTIMATORS[name](), classes)
    report = export_saliency(estimator, tmp_path / "s.onnx", image_size=(8, 8))
    assert {node.domain for node in onnx.load(report.path).graph.node} == {""}

    shift = np.random.default_rng(0).uniform(0, 1, (4, 64))
    x = np.asarray(DIGITS[:40:10] + shift, np.float32)
    first, second = np.arange(4) % classes, (np.arange(4) + 1) % classes
    run = session(report.path)
    outputs = {
        output: run.run(["gradient", "saliency", "scores", "label"], {"image": x, "target": target})
        for output, target in (("first", first), ("second", second))
    }
    gradient, saliency, scores, label = outputs["first"]
    np.testing.assert_array_equal(label, estimator.predict(x))
    np.testing.assert_array_equal(saliency, np.abs(gradient).reshape(4, 8, 8))
    expected = (
        estimator.predict_proba(x) if report.bypassed else unnormalised(estimator, x)
    )  # either is what scikit-learn itself says
    np.testing.assert_allclose(scores, expected, atol=1e-5 * max(1, np.abs(expected).max()))

    # The difference of two classes: what soft-max adds to a row is in neither.
    found = gradient.astype(np.float64) - outputs["second"][0]
    step, rows = 1e-4, np.arange(4)
    differences = np.zeros((4, 64))
    for pixel in range(64):
        moved = np.zeros(64)
        moved[pixel] = step
        change = unnormalised(estimator, x + moved) - unnormalised(estimator, x - moved)
        differences[:, pixel] = (change[rows, first] - change[rows, second]) / (2 * step)
    np.testing.assert_allclose(found, differences, atol=2e-5 * np.abs(differences).max())


def test_a_zip_map_gives_way_to_its_table(tmp_path: Path) -> None:
    """What skl2onnx writes by default, given as a file."""
    import skl2onnx
    from skl2onnx.common.data_types import FloatTensorType

    estimator = trained(LogisticRegression(max_iter=300), 3)
    proto = skl2onnx.convert_sklearn(
        estimator, initial_types=[("x", FloatTensorType([None, 64]))], target_opset=18
    )
    assert "ZipMap" in {node.op_type for node in proto.graph.node}
    (tmp_path / "plain.onnx").write_bytes(proto.SerializeToString())
    report = export_saliency(tmp_path / "plain.onnx", tmp_path / "s.onnx", image_size=(8, 8))
    x = DIGITS[:5].astype(np.float32)
    probabilities, gradient = session(report.path).run(
        ["output_probability", "gradient"], {"x": x, "target": np.array([1])}
    )
    np.testing.assert_allclose(probabilities, estimator.predict_proba(x), atol=1e-6)
    np.testing.assert_allclose(gradient, np.tile(estimator.coef_[1], (5, 1)), rtol=1e-6)
    assert "Softmax" in report.bypassed[-1]


def test_a_skops_file_through_the_command_line(tmp_path: Path) -> None:
    estimator = trained(make_pipeline(StandardScaler(), MLPClassifier((16,), random_state=0)))
    skops_io.dump(estimator, tmp_path / "digits.skops")
    (tmp_path / "record.json").write_text(json.dumps(RECORD))
    Image.fromarray(np.uint8(DIGITS[0].reshape(8, 8) * 255 / 16)).resize((64, 64), 0).save(
        tmp_path / "zero.png"
    )

    def deepinside(*arguments: str) -> str:
        command = [sys.executable, "-m", "deepinside.cli", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    deepinside("export", "sklearn:digits.skops", "-o", "s.onnx", "--preprocessing", "record.json")
    (line,) = deepinside("saliency", "zero.png", "-m", "s.onnx", "--json").splitlines()
    assert json.loads(line)["maps"][0]["label"] == "0"
    assert "8 x 8 x 1" in deepinside("inspect", "s.onnx")
    deepinside("check", "-m", "s.onnx", "-q")

    engine = Engine(tmp_path / "s.onnx", "cpu")
    (by_picture,) = engine.saliency(tmp_path / "zero.png", 0)
    (by_vector,) = engine.saliency(DIGITS[:1].astype(np.float32), 0)
    np.testing.assert_allclose(by_picture.saliency, by_vector.saliency, rtol=1e-3, atol=1e-6)
    assert by_picture.saliency.shape == (8, 8)


def test_the_ideal_of_a_digit_is_a_picture(tmp_path: Path) -> None:
    estimator = trained(LogisticRegression(max_iter=300))
    report = export_visualization(
        estimator, tmp_path / "v.onnx", preprocessing=RECORD, step_rule="normalized"
    )
    (image,) = Engine(report.path, "cpu").visualize("3", steps=20, step_size=1.0, l2=1e-3)
    assert image.picture is not None
    assert image.picture.shape == (8, 8, 3)
    # The ascent of a linear score goes along its weights.
    weights = estimator.coef_[3] / np.linalg.norm(estimator.coef_[3])
    assert image.image @ weights > 0.95 * np.linalg.norm(image.image)


def test_colours_lie_side_by_side_in_a_flat_input(tmp_path: Path) -> None:
    """Features (row, column, channel): the map is the largest of three neighbours."""
    random = np.random.default_rng(0)
    x, y = random.standard_normal((60, 4 * 5 * 3)), np.arange(60) % 3
    estimator = LogisticRegression().fit(x, y)
    report = export_saliency(estimator, tmp_path / "s.onnx", image_size=(4, 5))
    (saliency,) = session(report.path).run(
        ["saliency"], {"image": x[:1].astype(np.float32), "target": np.array([2])}
    )
    expected = np.abs(estimator.coef_[2]).reshape(1, 4, 5, 3).max(axis=3)
    np.testing.assert_allclose(saliency, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: trained(RandomForestClassifier(3)), GradientError, "piecewise constant"),
        (
            lambda: trained(make_pipeline(Binarizer(threshold=4), LogisticRegression())),
            GradientError,
            "Binarizer.*piecewise constant",
        ),
        (lambda: trained(BernoulliNB()), ClassifierError, "no differentiable path"),
        (lambda: SVC(), ClassifierError, "not fitted"),
        (lambda: trained(LinearRegression()), ClassifierError, "not a classifier"),
        (
            lambda: trained(SVC(decision_function_shape="ovo"), 3),
            ClassifierError,
            "score per pair of classes",
        ),
    ],
)
def test_what_has_no_map_is_refused(
    tmp_path: Path, make: Callable[[], Any], error: type[ExportError], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        export_saliency(make(), tmp_path / "s.onnx", image_size=(8, 8))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "flat vector: .*--image-size"),
        ({"image_size": (8, 9)}, "64 features .* no picture of 8 x 9"),
        ({"image_size": (4, 8)}, "64 features .* no picture of 4 x 8"),  # 2 channels
        ({"image_size": (8, 0)}, "in pixels"),
        ({"image_size": (8, 8), "layout": "NCHW"}, "needs four axes"),
        ({"preprocessing": RECORD, "image_size": (4, 16)}, "input_size is"),
        (
            {"preprocessing": RECORD | {"channel_order": "RGB", "mean": [0] * 3, "std": [1] * 3}},
            "channel_order RGB",
        ),
        ({"input_shape": (1, 64)}, "--input-shape can't be used"),
        ({"random_weights": True}, "--random-weights can't be used"),
    ],
)
def test_a_flat_input_needs_a_picture_that_fits(
    tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ExportError, match=sentence):
        export_saliency(trained(RidgeClassifier()), tmp_path / "s.onnx", **options)


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "digits.pkl"
    path.write_bytes(pickle.dumps(trained(RidgeClassifier())))
    for classifier in (f"sklearn:{path}", str(path)):
        with pytest.raises(ClassifierError, match=r"runs code .*skops\.io\.dump"):
            export_saliency(classifier, tmp_path / "s.onnx", image_size=(8, 8))


def test_a_type_that_could_run_code_is_refused_by_name(tmp_path: Path) -> None:
    estimator = trained(make_pipeline(FunctionTransformer(_twice), RidgeClassifier()))
    skops_io.dump(estimator, tmp_path / "digits.skops")
    with pytest.raises(ClassifierError, match=r"could run code.*test_frontdoors_sklearn\._twice"):
        export_saliency(
            f"sklearn:{tmp_path / 'digits.skops'}", tmp_path / "s.onnx", image_size=(8, 8)
        )


def _twice(x: np.ndarray) -> np.ndarray:
    return 2 * x


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("digits.skops", b"PK no zip at all", "can't be read as a .skops file"),
        ("gone.skops", None, "there is no file"),
    ],
)
def test_a_broken_skops_file(
    tmp_path: Path, name: str, content: bytes | None, sentence: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ClassifierError, match=sentence):
        export_saliency(f"sklearn:{tmp_path / name}", tmp_path / "s.onnx", image_size=(8, 8))


def test_a_skops_file_without_its_door_is_told(tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match=r"give it as sklearn:digits\.skops"):
        export_saliency("digits.skops", tmp_path / "s.onnx")
