"""Explanations as images: heat over the image, tiles with their names, and a caption below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from PIL import Image as Canvas
from PIL import ImageDraw

from models.classification.explain.maps import ActivationMap, Explanation, HeatMap
from models.detection.draw import Colour, draw_detections, font
from models.detection.result import Detections
from models.image import Image, Pixels, resize

WIDTH: Final = 512
"""Least width of a sheet of tiles, pixels."""
CAPTIONED: Final = 360
"""Least width of an image with a caption; a smaller one is enlarged."""
TILE: Final = 128
"""Least side of a tile of an activation."""
GAP: Final = 4
STRENGTH: Final = 0.6
"""How much of the image the hottest spot covers."""
PAPER: Final[Colour] = (255, 255, 255)
INK: Final[Colour] = (24, 24, 24)
_BAND_PIXELS: Final = 1 << 16


def drawn(image: Image, found: Explanation) -> Pixels:
    """An explanation of an image, with its caption below -> uint8 RGB [h, w, 3].

    Args:
        image: what was explained; it may be smaller than its original.
        found: the explanation.
    """
    if isinstance(found, ActivationMap):
        pixels = _tiles(found)
    elif isinstance(found, HeatMap):
        pixels = overlay(image, found)
    else:
        pixels = draw_detections(image.pixels, Detections(image.width, image.height, found.boxes))
    return captioned(pixels, [found.caption, found.note])


def overlay(image: Image, heat: HeatMap) -> Pixels:
    """The image with the heat map laid over it -> uint8 RGB of the decoded size."""
    height, width = image.pixels.shape[:2]
    mixed = np.empty_like(image.pixels)
    rows = max(1, _BAND_PIXELS // width)
    for top in range(0, height, rows):  # in bands, so that the float copies are small
        band = image.pixels[top : top + rows]
        warmth = heat.over(height, width, top, top + len(band))
        colours = cv2.applyColorMap((warmth * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
        weight = (STRENGTH * warmth)[..., None]
        mixed[top : top + rows] = band * (1 - weight) + colours * weight + 0.5
    return mixed


def captioned(pixels: Pixels, lines: Sequence[str]) -> Pixels:
    """An image with lines of text on white below it -> uint8 RGB [h, w, 3]; empty lines are left out.

    Letters grow with the image. Lines that are too long are broken; an image that is narrower than
    `CAPTIONED` is enlarged.
    """
    height, width = pixels.shape[:2]
    if width < CAPTIONED and height <= 4 * width:
        factor = CAPTIONED / width
        width, height = CAPTIONED, max(1, round(height * factor))
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.uint8)
    size = max(13, round(math.sqrt(height * width) / 38))
    broken = [part for line in lines if line for part in _broken(line, size, width - size)]
    step = round(1.4 * size)
    strip = Canvas.new("RGB", (width, step * len(broken) + size // 2), PAPER)
    draw = ImageDraw.Draw(strip)
    for number, line in enumerate(broken):
        draw.text((size // 2, size // 4 + number * step), line, fill=INK, font=font(size))
    return np.concatenate([pixels, np.asarray(strip)])


def _broken(line: str, size: int, width: int) -> list[str]:
    """A text in lines that fit; a word that does not fit stands alone and is cut by the edge."""
    found = [""]
    for word in line.split():
        longer = f"{found[-1]} {word}".strip()
        if found[-1] and font(size).getlength(longer) > width:
            found.append(word)
        else:
            found[-1] = longer
    return found


def sheet(tiles: Sequence[Pixels], names: Sequence[str], columns: int) -> Pixels:
    """Tiles of one size in rows, each with its name below -> uint8 RGB [h, w, 3].

    Args:
        tiles: uint8 [h, w, 3], at least one.
        names: of the tiles; all empty: none has room.
        columns: tiles in a row.
    """
    height, width = tiles[0].shape[:2]
    size = max(10, min(16, width // 9))
    text = round(1.4 * size) if any(names) else 0
    rows = math.ceil(len(tiles) / columns)
    step_y, step_x = height + text + GAP, width + GAP
    canvas = Canvas.new("RGB", (columns * step_x + GAP, rows * step_y + GAP), PAPER)
    draw = ImageDraw.Draw(canvas)
    for number, (tile, name) in enumerate(zip(tiles, names, strict=True)):
        x, y = GAP + number % columns * step_x, GAP + number // columns * step_y
        canvas.paste(Canvas.fromarray(tile), (x, y))
        if name:
            draw.text((x, y + height), _fitting(name, size, width), fill=INK, font=font(size))
    return np.array(canvas)


def _fitting(text: str, size: int, width: int) -> str:
    while text and font(size).getlength(text) > width:
        text = text[:-2] + "…" if len(text) > 2 else ""
    return text


def _tiles(found: ActivationMap) -> Pixels:
    """The network's input, and each channel's map over it, brighter where it answers more."""
    count = len(found.strongest) + 1
    columns = max(min(math.ceil(math.sqrt(count)), count), 1)
    side = max(TILE, math.ceil((WIDTH - GAP) / columns) - GAP)
    height, width = found.input.shape[:2]
    width, height = (max(1, round(one * side / max(height, width))) for one in (width, height))
    base = resize(found.input, height, width)
    grey = cv2.cvtColor(cv2.cvtColor(base, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    tiles, names = [base], ["input"]
    for one in found.strongest:
        peak = max(float(one.grid.max()), 1e-12)
        level = cv2.resize((one.grid / peak).clip(0, 1), (width, height), interpolation=cv2.INTER_LINEAR)
        colours = cv2.applyColorMap((level * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
        mixed = 0.3 * grey * (1 - level[..., None]) + colours * (0.35 + 0.65 * level[..., None])
        tiles.append(mixed.clip(0, 255).astype(np.uint8))
        names.append(f"{one.channel}: {one.peak:.3g}")
    return sheet(tiles, names, columns)
