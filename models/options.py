"""Options of a catalogue entry: a table of TOML -> the builder's own dataclass, checked in one place."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from models.errors import WeightsError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


@dataclass(frozen=True, slots=True)
class NoOptions:
    """Of a builder that has none."""


def read_options(kind: type[T], given: Mapping[str, Any]) -> T:
    """Makes a builder's options from an entry's.

    Args:
        kind: a dataclass whose fields all have defaults. Their types may be bool, int, float, str, tuples of
            these (lists in TOML) and unions with None. It raises ValueError for a value out of its range.
        given: option -> value, as parsed from TOML.

    Raises:
        WeightsError: an option that `kind` does not have (the message names those that it has), a value of
            another type, or one out of its range.
    """
    known = sorted(field.name for field in fields(kind))
    if unknown := sorted(given.keys() - set(known)):
        raise WeightsError(f"unknown options {unknown}; known: {', '.join(known) or 'none'}")
    hints = get_type_hints(kind)
    try:
        return kind(**{name: _typed(f"options.{name}", value, hints[name]) for name, value in given.items()})
    except ValueError as error:
        raise WeightsError(str(error)) from error


def check_range(name: str, value: float, low: float, high: float) -> None:
    """For the dataclasses' own checks.

    Raises:
        ValueError: the option `name` is not from `low` to `high`.
    """
    if not low <= value <= high:  # NaN fails too
        raise ValueError(f"options.{name} is {value!r}, not from {low} to {high}")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """For the dataclasses' own checks.

    Raises:
        ValueError: the option `name` is none of `choices`.
    """
    if value not in choices:
        known = ", ".join(choice for choice in choices if choice)
        raise ValueError(f"options.{name} is {value!r}, none of {known}")


def _typed(name: str, value: Any, hint: Any) -> Any:
    """`value` as `hint` has it: integers as floats, lists as tuples."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, Union):
        (hint,) = (argument for argument in arguments if argument is not types.NoneType)
        return _typed(name, value, hint)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{name} is {value!r}, not a list")
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) != len(value):
            raise ValueError(f"{name} is {value!r}, not a list of {len(kinds)}")
        return tuple(_typed(name, item, kind) for item, kind in zip(value, kinds, strict=True))
    if hint is float and type(value) is int:
        return value
    if type(value) is not hint:
        raise ValueError(f"{name} is {value!r}, not a {hint.__name__}")
    return value
