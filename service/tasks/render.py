"""Answers that are images: what is drawn, at what size, and in which format."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from models.image import MAX_ENCODED_PIXELS, Pixels, decode, encode
from models.pipeline import Kind
from service.engine.engine import Answer, Engine, KeptImage
from service.engine.offload import Call
from service.request import RequestContext

ImageFormat = Literal["jpeg", "png", "webp"]


@dataclass(frozen=True, slots=True)
class Rendered:
    """An answer that is an image.

    Attributes:
        width, height: of the upright original, pixels.
        data: encoded.
        about: fields of the answer in numbers that are told with the image, where a message holds both.
    """

    width: int
    height: int
    data: bytes
    about: Mapping[str, Any] = field(default_factory=dict)


Draw = Callable[[Engine, Mapping[str, bytes], Any, ImageFormat, RequestContext], Awaitable[Answer[Rendered]]]
"""Engine, images by name, parameters, format, context -> the answer as an image."""


Infer = Callable[[Engine, bytes, Any, RequestContext, KeptImage], Awaitable[Answer[Any]]]
"""Engine, an image, parameters, context, what keeps the decoded image -> the result."""


def drawing(kind: Kind, draw: Callable[[Pixels, Any], Pixels], infer: Infer | None = None) -> Draw:
    """The `draw` of a task that is one inference: its result drawn into its image.

    A large image is decoded once for both, and kept. A small one is decoded for the model as far reduced as
    it takes, and once more to draw on: less CPU than to reduce the whole one (6 % at 3 megapixels), and
    nothing of it is held while it waits.

    Args:
        kind: of the model that the parameter `model` names.
        draw: uint8 [h, w, 3] of the upright image, which may be reduced, and the result -> a new array.
        infer: where the task takes more than one inference of that model; it keeps the image.
    """

    async def drawn(
        engine: Engine,
        images: Mapping[str, bytes],
        params: Any,
        image_format: ImageFormat,
        context: RequestContext,
    ) -> Answer[Rendered]:
        data, most = images["image"], MAX_ENCODED_PIXELS[image_format]
        # the copies: the drawing, and an encoder's
        with KeptImage(engine.memory, max_pixels=most, copies=3, only_large=infer is None) as kept:
            if infer is None:
                runner = engine.find(kind, params.model)
                answer = await engine.infer(runner, data, params, context.deadline, keep=kept)
            else:
                answer = await infer(engine, data, params, context, kept)
            plan = kept.plan
            held = plan.large or infer is not None

            def work(call: Call) -> Rendered:
                image = kept.image if held else decode(data, engine.limits, max_pixels=most, plan=plan)
                call.check()
                pixels = draw(image.pixels, answer.result)
                call.check()
                return Rendered(image.width, image.height, encode(pixels, image_format))

            memory = 0 if held else 3 * plan.result + plan.memory
            rendered = await engine.offload.run(work, context.deadline, memory=memory)
        return Answer(answer.model, rendered, answer.timing)

    return drawn
