"""Builds and runs `loadgen.c`.

python -m loadtests.loadgen 127.0.0.1:3000 /v1/classify -c 16 -s 10 -T image/jpeg images/*.jpg
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCES = [Path(__file__).with_name(name) for name in ("loadgen.c", "answer.h", "grpc.h", "report.h")]
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror")


@dataclass(frozen=True, slots=True)
class Load:
    """One run's figures. Latencies are of answers 2xx, in milliseconds.

    Attributes:
        requests: answers, of any status.
        ok: answers 2xx.
        errors: other statuses, and ``connect``, ``timeout``, ``closed``, ``protocol``, to how often.
        reconnects: idle connections that the server had closed; the request went out once more.
        bytes: received.
        rps: answers 2xx per second.
        cpu_seconds: what the generator itself took.
        batch_sizes: of the `X-Batch-Size` headers, to how often.
    """

    requests: int
    ok: int
    errors: Mapping[str, int]
    reconnects: int
    bytes: int
    seconds: float
    rps: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    cpu_seconds: float
    batch_sizes: Mapping[int, int]

    @classmethod
    def parse(cls, line: str) -> Load:
        """Reads the JSON line that `loadgen` prints."""
        members: dict[str, Any] = json.loads(line)
        members["batch_sizes"] = {int(size): count for size, count in members["batch_sizes"].items()}
        return cls(**members)

    @property
    def mean_batch(self) -> float:
        """Mean of the batch sizes that answers carry; each answer counts. 0 where none did."""
        batches = sum(self.batch_sizes.values())
        return sum(size * count for size, count in self.batch_sizes.items()) / batches if batches else 0.0


def build(cache: Path | None = None) -> Path:
    """Compiles the generator, once per version of its source, and returns the executable.

    Raises:
        RuntimeError: there is no C compiler.
        subprocess.CalledProcessError: it rejected the source.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise RuntimeError("the load generator needs a C compiler (cc), or CC to name one")
    if cache is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lynceus"
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in SOURCES)).hexdigest()[:16]
    target = cache / f"loadgen-{digest}"
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        scratch = cache / f"loadgen-{os.getpid()}.part"
        subprocess.run([compiler, *FLAGS, "-o", str(scratch), str(SOURCES[0])], check=True)
        scratch.replace(target)  # at once, so that two builders do not meet a half-written file
    return target


def arguments(
    target: str,
    path: str,
    bodies: Sequence[Path] = (),
    *,
    connections: int = 1,
    seconds: float = 10.0,
    requests: int | None = None,
    warmup: float = 0.0,
    timeout: float = 30.0,
    content_type: str = "image/jpeg",
    headers: Mapping[str, str] | None = None,
    grpc: bool = False,
) -> list[str]:
    """The generator's arguments.

    Args:
        target: ``host:port`` on the loopback interface; any other is refused by the generator.
        bodies: files, sent in turn; none makes it GET.
        seconds: length of the measurement, and its bound where `requests` counts.
        requests: end after so many; excludes `warmup`.
        warmup: seconds of the same load before the measurement.
        timeout: seconds until a request counts as an error.
        grpc: `path` is a unary method, `/package.Service/Method`, and each file a message. A call that brings
            none counts as status 500.
    """
    options = ["-c", str(connections), "-s", str(seconds), "-t", str(timeout), "-T", content_type]
    if requests is not None:
        options += ["-n", str(requests)]
    if warmup:
        options += ["-w", str(warmup)]
    if grpc:
        options.append("-G")
    for name, value in (headers or {}).items():
        options += ["-H", f"{name}: {value}"]
    return [*options, target, path, *map(str, bodies)]


def run(target: str, path: str, bodies: Sequence[Path] = (), **options: Any) -> Load:
    """Runs the generator to its end; see `arguments`.

    Raises:
        subprocess.CalledProcessError: it refused its arguments; its standard error says why.
    """
    command = [str(build()), *arguments(target, path, bodies, **options)]
    return Load.parse(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


if __name__ == "__main__":
    sys.exit(subprocess.run([build(), *sys.argv[1:]], check=False).returncode)
