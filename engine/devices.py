"""Names of devices, as users write them: `cuda:1`, `cuda:0,cuda:1`, `cuda:all`."""

from dataclasses import dataclass

from deepinside.engine.errors import SettingError

__all__ = ["ALL", "CPU", "CUDA", "TENSORRT", "Device", "parse_device", "parse_devices"]

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

ALL = -1
_PROVIDERS = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}
_POSSIBLE = (
    "auto, cpu, cuda, cuda:N, cuda:all, the same with tensorrt, or several of them with commas "
    "between, such as cuda:0,cuda:1"
)


@dataclass(frozen=True)
class Device:
    """A device to run on.

    Attributes:
        kind: `auto`, `cpu`, `cuda` or `tensorrt`.
        index: number of the GPU, or ALL of them; 0 for the others.
    """

    kind: str
    index: int = 0

    @property
    def on_gpu(self) -> bool:
        """Whether it is a GPU, by whichever provider."""
        return self.kind in ("cuda", "tensorrt")

    @property
    def provider(self) -> str:
        """ONNX Runtime's name of what runs there."""
        return _PROVIDERS[self.kind]

    @property
    def memory(self) -> tuple[str, int]:
        """Where its tensors lie, in ONNX Runtime's words."""
        return ("cuda", self.index) if self.on_gpu else ("cpu", 0)

    def __str__(self) -> str:
        """The form in which users write it."""
        if not self.on_gpu:
            return self.kind
        return f"{self.kind}:{'all' if self.index == ALL else self.index}"


def parse_device(text: str) -> Device:
    """Read one device.

    Raises:
        SettingError: the text is none.
    """
    word, colon, index = text.partition(":")
    if word in ("cuda", "tensorrt") and colon and (index.isdecimal() or index == "all"):
        return Device(word, ALL if index == "all" else int(index))
    if text in ("auto", *_PROVIDERS):
        return Device(text)
    raise SettingError(f"the device {text!r} is not known; possible: {_POSSIBLE}.")


def parse_devices(text: str) -> tuple[Device, ...]:
    """Read one device or several with commas between; one that stands twice gets two sessions.

    Raises:
        SettingError: one of them is none, or `auto` or all of a kind stands beside others.
    """
    devices = tuple(parse_device(part.strip()) for part in text.split(","))
    whole = [device for device in devices if device.kind == "auto" or device.index == ALL]
    if whole and len(devices) > 1:
        raise SettingError(
            f"the device {text!r} is not possible: {whole[0]} stands alone; possible: {_POSSIBLE}."
        )
    return devices
