"""Multipart bodies: random parts, broken headers and boundaries, mutated valid forms, wrong types."""

from __future__ import annotations

from random import Random

from loadtests.fuzz.mutate import mutated
from loadtests.fuzz.wire import HttpClient, Kind, wrong_http
from loadtests.hostile.documents import form, part
from loadtests.hostile.images import small
from loadtests.hostile.png import uniform

Request = tuple[str, str, dict[str, str], bytes]
MOST = 200_000
TINY = uniform(28, 28, color=0)
PATHS = ("/v1/classify?model=lenet5", "/v1/faces/verify", "/v1/faces/detect", "/v1/faces/embed?max_faces=1")
NAMES = ("image", "a", "b", "content", "style", "", "image\x00", "n" * 300, 'im"age', "ima\r\nge", "bild\xe4")
HONEST = [
    form(part(TINY)),
    form(part(TINY), part(TINY)),
    form(part(small(), "a"), part(TINY, "b")),
    form(part(b"", head=b"Content-Type: image/png\r\n")),
]
TOKENS = [
    b"--b", b"--b--", b"\r\n--b\r\n", b"\r\n", b"\n", b"\r", b"--", b'name="', b'filename="', b"\\",
    b"Content-Disposition: form-data", b"Content-Type: ", b"Content-Transfer-Encoding: base64\r\n", b";",
    b'"', b"filename*=UTF-8''%ff",
    b": ", b"\x00", b"\xff", b" ", b"\t", b"a" * 5000, b"; a=b", b"\r\n\r\n", b"multipart/mixed; boundary=c",
]  # fmt: skip
TYPES = (
    *("multipart/form-data; boundary=b",) * 16,
    'multipart/form-data; boundary="b"',
    "multipart/form-data; boundary=b; charset=utf-8",
    "multipart/form-data; boundary=c",
    "multipart/form-data; boundary=",
    "multipart/form-data",
    'multipart/form-data; boundary="b',
    "multipart/mixed; boundary=b",
    "multipart/form-data; boundary=" + "b" * 200,
    "multipart/form-data; boundary=b\xff",
    "MULTIPART/FORM-DATA; BOUNDARY=b",
)


def generate(random: Random) -> Request:
    """A request: a valid form that was mutated, or one of random parts."""
    if random.random() < 0.5:
        body = mutated(random, random.choice(HONEST), TOKENS, HONEST, MOST)
    else:
        parts = [_part(random) for _ in range(random.choice((0, 1, 1, 2, 3, 10, 70)))]
        end = random.choice((b"--b--\r\n", b"--b--\r\n", b"--b--", b"", b"--b\r\n", b"--b--\r\nmore"))
        body = random.choice((b"", b"", b"preamble\r\n", b"\r\n")) + b"".join(parts) + end
    return "POST", random.choice(PATHS), {"Content-Type": random.choice(TYPES)}, body[:MOST]


def _part(random: Random) -> bytes:
    name = random.choice(NAMES).encode("latin-1")
    lines = [b'Content-Disposition: form-data; name="' + name + b'"']
    if random.random() < 0.7:
        lines[0] += random.choice(
            (b'; filename="f"', b"; filename=f", b"; filename*=UTF-8''f", b'; filename=""')
        )
    lines += [
        random.choice(TOKENS) + random.choice((b": ", b":", b"")) + random.choice(TOKENS)[:500]
        for _ in range(random.choice((0, 0, 1, 2, 40)))
    ]
    if random.random() < 0.2:
        lines = [mutated(random, line, TOKENS, lines, 5000) for line in lines]
    content = random.choice(
        (TINY, TINY, small(), b"", b"text", random.randbytes(50), b"\r\n--b" * 20, b"--b")
    )
    line = random.choice((b"\r\n", b"\r\n", b"\r\n", b"\n"))
    start = random.choice((b"--b", b"--b", b"--b", b"--b ", b"--b\t", b"--bb", b"-b"))
    return start + line + line.join(lines) + line * 2 + content + line


KIND = Kind("multipart", generate, HttpClient, wrong_http)
