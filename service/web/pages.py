"""Routes beside the API: its document, the metrics, and pages for people, whose files lie in `ui/`.

The pages load nothing from elsewhere and need no key: what they request does.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final

from pydantic_core import to_json
from starlette.responses import Response

from models.errors import ECHO
from service import __version__
from service.errors import NotFound, NotReady
from service.web import jobs, models, tasks
from service.web.negotiation import weighted
from service.web.openapi import document
from service.web.request import Request
from service.web.responses import json_response
from service.web.route import Routes
from service.web.v2 import routes as v2

ROUTES = Routes()

FOLDER: Final = Path(__file__).parent / "ui"
MEDIA: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
}
CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""No inline script, no other host (https://www.w3.org/TR/CSP3/)."""


@ROUTES.add("GET", "/metrics", is_open=True)
async def metrics(request: Request) -> Response:
    """Prometheus text."""
    found = request.service.metrics
    try:
        text = await request.service.scrapes.run(found.render)  # reads the files of every worker
    except TimeoutError as exc:
        raise NotReady("the metrics' files are not read in time") from exc
    return Response(text, media_type=found.content_type)


@cache
def api() -> bytes:
    """The OpenAPI document."""
    return to_json(document([*tasks.ROUTES, *jobs.ROUTES, *models.ROUTES, *v2.ROUTES]))


@ROUTES.add("GET", "/openapi.json", is_open=True)
async def openapi(request: Request) -> Response:
    """The OpenAPI document."""
    return Response(api(), media_type="application/json")


@ROUTES.add("GET", "/", is_open=True)
async def index(request: Request) -> Response:
    """The page for a browser; for others, where to look."""
    if request.service.settings.ui and _wants_html(request.headers.get("accept", "")):
        return _file(request, "index.html")
    places = {"docs": "/docs", "openapi": "/openapi.json", "models": "/v1/models", "metrics": "/metrics"}
    response = json_response({"name": "Lynceus", "version": __version__, **places})
    response.headers["Vary"] = "Accept"
    return response


@ROUTES.add("GET", "/docs", is_open=True)
async def docs(request: Request) -> Response:
    """The API's document for people."""
    return _file(request, "docs.html")


@ROUTES.add("GET", "/ui/{name}", is_open=True)
async def file(request: Request) -> Response:
    """A file of the pages."""
    return _file(request, request.path_params["name"])


def _file(request: Request, name: str) -> Response:
    """
    Raises:
        NotFound: there is no such file.
    """
    if name not in _files():
        raise NotFound(f"there is no file {name[:ECHO]}")
    content, media, tag = _files()[name]
    headers = {
        "ETag": tag,
        "Cache-Control": "no-cache",
        "X-Content-Type-Options": "nosniff",
        "Vary": "Accept",
    }
    if media.startswith("text/html"):
        headers |= {"Content-Security-Policy": CSP, "Referrer-Policy": "no-referrer"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=media, headers=headers)


@cache
def _files() -> dict[str, tuple[bytes, str, str]]:
    """Content, media type and entity tag by name: they are few, and never change while the service runs."""
    found = {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.suffix in MEDIA}
    return {
        name: (content, MEDIA[Path(name).suffix], f'"{sha256(content).hexdigest()[:32]}"')
        for name, content in found.items()
    }


def _wants_html(accept: str) -> bool:
    kinds = dict(weighted(accept))
    return kinds.get("text/html", 0) > kinds.get("application/json", 0)
