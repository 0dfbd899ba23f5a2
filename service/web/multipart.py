"""multipart/form-data (RFC 7578, RFC 2046) of a body that is in memory.

The parts lie between lines that the client has chosen so that they stand nowhere else: they are found by
searching for that line, and only the headers of each part are looked at. Whatever no client sends (long
headers, padding, text before the first line or after the last) is refused, so that the cost of a body is that
of the search.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

HEADERS: Final = 8 * 1024
"""Most bytes of one part's headers."""

LINES: Final = 32
"""Most headers of one part."""

AROUND: Final = 1024
"""Most bytes before the first boundary, and after the last."""

PADDING: Final = 64
"""Most spaces and tabs after a boundary."""

BOUNDARY: Final = 200
"""Most characters of a boundary; RFC 2046 allows 70."""

_WINDOW: Final = 8 * 1024 * 1024
_PARAMETER: Final = re.compile(
    r";[ \t]*([^\s;=\"]+)[ \t]*=[ \t]*(?:\"((?:[^\"\\]|\\.)*)\"[ \t]*|([^;\"]*))(?=;|$)", re.DOTALL
)
_FILENAME: Final = re.compile(r";[ \t]*filename[ \t]*=", re.IGNORECASE)
_NOTHING: Final = re.compile(r"[ \t]*(?=;|$)")
_ESCAPED: Final = re.compile(r'\\([\\"])')


class Malformed(ValueError):
    """The body is no multipart body, or not one that any client sends. The text says what is wrong."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a form.

    Attributes:
        name: of the field.
        file: it has a file name, if an empty one; else it is text.
        start, end: where its content lies in the body.
    """

    name: str
    file: bool
    start: int
    end: int


def boundary_of(content_type: str) -> bytes:
    """The boundary that a Content-Type names.

    Raises:
        Malformed: it names none.
    """
    boundary = _parameters(content_type).get("boundary", "")
    if not 0 < len(boundary) <= BOUNDARY:
        raise Malformed(f"the content type has no boundary of 1 to {BOUNDARY} characters")
    try:
        return boundary.encode("latin-1")
    except UnicodeEncodeError:
        raise Malformed("the boundary has characters that no header may have") from None


def split(body: bytes, boundary: bytes, most: int) -> Iterator[Part]:
    """The parts of a body, in order.

    Args:
        body: all of it.
        boundary: without the hyphens before it.
        most: parts.

    Raises:
        Malformed: it is not so built, is cut short, or has more parts.
    """
    line = b"\r\n--" + boundary
    if body.startswith(line[2:]):
        position = len(line) - 2
    else:
        position = body.find(line, 0, AROUND + len(line)) + len(line)
        if position < len(line):
            raise Malformed("it does not begin with its boundary")
    for _ in range(most + 1):
        start = _next_line(body, position)
        if start is None:
            return
        name, file, content = _head(body, start)
        # the line break before a boundary is the boundary's, if it is the headers' last one as well
        end = _find(body, line, content - 2)
        yield Part(name, file, content, max(content, end))
        position = end + len(line)
    raise Malformed(f"it has more than {most} parts")


def _find(body: bytes, line: bytes, start: int) -> int:
    """Where the line stands; windows of the body, so that other threads can run between them."""
    while start < len(body):
        end = min(start + _WINDOW + len(line), len(body))
        found = body.find(line, start, end)
        if found >= 0:
            return found
        start = end if end == len(body) else end - len(line) + 1
    raise Malformed("it is cut short: a part without an end")


def _next_line(body: bytes, position: int) -> int | None:
    """Where the headers after a boundary begin; None after the last one."""
    last = body.startswith(b"--", position)
    if last:
        position += 2
    rest = body[position : position + PADDING + 2]
    padding = len(rest) - len(rest.lstrip(b" \t"))
    ended = rest.startswith(b"\r\n", padding)
    if last:
        if not ended and padding < len(body) - position:
            raise Malformed("something stands behind the last boundary")
        if len(body) - position > AROUND:
            raise Malformed(f"more than {AROUND} bytes stand behind the last boundary")
        return None
    if not ended:
        raise Malformed("a boundary does not end its line")
    return position + padding + 2


def _head(body: bytes, start: int) -> tuple[str, bool, int]:
    """Name, whether it is a file, and where the content begins, of the part whose headers begin here."""
    if body.startswith(b"\r\n", start):
        raise Malformed("a part has no headers")
    end = body.find(b"\r\n\r\n", start, start + HEADERS + 4)
    if end < 0:
        raise Malformed(f"a part's headers have no end within {HEADERS} bytes")
    lines = body[start:end].split(b"\r\n")
    if len(lines) > LINES:
        raise Malformed(f"a part has more than {LINES} headers")
    disposition = b""
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip() or not name.isascii():
            raise Malformed("a part has a header without a name")
        if name.lower() == b"content-disposition":
            disposition = value
    parameters = _parameters(_text(disposition))
    if "name" not in parameters:
        raise Malformed("a part has no name")
    return parameters["name"], "filename" in parameters or "filename*" in parameters, end + 4


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _parameters(value: str) -> dict[str, str]:
    """The parameters of a header, by names in lower case; of a repeated one the last.

    What cannot be read ends them; a file name is there with an empty value then, since some clients write
    quotes in it as they are.
    """
    position = value.find(";")
    found: dict[str, str] = {}
    while 0 <= position < len(value):
        match = _PARAMETER.match(value, position)
        if match is not None:
            name, quoted, plain = match.groups()
            found[name.lower()] = plain.strip() if quoted is None else _ESCAPED.sub(r"\1", quoted)
        else:
            match = _NOTHING.match(value, position + 1)
            if match is None:
                if _FILENAME.match(value, position):
                    found["filename"] = ""
                break
        position = match.end()
    return found
