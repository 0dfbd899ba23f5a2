"""The whole way from images to embeddings, offline: for calibration and for training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.errors import FaceNotFound, WeightsError
from models.faces.align import cut_faces
from models.faces.result import Embedding, Faces
from models.faces.verify import select_face
from models.image import Image, decode
from models.pipeline import Pipeline, eager
from models.training.yolo.folder import SUFFIXES


def run(pipeline: Pipeline, images: Sequence[Image]) -> list[object]:
    """A pipeline on a few images, in this process, as one batch."""
    prepared = [pipeline.preprocess(image) for image in images]
    outputs = eager(pipeline.module, np.stack([item.inputs[0] for item in prepared]))
    return pipeline.postprocess(outputs, [item.context for item in prepared])


def embed(image: Image, detector: Pipeline, embedder: Pipeline, *, mirror: bool = False) -> list[Embedding]:
    """The embedding of an image's largest face; with `mirror`, that of its mirror image besides.

    Raises:
        FaceNotFound: there is none.
    """
    (faces,) = run(detector, [image])
    if not isinstance(faces, Faces):
        raise WeightsError(f"{detector.card.name} does not detect faces")
    chips = cut_faces(image, [select_face(faces)], embedder.card.space.template)
    if mirror:
        chips.append(Image(chips[0].pixels[:, ::-1].copy(), chips[0].width, chips[0].height))
    found = [item for item in run(embedder, chips) if isinstance(item, Embedding)]
    if len(found) != len(chips):
        raise WeightsError(f"{embedder.card.name} does not embed faces")
    return found


def people_of(folder: Path, skip: Iterable[str]) -> dict[str, list[Path]]:
    """The images of each person in a folder that holds one folder a person, in the order of their names."""
    left_out = set(skip)
    people = {}
    for person in sorted(path for path in folder.iterdir() if path.is_dir() and path.name not in left_out):
        images = sorted(path for path in person.iterdir() if path.suffix.lower() in SUFFIXES)
        if images:
            people[person.name] = images
    return people


def embed_people(
    people: dict[str, list[Path]], detector: Pipeline, embedder: Pipeline, *, mirror: bool = False
) -> tuple[Tensor, Tensor, list[Path]]:
    """The largest face of every image.

    Returns:
        float32 Tensor[M, D], int64 Tensor[M] (the person's number in `people`), and images without a face.
    """
    vectors, labels, without = [], [], []
    for label, images in enumerate(people.values()):
        for path in images:
            try:
                found = embed(decode(path.read_bytes()), detector, embedder, mirror=mirror)
            except FaceNotFound:
                without.append(path)
                continue
            vectors += [torch.from_numpy(item.vector) for item in found]
            labels += [label] * len(found)
    dimensions = embedder.card.space.dimensions
    stacked = torch.stack(vectors) if vectors else torch.zeros(0, dimensions)
    return stacked, torch.tensor(labels, dtype=torch.int64), without
