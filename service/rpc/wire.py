"""Looks at a message's bytes before protobuf makes objects of them.

What a message costs to parse and to walk depends on its number of fields, not on its size: 8 MB may be one
image or four million empty tensors. This reads tags and lengths only, skips what they enclose, and stops at
the first bound that is passed. The format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from models.errors import ParameterInvalid

FIELDS: Final = 4096
"""Fields of one message and of all messages in it, unknown ones included."""

ENTRIES: Final = 64
"""Messages that one repeated field, or one map, may hold, unless its method takes a long list."""

FRAMING: Final = 64 * 1024
"""Bytes of a message besides its `bytes` fields and its tensors' numbers: names, options, tags."""

NUMBERS: Final = 1024 * 1024
"""Bytes of a message's tensors that come as numbers one by one, as many as JSON may have values. Larger ones
come as raw bytes: protobuf parses numbers at a tenth of their rate."""


TENSORS: Final = ("inference.InferTensorContents",)
"""Messages whose repeated numbers are a tensor's values."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one method's messages. The defaults are those of a method whose messages hold no long list.

    Attributes:
        entries, framing, numbers: as the constants of these names.
        holders: full names of the messages whose repeated numbers are counted as such, not as framing.
        advice: ends the error's text, where there are too many numbers.
        data: bytes of a message besides its images and the framing.
    """

    entries: int = ENTRIES
    framing: int = FRAMING
    numbers: int = NUMBERS
    holders: tuple[str, ...] = TENSORS
    advice: str = "; send them as raw_input_contents"
    data: int = 0


USUAL: Final = Bounds()

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED: Final = {_FIXED64: 8, _FIXED32: 4}


class _Holds(Enum):
    """What a length-delimited field holds."""

    DATA = auto()
    NUMBERS = auto()
    MESSAGE = auto()


Layout: TypeAlias = "dict[int, tuple[_Holds, Layout | None, bool]]"
"""The fields of a message that are not plain framing: what each holds, by its tag; of messages also their
layout and whether there may be several."""


def layout_of(descriptor: Descriptor, holders: Collection[str] = ()) -> Layout:
    """A message type's layout.

    Args:
        descriptor: of the message type, which does not contain itself.
        holders: full names of the message types whose repeated numbers are not framing.
    """
    layout: Layout = {}
    for one in descriptor.fields:
        tag = one.number << 3 | _BYTES
        if one.message_type is not None:
            layout[tag] = (_Holds.MESSAGE, layout_of(one.message_type, holders), one.is_repeated)
        elif one.type == FieldDescriptor.TYPE_BYTES:
            layout[tag] = (_Holds.DATA, None, one.is_repeated)
        elif one.is_repeated and one.type != FieldDescriptor.TYPE_STRING and descriptor.full_name in holders:
            layout[tag] = (_Holds.NUMBERS, None, True)
    return layout


def data_fields(descriptor: Descriptor) -> tuple[int, bool]:
    """How many `bytes` fields a message type has by itself, and whether data may be repeated within it."""
    single = sum(one.type == FieldDescriptor.TYPE_BYTES and not one.is_repeated for one in descriptor.fields)
    nested = [one.message_type for one in descriptor.fields if one.message_type is not None]
    repeated = any(one.type == FieldDescriptor.TYPE_BYTES and one.is_repeated for one in descriptor.fields)
    return single, repeated or any(any(data_fields(inner)) for inner in nested)


def check(message: bytes | bytearray, layout: Layout, bounds: Bounds = USUAL) -> int:
    """Bounds what a message is made of.

    It does not say that protobuf parses the message, but refuses none that protobuf parses, other than for a
    bound or for a group, which no type of proto3 has.

    Args:
        message: its wire format.
        layout: of its type.
        bounds: of its method.

    Returns:
        Bytes of numbers in it.

    Raises:
        ParameterInvalid: it is over one of the bounds above, has a group, or is no protobuf message.
    """
    walk = _Walk(message, bounds)
    walk.enter(0, len(message), layout)
    if len(message) - walk.data - walk.numbers > bounds.framing:
        raise _refused(f"it has more than {bounds.framing} bytes besides its data")
    return walk.numbers


class _Walk:
    def __init__(self, message: bytes | bytearray, bounds: Bounds) -> None:
        self._message = message
        self._bounds = bounds
        self._left = FIELDS
        self.data = 0
        self.numbers = 0

    def enter(self, position: int, end: int, layout: Layout) -> None:
        """Walks over the fields of one message, and over those of the messages in it."""
        message, fields, bounds = self._message, layout, self._bounds
        entries: dict[int, int] = {}
        while position < end:
            self._left -= 1
            if self._left < 0:
                raise _refused(f"it has more than {FIELDS} fields")
            tag = message[position]
            position += 1
            if tag >= 0x80:
                tag, position = self._varint(position - 1, end)
            if not 8 <= tag < 1 << 32:
                raise _refused("a field has no valid number")
            kind = tag & 7
            if kind == _BYTES:
                length, position = self._varint(position, end)
                if length > end - position:
                    raise _refused("a field ends after the message")
                found = fields.get(tag)
                if found is not None:
                    holds, inner, several = found
                    if holds is _Holds.DATA:
                        self.data += length
                    elif holds is _Holds.NUMBERS:
                        self.numbers += length
                        if self.numbers > bounds.numbers:
                            what = f"it has more than {bounds.numbers} bytes as numbers{bounds.advice}"
                            raise _refused(what)
                    elif inner is not None:
                        if several:
                            entries[tag] = count = entries.get(tag, 0) + 1
                            if count > bounds.entries:
                                raise _refused(f"a field has more than {bounds.entries} entries")
                        self.enter(position, position + length, inner)
                position += length
            elif kind == _VARINT:
                _, position = self._varint(position, end)
            elif kind in _FIXED:
                position += _FIXED[kind]
                if position > end:
                    raise _refused("a field ends after the message")
            else:
                raise _refused("it has a field of a kind that is not accepted")

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        """A number of at most ten bytes, and the position after it."""
        message, value, shift = self._message, 0, 0
        while position < end:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position
            shift += 7
            if shift == 70:
                break
        raise _refused("a number in it does not end")


def _refused(why: str) -> ParameterInvalid:
    return ParameterInvalid("message", f"the message is refused: {why}")
