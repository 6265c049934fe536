"""Pictures in tar files, WebDataset shards included, read once from front to end."""

import json
import lzma
import tarfile
import tempfile
import weakref
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, Self

from deepinside.engine.batch.items import Item, Target, refused
from deepinside.engine.batch.lists import Columns, parse_targets
from deepinside.engine.batch.names import plain_stem
from deepinside.engine.batch.places import PICTURE_ENDINGS
from deepinside.engine.errors import ImageError

__all__ = ["tar_items"]

_IN_MEMORY = 8 << 20  # bytes of a member; larger ones wait in temporary files
_TEXT = 1 << 20  # bytes of a member that names a class
# From an archive and a member to what opens the member.
_Content = Callable[[tarfile.TarFile, tarfile.TarInfo], Callable[[], BinaryIO]]
# The last two: sizes that no file has.
_READ_ERRORS = (
    tarfile.TarError,
    OSError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    OverflowError,
    ValueError,
)


@dataclass
class _Sample:
    """Members that stand together and share a name up to its first dot, as WebDataset has it."""

    key: str
    pictures: list[tuple[str, Callable[[], BinaryIO]]] = field(default_factory=list)
    targets: tuple[Target, ...] | None = None


class _Member(tarfile.TarInfo):
    """A header whose absence is noticed: tarfile takes an archive that is cut short for whole."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except (tarfile.EmptyHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError("it ends without an end mark") from error


def tar_items(
    name: str,
    opener: Callable[[], BinaryIO],
    columns: Columns,
    *,
    shared: bool,
    by_place: bool = False,
) -> Iterator[Item]:
    """The pictures of an archive, in its order; one that is cut short ends with a refused item.

    Where a target column is asked for, a picture's class is what the member of that ending beside
    it holds (`cls` for `000017.cls`), or that key of the JSON object beside it (`000017.json`).

    Args:
        name: path or URL of the archive.
        opener: opens it.
        columns: which are read.
        shared: whether another archive of the job has the same stem.
        by_place: pictures open the archive again and read their part of it, on any machine; those
            of a compressed archive, which has no such parts, hold their bytes.
    """
    count = 0
    try:
        with opener() as stream, _tar(stream, by_place=by_place) as tar:
            content = _content
            if by_place:
                content = partial(_part_of, opener) if tar.fileobj is stream else _bytes
            for sample in _samples(tar, columns.target, content):
                for member, open_member in sample.pictures:
                    count += 1
                    stem = f"{_archive_stem(name)}.{PurePosixPath(member).with_suffix('')}"
                    yield Item(
                        f"{name}::{member}",
                        plain_stem(stem),
                        partial(_opened, open_member, f"{name}::{member}"),
                        sample.targets,
                        shared,
                    )
    except ImageError as error:  # by the opener, with the name
        yield Item(name, "", refused(name, str(error).removeprefix(f"{name}: ")))
    except FileNotFoundError:
        yield Item(name, "", refused(name, "there is no such file."))
    except _READ_ERRORS as error:
        reason = f"the archive can't be read beyond its first {count} pictures ({error})."
        yield Item(name, "", refused(name, reason))


def _tar(stream: BinaryIO, *, by_place: bool) -> tarfile.TarFile:
    """The archive, read from front to end; where only headers are read, the rest is left out."""
    if by_place and stream.seekable():
        try:
            return tarfile.open(fileobj=stream, mode="r:", tarinfo=_Member)
        except tarfile.ReadError:
            stream.seek(0)
    return tarfile.open(fileobj=stream, mode="r|*", tarinfo=_Member)


def _archive_stem(name: str) -> str:
    return PurePosixPath(name).stem.removesuffix(".tar")


def _samples(tar: tarfile.TarFile, target: str | None, content: _Content) -> Iterator[_Sample]:
    sample: _Sample | None = None
    while True:
        try:
            member = tar.next()
        except _READ_ERRORS:
            # What was read is a picture; whose class would have come is not known to be whole.
            if sample is not None and target is None:
                yield sample
            raise
        if member is None:
            break
        tar.members.clear()  # type: ignore[attr-defined]  # it would grow with the archive
        path = PurePosixPath(member.name)
        key = str(path.parent / path.name.partition(".")[0])
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = _Sample(key)
        if path.suffix.lower() in PICTURE_ENDINGS and not member.isdir():
            try:
                opener = content(tar, member) if member.isfile() else _no_file(member)
                sample.pictures.append((member.name, opener))
            except _READ_ERRORS:
                if target is None:
                    yield sample
                raise
        elif target is not None and member.isfile() and member.size <= _TEXT:
            found = _targets(tar, member, target)
            sample.targets = found if found is not None else sample.targets
    if sample is not None:
        yield sample


def _targets(
    tar: tarfile.TarFile, member: tarfile.TarInfo, target: str
) -> tuple[Target, ...] | None:
    ending = PurePosixPath(member.name).name.partition(".")[2]
    if ending not in (target, "json"):
        return None
    content = tar.extractfile(member)
    assert content is not None
    text = content.read().decode(errors="replace")
    if ending == target:
        return parse_targets(text)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return ("unreadable JSON",)
    return parse_targets(value.get(target)) if isinstance(value, dict) else None


def _no_file(member: tarfile.TarInfo) -> Callable[[], BinaryIO]:
    kind = "a link" if member.islnk() or member.issym() else "no file"
    return refused(member.name, f"is {kind} within the archive.")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Callable[[], BinaryIO]:
    """Opens what a member holds, after the archive has gone on."""
    content = tar.extractfile(member)
    assert content is not None
    return _kept(content, member.size)


def _bytes(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Callable[[], BinaryIO]:
    """Opens what a member holds, on any machine."""
    content = tar.extractfile(member)
    assert content is not None
    return partial(BytesIO, content.read())


def _part_of(
    opener: Callable[[], BinaryIO], tar: tarfile.TarFile, member: tarfile.TarInfo
) -> Callable[[], BinaryIO]:
    """Opens the archive again and reads a member's part of it, on any machine."""
    if member.issparse():
        return _bytes(tar, member)
    assert tar.fileobj is not None
    if member.size:  # a part that is not there is noticed now, as where all is read
        tar.fileobj.seek(member.offset_data + member.size - 1)
        if not tar.fileobj.read(1):
            raise tarfile.ReadError("unexpected end of data")
    return partial(_part, opener, member.offset_data, member.size)


def _part(opener: Callable[[], BinaryIO], offset: int, size: int) -> BinaryIO:
    with opener() as stream:
        stream.seek(offset)
        return _kept(stream, size)()


def _kept(content: IO[bytes], size: int) -> Callable[[], BinaryIO]:
    """Opens a copy of the next `size` bytes."""
    return partial(BytesIO, content.read(size)) if size <= _IN_MEMORY else _Spilled(content, size)


class _Spilled:
    """A copy in a temporary file, which goes with the last reference."""

    def __init__(self, content: IO[bytes], size: int) -> None:
        with tempfile.NamedTemporaryFile(prefix="deepinside-", delete=False) as file:
            self._path = Path(file.name)
            weakref.finalize(self, self._path.unlink, missing_ok=True)
            while block := content.read(min(size, 1 << 20)):
                size -= len(block)
                file.write(block)

    def __call__(self) -> BinaryIO:
        return self._path.open("rb")


def _opened(open_member: Callable[[], BinaryIO], name: str) -> BinaryIO:
    try:
        return open_member()
    except ImageError as error:
        raise ImageError(name, str(error).removeprefix(f"{error.source}: ")) from None
