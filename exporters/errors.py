"""The errors of this room. All derive from ExportError, so that one `except` is enough."""

__all__ = [
    "ClassifierError",
    "ExportError",
    "GradientError",
    "MissingPackageError",
    "MissingRuleError",
    "ScoreError",
    "innermost",
]


class ExportError(Exception):
    """A classifier could not be exported; the text says what, where and what to do."""


class ClassifierError(ExportError):
    """The given classifier can't be opened, is broken, or is not an image classifier."""


class ScoreError(ExportError):
    """The tensor of class scores is not found, or the one that was named does not fit."""


class MissingPackageError(ExportError):
    """A front door needs a package that is not installed.

    Attributes:
        package: name of the missing package.
        extra: the extra of deepinside that brings it.
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        """Compose the one-sentence message."""
        self.package = package
        self.extra = extra
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed: "
            f"run pip install 'deepinside[{extra}]'."
        )


class GradientError(ExportError):
    """A node between image and score can't be differentiated in the form in which it stands.

    Attributes:
        operator: operator type, e.g. `Conv`.
        version: schema version of the operator.
        node: name of the node in the graph.
    """

    def __init__(self, operator: str, version: int, node: str, message: str) -> None:
        """Prefix the message with the place."""
        self.operator = operator
        self.version = version
        self.node = node
        super().__init__(f"{operator} (version {version}) at node {node!r}: {message}")


class MissingRuleError(GradientError):
    """No gradient rule exists for an operator, or for this version of it.

    Attributes:
        supported: what has rules, for a caller that wants to list it.
    """

    def __init__(
        self, operator: str, version: int, node: str, message: str, supported: tuple[str, ...]
    ) -> None:
        """Keep the list of supported operators."""
        self.supported = supported
        super().__init__(operator, version, node, message)


def innermost(error: BaseException) -> str:
    """What the first cause of an error says, in one line: libraries wrap theirs in long prints."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:400] or type(error).__name__
