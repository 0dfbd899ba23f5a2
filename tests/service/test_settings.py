"""Settings: typed, bounded, frozen; a bad value fails at start and says which."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.host.checks import check
from service.settings import EngineKind, ExecutorKind, Settings, SettingsError, _quota, load
from tests.server import free_port


def test_the_environment_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LYNCEUS_MODELS", "lenet5, resnet18")
    monkeypatch.setenv("LYNCEUS_EXECUTOR", "torch")
    monkeypatch.setenv("LYNCEUS_MAX_BATCH", "16")
    settings = Settings()
    assert settings.models == ("lenet5", "resnet18")
    assert settings.executor is ExecutorKind.TORCH
    monkeypatch.setenv("LYNCEUS_MAX_BATCH", "32")
    assert settings.batch_limit(cuda=False) == 16
    with pytest.raises(ValidationError, match="frozen"):
        settings.max_batch = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_batch", "-1"),
        ("max_queue", "0"),
        ("max_queue", "many"),
        ("executor", "tensorrt"),
        ("device", "tpu"),
        ("models", ""),
        ("models", "lenet5,lenet5"),
        ("timeout_seconds", "0"),
        ("timeout_seconds", "nan"),
    ],
)
def test_a_bad_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"LYNCEUS_{name.upper()}", value)
    with pytest.raises(ValidationError, match=name):
        Settings()


def test_a_setting_goes_before_the_catalogues_batch() -> None:
    assert [Settings().batch_limit(cuda, 4) for cuda in (False, True)] == [4, 32]
    assert Settings().batch_limit(False) == 2
    assert Settings(max_batch=3).batch_limit(False, 4) == 3


def test_workers_and_threads_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.settings.core_count", lambda: 8)
    assert Settings().worker_count(cuda=False) == 8
    assert Settings().thread_count(cuda=False) == 1
    assert Settings(workers=2).thread_count(cuda=False) == 4
    assert Settings().worker_count(cuda=True) == 4
    assert Settings(workers=16).thread_count(cuda=False) == 1
    apart = Settings(engine=EngineKind.PROCESS)
    assert [apart.worker_count(cuda) for cuda in (0, 1, 16)] == [8, 8, 16], "at least one for each GPU"
    assert Settings(threads=3).decoder_count(cuda=False) == 3
    assert Settings().decoder_count(cuda=False) == 0
    assert Settings(decoders=2).decoder_count(cuda=False) == 2


@pytest.mark.parametrize(
    ("text", "cores"),
    [("200000 100000", 2), ("150000 100000", 2), ("max 100000", sys.maxsize), ("odd", sys.maxsize)],
)
def test_a_containers_quota_counts(tmp_path: Path, text: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert _quota(tmp_path) == cores


def test_the_older_quota_counts_too(tmp_path: Path) -> None:
    assert _quota(tmp_path) == sys.maxsize
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("50000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert _quota(tmp_path) == 1


SECRET = "top-secret-key-1"
ODD = ("many", "-5", "0", "99999999999999999999", "", "nan", "inf", "1.5", "  ", "\uff13", "1\n2")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.startswith("LYNCEUS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LYNCEUS_API_KEYS", SECRET)
    monkeypatch.setenv("LYNCEUS_MODELS", "lenet5")
    monkeypatch.setenv("LYNCEUS_GRPC_PORT", "0")
    return monkeypatch


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("field", sorted(set(Settings.model_fields) - {"api_keys"}))
def test_an_odd_value_is_within_bounds_or_one_line_without_a_secret(
    environment: pytest.MonkeyPatch, field: str, value: str
) -> None:
    name = f"LYNCEUS_{field.upper()}"
    environment.setenv(name, value)
    if field == "grpc_host":
        environment.setenv("LYNCEUS_GRPC_PORT", str(free_port()))
    try:
        settings = load()
        check(settings, None, None, 1)
    except SettingsError as error:
        (line,) = str(error).splitlines()
        assert name in line or "TLS" in name or field in ("catalogue", "models")
        assert SECRET not in line
        return
    taken = getattr(settings, field)
    if isinstance(taken, int | float) and not isinstance(taken, bool):
        bounds = {type(one).__name__: one for one in Settings.model_fields[field].metadata}
        least = bounds["Ge"].ge if "Ge" in bounds else bounds["Gt"].gt
        assert least <= taken <= bounds["Le"].le
    elif isinstance(taken, Path):
        assert taken != Path()
    if not value.strip():
        default = Settings.model_fields[field].default
        assert taken in (default, ()) or field == "grpc_host"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("LYNCEUS_API_KEY", SECRET, "did you mean LYNCEUS_API_KEYS?"),
        ("LYNCEUS_MAX_BATCHES", "4", "did you mean LYNCEUS_MAX_BATCH?"),
        ("lynceus_worker", "4", "did you mean LYNCEUS_WORKERS?"),
        ("LYNCEUS_QQQ", "4", "LYNCEUS_QQQ is no setting"),
    ],
)
def test_a_variable_that_is_no_setting_is_refused(
    environment: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    environment.setenv(name, value)
    with pytest.raises(SettingsError) as refused:
        load()
    assert said in str(refused.value)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "name",
    [
        "LYNCEUS_SERVICE_HOST",
        "LYNCEUS_SERVICE_PORT_HTTP",
        "LYNCEUS_PORT",
        "LYNCEUS_PORT_3000_TCP_ADDR",
        "LYNCEUS_CPU_PORT_3000_TCP",
    ],
)
def test_what_kubernetes_sets_is_no_setting_of_ours(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.setenv(name, "tcp://10.0.0.1:3000")
    assert load().models == ("lenet5",)


@pytest.mark.parametrize("keys", [",", " , ", "\t"])
def test_keys_that_hold_none_are_refused(environment: pytest.MonkeyPatch, keys: str) -> None:
    environment.setenv("LYNCEUS_API_KEYS", keys)
    with pytest.raises(SettingsError, match="no key"):
        load()
    environment.setenv("LYNCEUS_API_KEYS", "")
    assert load().api_keys == ()


def test_a_secret_stands_in_no_error(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("LYNCEUS_GRPC_TLS_CERT", "/x")
    with pytest.raises(ValidationError) as error:
        Settings()
    assert SECRET not in str(error.value)
