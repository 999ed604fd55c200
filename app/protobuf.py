"""Fields of protobuf's wire format, for messages that we write ourselves."""

from struct import Struct
from typing import Final

_MORE: Final = 0x80
_DOUBLE: Final = Struct("<d")


def field(number: int, of: bytes) -> bytes:
    """A message, text or bytes as a field of this number."""
    size = len(of)
    length = _SMALL[size] if size < len(_SMALL) else varint(size)
    return _SMALL[number << 3 | 2] + length + of


def text(number: int, words: str) -> bytes:
    """A text as a field; what is no Unicode in it is replaced."""
    return field(number, words.encode(errors="replace"))


def integer(number: int, value: int) -> bytes:
    """An unsigned integer, or an enumeration's, as a field."""
    return _SMALL[number << 3] + varint(value)


def signed(number: int, value: int) -> bytes:
    """An integer of either sign as a field: `sint32` or `sint64`."""
    return integer(number, value << 1 if value >= 0 else (-value << 1) - 1)


def double(number: int, value: float) -> bytes:
    """A floating-point number as a field."""
    return _SMALL[number << 3 | 1] + _DOUBLE.pack(value)


def varint(number: int) -> bytes:
    """An unsigned integer by itself."""
    found = bytearray()
    while number >= _MORE:
        found.append(number & 0x7F | _MORE)
        number >>= 7
    found.append(number)
    return bytes(found)


_SMALL: Final = tuple(map(varint, range(1024)))
