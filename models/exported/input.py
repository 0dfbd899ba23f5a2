"""A network's input and outputs, from the file and the catalogue together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.errors import WeightsError
from models.exported.network import Network, Shape
from models.exported.options import CHANNELS, DTYPES, InputOptions


@dataclass(frozen=True, slots=True)
class Input:
    """A network's input, from the file and the catalogue together.

    Attributes:
        height, width, channels: of an image.
        layout: ``nchw`` or ``nhwc``.
        dtype: of its elements.
        batch: 0: any number of images.
    """

    height: int
    width: int
    channels: int
    layout: str
    dtype: str
    batch: int

    @property
    def item(self) -> tuple[int, int, int]:
        """An image's shape as the network has it."""
        if self.layout == "nchw":
            return self.channels, self.height, self.width
        return self.height, self.width, self.channels


def resolve(network: Network, options: InputOptions) -> Input:
    """The network's input.

    Raises:
        WeightsError: the catalogue says another thing than the file, or neither says it; names the key.
    """
    info, channels = network.inputs[0], CHANNELS[options.colour]
    shape = info.shape
    if shape is not None and len(shape) != 4:
        raise WeightsError(f"the input {info.name!r} is {shown(shape)}, not of four dimensions (images)")
    layout = options.layout or likely_layout(shape)
    order = (0, 2, 3, 1) if layout == "nchw" else (0, 1, 2, 3)
    batch, height, width, depth = (None,) * 4 if shape is None else tuple(shape[index] for index in order)
    if depth not in (None, channels):
        raise WeightsError(
            f"options.colour is {options.colour} ({channels} channels), but the input {info.name!r} is "
            f"{shown(shape)} ({layout}: {depth} channels)"
        )
    sides = options.size or (height, width)
    if None in sides:
        raise WeightsError("options.size is missing, [height, width]: the file does not say it")
    for said, asked in ((height, sides[0]), (width, sides[1])):
        if said not in (None, asked):
            raise WeightsError(
                f"options.size is {list(options.size)}, but the input {info.name!r} is {shown(shape)}"
            )
    dtype = options.dtype or info.dtype or "float32"
    if info.dtype not in ("", dtype):
        raise WeightsError(f"options.dtype is {dtype}, but the input {info.name!r} is {info.dtype}")
    if dtype not in DTYPES:
        raise WeightsError(f"the input {info.name!r} is {dtype}, not float32, float16 or uint8")
    if dtype == "uint8" and (options.scale, *options.mean, *options.std) != (255.0, 0.0, 1.0):
        raise WeightsError("options.scale, mean and std do not apply: the network takes uint8")
    if options.batch and batch not in (None, options.batch):
        raise WeightsError(f"options.batch is {options.batch}, but the input {info.name!r} is {shown(shape)}")
    return Input(int(sides[0] or 0), int(sides[1] or 0), channels, layout, dtype, options.batch or batch or 0)


def likely_layout(shape: Shape | None) -> str:
    """Of an input of this shape: the channels are one or three; ``nchw`` where that does not tell."""
    last = shape is not None and len(shape) == 4 and shape[3] in (1, 3) and shape[1] not in (1, 3)
    return "nhwc" if last else "nchw"


def shown(shape: Sequence[int | None] | None) -> str:
    return "unknown" if shape is None else f"[{', '.join('N' if n is None else str(n) for n in shape)}]"


class Outputs:
    """A network's outputs: names, and shapes without the batch; `asked`: those that the catalogue names."""

    def __init__(self, network: Network, given: Input, options: InputOptions) -> None:
        rows = given.batch or 2
        try:
            shapes = network.output_shapes(rows, given.item, given.dtype)
        except WeightsError as error:
            if given.batch:
                raise
            raise WeightsError(
                f"{error} (options.batch is the number of images that it takes, where that is fixed)"
            ) from error
        self.names = [info.name for info in network.outputs] or [str(index) for index in range(len(shapes))]
        self.shapes = [shape[1:] for shape in shapes]
        self.asked = tuple(self.index(wanted, "outputs") for wanted in options.outputs)
        for index in self.asked or range(len(shapes)):
            if (shape := shapes[index])[:1] not in ((rows,), (None,)):
                name = self.names[index]
                raise WeightsError(
                    f"the output {name!r} is {shown(shape)} for {rows} images, not [{rows}, ...]: "
                    "set options.batch to the number of images that the network was exported for, or "
                    "options.outputs to those that are read"
                )

    def index(self, wanted: str, option: str) -> int:
        """Which output a name or a number is.

        Raises:
            WeightsError: there is none; names the option.
        """
        names = self.names
        index = names.index(wanted) if wanted in names else int(wanted) if wanted.isdecimal() else -1
        if not 0 <= index < len(names):
            raise WeightsError(f"options.{option} names {wanted!r}; there are: {', '.join(names)}")
        return index

    def described(self) -> str:
        """All, for messages."""
        return ", ".join(
            f"{name} {shown((None, *shape))}" for name, shape in zip(self.names, self.shapes, strict=True)
        )

    def vector(self, index: int | None = None) -> tuple[int, int]:
        """An output that is a vector, by default the one of a classifier or an embedder, and its length.

        Raises:
            WeightsError: it is of another shape.
        """
        if index is None:
            index = (self.asked or (0,))[0]
        shape = [size for size in self.shapes[index] if size != 1]
        if len(shape) != 1 or shape[0] is None:
            raise WeightsError(
                f"a classifier or an embedder has an output [N, length], the file has {self.described()}"
            )
        return index, shape[0]
