"""Every setting, typed, bounded and frozen; read once from `LYNCEUS_*`. A bad value fails at start.

`load` is how a process reads them: what is wrong is one line, and no variable is ignored.

`python -m service.settings` prints the table of docs/settings.md.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Mapping
from enum import StrEnum
from math import ceil
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

MIB = 1024 * 1024
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s*]+")
"""As a browser writes it in the Origin header (RFC 6454): no path, no slash at its end."""

WORKERS_PER_GPU = 8
"""Most processes on one GPU, unless a setting says more."""
GPU_MEMORY = 4 * 1024 * MIB
"""Bytes of a GPU for one process with every model: context, weights, graphs, two batches; an estimate."""

PREFIX = "LYNCEUS_"
OF_KUBERNETES = re.compile(r"LYNCEUS_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")
"""What the kubelet sets in pods beside a Service named lynceus or lynceus-*, with `enableServiceLinks`."""


class SettingsError(Exception):
    """A setting is wrong. The text is one line with its name, its value (never a secret) and the remedy."""

    def __init__(self, text: str) -> None:
        super().__init__(" ".join(text.split()))


def core_count() -> int:
    """Cores this process may use: its CPU mask and its container's quota, not the machine's size."""
    return max(1, min(len(os.sched_getaffinity(0)), _quota(Path("/sys/fs/cgroup"))))


def _quota(cgroup: Path) -> int:
    """Cores that a container's limit stands for, rounded up (cgroup v2's `cpu.max`, v1's `cfs_quota`)."""
    try:
        if (cgroup / "cpu.max").is_file():
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        if quota in ("max", "-1"):
            return sys.maxsize
        return ceil(int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return sys.maxsize


class ExecutorKind(StrEnum):
    """How modules run: `auto` is OpenVINO on a CPU where it is installed, else Torch."""

    AUTO = "auto"
    TORCH = "torch"
    OPENVINO = "openvino"


class Precision(StrEnum):
    """Arithmetic of the networks: `auto` is, on a CPU, the fastest that it has instructions for and that has
    passed the model's gates; on a GPU float16 where that has, else float32."""

    AUTO = "auto"
    INT8 = "int8"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class EngineKind(StrEnum):
    """Where networks run: `worker`, in each process that serves HTTP and gRPC; `process`, in one process for
    each device, which batches the images of all of those."""

    WORKER = "worker"
    PROCESS = "process"


class Settings(BaseSettings):
    """The service's configuration. Each field is the environment variable `LYNCEUS_<FIELD>`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        protected_namespaces=(),
        hide_input_in_errors=True,  # a key may be among it
    )

    models: Annotated[tuple[str, ...], NoDecode] = Field(
        (
            "efficientnet-lite0",
            "lenet5",
            "efficientdet-lite0",
            "yolo-person",
            "mtcnn",
            "dlib-resnet",
            "paintings",
        ),
        description="models to load, separated by commas; the first of each task is that task's default",
    )
    catalogue: Path | None = Field(
        None, description="an operator's own weights catalogue (TOML), besides the built-in one"
    )
    weights_dir: Path | None = Field(
        None, description="folder of fetched weights; default: the user's cache folder"
    )

    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")
    executor: ExecutorKind = Field(ExecutorKind.AUTO, description="auto, torch or openvino")
    precision: Precision = Field(
        Precision.AUTO, description="auto, int8, bfloat16, float16 or float32; see docs/benchmarks.md"
    )

    engine: EngineKind = Field(
        EngineKind.WORKER,
        description="where networks run: worker (in each process that serves) or process (in one for each"
        " GPU, or for all cores, which batches for all workers; see docs/gpu.md)",
    )
    compile: bool = Field(
        False,
        description="on a GPU: whether CUDA graphs are of what torch.compile makes of a network; takes a C "
        "compiler, and minutes at start",
    )
    workers: int = Field(
        0,
        ge=0,
        le=256,
        description="processes that serve; 0: one per core, but on GPUs with `engine=worker` one for two"
        " cores, at most 8 on each",
    )
    threads: int = Field(
        0, ge=0, le=256, description="model threads per worker; 0: the cores shared out among them"
    )
    slots: int = Field(
        0,
        ge=0,
        le=8,
        description="batches of one model on the device at once, per worker; 0: 1 on a CPU, 2 on a GPU",
    )
    decoders: int = Field(
        -1,
        ge=-1,
        le=64,
        description="decoding threads per worker; 0: the models' threads decode; -1: chosen by the layout",
    )
    max_batch: int = Field(
        0,
        ge=0,
        le=256,
        description="largest batch; 0: 32 on a GPU, on a CPU the catalogue's `cpu_batch` or 2",
    )
    max_queue: int = Field(128, ge=1, le=100_000, description="images that may wait per model and worker")
    max_wait_seconds: float = Field(
        2.0,
        gt=0,
        le=3600,
        description="longest that an image waits for its model; one that would wait longer is refused",
    )
    linger_ms: float = Field(
        0.0, ge=0, le=1000, description="how long an idle queue's first image waits for more"
    )

    max_image_bytes: int = Field(20 * MIB, ge=1024, le=1024 * MIB, description="largest encoded image")
    max_image_pixels: int = Field(50_000_000, ge=1, le=2_000_000_000, description="most pixels of an image")
    max_body_bytes: int = Field(
        64 * MIB, ge=1024, le=4096 * MIB, description="largest body of several images"
    )
    max_images: int = Field(32, ge=1, le=1024, description="images in one request")
    decode_memory_bytes: int = Field(
        512 * MIB,
        ge=1 * MIB,
        le=1024 * 1024 * MIB,
        description="bytes per worker for decoded images; bodies may take half as many besides",
    )
    timeout_seconds: float = Field(30.0, gt=0, le=3600, description="longest a request may take")
    header_timeout_seconds: float = Field(
        10.0, gt=0, le=3600, description="how long a connection may take to send a request's headers"
    )
    body_timeout_seconds: float = Field(
        10.0, gt=0, le=3600, description="longest pause in a request's body; then 408"
    )
    max_connections: int = Field(
        4096,
        ge=1,
        le=1_000_000,
        description="connections per worker, of HTTP and of gRPC each; one more is answered 503, or closed",
    )
    drain_seconds: float = Field(
        3.0,
        ge=0,
        le=600,
        description="after SIGTERM: not ready but still answering, for the load balancer to notice",
    )
    grpc_port: int = Field(3001, ge=0, le=65535, description="port of gRPC; 0: no gRPC")
    grpc_host: str = Field("0.0.0.0", description="address that gRPC listens on")  # noqa: S104 (as HTTP's)
    grpc_tls_cert: Path | None = Field(None, description="certificate chain (PEM) for gRPC over TLS")
    grpc_tls_key: Path | None = Field(None, description="its private key (PEM)")
    grpc_idle_seconds: float = Field(
        60.0, gt=0, le=86_400, description="after so long without a call a gRPC connection is closed"
    )
    grpc_streams: int = Field(1024, ge=1, le=1_000_000, description="calls at once on one gRPC connection")
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="API keys, separated by commas; none: requests need no key"
    )
    api_keys_file: Path | None = Field(
        None, description="a file with a key a line, read again when it changes"
    )
    key_concurrency: int = Field(
        0, ge=0, le=100_000, description="requests of one API key at once per worker, then 429; 0: no limit"
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="origins allowed by CORS, separated by commas, or *; none: same origin only",
    )
    ui: bool = Field(True, description="whether / is a page to try the service in a browser")
    tracing: Literal["off", "console", "otlp"] = Field(
        "off", description="OpenTelemetry traces: off, console or otlp; the rest by OTEL_* variables"
    )
    jobs: str = Field(
        "local",
        repr=False,  # it may hold a password
        description="where style jobs are kept and run: local (on this machine, in LYNCEUS_STATE_DIR), or the"
        " URL of a Redis (redis://, rediss://, unix://) that services and `service.jobs.worker` share",
    )
    state_dir: Path | None = Field(
        None, description="folder of style jobs, for one server; default: the user's state folder"
    )
    max_jobs: int = Field(
        1,
        ge=1,
        le=64,
        description="style jobs that run at once, over all workers; with Redis one per job worker",
    )
    max_waiting_jobs: int = Field(8, ge=0, le=10_000, description="style jobs that may wait besides")
    job_expiry_seconds: float = Field(
        3600.0, ge=1, le=30 * 86400, description="how long a finished job and its image are kept"
    )
    job_timeout_seconds: float = Field(3600.0, ge=1, le=7 * 86400, description="longest a job may run")
    job_threads: int = Field(1, ge=1, le=256, description="threads of one job, at a low priority (nice 10)")
    job_metrics_port: int = Field(
        9400, ge=0, le=65535, description="port of a job worker's /metrics; 0: none"
    )
    access_log: bool = Field(False, description="a line of JSON on the standard output for each request")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="lowest level that is logged"
    )

    @field_validator("models", "api_keys", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("api_keys", mode="before")
    @classmethod
    def _some_key(cls, value: Any) -> Any:
        if isinstance(value, str) and value and not value.strip(", \t\n"):
            raise ValueError("it holds no key: every client would be answered")
        return value

    @field_validator(
        "catalogue",
        "weights_dir",
        "grpc_tls_cert",
        "grpc_tls_key",
        "api_keys_file",
        "state_dir",
        mode="before",
    )
    @classmethod
    def _unset(cls, value: Any) -> Any:
        """An empty path is none: `Path("")` is the working folder."""
        return None if isinstance(value, str) and not value.strip() else value

    @field_validator("models")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("name at least one model")
        if len(set(value)) != len(value):
            raise ValueError("a model is named twice")
        return value

    @field_validator("jobs")
    @classmethod
    def _jobs(cls, value: str) -> str:
        if value != "local" and not value.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("it is neither local nor the URL of a Redis")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin: scheme://host or scheme://host:port, or *")
        return value

    @model_validator(mode="after")
    def _whole_certificate(self) -> Self:
        if (self.grpc_tls_cert is None) != (self.grpc_tls_key is None):
            raise ValueError("TLS needs both LYNCEUS_GRPC_TLS_CERT and LYNCEUS_GRPC_TLS_KEY")
        return self

    @property
    def state_folder(self) -> Path:
        """`state_dir`, or `$XDG_STATE_HOME/lynceus`, or `~/.local/state/lynceus`."""
        if self.state_dir is not None:
            return self.state_dir
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "lynceus"

    def worker_count(self, cuda: int, memory: int = 0) -> int:
        """Processes to start that serve, with so many GPUs, the smallest of which has so many bytes.

        A process decodes and answers no more than about a thousand images a second, far fewer than a GPU
        classifies, so several share one.
        """
        if self.workers or not cuda:
            return self.workers or core_count()
        if self.engine is EngineKind.PROCESS:
            return max(cuda, core_count())
        fitting = memory // GPU_MEMORY if memory else WORKERS_PER_GPU
        return cuda * max(1, min(WORKERS_PER_GPU, fitting, core_count() // (2 * cuda)))

    def slot_count(self, cuda: int) -> int:
        """Batches of one model on the device at once: on a GPU the next one is staged while one computes."""
        return self.slots or (2 if cuda else 1)

    def thread_count(self, cuda: int) -> int:
        """Threads that a model may use in each worker."""
        return self.threads or max(1, core_count() // self.worker_count(cuda))

    def batch_limit(self, cuda: bool, on_cpu: int = 0) -> int:
        """Largest batch; `on_cpu`: the catalogue's. A CPU gains little by batches, see docs/benchmarks.md."""
        return self.max_batch or (32 if cuda else on_cpu or 2)

    def decoder_count(self, cuda: bool) -> int:
        """Decoding threads in each worker. Beside a model of one thread another one gains nothing."""
        if self.decoders >= 0:
            return self.decoders
        threads = self.thread_count(cuda)
        if cuda:  # beside the event loop
            return min(4, threads - 1)
        return 0 if threads == 1 else threads


def load(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings of a process's environment.

    Raises:
        SettingsError: a value is wrong, or a variable `LYNCEUS_*` is no setting.
    """
    names = {f"{PREFIX}{field.upper()}" for field in Settings.model_fields}
    for name in sorted(environment):
        if not name.upper().startswith(PREFIX) or OF_KUBERNETES.fullmatch(name):
            continue
        if name.upper() not in names:
            near = difflib.get_close_matches(name.upper(), sorted(names), 1)
            raise SettingsError(f"{name} is no setting" + (f": did you mean {near[0]}?" if near else ""))
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError(_said(error, environment)) from None


def _said(error: ValidationError, environment: Mapping[str, str]) -> str:
    """The first of what is wrong, in one line."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    said = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:  # several settings together; the text names them
        return said
    field = str(first["loc"][0])
    name, known = f"{PREFIX}{field.upper()}", Settings.model_fields[field]
    given = next((value for key, value in environment.items() if key.upper() == name), "")
    value = "" if field in ("api_keys", "jobs") else f"={given[:100]!r}"
    return f"{name}{value}: {said}. It is: {known.description} (default: {_shown(known.default) or 'none'})"


def _shown(default: Any) -> str:
    """A default as the variable would be written; empty where there is none."""
    return ",".join(default) if isinstance(default, tuple) else "" if default is None else str(default)


def main() -> None:
    """Prints the settings as a Markdown table."""
    print("| variable | default | meaning |\n| --- | --- | --- |")
    for name, field in Settings.model_fields.items():
        shown = "" if field.default is None else f"`{_shown(field.default)}`"
        print(f"| `{PREFIX}{name.upper()}` | {shown} | {field.description} |")


if __name__ == "__main__":
    main()
