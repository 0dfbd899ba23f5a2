"""Answers that are images: what is drawn, at what size, and in which format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from models.image import MAX_ENCODED_PIXELS, Pixels, decode, encode
from service.engine.engine import Answer, Engine
from service.engine.offload import Call
from service.engine.runner import Runner
from service.request import RequestContext

R = TypeVar("R")
ImageFormat = Literal["jpeg", "png", "webp"]


@dataclass(frozen=True, slots=True)
class Rendered:
    """An answer that is an image.

    Attributes:
        width, height: of the upright original, pixels.
        data: encoded.
    """

    width: int
    height: int
    data: bytes


async def draw_result(
    engine: Engine,
    runner: Runner,
    data: bytes,
    options: Any,
    draw: Callable[[Pixels, R], Pixels],
    image_format: ImageFormat,
    context: RequestContext,
) -> Answer[Rendered]:
    """A result drawn into its image.

    A large image is decoded once for both, and kept. A small one is decoded for the model as far reduced as
    it takes, and once more to draw on: less CPU than to reduce the whole one (6 % at 3 megapixels), and
    nothing of it is held while it waits.

    Args:
        engine: runs the model.
        runner: the model.
        data: the image, encoded.
        options: of the model.
        draw: uint8 [h, w, 3] of the upright image, which may be reduced, and the result -> a new array.
        image_format: of the answer.
        context: of the request.
    """
    most = MAX_ENCODED_PIXELS[image_format]
    with runner.admit():
        plan = await engine.plan(data, max_pixels=most)
    with engine.kept(max_pixels=most, copies=3) as kept:  # the drawing, and an encoder's copies
        answer = await engine.infer(
            runner, data, options, context.deadline, keep=kept if plan.large else None
        )

        def work(call: Call) -> Rendered:
            image = kept.image if plan.large else decode(data, engine.limits, max_pixels=most, plan=plan)
            call.check()
            pixels = draw(image.pixels, answer.result)
            call.check()
            return Rendered(image.width, image.height, encode(pixels, image_format))

        memory = 0 if plan.large else 3 * plan.result + plan.memory
        rendered = await engine.offload.run(work, context.deadline, memory=memory)
    return Answer(answer.model, rendered, answer.timing)
