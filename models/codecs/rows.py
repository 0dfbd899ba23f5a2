"""Conversion to RGB in bands of rows, so that no second copy of a full-size image exists."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from models.errors import ImageInvalid

Pixels = NDArray[np.uint8]

BAND_PIXELS = 1 << 16
"""Pixels that are converted at a time: they fit into a core's cache."""


class decoding:  # noqa: N801 (as the standard library's; a generator would cost two microseconds more)
    """Makes one error of whatever a library raises for a file meanwhile: Pillow's plugins raise many kinds.

    Raises:
        ImageInvalid: the file is truncated or corrupt.
        MemoryError: there was not enough.
    """

    def __init__(self, format_: str) -> None:
        self._format = format_

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem:
            raise MemoryError from error
        if isinstance(error, Exception) and not isinstance(error, MemoryError | ImageInvalid):
            raise ImageInvalid(f"the {self._format} is truncated or corrupt") from error


def band_rows(width: int, reduction: int) -> int:
    """Rows of a band, a multiple of `reduction`."""
    return max(1, BAND_PIXELS // (width * reduction)) * reduction


def unpacked(rows: Pixels, bits: int) -> Pixels:
    """uint8 [..., n] of samples of 1, 2 or 4 bits, the highest first -> uint8 [..., n * 8 / bits]."""
    shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
    return (rows[..., None] >> shifts & np.uint8((1 << bits) - 1)).reshape(*rows.shape[:-1], -1)


def gather(bands: Iterable[Pixels], height: int, width: int, reduction: int) -> Pixels:
    """Bands of `band_rows` rows each, uint8 RGB [n, width, 3] -> uint8 [h, w, 3], divided by `reduction`.

    h and w are rounded up; every pixel is the mean of `reduction` squared ones, or of those that there are.
    """
    pixels = np.empty((-(-height // reduction), -(-width // reduction), 3), np.uint8)
    top = 0
    for band in bands:
        rows = -(-len(band) // reduction)
        if reduction == 1:
            pixels[top : top + rows] = band
        else:
            below, beside = rows * reduction - len(band), pixels.shape[1] * reduction - width
            if below or beside:
                band = cv2.copyMakeBorder(band, 0, below, 0, beside, cv2.BORDER_REPLICATE)
            cv2.resize(band, (pixels.shape[1], rows), pixels[top : top + rows], interpolation=cv2.INTER_AREA)
        top += rows
    return pixels


def pack(pixels: Pixels, convert: Callable[[Pixels], Pixels]) -> Pixels:
    """uint8 [h, w, 4] -> uint8 [h, w, 3] in the same memory, by `convert`: uint8 [1, n, 4] -> [1, n, 3]."""
    height, width = pixels.shape[:2]
    flat = pixels.reshape(-1)
    for begin in range(0, height * width, BAND_PIXELS):
        band = flat[4 * begin : 4 * (begin + BAND_PIXELS)].reshape(1, -1, 4)
        flat[3 * begin : 3 * (begin + band.shape[1])] = convert(band).reshape(-1)
    return flat[: 3 * height * width].reshape(height, width, 3)


def over_white(pixels: Pixels) -> Pixels:
    """uint8 [h, w, 4], three colours and alpha -> uint8 [h, w, 3] laid over white, rounded as Pillow does."""
    dark = _times_last(cv2.bitwise_not(cv2.cvtColor(pixels, cv2.COLOR_BGRA2BGR)), pixels)
    over: Pixels = cv2.bitwise_not(dark, dark)
    return over


def light(cmyk: Pixels) -> Pixels:
    """uint8 [h, w, 4] -> RGB uint8 [h, w, 3].

    Adobe's convention, which all writers follow: ink is stored inverted, so the product is the light left.
    """
    return _times_last(cv2.cvtColor(cmyk, cv2.COLOR_BGRA2BGR), cmyk)


def _times_last(colours: Pixels, pixels: Pixels) -> Pixels:
    """round(colours * last / 255) in place, the last being the fourth channel of `pixels`."""
    last = cv2.cvtColor(cv2.extractChannel(pixels, 3), cv2.COLOR_GRAY2BGR)
    product: Pixels = cv2.multiply(colours, last, colours, scale=1 / 255)
    return product
