"""What the tests of faces share: the models from the local store, and the people of the shared data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from models import registry
from models.errors import WeightsError
from models.faces.align import cut_faces
from models.faces.embedder import EmbedderPipeline
from models.faces.mtcnn.pipeline import MtcnnPipeline, build
from models.faces.result import Embedding, Face, Faces
from models.image import Image, decode
from models.training.faces.offline import people_of, run
from models.weights import Catalogue, Store
from tests.paths import SHARED

FACES = SHARED / "data" / "faces"


@dataclass(frozen=True)
class Portrait:
    """A picture, what was found in it, and its faces' chips and embeddings, all by falling score."""

    image: Image
    faces: Faces
    chips: list[Image]
    embeddings: list[Embedding]

    @property
    def largest(self) -> int:
        """Index of the largest face."""

        def size(index: int) -> float:
            face: Face = self.faces.items[index]
            return face.area

        return max(range(len(self.faces.items)), key=size)


@cache
def files(name: str) -> dict[str, Path]:
    """The verified files of a model; the test skips where they have not been fetched."""
    try:
        return Store().files(Catalogue()[name])
    except WeightsError as error:
        pytest.skip(str(error))


@cache
def dat() -> Path:
    """dlib's own file, before its conversion."""
    files("dlib-resnet")
    return Store().originals(Catalogue()["dlib-resnet"])["weights"]


@cache
def detector() -> MtcnnPipeline:
    files("mtcnn")
    pipeline = registry.build("mtcnn", Catalogue(), Store())
    assert isinstance(pipeline, MtcnnPipeline)
    return pipeline


@cache
def embedder() -> EmbedderPipeline:
    files("dlib-resnet")
    pipeline = registry.build("dlib-resnet", Catalogue(), Store())
    assert isinstance(pipeline, EmbedderPipeline)
    return pipeline


def mtcnn_with(**options: Any) -> MtcnnPipeline:
    """The detector with other settings."""
    return build(dataclasses.replace(Catalogue()["mtcnn"], options=options), files("mtcnn"))


@cache
def picture(path: str) -> Image:
    """A picture of the shared faces, such as ``obama/0.jpg``."""
    return decode((FACES / path).read_bytes())


@cache
def portrait(path: str) -> Portrait:
    """A picture of the shared faces through the whole chain."""
    image = picture(path)
    (faces,) = run(detector(), [image])
    assert isinstance(faces, Faces)
    chips = cut_faces(image, faces.items, embedder().card.space.template)
    embeddings = [item for item in run(embedder(), chips) if isinstance(item, Embedding)] if chips else []
    return Portrait(image, faces, chips, embeddings)


def portraits() -> list[tuple[str, str]]:
    """(person, path) of every picture that shows one known person."""
    people = people_of(FACES, skip=["groups"])
    return [(person, f"{person}/{path.name}") for person, paths in people.items() for path in paths]
