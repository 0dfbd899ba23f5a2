"""What the report must show: the bars, why one is missed, and the table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

Report = Mapping[str, Any]

READY: Final = 60.0
"""Most seconds until a server is ready."""
FED: Final = 0.9
"""Least share of what network and decoding could do, whichever is less, that requests of 8 images reach."""
REPLAYED: Final = 0.9
"""Least share of the graphs' own rate, at the largest batch, that the executor reaches with its slots."""
WAITING: Final = 0.2
"""Most of a core that a thread takes while it waits."""
GROWTH: Final = 0.05
"""Most that the memory grows with faces of every number."""
MAY_BE_SKIPPED: Final = ("mps", "front ends")
"""Parts that compare: what is served is judged without them."""
GAIN: Final = 1.2
"""Least that 16 bits gain over float32, at the largest batch."""


def judge(report: Report, device: str) -> list[str]:
    """Why it does not pass; nothing: it does. On a CPU only what fails counts."""
    return list(_failures(report)) + (list(_missed(report)) if device != "cpu" else [])


def _failures(report: Report) -> Iterator[str]:
    for name, part in report.items():
        for key in ("failed", "skipped"):
            if key in part and (key == "failed" or name not in MAY_BE_SKIPPED):
                yield f"{name} {key}: {part[key]}"
    for what, told in report.get("checks", {}).items():
        if isinstance(told, Mapping) and told["status"] not in (0, 5):
            yield f"{what}: ended with {told['status']}: {told.get('said', '')[-300:]}"
    for where, row in _loads(report):
        if row["errors"]:
            yield f"{where}: {row['errors']} errors"
        if not row["images_per_s"]:
            yield f"{where}: nothing was served"


def _missed(report: Report) -> Iterator[str]:
    checks = report.get("checks", {}).get("tests", {})
    if checks and not checks.get("passed"):
        yield "no test of tests/gpu ran"
    alone = report.get("networks", {})
    for name, row in alone.items():
        if not isinstance(row, Mapping):
            continue
        if "failed" in row and "torch.compile" not in name:
            yield f"{name}: {row['failed']}"
        largest = row.get("32", {})
        if "device" in largest and "," not in name and largest["executor"] < REPLAYED * largest["device"]:
            share = largest["executor"] / largest["device"]
            yield f"{name}: the executor reaches {share:.0%} of the graphs' rate, not {REPLAYED:.0%}"
        whole = alone.get(f"{name}, float32", {}).get("32", {})
        if whole and "float16" in row.get("precision", "") and largest["device"] < GAIN * whole["device"]:
            yield f"{name}: float16 gains {largest['device'] / whole['device']:.2f} times, not {GAIN}"
    share = alone.get("waiting thread, share of a core")
    if share is not None and share > WAITING:
        yield f"a waiting thread takes {share:.0%} of a core, not {WAITING:.0%} at most"
    for name in ("service", "front ends", "mps", "faces", "detect"):
        for where, row in [(name, report.get(name, {})), *report.get(name, {}).items()]:
            if isinstance(row, Mapping) and row.get("ready_s", 0) > READY:
                yield f"{name}, {where}: ready in {row['ready_s']} s, not in {READY:.0f} s"
    growth = report.get("faces", {}).get("growth")
    if growth is not None and growth > GROWTH:
        yield f"faces: the memory grew by {growth:.1%}, not by {GROWTH:.0%} at most"
    yield from _fed(report)


def _fed(report: Report) -> Iterator[str]:
    alone = report.get("networks", {})
    network = alone.get("efficientnet-lite0", {}).get("32", {}).get("device")
    decoded = max(
        (rate for name, rate in alone.get("decoding", {}).items() if "processes" in name), default=None
    )
    served = [row["images_per_s"] for where, row in _loads(report) if "8 images" in where]
    if network and decoded and served and max(served) < FED * (could := min(network, decoded)):
        share = max(served) / could
        yield (
            f"classify, 8 images a request: {max(served):.0f}/s is {share:.0%} of {could:.0f}/s, the lesser "
            f"of network and decoding; the bar is {FED:.0%}"
        )


def _loads(report: Report) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every row of a load, by where it stands."""

    def walk(where: str, value: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
        if isinstance(value, Mapping):
            if "images_per_s" in value:
                yield where, value
            for key, inner in value.items():
                yield from walk(f"{where}, {key}" if where else key, inner)

    yield from walk("", {name: part for name, part in report.items() if name != "networks"})


def table(report: Report, reasons: list[str]) -> str:
    """Markdown: the machine, networks alone, decoding, the service, the verdict."""
    about = report.get("machine", {})
    lines = [
        f"{about.get('gpu') or 'no GPU'}, {about.get('cores')} cores of {about.get('processor')}, "
        f"torch {about.get('torch')} (locked: {about.get('locked torch')}), CUDA {about.get('cuda')}",
        "",
        "| network alone | precision | batch | device/s | executor/s | ready s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in report.get("networks", {}).items():
        if isinstance(row, Mapping) and "precision" in row:
            for batch, rates in row.items():
                if batch.isdigit():
                    lines.append(
                        f"| {name} | {row['precision']} | {batch} | {rates.get('device', '')} "
                        f"| {rates['executor']} | {row['ready_s']} |"
                    )
        elif isinstance(row, Mapping) and ("skipped" in row or "failed" in row):
            lines.append(f"| {name} | {row.get('skipped') or row.get('failed')} | | | | |")
    lines += ["", "| decoding alone | images/s |", "| --- | --- |"]
    lines += [f"| {name} | {rate} |" for name, rate in report.get("networks", {}).get("decoding", {}).items()]
    lines += ["", "| served | images/s | p50 ms | p99 ms | batch | cores | of the device process | errors |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- | --- |"]
    keys = ("images_per_s", "p50_ms", "p99_ms", "batch", "cores", "device_process_cores", "errors")
    for where, row in _loads(report):
        cells = (row.get(key, "") for key in keys)
        lines.append(f"| {where} | " + " | ".join(str(cell) for cell in cells) + " |")
    lines += ["", "passed" if not reasons else "not passed:", *(f"- {reason}" for reason in reasons)]
    return "\n".join(lines) + "\n"
