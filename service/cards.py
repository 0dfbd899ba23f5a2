"""What is served: models and styles, as every transport shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field
from pydantic_core import to_jsonable_python

from models.errors import StyleUnknown, echoed
from models.image import encode
from models.parameters import Parameters
from models.pipeline import Kind, Style
from service.engine.engine import Engine
from service.engine.installed import require_torch
from service.engine.offload import Call
from service.tasks.explain import layers_of
from service.tasks.task import AnswerModel, Size
from service.torch_process import ask


class ModelAnswer(AnswerModel):
    """One model that is served."""

    name: str
    task: str
    default: bool
    ready: bool
    executor: str
    device: str
    precision: str
    sha256: str
    licence: str
    input: Size | None


class ModelDetailAnswer(ModelAnswer):
    """One model, with its labels and everything else on its card."""

    labels: list[str]
    details: dict[str, Any]


class ModelsAnswer(AnswerModel):
    """All models."""

    models: list[ModelAnswer]


class StyleAnswer(AnswerModel):
    """One style."""

    name: str
    title: str
    artist: str
    thumbnail: str | None = Field(description="where a small image of the painting is")


class StylesAnswer(AnswerModel):
    """Every style of the default network; the first is what a request means that names none."""

    styles: list[StyleAnswer]


class LayerAnswer(AnswerModel):
    """One layer of a network that gives feature maps."""

    name: str = Field(description="as the parameter `layer` takes it")
    kind: str = Field(description="class of the module")
    shape: tuple[int, int, int] = Field(description="channels, height, width, for an input of the usual size")
    receptive_field: tuple[int, int] | None = Field(
        description="height and width in pixels of the input on which one place depends, were the input large"
        " enough; null: all of it, or not known"
    )
    stride: tuple[int, int] | None = Field(description="y and x distance of neighbouring places, likewise")
    filters: tuple[int, int, int, int] | None = Field(
        description="of a convolution: how many, over how many channels each, height, width"
    )
    multiply_adds: int = Field(description="of the network up to here, on one image")


class LayersAnswer(AnswerModel):
    """A model's layers, in the order in which they run."""

    model: str
    layers: list[LayerAnswer]


def model_detail(engine: Engine, name: str) -> ModelDetailAnswer:
    """A served model's whole card.

    Raises:
        ModelUnknown: it is not served.
    """
    runner = engine.named(name)
    card, executor = runner.card, runner.executor
    return ModelDetailAnswer(
        name=card.name,
        task=card.task.value,
        default=engine.is_default(name),
        ready=engine.is_ready(name),
        executor=executor.name,
        device=executor.device,
        precision=executor.precision,
        sha256=card.sha256,
        licence=card.license,
        input=None if card.input is None else Size(height=card.input[0], width=card.input[1]),
        labels=card.labels,
        details=to_jsonable_python(dict(card.details)),
    )


def models_answer(engine: Engine) -> ModelsAnswer:
    """Every served model, in short."""
    return ModelsAnswer(models=[model_detail(engine, name) for name in engine.runners])


def styles(engine: Engine) -> Sequence[Style]:
    """The default style network's; none where there is no such network."""
    return engine.find(Kind.STYLE, None).pipeline.styles if engine.serves(Kind.STYLE) else ()


def styles_answer(engine: Engine) -> StylesAnswer:
    """The default style network's styles."""
    return StylesAnswer(
        styles=[
            StyleAnswer(
                name=style.name,
                title=style.title,
                artist=style.artist,
                thumbnail=f"/v1/styles/{style.name}/thumbnail" if style.thumbnail else None,
            )
            for style in styles(engine)
        ]
    )


def thumbnail(engine: Engine, name: str) -> bytes:
    """A small JPEG of the painting that a style of the default network is of.

    Raises:
        StyleUnknown: there is no such style, or no image of it.
    """
    for style in styles(engine):
        if style.name == name and style.thumbnail:
            return style.thumbnail
    names = ", ".join(style.name for style in styles(engine)) or "none"
    raise StyleUnknown(f"no style named {echoed(name)} has a thumbnail; there are: {names}")


class FiltersParams(Parameters):
    layer: str | None = Field(
        None, description="a convolution, as `/v1/models/{name}/layers` names it; the first one if left out"
    )


async def filters(engine: Engine, name: str, layer: str | None, deadline: float | None) -> bytes:
    """A PNG of a layer's filters, of any served model.

    Raises:
        ModelUnknown: it is not served.
        ParameterInvalid: it has no such layer, or no convolution.
        NotSupported: torch is not installed.
        DeadlineExceeded: it was not done in time.
    """
    require_torch("a sheet of filters")
    runner = engine.named(name)

    def work(call: Call) -> bytes:
        sheet = ask(engine, runner, "filters", call, layer)
        call.check()
        return encode(sheet, "png")

    return await engine.offload.run(work, deadline)


async def layers(engine: Engine, name: str, deadline: float | None) -> LayersAnswer:
    """The layers of any served model; see `models.classification.explain.layers`.

    Raises:
        ModelUnknown: it is not served.
        ParameterInvalid: it is an exported graph.
        NotSupported: torch is not installed.
        DeadlineExceeded: it was not done in time.
    """
    found = await layers_of(engine, engine.named(name), deadline)
    return LayersAnswer(model=name, layers=[LayerAnswer.model_validate(layer) for layer in found])
