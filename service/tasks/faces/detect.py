"""Faces of an image: boxes and landmarks, or the image with them drawn in."""

from __future__ import annotations

from collections.abc import Sequence

from models.detection.draw import draw_faces
from models.faces.result import FaceOptions, Faces
from models.pipeline import Card, Kind
from service.engine.engine import Answer, Engine, KeptImage
from service.request import RequestContext
from service.tasks.faces.find import find_faces, min_side
from service.tasks.faces.shared import DetectorName, FacesAnswer, FaceSearch
from service.tasks.render import drawing
from service.tasks.task import Arrays, Images, Task, Tensors, TensorSpec, counts, padded, table


class FacesDetectParams(FaceOptions):
    model: DetectorName = None


def present(answer: Answer[Faces], params: FacesDetectParams) -> FacesAnswer:
    return FacesAnswer.of(answer, search=FaceSearch.of(answer.result), faces=answer.result.items)


async def run(
    engine: Engine, images: Images, params: FacesDetectParams, context: RequestContext
) -> Answer[Faces]:
    with KeptImage(engine.memory, min_side=await min_side(engine, images["image"], params)) as kept:
        return await infer(engine, images["image"], params, context, kept)


async def infer(
    engine: Engine,
    data: bytes | KeptImage,
    params: FacesDetectParams,
    context: RequestContext,
    keep: KeptImage,
) -> Answer[Faces]:
    """The faces of one image, which `keep` takes."""
    return await find_faces(engine, engine.find(Kind.FACES, params.model), data, params, context, keep)


def outputs(card: Card) -> tuple[TensorSpec, ...]:
    return (
        TensorSpec("boxes", "FP32", (-1, 4)),
        TensorSpec("scores", "FP32", (-1,)),
        TensorSpec("landmarks", "FP32", (-1, 5, 2)),
        TensorSpec("counts", "INT64", ()),
    )


def collect(card: Card, results: Sequence[Faces], params: FacesDetectParams) -> Arrays:
    """boxes FP32 [N, K, 4], scores FP32 [N, K], landmarks FP32 [N, K, 5, 2], counts INT64 [N].

    K is that of the image with the most. Beyond an image's own count all is 0.
    """
    several = [result.items for result in results]
    return {
        "boxes": padded([table([face.box for face in faces], 4) for faces in several]),
        "scores": padded([table([face.score for face in faces]) for faces in several]),
        "landmarks": padded([table([face.landmarks for face in faces], 5, 2) for faces in several]),
        "counts": counts(several),
    }


FACES_DETECT = Task(
    name="faces_detect",
    path="faces/detect",
    method="DetectFaces",
    summary="Faces of one image, or of several in order; `Accept: image/*` asks for the annotated image.",
    params=FacesDetectParams,
    models={"model": Kind.FACES},
    answer=FacesAnswer,
    example={
        "model": "mtcnn",
        "image": {"width": 640, "height": 424},
        "search": {"min_face": 21.6, "rotation": 0},
        "faces": [
            {
                "box": [366.7, 78.9, 619.6, 424.2],
                "score": 0.9998,
                "landmarks": [
                    [442.1, 206.3],
                    [547.6, 205.9],
                    [496.2, 270.4],
                    [448.9, 320.7],
                    [544.0, 321.5],
                ],
            }
        ],
    },
    run=run,
    present=present,
    draw=drawing(Kind.FACES, draw_faces, infer),
    tensors=Tensors(outputs, collect),
)
