"""Evaluation on files: scores without the gradient's half, random weights, the sanity check."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from classifiers import classifier, session
from engine_fixtures import Recipe, pictures, write

from deepinside import models
from deepinside.engine import Engine, EngineError, ModelFileError, SettingError, TaskError
from deepinside.engine.evaluation import (
    Control,
    EvaluationSettings,
    Explained,
    Figures,
    MethodMaps,
    Scorer,
    Subject,
    evaluate,
    layers_of,
    randomised,
    spearman,
)
from deepinside.engine.graphfile import load_graph
from deepinside.exporters import export_saliency

SCORES = "logits"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The saliency file of a small network with a soft-max."""
    source = classifier(tail="q = Softmax <axis = 1> (s)", outputs="float[N,5] q", size=24)
    onnx.save(source, tmp_path / "classifier.onnx")
    export_saliency(tmp_path / "classifier.onnx", tmp_path / "saliency.onnx")
    return tmp_path / "saliency.onnx"


def images(count: int, size: int = 24) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((count, size, size, 3)).astype(np.float32)


def subjects(scorer: Scorer, settings: EvaluationSettings, count: int = 2) -> list[Subject]:
    return [
        Subject(
            f"#{number}",
            str(number),
            image,
            number,
            None,
            scorer.of_class(number),
            scorer.quantities,
            None,
            None,
            settings,
        )
        for number, image in enumerate(images(count))
    ]


def test_a_graph_is_read_as_onnx_reads_it(file: Path) -> None:
    graph, proto = load_graph(file), onnx.load(file)
    assert [(n.operator, n.outputs) for n in graph.nodes] == [
        (n.op_type, tuple(n.output)) for n in proto.graph.node
    ]
    expected = {i.name: onnx.numpy_helper.to_array(i) for i in proto.graph.initializer}
    assert graph.weights
    for name, weights in graph.weights.items():
        np.testing.assert_array_equal(weights, expected[name])
        assert weights.shape == expected[name].shape


def test_the_classifiers_half_gives_the_same_scores(file: Path, tmp_path: Path) -> None:
    engine = Engine(file, "cpu")
    names = engine.contract.names
    half = load_graph(file).save(
        tmp_path / "half" / "half.onnx", [names["class_scores"], names["score"]]
    )
    onnx.checker.check_model(half, full_check=True)
    assert len(onnx.load(half).graph.node) < len(onnx.load(file).graph.node) / 1.5
    x = images(3).transpose(0, 3, 1, 2)
    feeds = {names["image"]: x, names["target"]: np.array([4])}
    outputs = [names["class_scores"], names["score"]]
    for ours, whole in zip(
        session(half).run(outputs, feeds), session(file).run(outputs, feeds), strict=True
    ):
        np.testing.assert_allclose(ours, whole, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(layout="NHWC"),
        Recipe(layout="flat"),
        Recipe(batch=2),
        Recipe(activation="softmax"),
        Recipe(activation="log_softmax"),
        Recipe(target_input="required"),
    ],
    ids=lambda recipe: f"{recipe.layout}-{recipe.activation}-{recipe.batch}-{recipe.target_input}",
)
def test_scores_are_the_closed_forms(tmp_path: Path, recipe: Recipe, batch_size: int) -> None:
    path = write(tmp_path / "m.onnx", recipe)
    spec = Engine(path, "cpu").spec
    x = pictures(5, recipe)
    logits = recipe.scores(x)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    with Scorer(path, spec, batch_size=batch_size, device="cpu") as scorer:
        assert scorer.quantities == ("probability", "top1", "logit")
        found = scorer.of_class(1)(spec.as_picture(each) for each in x)
        assert scorer.of_class(1)([]).shape == (0, 3)
    np.testing.assert_allclose(found[:, 2], logits[:, 1], rtol=1e-4, atol=1e-4)
    expected = exponentials[:, 1] / exponentials.sum(axis=1)
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(found[:, 1], logits.argmax(axis=1) == 1)


def test_files_that_can_not_be_scored(tmp_path: Path) -> None:
    path = write(tmp_path / "v.onnx", Recipe(task="visualization"))
    with pytest.raises(TaskError, match="--task saliency"):
        Scorer(path, Engine(path, "cpu").spec, device="cpu")
    (tmp_path / "cut.onnx").write_bytes(path.read_bytes()[:300])
    with pytest.raises(ModelFileError, match="cut short"):
        load_graph(tmp_path / "cut.onnx")


def test_layers_from_the_scores_down(file: Path) -> None:
    layers = layers_of(load_graph(file), Engine(file, "cpu").contract.score.tensor)
    assert [set(layer.weights) for layer in layers] == [{"v", "b"}, {"w"}]
    model = onnx.load(file)
    del model.graph.initializer[:]
    onnx.save(model, file.with_name("bare.onnx"))
    with pytest.raises(TaskError, match="no layer of floating-point weights"):
        layers_of(load_graph(file.with_name("bare.onnx")), "s")


def test_the_embedded_classifiers_layers(tmp_path: Path) -> None:
    file = tmp_path / "saliency.onnx"
    export_saliency(models.default_classifier(), file)
    graph = load_graph(file)
    layers = layers_of(graph, Engine(file, "cpu").contract.score.tensor)
    names = [name for layer in layers for name in layer.weights]
    assert layers[0].weights == ("classifier/weight", "classifier/bias")
    assert layers[-1].weights == ("stem/weight", "stem/bias")
    assert sorted(names) == sorted(
        name for name in graph.weights if name.endswith(("/weight", "/bias"))
    )


def test_weights_are_redrawn_in_both_halves(file: Path, tmp_path: Path) -> None:
    before = load_graph(file).weights
    first, second = (
        load_graph(each.path).weights
        for each in randomised(file, _scores(file), tmp_path / "r", steps=2)
    )
    for name in before:
        assert np.array_equal(first[name], before[name]) == (name not in ("v", "b"))
        assert np.array_equal(second[name], before[name]) == (name not in ("v", "b", "w"))
    assert abs(second["w"].std() / before["w"].std() - 1) < 0.2
    # Gradient and score of the copy go together, and are not the trained network's.
    (*_, last) = randomised(file, _scores(file), tmp_path / "r", steps=2)
    engine, x = Engine(last.path, "cpu"), images(2).transpose(0, 3, 1, 2)
    assert engine.check(x).passed
    ours = engine.saliency(x, target=1)[0].saliency
    assert spearman(ours, Engine(file, "cpu").saliency(x, target=1)[0].saliency) < 0.9


def test_modes_and_depths(file: Path, tmp_path: Path) -> None:
    trained = load_graph(file).weights
    drawn: dict[str, Any] = {}
    for mode in ("cascading", "independent"):
        found = []
        for each in randomised(file, _scores(file), tmp_path / "r", mode=mode, steps=9):  # type: ignore[arg-type]
            weights = load_graph(each.path).weights
            changed = {n for n in ("v", "w") if not np.array_equal(weights[n], trained[n])}
            drawn[f"{mode}{each.depth}"] = weights["w"]
            found.append((each.depth, changed))
        last = {"v", "w"} if mode == "cascading" else {"w"}
        assert found == [(1, {"v"}), (2, last)]
    np.testing.assert_array_equal(drawn["cascading2"], drawn["independent2"])
    (*_, other) = randomised(file, _scores(file), tmp_path / "r", seed=1)
    assert not np.array_equal(load_graph(other.path).weights["w"], drawn["cascading2"])
    with pytest.raises(SettingError, match="cascading or independent"):
        next(randomised(file, _scores(file), tmp_path / "r", mode="upwards"))  # type: ignore[arg-type]


def test_weights_in_files_beside(file: Path, tmp_path: Path) -> None:
    model = onnx.load(file)
    (tmp_path / "e").mkdir()
    onnx.save(
        model,
        tmp_path / "e" / "m.onnx",
        save_as_external_data=True,
        size_threshold=100,
        location="w",
    )
    (*_, plain) = randomised(file, _scores(file), tmp_path / "p")
    (*_, outside) = randomised(tmp_path / "e" / "m.onnx", _scores(file), tmp_path / "o")
    x = images(1).transpose(0, 3, 1, 2)
    one, other = (Engine(each.path, "cpu").saliency(x, target=0)[0] for each in (plain, outside))
    np.testing.assert_allclose(one.saliency, other.saliency, rtol=1e-5)


def test_a_method_falls_and_what_sees_no_weights_does_not(file: Path) -> None:
    settings = EvaluationSettings(metrics=("randomisation",), randomise_steps=2)
    explainers = {
        "vanilla": MethodMaps(file, "vanilla", "cpu", 2),
        "edges": Control("edges"),
        "random": Control("random"),
    }
    with Scorer(file, Engine(file, "cpu").spec, device="cpu") as scorer:
        found = evaluate(explainers, subjects(scorer, settings), settings)
    assert found.depths == [1, 2]
    for figures in found.figures:
        assert isinstance(figures, dict)
        for control in ("edges", "random"):
            np.testing.assert_allclose(figures[control].randomisation["spearman"], 1)
            np.testing.assert_allclose(figures[control].randomisation["ssim"], 1)
        assert max(figures["vanilla"].randomisation["spearman"]) < 0.8  # type: ignore[type-var]


def test_all_figures_of_a_map(file: Path) -> None:
    settings = EvaluationSettings(steps=4, sensitivity_samples=8)
    with Scorer(file, Engine(file, "cpu").spec, device="cpu", batch_size=3) as scorer:
        explainers = {"ixg": MethodMaps(file, "input-x-gradient", "cpu", 2)}
        (first, _) = evaluate(explainers, subjects(scorer, settings), settings).figures
        assert isinstance(first, dict)
        figures: Figures = first["ixg"]
        (subject, *_) = subjects(scorer, settings)
        (explained, *_) = explainers["ixg"]([subject])
    assert isinstance(explained, Explained)
    assert explained.attribution is not None
    np.testing.assert_allclose(np.abs(explained.attribution), explained.saliency, rtol=1e-4)
    for quantity in ("probability", "top1", "logit"):
        for name in ("insertion", "deletion", "road", "road_most", "road_least", "sensitivity"):
            assert np.isfinite(figures.numbers[f"{name}.{quantity}"])
    assert figures.curves["insertion"].values.shape == (5, 3)
    last, start = figures.curves["insertion"].values[-1], figures.curves["deletion"].values[0]
    np.testing.assert_allclose(last, start, rtol=1e-4)  # both are the picture's
    assert set(figures.randomisation) == {"spearman", "ssim"}


def test_a_failing_map_fails_its_subject_alone(file: Path) -> None:
    settings = EvaluationSettings(metrics=("curves",), steps=2)

    class Failing(Control):
        def __call__(self, items: Any, file: Path | None = None) -> list[Any]:
            return [EngineError("no map"), *super().__call__(items)[1:]]

    with Scorer(file, Engine(file, "cpu").spec, device="cpu") as scorer:
        found = evaluate({"x": Failing("edges")}, subjects(scorer, settings), settings).figures
    assert str(found[0]) == "no map"
    assert isinstance(found[1], dict)


@pytest.mark.parametrize(
    "wrong",
    [
        {"metrics": ("curve",)},
        {"insertion_from": "white"},
        {"deletion_to": "noise"},
        {"randomise": "upwards"},
        {"steps": 0},
        {"sensitivity_samples": 1},
        {"tolerance": -1},
        {"randomise_steps": 0},
        {"seed": -1},
    ],
    ids=str,
)
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=rf"{next(iter(wrong)).removesuffix('s')}"):
        EvaluationSettings(**wrong)


def _scores(file: Path) -> str:
    return Engine(file, "cpu").contract.score.tensor
