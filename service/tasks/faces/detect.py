"""Faces of an image: boxes and landmarks, or the image with them drawn in."""

from __future__ import annotations

from collections.abc import Sequence

from models.detection.draw import draw_faces
from models.faces.result import FaceOptions, Faces
from models.pipeline import Card, Kind
from service.engine.engine import Answer, Engine
from service.request import RequestContext
from service.tasks.faces.shared import DetectorName, FacesAnswer, face_answer
from service.tasks.render import ImageFormat, Rendered, draw_result
from service.tasks.task import Arrays, Encoded, Images, Size, Task, Tensors, TensorSpec, counts, padded, table


class FacesDetectParams(FaceOptions):
    model: DetectorName = None


async def run(
    engine: Engine, images: Images, params: FacesDetectParams, context: RequestContext
) -> Answer[Faces]:
    runner = engine.find(Kind.FACES, params.model)
    return await engine.infer(runner, images["image"], params, context.deadline)


async def draw(
    engine: Engine,
    images: Encoded,
    params: FacesDetectParams,
    image_format: ImageFormat,
    context: RequestContext,
) -> Answer[Rendered]:
    runner = engine.find(Kind.FACES, params.model)
    return await draw_result(engine, runner, images["image"], params, draw_faces, image_format, context)


def present(answer: Answer[Faces], params: FacesDetectParams) -> FacesAnswer:
    found = answer.result
    return FacesAnswer(
        model=answer.model,
        image=Size(width=found.width, height=found.height),
        faces=[face_answer(face) for face in found.items],
    )


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
    draw=draw,
    tensors=Tensors(outputs, collect),
)
