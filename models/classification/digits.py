"""Digits as MNIST has them: any image of one digit, brought to where LeNet-5 expects it."""

from __future__ import annotations

import cv2
import numpy as np

from models.classification.pipeline import ClassifierPipeline
from models.image import Image, Pixels, resize

SIZE = 32  # the paper's input: MNIST's images of 28 x 28 with two more pixels of ground on every side
MNIST = 28
DIGIT = 20  # the box of the digit itself, its centre of mass in the middle of the image


def digit_crop(image: Image) -> Pixels:
    """Any image of one digit -> uint8 [32, 32, 3], light ink on black, placed as in MNIST."""
    return place(image)[0]


def place(image: Image) -> tuple[Pixels, tuple[float, float, float, float]]:
    """See `digit_crop`; also gives what the 32 x 32 pixels show, xyxy in pixels of the upright original.

    An image with a bright border (its median over 127) is taken for ink on paper and inverted. One of
    28 x 28 or 32 x 32 is then used as it is. Of any other the ink is segmented, its bounding box is
    scaled to 20 pixels and its centre of mass is moved to the middle.
    """
    grey = light_ink(cv2.cvtColor(image.pixels, cv2.COLOR_RGB2GRAY))
    height, width = grey.shape
    if (height, width) in ((MNIST, MNIST), (SIZE, SIZE)):
        left, top, scale = 0.0, 0.0, 1.0
        digit, x, y = grey, (SIZE - width) // 2, (SIZE - height) // 2
    else:
        digit, left, top, scale = _boxed(grey)
        moments = cv2.moments(digit)
        mass = max(moments["m00"], 1.0)
        x = min(max(round(SIZE / 2 - moments["m10"] / mass - 0.5), 0), SIZE - digit.shape[1])
        y = min(max(round(SIZE / 2 - moments["m01"] / mass - 0.5), 0), SIZE - digit.shape[0])
    canvas = np.zeros((SIZE, SIZE), np.uint8)
    canvas[y : y + digit.shape[0], x : x + digit.shape[1]] = digit
    stretch_x, stretch_y = image.width / width, image.height / height  # of an image that the decoder reduced
    shown = (
        (left - x / scale) * stretch_x,
        (top - y / scale) * stretch_y,
        (left + (SIZE - x) / scale) * stretch_x,
        (top + (SIZE - y) / scale) * stretch_y,
    )
    return np.repeat(canvas[..., None], 3, axis=2), shown


def light_ink(pixels: Pixels) -> Pixels:
    """uint8 [h, w] or [h, w, 3] -> the same, inverted when its border is bright: dark ink on paper."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return 255 - pixels if np.median(border) > 127 else pixels


def _boxed(grey: Pixels) -> tuple[Pixels, float, float, float]:
    """Light ink on darker ground -> the digit in its box of 20 pixels, the box's corner, and its scale."""
    smaller = min(1.0, 8 * SIZE / max(grey.shape))  # the box is found without the grain of the paper
    height, width = (max(1, round(side * smaller)) for side in grey.shape)
    grey = _resized(grey, height, width)
    # What is wider than a stroke can be is the paper with its shades: the top-hat transform takes it away.
    blurred = cv2.GaussianBlur(grey, (5, 5), 0)
    wide = cv2.getStructuringElement(cv2.MORPH_RECT, (max(height, width) // 3 | 1,) * 2)
    ground = cv2.morphologyEx(blurred, cv2.MORPH_OPEN, wide)
    grey, blurred = cv2.subtract(grey, ground), cv2.subtract(blurred, ground)
    _, mask = cv2.threshold(blurred, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    mask = _without_specks(mask)
    if mask.any() and not mask.all():
        # The paper's shade and grain go to black, the ink to white, and the edge between them stays soft.
        paper, ink = grey[mask == 0], grey[mask == 1]
        floor, ceiling = float(paper.mean() + 2 * paper.std()), float(np.median(ink))
        grey = np.clip((grey - floor) * (255 / max(ceiling - floor, 1.0)), 0, 255).astype(np.uint8)
        left, top, width, height = cv2.boundingRect(mask)
    else:
        left, top = 0, 0
    scale = DIGIT / max(width, height)
    inner = max(1, round(height * scale)), max(1, round(width * scale))
    digit = _resized(grey[top : top + height, left : left + width], *inner)
    return digit, left / smaller, top / smaller, scale * smaller


def _without_specks(mask: Pixels) -> Pixels:
    """The connected parts of a 0/1 mask that have at least a twentieth of the largest one's area."""
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask)
    areas = stats[:, cv2.CC_STAT_AREA]
    areas[0] = 0  # the ground
    kept: Pixels = ((areas >= areas.max() / 20) & (areas > 0))[parts].astype(np.uint8)
    return kept


def _resized(grey: Pixels, height: int, width: int) -> Pixels:
    return resize(np.repeat(grey[..., None], 3, axis=2), height, width)[..., 0]


class DigitPipeline(ClassifierPipeline):
    """The classifiers' pipeline, with the place of its crop, which depends on what is in the image."""

    def region(self, image: Image) -> tuple[float, float, float, float]:
        """What the network sees, xyxy in pixels of the upright original; may reach beyond it."""
        return place(image)[1]
