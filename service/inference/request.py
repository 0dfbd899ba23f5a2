"""A request for an inference and its answer, as both doors understand them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from models.errors import ParameterInvalid, echoed
from service.dataplane import Trace
from service.inference.tensors import Given, Tensor

Value = bool | int | float | str

# What clients of the protocol may add and a stateless model has no use for.
_IGNORED: Final = ("sequence_", "triton_")

PARAMETERS: Final = 64
"""Most parameters of a request."""

LENGTH: Final = 16 * 1024
"""Most characters of one, for a list of all the classes there are."""


class Parameters:
    """A request's parameters, taken one by one; what nobody takes is unknown.

    Numbers may come as text: some clients know no other type for a fraction.

    Raises:
        ParameterInvalid: there are too many, or one is too long.
    """

    def __init__(self, given: Mapping[str, Value]) -> None:
        if len(given) > PARAMETERS:
            raise ParameterInvalid("parameters", f"{len(given)} parameters; at most {PARAMETERS}")
        for name, value in given.items():
            if isinstance(value, str) and len(value) > LENGTH:
                raise ParameterInvalid(name, f"{echoed(name)} has {len(value)} characters; at most {LENGTH}")
        self._given = {key: value for key, value in given.items() if not key.startswith(_IGNORED)}
        self._known: list[str] = []

    def number(self, name: str) -> float | None:
        """
        Raises:
            ParameterInvalid: it is there and no number.
        """
        value = self._take(name)
        if value is None:
            return None
        try:
            if not isinstance(value, bool):
                return float(value)
        except (ValueError, OverflowError):
            pass
        raise ParameterInvalid(name, f"{name} must be a number")

    def integer(self, name: str) -> int | None:
        """
        Raises:
            ParameterInvalid: it is there and no whole number.
        """
        value = self._take(name)
        if value is None:
            return None
        try:
            if not isinstance(value, bool) and (not isinstance(value, float) or value.is_integer()):
                whole = int(value)
                if -(2**63) <= whole < 2**63:
                    return whole
        except ValueError:
            pass
        raise ParameterInvalid(name, f"{name} must be a whole number")

    def flag(self, name: str) -> bool | None:
        """
        Raises:
            ParameterInvalid: it is there and neither true nor false.
        """
        value = self._take(name)
        if value is None or isinstance(value, bool):
            return value
        raise ParameterInvalid(name, f"{name} must be true or false")

    def text(self, name: str) -> str | None:
        """
        Raises:
            ParameterInvalid: it is there and no text.
        """
        value = self._take(name)
        if value is None or isinstance(value, str):
            return value
        raise ParameterInvalid(name, f"{name} must be text")

    def finish(self) -> None:
        """
        Raises:
            ParameterInvalid: a parameter is left that nobody has taken.
        """
        for name in self._given:
            raise ParameterInvalid(
                name, f"there is no parameter {echoed(name)}; there are: {', '.join(sorted(self._known))}"
            )

    def _take(self, name: str) -> Value | None:
        self._known.append(name)
        return self._given.pop(name, None)


@dataclass(frozen=True, slots=True)
class Wanted:
    """An output that is asked for.

    Attributes:
        name: the output's.
        classes: the k best of its classes as text instead of its numbers; None: the numbers.
    """

    name: str
    classes: int | None = None


@dataclass(frozen=True, slots=True)
class InferRequest:
    """What a client wants.

    Attributes:
        model, version: whom it asks; an empty version is the only one there is.
        inputs: in the order in which they came.
        outputs: none means all.
        parameters: of the request.
        id: comes back in the answer.
    """

    model: str
    version: str
    inputs: Sequence[Given]
    outputs: Sequence[Wanted] = ()
    parameters: Mapping[str, Value] = field(default_factory=dict)
    id: str = ""


@dataclass(frozen=True, slots=True)
class InferResponse:
    """What it gets: the outputs in the order in which they were asked for, and the slowest picture's way."""

    model: str
    version: str
    id: str
    outputs: Sequence[Tensor]
    trace: Trace
