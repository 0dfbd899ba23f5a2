"""Reads the convolutions of a TensorFlow Lite file, without TensorFlow.

The file is a FlatBuffer of `tensorflow/lite/schema/schema.fbs` (identifier ``TFL3``): little-endian, offsets
relative to where they stand. Only what a network of convolutions needs is read: the weights and bias of each
operator, in the order in which they run. Nothing is executed and no offset of the file is trusted.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.errors import WeightsError

_CONV_2D, _DEPTHWISE_CONV_2D = 3, 4  # BuiltinOperator
_FLOAT32 = 0  # TensorType
# fields of the schema's tables, by their order there
_MODEL_CODES, _MODEL_SUBGRAPHS, _MODEL_BUFFERS = 1, 2, 4
_SUBGRAPH_TENSORS, _SUBGRAPH_OPERATORS = 0, 3
_TENSOR_SHAPE, _TENSOR_TYPE, _TENSOR_BUFFER = 0, 1, 2
_OPERATOR_CODE, _OPERATOR_INPUTS = 0, 1
_BUFFER_DATA = 0
_CODE_DEPRECATED, _CODE = 0, 3


@dataclass(frozen=True, slots=True)
class Convolution:
    """An operator that has weights.

    Attributes:
        weight: float32 [outputs, inputs, height, width], as PyTorch has it; [channels, 1, height, width] of a
            depthwise one.
        bias: float32 [outputs].
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


def read_convolutions(path: Path) -> list[Convolution]:
    """Every convolution of the file's first graph, in the order in which they run.

    Raises:
        WeightsError: it is no TensorFlow Lite file, it is cut off, or its weights are not float32.
    """
    try:
        return list(_convolutions(path.read_bytes()))
    except (struct.error, ValueError, IndexError, OSError) as error:
        raise WeightsError(f"{path.name} is no TensorFlow Lite file of float32: {error}") from error


def _convolutions(data: bytes) -> Iterator[Convolution]:
    if data[4:8] != b"TFL3":
        raise ValueError("its identifier is not TFL3")
    model = _Table(data, *struct.unpack_from("<I", data))
    codes = [
        max(code.number(_CODE_DEPRECATED, "b"), code.number(_CODE, "i"))
        for code in model.tables(_MODEL_CODES)
    ]
    buffers = model.tables(_MODEL_BUFFERS)
    graph = model.tables(_MODEL_SUBGRAPHS)[0]
    tensors = graph.tables(_SUBGRAPH_TENSORS)

    def values(index: int) -> NDArray[np.float32]:
        tensor = tensors[index]
        if tensor.number(_TENSOR_TYPE, "b") != _FLOAT32:
            raise ValueError(f"tensor {index} is of another type")
        raw = buffers[tensor.number(_TENSOR_BUFFER, "I")].raw(_BUFFER_DATA)
        return np.frombuffer(raw, "<f4").astype(np.float32).reshape(tensor.integers(_TENSOR_SHAPE))

    for operator in graph.tables(_SUBGRAPH_OPERATORS):
        code = codes[operator.number(_OPERATOR_CODE, "I")]
        if code not in (_CONV_2D, _DEPTHWISE_CONV_2D):
            continue
        _, weight, bias = operator.integers(_OPERATOR_INPUTS)
        # [outputs, height, width, inputs], or [1, height, width, channels]
        order = (3, 0, 1, 2) if code == _DEPTHWISE_CONV_2D else (0, 3, 1, 2)
        yield Convolution(np.ascontiguousarray(values(weight).transpose(order)), values(bias))


class _Table:
    """A table of a FlatBuffer: fields found through its virtual table, absent ones have their default, 0."""

    def __init__(self, data: bytes, place: int) -> None:
        self._data, self._place = data, place
        self._fields = place - struct.unpack_from("<i", data, place)[0]
        if self._fields < 0:
            raise ValueError("a table points outside")
        self._size = struct.unpack_from("<H", data, self._fields)[0]

    def _at(self, field: int) -> int:
        """Where a field's value is, 0 where it is absent."""
        slot = 4 + 2 * field
        if slot >= self._size:
            return 0
        offset = struct.unpack_from("<H", self._data, self._fields + slot)[0]
        return self._place + offset if offset else 0

    def number(self, field: int, kind: str) -> int:
        """A scalar; `kind` as in `struct`."""
        at = self._at(field)
        return int(struct.unpack_from(f"<{kind}", self._data, at)[0]) if at else 0

    def _vector(self, field: int) -> tuple[int, int]:
        """Where a vector's elements begin, and how many there are."""
        at = self._at(field)
        if not at:
            return 0, 0
        begin = at + struct.unpack_from("<I", self._data, at)[0]
        return begin + 4, struct.unpack_from("<I", self._data, begin)[0]

    def raw(self, field: int) -> bytes:
        """A vector of bytes."""
        begin, count = self._vector(field)
        if begin + count > len(self._data):
            raise ValueError("it is cut off")
        return self._data[begin : begin + count]

    def integers(self, field: int) -> list[int]:
        """A vector of int32."""
        begin, count = self._vector(field)
        return [value for (value,) in struct.iter_unpack("<i", self._span(begin, 4 * count))]

    def tables(self, field: int) -> list[_Table]:
        """A vector of tables."""
        begin, count = self._vector(field)
        offsets = [value for (value,) in struct.iter_unpack("<I", self._span(begin, 4 * count))]
        return [_Table(self._data, begin + 4 * place + offset) for place, offset in enumerate(offsets)]

    def _span(self, begin: int, size: int) -> bytes:
        if begin + size > len(self._data):
            raise ValueError("it is cut off")
        return self._data[begin : begin + size]
