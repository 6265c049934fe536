"""The saliency methods and their settings; docs/methods.md says what each computes, and why."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from deepinside.engine.contract import Contract
from deepinside.engine.errors import ModelFileError, SettingError, TaskError

__all__ = ["BASELINES", "METHODS", "QUADRATURES", "Method", "MethodName", "find_method"]

MethodName = Literal[
    "vanilla",
    "smoothgrad",
    "smoothgrad-squared",
    "vargrad",
    "input-x-gradient",
    "integrated-gradients",
    "blur-ig",
    "guided-ig",
    "deconvnet",
    "guided-backprop",
]
Baseline = Literal["black", "mean", "blur", "noise"]
Quadrature = Literal["gauss-legendre", "riemann"]
BASELINES: tuple[str, ...] = get_args(Baseline)
QUADRATURES: tuple[str, ...] = get_args(Quadrature)

_NOISE = {"samples": 25, "noise": 0.15, "seed": 0}
_BASELINE = {"baseline": "black", "blur": 0.1, "seed": 0}
# The settings that each method has, with their defaults: its authors', where they gave any.
METHODS: Mapping[str, Mapping[str, Any]] = {
    "vanilla": {"crops": 1},
    "smoothgrad": _NOISE,
    "smoothgrad-squared": _NOISE,
    "vargrad": _NOISE,
    "input-x-gradient": {},
    "integrated-gradients": {"steps": 50, "quadrature": "gauss-legendre", **_BASELINE},
    "blur-ig": {"steps": 100, "blur": 0.2},
    "guided-ig": {"steps": 200, "fraction": 0.25, "max_distance": 0.02, **_BASELINE},
    "deconvnet": {},
    "guided-backprop": {},
}
# The backward rule of ReLU that a method needs in its file, where it is not the gradient.
_RELU = {"deconvnet": "deconvnet", "guided-backprop": "guided"}
_UNSIGNED = ("smoothgrad-squared", "vargrad")
_SHARES = ("input-x-gradient", "integrated-gradients", "blur-ig", "guided-ig")
_RANGES: tuple[tuple[str, float, float, str], ...] = (
    ("samples", 1, 2**31, "at least 1"),
    ("noise", 0, 10, "a share of the input's range from 0 to 10"),
    ("seed", 0, 2**63, "0 or a positive number"),
    ("steps", 1, 10_000, "from 1 to 10000"),
    ("blur", 1e-6, 1, "a share of the shorter side above 0 and at most 1"),
    ("fraction", 1e-6, 1, "a share above 0 and at most 1"),
    ("max_distance", 0, 1, "a share from 0 to 1"),
)
_CHOICES = (("baseline", BASELINES), ("quadrature", QUADRATURES), ("crops", (1, 10)))


@dataclass(frozen=True)
class Method:
    """A saliency method with its settings; those left None become the method's own defaults.

    Attributes:
        name: of the method.
        crops: 10 averages the maps of corners and centre and their mirror images; 1 does not.
        samples: number of noisy pictures.
        noise: standard deviation of the noise, a share of the input's range.
        seed: of the noise; each picture has noise of its own, whatever stands beside it.
        steps: gradients along the way from the baseline to the picture.
        quadrature: where these gradients are taken: `gauss-legendre`, or `riemann`, the middles
            of equal steps.
        baseline: where the way begins: `black`, `mean` (zero in the network's input space),
            `blur` (the picture itself, blurred), or `noise` (even over the input's range).
        blur: standard deviation of the blur, a share of the shorter side.
        fraction: share of the numbers that is moved at once (guided-ig).
        max_distance: how far, as a share of the way, a number may leave the straight line
            (guided-ig).
    """

    name: MethodName = "vanilla"
    crops: int | None = None
    samples: int | None = None
    noise: float | None = None
    seed: int | None = None
    steps: int | None = None
    quadrature: Quadrature | None = None
    baseline: Baseline | None = None
    blur: float | None = None
    fraction: float | None = None
    max_distance: float | None = None

    def __post_init__(self) -> None:
        """Fill in the defaults.

        Raises:
            SettingError: there is no such method, or a setting is not one of it, or not possible.
        """
        if self.name not in METHODS:
            raise SettingError(
                f"there is no saliency method {self.name!r}; possible: {', '.join(METHODS)}."
            )
        defaults = METHODS[self.name]
        for field in fields(self)[1:]:
            if getattr(self, field.name) is None:
                object.__setattr__(self, field.name, defaults.get(field.name))
            elif field.name not in defaults:
                has = ", ".join(defaults) or "none"
                raise SettingError(
                    f"{field.name} is not a setting of the method {self.name}, which has: {has}."
                )
        for name, least, most, wanted in _RANGES:
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise SettingError(f"{name} is {value}; it must be {wanted}.")
        for name, choices in _CHOICES:
            value = getattr(self, name)
            if value is not None and value not in choices:
                possible = " or ".join(map(str, choices))
                raise SettingError(f"{name} is {value!r}; it must be {possible}.")
        if self.name == "vargrad" and self.samples == 1:
            raise SettingError("samples is 1; the variance of vargrad needs at least 2.")

    @property
    def settings(self) -> dict[str, str | int | float]:
        """The settings that the method has, by name."""
        return {name: getattr(self, name) for name in METHODS[self.name]}

    @property
    def variant(self) -> str:
        """Tells the results of methods apart in names of files; empty for plain vanilla."""
        if self.name != "vanilla":
            return self.name
        return f"{self.crops}-crops" if self.crops != 1 else ""

    @property
    def relu(self) -> str:
        """The backward rule of ReLU that the file must have been exported with."""
        return _RELU.get(self.name, "gradient")

    @property
    def one_gradient(self) -> bool:
        """Whether the gradient at the picture is all that the method needs."""
        return self.crops != 10 and not self.settings.keys() - {"crops"}

    @property
    def signed(self) -> bool:
        """Whether an attribution's sign means something."""
        return self.name not in _UNSIGNED and self.crops != 10

    @property
    def gives_shares(self) -> bool:
        """Whether attributions are shares of a score: a pixel's is the sum over its channels."""
        return self.name in _SHARES


def find_method(method: str | Method | None, contract: Contract, *, where: str) -> Method:
    """The method that a caller asks for.

    Args:
        method: name or method; None for what the file gives.
        contract: of the file.
        where: its path, for messages.

    Raises:
        SettingError: there is no such method, or the file does not say what it needs.
        TaskError: the file was exported for another one.
    """
    if contract.method is not None:
        return _in_file(method, contract.method, where)
    given = next((name for name, rule in _RELU.items() if rule == contract.relu), "vanilla")
    if method is None:
        method = given
    if not isinstance(method, Method):
        method = Method(method)  # type: ignore[arg-type]
    if method.relu != contract.relu:
        raise TaskError(
            f"{where} was exported with the backward rule {contract.relu!r} of ReLU, which gives "
            f"{given}: export the classifier again with --relu {method.relu} for {method.name}."
        )
    if method.baseline == "black" and contract.preprocessing is None:
        raise SettingError(
            f"{where} has no preprocessing record, which says what black is: choose the baseline "
            "mean, blur or noise, or export the classifier again with --preprocessing FILE.json."
        )
    return method


def _in_file(method: str | Method | None, held: Mapping[str, Any], where: str) -> Method:
    """The method that a file holds as a whole; no other can be made with it."""
    try:
        own = Method(**held)
    except (SettingError, TypeError) as error:
        raise ModelFileError(
            f"the metadata deepinside.method of {where} name a method that this deepinside does "
            f"not know ({error}): run pip install --upgrade deepinside."
        ) from error
    if method not in (None, own.name, own):
        settings = ", ".join(f"{name} {value}" for name, value in held.items() if name != "name")
        raise TaskError(
            f"{where} holds {own.name} ({settings}) and gives nothing else: leave method and "
            "settings out, or export the classifier again without --method."
        )
    return own
