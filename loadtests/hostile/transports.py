"""The cases that are about a transport: multipart, gRPC, header blocks, connections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from loadtests.hostile import connections, documents, images, messages
from loadtests.hostile.case import CLASSIFY, FORM, LARGE, MIB, MODEL_INFER, VISION, Case, recent
from loadtests.hostile.send import Grpc, Http, Raw
from loadtests.message import field


def transport_cases() -> Iterator[Case]:
    """Every case of theirs."""
    yield from _multipart()
    yield from _grpc()
    yield from _headers()
    yield from _connections()


def _multipart() -> Iterator[Case]:
    quick = ("padding", "near boundaries", "headers")
    for name, make in documents.MULTIPART.items():
        send = Http(CLASSIFY, partial(make, LARGE - 4096), FORM)
        yield Case(f"multipart {name}", send, quick=name in quick)
    for path in ("/v1/faces/verify", "/v1/stylize/jobs"):
        for name in ("padding", "near boundaries", "parts"):
            send = Http(path, partial(documents.MULTIPART[name], LARGE - 4096), FORM)
            yield Case(f"multipart {path} {name}", send)
    for boundary in ("b" * 70, "b" * 10_000, "", "\xff"):
        head = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        yield Case(
            f"multipart boundary of {len(boundary)} {boundary[:1]!r}",
            Http(CLASSIFY, lambda: b"-" * MIB, head),
        )


def _grpc() -> Iterator[Case]:
    quick = ("inputs", "outputs", "raw contents", "unknown groups")
    for name, make in messages.INFER.items():
        for size, short in ((8 * MIB, "8 MiB"), (LARGE, "64 MiB")):
            body = recent(partial(make, size))
            yield Case(
                f"grpc infer {name}, {short}", Grpc(MODEL_INFER, [body]), quick=name in quick and size < LARGE
            )
    for name, (method, make) in messages.VISION.items():
        yield Case(
            f"grpc {name}",
            Grpc(f"{VISION}/{method}", [recent(partial(make, LARGE))]),
            quick="classes" in name,
        )
    for name, (method, make) in messages.OTHERS.items():
        yield Case(f"grpc {name}", Grpc(method, [recent(partial(make, LARGE))]))
    for number, message in enumerate(messages.MALFORMED):
        for method in (f"{VISION}/Classify", MODEL_INFER, "grpc.health.v1.Health/Check"):
            send = Grpc(method, [partial(bytes, message)], gzip=False)
            yield Case(f"grpc malformed {number} {method.rpartition('/')[2]}", send, quick=number == 0)
    slow = images.all_images()["png rgb"]
    for method, first, behind in (
        (MODEL_INFER.replace("ModelInfer", "ModelStreamInfer"), messages.infer, connections.zeros),
        (f"{VISION}/ClassifyStream", messages.classify, _zeros_image),
        (f"{VISION}/DetectStream", messages.classify, _zeros_image),
    ):
        # the server may read ahead what is behind the first
        large = recent(partial(behind, 60 * MIB))
        whole: list[Callable[[], bytes]] = [partial(_of, first, slow), *[large] * 64]
        name = f"grpc {method.rpartition('/')[2]} behind a slow message"
        yield Case(name, Grpc(method, whole, stream=True), at_once=2, requests=len(whole))
    empties = recent(partial(messages.INFER["inputs"], 4 * MIB))
    stream = MODEL_INFER.replace("ModelInfer", "ModelStreamInfer")
    yield Case("grpc ModelStreamInfer of empty inputs", Grpc(stream, [empties] * 16, stream=True), at_once=2)


def _of(message: Callable[[bytes], bytes], image: Callable[[], bytes]) -> bytes:
    return message(image())


def _zeros_image(count: int) -> bytes:
    return field(1, bytes(count))


def _once(text: bytes) -> Iterator[bytes]:
    yield text


def _headers() -> Iterator[Case]:
    small = images.small

    def lines(name: str, value: bytes) -> Raw:
        head = b"POST /v1/classify?top_k=1 HTTP/1.1\r\nHost: localhost\r\n"
        body = small()
        text = (
            head + name.encode() + b": " + value + f"\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        )
        return Raw(partial(_once, text), length=len(text))

    for size in (MIB, 16 * MIB):
        yield Case(f"headers one of {size // MIB} MiB", lines("X-A", b"a" * size), quick=size == MIB)
    many = b"a:b\r\n" * 1_000_000
    yield Case("headers a million", lines("X-A", b"a\r\n" + many + b"c: d"), quick=True)
    for name, item in (
        ("Accept", b"image/png;q=0.1,"),
        ("Accept-Encoding", b"gzip;q=0.1,"),
        ("Cookie", b"a=b; "),
    ):
        yield Case(f"headers {name} of 2 MiB", lines(name, item * (2 * MIB // len(item))))
    for name in (
        "Content-Type",
        "X-Request-ID",
        "X-Timeout-Ms",
        "Traceparent",
        "Inference-Header-Content-Length",
    ):
        for size in (60_000, 2 * MIB):
            yield Case(f"headers {name} of {size}", lines(name, b"1" * size))
    for size in (60_000, MIB, 32 * MIB):
        target = b"GET /" + b"a" * size + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
        yield Case(f"headers a URL of {size}", Raw(partial(_once, target), length=size))
    for query in (b"classes=a&" * 6_000, b"&" * 60_000, b"top_k=1&" * 7_000, b"%41" * 20_000):
        target = b"POST /v1/detect?" + query + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
        name = f"headers a query of {query[:8].decode()}"
        yield Case(name, Raw(partial(_once, target), length=len(target)))
    chunked = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    for name, piece in (
        ("chunks of a byte", b"1\r\na\r\n"),
        ("chunk extensions", b"1;" + b"a" * 1000 + b"\r\na\r\n"),
    ):
        text = chunked + piece * (8 * MIB // len(piece)) + b"0\r\n\r\n"
        yield Case(f"headers {name}", Raw(partial(_once, text), length=len(text)), quick=True)
    text = chunked + b"1\r\na\r\n0\r\n" + b"a: b\r\n" * MIB + b"\r\n"
    yield Case("headers trailers", Raw(partial(_once, text), length=len(text)))


def _connections() -> Iterator[Case]:
    small = images.small
    yield Case("connections idle gRPC", connections.Idle(6_000, True, 4), at_once=1, requests=6_000)
    yield Case("connections idle gRPC, few", connections.Idle(1_500, True, 1), quick=True, at_once=1)
    yield Case("connections idle HTTP", connections.Idle(6_000, False, 4), at_once=1, requests=6_000)
    yield Case("connections Health.Watch", connections.Streams(1_000, 4), at_once=1)
    yield Case("connections 24 bodies of 63 MiB", connections.Slow(24, 63 * MIB, 15), at_once=1, requests=24)
    yield Case("connections 8 bodies of 30 MiB", connections.Slow(8, 30 * MIB, 1), quick=True, at_once=1)
    unread = connections.Unread(8, "/v1/stylize", "image/png", images.all_images()["noise 640"], 12)
    yield Case("connections unread answers", unread, at_once=1, requests=8)
    start = "POST /v1/classify?top_k=1 HTTP/1.1\r\nHost: localhost\r\n"
    head = f"{start}Content-Length: {len(small())}\r\n\r\n".encode()
    half = Raw(connections.trickle(head, [small()]), half=True, length=len(small()))
    yield Case("connections half closed", half, quick=True)
    slow = Raw(connections.trickle(head, [bytes([one]) for one in small()[:200]]), pause=0.02, length=200)
    yield Case("connections a slow body", slow, at_once=8)
    yield Case("connections jobs of one client", connections.Jobs(small, 12), at_once=1)
