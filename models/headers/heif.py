"""AVIF and HEIC: the primary image of an ISO media file (14496-12, 23008-12), and a file of it alone."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from models.errors import ImageInvalid, MediaTypeUnsupported
from models.headers import av1, hevc
from models.headers.accepted import not_accepted
from models.headers.header import MAX_SEGMENTS, Format, Header, HeifImage, HeifItem

_MAX_ITEMS = 4_000
_MAX_TILES = 500  # a photograph of 100 megapixels in tiles of 512 has 400
_STILL = frozenset(
    {b"avif", b"avis", b"mif1", b"msf1", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"heif"}
)
_KINDS = {b"av01": Format.AVIF, b"hvc1": Format.HEIC}
_ALPHA = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1")
_EXIF = {  # by quarters anticlockwise and then the mirror: None, 0 (upside down), 1 (left to right)
    (0, None): 1, (1, None): 8, (2, None): 3, (3, None): 6,
    (0, 0): 4, (1, 0): 5, (2, 0): 2, (3, 0): 7,
    (0, 1): 2, (1, 1): 7, (2, 1): 4, (3, 1): 5,
}  # fmt: skip


@dataclass(slots=True)
class _Meta:
    """The boxes of a ``meta`` that describe items, by the items' numbers."""

    primary: int = 0
    kinds: dict[int, bytes] = field(default_factory=dict)
    places: dict[int, tuple[int, int]] = field(default_factory=dict)
    properties: list[tuple[bytes, int, int]] = field(default_factory=list)
    of_item: dict[int, list[int]] = field(default_factory=dict)
    references: list[tuple[bytes, int, list[int]]] = field(default_factory=list)
    configurations: dict[int, hevc.Configuration] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Coded:
    """An item, its size and what decoding it takes."""

    item: HeifItem
    width: int
    height: int
    decoded: int
    tiles: int


def read(data: bytes) -> Header:
    """The header of the primary image; of a sequence too, whose first image it is."""
    length = int.from_bytes(data[:4], "big")
    brands = {data[8:12]} | {data[at : at + 4] for at in range(16, min(length, 8 + 4 * MAX_SEGMENTS), 4)}
    if data[8:12] == b"crx ":
        raise not_accepted("a camera's raw file")
    if data[8:12] == b"jxl ":
        raise not_accepted("a JPEG XL image")
    meta = next((place for kind, *place in _boxes(data, 0, len(data)) if kind == b"meta"), None)
    found = None if meta is None or not brands & _STILL else _read_meta(data, *meta)
    if found is None or found.primary not in found.kinds:
        if brands & _STILL and _is_cut(data):
            raise ImageInvalid("the image's header is cut short")
        if brands & _STILL:
            raise not_accepted("a HEIF sequence without a still image")
        raise not_accepted("a video (MP4 or QuickTime)")
    coded = _item(data, found, found.primary)
    format_ = _format(coded.item)
    alpha, premultiplied = _alpha(data, found, coded)
    shown, (left, top), orientation = _transforms(data, found, coded)
    parts = [part for each in (coded, alpha) if each for part in (each.item, *each.item.tiles)]
    ranges = [place for part in parts for place in part.data]
    layout = HeifImage(
        coded.item,
        alpha.item if alpha else None,
        premultiplied,
        coded.width,
        coded.height,
        left,
        top,
        coded.decoded + (alpha.decoded if alpha else 0),
        sum(end - begin for begin, end in ranges),
        coded.tiles + (alpha.tiles if alpha else 0),
    )
    frames = _frames(data) if brands & {b"avis", b"msf1", b"hevc", b"hevx"} else 1
    return Header(
        format_,
        *shown,
        orientation,
        complete=max(end for _, end in ranges) <= len(data),
        frames=frames,
        layout=layout,
    )


def _is_cut(data: bytes) -> bool:
    """Whether the file ends within one of its boxes."""
    at = 0
    for _ in range(MAX_SEGMENTS):
        length = int.from_bytes(data[at : at + 4], "big")
        if length < 8 or at >= len(data):
            break
        at += length
    return at > len(data)


def _boxes(data: bytes, begin: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, begin and end of the content of the boxes of a range; the last one may be cut short."""
    at = begin
    for _ in range(_MAX_ITEMS):
        if at + 8 > end:
            return
        length, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if length == 1:
            (length,), head = struct.unpack_from(">Q", data, at + 8), 16
        elif length == 0:
            length = end - at
        if length < head:
            raise ImageInvalid("the image's boxes make no sense")
        yield kind, at + head, min(at + length, end)
        at += length
    raise ImageInvalid(f"the image has more than {_MAX_ITEMS} boxes")


def _read_meta(data: bytes, begin: int, end: int) -> _Meta:
    meta = _Meta()
    whole = 0, 0
    locations: tuple[int, int] | None = None
    for kind, at, last in _boxes(data, begin + 4, end):
        version = data[at] if at < last else 0
        if kind == b"pitm":
            meta.primary = int.from_bytes(data[at + 4 : at + (8 if version else 6)], "big")
        elif kind == b"iinf":
            for entry, inner, _ in _boxes(data, at + (8 if version else 6), last):
                if entry == b"infe" and data[inner] in (2, 3):
                    wide = 4 if data[inner] == 3 else 2
                    number = int.from_bytes(data[inner + 4 : inner + 4 + wide], "big")
                    meta.kinds[number] = data[inner + 6 + wide : inner + 10 + wide]
        elif kind == b"iloc":
            locations = at, last
        elif kind == b"idat":
            whole = at, last
        elif kind == b"iref":
            _references(data, at, last, meta)
        elif kind == b"iprp":
            for inner_kind, inner, inner_last in _boxes(data, at, last):
                if inner_kind == b"ipco":
                    meta.properties += _boxes(data, inner, inner_last)
                elif inner_kind == b"ipma":
                    _associations(data, inner, inner_last, meta)
    if locations is not None:
        _locations(data, *locations, whole, meta)
    return meta


def _references(data: bytes, at: int, last: int, meta: _Meta) -> None:
    wide = 4 if data[at] else 2
    for kind, inner, inner_last in _boxes(data, at + 4, last):
        count = int.from_bytes(data[inner + wide : inner + wide + 2], "big")
        begin = inner + wide + 2
        if begin + count * wide > inner_last or count > _MAX_ITEMS:
            raise ImageInvalid("the image's references make no sense")
        numbers = [
            int.from_bytes(data[place : place + wide], "big")
            for place in range(begin, begin + count * wide, wide)
        ]
        meta.references.append((kind, int.from_bytes(data[inner : inner + wide], "big"), numbers))


def _associations(data: bytes, at: int, last: int, meta: _Meta) -> None:
    wide, large = 4 if data[at] else 2, data[at + 3] & 1
    (count,) = struct.unpack_from(">I", data, at + 4)
    at += 8
    for _ in range(min(count, _MAX_ITEMS)):
        if at >= last:
            break
        number, several, at = int.from_bytes(data[at : at + wide], "big"), data[at + wide], at + wide + 1
        of_item = meta.of_item.setdefault(number, [])
        for _ in range(several):
            mask, size = (0x7FFF, 2) if large else (0x7F, 1)
            of_item.append((int.from_bytes(data[at : at + size], "big") & mask) - 1)
            at += size


def _locations(data: bytes, at: int, last: int, whole: tuple[int, int], meta: _Meta) -> None:
    version, sizes = data[at], struct.unpack_from(">BB", data, at + 4)
    offset, length, base, index = sizes[0] >> 4, sizes[0] & 15, sizes[1] >> 4, sizes[1] & 15 if version else 0
    wide = 2 if version < 2 else 4
    count, at = int.from_bytes(data[at + 6 : at + 6 + wide], "big"), at + 6 + wide

    def number(size: int) -> int:
        nonlocal at
        at += size
        return int.from_bytes(data[at - size : at], "big")

    for _ in range(min(count, _MAX_ITEMS)):
        if at >= last:
            break
        item = number(wide)
        method = number(2) & 15 if version else 0
        elsewhere, begin, extents = number(2), number(base), number(2)
        for extent in range(min(extents, MAX_SEGMENTS)):
            number(index)
            place = begin + number(offset)
            size = number(length)
            if method == 1:
                place += whole[0]
            if size == 0:
                size = (whole[1] if method == 1 else len(data)) - place
            if extent == 0 and extents == 1 and not elsewhere and method in (0, 1) and size > 0:
                meta.places[item] = place, place + size


def _property(meta: _Meta, item: int, kind: bytes) -> tuple[int, int] | None:
    """Begin and end of the content of an item's first property of a kind."""
    for index in meta.of_item.get(item, ()):
        if 0 <= index < len(meta.properties) and meta.properties[index][0] == kind:
            return meta.properties[index][1:]
    return None


def _box(kind: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4, "big") + kind + content


def _kept(data: bytes, meta: _Meta, item: int, kind: bytes) -> bytes:
    """The property as a box, or nothing."""
    place = _property(meta, item, kind)
    return _box(kind, data[place[0] : min(place[1], place[0] + 64)]) if place else b""


def _item(data: bytes, meta: _Meta, number: int, *, of_grid: bool = False) -> _Coded:
    """A coded image or a grid, by its number."""
    kind = meta.kinds.get(number, b"")
    size, place = _property(meta, number, b"ispe"), meta.places.get(number)
    if kind not in (b"av01", b"hvc1", b"grid") or (of_grid and kind == b"grid"):
        raise not_accepted(f"a HEIF image of the kind {kind.decode('latin-1')!r}")
    if place is None:
        raise ImageInvalid("the image lies in several pieces or outside of its file")
    if size is None:
        raise ImageInvalid("the image does not tell its size")
    width, height = struct.unpack_from(">II", data, size[0] + 4)
    extents = _box(b"ispe", bytes(4) + struct.pack(">II", width, height))
    colours = _property(meta, number, b"colr")
    nclx = (
        [_box(b"colr", data[colours[0] : colours[0] + 11])]
        if colours and data[colours[0] : colours[0] + 4] == b"nclx"
        else []
    )
    if kind == b"grid":
        return _grid(data, meta, number, place, (width, height), (extents, *nclx))
    if place[1] > len(data):  # reported once the size is known
        return _Coded(HeifItem(kind, (place,), ()), width, height, 0, 1)
    if kind == b"av01":
        kept, coded, frames = av1.units(data, *place)
        if coded != (width, height):
            raise ImageInvalid("the AVIF tells its size in two ways")
        item = HeifItem(kind, kept, (extents, _kept(data, meta, number, b"av1C"), *nclx))
        return _Coded(item, width, height, width * height * frames, 1)
    configuration = _configuration(data, meta, number)
    if (configuration.width, configuration.height) != (width, height):
        raise ImageInvalid("the HEIC tells its size in two ways")
    kept, count = hevc.slices(data, *place, configuration.prefix)
    across, down = configuration.coded
    return _Coded(
        HeifItem(kind, kept, (extents, configuration.box, *nclx)), width, height, across * down * count, 1
    )


def _configuration(data: bytes, meta: _Meta, number: int) -> hevc.Configuration:
    place = _property(meta, number, b"hvcC")
    if place is None:
        raise ImageInvalid("the HEIC has no parameters")
    if place[0] not in meta.configurations:  # the tiles of a grid share them
        meta.configurations[place[0]] = hevc.configuration(data[slice(*place)])
    return meta.configurations[place[0]]


def _grid(
    data: bytes,
    meta: _Meta,
    number: int,
    place: tuple[int, int],
    size: tuple[int, int],
    properties: tuple[bytes, ...],
) -> _Coded:
    """23008-12, 6.6.2.3.2: rows, columns and the size of what they make."""
    tiles = next(
        (numbers for kind, origin, numbers in meta.references if (kind, origin) == (b"dimg", number)), []
    )
    _, flags, rows, columns, *output = struct.unpack_from(
        ">BBBB" + ("II" if data[place[0] + 1] & 1 else "HH"), data, place[0]
    )
    rows, columns = rows + 1, columns + 1
    if not tiles or rows * columns != len(tiles) or tuple(output) != size or place[1] > len(data):
        raise ImageInvalid("the image's grid makes no sense")
    if len(tiles) > _MAX_TILES:
        raise ImageInvalid(f"the image has more than {_MAX_TILES} tiles")
    coded = [_item(data, meta, tile, of_grid=True) for tile in tiles]
    first = coded[0]
    if any(
        (tile.width, tile.height, tile.item.kind) != (first.width, first.height, first.item.kind)
        for tile in coded
    ):
        raise ImageInvalid("the tiles of the image differ in size")
    if not (
        columns * first.width >= size[0] > (columns - 1) * first.width
        and rows * first.height >= size[1] > (rows - 1) * first.height
    ):
        raise ImageInvalid("the image's grid makes no sense")
    length = 12 if flags & 1 else 8
    item = HeifItem(b"grid", ((place[0], place[0] + length),), properties, tuple(tile.item for tile in coded))
    return _Coded(item, *size, sum(tile.decoded for tile in coded), len(coded))


def _format(item: HeifItem) -> Format:
    return _KINDS[item.tiles[0].kind if item.tiles else item.kind]


def _alpha(data: bytes, meta: _Meta, image: _Coded) -> tuple[_Coded | None, bool]:
    """The transparency, and whether the colours are multiplied by it already."""
    for kind, origin, numbers in meta.references:
        if kind != b"auxl" or meta.primary not in numbers:
            continue
        place = _property(meta, origin, b"auxC")
        if place is None or data[place[0] + 4 : place[1]].split(b"\x00")[0] not in _ALPHA:
            continue
        alpha = _item(data, meta, origin)
        if _format(alpha.item) != _format(image.item):
            raise ImageInvalid("the image's transparency is of another kind")
        if (alpha.width, alpha.height) != (image.width, image.height):
            raise MediaTypeUnsupported("a transparency of another size than its image is not supported")
        return alpha, any(
            name == b"prem" and at == meta.primary and origin in to for name, at, to in meta.references
        )
    return None, False


def _transforms(data: bytes, meta: _Meta, image: _Coded) -> tuple[tuple[int, int], tuple[int, int], int]:
    """Size of the clean aperture, its place, and the EXIF orientation that turns and mirrors as the item's
    own properties do; an EXIF block counts for nothing here (23000-22, 7.3.6.7)."""
    size, place, turns, mirror = (image.width, image.height), (0, 0), 0, None
    for index in meta.of_item.get(meta.primary, ()):
        kind, begin, _ = meta.properties[index] if 0 <= index < len(meta.properties) else (b"", 0, 0)
        if kind == b"irot":
            turns = data[begin] & 3 if mirror is None else turns - (data[begin] & 3) & 3
        elif kind == b"imir":
            mirror = data[begin] & 1
        elif kind == b"clap":
            size, place = _clean_aperture(struct.unpack_from(">8i", data, begin), size)
    return size, place, _EXIF[turns, mirror]


def _clean_aperture(numbers: Sequence[int], size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Size and place by 14496-12, 12.1.4: fractions of width, height and offsets of the centre."""
    if any(denominator <= 0 for denominator in numbers[1::2]):
        raise ImageInvalid("the image's clean aperture makes no sense")
    width, height, across, down = (Fraction(*numbers[at : at + 2]) for at in (0, 2, 4, 6))
    shown = int(width), int(height)
    left = int(across + Fraction(size[0] - 1, 2) - (width - 1) / 2)
    top = int(down + Fraction(size[1] - 1, 2) - (height - 1) / 2)
    if min(shown) < 1 or left < 0 or top < 0 or left + shown[0] > size[0] or top + shown[1] > size[1]:
        raise ImageInvalid("the image's clean aperture makes no sense")
    return shown, (left, top)


def _frames(data: bytes) -> int:
    """The most samples that a track of images has."""
    most, tracks = 1, [(0, len(data), 0)]
    path = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsz")
    while tracks:
        begin, end, depth = tracks.pop()
        for kind, at, last in _boxes(data, begin, end):
            if kind == path[depth] and depth < 5:
                tracks.append((at, last, depth + 1))
            elif kind == path[depth] and last - at >= 12:
                most = max(most, int.from_bytes(data[at + 8 : at + 12], "big"))
            if len(tracks) > MAX_SEGMENTS:
                raise ImageInvalid("the image has too many tracks")
    return min(most, 1 << 20)


def without_metadata(data: bytes, image: HeifImage) -> bytes:
    """A file of the image and its transparency alone, neither cropped nor turned."""
    items: list[HeifItem] = []
    references: list[bytes] = []
    whole = _add(image.image, items, references)
    if image.alpha is not None:
        alpha = _add(image.alpha, items, references)
        references.append(_reference(b"auxl", alpha, [whole]))
        if image.premultiplied:
            references.append(_reference(b"prem", whole, [alpha]))
    properties = dict.fromkeys(box for item in items for box in item.properties if box)
    shared = {box: index for index, box in enumerate(properties, 1)}
    auxiliary = _box(b"auxC", bytes(4) + _ALPHA[0] + b"\x00")
    associations = []
    for number, item in enumerate(items, 1):
        # without the first bit of their own: none is to be refused for
        indices = [shared[box] for box in item.properties if box]
        if image.alpha is not None and number == alpha:
            indices.append(len(shared) + 1)
        associations.append(
            struct.pack(">HB", number, len(indices)) + b"".join(struct.pack(">H", index) for index in indices)
        )
    count = len(items)
    brand = b"avif" if b"av01" in {item.kind for item in items} else b"heic"
    entries = b"".join(
        _box(b"infe", b"\x02\x00\x00\x00" + struct.pack(">HH", number, 0) + item.kind + b"\x00")
        for number, item in enumerate(items, 1)
    )
    ipco = _box(b"ipco", b"".join(shared) + (auxiliary if image.alpha is not None else b""))
    ipma = _box(b"ipma", b"\x00\x00\x00\x01" + struct.pack(">I", count) + b"".join(associations))
    parts = [
        _box(b"hdlr", bytes(8) + b"pict" + bytes(13)),
        _box(b"pitm", bytes(4) + struct.pack(">H", whole)),
        _box(b"iinf", bytes(4) + struct.pack(">H", count) + entries),
        _box(b"iprp", ipco + ipma),
        _box(b"iref", bytes(4) + b"".join(references)) if references else b"",
    ]
    ftyp = _box(b"ftyp", brand + bytes(4) + brand + b"mif1")
    contents = [b"".join(data[begin:end] for begin, end in item.data) for item in items]
    at = len(ftyp) + 12 + sum(map(len, parts)) + 16 + 14 * count + 8
    places = []
    for number, content in enumerate(contents, 1):
        places.append(struct.pack(">HHHII", number, 0, 1, at, len(content)))
        at += len(content)
    iloc = _box(b"iloc", bytes(4) + b"\x44\x00" + struct.pack(">H", count) + b"".join(places))
    body = b"".join(contents)
    return b"".join(
        [
            ftyp,
            _box(b"meta", bytes(4) + b"".join(parts) + iloc),
            (8 + len(body)).to_bytes(4, "big"),
            b"mdat",
            body,
        ]
    )


def _add(item: HeifItem, items: list[HeifItem], references: list[bytes]) -> int:
    """Adds an item and its tiles; its number."""
    items.append(item)
    number = len(items)
    if item.tiles:
        references.append(_reference(b"dimg", number, list(range(number + 1, number + 1 + len(item.tiles)))))
        items += item.tiles
    return number


def _reference(kind: bytes, origin: int, numbers: Sequence[int]) -> bytes:
    return _box(
        kind, struct.pack(">HH", origin, len(numbers)) + b"".join(struct.pack(">H", n) for n in numbers)
    )
