"""One model as the protocol sees it: its tensors, its parameters, and how a picture goes through it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.pipeline import Card, Prepared
from service.dataplane import Answer, DataPlane, Trace
from service.inference.request import Parameters
from service.inference.tensors import BYTES
from service.runner import Runner

IMAGE: Final = "image"
PIXELS: Final = "pixels"


@dataclass(frozen=True, slots=True)
class Spec:
    """A tensor that a model takes or gives.

    Attributes:
        name, datatype: as the protocol has them.
        dims: its shape without the batch, which comes first; -1 where it varies.
        classes: names of its last dimension's entries, where they are classes to choose the best of.
    """

    name: str
    datatype: str
    dims: tuple[int, ...]
    classes: tuple[str, ...] = ()


class Served(ABC):
    """A runner behind the protocol.

    Encoded pictures come in as `image`. Where the network takes a plain picture of one size, that comes in as
    `pixels`; a request has one of the two.

    Args:
        plane: the data plane.
        runner: of a model.

    Attributes:
        outputs: what it gives.
    """

    outputs: tuple[Spec, ...]

    def __init__(self, plane: DataPlane, runner: Runner) -> None:
        self.plane = plane
        self.runner = runner

    @property
    def card(self) -> Card:
        """The model's public card."""
        return self.runner.card

    @property
    def inputs(self) -> tuple[Spec, ...]:
        """What it takes, one of them at a time."""
        # One dimension besides the batch: perf_analyzer sends no tensor without any.
        image = Spec(IMAGE, BYTES, (1,))
        pipeline = self.runner.pipeline
        if not pipeline.takes_pixels:
            return (image,)
        return image, Spec(PIXELS, "UINT8", tuple(pipeline.shapes[0]))

    @abstractmethod
    def options(self, parameters: Parameters) -> Any:
        """The task's options, of the request's parameters.

        Raises:
            ParameterInvalid: one of them is wrong.
        """

    @abstractmethod
    def collect(self, results: Sequence[Any]) -> Mapping[str, NDArray[Any] | Sequence[bytes]]:
        """The pictures' results by output: arrays, the batch first, or the elements of BYTES."""

    async def picture(self, data: bytes, options: Any, deadline: float) -> Answer[Any]:
        """The result of an encoded picture. Raises as `DataPlane.infer` does."""
        return await self.plane.infer(self.runner, data, options, deadline)

    async def tensor(self, pixels: NDArray[np.uint8], options: Any, deadline: float) -> Answer[Any]:
        """The result of what the network itself takes, uint8 [H, W, 3]; batched with the others' pictures."""
        pipeline = self.runner.pipeline
        with self.runner.admit():
            prepared = pipeline.prepare_tensor(pixels, options)

            def ready() -> Prepared:
                return prepared

            # where the others' pictures are prepared late, this one is too, or it would share no batch
            done = await self.runner.run(ready if self.plane.inline else prepared, deadline)
        trace = Trace(0.0, done.queue_s, done.compute_s, done.batch_size)
        return Answer(self.card.name, done.result, trace)


def table(rows: Sequence[Any], *dims: int) -> NDArray[np.float32]:
    """Rows of numbers -> float32 [k, *dims], with these dimensions even if there are none."""
    return np.array(rows, np.float32).reshape(len(rows), *dims)


def padded(rows: Sequence[NDArray[Any]], fill: float = 0) -> NDArray[Any]:
    """Arrays [k, ...] with a k of each -> [N, largest k, ...], what is missing filled up."""
    longest = max((len(row) for row in rows), default=0)
    together = np.full((len(rows), longest, *rows[0].shape[1:]), fill, rows[0].dtype)
    for index, row in enumerate(rows):
        together[index, : len(row)] = row
    return together


def counts(rows: Sequence[Sequence[Any]]) -> NDArray[np.int64]:
    """How many of each are no padding."""
    return np.array([len(row) for row in rows], np.int64)
