"""multipart/form-data: what clients and two other implementations make of it, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import socket
import subprocess
import threading
from collections.abc import AsyncGenerator
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import requests
import urllib3
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException, MultiPartParser

from models.errors import ModelError, ParameterInvalid
from service.web import multipart
from service.web.images import TEXT_BYTES, TEXTS, form_of
from service.web.multipart import AROUND, HEADERS, LINES, PADDING, Malformed, boundary_of, split

TYPE = "multipart/form-data; boundary=b"
HEAD = b'Content-Disposition: form-data; name="image"; filename="a.jpg"\r\n'
PART = HEAD + b"Content-Type: image/jpeg\r\n\r\n"


def parts(body: bytes, content_type: str = TYPE, most: int = 100) -> list[tuple[str, bool, bytes]]:
    found = split(body, boundary_of(content_type), most)
    return [(part.name, part.file, body[part.start : part.end]) for part in found]


def images(body: bytes, content_type: str = TYPE, *, fields: tuple[str, ...] = ("image",)) -> list[bytes]:
    return [image for field in fields for image in form_of(body, content_type, fields, 4).images[field]]


FILES = [
    ("image", ("a.jpg", b"\xff\xd8 one \r\n--", "image/jpeg")),
    ("image", ("b.png", b"", "image/png")),
    ("über", ('naïve "c" \\d.bin', bytes(range(256)) * 40, "application/octet-stream")),
]


def by_httpx() -> tuple[str, bytes]:
    request = httpx.Request("POST", "http://a", files=FILES, data={"note": "text"})
    return request.headers["content-type"], request.read()


def by_requests() -> tuple[str, bytes]:
    request = requests.Request("POST", "http://a", files=FILES, data={"note": "text"}).prepare()
    assert isinstance(request.body, bytes)
    return request.headers["content-type"], request.body


def by_urllib3() -> tuple[str, bytes]:
    body, kind = urllib3.encode_multipart_formdata([*FILES, ("note", "text")])
    return kind, body


def by_aiohttp() -> tuple[str, bytes]:
    async def go() -> tuple[str, bytes]:
        form = aiohttp.FormData(quote_fields=False)
        for name, (filename, data, kind) in FILES:
            form.add_field(name, data, filename=filename, content_type=kind)
        form.add_field("note", "text")
        payload = form()
        return payload.headers["content-type"], await payload.as_bytes()

    return asyncio.run(go())


@pytest.mark.parametrize("client", [by_httpx, by_requests, by_urllib3, by_aiohttp])
def test_clients(client: Any) -> None:
    kind, body = client()
    found = parts(body, kind)
    assert sorted(found) == sorted(
        [(name, True, data) for name, (_, data, _) in FILES] + [("note", False, b"text")]
    )
    both = form_of(body, kind, ("image", "über"), 4)
    assert both.images == {"image": [FILES[0][1][1], FILES[1][1][1]], "über": [FILES[2][1][1]]}
    assert both.parameters == [("note", "text")]
    with pytest.raises(ParameterInvalid, match="no field 'über'; send image"):
        images(body, kind)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(tmp_path: Path) -> None:
    file = tmp_path / 'odd "name".jpg'
    file.write_bytes(bytes(range(256)) * 1000)
    received = bytearray()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            while b"\r\n\r\n" not in received:
                received.extend(connection.recv(65536))
            head, _, _ = bytes(received).partition(b"\r\n\r\n")
            (length,) = [int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length")]
            if b"100-continue" in head:
                connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            while len(received) < len(head) + 4 + length:
                received.extend(connection.recv(65536))
            connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        escaped = str(file).replace('"', '\\"')
        form = ["-F", f'image=@"{escaped}";type=image/jpeg', "-F", "note=text"]
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        subprocess.run(["curl", "-sS", "--noproxy", "*", *form, url], check=True, timeout=60)
        thread.join(60)
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    (kind,) = [line[14:] for line in head.decode().split("\r\n") if line.lower().startswith("content-type: ")]
    assert parts(body, kind) == [("image", True, file.read_bytes()), ("note", False, b"text")]


CONTENTS = st.lists(
    st.tuples(
        st.text(st.characters(codec="utf-8", exclude_characters='\r\n\0"'), min_size=1, max_size=20),
        st.booleans(),
        st.one_of(
            st.binary(max_size=300),
            st.text(alphabet="\r\n-b ", max_size=40).map(str.encode),
        ),
    ),
    max_size=5,
)


@given(CONTENTS, st.sampled_from(["b", "--b", "b" * 70, "0'()+_,-./:=?", "x y"]))
def test_what_was_put_together_comes_apart_as_it_was(
    contents: list[tuple[str, bool, bytes]], boundary: str
) -> None:
    contents = [part for part in contents if b"\r\n--" + boundary.encode() not in b"\r\n" + part[2]]
    body = b""
    for name, file, data in contents:
        escaped = name.replace("\\", "\\\\").encode()
        filename = b'; filename="f"' if file else b""
        body += b'--%b\r\ncontent-disposition: form-data; name="%b"%b\r\n\r\n%b\r\n' % (
            boundary.encode(),
            escaped,
            filename,
            data,
        )
    body += b"--%b--\r\n" % boundary.encode()
    kind = f'Multipart/Form-Data; charset=utf-8; Boundary="{boundary}"'
    assert parts(body, kind) == contents
    if contents:  # the standard library reads the same, but for what it takes for text
        message = BytesParser().parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
        assert len(message.get_payload()) == len(contents)


async def _starlette(body: bytes, content_type: str) -> list[tuple[str, bytes]]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body
        yield b""

    parser = MultiPartParser(Headers({"content-type": content_type}), stream())
    form = await parser.parse()
    found = []
    for name, value in form.multi_items():
        found.append((name, value.encode() if isinstance(value, str) else await value.read()))
    for file in parser._files_to_close_on_error:  # also of parts that never end, which are no items
        file.close()
    return found


WORDS = [
    b"--b",
    b"\r\n",
    b"--",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    PART,
    HEAD,
    b"data",
    b"\r\n--b",
    b"--b--",
    b'"',
    b";",
]
WORDS += [b"\r\n--b\r\n" + PART, b"\r\n--b--\r\n", b":", b"b"]
WORDS += [b"\n", b"Content-Disposition: form-data; name=note\r\n\r\n"]
PIECES = st.lists(st.sampled_from(WORDS), max_size=12)


@settings(max_examples=500)
@given(PIECES)
def test_what_is_accepted_is_read_as_the_parser_of_starlette_reads_it(pieces: list[bytes]) -> None:
    for body in (b"".join(pieces), b"--b\r\n" + PART + b"".join(pieces) + b"\r\n--b--\r\n"):
        try:
            found = [(name, data) for name, _, data in parts(body)]
        except Malformed:
            continue
        try:
            reference = asyncio.run(_starlette(body, TYPE))
        except MultiPartException:
            continue  # stricter than we are: padding, text before the first boundary
        if b"\r\n\r\n--b" in body:  # a part of headers alone, which it does not know (RFC 2046, 5.1.1)
            continue
        assert found == reference


@pytest.mark.parametrize(
    ("body", "contents"),
    [
        (b"--b\r\n" + PART + b"x\r\n--b--", [b"x"]),
        (b"\r\n--b\r\n" + PART + b"x\r\n--b--\r\n", [b"x"]),
        (b"This is a message in MIME format.\r\n--b\r\n" + PART + b"x\r\n--b--\r\nepilogue", [b"x"]),
        (b"--b \t \r\n" + PART + b"x\r\n--b-- \t\r\n", [b"x"]),
        (b"--b\r\n" + PART + b"\r\n--b\r\n" + PART + b"\r\n\r\n--b--\r\n", [b"", b"\r\n"]),
        (b"--b\r\n" + HEAD + b"\r\n--b--\r\n", [b""]),
        (b"--b\r\n" + PART + b"\n--b\r--b\r\n-b\r\n--\r\n--b--\r\n", [b"\n--b\r--b\r\n-b\r\n--"]),
        (b"--b--\r\n", []),
    ],
)
def test_odd_but_right(body: bytes, contents: list[bytes]) -> None:
    assert [data for _, _, data in parts(body)] == contents


@pytest.mark.parametrize(
    ("disposition", "name", "file"),
    [
        ('form-data; name="image"', "image", False),
        ("form-data; name=image", "image", False),
        ("form-data;name=image;filename=a b.jpg", "image", True),
        ('form-data; name="image"; filename=""', "image", True),
        ("form-data; name=\"image\"; filename*=UTF-8''%e2%82%ac.jpg", "image", True),
        ('form-data; filename="a;b=c.jpg"; name="image"', "image", True),
        (
            r'form-data; name="a\"b\\c"; filename="x\"y"',
            r"a\"b\\c".replace(r"\"", '"').replace(r"\\", "\\"),
            True,
        ),
        (r'form-data; name="image"; filename="C:\dir\a.jpg"', "image", True),
        ('form-data; name="image"; filename="a"b.jpg"', "image", True),
        ('form-data; NAME="image"; ; FileName="a"; ', "image", True),
        ('form-data; name="ünï"', "ünï", False),
        ('form-data; name=""', "", False),
    ],
)
def test_names(disposition: str, name: str, file: bool) -> None:
    body = f"--b\r\ncontent-disposition: {disposition}\r\n\r\nx\r\n--b--".encode()
    assert parts(body) == [(name, file, b"x")]
    assert parts(body.replace(b"content-d", b"X-Other: 1\r\nCONTENT-D")) == [(name, file, b"x")]


END = b"x\r\n--b--\r\n"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nothing of the kind",
        b"--",
        b"--b",
        b"--b\r\n",
        b"--bb\r\n" + PART + END,
        b"--b\n" + PART + END,
        b"--b\r\n" + PART + b"x",
        b"--b\r\n" + PART + b"x\r\n--b",
        b"--b\r\n" + PART + b"x\r\n--bx\r\n" + PART + END,
        b"--b\r\n" + PART + b"x\r\n--b--x",
        b"--b\r\n\r\n" + END,
        b"--b\r\nno colon\r\n\r\n" + END,
        b"--b\r\n: empty\r\n\r\n" + END,
        b"--b\r\n" + HEAD + b" folded\r\n\r\n" + END,
        b"--b\r\nContent-Type: image/jpeg\r\n\r\n" + END,
        b'--b\r\nContent-Disposition: form-data; filename="a"\r\n\r\n' + END,
        b'--b\r\nContent-Disposition: form-data; name="image\r\n\r\n' + END,
        b"--b" + b" " * (PADDING + 1) + b"\r\n" + PART + END,
        b"p" * (AROUND + 1) + b"\r\n--b\r\n" + PART + END,
        b"--b\r\n" + PART + END + b"e" * (AROUND + 1),
        b"--b\r\n" + HEAD + b"x: " + b"y" * HEADERS + b"\r\n\r\n" + END,
        b"--b\r\n" + HEAD + b"x: y\r\n" * LINES + b"\r\n" + END,
    ],
)
def test_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        parts(body)
    with pytest.raises(ParameterInvalid, match="malformed multipart body"):
        images(body)


@pytest.mark.parametrize("kind", ["", "; boundary=", "; boundary", '; boundary="', f"; boundary={'b' * 300}"])
def test_a_type_without_a_boundary(kind: str) -> None:
    with pytest.raises(ParameterInvalid, match="boundary"):
        images(b"--b\r\n" + PART + END, "multipart/form-data" + kind)


def test_numbers_of_parts() -> None:
    image = b"--b\r\n" + PART + b"x\r\n"
    text = b'--b\r\nContent-Disposition: form-data; name="n"\r\n\r\n' + b"y\r\n"
    assert images(4 * image + TEXTS * text + b"--b--") == [b"x"] * 4
    with pytest.raises(ParameterInvalid, match="at most 4 images"):
        images(5 * image + b"--b--")
    with pytest.raises(ParameterInvalid, match=f"more than {TEXTS} parts of the form are text"):
        images(image + (TEXTS + 1) * text + b"--b--")
    with pytest.raises(Malformed, match="more than 3 parts"):
        parts(4 * image + b"--b--", most=3)
    long = text.replace(b"y", b"y" * (TEXT_BYTES + 1))
    with pytest.raises(ParameterInvalid, match=f"'n' has {TEXT_BYTES + 1} bytes; at most {TEXT_BYTES}"):
        images(image + long + b"--b--")


def test_a_part_is_an_image_by_its_name_or_as_the_only_file() -> None:
    without_file_name = b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nx\r\n--b--'
    assert images(without_file_name) == [b"x"]
    other = b"--b\r\n" + PART.replace(b'"image"', b'"photo"') + b"x\r\n"
    assert images(other + b"--b--") == [b"x"]
    with pytest.raises(ParameterInvalid, match="no 'a': an image is needed there; there are 'photo'"):
        images(other + b"--b--", fields=("a", "b"))


def test_a_boundary_across_the_windows_of_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    for window in range(1, 40):
        monkeypatch.setattr(multipart, "_WINDOW", window)
        assert parts(b"--b\r\n" + PART + bytes(100) + b"\r\n--b\r\n" + PART + END) == [
            ("image", True, bytes(100)),
            ("image", True, b"x"),
        ]


def test_mutations_are_read_or_refused() -> None:
    """In each of them a byte, a slice or a copy of another place is changed."""
    chance = random.Random(5)
    seeds = [client()[1] for client in (by_httpx, by_requests, by_urllib3)]
    kinds = [client()[0] for client in (by_httpx, by_requests, by_urllib3)]
    for _ in range(2000):
        index = chance.randrange(len(seeds))
        body = mutated(bytearray(seeds[index]), chance)
        with contextlib.suppress(ModelError):
            assert all(len(image) <= len(body) for image in images(body, kinds[index]))


def mutated(body: bytearray, chance: random.Random) -> bytes:
    for _ in range(chance.randint(1, 4)):
        at, to = sorted(chance.randrange(len(body) + 1) for _ in range(2))
        match chance.randrange(4):
            case 0:
                body[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del body[at:to]
            case 2:
                body[at:at] = body[at:to] * chance.randint(1, 3)
            case 3:
                body[at:at] = chance.choice([b"\r\n", b"--", b'"', b"\\", b";", b":", b" ", b"\r\n\r\n"])
        if not body:
            break
    return bytes(body)
