"""Pictures: decoding with limits, upright orientation, and the geometry between a picture and a network.

A picture is uint8 RGB, [h, w, 3]. The hot path is a JPEG: a header parsed here, libjpeg-turbo, and torch's
vectorised antialiased resize, all of them outside of Python's lock. Colour profiles are not applied, as in
torchvision and PIL; what is transparent is laid over white, as a viewer shows it.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Final, Literal

import cv2
import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile
from torch import Tensor

from models.errors import ImageInvalid, ImageTooLarge
from models.image_header import (
    SCAN_NS_PER_PIXEL,
    Format,
    Frame,
    Header,
    jpeg_without_metadata,
    read_header,
    without_animation,
)

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a picture may cost.

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
    """

    pixels: Pixels
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """What the decoding of one file takes, known from its headers.

    Attributes:
        header: what the file says of itself.
        reduction: 1, 2, 4 or 8: a JPEG is decoded at 1/reduction of its size (a shorter inverse DCT).
        min_side, max_pixels: as they were asked for.
        memory: upper bound of the bytes that the decoding holds at its peak above the file itself, the result
            included.
        cpu_seconds: upper estimate of the time on one core.
        large: over `LARGE_SECONDS`; to be decoded apart from small ones.
    """

    header: Header
    reduction: int
    min_side: int | None
    max_pixels: int | None
    memory: int
    cpu_seconds: float

    @property
    def large(self) -> bool:
        return self.cpu_seconds > LARGE_SECONDS

    @property
    def result(self) -> int:
        """Bytes of the decoded image, at most."""
        pixels = -(-self.header.width // self.reduction) * -(-self.header.height // self.reduction)
        return 3 * (pixels if self.max_pixels is None else min(pixels, self.max_pixels))


LARGE_SECONDS: Final = 0.02
MAX_SIDE: Final = 65_535
"""Pixels; more than any JPEG has."""

_MIB = 1 << 20


def plan(
    data: bytes,
    limits: Limits = DEFAULT_LIMITS,
    *,
    min_side: int | None = None,
    max_pixels: int | None = None,
) -> DecodePlan:
    """Reads a file's headers, enforces the limits, and tells what `decode` will take.

    Takes microseconds for usual files and some milliseconds for the longest and oddest.

    Args:
        data: the file.
        limits: of the file.
        min_side, max_pixels: as for `decode`.

    Raises:
        As `decode`, for all that the headers tell.
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
    if not header.complete:
        raise ImageInvalid(f"the {header.format} is truncated")
    if header.frame is not None and header.frame.scan_ns > SCAN_NS_PER_PIXEL * limits.max_pixels:
        raise ImageInvalid("the JPEG has too many scans for its size")
    reduction = _reduction(header, min_side, max_pixels)
    memory, seconds = _cost(header, reduction, len(data), max_pixels)
    return DecodePlan(header, reduction, min_side, max_pixels, memory, seconds)


def _reduction(header: Header, min_side: int | None, max_pixels: int | None) -> int:
    """The largest of 8, 4, 2 and 1 that leaves `min_side` or `max_pixels`; other ratios are slower than 1."""
    if header.frame is None or not _turbo(header.frame):
        return 1
    side, pixels = min(header.width, header.height), header.width * header.height
    for factor in (8, 4, 2):
        if min_side is not None and side // factor >= min_side:
            return factor
        if max_pixels is not None and pixels // factor**2 >= max_pixels:
            return factor
    return 1


# Which JPEGs go to TurboJPEG: these samplings of the first component (and of the fourth), the others 1 x 1.
# It names no others. They are all frames of `image_header.Frame`, whose rows TurboJPEG reduces as it is asked
# to; those of a lossless frame it would write at full size.
_TURBO_SAMPLINGS = frozenset({(1, 1), (2, 1), (2, 2), (1, 2), (4, 1), (1, 4)})


def _turbo(frame: Frame) -> bool:
    first, *others = frame.sampling
    if not others:
        return True
    colours, black = others[:2], others[2:]
    return first in _TURBO_SAMPLINGS and colours == [(1, 1), (1, 1)] and black in ([], [first])


def _cost(header: Header, reduction: int, length: int, max_pixels: int | None) -> tuple[int, float]:
    """Bytes and seconds; the figures of `docs/security.md`."""
    pixels = header.width * header.height
    rows = 256 * max(header.width, header.height) + 4 * _MIB  # a decoder's own rows, tables and state
    if header.frame is not None:
        frame = header.frame
        result = -(-header.width // reduction) * -(-header.height // reduction)
        channels = max(3, header.components)
        bytes_ = 2 * frame.coefficients + channels * result
        if not _turbo(frame):
            bytes_ += 4 * pixels + length
        bytes_ += 3 * result if header.orientation > 1 or max_pixels is not None else 0
        samples = frame.coefficients or 3 * pixels
        return bytes_ + rows, (frame.scan_ns + 12 * length + 4 * samples / reduction) * 1e-9
    stored = {Format.PNG: 4, Format.BMP: 4, Format.WEBP: 16}[header.format]
    bytes_ = (stored + 6) * pixels + length
    return bytes_ + rows, pixels * 20e-9


def decode(
    data: bytes,
    limits: Limits = DEFAULT_LIMITS,
    *,
    min_side: int | None = None,
    max_pixels: int | None = None,
    plan: DecodePlan | None = None,
) -> Image:
    """Decodes a JPEG, PNG, WebP or BMP, told by its magic bytes, and turns it upright as its EXIF says.

    Of an animation, the first frame. 16-bit samples are scaled to 8 bits, CMYK is converted without a
    profile, transparency is laid over white.

    Args:
        data: the file.
        limits: enforced before any pixel is decoded.
        min_side: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size (a shorter inverse DCT: antialiased)
            as long as its shorter side keeps at least this many pixels. None: full resolution.
        max_pixels: the result is reduced, antialiased and in proportion, to at most so many pixels; None: not
            bounded.
        plan: what the function of that name gave for the same file; then the other arguments are its own.

    Raises:
        ImageTooLarge: over the byte or the pixel limit.
        MediaTypeUnsupported: no accepted format.
        ImageInvalid: it does not decode, is cut short, has no pixels, or takes too long.
    """
    if plan is None:
        plan = _plan(data, limits, min_side=min_side, max_pixels=max_pixels)
    header = plan.header
    if header.frame is None:
        pixels = _decode_pil(without_animation(data) if header.animated else data, header)
    elif _turbo(header.frame):
        pixels = _decode_turbo(data, header, plan.reduction)
    else:
        pixels = _decode_pil(jpeg_without_metadata(data, header.components), header)
    if plan.max_pixels is not None:
        pixels = _at_most(pixels, plan.max_pixels)
    width, height = header.width, header.height
    if header.orientation >= 5:
        width, height = height, width
    return Image(_upright(pixels, header.orientation), width, height)


_plan = plan  # where an argument has its name


def _at_most(pixels: Pixels, most: int) -> Pixels:
    height, width = pixels.shape[:2]
    if height * width <= most:
        return pixels
    scale = math.sqrt(most / (height * width))
    size = max(1, min(most, int(width * scale))), max(1, min(most, int(height * scale)))
    reduced: Pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return reduced


# libjpeg-turbo's warnings. After these ones pixels are missing.
_LOST_PIXELS = ("remature end", "bad Huffman code", "instead of RST")
# And after these the image is whole: stray bytes between segments, an odd JFIF or Adobe version, an unusual
# progression. All else is an error, after which nothing was decoded.
_HARMLESS = ("extraneous bytes before", "nconsistent progression", "Adobe color transform", "JFIF revision")


def _decode_turbo(data: bytes, header: Header, reduction: int) -> Pixels:
    height, width = -(-header.height // reduction), -(-header.width // reduction)
    cmyk = header.components == 4
    colours = "CMYK" if cmyk else "RGB"
    pixels = np.empty((height, width, 4 if cmyk else 3), np.uint8)

    def decompress(jpeg: bytes) -> None:
        decoded = simplejpeg.decode_jpeg(jpeg, colours, min_height=height, min_width=width, buffer=pixels)
        if decoded.shape != pixels.shape:
            raise ImageInvalid("the JPEG tells its size in two ways")

    try:
        decompress(data)
    except ValueError as error:
        if not _is_harmless(error):
            raise ImageInvalid("the JPEG is truncated or corrupt") from error
        try:  # warnings of the header end the call before the decoding, later ones after it
            simplejpeg.decode_jpeg_header(data)
        except ValueError:
            try:
                decompress(jpeg_without_metadata(data, header.components))
            except ValueError as second:
                if not _is_harmless(second):
                    raise ImageInvalid("the JPEG is truncated or corrupt") from second
    return _light(pixels) if cmyk else pixels


def _is_harmless(error: ValueError) -> bool:
    text = str(error)
    return any(words in text for words in _HARMLESS) and not any(words in text for words in _LOST_PIXELS)


def _light(inks: Pixels) -> Pixels:
    """CMYK uint8 [h, w, 4] -> RGB uint8 [h, w, 3] in the same memory.

    Adobe's convention, which all writers follow: ink is stored inverted, so the product is the light left.
    """
    height, width = inks.shape[:2]
    flat = inks.reshape(-1)
    for begin in range(0, height * width, _BAND_PIXELS):
        band = flat[4 * begin : 4 * (begin + _BAND_PIXELS)].reshape(-1, 4)
        light = band[:, :3].astype(np.uint16)
        light *= band[:, 3:]
        light += 128
        light += light >> 8  # with the shift below: divided by 255 and rounded
        light >>= 8
        flat[3 * begin : 3 * (begin + len(band))] = light.reshape(-1)
    return flat[: 3 * height * width].reshape(height, width, 3)


_BAND_PIXELS = 1 << 16


class _Jpeg(JpegImageFile):
    """PIL's plugin without its EXIF reader, which warns of broken blocks; we know the orientation already."""

    def getexif(self) -> PILImage.Exif:
        return PILImage.Exif()


# The classes themselves and not PIL's open(): that one would try other formats, and compare with a limit that
# is global to the process.
_PLUGINS: Final[dict[Format, type[ImageFile.ImageFile]]] = {
    Format.JPEG: _Jpeg,
    Format.PNG: PngImageFile,
    Format.WEBP: WebPImageFile,
    Format.BMP: BmpImageFile,
}


def _decode_pil(data: bytes, header: Header) -> Pixels:
    try:
        with _PLUGINS[header.format](io.BytesIO(data)) as picture:
            if picture.size == (header.width, header.height):
                picture.load()
                return _rgb(picture)
    except MemoryError:
        raise
    except Exception as error:  # PIL's plugins raise whatever their parsing meets
        raise ImageInvalid(f"the {header.format} is truncated or corrupt") from error
    raise ImageInvalid(f"the {header.format} tells its size in two ways")


def _rgb(picture: PILImage.Image) -> Pixels:
    """uint8 RGB [h, w, 3] of any mode, converted in bands of rows."""
    width, height = picture.size
    transparent = picture.has_transparency_data
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, _BAND_PIXELS // width)
    for top in range(0, height, rows):
        band = picture.crop((0, top, width, min(top + rows, height)))
        target = pixels[top : top + rows]
        if band.mode.startswith("I"):  # 16-bit grey: the high byte, as PIL and libpng do for 16-bit colour
            target[:] = (np.asarray(band).astype(np.uint16) >> 8).astype(np.uint8)[..., None]
            continue
        if transparent:
            opaque = PILImage.new("RGBA", band.size, "white")
            band = PILImage.alpha_composite(opaque, band.convert("RGBA"))
        target[:] = np.asarray(band if band.mode == "RGB" else band.convert("RGB"))
    return pixels


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undoes an EXIF orientation: where the first stored row and column belong (CIPA DC-008, 4.6.4)."""
    turned: Pixels
    match orientation:
        case 2:
            turned = cv2.flip(pixels, 1)
        case 3:
            turned = cv2.rotate(pixels, cv2.ROTATE_180)
        case 4:
            turned = cv2.flip(pixels, 0)
        case 5:
            turned = cv2.transpose(pixels)
        case 6:
            turned = cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE)
        case 7:
            turned = cv2.transpose(cv2.rotate(pixels, cv2.ROTATE_180))
        case 8:
            turned = cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE)
        case _:
            turned = pixels
    return turned


def resize(
    pixels: Pixels, height: int, width: int, *, interpolation: Literal["bilinear", "bicubic"] = "bilinear"
) -> Pixels:
    """Resizes uint8 [h, w, 3] to uint8 [height, width, 3], antialiased where it shrinks.

    This is torch's vectorised filter, which agrees with PIL's (what the weights were trained with) to one
    level in 255, in a third of the time of OpenCV's INTER_AREA.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    # The layout [1, 3, h, w] with the strides of [h, w, 3] is the one that has the fast kernel.
    batch = torch.from_numpy(np.require(pixels, np.uint8, ["C", "W"]))[None].permute(0, 3, 1, 2)
    resized = F.interpolate(batch, (height, width), mode=interpolation, antialias=True)
    return resized.permute(0, 2, 3, 1)[0].contiguous().numpy()


@dataclass(frozen=True, slots=True)
class Letterbox:
    """How a picture lies on a canvas: `canvas = original * scale + pad`, in pixels, edges at whole numbers.

    Attributes:
        scale_x, scale_y: canvas pixels per pixel of the upright original; they differ by rounding only.
        pad_x, pad_y: canvas pixels to the left of and above the picture.
        width, height: of the upright original.
    """

    scale_x: float
    scale_y: float
    pad_x: float
    pad_y: float
    width: int
    height: int

    def undo_boxes(self, boxes: Tensor) -> Tensor:
        """Tensor[N, 4] xyxy on the canvas -> Tensor[N, 4] xyxy on the original, clipped to it."""
        points = self.undo_points(boxes.reshape(-1, 2, 2))
        x, y = points.unbind(-1)
        return torch.stack((x.clamp(0, self.width), y.clamp(0, self.height)), -1).reshape(-1, 4)

    def undo_points(self, points: Tensor) -> Tensor:
        """Tensor[..., 2] (x, y) on the canvas -> Tensor[..., 2] on the original, not clipped."""
        x, y = points.unbind(-1)
        return torch.stack(((x - self.pad_x) / self.scale_x, (y - self.pad_y) / self.scale_y), -1)


def letterbox(
    image: Image, height: int, width: int, *, fill: int = 114, upscale: bool = True
) -> tuple[Pixels, Letterbox]:
    """Fits the whole picture, centred and in proportion, onto a canvas of `fill`.

    Args:
        image: any size, any proportions.
        height, width: of the canvas.
        fill: level of the padding in all three channels.
        upscale: whether a picture smaller than the canvas grows to it.

    Returns:
        uint8 [height, width, 3] and the geometry to come back.
    """
    scale = min(height / image.height, width / image.width)
    if not upscale:
        scale = min(scale, 1.0)
    inner_height = max(1, round(image.height * scale))
    inner_width = max(1, round(image.width * scale))
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    canvas = np.full((height, width, 3), fill, np.uint8)
    inner = resize(image.pixels, inner_height, inner_width)
    canvas[top : top + inner_height, left : left + inner_width] = inner
    geometry = Letterbox(
        inner_width / image.width, inner_height / image.height, left, top, image.width, image.height
    )
    return canvas, geometry


def center_crop(
    image: Image,
    size: int,
    fraction: float,
    *,
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
) -> Pixels:
    """The centre square of `fraction` of the shorter side (0 < fraction <= 1), resized to [size, size, 3].

    Equals torchvision's Resize(size / fraction) and CenterCrop(size), but for the rounding of the crop to
    whole pixels, and without resizing what is thrown away.
    """
    height, width = image.pixels.shape[:2]
    side = max(1, round(min(height, width) * fraction))
    top, left = (height - side) // 2, (width - side) // 2
    return resize(image.pixels[top : top + side, left : left + side], size, size, interpolation=interpolation)


def encode(pixels: Pixels, format: Literal["jpeg", "png", "webp"], quality: int = 90) -> bytes:  # noqa: A002
    """Encodes uint8 RGB [h, w, 3]. `quality` (1 to 100) is that of the lossy formats.

    Raises:
        ImageTooLarge: the format cannot hold so large a picture (65,500 pixels a side; 16,383 for WebP).
    """
    most = 16_383 if format == "webp" else 65_500
    if max(pixels.shape[:2]) > most:
        raise ImageTooLarge(f"a {format} holds at most {most} pixels a side")
    if format == "jpeg":
        jpeg: bytes = simplejpeg.encode_jpeg(
            np.ascontiguousarray(pixels), quality=quality, colorsubsampling="420"
        )
        return jpeg
    parameters = [cv2.IMWRITE_WEBP_QUALITY, quality] if format == "webp" else []
    _, encoded = cv2.imencode(f".{format}", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), parameters)
    return bytes(encoded)
