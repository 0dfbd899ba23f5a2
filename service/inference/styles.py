"""What style networks take and give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from models.errors import ParameterInvalid
from models.style.result import StyleOptions
from service.dataplane import Answer
from service.inference.request import Parameters
from service.inference.served import Served, Spec
from service.inference.tensors import BYTES
from service.styles import paint

Format = Literal["jpeg", "png", "webp"]


@dataclass(frozen=True, slots=True)
class PaintOptions:
    """One request's wishes: the style, and how the painting is encoded."""

    style: StyleOptions
    format: Format


class StyleServed(Served):
    """picture BYTES [N, 1]: the painting of each picture, encoded, at the picture's own size."""

    outputs = (Spec("picture", BYTES, (1,)),)

    def options(self, parameters: Parameters) -> PaintOptions:
        strength, kind = parameters.number("strength"), parameters.text("format") or "jpeg"
        for known in get_args(Format):
            if kind == known:
                usual = StyleOptions()
                style = StyleOptions(
                    parameters.text("style"), usual.strength if strength is None else strength
                )
                return PaintOptions(style, known)
        raise ParameterInvalid("format", f"format must be one of {', '.join(get_args(Format))}")

    async def picture(self, data: bytes, options: PaintOptions, deadline: float) -> Answer[bytes]:
        answer = await paint(self.plane, self.runner, data, options.style, options.format, deadline)
        return Answer(answer.model, answer.result[0], answer.trace)

    def collect(self, results: Sequence[bytes]) -> dict[str, Sequence[bytes]]:
        return {"picture": results}
