"""How far a threshold can be trusted on one's own images.

    python -m models.training.faces.calibrate FOLDER --fmr 0.001 --plot roc.png
    python -m models.training.faces.calibrate PAIRS.csv

A folder holds a folder of images for each person; every pair of images is tried. A CSV has the columns
``a``, ``b`` (images, beside the CSV unless absolute) and ``same`` (1 or 0). Of an image, the largest face
counts.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models import registry
from models.errors import FaceNotFound, ModelError, ParameterInvalid
from models.image import decode
from models.pipeline import Pipeline
from models.training.faces.offline import embed, embed_people, people_of
from models.weights import Store, standard_catalogue


@dataclass(frozen=True, slots=True)
class Roc:
    """What each threshold does: receiver operating characteristic of labelled distances.

    Attributes:
        thresholds: float64 [T], rising; the first accepts nothing. A pair matches when its distance is not
            above the threshold.
        fmr: float64 [T], false-match rate: the share of different people's pairs that match.
        tmr: float64 [T], true-match rate: the share of one person's pairs that match.
    """

    thresholds: NDArray[np.float64]
    fmr: NDArray[np.float64]
    tmr: NDArray[np.float64]

    @property
    def auc(self) -> float:
        """Area under the curve: the chance that a same pair is nearer than a different one (ties: half)."""
        return float(np.trapezoid(self.tmr, self.fmr))

    def threshold_at(self, fmr: float) -> float:
        """The threshold with a false-match rate of at most `fmr`, midway to the next distance."""
        last = int(np.flatnonzero(self.fmr <= fmr)[-1])
        return self._between(last)

    def best(self, same: int, different: int) -> float:
        """The threshold that is right most often for so many pairs of each kind, midway to the next one."""
        right = self.tmr * same + (1 - self.fmr) * different
        return self._between(int(right.argmax()))

    def _between(self, index: int) -> float:
        low = max(float(self.thresholds[index]), 0.0)
        if index + 1 == len(self.thresholds):
            return low
        high = float(self.thresholds[index + 1])
        middle = (low + high) / 2
        return middle if middle < high else low  # the next distance itself must stay out


def roc(distances: NDArray[np.float64], same: NDArray[np.bool_]) -> Roc:
    """The curve of distances [K] and whether each is of one person [K].

    Raises:
        ParameterInvalid: not one pair of each kind, or a distance that is not finite.
    """
    positives, negatives = int(same.sum()), int((~same).sum())
    if not positives or not negatives or not np.isfinite(distances).all():
        raise ParameterInvalid("pairs", "pairs of one person and of different people are needed, both")
    order = np.argsort(distances, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(distances[order]) > 0, True))  # equal distances match together
    true, false = np.cumsum(same[order])[ends], np.cumsum(~same[order])[ends]
    return Roc(
        np.concatenate(([-1.0], distances[order][ends])),
        np.concatenate(([0.0], false / negatives)),
        np.concatenate(([0.0], true / positives)),
    )


def pair_distances(
    vectors: torch.Tensor, labels: torch.Tensor
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Euclidean distances of all pairs of Tensor[M, D], and whether their labels Tensor[M] agree."""
    first, second = torch.triu_indices(len(vectors), len(vectors), 1)
    apart = (vectors[first].double() - vectors[second].double()).norm(dim=1)
    return apart.numpy(), (labels[first] == labels[second]).numpy()


def read_pairs(
    path: Path, detector: Pipeline, embedder: Pipeline
) -> tuple[NDArray[np.float64], NDArray[np.bool_], list[Path]]:
    """Distances and labels of a CSV's pairs, and the images without a face (their pairs are left out).

    Raises:
        ParameterInvalid: a column is missing or `same` is neither 1 nor 0.
    """
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    if (
        not rows
        or not {"a", "b", "same"} <= rows[0].keys()
        or any(row["same"] not in ("0", "1") for row in rows)
    ):
        raise ParameterInvalid("pairs", f"{path.name} must have the columns a, b and same (1 or 0)")
    vectors: dict[Path, NDArray[np.float64]] = {}
    without: list[Path] = []
    for image in sorted({path.parent / row[side] for row in rows for side in ("a", "b")}):
        try:
            vectors[image] = embed(decode(image.read_bytes()), detector, embedder)[0].vector.astype(
                np.float64
            )
        except FaceNotFound:
            without.append(image)
    sides = [(path.parent / row["a"], path.parent / row["b"], row["same"] == "1") for row in rows]
    known = [(a, b, same) for a, b, same in sides if a in vectors and b in vectors]
    distances = np.array([np.linalg.norm(vectors[a] - vectors[b]) for a, b, _ in known], dtype=np.float64)
    return distances, np.array([same for *_, same in known], dtype=np.bool_), without


def report(distances: NDArray[np.float64], same: NDArray[np.bool_], threshold: float, fmr: float) -> str:
    """What the command prints."""
    curve = roc(distances, same)
    positives, negatives = int(same.sum()), int((~same).sum())
    lines = [
        f"pairs                 {positives} of one person, {negatives} of different people",
        f"area under the curve  {curve.auc:.4f}",
        f"accuracy              {np.mean((distances <= threshold) == same):.4f} at the model's {threshold:g}",
    ]
    best = curve.best(positives, negatives)
    lines.append(f"best accuracy         {np.mean((distances <= best) == same):.4f} at {best:.4f}")
    target = curve.threshold_at(fmr)
    lines.append(f"threshold             {target:.4f} for a false-match rate of at most {fmr:g}")
    if fmr * negatives < 1:
        lines.append(f"                      (a rate that {negatives} pairs cannot tell from zero)")
    lines.append("false-match rate, true-match rate, threshold:")
    for rate in (0.0, 0.001, 0.01, 0.05, 0.1):
        index = int(np.flatnonzero(curve.fmr <= rate)[-1])
        lines.append(f"  {curve.fmr[index]:.4f}  {curve.tmr[index]:.4f}  {curve.threshold_at(rate):.4f}")
    return "\n".join(lines)


def plot(curve: Roc, path: Path) -> None:
    """Draws the curve (needs matplotlib)."""
    from matplotlib.figure import Figure  # needed by this tool only

    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.step(curve.fmr, curve.tmr, where="post")
    axes.set(
        xlabel="false-match rate", ylabel="true-match rate", title=f"area {curve.auc:.4f}", ylim=(0, 1.02)
    )
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m models.training.faces.calibrate SOURCE`."""
    parser = argparse.ArgumentParser(
        prog="python -m models.training.faces.calibrate", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("source", type=Path, help="a folder of people, or a CSV of pairs")
    parser.add_argument("--fmr", type=float, default=0.001, help="false-match rate to find a threshold for")
    parser.add_argument("--plot", type=Path, help="write the curve to this image")
    parser.add_argument("--skip", action="append", default=[], help="a folder of SOURCE that is no person's")
    parser.add_argument("--detector", default="mtcnn")
    parser.add_argument("--embedder", default="dlib-resnet")
    parser.add_argument("--catalogue", type=Path, help="an operator's own catalogue")
    parser.add_argument("--cache", type=Path, help="folder of fetched weights")
    args = parser.parse_args(argv)
    if not 0 <= args.fmr <= 1:
        parser.error("--fmr must be from 0 to 1")
    catalogue, store = standard_catalogue(args.catalogue), Store(args.cache)
    try:
        detector, embedder = (
            registry.build(name, catalogue, store) for name in (args.detector, args.embedder)
        )
        if args.source.is_dir():
            vectors, labels, without = embed_people(people_of(args.source, args.skip), detector, embedder)
            distances, same = pair_distances(vectors, labels)
        else:
            distances, same, without = read_pairs(args.source, detector, embedder)
        text = report(distances, same, embedder.card.space.threshold, args.fmr)
    except (ModelError, OSError) as exc:
        print(exc, file=sys.stderr)
        return 1
    for path in without:
        print(f"no face in {path}", file=sys.stderr)
    print(text)
    if args.plot:
        plot(roc(distances, same), args.plot)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
