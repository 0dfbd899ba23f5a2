"""Whether two faces are one person's: the distance of their embeddings against a threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from models.errors import FaceNotFound, FacesMany, ParameterInvalid
from models.faces.result import Embedding, Face, Faces
from models.pipeline import Card

FaceSelect = Literal["largest", "only"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to a comparison.

    Attributes:
        verified: whether the distance is at most the threshold.
        distance: as `metric` has it, 0 or more; smaller is more alike.
        similarity: the cosine, -1 to 1; for information only.
        threshold: the distance that decided.
        metric: what `distance` is: ``euclidean``, or ``cosine``: 1 - the cosine.
        model: hex SHA-256 of the weights that both embeddings came from.
    """

    verified: bool
    distance: float
    similarity: float
    threshold: float
    metric: str
    model: str


def select_face(faces: Faces, how: FaceSelect = "largest", image: str | None = None) -> Face:
    """Selects the face of an image.

    Args:
        faces: what the detector found.
        how: ``largest`` by the area of its box, or ``only``: there must be just one.
        image: the image's name (``a`` or ``b``) for the errors.

    Raises:
        FaceNotFound: there is none.
        FacesMany: ``only``, and there are several.
        ParameterInvalid: `how` is neither.
    """
    if how not in ("largest", "only"):
        raise ParameterInvalid("face_select", "face_select must be largest or only")
    named = f"image {image}" if image else "the image"
    if not faces.items:
        raise FaceNotFound(f"no face was found in {named}", image)
    if how == "only" and len(faces.items) > 1:
        raise FacesMany(f"{len(faces.items)} faces were found in {named}, face_select=only wants one", image)
    return max(faces.items, key=lambda face: face.area)


def compare(a: Embedding, b: Embedding, card: Card, threshold: float | None = None) -> Verdict:
    """Compares two embeddings.

    Args:
        a, b: two vectors of the model.
        card: the model's, whose `sha256` they must carry; it has a `face_space`.
        threshold: largest distance of one person's faces; None means the model's own.

    Raises:
        ParameterInvalid: a vector of another model, of the wrong length, of zeros, or not finite (parameters
            ``a.model``, ``b.embedding`` and so on), or a threshold that is negative or not finite.
    """
    space = card.space
    limit = space.threshold if threshold is None else threshold
    if not (limit >= 0 and math.isfinite(limit)):
        raise ParameterInvalid("threshold", "threshold must be a number of zero or more")
    for name, side in (("a", a), ("b", b)):
        _check(name, side, card)
    # in float64: the square of a large float32 must not overflow
    first, second = a.vector.astype(np.float64), b.vector.astype(np.float64)
    cosine = float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))
    cosine = max(-1.0, min(1.0, cosine))
    distance = 1 - cosine if space.metric == "cosine" else float(np.linalg.norm(first - second))
    return Verdict(distance <= limit, distance, cosine, limit, space.metric, card.sha256)


def _check(name: str, side: Embedding, card: Card) -> None:
    if side.model != card.sha256:
        raise ParameterInvalid(f"{name}.model", f"the embedding {name} is of another model than {card.name}")
    dimensions = card.space.dimensions
    if side.vector.shape != (dimensions,):
        raise ParameterInvalid(f"{name}.embedding", f"an embedding of {card.name} has {dimensions} numbers")
    if not np.isfinite(side.vector).all():
        raise ParameterInvalid(f"{name}.embedding", f"the embedding {name} holds numbers that are not finite")
    if not side.vector.any():
        raise ParameterInvalid(f"{name}.embedding", f"the embedding {name} is zero")
