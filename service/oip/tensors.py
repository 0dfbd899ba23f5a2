"""The protocol's tensors: its datatypes, and how they lie in bytes.

Binary data is little-endian and row-major without gaps; a BYTES element is its length in four bytes and then
its bytes (Triton's binary tensor data extension).
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import ECHO, ImageInvalid, ParameterInvalid, echoed
from service.encoded import from_base64

BYTES: Final = "BYTES"
DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""NumPy's types by the protocol's names; BYTES has none, and nothing here takes BF16."""

DEPTH: Final = 8
"""Most dimensions of a tensor, and most lists in each other."""

LIGHT: Final = 64 * 1024
"""Bytes in text that are read in the event loop; of binary data, which is only copied, 16 times as many."""

Raw = bytes | memoryview


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """An output.

    Attributes:
        name, datatype, shape: as the protocol has them.
        values: of the datatype's NumPy type and of this shape; of BYTES the elements in row-major order.
        encoded: the elements of BYTES are no text; JSON has them in base64.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: NDArray[Any] | Sequence[bytes]
    encoded: bool = False

    @property
    def size(self) -> int:
        """Bytes of its values."""
        if isinstance(self.values, np.ndarray):
            return self.values.nbytes
        return sum(map(len, self.values))

    def raw(self) -> bytes:
        """Its binary form."""
        if isinstance(self.values, np.ndarray):
            return np.ascontiguousarray(self.values, DTYPES[self.datatype]).tobytes()
        return join_bytes(self.values)

    def flat(self) -> list[Any]:
        """Its values in row-major order, as JSON has them."""
        if isinstance(self.values, np.ndarray):
            flat: list[Any] = self.values.ravel().tolist()
            return flat
        if self.encoded:
            return [base64.b64encode(element).decode() for element in self.values]
        return [element.decode() for element in self.values]


@dataclass(frozen=True, slots=True, eq=False)
class InputTensor:
    """An input as received: its datatype and shape are checked before its data is read.

    Attributes:
        name, datatype, shape: as the client states them.
        data: its binary form; or a list of values, nested or flat (JSON); or protobuf's values (gRPC), which
            are of one type. An element of BYTES in a list is base64 text, as JSON has no bytes.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Raw | Sequence[Any]

    def elements(self) -> list[bytes]:
        """The elements of a BYTES tensor.

        Raises:
            ParameterInvalid: the data does not have as many as the shape says.
            ImageInvalid: an element in JSON is not base64.
        """
        count = math.prod(self.shape)
        if isinstance(self.data, Raw):
            try:
                return split_bytes(self.data, count)
            except ValueError as exc:
                raise self._wrong(str(exc)) from None
        flat, _ = self._flat(regular=False)
        if len(flat) != count:
            raise self._wrong(f"{len(flat)} elements, but the shape {list(self.shape)} has {count}")
        return [self._element(element, index) for index, element in enumerate(flat)]

    def array(self) -> NDArray[Any]:
        """The values of a tensor of any other datatype, of its shape.

        Raises:
            ParameterInvalid: as many bytes or values as the shape says are not there, or the values are not
                of the datatype.
        """
        dtype, count = DTYPES[self.datatype], math.prod(self.shape)
        if isinstance(self.data, Raw):
            if len(self.data) != count * dtype.itemsize:
                raise self._wrong(
                    f"{len(self.data)} bytes, but {self.datatype} {list(self.shape)} "
                    f"has {count * dtype.itemsize}"
                )
            return np.frombuffer(self.data, dtype).reshape(self.shape)
        flat: Sequence[Any] = self.data
        if isinstance(flat, list):
            # checked before there is an array: one long string would make all the others as long
            flat, kinds = self._flat(regular=True)
            if not kinds <= {int, float, bool}:
                raise self._wrong(f"values that are not {self.datatype}")
        try:  # in parts, so that the event loop gets the interpreter's lock between them
            parts = [np.asarray(flat[at : at + LIGHT]) for at in range(0, len(flat), LIGHT)]
        except OverflowError:
            raise self._wrong("numbers out of range") from None
        values = np.concatenate(parts) if parts else np.empty(0)
        if values.size != count:
            raise self._wrong(f"{values.size} values, but the shape {list(self.shape)} has {count}")
        if not _fits(values, dtype):
            raise self._wrong(f"values that are not {self.datatype}")
        return values.astype(dtype).reshape(self.shape)

    @property
    def light(self) -> bool:
        """Whether reading it takes less than a millisecond, however it contradicts its shape."""
        if isinstance(self.data, Raw):
            return len(self.data) <= 16 * LIGHT
        if len(self.data) > 64 or any(isinstance(one, list) for one in self.data):
            return False
        return sum(len(one) for one in self.data if isinstance(one, str | bytes)) <= LIGHT

    def _flat(self, *, regular: bool) -> tuple[Sequence[Any], set[type]]:
        """The values of nested lists in row-major order, and their types.

        Args:
            regular: refuse lists of different lengths beside each other.
        """
        flat: Sequence[Any] = self.data
        for _ in range(DEPTH + 1):
            kinds = set(map(type, flat))
            if list not in kinds:
                return flat, kinds
            if len(kinds) > 1 or (regular and len(set(map(len, flat))) > 1):
                break
            flat = list(chain.from_iterable(flat))
        raise self._wrong(f"lists of different lengths, or deeper than {DEPTH}")

    def _element(self, element: object, index: int) -> bytes:
        if isinstance(element, bytes):
            return element
        if not isinstance(element, str):
            raise self._wrong("elements must be text in base64")
        try:
            return from_base64(element)
        except ValueError:
            raise ImageInvalid(f"{self.name[:ECHO]}[{index}] is not valid base64") from None

    def _wrong(self, what: str) -> ParameterInvalid:
        return ParameterInvalid(self.name, f"the data of the input {echoed(self.name)}: {what}")


def split_bytes(data: Raw, count: int) -> list[bytes]:
    """The `count` elements of a BYTES tensor's binary form.

    Raises:
        ValueError: it has fewer or more, or ends within one.
    """
    elements: list[bytes] = []
    position, end = 0, len(data)
    while position < end:
        if len(elements) == count:
            raise ValueError(f"more than the {count} elements that the shape has")
        if end - position < 4:
            raise ValueError(f"it ends within the length of element {len(elements)}")
        (length,) = struct.unpack_from("<I", data, position)
        position += 4
        if length > end - position:
            raise ValueError(
                f"element {len(elements)} claims {length} bytes, but {end - position} are left "
                "(each element is its length in four bytes, little-endian, and then its bytes)"
            )
        elements.append(bytes(data[position : position + length]))
        position += length
    if len(elements) != count:
        raise ValueError(f"{len(elements)} elements, but the shape has {count}")
    return elements


def join_bytes(elements: Sequence[bytes]) -> bytes:
    """The binary form of a BYTES tensor."""
    return b"".join(part for element in elements for part in (struct.pack("<I", len(element)), element))


def _fits(values: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    """Whether numbers as they were written are of a datatype: whole ones in range, or any for a float."""
    if dtype.kind == "b" or values.dtype.kind == "b":
        return dtype.kind == values.dtype.kind
    if dtype.kind == "f":
        return values.dtype.kind in "iuf"
    if values.size == 0:
        return True
    limits = np.iinfo(dtype)
    return values.dtype.kind in "iu" and bool(
        int(values.min()) >= limits.min and int(values.max()) <= limits.max
    )
