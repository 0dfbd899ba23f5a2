"""`/v1/models` and `/v1/styles`: what is served."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from models.errors import ModelUnknown, StyleUnknown
from service import cards
from service.cards import ModelDetailAnswer, ModelsAnswer, StylesAnswer
from service.web.context import State
from service.web.openapi import documented
from service.web.responses import image_response, json_response

router = APIRouter(prefix="/v1")
Model = Annotated[str, Path(description="a served model's name")]

MODEL = {
    "name": "lenet5",
    "task": "classify",
    "default": False,
    "ready": True,
    "executor": "openvino",
    "device": "cpu",
    "precision": "float32",
    "sha256": "6aa8fa77f92ba2fd3be14dca68f8b8fc0dee1dfa124807908e253975cd087394",
    "licence": "Apache-2.0",
    "input": {"width": 32, "height": 32},
}
DETAIL = MODEL | {"labels": [*"0123456789"], "details": {"architecture": "LeNet-5"}}
STYLES = {
    "styles": [
        {
            "name": "great_wave",
            "title": "The Great Wave off Kanagawa",
            "artist": "Katsushika Hokusai",
            "thumbnail": "/v1/styles/great_wave/thumbnail",
        }
    ]
}


@router.get(
    "/models", response_model=ModelsAnswer, tags=["models"], **documented(example={"models": [MODEL]})
)
async def models(service: State) -> Response:
    """Every model that is served."""
    return json_response(cards.models_answer(service.engine))


@router.get(
    "/models/{name}",
    response_model=ModelDetailAnswer,
    tags=["models"],
    **documented(ModelUnknown, example=DETAIL),
)
async def model(name: Model, service: State) -> Response:
    """One model's card."""
    return json_response(cards.model_detail(service.engine, name))


@router.get(
    "/models/{name}/filters",
    tags=["models"],
    response_class=Response,
    **documented(ModelUnknown, media=["image/png"]),
)
async def filters(name: Model, service: State) -> Response:
    """An image (PNG) of the first layer's filters."""
    return image_response(await cards.filters(service.engine, name), "png")


@router.get("/styles", response_model=StylesAnswer, tags=["style"], **documented(example=STYLES))
async def styles(service: State) -> Response:
    """Every style that can be asked for."""
    return json_response(cards.styles_answer(service.engine))


@router.get(
    "/styles/{name}/thumbnail",
    tags=["style"],
    response_class=Response,
    **documented(StyleUnknown, media=["image/jpeg"]),
)
async def thumbnail(name: Annotated[str, Path(description="a style's name")], service: State) -> Response:
    """A small image (JPEG) of the painting."""
    return image_response(cards.thumbnail(service.engine, name), "jpeg")
