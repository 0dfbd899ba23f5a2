"""The parameters of a request to a model: names, bounds, defaults and descriptions, each in one place.

A task of the service extends these models by what concerns its transports alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from models.errors import ECHO, ParameterInvalid, echoed

M = TypeVar("M", bound=BaseModel)
SEPARATOR = "."
"""Between the names of a group of parameters and of one of them, where they stand in one list."""


class Parameters(BaseModel):
    """Base of a task's parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """The parameters that a request gives; numbers may come as text.

        Raises:
            ParameterInvalid: one is unknown, of another type or out of its range; names the first.
        """
        for name, value in given.items():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field is not None and "bool" not in str(field.annotation):
                raise ParameterInvalid(name, f"{name}: Input should not be true or false")
        return checked(cls, given)


@cache
def groups(kind: type[Parameters]) -> dict[str, type[Parameters]]:
    """The fields of a kind of parameters that are parameters themselves: of a task that runs others."""
    annotations = {name: field.annotation for name, field in kind.model_fields.items()}
    return {
        name: inner
        for name, inner in annotations.items()
        if isinstance(inner, type) and issubclass(inner, Parameters)
    }


def collected(kind: type[Parameters], pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Names and values as `Parameters.of` takes them: a name that comes again makes a list, ``group.name``
    stands in its group.

    Raises:
        ParameterInvalid: a group has a value of its own.
    """
    inner, found = groups(kind), dict[tuple[str, ...], list[Any]]()
    for name, value in pairs:
        group, separator, own = name.partition(SEPARATOR)
        if name in inner:
            raise ParameterInvalid(name, f"{name} is a group of parameters, as {name}{SEPARATOR}model is one")
        found.setdefault((group, own) if separator and group in inner else (name,), []).append(value)
    given: dict[str, Any] = {}
    for path, values in found.items():
        place = given if len(path) == 1 else given.setdefault(path[0], {})
        place[path[-1]] = values[0] if len(values) == 1 else values
    return given


def properties(kind: type[Parameters], prefix: str = "") -> dict[str, dict[str, Any]]:
    """What JSON Schema says of each parameter, without references; those in groups as ``group.name``."""
    inner, schema = groups(kind), kind.model_json_schema()
    found: dict[str, dict[str, Any]] = {}
    for name, one in schema["properties"].items():
        if name in inner:
            found |= properties(inner[name], f"{prefix}{name}{SEPARATOR}")
        else:
            named = schema["$defs"][one["$ref"].rpartition("/")[2]] if "$ref" in one else {}
            one = named | {key: value for key, value in one.items() if key != "$ref"}
            found[f"{prefix}{name}"] = one
    return found


def checked(kind: type[M], given: Any) -> M:
    """What a request gives, as a model.

    Args:
        kind: the model.
        given: its fields by name, or their JSON text as bytes.

    Raises:
        ParameterInvalid: the first field that does not fit, by its path.
    """
    try:
        return kind.model_validate_json(given) if isinstance(given, bytes) else kind.model_validate(given)
    except ValidationError as error:
        raise _refused(kind, error) from None


def checked_parts(kind: type[M], values: Mapping[str, Any], texts: Mapping[str, bytes]) -> M:
    """The same of fields that come one by one, as a form has them.

    Args:
        kind: the model.
        values: some of its fields by name.
        texts: others of its fields by name, each as JSON text.

    Raises:
        ParameterInvalid: as `checked` does.
    """
    found = dict(values)
    for name, text in texts.items():
        try:
            found[name] = _adapter(kind, name).validate_json(text)
        except ValidationError as error:
            raise _refused(kind, error, name) from None
    return checked(kind, found)


@cache
def _adapter(kind: type[BaseModel], name: str) -> TypeAdapter[Any]:
    field = kind.model_fields[name]
    of_field: Any = Annotated[field.annotation, field]
    return TypeAdapter(of_field)


def _refused(kind: type[BaseModel], error: ValidationError, *within: str) -> ParameterInvalid:
    """The first of a model's errors, by the path of its field."""
    first = error.errors(include_url=False, include_input=False)[0]
    path = (*within, *first["loc"])
    if issubclass(kind, Parameters):
        path = path[: 2 if path[0] in groups(kind) else 1]
    name = ".".join(str(part) for part in path)[:ECHO] or "body"
    if first["type"] == "extra_forbidden" and issubclass(kind, Parameters):
        return ParameterInvalid(name, _unknown(kind, path))
    return ParameterInvalid(name, f"{name}: {first['msg']}")


def _unknown(kind: type[Parameters], path: tuple[str | int, ...]) -> str:
    """What is wrong with a name that no parameter has, and which has nearly the same."""
    *group, name = map(str, path)
    known = list((groups(kind)[group[0]] if group else kind).model_fields)
    near = get_close_matches(name[:ECHO], known, 1)
    there = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known) or 'none'}"
    return f"there is no parameter {echoed(SEPARATOR.join((*group, name)))}; {there}"
