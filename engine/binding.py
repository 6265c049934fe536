"""Keeps the state of the ascent loop on the device: two picture buffers that swap roles."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.runtime import load_runtime, runtime_errors
from deepinside.engine.session import Session

__all__ = ["PingPong"]


class PingPong:
    """Runs a graph from picture to picture again and again without copying the picture.

    Two bindings of the session are made once: one reads buffer A and writes buffer B, the other
    the reverse. A step runs one of them. Nothing is copied between host and device except what
    `image` and `scores` read.
    """

    def __init__(
        self,
        session: Session,
        names: Mapping[str, str],
        image: NDArray[Any],
        *,
        constants: Mapping[str, NDArray[Any]],
    ) -> None:
        """Put everything on the device.

        Args:
            session: with the parts `image`, `next_image` and `score`.
            names: part of the contract -> tensor name.
            image: `(N, ...)`, the first state.
            constants: part -> array of the inputs that stay as they are.

        Raises:
            RunError: the device's memory does not hold the buffers.
        """
        self._session = session
        self._state = 0
        values = load_runtime().OrtValue
        place = (session.device.kind, session.device.index)
        try:
            self._buffers = [values.ortvalue_from_numpy(image.copy(), *place) for _ in range(2)]
            scores = np.zeros(len(image), dtype=image.dtype)
            self._scores = values.ortvalue_from_numpy(scores, *place)
            self._constants = {
                names[part]: values.ortvalue_from_numpy(value, *place)
                for part, value in constants.items()
            }
            self._bindings = [self._bind(names, source) for source in range(2)]
        except runtime_errors() as error:
            raise session.translate(error) from error

    def _bind(self, names: Mapping[str, str], source: int) -> Any:
        binding = self._session.raw.io_binding()
        for name, value in self._constants.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_ortvalue_input(names["image"], self._buffers[source])
        binding.bind_ortvalue_output(names["next_image"], self._buffers[1 - source])
        binding.bind_ortvalue_output(names["score"], self._scores)
        return binding

    def step(self) -> None:
        """Replace the picture by the next one; `scores` are then those of the previous one.

        Raises:
            RunError: ONNX Runtime failed.
        """
        try:
            self._session.raw.run_with_iobinding(self._bindings[self._state])
        except runtime_errors() as error:
            raise self._session.translate(error) from error
        self._state = 1 - self._state

    def evaluate(self) -> None:
        """Compute the scores of the picture and leave it as it is."""
        self.step()
        self._state = 1 - self._state  # the step wrote to the other buffer only

    def scores(self) -> NDArray[np.floating]:
        """`(N,)`, copied to the host: the scores of the picture that the last run read."""
        return np.array(self._scores.numpy())

    def image(self) -> NDArray[np.floating]:
        """`(N, ...)`, copied to the host: the picture."""
        return np.array(self._buffers[self._state].numpy())
