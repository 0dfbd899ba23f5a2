"""Whether two faces are one person's: the distance of their embeddings against a threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.errors import FaceNotFound, FacesMany, ParameterInvalid
from models.faces.result import Embedding, Face, Faces, FaceSelect
from models.pipeline import Card


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


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """A probe among the embeddings of a gallery.

    Attributes:
        order: int64 [K], places in the gallery of the K nearest by distance; of equal ones the earlier first.
        distances: float64 [K], theirs, as `metric` has them.
        similarities: float64 [K], their cosines, -1 to 1.
        threshold, metric, model: as of `Verdict`; verified are those whose distance is at most `threshold`.
    """

    order: NDArray[np.int64]
    distances: NDArray[np.float64]
    similarities: NDArray[np.float64]
    threshold: float
    metric: str
    model: str


def select_face(faces: Faces, how: FaceSelect = FaceSelect.LARGEST, image: str | None = None) -> Face:
    """Selects the face of an image.

    Args:
        faces: what the detector found.
        how: the largest is that by the area of its box.
        image: the image's name (``a`` or ``b``) for the errors.

    Raises:
        FaceNotFound: there is none.
        FacesMany: the only one is wanted, and there are several.
    """
    named = f"image {image}" if image else "the image"
    if not faces.items:
        raise FaceNotFound(f"no face was found in {named}", image)
    if how is FaceSelect.ONLY and len(faces.items) > 1:
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
    limit = _limit(card, threshold)
    for name, side in (("a", a), ("b", b)):
        if side.model != card.sha256:
            what = f"the embedding {name} is of another model than {card.name}"
            raise ParameterInvalid(f"{name}.model", what)
        check_embedding(f"{name}.embedding", side.vector, card)
    distances, cosines = _distances(a.vector, b.vector[None], card.space.metric)
    distance, metric = float(distances[0]), card.space.metric
    return Verdict(distance <= limit, distance, float(cosines[0]), limit, metric, card.sha256)


def rank(
    probe: NDArray[np.float32],
    gallery: NDArray[np.float32],
    card: Card,
    threshold: float | None = None,
    top_k: int | None = None,
) -> Ranking:
    """Compares an embedding with each of a gallery: 1:N identification by exhaustive search.

    Args:
        probe: [D], as `check_embedding` accepts it.
        gallery: [N, D], each likewise.
        card: of the model that all of them came from; it has a `face_space`.
        threshold: as of `compare`.
        top_k: how many to rank; None means all.

    Raises:
        ParameterInvalid: a threshold that is negative or not finite.
    """
    limit = _limit(card, threshold)
    distances, cosines = _distances(probe, gallery, card.space.metric)
    order = np.argsort(distances, kind="stable")[:top_k]
    return Ranking(order, distances[order], cosines[order], limit, card.space.metric, card.sha256)


def stack(name: str, vectors: Sequence[NDArray[np.float32]], card: Card) -> NDArray[np.float32]:
    """The embeddings of a gallery, float32 [N, D].

    Args:
        name: of the gallery, for the errors.
        vectors: at least one.
        card: of their model.

    Raises:
        ParameterInvalid: one that `check_embedding` refuses: parameter ``gallery.3.embedding``.
    """
    for index, vector in enumerate(vectors):
        check_embedding(f"{name}.{index}.embedding", vector, card)
    return np.stack(vectors)


def check_embedding(name: str, vector: NDArray[np.float32], card: Card) -> None:
    """
    Args:
        name: of the parameter that it is.
        vector: the embedding.
        card: of its model.

    Raises:
        ParameterInvalid: it is of the wrong length, of zeros, or not finite.
    """
    dimensions = card.space.dimensions
    if vector.shape != (dimensions,):
        what = f"an embedding of {card.name} has {dimensions} numbers; {name} has {vector.size}"
        raise ParameterInvalid(name, what)
    if not np.isfinite(vector).all():
        raise ParameterInvalid(name, f"{name} holds numbers that are not finite")
    if not vector.any():
        raise ParameterInvalid(name, f"{name} is zero")


def _limit(card: Card, threshold: float | None) -> float:
    limit = card.space.threshold if threshold is None else threshold
    if not (limit >= 0 and math.isfinite(limit)):
        raise ParameterInvalid("threshold", "threshold must be a number of zero or more")
    return limit


def _distances(
    probe: NDArray[np.float32], gallery: NDArray[np.float32], metric: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[D] and [N, D] -> distances [N] and cosines [N]."""
    # in float64: the square of a large float32 must not overflow
    one, many = probe.astype(np.float64), gallery.astype(np.float64)
    cosines = np.clip(many @ one / (np.linalg.norm(many, axis=1) * np.linalg.norm(one)), -1.0, 1.0)
    distances = 1 - cosines if metric == "cosine" else np.linalg.norm(many - one, axis=1)
    return distances, cosines
