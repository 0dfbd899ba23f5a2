"""A request for an inference and its answer, as both transports understand them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pydantic import BaseModel, ConfigDict

from models.errors import ParameterInvalid, echoed
from service.oip.tensors import InputTensor, Tensor

Value = bool | int | float | str

# What clients of the protocol may add and a stateless model ignores.
_IGNORED: Final = ("sequence_", "triton_")

PARAMETERS: Final = 64
"""Most parameters of a request."""

LENGTH: Final = 16 * 1024
"""Most characters of one, for a list of all the classes there are."""


def take_parameters(given: Mapping[str, Value]) -> dict[str, Value]:
    """A request's parameters without those that a stateless model ignores.

    Raises:
        ParameterInvalid: there are too many, or one is too long.
    """
    if len(given) > PARAMETERS:
        raise ParameterInvalid("parameters", f"{len(given)} parameters; at most {PARAMETERS}")
    for name, value in given.items():
        if isinstance(value, str) and len(value) > LENGTH:
            raise ParameterInvalid(name, f"{echoed(name)} has {len(value)} characters; at most {LENGTH}")
    return {key: value for key, value in given.items() if not key.startswith(_IGNORED)}


class OutputParameters(BaseModel):
    """How an output is given: in binary (over HTTP); the best classes as text in place of the numbers."""

    model_config = ConfigDict(strict=True)
    binary_data: bool | None = None
    classification: int | None = None


@dataclass(frozen=True, slots=True)
class InferRequest:
    """What a client asks for.

    Attributes:
        inputs: in the order in which they came.
        outputs: by name, each with the number of its best classes to give as text instead of its numbers, or
            None; none means all but those that are given only where they are named.
        parameters: of the request.
        id: comes back in the answer.
    """

    inputs: Sequence[InputTensor]
    outputs: Sequence[tuple[str, int | None]] = ()
    parameters: Mapping[str, Value] = field(default_factory=dict)
    id: str = ""


@dataclass(frozen=True, slots=True)
class InferResponse:
    """The answer: the outputs in the order in which they were asked for."""

    model: str
    version: str
    id: str
    outputs: Sequence[Tensor]
