"""Augmentation for detection: mosaic, mixup, scale and place, mirror, colour; numpy and OpenCV, no state.

Mosaic is that of YOLOv4 (Bochkovskiy et al., https://arxiv.org/abs/2004.10934), section 3.3; mixup, which
keeps the boxes of both images, that of Zhang et al. (https://arxiv.org/abs/1902.04103), section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.image import Pixels

Boxes = NDArray[np.float32]
FILL = 114


@dataclass(frozen=True)
class LabelledImage:
    """A decoded sample.

    Attributes:
        pixels: uint8 [h, w, 3], RGB.
        boxes: float32 [K, 5]: class, x1, y1, x2, y2 in pixels of `pixels`.
    """

    pixels: Pixels
    boxes: Boxes


@dataclass(frozen=True)
class Augment:
    """How much to change images.

    Attributes:
        mosaic: probability of four images in one.
        mixup: probability of a second canvas that shines through the first.
        scale: smallest and largest size of an image's longer side, in sides of the canvas.
        quarter: the same, of the images of a mosaic.
        stretch: an image's width and height are scaled by exp(s) and exp(-s), s up to this.
        grey: probability of a canvas without colours.
        mirror: probability of a flip from left to right.
        hue, saturation, brightness: largest relative change of each.
        visible: a box goes when less than this part of it stays on the canvas.
        smallest: a box goes when a side of it has fewer pixels.
    """

    mosaic: float = 0.5
    mixup: float = 0.0
    scale: tuple[float, float] = (0.6, 1.5)
    quarter: tuple[float, float] = (0.4, 1.1)
    stretch: float = 0.1
    grey: float = 0.0
    mirror: float = 0.5
    hue: float = 0.015
    saturation: float = 0.6
    brightness: float = 0.4
    visible: float = 0.2
    smallest: float = 2.0

    def __call__(
        self, images: Sequence[LabelledImage], index: int, size: int, random: np.random.Generator
    ) -> tuple[Pixels, Boxes]:
        """A canvas, uint8 [size, size, 3], with image `index`, and its boxes, float32 [K, 5], in pixels."""
        canvas, boxes = self._canvas(images, index, size, random)
        if self.mixup and random.random() < self.mixup:
            other, more = self._canvas(images, int(random.integers(len(images))), size, random)
            share = random.beta(8, 8)  # near a half: both are to be seen
            canvas = cv2.addWeighted(canvas, share, other, 1 - share, 0).astype(np.uint8, copy=False)
            boxes = np.concatenate((boxes, more))
        if random.random() < self.mirror:
            canvas = np.ascontiguousarray(canvas[:, ::-1])
            boxes[:, [1, 3]] = size - boxes[:, [3, 1]]
        return self._colour(canvas, random), boxes

    def _canvas(
        self, images: Sequence[LabelledImage], index: int, size: int, random: np.random.Generator
    ) -> tuple[Pixels, Boxes]:
        if random.random() < self.mosaic:
            return self._mosaic(images, index, size, random)
        return self._single(images[index], size, random)

    def _single(self, image: LabelledImage, size: int, random: np.random.Generator) -> tuple[Pixels, Boxes]:
        canvas: Pixels = np.full((size, size, 3), FILL, np.uint8)
        scale = self._scale(image, size * random.uniform(*self.scale), random)
        height, width = image.pixels.shape[0] * scale[1], image.pixels.shape[1] * scale[0]
        # anywhere that it fits; a side that is longer than the canvas covers it
        left, top = (random.uniform(min(0, size - side), max(0, size - side)) for side in (width, height))
        boxes = self._paste(canvas, image, scale, left, top, (0, 0, size, size))
        return canvas, boxes

    def _mosaic(
        self, images: Sequence[LabelledImage], index: int, size: int, random: np.random.Generator
    ) -> tuple[Pixels, Boxes]:
        canvas: Pixels = np.full((size, size, 3), FILL, np.uint8)
        x, y = (round(value) for value in random.uniform(0.25 * size, 0.75 * size, 2))
        quarters = ((0, 0, x, y), (x, 0, size, y), (0, y, x, size), (x, y, size, size))
        chosen = [index, *random.integers(len(images), size=3).tolist()]
        overall = random.uniform(*self.quarter)
        found = []
        for place, (left, top, right, bottom) in zip(chosen, quarters, strict=True):
            image = images[place]
            height, width = image.pixels.shape[:2]
            scale = self._scale(image, overall * size, random)
            # the image's corner lies at the centre of the mosaic
            x0 = right - width * scale[0] if left == 0 else left
            y0 = bottom - height * scale[1] if top == 0 else top
            found.append(self._paste(canvas, image, scale, x0, y0, (left, top, right, bottom)))
        return canvas, np.concatenate(found)

    def _scale(self, image: LabelledImage, longer: float, random: np.random.Generator) -> tuple[float, float]:
        """Factors of width and height that make the longer side about `longer` pixels."""
        scale = longer / max(image.pixels.shape[:2])
        stretch = float(np.exp(random.uniform(-self.stretch, self.stretch)))
        return scale * stretch, scale / stretch

    def _paste(
        self,
        canvas: Pixels,
        image: LabelledImage,
        scale: tuple[float, float],
        left: float,
        top: float,
        window: tuple[int, int, int, int],
    ) -> Boxes:
        """Draws an image, scaled, its corner at (left, top), inside a window; gives the boxes left there."""
        height, width = image.pixels.shape[:2]
        x1, y1 = max(window[0], round(left)), max(window[1], round(top))
        x2 = min(window[2], round(left + width * scale[0]))
        y2 = min(window[3], round(top + height * scale[1]))
        if x2 <= x1 or y2 <= y1:
            return np.zeros((0, 5), np.float32)
        source = image.pixels
        if max(scale) < 0.75:  # warping samples four points, so a strong reduction is done first, by area
            source = cv2.resize(source, None, fx=scale[0], fy=scale[1], interpolation=cv2.INTER_AREA)
        fx, fy = width * scale[0] / source.shape[1], height * scale[1] / source.shape[0]
        # pixel centres: canvas + 0.5 = (source + 0.5) * factor + left
        matrix = np.array(
            [[fx, 0, 0.5 * fx - 0.5 + left - x1], [0, fy, 0.5 * fy - 0.5 + top - y1]], dtype=np.float64
        )
        canvas[y1:y2, x1:x2] = cv2.warpAffine(
            source, matrix, (x2 - x1, y2 - y1), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        moved = image.boxes.copy()
        moved[:, 1:] = moved[:, 1:] * np.array(scale * 2, np.float32) + np.array([left, top] * 2, np.float32)
        before = (moved[:, 3] - moved[:, 1]) * (moved[:, 4] - moved[:, 2])
        moved[:, [1, 3]] = moved[:, [1, 3]].clip(x1, x2)
        moved[:, [2, 4]] = moved[:, [2, 4]].clip(y1, y2)
        sides = moved[:, 3:5] - moved[:, 1:3]
        keep = (sides >= self.smallest).all(axis=1) & (sides.prod(axis=1) >= self.visible * before)
        kept: Boxes = moved[keep]
        return kept

    def _colour(self, canvas: Pixels, random: np.random.Generator) -> Pixels:
        hue, saturation, brightness = 1 + random.uniform(-1, 1, 3) * (
            self.hue,
            self.saturation,
            self.brightness,
        )
        levels = np.arange(256)
        tables = (
            (levels * hue % 180).astype(np.uint8),
            (levels * saturation).clip(0, 255).astype(np.uint8),
            (levels * brightness).clip(0, 255).astype(np.uint8),
        )
        planes = cv2.split(cv2.cvtColor(canvas, cv2.COLOR_RGB2HSV))
        changed = cv2.merge([cv2.LUT(plane, table) for plane, table in zip(planes, tables, strict=True)])
        result: Pixels = cv2.cvtColor(changed, cv2.COLOR_HSV2RGB)
        if self.grey and random.random() < self.grey:
            result = cv2.cvtColor(cv2.cvtColor(result, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        return result
