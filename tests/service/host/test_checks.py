"""What the supervisor finds wrong before there is a worker: every error names setting, value and remedy."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from models.weights import COMMITTED, sha256_of
from service.host import checks
from service.settings import Settings, SettingsError


def test_what_is_right_passes(tmp_path: Path) -> None:
    with socket.socket() as probe, socket.socket() as other:
        for one in (probe, other):
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in (probe, other)]
    settings = Settings(models=("lenet5",), grpc_host="127.0.0.1", grpc_port=ports[0])
    checks.check(settings, ("127.0.0.1", ports[1]), tmp_path, 2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("host", ["::1", "[::1]", "::"])
def test_addresses_of_ipv6_need_no_brackets(host: str) -> None:
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        port = probe.getsockname()[1]
    checks.check_ports(Settings(grpc_host=host, grpc_port=port), None)


@pytest.mark.parametrize("reuse", [False, True])
def test_a_port_that_is_taken_is_refused_though_it_could_be_shared(reuse: bool) -> None:
    with socket.socket() as other:
        if reuse:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SettingsError, match=f"LYNCEUS_GRPC_HOST='127.0.0.1', LYNCEUS_GRPC_PORT={port}: "):
            checks.check_ports(Settings(grpc_host="127.0.0.1", grpc_port=port), None)
        with pytest.raises(SettingsError, match=f"--host 127.0.0.1 --port {port}: "):
            checks.check_ports(Settings(grpc_port=0), ("127.0.0.1", port))


def test_the_port_of_http_is_told_as_such() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(SettingsError, match="the port of HTTP"):
        checks.check_ports(Settings(grpc_port=port), ("127.0.0.1", port))


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A pair of its own signature."""
    pair = folder / f"{name}.crt", folder / f"{name}.key"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    subject = ["-days", "1", "-subj", "/CN=localhost"]
    try:
        subprocess.run(
            [*command, "-keyout", pair[1], "-out", pair[0], *subject], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("openssl makes no certificate here")
    return pair


def test_tls_files_must_be_a_pair(tmp_path: Path) -> None:
    one, two = certificate(tmp_path, "one"), certificate(tmp_path, "two")
    checks.check_tls(*one)
    with pytest.raises(SettingsError, match="its own private key"):
        checks.check_tls(one[0], two[1])
    two[0].write_text("no PEM")
    with pytest.raises(SettingsError, match=r"LYNCEUS_GRPC_TLS_CERT=.*PEM"):
        checks.check_tls(*two)
    two[1].unlink()
    with pytest.raises(SettingsError, match=r"LYNCEUS_GRPC_TLS_KEY='.*two.key': No such file"):
        checks.check_tls(*two)


@pytest.mark.parametrize(
    ("content", "said"), [(None, "No such file"), (b"# none\n", "no API key"), (b"\xff\xfe", "not UTF-8")]
)
def test_a_file_of_keys_must_hold_one(tmp_path: Path, content: bytes | None, said: str) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=said) as refused:
        checks.check_keys(file)
    assert str(refused.value).startswith(f"LYNCEUS_API_KEYS_FILE='{file}': ")


def test_a_gpu_that_is_asked_for_by_name_must_be_there() -> None:
    checks.check_device("auto")
    checks.check_device("cpu")
    with pytest.raises(SettingsError, match=r"LYNCEUS_DEVICE='cuda:99': there is .*: give this process one"):
        checks.check_device("cuda:99")


def test_no_room_for_metrics_is_told(tmp_path: Path) -> None:
    checks.check_room(tmp_path, 1 << 16)
    with pytest.raises(SettingsError, match=r"BENTOML_HOME=.*: (No space left|File too large).*: make room"):
        checks.check_room(tmp_path, 1 << 50)


def test_weights_that_may_not_be_read_are_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = COMMITTED / "lenet5.safetensors"
    (tmp_path / "own.toml").write_text(
        '[mine]\ntask = "classify"\nbuilder = "lenet5"\nlicense = "MIT"\n'
        f'[mine.files.weights]\nsource = "file"\npath = "{source}"\nsha256 = "{sha256_of(source)}"\n'
    )

    def denied(*_: object) -> str:
        raise PermissionError(13, "Permission denied", "the file")

    settings = Settings(models=("mine",), catalogue=tmp_path / "own.toml")
    checks.check_weights(settings)
    monkeypatch.setattr("models.weights.sha256_of", denied)
    with pytest.raises(SettingsError, match=r"cannot be read: .*let this user read it"):
        checks.check_weights(settings)
