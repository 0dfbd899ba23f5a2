"""One request's work without a server: the service's own steps in its own order, on a whole batch at once.

`limit.py` measures its speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from loadtests.tasks import Work
from models import registry
from models.faces.align import cut_faces
from models.faces.result import Faces, LargeFaceOptions
from models.faces.search import settled
from models.faces.verify import select_face
from models.image import Image, Limits, decode, encode
from models.pipeline import Kind, Pipeline, Prepared
from models.weights import Catalogue, Store
from service.engine.executor import Executor, make_executor
from service.settings import Settings
from service.tasks.faces.shared import CHIP_SIDE

LIMITS = Limits()


class Chain(Protocol):
    """From the encoded images of requests to their results, in two steps."""

    def prepare(self, images: Sequence[bytes]) -> Any:
        """What is done for each request by itself; from several threads at once."""
        ...

    def answer(self, requests: Sequence[Any]) -> None:
        """What is done for several prepared requests together."""
        ...


@dataclass(frozen=True, slots=True)
class Stage:
    """A pipeline on the executor that the service would choose for it."""

    pipeline: Pipeline
    executor: Executor

    def run(self, items: Sequence[Prepared]) -> list[Any]:
        """Results of a batch."""
        outputs = self.executor.run([item.inputs for item in items])
        return self.pipeline.postprocess(outputs, [item.context for item in items])


class OneModel:
    """Decode, preprocess, module, postprocess."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def prepare(self, images: Sequence[bytes]) -> Prepared:
        (image,) = images
        pipeline = self._stage.pipeline
        return pipeline.preprocess(decode(image, LIMITS, min_side=pipeline.min_side), None)

    def answer(self, requests: Sequence[Prepared]) -> None:
        self._results(requests)

    def _results(self, requests: Sequence[Prepared]) -> list[Any]:
        """In any order: as in the service, a batch has one shape."""
        shapes = {request.shapes for request in requests}
        return [
            result
            for shape in shapes
            for result in self._stage.run([item for item in requests if item.shapes == shape])
        ]


class Painted(OneModel):
    """The same where an image is the answer, which is encoded."""

    def answer(self, requests: Sequence[Prepared]) -> None:
        for painted in self._results(requests):
            encode(painted.pixels, "jpeg")


class FacesEmbedded:
    """Decode, find the faces at the first look, or the first two where the largest is all that counts (see
    `service.tasks.faces.find`), cut them out, embed them.

    Args:
        detector, embedder: the two models.
        largest: embed only the largest face of each image.
        most: chips that the embedder takes at once.
    """

    def __init__(self, detector: Stage, embedder: Stage, *, largest: bool, most: int) -> None:
        self._detector, self._embedder = detector, embedder
        self._largest, self._most = largest, most

    def prepare(self, images: Sequence[bytes]) -> list[tuple[Image, Prepared]]:
        decoded = [decode(image, LIMITS, min_side=CHIP_SIDE) for image in images]
        options = LargeFaceOptions() if self._largest else None
        return [(image, self._detector.pipeline.preprocess(image, options)) for image in decoded]

    @torch.inference_mode()
    def answer(self, requests: Sequence[list[tuple[Image, Prepared]]]) -> None:
        """Raises FaceNotFound where there must be one and is none."""
        images = [image for request in requests for image in request]
        found: list[Faces] = self._detector.run([prepared for _, prepared in images])
        again = [place for place, faces in enumerate(found) if self._largest and not settled(faces)]
        if again:
            prepared = [self._detector.pipeline.preprocess(images[place][0], None) for place in again]
            for place, faces in zip(again, self._detector.run(prepared), strict=True):
                found[place] = faces
        chips: list[Prepared] = []
        embedder = self._embedder.pipeline
        for (image, _), faces in zip(images, found, strict=True):
            chosen = [select_face(faces)] if self._largest else faces.items
            crops = cut_faces(image, chosen, embedder.card.space.template)
            chips += [embedder.preprocess(crop, None) for crop in crops]
        for start in range(0, len(chips), self._most):
            self._embedder.run(chips[start : start + self._most])


def make_chain(work: Work, threads: int, batches: Sequence[int]) -> Chain:
    """Loads a task's models and warms them for these batch sizes, on so many threads of this process."""
    torch.set_num_threads(threads)
    settings = Settings(threads=threads, workers=1)
    store = Store(settings.weights_dir)
    stages = []
    for name in work.models:
        pipeline = registry.build(name, Catalogue(), store)
        executor = make_executor(pipeline, settings, store.networks)
        stages.append(Stage(pipeline.with_stages(executor.stages), executor))
        for example in pipeline.examples:
            executor.warm(example, batches)
    if work.embedder is None:
        return Painted(stages[0]) if stages[0].pipeline.card.task is Kind.STYLE else OneModel(stages[0])
    return FacesEmbedded(*stages, largest=work.largest, most=max(batches))
