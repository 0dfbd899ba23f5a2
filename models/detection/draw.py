"""Annotated images: boxes, names, scores and landmarks, readable at any size and on any ground."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from models.detection.result import Detections
from models.faces.result import Faces
from models.resample import Pixels

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]
Rectangle = tuple[int, int, int, int]  # left, top, right, bottom; the last two are outside

_DARK: Colour = (16, 16, 16)
_LIGHT: Colour = (255, 255, 255)
_FACE: Colour = (64, 220, 140)
_SMALLEST_FONT = 7

# A drawing of 1,000 boxes on the largest image takes half a second. Up to so many pixels of lines lie in a
# drawing; more boxes have thinner ones. A hundred boxes of half the image's sides stay below.
_LINE_PIXELS = 50_000_000
# And so many tries to find room are made with all texts in all sizes of letters; after that only the shortest
# text is tried, in its largest size.
_TRIES = 1_000


@dataclass(frozen=True, slots=True)
class Mark:
    """One thing to draw.

    Attributes:
        box: x1, y1, x2, y2 in pixels of the image that is drawn on.
        texts: what to write beside it, the fullest first; the first that fits into the image is taken.
        colour: RGB of its lines.
        points: landmarks, x and y; those outside of the image are left out.
    """

    box: Box
    texts: tuple[str, ...]
    colour: Colour
    points: tuple[tuple[float, float], ...] = ()


def draw_detections(pixels: Pixels, detections: Detections) -> Pixels:
    """The image with a box, a name and a score for every object.

    Args:
        pixels: uint8 [h, w, 3], RGB, upright; it may be smaller than the original that was measured.
        detections: in pixels of the original.

    Returns:
        A new uint8 [h, w, 3].
    """
    zoom = _zoom(pixels, detections.width, detections.height)
    marks = [
        Mark(
            _scaled(item.box, zoom), (f"{item.label} {item.score:.2f}", item.label), colour_of(item.class_id)
        )
        for item in detections.items
    ]
    return draw(pixels, marks)


def draw_faces(pixels: Pixels, faces: Faces) -> Pixels:
    """The image with a box, a score and five landmarks for every face; arguments as `draw_detections`."""
    zoom = _zoom(pixels, faces.width, faces.height)
    marks = [
        Mark(
            _scaled(face.box, zoom),
            (f"{face.score:.2f}",),
            _FACE,
            tuple((x * zoom[0], y * zoom[1]) for x, y in face.landmarks),
        )
        for face in faces.items
    ]
    return draw(pixels, marks)


def draw(pixels: Pixels, marks: Sequence[Mark]) -> Pixels:
    """Draws marks, the most important first, onto a copy of uint8 [h, w, 3], RGB.

    Lines and letters grow with the image. What is first lies on top, and its text has the best place. Text is
    never cut and never covers another: where neither its fullest nor its shortest form has room beside its
    box, it is left out.
    """
    pixels = pixels.copy()
    unit = math.sqrt(pixels.shape[0] * pixels.shape[1])
    line = max(1, min(round(unit / 200), _LINE_PIXELS // (2 * max(1, _length(pixels, marks)))))
    for mark in reversed(marks):
        _outline(pixels, mark, line)
    labels = _Labels(pixels, line)
    for mark in marks:
        for x, y in mark.points:
            _dot(pixels, x, y, max(1.0, 1.2 * line), mark.colour)
        labels.write(mark, max(_SMALLEST_FONT + 1, round(unit / 36)))
    return pixels


def colour_of(index: int) -> Colour:
    """A colour for a class; near indices differ most (the golden angle around the hues, in three tones)."""
    saturation, value = ((0.85, 1.0), (0.55, 1.0), (1.0, 0.8))[index % 3]
    red, green, blue = colorsys.hsv_to_rgb((0.02 + index * 0.618034) % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def luminance(colour: Colour) -> float:
    """Relative luminance, 0 to 1 (WCAG 2.2, https://www.w3.org/TR/WCAG22/#dfn-relative-luminance)."""
    red, green, blue = (
        level / 12.92 if level <= 0.04045 else ((level + 0.055) / 1.055) ** 2.4
        for level in (channel / 255 for channel in colour)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _zoom(pixels: Pixels, width: int, height: int) -> tuple[float, float]:
    return pixels.shape[1] / width, pixels.shape[0] / height


def _scaled(box: Box, zoom: tuple[float, float]) -> Box:
    x1, y1, x2, y2 = box
    return x1 * zoom[0], y1 * zoom[1], x2 * zoom[0], y2 * zoom[1]


def _rectangle(pixels: Pixels, box: Box) -> Rectangle:
    """Whole pixels within the image, at least one."""
    height, width = pixels.shape[:2]
    left, top = min(max(round(box[0]), 0), width - 1), min(max(round(box[1]), 0), height - 1)
    return left, top, max(left + 1, min(round(box[2]), width)), max(top + 1, min(round(box[3]), height))


def _outline(pixels: Pixels, mark: Mark, line: int) -> None:
    """A coloured frame between two dark ones, so that it shows on a ground of its own colour too."""
    left, top, right, bottom = _rectangle(pixels, mark.box)
    edge = line // 2
    if edge and min(right - left, bottom - top) > 4 * (line + 2 * edge):
        _frame(pixels, (left, top, right, bottom), line + 2 * edge, _DARK)
        left, top, right, bottom = left + edge, top + edge, right - edge, bottom - edge
    _frame(pixels, (left, top, right, bottom), line, mark.colour)


def _frame(pixels: Pixels, rectangle: Rectangle, width: int, colour: Colour) -> None:
    """The outermost `width` pixels of a rectangle."""
    left, top, right, bottom = rectangle
    inside = pixels[top:bottom, left:right]
    for strip in (inside[:width], inside[-width:], inside[:, :width], inside[:, -width:]):
        strip[...] = colour


def _dot(pixels: Pixels, x: float, y: float, radius: float, colour: Colour) -> None:
    height, width = pixels.shape[:2]
    if 0 <= x < width and 0 <= y < height:
        outer = radius + max(1.0, radius / 3)
        left, top = max(0, math.floor(x - outer)), max(0, math.floor(y - outer))
        part = pixels[top : math.ceil(y + outer) + 1, left : math.ceil(x + outer) + 1]
        image = Image.fromarray(part)  # of the part alone: Pillow copies what it draws on
        canvas = ImageDraw.Draw(image)
        canvas.circle((x - left, y - top), outer, fill=_DARK)
        canvas.circle((x - left, y - top), radius, fill=colour)
        part[...] = np.asarray(image)


def _length(pixels: Pixels, marks: Sequence[Mark]) -> int:
    """Pixels around all boxes."""
    edges = (_rectangle(pixels, mark.box) for mark in marks)
    return sum(2 * (right - left + bottom - top) for left, top, right, bottom in edges)


class _Labels:
    """Writes texts on plates that do not meet.

    Args:
        pixels: to write on.
        line: thickness of the boxes' lines.
    """

    def __init__(self, pixels: Pixels, line: int) -> None:
        self._pixels = pixels
        self._line = line
        self._taken = np.empty((0, 4), np.int32)
        self._tries = 0

    def write(self, mark: Mark, size: int) -> None:
        """Writes on a plate of the mark's colour: the fullest text that has room, in the largest letters."""
        box = _rectangle(self._pixels, mark.box)
        limits = self._pixels.shape[1], self._pixels.shape[0]
        few = self._tries >= _TRIES
        for text in mark.texts[-1:] if few else mark.texts:
            for smaller in range(size, size - 1 if few else max(_SMALLEST_FONT, size // 2) - 1, -1):
                self._tries += 1
                letters = font(smaller)
                left, _, right, _ = (round(edge) for edge in letters.getbbox(text))
                top, bottom = _heights(smaller)
                pad = max(1, smaller // 6)
                width, height = right - left + 2 * pad, bottom - top + 2 * pad
                plate = _place(box, width, height, self._line, limits, self._taken)
                if plate is None:
                    continue
                self._taken = np.vstack((self._taken, np.array([plate], np.int32)))
                # equal contrast with black and with white lies at a luminance of 0.179
                ink = _DARK if luminance(mark.colour) > 0.179 else _LIGHT
                image = Image.new("RGB", (width, height), mark.colour)
                ImageDraw.Draw(image).text((pad - left, pad - top), text, fill=ink, font=letters)
                self._pixels[plate[1] : plate[3], plate[0] : plate[2]] = np.asarray(image)
                return


def _place(
    box: Rectangle,
    width: int,
    height: int,
    line: int,
    limits: tuple[int, int],
    taken: NDArray[np.int32],
) -> Rectangle | None:
    """Free room for a plate above a box, below it or in its corners, wholly within the image.

    Args:
        box: of the mark.
        width, height: of the plate.
        line: thickness of the box's lines.
        limits: width and height of the image.
        taken: [n, 4], the plates that are there.
    """
    left, top, right, bottom = box
    most_left, most_top = limits[0] - width, limits[1] - height
    if most_left < 0 or most_top < 0:
        return None
    outer, inner = (left, right - width), (left + line, right - line - width)
    corners = [(x, y) for y in (top - height, bottom) for x in outer if 0 <= y <= most_top]
    corners += [(x, y) for y in (top + line, bottom - line - height) for x in inner]
    places = [(min(max(x, 0), most_left), min(max(y, 0), most_top)) for x, y in corners]
    begin = np.array(places)[:, None]
    end = begin + np.array((width, height))
    meets = np.logical_and(begin < taken[:, 2:], taken[:, :2] < end)  # by x and by y
    free = ~meets.all(axis=2).any(axis=1)
    if not free.any():
        return None
    x, y = places[int(free.argmax())]
    return x, y, x + width, y + height


@lru_cache(maxsize=256)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Letters of a size in pixels."""
    return ImageFont.load_default(size=size)


@lru_cache(maxsize=256)
def _heights(size: int) -> tuple[int, int]:
    """Where the highest and the deepest letters end: every plate of a size is equally high."""
    _, top, _, bottom = font(size).getbbox("Hgj|")
    return round(top), round(bottom)
