"""Finding faces: the one way that every task takes from an image to its faces.

The first look is at the whole image, upright. A second one, at a sheet of all four directions, follows where
no face is sure to stand upright; then tiles, where smaller faces are asked for. Where the largest face is all
that counts, a look for large ones alone comes before, and is the last where it found a sure one. The deadline
is checked before each. What they look for is chosen in `models.faces.search`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from models.faces import search
from models.faces.result import FaceOptions, FaceRotation, Faces, FaceSearchOptions, LargeFaceOptions
from models.image import Image
from models.pipeline import Pipeline, Prepared
from service.engine.engine import Answer, Engine, KeptImage, together
from service.engine.runner import Runner
from service.request import RequestContext
from service.telemetry.timing import Timing


async def min_side(engine: Engine, data: bytes | KeptImage, params: FaceSearchOptions) -> int:
    """How far a decoder may reduce an image to find faces in it, see `models.image.decode`.

    Raises:
        As `Engine.plan`.
    """
    if params.min_size is None or isinstance(data, KeptImage):  # the latter is decoded
        return search.MIN_SIDE
    header = (await engine.plan(data)).header
    return search.min_side(header.width, header.height, params.min_size)


async def find_faces(
    engine: Engine,
    detector: Runner,
    data: bytes | KeptImage,
    options: FaceOptions,
    context: RequestContext,
    keep: KeptImage,
    *,
    largest: bool = False,
) -> Answer[Faces]:
    """The faces of one image.

    Args:
        detector: a model that finds faces.
        data: the image, encoded, or as `Engine.decode` keeps it.
        options: what to look for.
        keep: takes the decoded image, see `Engine.infer`.
        largest: only the largest face is wanted: small ones are looked for where there is no other.

    Raises:
        As `Engine.infer`.
    """
    pipeline = detector.pipeline
    large = largest and pipeline.large_face > 0
    asked = LargeFaceOptions(**options.model_dump()) if large else options
    first = await engine.infer(detector, data, asked, context.deadline, keep=keep)
    image, found, timing = keep.image, first.result, first.timing
    if not pipeline.smallest_face:  # it does not say at which scales it looks
        return first
    if large:
        if search.settled(found):
            return first
        again = partial(pipeline.preprocess, image, options)
        answer = await engine.infer_prepared(detector, again, context.deadline, timing.queue)
        found, timing = answer.result, timing + answer.timing

    async def look(views: Sequence[search.Region]) -> list[Faces]:
        nonlocal timing
        answers = await together(
            [
                partial(
                    engine.infer_prepared,
                    detector,
                    partial(_part, pipeline, image, view, options),
                    context.deadline,
                    timing.queue,
                )
                for view in views
            ],
            detector.window,
        )
        timing += Timing.slowest(answer.timing for answer in answers)
        return [answer.result for answer in answers]

    if options.rotate is FaceRotation.AUTO and search.surest(found) < search.SURE:
        sheet = partial(_sheet, pipeline, image)
        answer = await engine.infer_prepared(detector, sheet, context.deadline, timing.queue)
        timing += answer.timing
        if turn := search.direction(answer.result.items, found):
            view = search.whole(image.width, image.height, turn)
            (faces,) = await look([view])
            if search.surest(faces) > search.surest(found):
                items = tuple(view.place(face) for face in faces.items)
                found = replace(found, items=items, rotation=turn)
    if not (largest and found.items) and search.needs_tiles(found, options.min_size):
        views = search.tiles(
            search.whole(image.width, image.height, found.rotation),
            pipeline.smallest_face,
            search.wanted(image.width, image.height, options.min_size),
            pipeline.face_tiles,
        )
        found = search.merged(found, list(zip(views, await look(views), strict=True)), options.max_faces)
    return replace(first, result=found, timing=timing)


def _part(pipeline: Pipeline, image: Image, view: search.Region, options: FaceOptions) -> Prepared:
    return pipeline.preprocess(view.cut(image, pipeline.min_side or search.SHEET), options)


def _sheet(pipeline: Pipeline, image: Image) -> Prepared:
    return pipeline.preprocess(search.sheet(image), FaceOptions())
