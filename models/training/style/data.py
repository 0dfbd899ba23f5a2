"""Images to train style transfer on, and the paintings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import cv2
import numpy as np
import torch
from torch import Tensor

from models.errors import ParameterInvalid
from models.image import Pixels, decode, encode, fitted, resize
from models.pipeline import Style
from models.training.yolo.data import held_out
from models.training.yolo.folder import SUFFIXES

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


def painting(
    path: Path,
    longest: int,
    title: str | None = None,
    artist: str | None = None,
    part: Sequence[float] = (0, 0, 1, 1),
) -> Painting:
    """Reads a painting; its name is the file's.

    Args:
        longest: no side is above this, pixels; the painting is reduced where one would be.
        title, artist: where `TITLES` does not know it, or is wrong.
        part: left, top, right and bottom of the part that is learnt, as shares of the painting.
    """
    original = decode(path.read_bytes()).pixels
    known, by = TITLES.get(path.stem, (path.stem.replace("_", " ").capitalize(), ""))
    thumbnail = encode(fitted(original, THUMBNAIL), "jpeg", 85)
    style = Style(path.stem, known if title is None else title, by if artist is None else artist, thumbnail)
    whole = fitted(original, longest)
    (left, right), (top, bottom) = (
        [round(share * side) for share in shares]
        for shares, side in ((part[::2], whole.shape[1]), (part[1::2], whole.shape[0]))
    )
    return Painting(style, np.ascontiguousarray(whole[top:bottom, left:right]))


def of_styles(text: str) -> tuple[str, tuple[float, ...]]:
    """Reads an option of one style: udnie=0,0.1,0.6,0.9 -> its name and the numbers.

    Raises:
        ValueError: it is not of this form.
    """
    name, _, numbers = text.partition("=")
    return name, tuple(float(number) for number in numbers.split(","))


def files(folders: Sequence[Path]) -> list[Path]:
    """The images of folders, sorted by name.

    Raises:
        ParameterInvalid: a folder has none.
    """
    found: list[Path] = []
    for folder in folders:
        here = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        if not here:
            raise ParameterInvalid("data", f"no images in {folder}")
        found += here
    return found


def split(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Those to train on, and those held out, by file name alone (`models.training.yolo.data.held_out`)."""
    train = [path for path in paths if not held_out(path.stem)]
    return train, [path for path in paths if held_out(path.stem)]


class Images(Sequence[Pixels]):
    """Image files, each decoded when it is asked for, to a shorter side of `shortest` pixels."""

    def __init__(self, paths: Sequence[Path], shortest: int) -> None:
        self._paths, self._shortest = paths, shortest

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> Pixels: ...
    @overload
    def __getitem__(self, index: slice) -> Images: ...
    def __getitem__(self, index: int | slice) -> Pixels | Images:
        if isinstance(index, slice):
            return Images(self._paths[index], self._shortest)
        pixels = decode(self._paths[index].read_bytes(), min_side=self._shortest).pixels
        scale = self._shortest / min(pixels.shape[:2])
        height, width = (max(self._shortest, round(side * scale)) for side in pixels.shape[:2])
        return resize(pixels, height, width)


class WithPlain(Sequence[Pixels]):
    """Images, and made ones behind them: `plain`.

    Args:
        images: the first ones.
        share: of the made ones among all, 0 to less than 1.
        side: of the made ones, pixels.
    """

    def __init__(self, images: Sequence[Pixels], share: float, side: int) -> None:
        self._images, self._side = images, side
        self._count = int(len(images) * share / (1 - share))

    def __len__(self) -> int:
        return len(self._images) + self._count

    @overload
    def __getitem__(self, index: int) -> Pixels: ...
    @overload
    def __getitem__(self, index: slice) -> list[Pixels]: ...
    def __getitem__(self, index: int | slice) -> Pixels | list[Pixels]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        return self._images[index] if index < len(self._images) else plain(index, self._side)


def plain(seed: int, side: int) -> Pixels:
    """A made sky or wall, uint8 [side, side, 3]: any color, shaded towards another, with a camera's noise."""
    random = np.random.default_rng((seed, 77))
    down, right = np.mgrid[0 : 1 : side * 1j, 0 : 1 : side * 1j]
    angle = random.uniform(0, 2 * np.pi)
    if random.random() < 0.5:
        place = np.cos(angle) * (down - 0.5) + np.sin(angle) * (right - 0.5)
    else:
        place = np.hypot(down - random.random(), right - random.random())
    place = (place - place.min()) / (place.max() - place.min())
    one = random.uniform(5, 235) + random.normal(0, 25, 3)
    other = one + random.uniform(-70, 70) + random.normal(0, 12, 3)
    image = one + (other - one) * place[..., None]
    noise = random.normal(0, random.uniform(0, 3), (side, side, 1))
    made: Pixels = (image + noise).round().clip(0, 255).astype(np.uint8)
    return made


def crop(pixels: Pixels, size: int, random: np.random.Generator) -> Pixels:
    """A random square of an image, mirrored every other time, as uint8 [size, size, 3].

    Its side is anything from 3/5 of `size` to the image's shorter side, so objects come in several sizes,
    and as smooth as they are in large photographs.
    """
    height, width = pixels.shape[:2]
    side = int(random.integers(min(size * 3 // 5, height, width), min(height, width) + 1))
    top, left = int(random.integers(height - side + 1)), int(random.integers(width - side + 1))
    square = pixels[top : top + side, left : left + side]
    if random.random() < 0.5:
        square = square[:, ::-1]
    how = cv2.INTER_AREA if side >= size else cv2.INTER_CUBIC
    scaled: Pixels = cv2.resize(square, (size, size), interpolation=how)
    return scaled


def batches(
    images: Sequence[Pixels],
    shares: Sequence[float],
    size: int,
    counts: tuple[int, int],
    seed: int,
    first: int = 0,
) -> Iterator[list[tuple[Tensor, int]]]:
    """Endless groups of batches: of each uint8 Tensor[N, size, size, 3] and the style to paint it in.

    Step number `first` and all that follow depend on the seed only, so a training can go on where it was.
    Styles are drawn in proportion to their `shares`. A thread prepares the next step.

    Args:
        counts: batches a step, and images a batch.
    """
    chances = np.array(shares) / np.sum(shares)
    groups, count = counts

    def prepare(step: int) -> list[tuple[Tensor, int]]:
        random = np.random.default_rng((seed, step))
        styles = random.choice(len(chances), size=groups, p=chances)
        chosen = random.integers(len(images), size=(groups, count))
        crops = [np.stack([crop(images[index], size, random) for index in row]) for row in chosen]
        return [(torch.from_numpy(one), int(style)) for one, style in zip(crops, styles, strict=True)]

    cv2.setNumThreads(1)  # the cores are left to the network
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(prepare, first)
        while True:
            first += 1
            ready, ahead = ahead, pool.submit(prepare, first)
            yield ready.result()
