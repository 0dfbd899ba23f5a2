"""Anchors: the box shapes that a detector's outputs start from, found by k-means on the shapes of a data set.

Redmon and Farhadi, "YOLO9000" (CVPR 2017, https://arxiv.org/abs/1612.08242), section 2, "Dimension Clusters":
the distance of two shapes is one minus the IoU they would have with a common centre, so that large boxes do
not count more than small ones. Seeds are k-means++ (Arthur and Vassilvitskii, SODA 2007).

    python -m models.training.yolo.anchors DATA/labels --count 9 --size 320 --plot anchors.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models import boxes
from models.training.yolo.folder import Folder

Shapes = NDArray[np.float64]
ROUNDS = 100
"""The most of one run of k-means."""


def shape_iou(shapes: Shapes, anchors: Shapes) -> Shapes:
    """IoU of shapes [N, 2] with anchors [K, 2], all (width, height) about one centre -> [N, K]."""
    a, b = (np.concatenate((-one / 2, one / 2), 1) for one in (shapes, anchors))
    return boxes.iou(a, b).astype(np.float64, copy=False)


def mean_best_iou(shapes: Shapes, anchors: Shapes) -> float:
    """How well anchors [K, 2] stand for shapes [N, 2]: the mean over shapes of the best IoU, 0 to 1."""
    return float(shape_iou(shapes, anchors).max(axis=1).mean())


def kmeans(shapes: Shapes, count: int, *, restarts: int = 8, seed: int = 0) -> Shapes:
    """The best of several runs of k-means with 1 - IoU for a distance.

    Args:
        shapes: float64 [N, 2], widths and heights, any unit, positive.
        count: how many anchors, 1 to the number of different shapes.
        restarts: runs, each from its own k-means++ seeds; the highest mean best IoU wins.
        seed: of the random generator; the same one gives the same anchors.

    Returns:
        float64 [count, 2], by rising area.

    Raises:
        ValueError: a shape without area, or fewer different shapes than anchors.
    """
    shapes = np.asarray(shapes, dtype=np.float64)
    if not (shapes > 0).all():
        raise ValueError("every shape needs a width and a height above zero")
    if not 1 <= count <= len(np.unique(shapes, axis=0)):
        raise ValueError("count must be from 1 to the number of different shapes")
    random = np.random.default_rng(seed)
    runs = [_run(shapes, _seeds(shapes, count, random)) for _ in range(restarts)]
    best = max(runs, key=lambda anchors: mean_best_iou(shapes, anchors))
    ordered: Shapes = best[best.prod(axis=1).argsort(kind="stable")]
    return ordered


def _seeds(shapes: Shapes, count: int, random: np.random.Generator) -> Shapes:
    chosen: Shapes = shapes[random.integers(len(shapes))][None]
    while len(chosen) < count:
        far = (1 - shape_iou(shapes, chosen).max(axis=1)).clip(min=0) ** 2
        chosen = np.concatenate((chosen, shapes[random.choice(len(shapes), p=far / far.sum())][None]))
    return chosen


def _run(shapes: Shapes, anchors: Shapes) -> Shapes:
    owner = None
    for _ in range(ROUNDS):
        nearest = shape_iou(shapes, anchors).argmax(axis=1)
        if owner is not None and (nearest == owner).all():
            break
        owner = nearest
        # the median minimises a sum of distances; a cluster that lost all its members stays where it was
        anchors = np.stack(
            [
                np.median(shapes[owner == index], axis=0) if (owner == index).any() else anchor
                for index, anchor in enumerate(anchors)
            ]
        )
    return anchors


def shapes_of(folder: Folder, size: int) -> Shapes:
    """Widths and heights [N, 2] of a folder's boxes, in pixels of a letterbox of `size` x `size`."""
    found = [np.zeros((0, 2))]
    for sample in folder.samples:
        width, height = sample.size
        found.append(sample.boxes[:, 3:5] * (width, height) * (size / max(width, height)))
    shapes = np.concatenate(found)
    return shapes[(shapes > 0).all(axis=1)]


def plot(shapes: Shapes, anchors: Shapes, path: Path) -> None:
    """Draws the shapes as points and the anchors as outlines about one corner."""
    from matplotlib.figure import Figure  # not needed to serve

    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.add_subplot(xlabel="width, pixels", ylabel="height, pixels")
    axes.scatter(shapes[:, 0], shapes[:, 1], s=2, alpha=0.3, linewidths=0)
    for width, height in anchors:
        axes.plot((0, width, width), (height, height, 0), color="black", linewidth=1)
        axes.plot(width, height, "o", color="tab:red", markersize=4)
    axes.set_title(f"{len(anchors)} anchors, mean best IoU {mean_best_iou(shapes, anchors):.3f}")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command: prints the anchors and how well they fit, draws them if asked to."""
    parser = argparse.ArgumentParser(prog="python -m models.training.yolo.anchors", description=main.__doc__)
    parser.add_argument("labels", type=Path, help="folder of YOLO label files, beside a folder images/")
    parser.add_argument("--count", type=int, default=9)
    parser.add_argument("--size", type=int, default=320, help="side of the network's input, pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help="where to draw boxes and anchors (.png, .svg)")
    options = parser.parse_args(arguments)
    shapes = shapes_of(Folder.read(options.labels.parent, labels=options.labels.name), options.size)
    anchors = kmeans(shapes, options.count, seed=options.seed)
    print(f"{len(shapes)} boxes, mean best IoU {mean_best_iou(shapes, anchors):.4f}")
    print("anchors:", " ".join(f"{width:.1f},{height:.1f}" for width, height in anchors))
    if options.plot is not None:
        plot(shapes, anchors, options.plot)


if __name__ == "__main__":
    main()
