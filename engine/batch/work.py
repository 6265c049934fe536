"""A picture on its way through a job."""

from dataclasses import dataclass
from typing import Any, BinaryIO

from numpy.typing import NDArray

from deepinside.engine.batch.items import Item, stream_sha256
from deepinside.engine.batch.manifest import Record

__all__ = ["Outcome", "Work"]


@dataclass(eq=False)
class Work:
    """A picture that is to be explained.

    Attributes:
        item: the picture.
        stem: of its result files.
        earlier: what an earlier run left of it.
        sha256: of its bytes, once they were read.
    """

    item: Item
    stem: str
    earlier: Record | None
    sha256: str | None = None

    @property
    def has_changed(self) -> bool:
        """Whether the picture is another one than in the earlier run."""
        known = (self.earlier or {}).get("input_sha256")
        return known is not None and known != self.sha256

    def open(self) -> BinaryIO:
        """The picture's bytes, hashed: what is hashed is what is decoded."""
        stream = self.item.open()
        try:
            self.sha256 = stream_sha256(stream)
        except BaseException:
            stream.close()
            raise
        return stream


@dataclass(eq=False)
class Outcome:
    """What came of a picture.

    Attributes:
        record: of it; its status is `ok`, `failed` or `kept`.
        arrays: its maps in the numbers that are stored, where they wait for their shard.
        note: what the user should know besides.
        previews: JPEG bytes of the picture and of its overlays, where they were asked for.
    """

    record: Record
    arrays: tuple[NDArray[Any], ...] = ()
    note: str | None = None
    previews: tuple[bytes, ...] = ()
