"""The same job on a real Ray cluster: the same results, whatever dies."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from click.testing import CliRunner, Result
from engine_fixtures import write, write_pictures

from deepinside.cli.main import cli
from deepinside.engine import Engine
from deepinside.engine.batch import Item, JobSettings, Manifest, make_sink
from deepinside.engine.batch.cluster import run_on_cluster
from deepinside.engine.batch.connection import ClusterSettings, connected
from deepinside.engine.batch.settings import files_of
from deepinside.engine.batch.worker import Block, Task, Worker

ray = pytest.importorskip("ray", reason="Ray is not installed (extra [ray])")
pytest.importorskip("ray.data")
# Ray's own: files that it leaves to the collector, its coming versions.
pytestmark = pytest.mark.filterwarnings("ignore")

PICTURES = 150
BAD = 7


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of two CPUs that is there already, as users have it."""
    context = ray.init(
        address="local",
        num_cpus=2,
        log_to_driver=False,
        include_dashboard=False,
        logging_level=50,
        # Ray's processes give way to all others, and so to other tests.
        _system_config={"worker_niceness": 0},
    )
    yield context.address_info["gcs_address"]
    ray.shutdown()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> Path:
    write(tmp_path / "m.onnx")
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    write_pictures(Path("in"), PICTURES)
    Path(f"in/{BAD:03d}.png").write_bytes(b"x")
    return tmp_path


def arguments(output: str, *more: str) -> list[str]:
    return ["saliency", "-m", "m.onnx", "in", "-t", "0", "-q", "-o", output, *more]


def run(*more: str, code: int = 1) -> Result:
    result = CliRunner().invoke(cli, more)
    assert result.exit_code == code, (result.output, result.exception)
    return result


def contents(output: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(output).iterdir()}


def lines(output: str) -> list[bytes]:
    file = Path(output, "manifest.jsonl")
    return file.read_bytes().splitlines(keepends=True) if file.exists() else []


def same(output: str, expected: str) -> None:
    """Two folders tell of the same pictures, once each, and hold the same maps up to rounding."""
    found, wanted = records(output), records(expected)
    assert found.keys() == wanted.keys()
    for name, record in wanted.items():
        left_out = {"maps": 0, "top5": 0}
        assert {**found[name], **left_out} == {**record, **left_out}
        for mine, theirs in zip(found[name].get("maps", ()), record.get("maps", ()), strict=True):
            assert mine["index"] == theirs["index"]
            np.testing.assert_allclose(stored(output, mine), stored(expected, theirs), rtol=1e-5)
    names = {name for record in found.values() for name in files_of(record)}
    lists = contents(output).keys() - names
    assert lists == {name for name in contents(expected) if name.endswith((".jsonl", ".json"))}


def records(output: str) -> dict[str, dict[str, Any]]:
    found = [json.loads(line) for line in lines(output)]
    assert len({record["input"] for record in found}) == len(found)
    return {record["input"]: record for record in found}


def stored(output: str, entry: dict[str, Any]) -> Any:
    """A map of a manifest."""
    if "shard" not in entry["files"]:
        return np.load(Path(output, entry["files"]["saliency"]))
    path = Path(output, entry["files"]["shard"])
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return arrays["saliency"][entry["row"]]
    return pytest.importorskip("pyarrow.parquet").read_table(path)["saliency"][entry["row"]].values


@pytest.mark.parametrize("form", ["files", "npz", "parquet"])
def test_the_same_as_here(form: str) -> None:
    options = ("--format", form, "--shard-size", "40")
    run(*arguments("here", *options))
    result = run(*arguments("there", *options, "--executor", "ray"))
    assert f"in/{BAD:03d}.png: is not a picture" in result.stderr
    same("there", "here")
    if form == "files":
        kept = run(*arguments("there", *options, "--executor", "ray", "--json"))
        listed = [json.loads(line)["status"] for line in kept.stdout.splitlines()]
        assert listed.count("kept") == PICTURES - 1
    # What is here does not mind who wrote it.
    kept = run(*arguments("there", *options, "--json"))
    listed = [json.loads(line)["status"] for line in kept.stdout.splitlines()]
    assert listed.count("kept") == PICTURES - 1
    same("there", "here")


def test_objects_are_the_same_as_here() -> None:
    pytest.importorskip("cv2")
    pytest.importorskip("pycocotools")
    for output, more in (("here", ()), ("there", ("--executor", "ray"))):
        run("localize", "-m", "m.onnx", "in", "-t", "top1", "-q", "-o", output, *more)
    same("there", "here")


def test_pages_show_the_first_pictures() -> None:
    options = ("--report", "r.html", "--report-rows", "40", "--executor", "ray")
    run(*arguments("there", *options, "--batch-size", "2"))
    page = Path("r.html").read_text()
    assert page.count('<img alt="the picture"') == 40
    assert page.count("saliency map on the picture") == 40


def workers() -> list[int]:
    """Processes that explain, of any cluster of this machine."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            name = (folder / "cmdline").read_bytes()
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if name.startswith(b"ray::MapWorker(Map(Worker))") and parent in raylets():
            found.append(int(folder.name))
    return found


def raylets() -> set[int]:
    """Of the cluster of these tests."""
    session = Path(ray._private.worker._global_node.get_session_dir_path()).name.encode()
    found = set()
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if b"raylet/raylet" in words.partition(b"\0")[0] and session in words:
            found.add(int(folder.name))
    return found


def slow(item: Item) -> Item:
    """A picture that takes a while."""

    def opened() -> BinaryIO:
        time.sleep(0.02)
        return item.open()

    return Item(item.name, item.stem, opened, item.targets, item.shared)


def deadly(item: Item) -> Item:
    """A picture that ends the process that reads it."""

    def opened() -> BinaryIO:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    return Item(item.name, item.stem, opened, item.targets, item.shared)


def job(
    output: str,
    change: Callable[[int, Item], Item],
    *,
    form: str = "files",
    seen: Callable[[int], None] = lambda count: None,
    **more: Any,
) -> list[dict[str, Any]]:
    """Run the job from Python, with items of one's own; the records in the order they came in."""
    from deepinside.engine.batch import Sources
    from deepinside.engine.modelfile import content_sha256

    engine = Engine("m.onnx", "cpu")
    file = Path("m.onnx")
    digest = content_sha256(file)
    settings = JobSettings(
        ("0",), engine.method("vanilla"), None, engine.contract.source_sha256, digest, form
    )
    target = Path(output).absolute()
    sink = make_sink(target, settings, overwrite=False, shard_size=10)
    told: list[dict[str, Any]] = []

    def done(outcome: Any) -> None:
        told.append(outcome.record)
        seen(len(told))

    with (
        connected(ClusterSettings(), "cpu") as cluster,
        Sources(["in"], target) as sources,
        Manifest(target) as manifest,
    ):
        items = (change(n, item) for n, item in enumerate(sources.items(by_place=True)))
        run_on_cluster(
            cluster,
            file,
            items,
            settings,
            sink,
            manifest,
            engine={},
            batch_size=2,
            done=done,
            **more,
        )
    return told


@pytest.mark.parametrize("form", ["files", "npz"])
def test_workers_that_are_killed_lose_nothing(form: str) -> None:
    run(*arguments("here", "--format", form, "--shard-size", "10"))
    killed = []

    def kill(count: int) -> None:
        if count in (20, 60, 100):
            for process in workers()[:1]:
                os.kill(process, signal.SIGKILL)
                killed.append(process)

    told = job("there", lambda number, item: slow(item), form=form, seen=kill)
    assert len(set(killed)) >= 2
    assert len(told) == PICTURES
    if form == "files":  # a shard's pictures wait for it, those that fail don't
        assert [record["input"] for record in told] == sorted(records("here"))
    same("there", "here")


def test_a_machine_that_is_lost_loses_nothing() -> None:
    from ray.cluster_utils import Cluster

    run(*arguments("here"))
    soon = {"health_check_period_ms": 500, "health_check_failure_threshold": 2}
    soon |= {"health_check_initial_delay_ms": 0, "worker_niceness": 0}
    head = {"num_cpus": 0, "_system_config": soon}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        lost, _ = (cluster.add_node(num_cpus=1) for _ in range(2))
        cluster.wait_for_nodes()
        there = [*arguments("there", "--batch-size", "1"), "--executor", "ray"]
        command = [sys.executable, "-m", "deepinside.cli", *there, "--ray-address", cluster.address]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            while len(lines("there")) < 30:
                time.sleep(0.002)
            for parts in lost.all_processes.values():
                for part in parts:
                    part.process.kill()
            assert process.wait() == 1  # for the bad picture
    finally:
        cluster.shutdown()
    same("there", "here")


def test_a_picture_that_kills_is_a_failure_and_no_end() -> None:
    run(*arguments("here"))
    job("there", lambda number, item: deadly(item) if number == 30 else item)
    _, failed = (record for record in records("there").values() if record["status"] == "failed")
    assert failed["input"] == "in/030.png"
    assert "in/030.png: the process that explained it died every time" in failed["error"]
    there = contents("there")
    assert not [name for name in there if name.startswith(".")]
    assert sorted(there) == sorted(n for n in contents("here") if not n.startswith("030."))


def test_a_killed_job_goes_on(address: str) -> None:
    options = ("--format", "npz", "--shard-size", "5", "--batch-size", "1", "--resume")
    run(*arguments("here", *options))
    there = [*arguments("there", *options), "--executor", "ray", "--ray-address", address]
    moments = []
    for more in (3, 60):
        until = len(lines("there")) + more
        with subprocess.Popen(
            [sys.executable, "-m", "deepinside.cli", *there], stderr=subprocess.DEVNULL
        ) as process:
            while len(lines("there")) < until and process.poll() is None:
                time.sleep(0.002)
            process.kill()
        moments.append(len(lines("there")))
    assert moments == sorted(set(moments))
    assert moments[0] < PICTURES
    run(*there)
    mine, theirs = ({json.loads(x)["input"] for x in lines(name)} for name in ("there", "here"))
    assert mine == theirs
    assert len(lines("there")) == len(lines("here"))
    inputs: list[str] = []
    for shard in Path("there").glob("*.npz"):
        with np.load(shard) as arrays:
            inputs += list(arrays["input"])
            for record in map(json.loads, arrays["records"].tobytes().decode().splitlines()):
                assert record["status"] == "ok"
    assert len(inputs) == len(set(inputs)) == PICTURES - 1
    assert not list(Path("there").glob(".*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_what_is_in_flight(address: str, number: int) -> None:
    slow = ("--batch-size", "1", "--method", "smoothgrad", "--samples", "500")
    there = [*arguments("there", *slow), "--executor", "ray"]
    command = [sys.executable, "-m", "deepinside.cli", *there, "--ray-address", address]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while len(lines("there")) < 5:
            time.sleep(0.002)
        process.send_signal(number)
        _, errors = process.communicate()
    assert process.returncode == 128 + number, errors
    assert "go on with: deepinside saliency -m m.onnx in" in errors
    assert "Traceback" not in errors
    done = len(lines("there"))
    assert 5 <= done < 100  # the first window has 128 pictures
    assert len(list(Path("there").glob("*.npy"))) == done - (done > BAD)
    assert not list(Path("there").glob(".*"))


def test_errors_say_what_is_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(*arguments("o", "--executor", "ray", "--device", "cuda"), code=2)
    assert "a worker takes 1 CPUs and a GPU of one machine of the Ray cluster" in result.stderr
    assert "machines with 2 CPUs and 0 GPUs" in result.stderr
    result = run(*arguments("o", "--executor", "ray", "--device", "cuda:1"), code=2)
    assert "must be auto, cpu, cuda or tensorrt" in result.stderr
    result = run(*arguments("o", "--executor", "ray", "--worker-cpus", "3"), code=2)
    assert "a worker takes 3 CPUs" in result.stderr
    assert not Path("o").exists()
    for target in ("zebra", "9"):
        wrong = ("saliency", "-m", "m.onnx", "in", "-t", target, "-q", "-o", "o")
        here = run(*wrong, code=2)
        assert "class" in here.stderr
        assert run(*wrong, "--executor", "ray", code=2).stderr == here.stderr
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: (_ for _ in ()).throw(ConnectionError("none")))
    result = run(*arguments("o", "--executor", "ray", "--ray-address", "10.0.0.1:1"))
    assert "there is no Ray cluster at '10.0.0.1:1' (none): start one with" in result.stderr
    monkeypatch.setitem(sys.modules, "ray", None)
    result = run(*arguments("o", "--executor", "ray"))
    assert "a Ray cluster needs the package ray: run pip install 'deepinside[ray]'" in result.stderr


def task(**changes: Any) -> Task:
    from importlib.metadata import version

    engine = Engine("m.onnx", "cpu")
    settings = JobSettings((0,), engine.method("vanilla"), None, "", "")
    given = {
        "token": "t",
        "folder": Path.cwd(),
        "settings": settings,
        "model": "m.onnx",
        "engine": {"device": "cpu"},
        "batch_size": 1,
        "keep": True,
        "version": version("deepinside"),
        **changes,
    }
    return Task(**given)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": "0.0.0"}, "the job is of 0.0.0: install the same on all"),
        ({"folder": Path("/none")}, "does not see the folder /none"),
        ({"engine": {"device": "cuda"}}, "cuda"),
    ],
)
def test_what_a_machine_lacks_ends_the_job(changes: dict[str, Any], words: str) -> None:
    files = ray.put({"m.onnx": np.fromfile("m.onnx", np.uint8)})
    worker = Worker(task(**changes), files)
    sink = make_sink(Path.cwd(), task().settings, overwrite=False, shard_size=1)
    answer = worker({"block": pickle.dumps(Block(0, [], sink, None))})
    assert words in pickle.loads(answer["result"]).error


def test_an_error_of_a_worker_ends_the_job() -> None:
    Path("there/007.0-tabby.saliency.npy").mkdir(parents=True)  # which can't be replaced
    Path("in/007.png").write_bytes(Path("in/008.png").read_bytes())
    result = run(*arguments("there", "--executor", "ray", "--overwrite"))
    assert "007.0-tabby.saliency.npy can't be written" in result.stderr
    assert "Traceback" not in result.stderr
