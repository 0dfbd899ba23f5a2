"""Style transfer: a picture in, the picture in another manner out; and the styles that there are."""

from __future__ import annotations

from models.errors import StyleUnknown, echoed
from models.image import MAX_ENCODED_PIXELS, encode
from models.pipeline import Task
from models.style.pipeline import StylePipeline
from models.style.result import Style, StyleOptions, Stylised
from service.dataplane import Answer, DataPlane
from service.offload import Call
from service.pictures import Format
from service.runner import Runner


async def paint(
    plane: DataPlane,
    runner: Runner,
    data: bytes,
    options: StyleOptions,
    kind: Format,
    deadline: float | None,
) -> Answer[tuple[bytes, Stylised]]:
    """An image in a style, enlarged and encoded apart from the model's thread.

    Raises as `StyleDesk.stylise` does.
    """
    blended = (
        options.strength < 1
    )  # the original shows through, and is kept; a NaN is refused by the pipeline
    # what is only enlarged is smooth, and soon encoded
    most = MAX_ENCODED_PIXELS[kind] if blended else max(MAX_ENCODED_PIXELS[kind], 12_500_000)
    with plane.kept(max_pixels=most) as kept:
        answer: Answer[Stylised] = await plane.infer(
            runner, data, options, deadline, keep=kept if blended else None
        )
        painted = answer.result

        def work(call: Call) -> bytes:
            pixels = painted.render(most, kept.image.pixels if blended else None)
            call.check()
            return encode(pixels, kind)

        size = min(most, painted.width * painted.height)
        # the result, and as much again twice for an encoder's copies
        picture = await plane.offload.run(work, deadline, memory=9 * size)
    return Answer(answer.model, (picture, painted), answer.trace)


class StyleDesk:
    """Everything about styles, on top of the data plane."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    async def stylise(
        self,
        data: bytes,
        options: StyleOptions,
        kind: Format,
        *,
        model: str | None = None,
        deadline: float | None = None,
    ) -> Answer[tuple[bytes, Stylised]]:
        """The picture in a style, at its own size: encoded, and as pixels.

        Raises:
            StyleUnknown: the network has no style of that name.
            ParameterInvalid: `strength` outside 0..1.
            ModelUnknown, ImageInvalid, Overloaded and so on: as `DataPlane.classify` does.
        """
        runner = self._plane.runner(Task.STYLE, model)
        return await paint(self._plane, runner, data, options, kind, deadline)

    def styles(self, model: str | None = None) -> tuple[Style, ...]:
        """What a model knows, or the default one; of several names the first is what `stylise` means by None.

        Raises:
            ModelUnknown: no such model serves styles.
        """
        pipeline = self._plane.runner(Task.STYLE, model).pipeline
        return pipeline.styles if isinstance(pipeline, StylePipeline) else ()

    def all_styles(self) -> tuple[Style, ...]:
        """The default model's; none where no model serves styles."""
        served = any(runner.card.task is Task.STYLE for runner in self._plane.runners.values())
        return self.styles() if served else ()

    def thumbnail(self, name: str) -> bytes:
        """A small JPEG of the painting that a style of the default model is of.

        Raises:
            StyleUnknown: there is no such style, or no picture of it.
        """
        known = self.all_styles()
        for style in known:
            if style.name == name and style.thumbnail:
                return style.thumbnail
        names = ", ".join(style.name for style in known) or "none"
        raise StyleUnknown(f"no style named {echoed(name)} has a thumbnail; there are: {names}")
