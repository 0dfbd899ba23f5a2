"""Where in an image a face detector looks besides the whole of it: tiles for small faces, four directions.

A detector finds faces from a share of the longer side of what it is given. Smaller ones are looked for in
overlapping tiles of the image. Networks of faces know upright ones; whether an image is turned is told by one
more look at a sheet on which it stands small in all four directions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import cast

import cv2
import numpy as np

from models.faces.result import Face, Faces, Landmarks
from models.image import Image, Pixels, fitted

DEFAULT_SHARE = 0.02
"""Of the image's shorter side: the smallest face looked for, if a request names none."""
LEAST = 16.0
"""Pixels of the original; smaller faces are looked for only if a request says so."""
LARGE = 0.125
"""Of the image's shorter side: where so large a face was found, small ones are not looked for by default."""
SURE = 0.999
"""A face of at least this score stands upright; a turned one may pass for a face at less."""
TURNED = 0.98
"""Least score of a face on the sheet, besides that of upright ones, for the image to be looked at turned."""
SHEET = 640
"""Side of the sheet of four directions, pixels."""
MIN_SIDE = 640
"""Shortest side in pixels that a decoder may reduce an image to (it leaves twice as much): enough for faces
of `DEFAULT_SHARE`."""
_FACE_PIXELS = 24
"""Pixels that the smallest face needs."""
_NEARLY = 0.8
"""Of what one look at the whole image finds: down to this share a second look would hardly find more."""
_OVERLAP = 1.2
"""Of the largest face that only tiles can find: how far they overlap."""
_GREY = 127


@dataclass(frozen=True, slots=True)
class Region:
    """A part of an image to look at, in a direction.

    Attributes:
        width, height: of the upright original as it is stored, pixels.
        turn: degrees counterclockwise by which the image is turned first: 0, 90, 180 or 270.
        x1, y1, x2, y2: the part, in whole pixels of the turned original.
    """

    width: int
    height: int
    turn: int
    x1: int
    y1: int
    x2: int
    y2: int

    def cut(self, image: Image, side: int) -> Image:
        """The part of a decoded image as one of its own, reduced to at most `side` pixels a side."""
        turned_width, turned_height = _turned_size(image.width, image.height, self.turn)
        left, top, right, bottom = _unturn_box(
            (self.x1, self.y1, self.x2, self.y2), turned_width, turned_height, self.turn
        )
        rows, columns = image.pixels.shape[:2]
        across, down = columns / image.width, rows / image.height
        x1, y1 = int(left * across), int(top * down)
        x2, y2 = max(x1 + 1, round(right * across)), max(y1 + 1, round(bottom * down))
        part = fitted(image.pixels[y1:y2, x1:x2], side)
        return Image(turned(part, self.turn), self.x2 - self.x1, self.y2 - self.y1)

    def place(self, face: Face) -> Face:
        """A face of the part, in pixels of the upright original."""
        size = _turned_size(self.width, self.height, self.turn)
        x1, y1, x2, y2 = face.box
        box = (x1 + self.x1, y1 + self.y1, x2 + self.x1, y2 + self.y1)
        points = [_unturn_point((x + self.x1, y + self.y1), *size, self.turn) for x, y in face.landmarks]
        return Face(_unturn_box(box, *size, self.turn), face.score, cast(Landmarks, tuple(points)))

    def cuts(self, face: Face) -> bool:
        """Whether a face of the part lies at an edge that is not the image's: another part shows it whole."""
        width, height = _turned_size(self.width, self.height, self.turn)
        x1, y1, x2, y2 = face.box
        return (
            (self.x1 > 0 and x1 < 1)
            or (self.y1 > 0 and y1 < 1)
            or (self.x2 < width and x2 > self.x2 - self.x1 - 1)
            or (self.y2 < height and y2 > self.y2 - self.y1 - 1)
        )


def whole(width: int, height: int, turn: int = 0) -> Region:
    """All of an image of that size, in a direction."""
    return Region(width, height, turn, 0, 0, *_turned_size(width, height, turn))


def wanted(width: int, height: int, min_size: float | None) -> float:
    """The smallest face to look for in an image, pixels of the original."""
    return max(DEFAULT_SHARE * min(width, height), LEAST) if min_size is None else min_size


def min_side(width: int, height: int, min_size: float) -> int:
    """Shortest side in pixels that a decoder may reduce an image to for faces from `min_size`; it leaves
    twice as much."""
    shorter = min(width, height)
    needed = math.ceil(shorter * _FACE_PIXELS / max(min_size, _FACE_PIXELS) / 2)
    return max(MIN_SIDE // 2, min(needed, shorter))


def needs_tiles(faces: Faces, min_size: float | None) -> bool:
    """Whether a look at the whole image, which found `faces`, leaves out faces that are asked for.

    By default the small ones beside a large one are not looked for: a portrait takes one look.
    """
    if wanted(faces.width, faces.height, min_size) >= _NEARLY * faces.min_face:
        return False
    large = LARGE * min(faces.width, faces.height)
    return min_size is not None or not any(_shorter(face) >= large for face in faces.items)


def tiles(region: Region, share: float, size: float, most: int) -> list[Region]:
    """Overlapping parts of a whole image in which faces from `size` pixels are found.

    Args:
        region: the whole image.
        share: of the longer side of what the detector is given: the smallest face that it finds.
        size: pixels of the original.
        most: parts; with so many, the smallest face found may be larger than `size`.
    """
    width, height = region.x2, region.y2
    side = max(size, 1.0) / share
    while True:
        overlap = min(_OVERLAP * share * max(width, height), side / 2)
        columns, rows = (
            max(1, math.ceil((length - overlap) / (side - overlap))) for length in (width, height)
        )
        if columns * rows <= most:
            break
        side *= 1.05
    return [
        replace(region, x1=x1, y1=y1, x2=x2, y2=y2)
        for y1, y2 in _parts(height, rows, overlap)
        for x1, x2 in _parts(width, columns, overlap)
    ]


def _parts(length: int, count: int, overlap: float) -> list[tuple[int, int]]:
    size = math.ceil((length + (count - 1) * overlap) / count)
    starts = [round(index * (length - size) / max(count - 1, 1)) for index in range(count)]
    return [(start, start + size) for start in starts]


def merged(found: Faces, parts: Sequence[tuple[Region, Faces]], most: int) -> Faces:
    """What was found in the whole image and in its tiles, each face once, the surest first.

    A tile adds faces that the whole image is too small for, not parts of large ones.
    """
    limit = 1.5 * found.min_face
    smallest = max((faces.min_face for _, faces in parts), default=found.min_face)
    candidates = [
        region.place(face)
        for region, faces in parts
        for face in faces.items
        if not region.cuts(face) and _shorter(face) <= limit
    ]
    kept = list(found.items)
    for face in sorted(candidates, key=attrgetter("score"), reverse=True):
        if all(_shared(face, other) < 0.5 for other in kept):
            kept.append(face)
    kept.sort(key=attrgetter("score"), reverse=True)
    return replace(found, items=tuple(kept[:most]), min_face=min(found.min_face, smallest))


def sheet(image: Image) -> Image:
    """The image small in all four directions: upright, turned by 90, 180, 270 degrees, by rows."""
    half = SHEET // 2
    small = fitted(image.pixels, half)
    canvas = np.full((SHEET, SHEET, 3), _GREY, np.uint8)
    for quarter in range(4):
        part = turned(small, 90 * quarter)
        top, left = quarter // 2 * half, quarter % 2 * half
        canvas[top : top + part.shape[0], left : left + part.shape[1]] = part
    return Image(canvas, SHEET, SHEET)


def direction(faces: Iterable[Face], upright: Faces) -> int:
    """The turn that the surest face of a sheet stands upright in; 0 where `upright` has a surer one."""
    best, found = max(TURNED, surest(upright)), 0
    for face in faces:
        x1, y1, x2, y2 = face.box
        quarter = int((x1 + x2) / 2 >= SHEET / 2) + 2 * int((y1 + y2) / 2 >= SHEET / 2)
        if face.score > best:
            best, found = face.score, 90 * quarter
    return found


def settled(faces: Faces) -> bool:
    """Whether a look for large faces alone has told which face of the image is the largest.

    Where that one is sure, the image is upright, and what the look leaves out is smaller. Less large ones are
    found differently without the small windows.
    """
    if not faces.items:
        return False
    largest = max(faces.items, key=attrgetter("area"))
    return largest.score >= SURE and _shorter(largest) >= faces.min_face


def surest(faces: Faces) -> float:
    """The highest score; 0 where there is no face."""
    return max((face.score for face in faces.items), default=0.0)


def turned(pixels: Pixels, turn: int) -> Pixels:
    """Turns uint8 [h, w, 3] counterclockwise by 0, 90, 180 or 270 degrees."""
    code = {90: cv2.ROTATE_90_COUNTERCLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_CLOCKWISE}
    return cast(Pixels, cv2.rotate(pixels, code[turn])) if turn else pixels


def _turned_size(width: int, height: int, turn: int) -> tuple[int, int]:
    return (height, width) if turn % 180 else (width, height)


def _unturn_point(point: tuple[float, float], width: int, height: int, turn: int) -> tuple[float, float]:
    """Of an image of `width` x `height` that was turned, where the point was before."""
    x, y = point
    return {0: (x, y), 90: (height - y, x), 180: (width - x, height - y), 270: (y, width - x)}[turn]


def _unturn_box(
    box: tuple[float, float, float, float], width: int, height: int, turn: int
) -> tuple[float, float, float, float]:
    (ax, ay), (bx, by) = (_unturn_point(corner, width, height, turn) for corner in (box[:2], box[2:]))
    return min(ax, bx), min(ay, by), max(ax, bx), max(ay, by)


def _shorter(face: Face) -> float:
    x1, y1, x2, y2 = face.box
    return min(x2 - x1, y2 - y1)


def _shared(a: Face, b: Face) -> float:
    """The intersection over the smaller box."""
    wide = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])
    high = min(a.box[3], b.box[3]) - max(a.box[1], b.box[1])
    smaller = min(a.area, b.area)
    return max(wide, 0.0) * max(high, 0.0) / smaller if smaller > 0 else 0.0
