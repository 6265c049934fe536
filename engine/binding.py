"""Keeps the state of the ascent loop on the device: two sets of buffers that swap roles."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.runtime import load_runtime, runtime_errors
from deepinside.engine.session import Session

__all__ = ["PingPong"]


class PingPong:
    """Runs a graph from state to state again and again without copying the state.

    The bindings of the session are made once: one reads buffers A and writes buffers B, the other
    the reverse. A step runs one of them. Nothing is copied between host and device except what
    `state` and `output` read.
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
        place = (session.device.kind, session.device.index)

        def put(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
            return {
                part: values.ortvalue_from_numpy(np.array(array), *place)
                for part, array in arrays.items()
            }

        try:
            self._buffers = [put(state) for _ in range(2)]
            self._outputs = put(outputs)
            self._constants = put(constants)
            self._bindings = [self._bind(source, {}) for source in range(2)]
            seen = put(still or {})
            self._still = [self._bind(source, seen) for source in range(2)] if seen else None
        except runtime_errors() as error:
            raise session.translate(error) from error

    def _bind(self, source: int, instead: Mapping[str, Any]) -> Any:
        binding = self._session.raw.io_binding()
        inputs = {**self._constants, **self._buffers[source], **instead}
        results = {f"next_{part}": value for part, value in self._buffers[1 - source].items()}
        for part, value in inputs.items():
            binding.bind_ortvalue_input(self._names[part], value)
        for part, value in {**results, **self._outputs}.items():
            binding.bind_ortvalue_output(self._names[part], value)
        return binding

    def step(self) -> None:
        """Replace the state by the next one; the outputs are then those of the previous one.

        Raises:
            RunError: ONNX Runtime failed.
        """
        self._run(self._bindings)
        self._at = 1 - self._at

    def evaluate(self) -> None:
        """Compute the outputs of the state and leave it as it is."""
        self._run(self._still or self._bindings)  # writes to the other buffers only

    def _run(self, bindings: list[Any]) -> None:
        try:
            self._session.raw.run_with_iobinding(bindings[self._at])
        except runtime_errors() as error:
            raise self._session.translate(error) from error

    def output(self, part: str) -> NDArray[Any]:
        """An output of the last run, copied to the host."""
        return np.array(self._outputs[part].numpy())

    def state(self, part: str) -> NDArray[Any]:
        """A part of the state, copied to the host."""
        return np.array(self._buffers[self._at][part].numpy())
