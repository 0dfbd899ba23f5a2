"""HEVC: what an image item holds that costs time, by the heads of its units (ITU-T H.265, 7.3)."""

from __future__ import annotations

from dataclasses import dataclass

from models.errors import ImageInvalid, MediaTypeUnsupported
from models.headers.bits import Bits
from models.headers.header import MAX_SEGMENTS

_SETS = (32, 33, 34)  # of video, sequence and picture parameters
_SEQUENCE = 33
_MOST_SETS, _MOST_SET = 16, 4_096  # parameter sets, and bytes of one; encoders write 3 of 10 to 100
_INTRA = range(16, 22)  # slices of pictures that need no other picture


@dataclass(frozen=True, slots=True)
class Configuration:
    """The parameters of an HEVC image.

    Attributes:
        box: an ``hvcC`` of them that says what they say.
        prefix: bytes of a unit's length.
        coded: width and height that are decoded.
        width, height: without what the coding added at the right and at the bottom.
    """

    box: bytes
    prefix: int
    coded: tuple[int, int]
    width: int
    height: int


def configuration(record: bytes) -> Configuration:
    """Reads a decoder configuration record (ISO/IEC 14496-15, 8.3.3.1), the content of an ``hvcC``.

    It is written anew: libheif takes depth and colours from it, libde265 from the parameters themselves, and
    where they differ memory is corrupted.

    Raises:
        ImageInvalid: it makes no sense.
        MediaTypeUnsupported: a depth that is not decoded.
        IndexError: it is cut short.
    """
    prefix, at = (record[21] & 3) + 1, 23
    sets: list[bytes] = []
    for _ in range(record[22]):
        count, at = int.from_bytes(record[at + 1 : at + 3], "big"), at + 3
        for _ in range(count):
            length = int.from_bytes(record[at : at + 2], "big")
            unit, at = record[at + 2 : at + 2 + length], at + 2 + length
            if at > len(record) or len(unit) < 3:
                raise ImageInvalid("the HEIC's parameters are cut short")
            if unit[0] >> 1 & 63 in _SETS:
                sets.append(unit)
            if len(sets) > _MOST_SETS or length > _MOST_SET:
                raise ImageInvalid("the HEIC has too many parameters")
    sequences = [unit for unit in sets if unit[0] >> 1 & 63 == _SEQUENCE]
    if len(sequences) != 1:
        raise ImageInvalid("the HEIC's parameters make no sense")
    chroma, depths, coded, shown = _sequence(sequences[0])
    if depths[0] != depths[1] or not 8 <= depths[0] <= 12:
        raise MediaTypeUnsupported(f"a HEIC of {depths[0]} and {depths[1]} bits is not supported")
    head = record[:13].ljust(13, b"\x00") + b"\xf0\x00\xfc"
    head += bytes(
        [0xFC | chroma, 0xF8 | depths[0] - 8, 0xF8 | depths[1] - 8, 0, 0, 0x0C | prefix - 1, len(sets)]
    )
    arrays = b"".join(
        bytes([0x80 | unit[0] >> 1 & 63, 0, 1]) + len(unit).to_bytes(2, "big") + unit for unit in sets
    )
    box = (8 + len(head) + len(arrays)).to_bytes(4, "big") + b"hvcC" + head + arrays
    return Configuration(box, prefix, coded, *shown)


def _sequence(unit: bytes) -> tuple[int, tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Chroma format, depths, coded size and shown size of a sequence parameter set (7.3.2.2)."""
    bits = Bits(unit[2:].replace(b"\x00\x00\x03", b"\x00\x00"))
    bits.read(4)
    layers = bits.read(3)
    bits.read(1 + 88 + 8)
    present = [(bits.read(1), bits.read(1)) for _ in range(layers)]
    if layers:
        bits.read(2 * (8 - layers))
    for profile, level in present:
        bits.read(88 * profile + 8 * level)
    bits.exponential()
    chroma = bits.exponential()
    if chroma > 3 or (chroma == 3 and bits.read(1)):
        raise ImageInvalid("the HEIC's colours make no sense")
    coded = bits.exponential(), bits.exponential()
    window = [bits.exponential() for _ in range(4)] if bits.read(1) else [0] * 4
    across, down = 2 if chroma in (1, 2) else 1, 2 if chroma == 1 else 1
    shown = coded[0] - across * (window[0] + window[1]), coded[1] - down * (window[2] + window[3])
    return chroma, (bits.exponential() + 8, bits.exponential() + 8), coded, shown


def slices(data: bytes, begin: int, end: int, prefix: int) -> tuple[tuple[tuple[int, int], ...], int]:
    """The units of an item that are its picture.

    Args:
        data: the file.
        begin, end: of the item within it.
        prefix: bytes of a unit's length.

    Returns:
        Begins and ends of them with their lengths, metadata left out; how many slices they are. A slice may
        cost as much as the picture, whatever its length.

    Raises:
        ImageInvalid: it is no picture, or more than one.
    """
    kept: list[tuple[int, int]] = []
    at = begin
    for _ in range(MAX_SEGMENTS):
        if at + prefix + 3 > end:
            break
        first, at = at, at + prefix + int.from_bytes(data[at : at + prefix], "big")
        if at > end:
            raise ImageInvalid("the HEIC's image is cut short")
        kind = data[first + prefix] >> 1 & 63
        if kind >= 32:
            continue
        starts = bool(data[first + prefix + 2] & 0x80)
        if kind not in _INTRA or starts != (not kept):
            raise ImageInvalid("the HEIC's image is not one picture of its own")
        kept.append((first, at))
    else:
        raise ImageInvalid(f"the HEIC's image has more than {MAX_SEGMENTS} units")
    if not kept:
        raise ImageInvalid("the HEIC has no image in it")
    return tuple(kept), len(kept)
