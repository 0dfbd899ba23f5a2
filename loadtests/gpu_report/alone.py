"""Each network, decoding, and the waiting of threads, without a server; prints JSON.

Images per second of a network: `device` by CUDA's own clock, graphs one after another, the input is there;
`executor` through the executor of the service, from the host and back, by as many threads as it has slots.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models import registry
from models.errors import ModelError
from models.image import decode
from models.pipeline import Inputs, Pipeline
from models.weights import Store, standard_catalogue
from service.engine.executor import make_executor
from service.engine.torch_executor import TorchExecutor
from service.settings import Precision, Settings

MODELS = ("efficientnet-lite0", "yolo-person", "efficientdet-lite0", "mtcnn", "dlib-resnet", "paintings")
BATCHES = (1, 8, 32)


def build(name: str) -> Pipeline | None:
    """None: its weights have not been carried here."""
    try:
        return registry.build(name, standard_catalogue(), Store())
    except ModelError:
        return None


def rate(work: Callable[[], object], items: int, threads: int, seconds: float) -> float:
    """Items per second, of calls from so many threads at once."""
    begin = time.monotonic()

    def calls(_: int) -> int:
        done = 0
        while time.monotonic() < begin + seconds:
            work()
            done += 1
        return done

    with ThreadPoolExecutor(threads) as pool:
        total = sum(pool.map(calls, range(threads)))
    return items * total / (time.monotonic() - begin)


def device_rate(executor: TorchExecutor, example: Inputs, batch: int, seconds: float) -> float:
    """Items per second of replays alone."""
    lanes = executor._lanes
    assert lanes is not None  # noqa: S101
    columns = [[one] * batch for one in example]
    forward = executor._network._forward(columns)
    with torch.inference_mode(), lanes.runtime.on(lanes.compute):
        there = [torch.from_numpy(np.stack(column)).to(lanes.runtime.device) for column in columns]
        forward(there)
        torch.cuda.synchronize()
        count, took = 4, 0.0
        while took < 0.5 * seconds:
            count *= 2
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            for _ in range(count):
                forward(there)
            last.record()
            last.synchronize()
            took = first.elapsed_time(last) / 1000
    return batch * count / took


def network(name: str, settings: Settings, seconds: float, batches: Sequence[int]) -> dict[str, Any] | None:
    """Rates by batch size, the precision, and how long the executor took to be ready."""
    if (pipeline := build(name)) is None:
        return None
    began = time.monotonic()
    executor = make_executor(pipeline, settings)
    example = pipeline.preprocess(pipeline.rehearsal(pipeline.shapes[0])).inputs
    for size in sorted(batches, reverse=True):
        executor.warm(example, [size])
    found: dict[str, Any] = {"precision": executor.precision, "ready_s": round(time.monotonic() - began, 2)}
    slots = settings.slot_count(settings.device != "cpu")
    for size in batches:
        row = {"executor": rate(lambda size=size: executor.run([example] * size), size, slots, seconds)}  # type: ignore[misc]
        if settings.device != "cpu" and isinstance(executor, TorchExecutor):
            row["device"] = device_rate(executor, example, size, seconds)
        found[str(size)] = {key: round(value, 1) for key, value in row.items()}
    return found


def _decode(job: tuple[list[bytes], int, float]) -> float:
    bodies, side, seconds = job
    begin, done = time.monotonic(), 0
    for body in itertools.cycle(bodies):
        decode(body, min_side=side)
        done += 1
        if time.monotonic() > begin + seconds:
            break
    return done / (time.monotonic() - begin)


def decoding(bodies: list[bytes], seconds: float, device: str) -> dict[str, float]:
    """JPEGs per second: by processes of the CPU, scaled as a classifier takes them; and by the GPU, whole."""
    found: dict[str, float] = {}
    cores = len(os.sched_getaffinity(0))
    for processes in [1] if device == "cpu" else sorted({1, max(1, cores // 2), cores}):
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            jobs = [(bodies, 256, seconds)] * processes
            found[f"{processes} processes"] = round(sum(pool.map(_decode, jobs, chunksize=1)), 1)
    if device != "cpu":
        with contextlib.suppress(ImportError):
            from torchvision.io import ImageReadMode, decode_jpeg

            encoded = [torch.frombuffer(bytearray(body), dtype=torch.uint8) for body in bodies]
            for batch in (1, 16):
                part = encoded[:batch]

                def work(part: list[torch.Tensor] = part) -> None:
                    decode_jpeg(part, mode=ImageReadMode.RGB, device="cuda")
                    torch.cuda.synchronize()

                work()
                found[f"GPU, {batch} at once"] = round(rate(work, len(part), 1, seconds), 1)
            found["GPU, greatest difference of the mean level"] = max(
                abs(float(one.float().mean()) - float(decode(body).pixels.mean()))
                for one, body in zip(
                    decode_jpeg(encoded[:8], mode=ImageReadMode.RGB, device="cuda"), bodies, strict=False
                )
            )
    return found


def waiting(settings: Settings) -> float:
    """Share of a core that a thread takes which waits for the GPU as a batch's does."""
    executor = TorchExecutor(_small(), "cuda", Precision.FLOAT32)
    lanes = executor._lanes
    assert lanes is not None  # noqa: S101
    event = lanes.runtime.event()
    with lanes.runtime.on(lanes.compute):
        torch.cuda._sleep(500_000_000)
        lanes.compute.record_event(event)
    began, computed = time.monotonic(), time.thread_time()
    event.synchronize()
    return (time.thread_time() - computed) / (time.monotonic() - began)


def _small() -> Pipeline:
    pipeline = build("lenet5")
    assert pipeline is not None  # noqa: S101
    return pipeline


def main() -> None:
    """Prints what could be measured in the time there is."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--until", type=float, default=170.0, help="seconds after which no more is begun")
    asked = parser.parse_args()
    ends = time.monotonic() + asked.until
    cpu = asked.device == "cpu"
    settings = Settings(device=asked.device, workers=1)
    bodies = [path.read_bytes() for path in sorted(asked.images.rglob("*.jpg"))[:40]]
    found: dict[str, Any] = {"decoding": decoding(bodies, asked.seconds, asked.device)}
    if not cpu:
        found["waiting thread, share of a core"] = round(waiting(settings), 3)
    tries: list[tuple[str, str, Settings]] = [(name, name, settings) for name in MODELS[: 1 if cpu else None]]
    if not cpu:
        whole = settings.model_copy(update={"precision": Precision.FLOAT32})
        tries += [(f"{name}, float32", name, whole) for name in MODELS[:2]]
        compiled = settings.model_copy(update={"compile": True})
        tries += [(f"{name}, torch.compile", name, compiled) for name in MODELS[:2]]
    for label, name, how in tries:
        if time.monotonic() > ends:
            found[label] = {"skipped": "there was no time left"}
            continue
        try:
            row = network(name, how, asked.seconds, BATCHES[:1] if cpu else BATCHES)
        except Exception as error:  # of one network: the others are measured
            row = {"failed": f"{type(error).__name__}: {error}"[:500]}
        found[label] = row or {"skipped": "its weights are not here"}
        if not cpu:
            torch.cuda.empty_cache()
    if not cpu:
        found["memory_mib"] = round(torch.cuda.max_memory_reserved() / 2**20)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
