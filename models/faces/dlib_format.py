"""A reader of dlib's serialised networks (`dlib/serialize.h`, `dlib/dnn/core.h`, `dlib/dnn/layers.h`).

The format, as far as feed-forward networks need it:

- an integer is one byte, its low four bits the number of bytes that follow and its top bit the sign, then the
  magnitude, little-endian;
- a float is two integers, mantissa and exponent: mantissa * 2 ** exponent; a bool is the character ``1`` or
  ``0``;
- a string is its length (integer), then its bytes;
- a tensor is a version (2), four integers (samples, channels, rows, columns), then float32 little-endian;
- a network is nested types, the loss outermost. Every type writes its version before what it wraps, so a file
  starts with the versions of all layers from the loss inwards (1: a tag or a skip, 2: a layer, 3: the
  innermost layer); then come the input and the layers' own records in the order in which an image passes
  them.

Nothing is executed and no length of the file is trusted: every read is checked against what is left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.errors import WeightsError

_LAYER, _INNERMOST = 2, 3
_MAX_LAYERS = 10_000


@dataclass(frozen=True, slots=True)
class Layer:
    """One computing layer.

    Attributes:
        kind: dlib's name without its version: con, affine, relu, max_pool, avg_pool, add_prev or fc.
        params: float32, flat; a convolution's filters then biases, an affine layer's gamma then beta, a dense
            layer's [inputs, outputs] matrix. Empty where there are none.
        fields: sizes: filters, rows, columns, strides and paddings by name.
    """

    kind: str
    params: NDArray[np.float32]
    fields: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Network:
    """A whole file: the input's mean (RGB) and size (rows, columns), and the layers in forward order."""

    mean: tuple[float, float, float]
    size: tuple[int, int]
    layers: tuple[Layer, ...]


class Reader:
    """A cursor over dlib's primitive types."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._at

    def take(self, count: int) -> memoryview:
        """The next bytes.

        Raises:
            WeightsError: fewer are left.
        """
        if count > self.left:
            raise WeightsError(
                f"the dlib file ends at byte {len(self._data)}, {count - self.left} bytes too early"
            )
        self._at += count
        return self._data[self._at - count : self._at]

    def integer(self) -> int:
        """A signed integer of up to eight bytes."""
        head = self.take(1)[0]
        size = head & 0x0F
        if head & 0x70 or not 1 <= size <= 8:
            raise WeightsError(f"no dlib integer at byte {self._at - 1}")
        value = int.from_bytes(self.take(size), "little")
        return -value if head & 0x80 else value

    def real(self) -> float:
        """A float or a double."""
        mantissa, exponent = self.integer(), self.integer()
        try:
            if abs(exponent) <= 1200:  # beyond 1,126 are dlib's marks of infinities and NaN
                return math.ldexp(float(mantissa), exponent)
        except OverflowError:
            pass
        raise WeightsError(f"no finite dlib float before byte {self._at}")

    def boolean(self) -> bool:
        """A bool."""
        value = bytes(self.take(1))
        if value not in (b"0", b"1"):
            raise WeightsError(f"no dlib bool at byte {self._at - 1}")
        return value == b"1"

    def text(self) -> str:
        """A short ASCII string."""
        size = self.integer()
        if not 0 <= size <= 64:
            raise WeightsError(f"no dlib layer name before byte {self._at}")
        return bytes(self.take(size)).decode("ascii", "replace")

    def version(self, *expected: int) -> int:
        """An integer that must be one of `expected`."""
        value = self.integer()
        if value not in expected:
            raise WeightsError(
                f"version {value} before byte {self._at} of the dlib file is not one of {expected}"
            )
        return value

    def integers(self, *names: str) -> dict[str, int]:
        """As many integers as there are names."""
        return {name: self.integer() for name in names}

    def tensor(self) -> NDArray[np.float32]:
        """A tensor, flat."""
        self.version(2)
        shape = [self.integer() for _ in range(4)]
        if min(shape) < 0:
            raise WeightsError(f"a dlib tensor of shape {shape}")
        raw = self.take(4 * math.prod(shape))
        return np.frombuffer(raw, dtype="<f4").astype(np.float32)

    def alias(self) -> None:
        """The shape of a view into a layer's parameters; the sizes that count are in the layer's fields."""
        self.version(1)
        self.integers("samples", "channels", "rows", "columns")


def read_network(data: bytes) -> Network:
    """Reads a network with a metric loss and a fixed-size RGB input.

    Args:
        data: the file's bytes (dlib 19.3 or later).

    Raises:
        WeightsError: truncated, malformed, or a kind of layer, input or loss that this reader does not know.
    """
    reader = Reader(data)
    reader.version(1)
    _expect(reader, "loss_metric_2")
    reader.real()  # the margin and the distance threshold of the training
    reader.real()
    count = 0
    for _ in range(_MAX_LAYERS):
        version = reader.version(1, _LAYER, _INNERMOST)
        count += version >= _LAYER
        if version == _INNERMOST:
            break
    _expect(reader, "input_rgb_image_sized")
    mean = (reader.real(), reader.real(), reader.real())
    size = (reader.integer(), reader.integer())
    first = _layer(reader)
    reader.version(1)  # the innermost layer ends with the number of tensors per image: one
    layers = (first, *(_layer(reader) for _ in range(count - 1)))
    if reader.left:
        raise WeightsError(f"{reader.left} bytes follow the dlib network")
    return Network(mean, size, layers)


def _expect(reader: Reader, name: str) -> None:
    found = reader.text()
    if found != name:
        raise WeightsError(f"the dlib file holds {found!r} where {name!r} was expected")


def _layer(reader: Reader) -> Layer:
    name = reader.text()
    params = np.zeros(0, dtype=np.float32)
    fields: dict[str, int] = {}
    if name == "con_4":
        params = reader.tensor()
        fields = reader.integers(
            "filters", "rows", "columns", "stride_y", "stride_x", "padding_y", "padding_x"
        )
        _skip_tail(reader)
    elif name == "fc_2":
        fields = reader.integers("outputs", "inputs")
        params = reader.tensor()
        reader.alias()
        reader.alias()
        fields["bias_mode"] = reader.integer()
        for _ in range(4):
            reader.real()
    elif name == "affine_":
        params = reader.tensor()
        reader.alias()
        reader.alias()
        fields = reader.integers("mode")
    elif name in ("max_pool_2", "avg_pool_2"):
        fields = reader.integers("rows", "columns", "stride_y", "stride_x", "padding_y", "padding_x")
    elif name not in ("relu_", "add_prev_"):
        raise WeightsError(f"the dlib file holds a layer {name!r} that is not known here")
    for _ in range(3):  # set up, input gradient stale, output and gradient disabled
        reader.boolean()
    for _ in range(3):  # input gradient, output, parameter gradient: empty after `net.clean()`
        reader.tensor()
    return Layer(name.rstrip("_0123456789"), params, fields)


def _skip_tail(reader: Reader) -> None:
    """A convolution's two views and its four learning-rate and weight-decay multipliers."""
    reader.alias()
    reader.alias()
    for _ in range(4):
        reader.real()
