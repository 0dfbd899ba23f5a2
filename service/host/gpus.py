"""Which GPUs there are, and which of them a worker takes; found without torch, before CUDA is loaded.

BentoML 1.4 sets one `CUDA_VISIBLE_DEVICES` for all workers of a service (`ResourceAllocator.get_worker_env`),
where resources are asked for. Here each worker narrows the variable to a GPU of its own.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"


def gpus(device: str, environment: MutableMapping[str, str], nodes: Path = Path("/dev")) -> tuple[str, ...]:
    """The GPUs that the workers share out among themselves.

    Args:
        device: the setting: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        environment: the process's.
        nodes: folder of the device nodes.

    Returns:
        names as `CUDA_VISIBLE_DEVICES` takes them (an index, a GPU's or a MIG slice's UUID); none on a CPU,
        the one that was asked for with ``cuda:N``.
    """
    if device == "cpu":
        return ()
    named = int(device.partition(":")[2]) if ":" in device else None
    if VISIBLE in environment:
        found = []
        for name in environment[VISIBLE].split(","):
            if name.strip() in ("", "-1"):  # CUDA looks no further
                break
            found.append(name.strip())
    else:
        # their numbers are the driver's, CUDA counts from 0 those that this container was given
        found = [str(index) for index, _ in enumerate(nodes.glob("nvidia[0-9]*"))]
    if named is not None:
        return (found[named],) if named < len(found) else (str(named),)
    if not found and device == "cuda":
        return ("0",)  # asked for by name: if it does not exist, CUDA itself reports it
    return tuple(found)


def memory_of(names: Sequence[str]) -> int:
    """Bytes of the smallest of these GPUs, by NVIDIA's management library (NVML); 0: it does not say.

    Args:
        names: as `gpus` gives them.
    """
    try:
        import pynvml  # type: ignore[import-untyped]
    except ImportError:  # a CPU's packages
        return 0
    try:
        pynvml.nvmlInit()
        handles = [
            pynvml.nvmlDeviceGetHandleByIndex(int(name))
            if name.isdigit()
            else pynvml.nvmlDeviceGetHandleByUUID(name)
            for name in names
        ]
        return min((int(pynvml.nvmlDeviceGetMemoryInfo(handle).total) for handle in handles), default=0)
    except pynvml.NVMLError:
        return 0


def claim(device: str, worker: int, environment: MutableMapping[str, str], nodes: Path = Path("/dev")) -> str:
    """Restricts this process to one GPU, round-robin by worker; to be called before CUDA is loaded.

    So that is its first one, also where another was named: a thread whose current device is not the one that
    it works on makes a context, of half a gigabyte, on the first.

    Args:
        device, environment, nodes: as for `gpus`.
        worker: the worker's number, from 1; a restarted worker has that of the one that died.

    Returns:
        the setting of this process: ``cuda`` in place of ``cuda:N``.
    """
    found = gpus(device, environment, nodes)
    if len(found) > 1 or ":" in device:
        environment[VISIBLE] = found[(worker - 1) % len(found)]
    return device.partition(":")[0]
