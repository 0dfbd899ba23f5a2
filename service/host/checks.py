"""What can be known before a worker starts, checked once by the supervisor; without torch.

A worker that finds the same wrong is started again and loads every model first. Every error is one line with
the setting, its value and the remedy.
"""

from __future__ import annotations

import ctypes
import os
import socket
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

from models.errors import ModelError
from models.weights import Store, standard_catalogue
from service.host.auth import Auth
from service.settings import Settings, SettingsError
from service.telemetry.metrics import FILE_BYTES

METRIC_FILES = 10
"""Files of values of one worker."""


def check(settings: Settings, http: tuple[str, int] | None, metrics: Path | None, workers: int) -> None:
    """Everything below.

    Args:
        settings: the server's.
        http: address and port of HTTP, where they are known.
        metrics: folder of the workers' metrics.
        workers: processes with metrics that there will be.

    Raises:
        SettingsError: what is wrong.
    """
    check_device(settings.device)
    if settings.executor == "openvino" and find_spec("openvino") is None:
        raise SettingsError("LYNCEUS_EXECUTOR='openvino': the package openvino is not installed")
    check_keys(settings.api_keys_file)
    check_tls(settings.grpc_tls_cert, settings.grpc_tls_key)
    check_ports(settings, http)
    if metrics is not None:
        check_room(metrics, workers * METRIC_FILES * FILE_BYTES)
    check_weights(settings)


def check_weights(settings: Settings) -> None:
    """The catalogue and the models' files, before any conversion."""
    try:
        with _named(f"LYNCEUS_CATALOGUE={str(settings.catalogue)!r}", "correct the file, or unset it"):
            catalogue = standard_catalogue(settings.catalogue)
        with _named(f"LYNCEUS_MODELS={','.join(settings.models)!r}", "name models of the catalogue"):
            for name in settings.models:
                catalogue[name]
        store = Store(settings.weights_dir)
        for name in settings.models:
            for role, path in store.originals(catalogue[name]).items():
                if (file := catalogue[name].files[role]).convert and not store.has_converted(file):
                    with _named(f"LYNCEUS_WEIGHTS_DIR={str(store.cache)!r}", "run `make weights`"):
                        store.cache.mkdir(parents=True, exist_ok=True)
                        _take_room(store.cache, path.stat().st_size)
    except ModelError as error:
        raise SettingsError(str(error)) from None
    except OSError as error:
        remedy = "let this user read it" if isinstance(error, PermissionError) else "see the file"
        raise SettingsError(f"a model's file cannot be read: {error}: {remedy}") from None


def check_device(device: str) -> None:
    """That there is the GPU that is asked for by name."""
    if not device.startswith("cuda"):
        return
    number = int(device.partition(":")[2] or 0)
    count = ctypes.c_int(0)
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
        status = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    except OSError:
        status = -1
    if status or number >= count.value:
        found = "no NVIDIA driver (libcuda.so.1)" if status == -1 else f"{count.value} GPUs (cuInit {status})"
        raise SettingsError(
            f"LYNCEUS_DEVICE={device!r}: there is {found}: give this process one, or use auto"
        )


def check_keys(file: Path | None) -> None:
    """The file of API keys. An error never repeats what is in it."""
    if file is None:
        return
    with _named(f"LYNCEUS_API_KEYS_FILE={str(file)!r}", "give a file with a key a line, or unset it"):
        try:
            Auth(file=file)
        except UnicodeDecodeError:
            raise ValueError("it is not UTF-8") from None


def check_tls(certificate: Path | None, key: Path | None) -> None:
    """gRPC's certificate and key, and that they belong together."""
    if certificate is None or key is None:
        return
    for name, path in (("CERT", certificate), ("KEY", key)):
        with _named(f"LYNCEUS_GRPC_TLS_{name}={str(path)!r}", "give a PEM file that this user may read"):
            path.read_bytes()
    pair = f"LYNCEUS_GRPC_TLS_CERT={str(certificate)!r}, LYNCEUS_GRPC_TLS_KEY={str(key)!r}"
    with _named(pair, "give a certificate chain and its own private key, both PEM and not encrypted"):
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, lambda: "")


def check_ports(settings: Settings, http: tuple[str, int] | None) -> None:
    """That both addresses are this machine's and free, by binding them for a moment."""
    with ExitStack() as bound:
        if http is not None:
            with _named(f"--host {http[0]} --port {http[1]}", "end what listens there, or give another one"):
                bound.enter_context(_bind(*http))
        if settings.grpc_port:
            host, port = settings.grpc_host, settings.grpc_port
            given = f"LYNCEUS_GRPC_HOST={host!r}, LYNCEUS_GRPC_PORT={port}"
            if http is not None and http[1] == port:
                raise SettingsError(f"{given}: that is the port of HTTP: give another one, or 0 for no gRPC")
            with _named(given, "give an address of this machine and a free port, or port 0 for no gRPC"):
                bound.enter_context(_bind(host.strip("[]"), port))


def check_room(metrics: Path, size: int) -> None:
    """Room for the workers' metrics."""
    home = os.environ.get("BENTOML_HOME") or str(metrics.parent)
    with _named(f"BENTOML_HOME={home!r}", "make room for the workers' metrics, or give another folder"):
        _take_room(metrics, size)


def _take_room(folder: Path, size: int) -> None:
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, max(1, size))


def _bind(host: str, port: int) -> socket.socket:
    """Bound without SO_REUSEPORT: a server that has it would share the port, and the connections."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        bound.bind(address)
        bound.listen(1)  # with SO_REUSEADDR two may bind, but only one may listen
    except BaseException:
        bound.close()
        raise
    return bound


@contextmanager
def _named(setting: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, ModelError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise SettingsError(f"{setting}: {' '.join(str(said).split())}: {remedy}") from None
