"""What face detectors and embedding networks take and give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from models.faces.result import Embedding, FaceOptions, Faces
from models.pipeline import Task
from service.dataplane import Answer, DataPlane
from service.faces import Embedded, FaceDesk
from service.inference.request import Parameters
from service.inference.served import Served, Spec, counts, padded, table
from service.runner import Runner


class FacesServed(Served):
    """boxes FP32 [N, K, 4], scores FP32 [N, K], landmarks FP32 [N, K, 5, 2], counts INT64 [N].

    K is that of the picture with the most. Beyond a picture's own count all is 0.
    """

    outputs = (
        Spec("boxes", "FP32", (-1, 4)),
        Spec("scores", "FP32", (-1,)),
        Spec("landmarks", "FP32", (-1, 5, 2)),
        Spec("counts", "INT64", ()),
    )

    def options(self, parameters: Parameters) -> FaceOptions:
        return _face_options(parameters)

    def collect(self, results: Sequence[Faces]) -> dict[str, NDArray[Any]]:
        several = [result.items for result in results]
        return {
            "boxes": padded([table([face.box for face in faces], 4) for faces in several]),
            "scores": padded([table([face.score for face in faces]) for faces in several]),
            "landmarks": padded([table([face.landmarks for face in faces], 5, 2) for faces in several]),
            "counts": counts(several),
        }


@dataclass(frozen=True, slots=True)
class EmbedOptions:
    """One request's wishes.

    Attributes:
        faces: which faces of a picture to embed.
        aligned: the pictures are aligned chips already; nothing is looked for in them.
    """

    faces: FaceOptions
    aligned: bool


class EmbedderServed(Served):
    """embeddings FP32 [N, K, D], boxes FP32 [N, K, 4], counts INT64 [N].

    A picture gives the embeddings of its faces, the surest face first. An aligned chip, as `pixels` or as a
    picture with `aligned`, gives one, and its box is the whole chip. Where no face detector is served, every
    picture must be an aligned chip.

    Args:
        plane: the data plane.
        runner: of an embedding network.
        faces: finds the faces.
    """

    def __init__(self, plane: DataPlane, runner: Runner, faces: FaceDesk) -> None:
        super().__init__(plane, runner)
        self._faces = faces
        self._finds = any(other.card.task is Task.FACES for other in plane.runners.values())
        dimensions = runner.card.space.dimensions
        self.outputs = (
            Spec("embeddings", "FP32", (-1, dimensions)),
            Spec("boxes", "FP32", (-1, 4)),
            Spec("counts", "INT64", ()),
        )

    def options(self, parameters: Parameters) -> EmbedOptions:
        aligned = parameters.flag("aligned")
        return EmbedOptions(_face_options(parameters), not self._finds if aligned is None else aligned)

    async def picture(self, data: bytes, options: EmbedOptions, deadline: float) -> Answer[Any]:
        if options.aligned:
            return await super().picture(data, None, deadline)
        return await self._faces.embed(data, options.faces, embedder=self.card.name, deadline=deadline)

    def collect(self, results: Sequence[Embedding | Embedded]) -> dict[str, NDArray[Any]]:
        height, width, _ = self.runner.pipeline.shapes[0]
        vectors, boxes = [], []
        for result in results:
            if isinstance(result, Embedding):
                vectors.append([result.vector])
                boxes.append([(0.0, 0.0, float(width), float(height))])
            else:
                vectors.append([embedding.vector for embedding in result.embeddings])
                boxes.append([face.box for face in result.faces.items])
        (_, dimensions) = self.outputs[0].dims
        return {
            "embeddings": padded([table(rows, dimensions) for rows in vectors]),
            "boxes": padded([table(rows, 4) for rows in boxes]),
            "counts": counts(boxes),
        }


def _face_options(parameters: Parameters) -> FaceOptions:
    smallest, most = parameters.number("min_size"), parameters.integer("max_faces")
    usual = FaceOptions()
    return FaceOptions(
        parameters.number("score_threshold"),
        usual.min_size if smallest is None else smallest,
        usual.max_faces if most is None else most,
    )
