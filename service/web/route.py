"""A route as a value: what answers it, and what the API's document says of it."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from starlette.responses import Response

from models.parameters import Parameters
from models.pipeline import Kind
from service.web.request import Request

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]
Headers = Mapping[str, tuple[str, str, Any]]
"""Description, JSON type and example of each, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One route.

    Attributes:
        method, path: that it answers; ``{name}`` in the path stands for a text without slashes.
        handle: gives the answer.
        name: of the operation.
        about: what it does.
        tag: its group in the document; empty: it is left out.
        task: label of metrics, where a model computes: such a request has a deadline, its answer a timing.
        is_open: it needs no key.
        status: of the good answer.
        answer: type of the JSON answer, a message of the Open Inference Protocol, or None.
        example: of that answer.
        media: types of other answers.
        errors: that it gives besides those of a missing key.
        params: of the query.
        models: those of them, or of the path, that name a model -> its kind.
        image_first: of JSON and an image, the image is what it answers if not asked.
        body: OpenAPI's request body.
        takes, gives: headers of the request and of the good answer, besides those of every route.
    """

    method: str
    path: str
    handle: Handler
    name: str
    about: str
    tag: str = ""
    task: str | None = None
    is_open: bool = False
    status: int = 200
    answer: Any = None
    example: Any = None
    media: Iterable[str] = ()
    errors: tuple[type[Exception], ...] = ()
    params: type[Parameters] | None = None
    models: Mapping[str, Kind] = field(default_factory=dict)
    image_first: bool = False
    body: Mapping[str, Any] | None = None
    takes: Headers = field(default_factory=dict)
    gives: Headers = field(default_factory=dict)


class Routes(list[Route]):
    """The routes of a module."""

    def add(self, method: str, path: str, **others: Any) -> Callable[[Handler], Handler]:
        """Registers a handler: its name and docstring are the route's; `others` as of `Route`."""

        def register(handle: Handler) -> Handler:
            name = handle.__name__ + ("_of_version" if "{version}" in path else "")
            about = inspect.getdoc(handle) or ""
            self.append(Route(method=method, path=path, handle=handle, name=name, about=about, **others))
            return handle

        return register


def is_plain(path: str) -> bool:
    """Whether a path is of the Open Inference Protocol."""
    return path == "/v2" or path.startswith("/v2/")
