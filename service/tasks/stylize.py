"""An image in a style, at its own size."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from models.errors import StyleUnknown
from models.image import MAX_ENCODED_PIXELS, encode
from models.pipeline import Card, Kind
from models.style.result import StyleOptions
from service.engine.engine import Answer, Engine, KeptImage
from service.engine.offload import Call
from service.request import RequestContext
from service.tasks.render import ImageFormat, Rendered
from service.tasks.task import Arrays, Encoded, Task, Tensors, TensorSpec


class StylizeParams(StyleOptions):
    model: str | None = Field(None, description="a served style network; the default one if left out")


async def draw(
    engine: Engine, images: Encoded, params: StylizeParams, image_format: ImageFormat, context: RequestContext
) -> Answer[Rendered]:
    """The image in a style, enlarged and encoded apart from the model's thread.

    Raises:
        StyleUnknown: the network has no style of that name.
    """
    runner = engine.find(Kind.STYLE, params.model)
    most = MAX_ENCODED_PIXELS[image_format]
    # the original gives the result its finest details; copies: the result, what it is made of, an encoder's
    with KeptImage(engine.memory, max_pixels=most, copies=3) as kept:
        answer = await engine.infer(runner, images["image"], params, context.deadline, keep=kept)
        stylized = answer.result

        def work(call: Call) -> Rendered:
            pixels = stylized.render(most, kept.image.pixels)
            call.check()
            return Rendered(stylized.width, stylized.height, encode(pixels, image_format))

        rendered = await engine.offload.run(work, context.deadline)
    return Answer(answer.model, rendered, answer.timing)


def outputs(card: Card) -> tuple[TensorSpec, ...]:
    return (TensorSpec("picture", "BYTES", (1,)),)


def collect(card: Card, results: Sequence[Rendered], params: StylizeParams) -> Arrays:
    """picture BYTES [N, 1]: each image in the style, encoded, at the image's own size."""
    return {"picture": [result.data for result in results]}


STYLIZE = Task(
    name="stylize",
    path="stylize",
    method="Stylize",
    summary="One image in a style, at its own size: JPEG, or what `Accept` asks for (PNG, WebP).",
    params=StylizeParams,
    models={"model": Kind.STYLE},
    several=False,
    draw=draw,
    image_first=True,
    tensors=Tensors(outputs, collect),
    errors=(StyleUnknown,),
)
