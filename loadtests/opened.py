"""Runs `openfile.py` against a server, and samples its metrics: an open load and its record."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loadtests.arrivals import departures, gaps
from loadtests.record import Pace, Record, Request
from loadtests.scrape import sampled
from loadtests.server import ROOT
from loadtests.shapes import SHAPES
from loadtests.verdict import Slo

OPENFILE = Path(__file__).with_name("openfile.py")
MARGIN = 300.0  # seconds for the generator's start and the last answers


@dataclass(frozen=True, slots=True)
class Opened:
    """An open load.

    Attributes:
        slo: its file; the mix, the arrivals and the usual level stand there.
        shape: a name of `SHAPES`.
        seconds: how long.
        ceiling: requests per second at a level of 1.
        seed: of the arrivals.
    """

    slo: Path
    shape: str
    seconds: float
    ceiling: float
    seed: int = 1

    def steps(self, slo: Slo) -> list[tuple[float, float]]:
        """Seconds and level of each step."""
        return SHAPES[self.shape].timed(self.seconds, slo.load)

    def departing(self, slo: Slo) -> int:
        """How many requests are sent."""
        rates = [(seconds, level * self.ceiling) for seconds, level in self.steps(slo)]
        return sum(1 for _ in departures(rates, gaps(slo.arrivals, self.seed)))


def run(load: Opened, slo: Slo, address: str, grpc_address: str, paces: Mapping[str, Pace]) -> Record:
    """Offers the load and records it.

    Raises:
        RuntimeError: the generator failed, or lost requests.
    """
    with tempfile.TemporaryDirectory(prefix="lynceus-load-") as folder:
        lines = Path(folder) / "requests.jsonl"
        command = [sys.executable, "-m", "locust", "-f", str(OPENFILE), "--headless", "-u", "1", "-r", "1"]
        command += ["--host", f"http://{address}", "--grpc", grpc_address, "--exit-code-on-error", "0"]
        command += ["--only-summary", "--loglevel", "WARNING", "--record", str(lines)]
        command += ["--slo", str(load.slo), "--shape", load.shape, "--seconds", str(load.seconds)]
        command += ["--ceiling", str(load.ceiling), "--seed", str(load.seed)]
        with sampled(address) as samples:
            ended = subprocess.run(
                command,
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=load.seconds + MARGIN,
                check=False,
            )
        began = [float(line.split()[1]) for line in ended.stdout.splitlines() if line.startswith("began ")]
        text = lines.read_text(encoding="utf-8") if lines.exists() else ""
    requests = [Request(**json.loads(line)) for line in text.splitlines()]
    if ended.returncode or not began or len(requests) != load.departing(slo):
        raise RuntimeError(
            f"the generator ended with {ended.returncode}, "
            f"{len(requests)} of {load.departing(slo)} requests:\n{ended.stderr[-2000:]}"
        )
    facts = {
        "shape": f"{load.shape}: {SHAPES[load.shape].what}",
        "arrivals": slo.arrivals,
        "mix": ", ".join(f"{task} {weight:g}" for task, weight in slo.mix.items()),
        "machine": machine(),
    }
    return Record(began[0], load.steps(slo), load.ceiling, paces, requests, samples, facts)


def machine() -> str:
    """Cores and processor."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    return f"{len(os.sched_getaffinity(0))} cores of {name}"
