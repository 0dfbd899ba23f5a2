"""Verification: its arithmetic, what it refuses, and real people through the whole chain."""

from __future__ import annotations

import itertools
import math
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import FaceNotFound, FacesMany, ParameterInvalid
from models.faces.result import Embedding, Face, Faces, FaceSelect
from models.faces.template import TEMPLATE
from models.faces.verify import compare, rank, select_face, stack
from models.pipeline import Card, FaceSpace, Kind
from tests.models.faces.portraits import embedder, portrait, portraits
from tests.paths import needs_shared

CARD = Card("small", Kind.EMBED, "none", "ab" * 32, face_space=FaceSpace(4, 0.6, TEMPLATE))
VECTORS = st.lists(st.floats(-1e3, 1e3, width=32), min_size=4, max_size=4).filter(lambda v: any(v))
POINTS = ((0.0, 0.0), (1.0, 0.0), (0.5, 0.5), (0.0, 1.0), (1.0, 1.0))


def embedding(values: list[float], model: str = CARD.sha256) -> Embedding:
    return Embedding(np.array(values, dtype=np.float32), model)


def face(side: float, score: float) -> Face:
    return Face((0.0, 0.0, side, side), score, POINTS)


@settings(deadline=None)
@given(VECTORS, VECTORS, st.floats(0, 5))
def test_the_numbers_are_the_textbooks(a: list[float], b: list[float], threshold: float) -> None:
    verdict = compare(embedding(a), embedding(b), CARD, threshold)
    distance = math.sqrt(math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True)))
    assert verdict.distance == pytest.approx(distance, rel=1e-9, abs=1e-12)
    lengths = math.hypot(*a) * math.hypot(*b)
    assert verdict.similarity == pytest.approx(
        math.fsum(x * y for x, y in zip(a, b, strict=True)) / lengths, abs=1e-9
    )
    assert verdict.verified == (verdict.distance <= threshold)
    assert (verdict.threshold, verdict.metric, verdict.model) == (threshold, "euclidean", CARD.sha256)
    other = compare(embedding(b), embedding(a), CARD, threshold)
    assert (other.distance, other.verified) == (verdict.distance, verdict.verified)
    assert compare(embedding(a), embedding(a), CARD).distance == 0


def test_large_numbers_do_not_overflow() -> None:
    verdict = compare(embedding([3e38, 0, 0, 0]), embedding([0, 3e38, 0, 0]), CARD)
    assert math.isfinite(verdict.distance)
    assert not verdict.verified
    assert verdict.threshold == 0.6


@pytest.mark.parametrize(
    ("a", "b", "parameter"),
    [
        (embedding([1, 2, 3]), embedding([1, 2, 3, 4]), "a.embedding"),
        (embedding([1, 2, 3, 4]), embedding([1, 2, 3, 4, 5]), "b.embedding"),
        (embedding([1, 2, 3, math.nan]), embedding([1, 2, 3, 4]), "a.embedding"),
        (embedding([1, 2, 3, 4]), embedding([1, 2, math.inf, 4]), "b.embedding"),
        (embedding([0, 0, 0, 0]), embedding([1, 2, 3, 4]), "a.embedding"),
        (embedding([1, 2, 3, 4], "cd" * 32), embedding([1, 2, 3, 4]), "a.model"),
        (embedding([1, 2, 3, 4]), embedding([1, 2, 3, 4], ""), "b.model"),
    ],
)
def test_what_cannot_be_compared_is_refused(a: Embedding, b: Embedding, parameter: str) -> None:
    with pytest.raises(ParameterInvalid) as caught:
        compare(a, b, CARD)
    assert caught.value.parameter == parameter


@pytest.mark.parametrize("threshold", [-0.1, math.nan, math.inf])
def test_a_threshold_must_be_a_distance(threshold: float) -> None:
    with pytest.raises(ParameterInvalid) as caught:
        compare(embedding([1, 2, 3, 4]), embedding([1, 2, 3, 4]), CARD, threshold)
    assert caught.value.parameter == "threshold"


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@settings(deadline=None)
@given(VECTORS, st.lists(VECTORS, min_size=1, max_size=12), st.floats(0, 5), st.integers(1, 14))
def test_a_ranking_is_that_of_its_pairs(
    metric: Literal["euclidean", "cosine"],
    probe: list[float],
    gallery: list[list[float]],
    threshold: float,
    top_k: int,
) -> None:
    card = Card("small", Kind.EMBED, "none", "ab" * 32, face_space=FaceSpace(4, 0.6, TEMPLATE, metric))
    vectors = [np.array(row, np.float32) for row in gallery]
    found = rank(embedding(probe).vector, stack("gallery", vectors, card), card, threshold, top_k)
    pairs = [compare(embedding(probe), embedding(row), card, threshold) for row in gallery]
    assert len(found.order) == min(top_k, len(gallery))
    assert len(set(found.order.tolist())) == len(found.order)
    for place, distance, similarity in zip(found.order, found.distances, found.similarities, strict=True):
        assert distance == pytest.approx(pairs[place].distance, rel=1e-9, abs=1e-12)
        assert similarity == pytest.approx(pairs[place].similarity, abs=1e-12)
    ranked = [(distance, place) for distance, place in zip(found.distances, found.order, strict=True)]
    assert ranked == sorted(ranked)  # of equal ones the earlier first
    left = set(range(len(gallery))) - set(found.order.tolist())
    assert all(pairs[place].distance >= found.distances[-1] - 1e-9 for place in left)
    assert (found.threshold, found.metric, found.model) == (threshold, metric, card.sha256)


@pytest.mark.parametrize(
    "wrong", [[1, 2, 3], [1, 2, 3, 4, 5], [0, 0, 0, 0], [1, 2, 3, math.nan], [1, math.inf, 3, 4]]
)
def test_what_a_gallery_must_not_hold(wrong: list[float]) -> None:
    good = np.ones(4, np.float32)
    with pytest.raises(ParameterInvalid) as caught:
        stack("gallery", [good, good, np.array(wrong, np.float32)], CARD)
    assert caught.value.parameter == "gallery.2.embedding"


def test_the_face_that_is_meant() -> None:
    several = Faces(100, 100, (face(10, 0.99), face(40, 0.95), face(20, 0.97)))
    assert select_face(several) == several.items[1]
    with pytest.raises(FacesMany, match="3 faces were found in image b") as many:
        select_face(several, FaceSelect.ONLY, "b")
    assert many.value.image == "b"
    with pytest.raises(FaceNotFound, match="in image a") as none:
        select_face(Faces(100, 100, ()), image="a")
    assert none.value.image == "a"
    assert select_face(Faces(100, 100, several.items[:1]), FaceSelect.ONLY) == several.items[0]


@needs_shared
def test_people_are_told_apart_at_the_default_threshold() -> None:
    shown = [(person, portrait(path)) for person, path in portraits()]
    assert all(len(one.embeddings) >= 1 for _, one in shown)
    right = []
    for (name_a, a), (name_b, b) in itertools.combinations(shown, 2):
        verdict = compare(a.embeddings[a.largest], b.embeddings[b.largest], embedder().card)
        right.append(verdict.verified == (name_a == name_b))
    assert len(right) >= 100
    assert sum(right) / len(right) >= 0.97


@needs_shared
def test_two_people_are_two_faces_of_two_people() -> None:
    shown = portrait("groups/two_people.jpg")
    assert len(shown.faces.items) == 2
    first, second = shown.embeddings
    assert not compare(first, second, embedder().card).verified


@needs_shared
def test_both_are_found_in_a_picture_of_both() -> None:
    shown = portrait("groups/obama_and_biden.jpg")
    # a child in the background makes a third face; the two men are the larger ones
    order = sorted(range(len(shown.faces.items)), key=lambda index: -shown.faces.items[index].area)
    obama, biden = portrait("obama/0.jpg"), portrait("biden/0.jpg")
    card = embedder().card

    def matches(one: Embedding) -> list[bool]:
        return [compare(one, shown.embeddings[index], card).verified for index in order]

    assert sum(matches(obama.embeddings[obama.largest])) == 1
    assert sum(matches(biden.embeddings[biden.largest])) == 1
    assert True in matches(obama.embeddings[obama.largest])[:2]
    assert True in matches(biden.embeddings[biden.largest])[:2]


@needs_shared
@pytest.mark.parametrize("path", ["groups/obama_partial_face.jpg", "groups/obama_partial_face2.jpg"])
def test_a_face_that_the_edge_cuts(path: str) -> None:
    """It is found and its box ends at the edge. Of a half or a third, enough is left to verify."""
    shown = portrait(path)
    assert len(shown.faces.items) == 1
    x1, _, x2, _ = shown.faces.items[0].box
    assert x1 == 0 or x2 == shown.faces.width
    for person, other in portraits():
        known = portrait(other)
        verdict = compare(known.embeddings[known.largest], shown.embeddings[0], embedder().card)
        assert verdict.verified == (person == "obama")
