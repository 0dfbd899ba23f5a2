"""Images and boxes for training: a fixed split, decoded once, batches prepared ahead."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from models.image import decode, fitted
from models.training.yolo.augment import Augment, LabelledImage
from models.training.yolo.folder import Folder, Sample

HELD_OUT_IN = 9


def held_out(name: str) -> bool:
    """Whether the image of this file name (without suffix) is kept for choosing and never trained on.

    It is when the SHA-256 of the name, as one large number, is a multiple of 9: about one in nine, whatever
    else is in the folder, so images can be added without moving others.
    """
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % HELD_OUT_IN == 0


def split(folder: Folder) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """The samples to train on, and those held out; by file name alone (see `held_out`)."""
    train = tuple(sample for sample in folder.samples if not held_out(sample.path.stem))
    held = tuple(sample for sample in folder.samples if held_out(sample.path.stem))
    return train, held


def load(samples: Sequence[Sample], longest: int) -> list[LabelledImage]:
    """Decodes all samples into memory, none with a side above `longest` pixels."""

    def one(sample: Sample) -> LabelledImage:
        pixels = fitted(decode(sample.path.read_bytes()).pixels, longest)
        height, width = pixels.shape[:2]
        kind, x, y, w, h = sample.boxes.T
        corners = np.stack((kind, x - w / 2, y - h / 2, x + w / 2, y + h / 2), axis=1)
        corners[:, 1:] *= (width, height, width, height)
        return LabelledImage(pixels, corners.astype(np.float32))

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, samples))


@dataclass(frozen=True)
class Batch:
    """The batch of one step of training.

    Attributes:
        images: uint8 Tensor[N, S, S, 3].
        targets: float32 Tensor[T, 7]: index in the batch, class, centre x, centre y, width, height in pixels,
            and how sure it is, which is 1.
    """

    images: Tensor
    targets: Tensor


def batches(
    labelled: Sequence[LabelledImage], size: int, count: int, augment: Augment, seed: int
) -> Iterator[Batch]:
    """One epoch of shuffled, augmented batches of `count`, no last smaller one (a small set is one batch).

    What an epoch gives depends on its seed only. A thread prepares the next batch while one is in use.
    """
    order = np.random.default_rng(seed).permutation(len(labelled))
    count = min(count, len(labelled))

    def prepare(start: int) -> Batch:
        images = np.empty((count, size, size, 3), np.uint8)
        targets = []
        for place, index in enumerate(order[start : start + count]):
            random = np.random.default_rng((seed, int(index)))
            pixels, boxes = augment(labelled, int(index), size, random)
            images[place] = pixels
            kind, x1, y1, x2, y2 = boxes.T
            owner = np.full(len(boxes), place, np.float32)
            sides = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
            targets.append(np.stack((owner, kind, *sides, np.ones_like(kind)), axis=1))
        return Batch(torch.from_numpy(images), torch.from_numpy(np.concatenate(targets).astype(np.float32)))

    cv2.setNumThreads(1)  # the cores are left to the network
    with ThreadPoolExecutor(1) as pool:
        starts = range(0, len(labelled) - count + 1, count)
        ahead = pool.submit(prepare, 0)
        for start in starts[1:]:
            ready, ahead = ahead, pool.submit(prepare, start)
            yield ready.result()
        yield ahead.result()
