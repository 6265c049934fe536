"""The errors of this room. All derive from EngineError, so that one `except` is enough."""

from collections.abc import Sequence

__all__ = [
    "DivergenceError",
    "EngineError",
    "ImageError",
    "ModelFileError",
    "NotExportedError",
    "OutOfMemoryError",
    "OutputError",
    "PackageMissingError",
    "ProviderError",
    "RunError",
    "RuntimeConflictError",
    "RuntimeMissingError",
    "SettingError",
    "SourceError",
    "TargetError",
    "TaskError",
]


class EngineError(Exception):
    """Something could not be run; the text says what, where and what to do."""


class RuntimeMissingError(EngineError):
    """ONNX Runtime is not installed, or can't be imported."""


class PackageMissingError(EngineError):
    """A package of an extra is not installed.

    Attributes:
        package: its name, as it is imported.
    """

    def __init__(self, package: str, message: str) -> None:
        """Keep the name."""
        self.package = package
        super().__init__(message)


class RuntimeConflictError(EngineError):
    """Several distributions of ONNX Runtime overwrite each other's files.

    Attributes:
        distributions: their names.
    """

    def __init__(self, distributions: Sequence[str], message: str) -> None:
        """Keep the names."""
        self.distributions = tuple(distributions)
        super().__init__(message)


class ProviderError(EngineError):
    """The device that was asked for does not work here.

    Attributes:
        device: as asked for, e.g. `cuda:0`.
        reason: why it does not work, without the advice.
    """

    def __init__(self, device: str, reason: str, advice: str) -> None:
        """Compose the one-sentence message."""
        self.device = device
        self.reason = reason
        super().__init__(f"the device {device!r} can't be used: {reason}; {advice}.")


class ModelFileError(EngineError):
    """A model file can't be opened, is broken, or does not keep the contract."""


class NotExportedError(ModelFileError):
    """The file is an ONNX model, but carries no `deepinside.*` metadata."""


class TaskError(EngineError):
    """The file was exported for another task, or lacks what the call needs."""


class ImageError(EngineError):
    """A picture can't be decoded or does not fit the network.

    Attributes:
        source: path of the picture, or its position such as `#3`.
    """

    def __init__(self, source: str, message: str) -> None:
        """Prefix the message with the picture's name."""
        self.source = source
        super().__init__(f"{source}: {message}")


class TargetError(EngineError):
    """A class that was asked for does not exist, or several fit.

    Attributes:
        candidates: (index, label) of the classes that fit, where several do.
    """

    def __init__(self, message: str, candidates: Sequence[tuple[int, str]] = ()) -> None:
        """Keep the candidates."""
        self.candidates = tuple(candidates)
        super().__init__(message)


class SettingError(EngineError):
    """An option has a value that is not possible."""


class SourceError(SettingError):
    """A name in the input means no picture.

    Attributes:
        reason: a sentence that goes on behind the name.
    """

    def __init__(self, name: str, reason: str) -> None:
        """Prefix the reason with the name."""
        self.reason = reason
        super().__init__(f"{name}: {reason}")


class RunError(EngineError):
    """ONNX Runtime failed while it ran the file."""


class OutOfMemoryError(RunError):
    """The device's memory does not hold a batch of this size."""


class OutputError(EngineError):
    """A result can't be written."""


class DivergenceError(EngineError):
    """A score, gradient or picture became infinite or not a number."""
