"""Routes beside the API: its document, the pages that show it, and the metrics."""

from __future__ import annotations

import asyncio
from functools import cache

from pydantic_core import to_json
from starlette.responses import Response

from service.web import jobs, models, tasks
from service.web.openapi import document
from service.web.request import Request
from service.web.route import Routes
from service.web.v2 import routes as v2

ROUTES = Routes()


@ROUTES.add("GET", "/metrics", is_open=True)
async def metrics(request: Request) -> Response:
    """Prometheus text."""
    found = request.service.metrics
    text = await asyncio.to_thread(found.render)  # reads the files of every worker
    return Response(text, media_type=found.content_type)


@cache
def api() -> bytes:
    """The OpenAPI document."""
    return to_json(document([*tasks.ROUTES, *jobs.ROUTES, *models.ROUTES, *v2.ROUTES]))


@ROUTES.add("GET", "/openapi.json", is_open=True)
async def openapi(request: Request) -> Response:
    """The OpenAPI document."""
    return Response(api(), media_type="application/json")


@ROUTES.add("GET", "/docs", is_open=True)
@ROUTES.add("GET", "/redoc", is_open=True)
async def docs(request: Request) -> Response:
    """A page that shows the document."""
    from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html

    page = get_redoc_html if request.scope["path"] == "/redoc" else get_swagger_ui_html
    return page(openapi_url="/openapi.json", title="Lynceus")
