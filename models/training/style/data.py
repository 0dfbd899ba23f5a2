"""Images to train style transfer on, and the paintings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from models.errors import ParameterInvalid
from models.image import Pixels, decode, encode, resize
from models.pipeline import Style
from models.training.yolo.data import held_out

THUMBNAIL = 160  # pixels, of the longest side

TITLES = {
    "starry_night": ("The Starry Night", "Vincent van Gogh"),
    "the_scream": ("The Scream", "Edvard Munch"),
    "great_wave": ("The Great Wave off Kanagawa", "Katsushika Hokusai"),
    "udnie": ("Udnie", "Francis Picabia"),
    "shipwreck": ("The Shipwreck of the Minotaur", "J. M. W. Turner"),
}
"""File name without suffix -> title, artist; a painting that is not here is called as its file."""


@dataclass(frozen=True)
class Painting:
    """A style to learn.

    Attributes:
        style: its name, title and thumbnail.
        pixels: uint8 [h, w, 3], RGB.
    """

    style: Style
    pixels: Pixels


def painting(path: Path, longest: int, title: str | None = None, artist: str | None = None) -> Painting:
    """Reads a painting, no side above `longest` pixels; its name is the file's."""
    original = decode(path.read_bytes()).pixels
    known, by = TITLES.get(path.stem, (path.stem.replace("_", " ").capitalize(), ""))
    thumbnail = encode(_fitted(original, THUMBNAIL), "jpeg", 85)
    style = Style(path.stem, known if title is None else title, by if artist is None else artist, thumbnail)
    return Painting(style, _fitted(original, longest))


def files(folders: Sequence[Path]) -> list[Path]:
    """The images (.jpg, .png) of folders, sorted by name.

    Raises:
        ParameterInvalid: a folder has none.
    """
    found: list[Path] = []
    for folder in folders:
        here = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        if not here:
            raise ParameterInvalid("data", f"no images in {folder}")
        found += here
    return found


def split(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Those to train on, and those held out, by file name alone (`models.training.yolo.data.held_out`)."""
    train = [path for path in paths if not held_out(path.stem)]
    return train, [path for path in paths if held_out(path.stem)]


def load(paths: Sequence[Path], shortest: int) -> list[Pixels]:
    """Decodes images into memory, each reduced (or enlarged) to a shorter side of `shortest` pixels."""

    def one(path: Path) -> Pixels:
        pixels = decode(path.read_bytes(), min_side=shortest).pixels
        scale = shortest / min(pixels.shape[:2])
        height, width = (max(shortest, round(side * scale)) for side in pixels.shape[:2])
        return resize(pixels, height, width)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, paths))


def crop(pixels: Pixels, size: int, random: np.random.Generator) -> Pixels:
    """A random square of an image, mirrored every other time, as uint8 [size, size, 3].

    Its side is anything from `size` to the image's shorter side, so objects come in several sizes.
    """
    height, width = pixels.shape[:2]
    side = int(random.integers(min(size, height, width), min(height, width) + 1))
    top, left = int(random.integers(height - side + 1)), int(random.integers(width - side + 1))
    square = pixels[top : top + side, left : left + side]
    if random.random() < 0.5:
        square = square[:, ::-1]
    shrunk: Pixels = cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA)
    return shrunk


def batches(
    images: Sequence[Pixels], styles: int, size: int, count: int, seed: int, first: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches: uint8 Tensor[count, size, size, 3] and the styles to paint them in, Tensor[count].

    Batch number `first` and all that follow depend on the seed only, so a training can go on where it was.
    The styles are used in rotation, each equally often. A thread prepares the next batch.
    """

    def prepare(step: int) -> tuple[Tensor, Tensor]:
        random = np.random.default_rng((seed, step))
        chosen = random.integers(len(images), size=count)
        crops = np.stack([crop(images[index], size, random) for index in chosen])
        turn = torch.arange(step * count, (step + 1) * count) % styles
        return torch.from_numpy(crops), turn

    cv2.setNumThreads(1)  # the cores are left to the network
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(prepare, first)
        while True:
            first += 1
            ready, ahead = ahead, pool.submit(prepare, first)
            yield ready.result()


def _fitted(pixels: Pixels, longest: int) -> Pixels:
    scale = min(1.0, longest / max(pixels.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    return resize(pixels, height, width)
