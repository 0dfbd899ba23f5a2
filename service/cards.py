"""What is served: models and styles, as every transport shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field
from pydantic_core import to_jsonable_python

from models.errors import StyleUnknown, echoed
from models.image import encode
from models.pipeline import Kind, Style
from service.engine.engine import Engine
from service.engine.installed import require_torch
from service.engine.offload import Call
from service.tasks.task import AnswerModel, Size


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


async def filters(engine: Engine, name: str) -> bytes:
    """A PNG of the first layer's filters of any served model.

    Raises:
        ModelUnknown: it is not served.
        ParameterInvalid: it has no convolution.
        NotSupported: torch is not installed.
    """
    require_torch("a sheet of filters")
    pipeline = engine.named(name).pipeline

    def work(call: Call) -> bytes:
        if engine.torch_process is not None:
            return encode(engine.torch_process.ask(name, "filters", call), "png")
        from models.classification.explain import filter_sheet  # torch

        return encode(filter_sheet(pipeline.module), "png")

    return await engine.offload.run(work)
