"""A network as a file holds it: what goes in, what comes out, and how the executors take it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor, nn

Shape = tuple[int | None, ...]
"""None where a dimension varies."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or an output, as far as the file says.

    Attributes:
        name: the file's; empty where it has none.
        shape: with the batch; None: the file does not say.
        dtype: ``float32``, ``uint8`` and so on; empty: the file does not say.
    """

    name: str
    shape: Shape | None = None
    dtype: str = ""


class Network(ABC):
    """A network in a file.

    Attributes:
        format: what the file is, for cards and messages.
        capturable: whether its module can be captured in a CUDA graph.
        inputs: those that have no default value.
        outputs: in their order; empty: the file does not say.
        metadata: what the exporter wrote beside the network.
        details: more for the card.
    """

    format: ClassVar[str]
    capturable: ClassVar[bool] = True
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...] = ()
    metadata: Mapping[str, str]
    details: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    def output_shapes(self, batch: int, item: Sequence[int], dtype: str) -> list[Shape]:
        """Of every output, with the batch, for inputs [batch, *item].

        Raises:
            WeightsError: the network does not take such an input.
        """

    @abstractmethod
    def module(self) -> nn.Module:
        """As a module: Tensor[N, *item] -> tensors in any nesting; evaluation mode."""

    @abstractmethod
    def openvino(self, batch: int, item: Sequence[int], dtype: str) -> Any:
        """As an `openvino.Model` whose batch is as free as the network's; `batch` is 0 where it is free.

        Raises:
            WeightsError: OpenVINO does not know one of its operations.
        """


def flatten(outputs: Any) -> tuple[Tensor, ...]:
    """Tensors out of tuples, lists and dictionaries, in their order."""
    if isinstance(outputs, Mapping):
        outputs = tuple(outputs.values())
    if isinstance(outputs, tuple | list):
        return tuple(tensor for part in outputs for tensor in flatten(part))
    return (outputs,)


def reason(error: BaseException) -> str:
    """What an error of a library says, as one short line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if not line.startswith(("Exception from", "Check '", "To facilitate"))]
    return " ".join(reasons or lines or [type(error).__name__])[:300]
