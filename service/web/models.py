"""`/v1/models`: what is served, and what its first layer looks for."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from models.errors import ModelUnknown, echoed
from models.pipeline import Card
from service.web.answers import json_answer, picture_answer
from service.web.house import Home, House
from service.web.schemas import ModelDetailOut, ModelOut, ModelsOut, Size

router = APIRouter(prefix="/v1/models", tags=["models"])
Name = Annotated[str, Path(description="a served model's name")]


@router.get("", response_model=ModelsOut)
async def models(house: Home) -> Response:
    """Every model that is served."""
    return json_answer(ModelsOut(models=[_card(house, name) for name in house.plane.runners]))


@router.get("/{name}", response_model=ModelDetailOut)
async def model(name: Name, house: Home) -> Response:
    """One model's card."""
    card = _known(house, name)
    short = _card(house, name).model_dump()
    return json_answer(ModelDetailOut(**short, labels=list(card.labels), details=dict(card.details)))


@router.get("/{name}/filters", response_class=Response, responses={200: {"content": {"image/png": {}}}})
async def filters(name: Name, house: Home) -> Response:
    """A picture (PNG) of the first layer's filters."""
    return picture_answer(await house.pictures.filters(name), "png")


def _known(house: House, name: str) -> Card:
    try:
        return house.plane.runners[name].card
    except KeyError:
        raise ModelUnknown(
            f"no model named {echoed(name)} is served; these are: {', '.join(house.plane.runners)}"
        ) from None


def _card(house: House, name: str) -> ModelOut:
    runner = house.plane.runners[name]
    card, executor = runner.card, runner.executor
    return ModelOut(
        name=card.name,
        task=card.task.value,
        default=house.plane.is_default(name),
        ready=house.plane.is_ready(name),
        executor=executor.name,
        device=executor.device,
        precision=executor.precision,
        sha256=card.sha256,
        licence=card.license,
        input=None if card.input is None else Size(height=card.input[0], width=card.input[1]),
    )
