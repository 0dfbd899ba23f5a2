"""The seam between the science and the serving: preprocess -> module -> postprocess.

A pipeline binds a network to the preprocessing its weights were trained with. The serving code runs
the three steps in three places (a thread pool, the device, a thread of the device), batches the middle
one and knows nothing else of a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from models.errors import ParameterInvalid

if TYPE_CHECKING:  # the process that verifies weights and starts the workers needs neither
    from torch import Tensor, nn

    from models.image import Image


class Task(StrEnum):
    """What a model is for. The value is the public name in URLs, metrics and model cards."""

    CLASSIFY = "classify"
    DETECT = "detect"
    FACES = "faces"
    EMBED = "embed"
    STYLE = "style"


@dataclass(frozen=True, slots=True)
class Prepared:
    """One item, ready to be stacked into a batch.

    Attributes:
        tensor: uint8, [H, W, 3], RGB. Items of one shape share a batch, so a pipeline gives few shapes.
        context: what `postprocess` needs to undo the geometry and to apply this request's options.
    """

    tensor: NDArray[np.uint8]
    context: Any


@dataclass(frozen=True, slots=True)
class Card:
    """What the public may know of a model (`GET /v1/models/{name}`).

    Attributes:
        name: the public name, unique in the catalogue.
        task: what the model is for.
        licence: SPDX identifier, or words, of the weights.
        sha256: hex digest of the weights file that was loaded.
        labels: class names by index; empty where there are none.
        input: height, width in pixels of the network's input (None where it varies).
        details: anything else worth showing: source, metrics, thresholds.
    """

    name: str
    task: Task
    licence: str
    sha256: str
    labels: tuple[str, ...] = ()
    input: tuple[int, int] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Pipeline(Protocol):
    """One servable model.

    `module` takes a uint8 Tensor[N, H, W, 3] (RGB, 0..255), normalises it itself (so one upload per batch is
    bytes, and the arithmetic is the device's) and returns a Tensor or a tuple of Tensors whose first
    dimension is N. It has no Python branching on data, so that it can be traced, exported and captured.
    It is in eval mode and float32; an executor may change its precision.

    Three attributes are optional. ``exportable`` is False for a module that does branch on data, which then
    runs as plain Torch. ``stages`` are small modules by name that `postprocess` calls itself (MTCNN's second
    and third network, on square float32 crops); an executor may put compiled ones in their place.
    ``any_size``, of `module`, is True where a trace made with one size of picture is right for every other.
    """

    @property
    def card(self) -> Card: ...

    @property
    def module(self) -> nn.Module: ...

    @property
    def shapes(self) -> Sequence[tuple[int, int, int]]:
        """Shapes of `Prepared.tensor` to warm up before the model is ready."""
        ...

    @property
    def min_side(self) -> int | None:
        """Shortest side in pixels that a decoder may reduce a picture to, or None for full resolution."""
        ...

    def preprocess(self, image: Image, options: Any = None) -> Prepared:
        """Runs in a thread pool. `options` is the task's frozen options dataclass; None means defaults.

        Raises:
            ParameterInvalid: an option that this model cannot honour, such as an unknown class name.
        """
        ...

    def postprocess(self, outputs: tuple[Tensor, ...], contexts: Sequence[Any]) -> list[Any]:
        """Runs once per batch, on whatever device the outputs are on; one frozen result per context."""
        ...


@runtime_checkable
class TensorPipeline(Protocol):
    """A pipeline that also takes what its network takes, where that is a plain picture of one fixed size."""

    def prepare_tensor(self, pixels: NDArray[np.uint8], options: Any = None) -> Prepared:
        """uint8 [H, W, 3], RGB, of the shape that `shapes` names; nothing is cropped, resized or turned.

        Raises:
            ParameterInvalid: another shape, or an option as for `Pipeline.preprocess`.
        """
        ...


def check_tensor(pixels: NDArray[np.uint8], shapes: Sequence[tuple[int, int, int]]) -> tuple[int, int, int]:
    """The shape of a network's input, uint8 [H, W, 3].

    Raises:
        ParameterInvalid: it is none of `shapes`, or not of bytes.
    """
    if pixels.shape not in shapes or pixels.dtype != np.uint8:
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise ParameterInvalid(
            "pixels", f"the pixels are {pixels.dtype} {list(pixels.shape)}, not uint8 {wanted}"
        )
    height, width, channels = pixels.shape
    return height, width, channels
