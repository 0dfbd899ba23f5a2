"""Adapts face verification to one's own people: a projection behind the network, trained on triplets.

    python -m models.training.faces.triplet FOLDER --out head.safetensors

A folder holds a folder of images for each person. The network stays as it is: two copies of one network
(Siamese) share one linear projection, and only that is trained, so a few dozen images do. Serve it by an
entry of one's own catalogue with the builder ``dlib_resnet`` and the result as the file ``head``; its
threshold should be checked with `models.training.faces.calibrate` on people that it was not trained on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from models import registry
from models.errors import ModelError, ParameterInvalid
from models.training.faces.calibrate import pair_distances, roc
from models.training.faces.offline import embed_people, people_of
from models.weights import Store, standard_catalogue


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a head is trained.

    Attributes:
        steps: updates.
        people, images: of a batch: so many people, so many embeddings of each, drawn with replacement.
        margin: by which a stranger must be farther than a second image of oneself, in squared distance.
        learning_rate: of Adam.
        stay: weight of the squared change of the projection, which starts as the identity: a few
            images must not undo the network's training.
        seed: of everything that is drawn.
    """

    steps: int = 300
    people: int = 8
    images: int = 4
    margin: float = 0.4
    learning_rate: float = 1e-3
    stay: float = 1e-2
    seed: int = 0


def triplet_loss(embeddings: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Triplet loss with semi-hard negatives, mined in the batch.

    Schroff, Kalenichenko, Philbin, "FaceNet" (CVPR 2015, https://arxiv.org/abs/1503.03832), section 3.2. Of
    every pair of anchor and positive, the negative is the nearest of those that are farther from the anchor
    than the positive; where none is farther, the farthest there is, since the hardest ones early in training
    make a network collapse.

    Args:
        embeddings: float Tensor[B, D].
        labels: integer Tensor[B].
        margin: in squared Euclidean distance.

    Returns:
        Scalar: the mean of max(0, d(a, p) - d(a, n) + margin) over all ordered pairs (a, p) whose anchor has
            a negative; zero where there is no such pair.
    """
    # from differences and not from |a|^2 + |b|^2 - 2ab, which loses the small distances that matter here
    distances = (embeddings[:, None] - embeddings[None]).square().sum(-1)  # [B, B]
    alike = labels[:, None] == labels[None]
    different = ~alike
    anchors, positives = (alike & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)).nonzero(
        as_tuple=True
    )
    usable = different.any(1)[anchors]
    anchors, positives = anchors[usable], positives[usable]
    if not len(anchors):
        return embeddings.sum() * 0
    near = distances[anchors, positives]  # [K]
    far = distances[anchors]  # [K, B]
    eligible = different[anchors]
    beyond = eligible & (far > near[:, None])
    semi_hard = far.masked_fill(~beyond, float("inf")).amin(1)
    farthest = far.masked_fill(~eligible, float("-inf")).amax(1)
    negative = torch.where(beyond.any(1), semi_hard, farthest)
    return (near - negative + margin).relu().mean()


def train(vectors: Tensor, labels: Tensor, recipe: Recipe) -> Tensor:
    """Trains a projection: vectors Tensor[M, D], labels int64 Tensor[M] -> float32 Tensor[D, D]; y = W x.

    Raises:
        ParameterInvalid: fewer than two people, or no one with two embeddings.
    """
    members = [(labels == label).nonzero()[:, 0] for label in labels.unique()]
    if len(members) < 2 or max(len(own) for own in members) < 2:
        raise ParameterInvalid("people", "two people are needed, and two images of one of them")
    generator = torch.Generator().manual_seed(recipe.seed)
    identity = torch.eye(vectors.shape[1])
    weight = identity.clone().requires_grad_()
    optimiser = torch.optim.Adam([weight], lr=recipe.learning_rate)
    for _ in range(recipe.steps):
        drawn = torch.randperm(len(members), generator=generator)[: recipe.people].tolist()
        batch = torch.cat(
            [
                members[who][torch.randint(len(members[who]), (recipe.images,), generator=generator)]
                for who in drawn
            ]
        ).unique()  # an embedding is no positive of itself
        loss = triplet_loss(vectors[batch] @ weight.t(), labels[batch], recipe.margin)
        loss = loss + recipe.stay * (weight - identity).square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return weight.detach()


def save(path: Path, weight: Tensor, base: str, threshold: float, recipe: Recipe) -> None:
    """Writes a head that `models.builders.dlib_resnet.read_head` reads; the same head gives the same bytes.

    Args:
        path: the safetensors file.
        weight: float32 Tensor[D, D].
        base: hex SHA-256 of the network's weights.
        threshold: distance of one person's faces behind this head.
        recipe: noted in the metadata.
    """
    about = {
        "base": base,
        "threshold": threshold,
        **{name: getattr(recipe, name) for name in ("steps", "margin", "seed")},
    }
    # one key: the order of several is not fixed
    save_file({"weight": weight.contiguous()}, path, metadata={"head": json.dumps(about, sort_keys=True)})


def best_threshold(vectors: Tensor, labels: Tensor) -> tuple[float, float]:
    """The distance that separates these people most often, and how often: all pairs of Tensor[M, D]."""
    distances, same = pair_distances(vectors, labels)
    threshold = roc(distances, same).best(int(same.sum()), int((~same).sum()))
    return threshold, float(((distances <= threshold) == same).mean())


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m models.training.faces.triplet FOLDER --out HEAD`."""
    recipe = Recipe()
    parser = argparse.ArgumentParser(
        prog="python -m models.training.faces.triplet", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("folder", type=Path, help="a folder of people")
    parser.add_argument("--out", type=Path, required=True, help="the head, safetensors")
    parser.add_argument("--steps", type=int, default=recipe.steps)
    parser.add_argument("--margin", type=float, default=recipe.margin)
    parser.add_argument("--seed", type=int, default=recipe.seed)
    parser.add_argument("--skip", action="append", default=[], help="a folder of FOLDER that is no person's")
    parser.add_argument("--cache", type=Path, help="folder of fetched weights")
    args = parser.parse_args(argv)
    recipe = Recipe(steps=args.steps, margin=args.margin, seed=args.seed)
    catalogue, store = standard_catalogue(), Store(args.cache)
    try:
        detector, embedder = (registry.build(name, catalogue, store) for name in ("mtcnn", "dlib-resnet"))
        people = people_of(args.folder, args.skip)
        vectors, labels, without = embed_people(people, detector, embedder, mirror=True)
        weight = train(vectors, labels, recipe)
        before, after = best_threshold(vectors, labels), best_threshold(vectors @ weight.t(), labels)
        save(args.out, weight, embedder.card.sha256, after[0], recipe)
    except (ModelError, OSError) as exc:
        print(exc, file=sys.stderr)
        return 1
    for path in without:
        print(f"no face in {path}", file=sys.stderr)
    print(f"{len(people)} people, {len(vectors)} embeddings")
    print(
        f"accuracy on them: {before[1]:.4f} at {before[0]:.4f} before, {after[1]:.4f} at {after[0]:.4f} after"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
