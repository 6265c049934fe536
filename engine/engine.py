"""The engine: one exported file, open on one device."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.binding import runs_of
from deepinside.engine.check import check_gradient, smooth_images
from deepinside.engine.contract import Contract, parse_contract
from deepinside.engine.errors import SettingError, TargetError, TaskError
from deepinside.engine.goals import Goal, find_goal
from deepinside.engine.inputs import ImageLike, input_spec, iterate_images, prepare
from deepinside.engine.lanes import in_lanes
from deepinside.engine.methods import Method, find_method
from deepinside.engine.modelfile import read_header
from deepinside.engine.passes import GradientPass
from deepinside.engine.presets import find_preset
from deepinside.engine.results import CheckReport, ClassImage, InputFailure, InputMaps, SaliencyMap
from deepinside.engine.saliency import saliency_batches
from deepinside.engine.session import PlacedNode, Session, SessionSettings, open_sessions
from deepinside.engine.settings import ascent_settings
from deepinside.engine.sizes import PictureSize, chosen_size
from deepinside.engine.state import AscentState
from deepinside.engine.targets import find_class, plan_targets
from deepinside.engine.visualize import Progress, ascend, batches

__all__ = ["Engine", "Target", "Targets", "read_contract"]

Target = int | str
Targets = Target | Sequence[Target]

_T = TypeVar("_T")

_BATCH_SIZE = 8


def read_contract(file: str | PathLike[str]) -> Contract:
    """The contract of an exported file; no runtime is needed and the weights are not read.

    Raises:
        ModelFileError: the file is missing or broken, or of a newer contract.
        NotExportedError: it is an ONNX model that deepinside did not export.
    """
    path = Path(file)
    return parse_contract(read_header(path).metadata, where=str(path))


class Engine:
    """Runs one exported file. Several threads may call it at the same time, as servers do.

    Attributes:
        contract: the file's metadata.
        session: the file, open on its device, the first one of several.
        sessions: one for each device.
        spec: its image input.
    """

    def __init__(
        self,
        file: str | PathLike[str],
        device: str = "auto",
        *,
        threads: int | None = None,
        spinning: bool = True,
        strict: bool = False,
        tf32: bool = False,
        float16: bool = False,
        channels_last: bool = False,
        cuda_graph: bool = False,
        in_flight: int | None = None,
    ) -> None:
        """Open the file.

        Args:
            file: saliency or visualization file, docs/file-contract.md.
            device: `auto` (the best that truly works), `cpu`, `cuda`, `cuda:N` or `tensorrt:N`;
                several with commas between, or `cuda:all`: batches go to whichever is free.
            threads: of the CPU's operators; None leaves the choice to ONNX Runtime.
            spinning: idle threads wait actively.
            strict: nodes that left the GPU, so that tensors are copied, are an error instead of a
                log message.
            tf32: let CUDA round float32 factors to 10 bits.
            float16: let TensorRT compute in float16; for CUDA, the file itself is exported so.
            channels_last: let CUDA run convolutions in NHWC layout.
            cuda_graph: record the launches of a batch once and replay them. Batches that are not
                full are filled up, since shapes are fixed.
            in_flight: batches that a device works on at once; None for two on a GPU (one with CUDA
                graphs), so that one is copied while another is computed, and one on a CPU.

        Raises:
            EngineError: the file, the device or the runtime does not work; the subclass and the
                text say which and why.
        """
        self.contract = read_contract(file)
        if in_flight is not None:
            _require_positive("in_flight", in_flight)
        self.sessions: tuple[Session, ...] = open_sessions(
            Path(file),
            SessionSettings(
                device=device,
                threads=threads,
                spinning=spinning,
                strict=strict,
                tf32=tf32,
                float16=float16,
                channels_last=channels_last,
                cuda_graph=cuda_graph,
            ),
        )
        self.session = self.sessions[0]
        self.spec = input_spec(self.session, self.contract)
        # The first run of every device before the second ones.
        runs = [runs_of(session, in_flight) for session in self.sessions]
        self._runs = [
            (session, own[turn])
            for turn in range(max(map(len, runs)))
            for session, own in zip(self.sessions, runs, strict=True)
            if turn < len(own)
        ]

    @property
    def device(self) -> str:
        """What the file runs on: `cpu`, `cuda:N`, or several with commas between."""
        return ",".join(str(session.device) for session in self.sessions)

    @property
    def off_device(self) -> tuple[PlacedNode, ...] | None:
        """Nodes that do not run on the device; None where the runtime can't tell."""
        return self.session.off_device

    def method(self, method: str | Method | None = None) -> Method:
        """The saliency method that a name means, or that goes with the file where none is given.

        Raises:
            SettingError: there is no such method.
            TaskError: the file was exported for another one.
        """
        return find_method(method, self.contract, where=str(self.session.path))

    def saliency(
        self,
        images: ImageLike | Iterable[ImageLike],
        target: Targets = "top1",
        *,
        method: str | Method | None = None,
        batch_size: int = _BATCH_SIZE,
        keep_gradient: bool = True,
        size: PictureSize | None = None,
    ) -> list[SaliencyMap]:
        """Saliency maps, ordered by image and then by target; all are held in memory.

        Args:
            images: one or several of: path, a file's bytes, open file, `ImageFile`, PIL image,
                uint8 array `(H, W)` or `(H, W, 3)`, or float array of the input's shape, already
                preprocessed.
            target: `top1`, `topN`, a class index, a label, or a sequence of these, for every
                image.
            method: name of a saliency method, or a `Method` with its settings; None for what the
                file gives, `vanilla` mostly.
            batch_size: bounds the memory of everything.
            keep_gradient: whether the maps hold the gradient and the attribution too.
            size: height and width of the input, where the file leaves them open: (H, W), one
                number, or `original` for each picture's own; None for the record's.

        Raises:
            ImageError: an image can't be used.
            SettingError: there is no such method, or the file does not take pictures of this size.
            TargetError: no such class.
            EngineError: anything else that failed.
        """
        found: list[SaliencyMap] = []
        for item in self.iter_saliency(
            images,
            target,
            method=method,
            batch_size=batch_size,
            keep_gradient=keep_gradient,
            size=size,
            ahead=int(len(self._runs) > 1),
        ):
            if isinstance(item, InputFailure):
                raise item.error
            found.extend(item.maps)
        return found

    def iter_saliency(
        self,
        images: ImageLike | Iterable[ImageLike],
        target: Targets = "top1",
        *,
        method: str | Method | None = None,
        batch_size: int = _BATCH_SIZE,
        keep_gradient: bool = True,
        size: PictureSize | None = None,
        ahead: int = 0,
        picture_pixels: int | None = None,
    ) -> Iterator[InputMaps | InputFailure]:
        """Like `saliency`, one input at a time: its maps, or why there are none.

        Images are read as they are needed, so that `images` may be a generator over any number.
        `ahead` batches more are read and decoded while others run: 1 for files, 0 for what comes
        one by one, such as a camera's pictures, which then uses one device alone. An `ImageFile`
        may bring targets of its own. The pictures in the results have `picture_pixels` pixels at
        most, larger ones are made smaller; 0 for none.

        Raises:
            SettingError: there is no such method; at once, before the first image is read.
            TargetError: no such class; likewise.
            TaskError: the file is not a saliency file.
        """
        self._require("saliency")
        _require_positive("batch_size", batch_size)
        if ahead < 0:
            raise SettingError(f"ahead is {ahead}; it must be at least 0.")
        plan = plan_targets(target, self.contract)
        chosen_method = self.method(method)
        if chosen_method.crops == 10 and size is not None:
            raise SettingError("crops go with the preprocessing record's own size: leave size out.")
        passes = [
            GradientPass(
                session,
                self.spec,
                chosen_method,
                keep=keep_gradient,
                run=run,
                fixed=batch_size if session.cuda_graph else None,
            )
            for session, run in self._runs
        ]
        chosen = chosen_size(size, self.spec, str(self.session.path))
        return saliency_batches(
            passes,
            images,
            plan,
            batch_size=batch_size,
            size=chosen,
            ahead=ahead,
            picture_pixels=picture_pixels,
        )

    def visualize(
        self,
        targets: Targets | Sequence[Goal],
        *,
        preset: str | None = None,
        init: ImageLike = "zeros",
        seed: int = 0,
        batch_size: int = _BATCH_SIZE,
        snapshot_every: int | None = None,
        score_every: int = 10,
        patience: int | None = None,
        size: PictureSize | None = None,
        progress: Callable[[Progress], None] | None = None,
        resume: Sequence[AscentState] | None = None,
        state_every: int | None = None,
        on_state: Callable[[AscentState], None] | None = None,
        **numbers: float | None,
    ) -> list[ClassImage]:
        """Class pictures: `argmax_I S_c(I) - l2 * ||I||^2` by gradient ascent.

        Args:
            targets: a class index, a label, a mix such as `0.5*tiger cat + 0.5*ostrich` (in a
                file with the natural step), or a sequence of these.
            preset: named settings, `deepinside.engine.PRESETS`; None for what goes with the file:
                `natural` with the natural step, else `paper`.
            init: `zeros`, `noise`, or an image as in `saliency`.
            seed: of the noise.
            batch_size: classes that are optimised at once.
            snapshot_every: keep a picture every so many steps.
            score_every: read the scores every so many steps; each time the host waits.
            patience: stop once no class's score has risen by a thousandth for so many steps.
            size: as in `saliency`; `original` is that of an image in `init`.
            progress: called whenever the scores are read.
            resume: states to go on from, one per target and all of one step and one batch: the
                result is that of an undisturbed run with the same batch.
            state_every: give `on_state` the states every so many steps.
            on_state: called with each picture's state; `engine.state` saves and loads them.
            numbers: instead of the preset's, by the names of `Preset`: `steps`, `step_size`, `l2`;
                with the natural step also `total_variation`, `jitter`, `rotation`, `zoom`,
                `detail`.

        Raises:
            DivergenceError: a score or picture became infinite or not a number.
            SettingError: a setting is not possible.
            TargetError: no such class, or a mix in a file that takes none.
            TaskError: the file is not a visualization file, or its step is not the preset's.
        """
        self._require("visualization")
        _require_positive("batch_size", batch_size)
        settings = ascent_settings(
            self.fitting_preset(preset),
            init=init,
            seed=seed,
            snapshot_every=snapshot_every,
            score_every=score_every,
            patience=patience,
            size=size,
            **numbers,
        )
        chosen = chosen_size(size, self.spec, str(self.session.path))
        goals = self.goals(targets)
        room = self.spec.batch or batch_size
        if resume is not None and (len(goals) > room or len({s.step for s in resume}) != 1):
            raise SettingError(
                f"{len(resume)} states can't be gone on from at once: they have to be of one step, "
                f"and at most {room} of them."
            )
        if state_every is not None:
            _require_positive("state_every", state_every)
        lock = threading.Lock()

        def one_by_one(call: Callable[[_T], None] | None) -> Callable[[_T], None] | None:
            """The callback, by one thread at a time."""
            if call is None:
                return None

            def locked(value: _T) -> None:
                with lock:
                    call(value)

            return locked

        def draw(session: Session, part: Sequence[Goal]) -> list[ClassImage]:
            return ascend(
                session,
                self.spec,
                part,
                settings,
                init=init,
                size=chosen,
                progress=one_by_one(progress),
                resume=resume,
                state_every=state_every,
                on_state=one_by_one(on_state),
            )

        parts = in_lanes(self.sessions, batches(goals, room), draw)
        return [image for part in parts for image in part]

    def fitting_preset(self, preset: str | None) -> str:
        """The preset, or the one that goes with the file where none is named.

        Raises:
            SettingError: there is no such preset.
            TaskError: the file's step is not the preset's.
        """
        natural = self.contract.step_rule == "natural"
        if preset is None:
            return "natural" if natural else "paper"
        if (find_preset(preset).step_rule == "natural") != natural:
            wanted = "plain" if natural else "natural"
            raise TaskError(
                f"{self.session.path} keeps the step rule {self.contract.step_rule!r}, with which "
                f"preset {preset} does not go: export the classifier with --step-rule {wanted}."
            )
        return preset

    def goals(self, targets: Targets | Sequence[Goal]) -> list[Goal]:
        """What indices, labels and mixes mean, each once.

        Raises:
            TargetError: no such class, several fit, or a mix can't be read.
        """
        specs = [targets] if isinstance(targets, (int, np.integer, str)) else list(targets)
        if not specs:
            raise TargetError("no class was given.")
        return list(dict.fromkeys(find_goal(spec, self.contract) for spec in specs))

    def classes(self, targets: Targets) -> list[int]:
        """The class indices of indices and labels, each once.

        Raises:
            TargetError: no such class, or several fit.
        """
        return [goal.index for goal in self.goals(targets)]

    def check(
        self,
        images: ImageLike | Iterable[ImageLike] | None = None,
        *,
        target: Target = "top1",
        tolerance: float = 1e-2,
        seed: int = 0,
        size: PictureSize | None = None,
    ) -> CheckReport:
        """Compare the gradient with differences of the score, on the runtime in use.

        Args:
            images: as in `saliency`; None for random smooth pictures.
            target: `top1`, a class index or a label; a visualization file takes class 0 for
                `top1`.
            tolerance: largest relative error that passes.
            seed: of the random pictures and directions.
            size: as in `saliency`.

        Raises:
            EngineError: the file can't be checked.
        """
        self._require_step()
        if self.contract.method is not None:
            raise TaskError(
                f"{self.session.path} holds {self.contract.method['name']}, which is no derivative "
                "of the score: export the classifier without --method to check its gradient."
            )
        index = -1 if target == "top1" else find_class(target, self.contract)
        chosen = chosen_size(size, self.spec, str(self.session.path))
        arrays: list[NDArray[np.floating]]
        if images is None:
            shape = self.spec.shape_at(chosen) if chosen != "original" else None
            if shape is None:
                raise TaskError(
                    f"{self.session.path} leaves the picture's size open: give a size or images to "
                    "check on."
                )
            arrays = list(smooth_images(self.spec, shape, count=2, seed=seed))
        else:
            arrays = [
                prepare(image, position, self.spec, chosen).array
                for position, image in enumerate(iterate_images(images, self.spec))
            ]
        if not arrays:
            raise SettingError("no images were given to check on.")
        return check_gradient(
            self.session, self.spec, arrays, target=index, tolerance=tolerance, seed=seed
        )

    def _require(self, task: str) -> None:
        if self.contract.task != task:
            raise TaskError(
                f"{self.session.path} is a {self.contract.task} file: export the classifier with "
                f"--task {task} for this."
            )
        self._require_step()

    def _require_step(self) -> None:
        if self.contract.loop is not None:
            raise TaskError(
                f"{self.session.path} holds a whole ascent of {self.contract.loop} steps, which "
                "any ONNX runtime runs in one call: export the classifier without --loop for this."
            )


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        raise SettingError(f"{name} is {value}; it must be at least 1.")
