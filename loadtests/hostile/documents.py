"""JSON texts and multipart bodies of a chosen length that are expensive to parse or to refuse."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from functools import partial

BOUNDARY = b"b"
Maker = Callable[[int], bytes]
"""Gives a body of about so many bytes."""


def _input(data: str) -> str:
    return '{"inputs":[{"name":"image","datatype":"BYTES","shape":[1],"data":' + data + "}]}"


def _around(template: str, item: str, size: int) -> bytes:
    """The template with the item repeated in place of `@`; a comma at its end is dropped from the last."""
    head, _, tail = template.partition("@")
    count = max(1, (size - len(head) - len(tail)) // len(item))
    return head.encode() + (item.encode() * count).removesuffix(b",") + tail.encode()


def nested(size: int) -> bytes:
    """Lists of half as many levels."""
    return b"[" * (size // 2) + b"]" * (size // 2)


def _deep_data(size: int) -> bytes:
    head, _, tail = _input("@").partition("@")
    return head.encode() + nested(size) + tail.encode()


def _unclosed(size: int) -> bytes:
    return b'{"inputs":' + b"[" * size


def _objects_in_objects(size: int) -> bytes:
    return b'{"a":' * (size // 6) + b"1" + b"}" * (size // 6)


INFER: dict[str, Maker] = {
    "inputs of lists": partial(_around, '{"inputs":[@]}', "[],"),
    "inputs of objects": partial(_around, '{"inputs":[@]}', "{},"),
    "inputs of numbers": partial(_around, '{"inputs":[@]}', "1,"),
    "inputs that are whole": partial(
        _around, '{"inputs":[@]}', '{"name":"image","datatype":"BYTES","shape":[1],"data":[""]},'
    ),
    "data of lists": partial(_around, _input("[@]"), "[],"),
    "data of objects": partial(_around, _input("[@]"), "{},"),
    "data of numbers": partial(_around, _input("[@]"), "1,"),
    "data of fractions": partial(_around, _input("[@]"), "0.12,"),
    "data of strings": partial(_around, _input("[@]"), '"",'),
    "data of one string": partial(_around, _input('["@"]'), "QUFB"),
    "data of escapes": partial(_around, _input('["@"]'), "\\u0041"),
    "data of nulls": partial(_around, _input("[@]"), "null,"),
    "data of long integers": partial(_around, _input("[@]"), "9" * 4000 + ","),
    "data nested": _deep_data,
    "data of lists of lists": partial(_around, _input("[@]"), "[[[[[[]]]]]],"),
    "not closed": _unclosed,
    "nested objects": _objects_in_objects,
    "outputs": partial(
        _around,
        '{"inputs":[{"name":"image","datatype":"BYTES","shape":[1],"data":[""]}],"outputs":[@]}',
        '{"name":"scores"},',
    ),
    "outputs of lists": partial(_around, '{"inputs":[],"outputs":[@]}', "[],"),
    "shape": partial(
        _around, '{"inputs":[{"name":"image","datatype":"BYTES","shape":[@],"data":[""]}]}', "1,"
    ),
    "shape of long integers": partial(
        _around, '{"inputs":[{"name":"image","datatype":"BYTES","shape":[@],"data":[""]}]}', "9" * 4000 + ","
    ),
    "a long name": partial(
        _around, '{"inputs":[{"name":"@","datatype":"BYTES","shape":[1],"data":[""]}]}', "n"
    ),
    "a long datatype": partial(
        _around, '{"inputs":[{"name":"image","datatype":"@","shape":[1],"data":[""]}]}', "n"
    ),
    "a long id": partial(_around, '{"id":"@","inputs":[]}', "n"),
    "a long output": partial(
        _around,
        '{"inputs":[{"name":"image","datatype":"BYTES","shape":[1],"data":[""]}],"outputs":[{"name":"@"}]}',
        "n",
    ),
    "a key again and again": partial(_around, "{@}", '"a":1,'),
    "spaces": partial(_around, "@{}", " "),
    "spaces between": partial(_around, '{"inputs":@[]}', "\n"),
    "a number": lambda size: b"1" * size,
    "a fraction": lambda size: b"0." + b"1" * size,
    "an unknown list": partial(_around, '{"unknown":[@],"inputs":[]}', "[],"),
}
"""Bodies of the Open Inference Protocol's `infer`, by what they are full of."""


def parameters(size: int, *, of_input: bool = False) -> bytes:
    """Parameters of different names, which hardly compress."""
    text, number = [], 0
    total = 0
    while total < size:
        text.append(f'"p{number}":1')
        total += len(text[-1]) + 1
        number += 1
    inside = "{" + ",".join(text) + "}"
    if of_input:
        return _around('{"inputs":[{"name":"image","parameters":@}]}', inside, 0)
    return _around('{"inputs":[],"parameters":@}', inside, 0)


IMAGE: dict[str, Maker] = {
    "image of lists": partial(_around, '{"image":[@],"a":[]}', "[],"),
    "image of objects": partial(_around, '{"image":[@]}', "{},"),
    "image of numbers": partial(_around, '{"image":[@]}', "1,"),
    "image nested": lambda size: b'{"image":' + nested(size) + b"}",
    "no base64": partial(_around, '{"image":"@"}', "%"),
    "base64 of zeros": partial(_around, '{"image":"@"}', "AAAA"),
    "base64 of escapes": partial(_around, '{"image":"@"}', "\\u0041"),
    "another key": partial(_around, '{"another":[@],"image":""}', "[],"),
    "keys": partial(_around, "{@}", '"image":"",'),
    "a list": partial(_around, "[@]", "[],"),
    "spaces": partial(_around, "@{}", " "),
}
"""Bodies of the routes of /v1 that take an image in JSON."""

COMPARE: dict[str, Maker] = {
    "numbers": partial(_around, '{"a":{"embedding":[@]}}', "1,"),
    "lists": partial(_around, '{"a":{"embedding":[@]}}', "[],"),
    "nested": lambda size: b'{"a":' + nested(size) + b"}",
    "strings": partial(_around, '{"a":{"embedding":[@]}}', '"x",'),
    "keys": partial(_around, "{@}", '"a":1,'),
    "a long digest": partial(_around, '{"a":{"embedding":[1],"model":{"name":"n","sha256":"@"}}}', "0"),
}
"""Bodies of /v1/faces/compare."""


def zipped(body: bytes) -> bytes:
    """With gzip, as small as it gets."""
    return gzip.compress(body, 9, mtime=0)


def deflated(body: bytes) -> bytes:
    """With zlib."""
    return zlib.compress(body, 9)


def part(content: bytes, name: str = "image", head: bytes = b"") -> bytes:
    """A part of a multipart body with its boundary before it, and without one behind it."""
    disposition = f'Content-Disposition: form-data; name="{name}"; filename="f"\r\n'.encode()
    return b"--" + BOUNDARY + b"\r\n" + disposition + head + b"\r\n" + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    """A whole multipart body."""
    return b"".join(parts) + b"--" + BOUNDARY + b"--\r\n"


MULTIPART: dict[str, Maker] = {
    "padding": lambda size: b"--b" + b" " * size + b"\r\n",
    "padding of tabs": lambda size: b"--b" + b"\t" * size + b"\r\n\r\n--b--\r\n",
    "near boundaries": lambda size: form(part(b"\r\n--\r\n-" * (size // 7))),
    "near boundaries of a dash": lambda size: form(part(b"\r\n--" * (size // 4))),
    "line ends": lambda size: b"\r\n" * (size // 2) + form(part(b"")),
    "returns": lambda size: form(part(b"\r" * size)),
    "a preamble": lambda size: b"x" * size + b"\r\n" + form(part(b"")),
    "an epilogue": lambda size: form(part(b"")) + b"x" * size,
    "parts": lambda size: form(part(b"") * (size // len(part(b"")))),
    "parts without a name": lambda size: form(b"--b\r\n\r\n\r\n" * (size // 9)),
    "boundaries alone": lambda size: b"--b\r\n" * (size // 5),
    "ends": lambda size: b"--b--\r\n" * (size // 7),
    "text fields": lambda size: form(
        b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' * (size // 56)
    ),
    "a long text field": lambda size: form(
        b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"1" * size + b"\r\n"
    ),
    "headers": lambda size: form(part(b"", head=b"a:b\r\n" * (size // 5))),
    "a long header": lambda size: form(part(b"", head=b"a: " + b"b" * size + b"\r\n")),
    "a header without an end": lambda size: b"--b\r\n" + b"a" * size,
    "a header of colons": lambda size: form(part(b"", head=b":" * size + b"\r\n")),
    "a long name": lambda size: form(part(b"", name="n" * size)),
    "parameters of a header": lambda size: form(part(b"", head=b"x: y" + b"; a=b" * (size // 5) + b"\r\n")),
    "a long value": lambda size: form(part(b"\x00" * size)),
    "not closed": lambda size: part(b"\x00" * size),
    "no boundary": lambda size: b"\x00" * size,
}
"""Multipart bodies with the boundary `b`, by what they are full of."""
