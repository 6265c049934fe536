"""The wire format of protobuf messages, as far as ONNX files need it: fields read and written."""

from collections.abc import Iterator

__all__ = ["MalformedError", "fields", "numbers", "packed"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class MalformedError(ValueError):
    """The bytes are not a protobuf message."""


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of each field of one message; bytes are views, not copies."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, kind = tag >> 3, tag & 7
        value: int | memoryview
        if kind == _VARINT:
            value, position = _varint(data, position)
        elif kind == _BYTES:
            length, position = _varint(data, position)
            if position + length > len(data):
                raise MalformedError
            value, position = data[position : position + length], position + length
        elif kind in (_FIXED64, _FIXED32):
            value, position = 0, position + (8 if kind == _FIXED64 else 4)
        else:
            raise MalformedError
        if not number:
            raise MalformedError
        yield number, value


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise MalformedError


def numbers(value: int | memoryview) -> Iterator[int]:
    """The integers of one field of a repeated number, which writers may have packed."""
    if isinstance(value, int):
        yield value
        return
    position = 0
    while position < len(value):
        number, position = _varint(value, position)
        yield number


def packed(number: int, value: int | bytes | memoryview) -> bytes:
    """One field as it stands in a message: a whole number, or bytes."""
    if isinstance(value, int):
        return _as_varint(number << 3 | _VARINT) + _as_varint(value)
    return b"".join((_as_varint(number << 3 | _BYTES), _as_varint(len(value)), value))


def _as_varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
