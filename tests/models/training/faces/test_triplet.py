"""The triplet loss against a slow reading of the paper, and heads that are trained, stored and served."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.builders.dlib_resnet import build, read_head
from models.errors import ParameterInvalid
from models.faces.result import Embedding
from models.faces.verify import compare
from models.training.faces.calibrate import pair_distances
from models.training.faces.offline import run
from models.training.faces.triplet import Recipe, best_threshold, save, train, triplet_loss
from models.weights import Catalogue, File, sha256_of
from tests.models.faces.portraits import embedder, files, portrait, portraits
from tests.paths import needs_shared


def slow_loss(embeddings: Tensor, labels: list[int], margin: float) -> float:
    def apart(i: int, j: int) -> float:
        return math.fsum((a - b) ** 2 for a, b in zip(rows[i], rows[j], strict=True))

    losses = []
    count, rows = len(labels), embeddings.tolist()
    for anchor in range(count):
        strangers = [apart(anchor, n) for n in range(count) if labels[n] != labels[anchor]]
        for positive in range(count):
            if positive == anchor or labels[positive] != labels[anchor] or not strangers:
                continue
            near = apart(anchor, positive)
            beyond = [far for far in strangers if far > near]
            negative = min(beyond) if beyond else max(strangers)
            losses.append(max(0.0, near - negative + margin))
    return sum(losses) / len(losses) if losses else 0.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.floats(0, 2), st.integers(0, 2**16))
def test_the_loss_is_the_papers(labels: list[int], margin: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(len(labels), 3, generator=generator, dtype=torch.float64, requires_grad=True)
    loss = triplet_loss(vectors, torch.tensor(labels), margin)
    assert loss.item() == pytest.approx(slow_loss(vectors.detach(), labels, margin), abs=1e-9)
    loss.backward()
    assert vectors.grad is not None
    assert vectors.grad.isfinite().all()


def people(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Eight people in four dimensions that say who they are, and four that say nothing, loudly."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(8).repeat_interleave(6)
    centres = torch.randn(8, 4, generator=generator)
    own = centres[labels] + 0.2 * torch.randn(48, 4, generator=generator)
    return torch.cat((own, 1.5 * torch.randn(48, 4, generator=generator)), 1), labels


def overlap(vectors: Tensor, labels: Tensor) -> float:
    """The share of pairs of strangers that are nearer than the median pair of one person."""
    distances, same = pair_distances(vectors, labels)
    return float((distances[~same] < np.median(distances[same])).mean())


def test_training_separates_people_it_has_not_seen() -> None:
    vectors, labels = people()
    seen = labels < 5
    weight = train(vectors[seen], labels[seen], Recipe(steps=300, learning_rate=0.01, stay=1e-3))
    unseen = vectors[~seen], labels[~seen]
    assert overlap(unseen[0] @ weight.t(), unseen[1]) < 0.5 * overlap(*unseen)
    assert best_threshold(unseen[0] @ weight.t(), unseen[1])[1] > best_threshold(*unseen)[1]


def test_the_seed_decides() -> None:
    vectors, labels = people()
    recipe = Recipe(steps=15)
    assert torch.equal(train(vectors, labels, recipe), train(vectors, labels, recipe))
    other = train(vectors, labels, dataclasses.replace(recipe, seed=1))
    assert not torch.equal(train(vectors, labels, recipe), other)
    assert torch.equal(train(vectors, labels, Recipe(steps=0)), torch.eye(8))


def test_it_needs_people() -> None:
    for labels in ([0, 0, 0], [0, 1, 2]):
        with pytest.raises(ParameterInvalid):
            train(torch.randn(3, 4), torch.tensor(labels), Recipe(steps=1))


def test_a_head_is_stored_with_what_it_belongs_to(tmp_path: Path) -> None:
    weight = torch.randn(128, 128, generator=torch.Generator().manual_seed(0))
    save(tmp_path / "a", weight, "ab" * 32, 0.7, Recipe())
    save(tmp_path / "b", weight, "ab" * 32, 0.7, Recipe())
    assert sha256_of(tmp_path / "a") == sha256_of(tmp_path / "b")
    found, threshold = read_head(tmp_path / "a", "ab" * 32)
    np.testing.assert_array_equal(found, weight)
    assert threshold == 0.7


@needs_shared
def test_a_head_for_the_shared_people_serves(tmp_path: Path) -> None:
    shown = [(person, portrait(path)) for person, path in portraits()]
    names = sorted({person for person, _ in shown})
    vectors = torch.stack([torch.from_numpy(one.embeddings[one.largest].vector) for _, one in shown])
    labels = torch.tensor([names.index(person) for person, _ in shown])
    recipe = Recipe(steps=100, margin=0.6)
    weight = train(vectors, labels, recipe)
    projected = vectors @ weight.t()
    assert triplet_loss(projected, labels, recipe.margin) < triplet_loss(vectors, labels, recipe.margin)
    threshold, accuracy = best_threshold(projected, labels)
    assert accuracy >= 0.97

    entry, path = Catalogue()["dlib-resnet"], tmp_path / "head.safetensors"
    save(path, weight, entry.files["weights"].sha256, threshold, recipe)
    head = File("file", str(path), sha256_of(path))
    adapted = build(
        dataclasses.replace(entry, files={**entry.files, "head": head}),
        {**files("dlib-resnet"), "head": path},
    )
    pair = [one.chips[one.largest] for person, one in shown if person == "obama"][:2]
    first, second = run(adapted, pair)
    assert isinstance(first, Embedding)
    assert isinstance(second, Embedding)
    assert compare(first, second, adapted.card).verified
    plain = shown[0][1].embeddings[0]
    with pytest.raises(ParameterInvalid, match="another model"):
        compare(first, plain, adapted.card)
    with pytest.raises(ParameterInvalid, match="another model"):
        compare(plain, first, embedder().card)
