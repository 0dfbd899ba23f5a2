"""Starts that cannot succeed: one line that names the setting, status 1, no worker, no secret."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from loadtests.faults.case import Case, Row
from loadtests.faults.site import Site
from loadtests.server import free_port

SECRET = "top-secret-key-1"  # noqa: S105 (it must not be printed)
SECONDS = 3.0
"""Longest that such a start may take, without waiting for a core."""
Broken = contextlib.AbstractContextManager[Mapping[str, object]]


def refused(broken: Callable[[Path], Broken], *words: str) -> Case:
    """A start with these settings; the line has all these words."""

    def case(row: Row) -> None:
        with TemporaryDirectory(prefix="lynceus-faults-") as folder, broken(Path(folder)) as settings:
            given = {"api_keys": SECRET, **settings}
            with Site(**given) as site:  # type: ignore[arg-type]
                code, row.ended = site.refused()
                said, left = site.said(), site.left_behind()
        lines = [line for line in said.splitlines() if line]
        row.note = "" if len(lines) != 1 else f"`{lines[0].replace(folder, '...')}`"
        row.expect(code == 1, f"status {code}")
        row.expect(len(lines) == 1 and lines[0].startswith("lynceus cannot start: "), f"{len(lines)} lines")
        row.expect(all(word in said for word in words), f"the line lacks one of {words}")
        row.expect(SECRET not in said, "a secret is printed")
        row.expect(row.ended < SECONDS, "it took too long")
        row.expect(not [one for one in left if one.startswith("process")], f"left behind: {left}")

    return case


def given(**settings: object) -> Callable[[Path], Broken]:
    """Plain settings."""
    return lambda _: contextlib.nullcontext(settings)


def written(name: str, text: bytes, **settings: object) -> Callable[[Path], Broken]:
    """A setting that names a file with this text."""

    def broken(folder: Path) -> Broken:
        (folder / "file").write_bytes(text)
        return contextlib.nullcontext({**settings, name: folder / "file"})

    return broken


def pair(folder: Path) -> Broken:
    """TLS files that are no PEM."""
    for name in ("cert", "key"):
        (folder / name).write_bytes(b"no PEM")
    return contextlib.nullcontext({"grpc_tls_cert": folder / "cert", "grpc_tls_key": folder / "key"})


@contextlib.contextmanager
def shared_port(_: Path) -> Iterator[Mapping[str, object]]:
    """The gRPC port is another server's, which would share it (SO_REUSEPORT)."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield {"grpc_port": other.getsockname()[1]}


@contextlib.contextmanager
def taken_port(_: Path) -> Iterator[Mapping[str, object]]:
    """The HTTP port is taken."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield {"port": other.getsockname()[1]}


def same_port(_: Path) -> Broken:
    """One port for both transports."""
    port = free_port()
    return contextlib.nullcontext({"port": port, "grpc_port": port})


def late(row: Row) -> None:
    """What only a worker finds wrong: a checkpoint that is not the network's."""
    with TemporaryDirectory(prefix="lynceus-faults-") as name:
        folder = Path(name)
        wrong = folder / "wrong.safetensors"
        wrong.write_bytes(b"\x02\x00\x00\x00\x00\x00\x00\x00{}")
        digest = hashlib.sha256(wrong.read_bytes()).hexdigest()
        own = folder / "own.toml"
        own.write_text(
            '[mine]\ntask = "classify"\nbuilder = "lenet5"\nlicense = "MIT"\n[mine.files.weights]\n'
            f'source = "file"\npath = "{wrong}"\nsha256 = "{digest}"\n'
        )
        began = time.monotonic()
        with Site(models="mine", catalogue=own, api_keys=SECRET) as site:
            code, _ = site.end(120.0)
            row.ended = time.monotonic() - began
            last = site.said().strip().splitlines()[-1]
            row.left = site.left_behind()
        row.note = f"`{last.replace(name, '...')}`"
        row.expect(code == 1, f"status {code}")
        row.expect(last.startswith("lynceus cannot start: "), "the last line has no reason")
        row.expect(not row.left, f"left behind: {', '.join(row.left)}")


CASES: dict[str, Case] = {
    "start: a number that is a word": refused(given(max_batch="many"), "LYNCEUS_MAX_BATCH='many'"),
    "start: a setting that is none": refused(
        given(max_batches=3), "LYNCEUS_MAX_BATCHES", "LYNCEUS_MAX_BATCH?"
    ),
    "start: half a TLS pair": refused(
        given(grpc_tls_cert="/x"), "LYNCEUS_GRPC_TLS_CERT", "LYNCEUS_GRPC_TLS_KEY"
    ),
    "start: TLS files that are no PEM": refused(pair, "LYNCEUS_GRPC_TLS_CERT="),
    "start: no file of keys": refused(given(api_keys_file="/lost"), "LYNCEUS_API_KEYS_FILE='/lost'"),
    "start: a file of keys without one": refused(written("api_keys_file", b"# none\n"), "no API key"),
    "start: no GPU": refused(given(device="cuda:7"), "LYNCEUS_DEVICE='cuda:7'"),
    "start: gRPC on a name that is none": refused(
        given(grpc_host="nowhere.invalid"), "LYNCEUS_GRPC_HOST='nowhere.invalid'"
    ),
    "start: gRPC on an address of another machine": refused(given(grpc_host="192.0.2.1"), "192.0.2.1"),
    "start: the gRPC port is another server's": refused(shared_port, "LYNCEUS_GRPC_PORT"),
    "start: the HTTP port is taken": refused(taken_port, "--port"),
    "start: one port for both": refused(same_port, "LYNCEUS_GRPC_PORT"),
    "start: a model that is none": refused(given(models="resnet-0"), "resnet-0"),
    "start: a catalogue that is no TOML": refused(written("catalogue", b"]["), "catalogue"),
    "start: a worker finds the network's file wrong": late,
}
