"""`/v1/stylize` and `/v1/styles`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from models.errors import ParameterInvalid
from models.style.result import StyleOptions
from service.web.answers import json_answer, picture_answer, wanted_picture
from service.web.call import begin, while_connected
from service.web.house import Home
from service.web.intake import NEEDS_BODY
from service.web.schemas import StyleOut, StylesOut

router = APIRouter(prefix="/v1", tags=["style"])
PICTURE: dict[int | str, dict[str, object]] = {200: {"content": {"image/jpeg": {}}}}


@router.post("/stylize", response_class=Response, responses=PICTURE, openapi_extra=NEEDS_BODY)
async def stylize(
    request: Request,
    house: Home,
    style: Annotated[str | None, Query(description="a style's name; the first if left out")] = None,
    strength: Annotated[float, Query(ge=0, le=1, description="0: the picture itself; 1: the style")] = 1.0,
    model: Annotated[str | None, Query(description="a served style network; the default one")] = None,
) -> Response:
    """One image in a style, at its own size: JPEG, or what `Accept` asks for (PNG, WebP)."""
    call = begin(request)
    deadline = house.deadline(request)
    images = (await house.images(request, "image"))["image"]
    if len(images) > 1:
        raise ParameterInvalid("image", f"{len(images)} images; send one to be stylised")
    kind = wanted_picture(request, by_default="jpeg") or "jpeg"
    async with while_connected(request):
        answer = await house.styles.stylise(
            images[0], StyleOptions(style, strength), kind, model=model, deadline=deadline
        )
    call.trace = answer.trace
    return picture_answer(answer.result[0], kind)


@router.get("/styles", response_model=StylesOut)
async def styles(house: Home) -> Response:
    """Every style that can be asked for."""
    return json_answer(
        StylesOut(
            styles=[
                StyleOut(
                    name=style.name,
                    title=style.title,
                    artist=style.artist,
                    thumbnail=f"/v1/styles/{style.name}/thumbnail" if style.thumbnail else None,
                )
                for style in house.styles.all_styles()
            ]
        )
    )


@router.get("/styles/{name}/thumbnail", response_class=Response, responses=PICTURE)
async def thumbnail(name: Annotated[str, Path(description="a style's name")], house: Home) -> Response:
    """A small picture (JPEG) of the painting."""
    return picture_answer(house.styles.thumbnail(name), "jpeg")
