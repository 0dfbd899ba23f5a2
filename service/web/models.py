"""`/v1/models` and `/v1/styles`: what is served."""

from __future__ import annotations

from starlette.responses import Response

from models.errors import ModelUnknown, ParameterInvalid, StyleUnknown
from service import cards
from service.cards import FiltersParams, LayersAnswer, ModelDetailAnswer, ModelsAnswer, StylesAnswer
from service.errors import DeadlineExceeded, NotSupported, Overloaded
from service.web.request import Request
from service.web.responses import image_response, json_response
from service.web.route import Routes

ROUTES = Routes()

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
LAYERS = {
    "model": "lenet5",
    "layers": [
        {
            "name": "features.0",
            "kind": "Conv2d",
            "shape": [6, 28, 28],
            "receptive_field": [5, 5],
            "stride": [1, 1],
            "filters": [6, 1, 5, 5],
            "multiply_adds": 117600,
        }
    ],
}
STYLE = {
    "name": "great_wave",
    "title": "The Great Wave off Kanagawa",
    "artist": "Katsushika Hokusai",
    "thumbnail": "/v1/styles/great_wave/thumbnail",
}


@ROUTES.add("GET", "/v1/models", tag="models", answer=ModelsAnswer, example={"models": [MODEL]})
async def models(request: Request) -> Response:
    """Every model that is served."""
    return json_response(cards.models_answer(request.service.engine))


@ROUTES.add(
    "GET",
    "/v1/models/{name}",
    tag="models",
    answer=ModelDetailAnswer,
    example=DETAIL,
    errors=(ModelUnknown,),
)
async def model(request: Request) -> Response:
    """One model's card."""
    return json_response(cards.model_detail(request.service.engine, request.path_params["name"]))


@ROUTES.add(
    "GET",
    "/v1/models/{name}/filters",
    tag="models",
    media=["image/png"],
    errors=(ModelUnknown, ParameterInvalid, NotSupported, DeadlineExceeded, Overloaded),
    params=FiltersParams,
)
async def filters(request: Request) -> Response:
    """An image (PNG) of a layer's filters, each over its own range; dead ones are crossed out."""
    engine, name = request.service.engine, request.path_params["name"]
    params = request.parameters(FiltersParams)
    sheet = await cards.filters(engine, name, params.layer, request.context.deadline)
    return image_response(sheet, "png")


@ROUTES.add(
    "GET",
    "/v1/models/{name}/layers",
    tag="models",
    answer=LayersAnswer,
    example=LAYERS,
    errors=(ModelUnknown, ParameterInvalid, NotSupported, DeadlineExceeded, Overloaded),
)
async def layers(request: Request) -> Response:
    """A model's layers that give feature maps, with their shapes and receptive fields."""
    engine, name = request.service.engine, request.path_params["name"]
    return json_response(await cards.layers(engine, name, request.context.deadline))


@ROUTES.add("GET", "/v1/styles", tag="style", answer=StylesAnswer, example={"styles": [STYLE]})
async def styles(request: Request) -> Response:
    """Every style that can be asked for."""
    return json_response(cards.styles_answer(request.service.engine))


@ROUTES.add("GET", "/v1/styles/{name}/thumbnail", tag="style", media=["image/jpeg"], errors=(StyleUnknown,))
async def thumbnail(request: Request) -> Response:
    """A small image (JPEG) of the painting."""
    return image_response(cards.thumbnail(request.service.engine, request.path_params["name"]), "jpeg")
