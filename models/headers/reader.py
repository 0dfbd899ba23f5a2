"""Reads the headers of an image file before any pixel is decoded: format, size, orientation, layout.

The limits are enforced on these numbers, so a bomb (a few bytes that claim gigapixels) costs nothing. The
parsers are small, copy nothing large, and bound the number of segments that they walk. What they read is
what the libraries read: a file that two parsers could read in two ways is refused or rewritten.
"""

from __future__ import annotations

import re
import struct

from models.errors import ImageInvalid
from models.headers import bmp, gif, heif, jpeg, png, tiff, webp
from models.headers.accepted import not_accepted
from models.headers.header import Header

_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL image"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"\xff\xd8\xff\xf7", "a JPEG-LS image"),
    (b"II\xbc", "a JPEG XR image"),
    (b"II\x1a\x00\x00\x00HEAP", "a camera's raw file"),
    (b"FUJIFILMCCD-RAW", "a camera's raw file"),
    (b"%PDF-", "a PDF"),
    (b"%!PS", "a PostScript file"),
    (b"8BPS", "a Photoshop file"),
    (b"gimp xcf", "a GIMP file"),
    (b"v/1\x01", "an OpenEXR image"),
    (b"#?RADIANCE", "a Radiance HDR image"),
    (b"\x00\x00\x01\x00", "an icon (ICO)"),
    (b"\x00\x00\x02\x00", "a cursor (CUR)"),
    (b"qoif", "a QOI image"),
    (b"DDS ", "a DDS image"),
    (b"BPG\xfb", "a BPG image"),
    (b"FLIF", "a FLIF image"),
    (b"\x8aMNG", "an MNG animation"),
    (b"\x8bJNG", "a JNG image"),
    (b"\x1a\x45\xdf\xa3", "a video (Matroska or WebM)"),
    (b"\x00\x00\x01\xba", "a video (MPEG)"),
    (b"\x00\x00\x01\xb3", "a video (MPEG)"),
    (b"FLV\x01", "a video (Flash)"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a video (Windows Media)"),
    (b"OggS", "an Ogg file"),
    (b"ID3", "a sound (MP3)"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
)
_MARKUP = re.compile(rb"\s*<(?:\?xml|!--|!doctype|svg\b|html\b)", re.IGNORECASE)
_NETPBM = re.compile(rb"P[1-7]\s")
_LOOKED_AT = 4_096  # bytes of a text in which its first element is looked for


def read_header(data: bytes) -> Header:
    """Reads format, stored size and orientation of an image file.

    Raises:
        MediaTypeUnsupported: the magic bytes are of no accepted format; names the format where it is known.
        ImageInvalid: they are, and the header after them is cut short or makes no sense.
    """
    if data.startswith(b"\xff\xd8\xff") and data[3:4] != b"\xf7":
        parser = jpeg.read
    elif data.startswith(png.MAGIC):
        parser = png.read
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        parser = webp.read
    elif data.startswith((b"GIF87a", b"GIF89a")):
        parser = gif.read
    elif data.startswith(tiff.MAGIC) and data[8:10] != b"CR":
        parser = tiff.read
    elif data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in bmp.SIZES:
        parser = bmp.read
    elif data[4:8] == b"ftyp":
        parser = heif.read
    else:
        raise not_accepted(_named(data))
    try:
        return parser(data)
    except (struct.error, IndexError) as error:
        raise ImageInvalid("the image's header is cut short") from error


def _named(data: bytes) -> str | None:
    """What a file is that is no accepted image, by its first bytes."""
    for magic, name in _OTHERS:
        if data.startswith(magic):
            return name
    if data.startswith(b"RIFF"):
        return {b"AVI ": "a video (AVI)", b"WAVE": "a sound (WAVE)"}.get(data[8:12])
    if data.startswith(tiff.MAGIC):
        return "a camera's raw file"
    if data[4:8] in (b"moov", b"mdat", b"wide", b"skip"):
        return "a video (QuickTime)"
    if _NETPBM.match(data):
        return "a Netpbm image"
    head = data[:_LOOKED_AT].removeprefix(b"\xef\xbb\xbf")
    if _MARKUP.match(head):
        return "an SVG image" if b"<svg" in head.lower() else "an HTML or XML document"
    return None
