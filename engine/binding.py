"""Keeps tensors on the device: the state of an ascent, and the pictures of a batch."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.runtime import load_runtime, runtime_errors
from deepinside.engine.session import Session

__all__ = ["BoundRun", "PingPong", "Run", "runs_of"]

Run = Callable[[Sequence[str], Mapping[str, NDArray[Any]]], list[NDArray[Any]]]


def runs_of(session: Session, count: int | None = None) -> tuple[Run, ...]:
    """What runs a session, from host arrays to host arrays, as often as it may run at once.

    Args:
        session: an open file.
        count: runs at once; None for one on CPUs, whose operators use all cores, and with CUDA
            graphs, whose recording bears nothing beside itself, and two on GPUs, so that one batch
            is copied while the other is computed.
    """
    if not session.device.on_gpu:
        return (session.run,) * (count or 1)
    count = count or (1 if session.cuda_graph else 2)
    return tuple(BoundRun(session).run for _ in range(count))


class BoundRun:
    """Runs a file from host arrays to host arrays through buffers on the device.

    An array that is given again, the same object, is still there and not sent again; it must not
    have changed. Outputs that are not asked for stay on the device. With CUDA graphs, the buffers
    stay what they are while shapes do, and the launches are recorded once and replayed.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._sent: dict[str, tuple[NDArray[Any], Any]] = {}
        self._recorded: _Recorded | None = None

    def run(self, outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Run once, as `Session.run` does.

        Raises:
            OutOfMemoryError: the batch does not fit into memory.
            RunError: ONNX Runtime failed otherwise.
        """
        with self._lock:
            try:
                inputs = {name: self._send(name, array) for name, array in feeds.items()}
                if self._session.cuda_graph:
                    return self._replay(outputs, inputs)
                binding = _bind_inputs(self._session, inputs)
                for name in outputs:
                    binding.bind_output(name)  # on the host
                self._session.raw.run_with_iobinding(binding)
                return list(binding.copy_outputs_to_cpu())
            except runtime_errors() as error:
                self._sent.clear()
                self._recorded = None
                raise self._session.translate(error) from error

    def _send(self, name: str, array: NDArray[Any]) -> Any:
        """The array on the device, in the buffer of the last one where it fits."""
        before, value = self._sent.get(name, (array, None))
        if value is None or (before.shape, before.dtype) != (array.shape, array.dtype):
            device = self._session.device.memory
            value = load_runtime().OrtValue.ortvalue_from_numpy(array, *device)
        elif before is not array:
            value.update_inplace(array)
        self._sent[name] = (array, value)
        return value

    def _replay(self, outputs: Sequence[str], inputs: Mapping[str, Any]) -> list[NDArray[Any]]:
        recorded = self._recorded
        if recorded is None or not recorded.fits(outputs, inputs):
            if recorded is not None:
                recorded.release(self._session)
            recorded = self._recorded = _Recorded(self._session, outputs, inputs)
        return recorded.run(self._session)


class _Recorded:
    """One run as a CUDA graph, with the buffers that it reads and writes."""

    def __init__(self, session: Session, outputs: Sequence[str], inputs: Mapping[str, Any]) -> None:
        self._inputs = dict(inputs)
        self._outputs = tuple(outputs)
        # A run without recording makes the outputs' buffers, of shapes that it finds out.
        trial = _bind_inputs(session, inputs)
        for name in outputs:
            trial.bind_output(name, *session.device.memory)
        session.raw.run_with_iobinding(trial, session.run_options(graph=-1))
        self._values = trial.get_outputs()
        self._binding = _bind_inputs(session, inputs)
        for name, value in zip(outputs, self._values, strict=True):
            self._binding.bind_ortvalue_output(name, value)
        self._graph = session.new_graph()
        self._options = session.run_options(graph=self._graph)

    def fits(self, outputs: Sequence[str], inputs: Mapping[str, Any]) -> bool:
        same = self._inputs.keys() == inputs.keys() and self._outputs == tuple(outputs)
        return same and all(self._inputs[name] is value for name, value in inputs.items())

    def run(self, session: Session) -> list[NDArray[Any]]:
        session.raw.run_with_iobinding(self._binding, self._options)
        return [np.array(value.numpy()) for value in self._values]

    def release(self, session: Session) -> None:
        if hasattr(session.raw, "release_captured_graph"):  # since ONNX Runtime 1.31
            session.raw.release_captured_graph(self._graph)


def _bind_inputs(session: Session, inputs: Mapping[str, Any]) -> Any:
    binding = session.raw.io_binding()
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, value)
    return binding


class PingPong:
    """Runs a graph from state to state again and again without copying the state.

    The bindings of the session are made once: one reads buffers A and writes buffers B, the other
    the reverse. A step runs one of them. Nothing is copied between host and device except what
    `state` and `output` read, and the host waits for the device only there: steps are queued. With
    CUDA graphs, each binding is recorded at its first run and replayed.
    """

    def __init__(
        self,
        session: Session,
        names: Mapping[str, str],
        state: Mapping[str, NDArray[Any]],
        *,
        constants: Mapping[str, NDArray[Any]],
        outputs: Mapping[str, NDArray[Any]],
        still: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        """Put everything on the device.

        Args:
            session: with the parts `P` and `next_P` for each part P of the state.
            names: part of the contract -> tensor name.
            state: part -> first value.
            constants: part -> value of the inputs that stay as they are.
            outputs: part -> array of the output's type and shape, of outputs beside the state.
            still: parts of the state that `evaluate` takes from here instead.

        Raises:
            RunError: the device's memory does not hold the buffers.
        """
        self._session = session
        self._names = names
        self._at = 0
        values = load_runtime().OrtValue
        place = session.device.memory

        def put(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
            return {
                part: values.ortvalue_from_numpy(np.array(array), *place)
                for part, array in arrays.items()
            }

        try:
            self._buffers = [put(state) for _ in range(2)]
            self._outputs = put(outputs)
            self._constants = put(constants)
            self._steps = [self._bind(source, {}) for source in range(2)]
            seen = put(still or {})
            self._still = [self._bind(source, seen) for source in range(2)] if seen else self._steps
            self._queued = False
            grows = session.grows(state)
            self._first = session.run_options(wait=False, shrink=True) if grows else None
        except runtime_errors() as error:
            raise session.translate(error) from error

    def _bind(self, source: int, instead: Mapping[str, Any]) -> tuple[Any, Any]:
        """A binding, and the options to run it with."""
        session = self._session
        inputs = {**self._constants, **self._buffers[source], **instead}
        results = {f"next_{part}": value for part, value in self._buffers[1 - source].items()}
        binding = _bind_inputs(session, {self._names[part]: v for part, v in inputs.items()})
        for part, value in {**results, **self._outputs}.items():
            binding.bind_ortvalue_output(self._names[part], value)
        graph = session.new_graph() if session.cuda_graph else None
        return binding, session.run_options(graph=graph, wait=False)

    def step(self) -> None:
        """Replace the state by the next one; the outputs are then those of the previous one.

        Raises:
            RunError: ONNX Runtime failed.
        """
        self._run(self._steps)
        self._at = 1 - self._at

    def evaluate(self) -> None:
        """Compute the outputs of the state and leave it as it is."""
        self._run(self._still)  # writes to the other buffers only

    def _run(self, bindings: list[tuple[Any, Any]]) -> None:
        binding, options = bindings[self._at]
        if self._first is not None:
            options, self._first = self._first, None
        try:
            self._session.raw.run_with_iobinding(binding, options)
        except runtime_errors() as error:
            raise self._session.translate(error) from error
        self._queued = True

    def output(self, part: str) -> NDArray[Any]:
        """An output of the last run, copied to the host."""
        return self._read(self._outputs[part])

    def state(self, part: str) -> NDArray[Any]:
        """A part of the state, copied to the host."""
        return self._read(self._buffers[self._at][part])

    def _read(self, value: Any) -> NDArray[Any]:
        try:
            if self._queued:
                self._steps[0][0].synchronize_outputs()  # waits for the whole device
                self._queued = False
            return np.array(value.numpy())
        except runtime_errors() as error:
            raise self._session.translate(error) from error
