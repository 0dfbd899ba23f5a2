"""Images: decoding with limits, upright orientation, and the geometry between an image and a network.

An image is uint8 RGB, [h, w, 3]. The hot path is a JPEG: a header parsed here, libjpeg-turbo, outside of
Python's lock, and a vectorised antialiased resize (`models.resample`). Colour profiles are not applied, as in
torchvision and PIL; what is transparent is laid over white, as a viewer shows it.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image as PILImage

from models.codecs import bmp, gif, heif, jpeg, pillow, tiff, webp
from models.errors import ImageInvalid, ImageTooLarge
from models.headers.header import Format, Frame, Header
from models.headers.jpeg import SCAN_NS_PER_PIXEL
from models.headers.reader import read_header
from models.resample import Interpolation, Pixels, resize

__all__ = ["Interpolation", "Pixels", "resize"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one image.

    Attributes:
        max_bytes: length of the file.
        max_pixels: width times height, read from the file's header before anything is decoded.
    """

    max_bytes: int = 20 * 1024 * 1024
    max_pixels: int = 50_000_000


DEFAULT_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class Image:
    """A decoded image.

    Attributes:
        pixels: uint8, [h, w, 3], RGB, upright; may be smaller than the original.
        width, height: of the upright original, in pixels.
        frames: of the animation whose first one it is, or pages of the TIFF; 1 for a still image.
    """

    pixels: Pixels
    width: int
    height: int
    frames: int = 1


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """What the decoding of one file takes, known from its headers.

    Attributes:
        header: the file's format, size and orientation.
        reduction: the image is decoded at 1/reduction of its size: 1, 2, 4 or 8 for a JPEG (a shorter inverse
            DCT), any whole number for other formats (the mean of so many pixels squared).
        max_pixels: as it was asked for.
        memory: upper bound of the bytes that the decoding holds at its peak above the file itself, the result
            included.
        cpu_seconds: upper estimate of the time on one core.
        large: over `LARGE_SECONDS`; to be decoded apart from small ones.
    """

    header: Header
    reduction: int
    max_pixels: int | None
    memory: int
    cpu_seconds: float

    @property
    def large(self) -> bool:
        return self.cpu_seconds > LARGE_SECONDS

    @property
    def result(self) -> int:
        """Bytes of the decoded image, at most."""
        pixels = self.header.pixels_at(self.reduction)
        return 3 * (pixels if self.max_pixels is None else min(pixels, self.max_pixels))


LARGE_SECONDS: Final = 0.02
RAW_BYTES_PER_PIXEL: Final = 4
"""Of the limit of pixels: a PNG or TIFF of 16-bit colours may have fewer, as they take twice the time."""
NS_PER_PIXEL: Final = 24
"""Of the limit of pixels: an AVIF or HEIC is refused whose decoding is estimated to take more (1.2 s)."""
MARGIN: Final = 2
"""A decoder reduces an image to no less than so many times the `min_side` that a network needs: nearer to it,
what the decoder and the resizing leave out of the finest detail is not what the resizing alone does."""
MAX_SIDE: Final = 65_535
"""Pixels; more than any JPEG has."""


def plan(
    data: bytes,
    limits: Limits = DEFAULT_LIMITS,
    *,
    min_side: int | None = None,
    max_pixels: int | None = None,
) -> DecodePlan:
    """Reads a file's headers, enforces the limits, and estimates what `decode` will take.

    Takes microseconds for usual files and some milliseconds for the longest and oddest.

    Args:
        data: the file.
        limits: of the file.
        min_side, max_pixels: as for `decode`.

    Raises:
        As `decode`, for all that the headers show.
    """
    if not data:
        raise ImageInvalid("the image is empty")
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(f"the image has {len(data)} bytes; at most {limits.max_bytes} are accepted")
    header = read_header(data)
    if header.width == 0 or header.height == 0:
        raise ImageInvalid(f"the image is {header.width} by {header.height} pixels")
    if header.width * header.height > limits.max_pixels:
        raise ImageTooLarge(
            f"the image is {header.width} by {header.height} pixels; "
            f"at most {limits.max_pixels} pixels are accepted"
        )
    if max(header.width, header.height) > MAX_SIDE:
        raise ImageTooLarge(
            f"the image is {header.width} by {header.height} pixels; "
            f"at most {MAX_SIDE} pixels a side are accepted"
        )
    if header.raw > RAW_BYTES_PER_PIXEL * limits.max_pixels:
        raise ImageTooLarge(
            f"the {header.format}'s rows have {header.raw} bytes; "
            f"at most {RAW_BYTES_PER_PIXEL * limits.max_pixels} are accepted"
        )
    if not header.complete:
        raise ImageInvalid(f"the {header.format} is truncated")
    frame = header.layout
    if isinstance(frame, Frame) and frame.scan_ns > SCAN_NS_PER_PIXEL * limits.max_pixels:
        raise ImageInvalid("the JPEG has too many scans for its size")
    reduction = _reduction(header, min_side, max_pixels)
    memory, seconds = _CODECS[header.format].cost(header, reduction, len(data))
    if header.format in (Format.AVIF, Format.HEIC) and seconds > 1e-9 * NS_PER_PIXEL * limits.max_pixels:
        raise ImageTooLarge(
            f"the {header.format} of {header.width} by {header.height} pixels and {len(data)} bytes "
            "would take too long to decode"
        )
    reduced = header.pixels_at(reduction)
    if max_pixels is not None and reduced > max_pixels:  # after the decoder has given its own memory back
        memory = max(memory, 4 * reduced + 3 * max_pixels)
        reduced = max_pixels
    if header.orientation >= 5:
        memory = max(memory, 7 * reduced)
    memory += _ROWS * max(header.width, header.height) + _STATE
    return DecodePlan(header, reduction, max_pixels, memory, seconds)


class _Codec(Protocol):
    def decode(self, data: bytes, header: Header, reduction: int, /) -> Pixels: ...
    def cost(self, header: Header, reduction: int, length: int, /) -> tuple[int, float]: ...


_CODECS: Final[dict[Format, _Codec]] = {
    Format.JPEG: jpeg,
    Format.PNG: pillow,
    Format.WEBP: webp,
    Format.GIF: gif,
    Format.BMP: bmp,
    Format.TIFF: tiff,
    Format.AVIF: heif,
    Format.HEIC: heif,
}
_ROWS = 256  # bytes for each pixel of the longer side: a decoder's own rows
_STATE = 4 << 20  # bytes: a decoder's tables, bands of rows, rounding to pages

# Other formats are decoded whole; those of more pixels than this, more than a photograph has, are reduced
# in bands of rows, so that no full-size RGB copy is made.
_WHOLE_PIXELS = 16_000_000


def _reduction(header: Header, min_side: int | None, max_pixels: int | None) -> int:
    """The largest that leaves `MARGIN` times `min_side`, or half of `max_pixels`."""
    side, pixels = min(header.width, header.height), header.width * header.height
    if isinstance(header.layout, Frame):
        if not jpeg.reducible(header.layout):
            return 1
        for factor in (8, 4, 2):  # other ratios are slower than a full decode
            if min_side is not None and side // factor >= MARGIN * min_side:
                return factor
            if max_pixels is not None and pixels // factor**2 >= max_pixels // 2:
                return factor
        return 1
    factor = 1
    if min_side is not None and pixels > _WHOLE_PIXELS:
        factor = 1 << max(0, (side // (MARGIN * min_side)).bit_length() - 1)
    if max_pixels is not None:
        factor = max(factor, math.isqrt(2 * pixels // max_pixels))
    return max(1, min(factor, side))


def decode(
    data: bytes,
    limits: Limits = DEFAULT_LIMITS,
    *,
    min_side: int | None = None,
    max_pixels: int | None = None,
    plan: DecodePlan | None = None,
) -> Image:
    """Decodes an image of any accepted format, by its magic bytes, and turns it upright by its orientation.

    Of an animation, the first frame; of a TIFF, the first page. 16-bit samples are scaled to 8 bits, CMYK is
    converted without a profile, transparency is laid over white.

    Args:
        data: the file.
        limits: enforced before any pixel is decoded.
        min_side: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size (a shorter inverse DCT: antialiased)
            as long as its shorter side keeps at least `MARGIN` times as many pixels. None: full resolution.
            Other formats are reduced likewise, above 16 megapixels.
        max_pixels: the result is reduced, antialiased and in proportion, to at most so many pixels, and to
            less, but not below half of them, where the decoder itself can reduce so far; None: not bounded.
        plan: what the function of that name gave for the same file; then the other arguments are its own.

    Raises:
        ImageTooLarge: over the byte or the pixel limit.
        MediaTypeUnsupported: no accepted format.
        ImageInvalid: it does not decode, is cut short, has no pixels, or takes too long.
    """
    if plan is None:
        plan = _plan(data, limits, min_side=min_side, max_pixels=max_pixels)
    header = plan.header
    pixels = _CODECS[header.format].decode(data, header, plan.reduction)
    if plan.max_pixels is not None:
        pixels = _at_most(pixels, plan.max_pixels)
    width, height = header.width, header.height
    if header.orientation >= 5:
        width, height = height, width
    return Image(_upright(pixels, header.orientation), width, height, header.frames)


_plan = plan  # where an argument has its name


def within(height: int, width: int, max_pixels: int | None) -> tuple[int, int]:
    """Height and width, reduced in about proportion to at most `max_pixels` pixels; None: the same."""
    if max_pixels is None or height * width <= max_pixels:
        return height, width
    scale = math.sqrt(max_pixels / (height * width))
    smaller = max(1, int(min(height, width) * scale))
    larger = max(1, min(int(max(height, width) * scale), max_pixels // smaller))
    return (smaller, larger) if height < width else (larger, smaller)


def _at_most(pixels: Pixels, most: int) -> Pixels:
    height, width = within(pixels.shape[0], pixels.shape[1], most)
    if (height, width) == pixels.shape[:2]:
        return pixels
    reduced: Pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    return reduced


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undoes an EXIF orientation: where the first stored row and column belong (CIPA DC-008, 4.6.4)."""
    if orientation >= 5:
        pixels = cv2.transpose(pixels)
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return pixels if flip is None else cv2.flip(pixels, flip, pixels)


@dataclass(frozen=True, slots=True)
class Letterbox:
    """How an image lies on a canvas: `canvas = original * scale + pad`, in pixels, edges at whole numbers.

    Attributes:
        scale_x, scale_y: canvas pixels per pixel of the upright original; they differ by rounding only.
        pad_x, pad_y: canvas pixels to the left of and above the image.
        width, height: of the upright original.
    """

    scale_x: float
    scale_y: float
    pad_x: float
    pad_y: float
    width: int
    height: int

    def undo_boxes(self, boxes: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """[N, 4] xyxy on the canvas -> [N, 4] xyxy on the original, clipped to it."""
        points = self.undo_points(boxes.reshape(-1, 2, 2))
        return points.clip(0, np.array([self.width, self.height], points.dtype)).reshape(-1, 4)

    def undo_points(self, points: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """[..., 2] (x, y) on the canvas -> [..., 2] on the original, not clipped."""
        pad = np.array([self.pad_x, self.pad_y], points.dtype)
        undone: NDArray[np.floating[Any]] = (points - pad) / np.array(
            [self.scale_x, self.scale_y], points.dtype
        )
        return undone


def letterbox(
    image: Image,
    height: int,
    width: int,
    *,
    fill: int = 114,
    interpolation: Interpolation = "bilinear",
    centred: bool = True,
) -> tuple[Pixels, Letterbox]:
    """Fits the whole image, in proportion, onto a canvas of `fill`.

    Args:
        image: any size, any proportions.
        height, width: of the canvas.
        fill: level of the padding in all three channels.
        interpolation: of the resizing.
        centred: the image lies in the middle; otherwise in the upper left corner.

    Returns:
        uint8 [height, width, 3] and the geometry to come back.
    """
    scale = min(height / image.height, width / image.width)
    inner_height = max(1, round(image.height * scale))
    inner_width = max(1, round(image.width * scale))
    top, left = ((height - inner_height) // 2, (width - inner_width) // 2) if centred else (0, 0)
    canvas = np.full((height, width, 3), fill, np.uint8)
    inner = resize(image.pixels, inner_height, inner_width, interpolation=interpolation)
    canvas[top : top + inner_height, left : left + inner_width] = inner
    geometry = Letterbox(
        inner_width / image.width, inner_height / image.height, left, top, image.width, image.height
    )
    return canvas, geometry


def stretch(
    image: Image, height: int, width: int, *, interpolation: Interpolation = "bilinear"
) -> tuple[Pixels, Letterbox]:
    """As `letterbox`, but out of proportion: the image covers the canvas."""
    geometry = Letterbox(width / image.width, height / image.height, 0, 0, image.width, image.height)
    return resize(image.pixels, height, width, interpolation=interpolation), geometry


def fitted(pixels: Pixels, longest: int) -> Pixels:
    """Reduced, in proportion, to at most `longest` pixels a side."""
    scale = min(1.0, longest / max(pixels.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    return resize(pixels, height, width)


def center_crop(
    image: Image,
    size: int,
    fraction: float,
    *,
    interpolation: Interpolation = "bilinear",
) -> Pixels:
    """The centre square of `fraction` of the shorter side (0 < fraction <= 1), resized to [size, size, 3].

    Equals torchvision's Resize(size / fraction) and CenterCrop(size), but for the rounding of the crop to
    whole pixels, and without resizing what is thrown away.
    """
    rows, columns = center_square(image, size, fraction)
    return resize(image.pixels[rows, columns], size, size, interpolation=interpolation)


def center_square(image: Image, size: int, fraction: float) -> tuple[slice, slice]:
    """Rows and columns of the centre square of `fraction` of the shorter side, for a result of `size` pixels.

    The square lies where it would in the original, at multiples of the most by which a decoder may have
    reduced it: so it is the same part of the image whether it was reduced or not, and off the centre by no
    more than half a pixel of the result.
    """
    shorter, needed = min(image.height, image.width), MARGIN * math.ceil(size / fraction)
    step = next(step for step in (8, 4, 2, 1) if step == 1 or shorter // step >= needed)
    side = max(1, min(round(shorter * fraction / step), shorter // step)) * step
    top, left = ((length - side) // (2 * step) * step for length in (image.height, image.width))
    height, width = image.pixels.shape[:2]
    by = round(image.height / height)
    if (-(-image.height // by), -(-image.width // by)) == (height, width):
        rows, columns = (slice(at // by, (at + side) // by) for at in (top, left))
    else:  # reduced to a number of pixels
        rows, columns = (
            slice(round(at * now / was), max(round((at + side) * now / was), round(at * now / was) + 1))
            for at, now, was in ((top, height, image.height), (left, width, image.width))
        )
    return rows, columns


def encode(pixels: Pixels, format: Literal["jpeg", "png", "webp"], quality: int = 90) -> bytes:  # noqa: A002
    """Encodes uint8 RGB [h, w, 3]. `quality` (1 to 100) is that of the lossy formats.

    Raises:
        ImageTooLarge: the format cannot hold so large an image (65,500 pixels a side; 16,383 for WebP).
    """
    most = 16_383 if format == "webp" else 65_500
    if max(pixels.shape[:2]) > most:
        raise ImageTooLarge(f"a {format} holds at most {most} pixels a side")
    if format == "jpeg":
        encoded_jpeg: bytes = simplejpeg.encode_jpeg(
            np.ascontiguousarray(pixels), quality=quality, colorsubsampling="420"
        )
        return encoded_jpeg
    if format == "webp" and pixels.shape[0] * pixels.shape[1] > _WEBP_CAREFUL_PIXELS:
        stream = io.BytesIO()
        PILImage.fromarray(pixels).save(stream, "WEBP", quality=quality, method=0)
        return stream.getvalue()
    parameters = [cv2.IMWRITE_WEBP_QUALITY, quality] if format == "webp" else []
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(f".{format}", bgr, parameters)
    del bgr
    return bytes(encoded)


# Larger ones are encoded as WebP in a half to a third of the time, and to hardly more bytes; OpenCV has no
# such choice. Noise takes 96 ms a megapixel instead of 173, a photograph 27 instead of 84.
_WEBP_CAREFUL_PIXELS = 1_000_000

MAX_ENCODED_PIXELS: Final[dict[Literal["jpeg", "png", "webp"], int]] = {
    "jpeg": 16_000_000,
    "png": 12_500_000,
    "webp": 6_000_000,
}
"""Of an answer that is an image; larger ones are reduced. Noise takes 0.1, 0.35 and 0.6 s to encode."""
