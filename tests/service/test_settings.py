"""Settings: typed, bounded, frozen; a bad value fails at start and says which."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings import ExecutorKind, Settings, _quota


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


def test_workers_and_threads_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.settings._cores", lambda: 8)
    assert Settings().worker_count(cuda=False) == 8
    assert Settings().thread_count(cuda=False) == 1
    assert Settings(workers=2).thread_count(cuda=False) == 4
    assert Settings().worker_count(cuda=True) == 1
    assert Settings(workers=16).thread_count(cuda=False) == 1
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
