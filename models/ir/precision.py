"""Precisions of a CPU: which ones this machine computes fast, and how a network is compiled at one."""

from __future__ import annotations

import contextlib
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

FAST: Final = ("int8", "bfloat16")
"""Precisions besides float32 that a CPU may be faster in, by the names of `Pipeline.precisions`."""

_INSTRUCTIONS: Final = {"int8": {"avx512_vnni", "avx_vnni"}, "bfloat16": {"avx512_bf16", "amx_bf16"}}


@cache
def instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The processor's features as Linux names them; none where it does not say."""
    with contextlib.suppress(OSError):
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    return frozenset()


def supported(flags: frozenset[str]) -> tuple[str, ...]:
    """Precisions of `FAST` that a processor with these features computes faster than float32.

    Without the dot products of VNNI an int8 network gains little; bfloat16 needs AVX-512 BF16 or AMX.
    """
    return tuple(name for name in FAST if flags & _INSTRUCTIONS[name])


def compile_network(network: Any, precision: str, threads: int) -> Any:
    """An `openvino.CompiledModel` for the CPU.

    Args:
        network: an `openvino.Model`, or a compiled one that was exported, as uint8 [N], which it keeps: its
            constants are read there.
        precision: ``float32``, ``bfloat16`` or ``int8``; what an int8 network computes in floats it does in
            bfloat16 where the processor can.
        threads: of one inference.
    """
    import openvino

    half = precision == "bfloat16" or (precision == "int8" and "bfloat16" in supported(instructions()))
    config = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        # with pinning two worker processes sit on one core (measured: half the throughput)
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
    }
    core = openvino.Core()
    if not isinstance(network, np.ndarray):
        return core.compile_model(network, "CPU", config)
    made = core.import_model(openvino.Tensor(network, shared_memory=True), "CPU", config)
    made.exported = network  # OpenVINO does not keep it
    return made
