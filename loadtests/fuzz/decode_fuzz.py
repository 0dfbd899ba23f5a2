"""Image files of every accepted format, mutated and spliced, decoded in child processes at every reduction.

What may not happen: the end of a process by a signal, an exception that is none of the errors of `models`, a
result of another shape than planned, more memory than planned, time without measure. A case is rebuilt from
the seed and its number, so a failure names it: `--first NUMBER --count 1 --keep FOLDER` repeats it.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import mmap
import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from loadtests.fuzz.imagemutations import MUTATIONS
from loadtests.fuzz.imageseeds import seeds
from models.errors import ImageInvalid, ImageTooLarge, MediaTypeUnsupported
from models.image import DecodePlan, Image, Limits, decode, plan

LIMITS = Limits(max_bytes=1 << 20, max_pixels=200_000)
SIDES = (None, None, 1, 4, 8, 16, 28, 64, 100, 224, 640, 1440)
PIXELS = (None, None, None, 1, 50, 1_000, 10_000, 100_000)
WEIGHTS = {"jpeg": 12, "png": 8, "webp": 8, "bmp": 4, "gif": 4, "tiff": 8, "avif": 6, "heic": 8}
MAGIC = {"jpeg": 3, "png": 16, "webp": 16, "bmp": 2, "gif": 6, "tiff": 4, "avif": 12, "heic": 12}
"""Magic bytes of the formats."""
SLACK_BYTES = 4 << 20  # of the measurement: the interpreter's own
SECONDS = 0.5
"""CPU time of any of these small images; three times the plan's estimate is allowed besides."""
HANGS_AFTER = 60.0
ADDRESS_SPACE = 1 << 30  # bytes that a child may map
BATCH = 5_000  # cases of a child


@dataclass(frozen=True, slots=True)
class Case:
    """A file, and how far it may be reduced."""

    data: bytes
    min_side: int | None
    max_pixels: int | None


def case(seed: int, number: int, kinds: Sequence[str] = tuple(WEIGHTS)) -> Case:
    """Case `number` of a run: a valid file after one to eight mutations of its format's kind, as a rule."""
    random = Random(f"{seed} {number}")
    files = seeds()
    [kind] = random.choices(kinds, [WEIGHTS[kind] for kind in kinds])
    honest = data = random.choice(files[kind])
    for _ in range(random.choice((0, 1, 1, 1, 1, 2, 2, 3, 5))):
        others = files[random.choice(tuple(files)) if random.random() < 0.05 else kind]
        data = random.choice(MUTATIONS[kind])(random, data, random.choice(others))[: LIMITS.max_bytes]
    if random.random() < 0.95:  # else it would often be of no format at all
        data = honest[: MAGIC[kind]] + data[MAGIC[kind] :]
    return Case(data, random.choice(SIDES), random.choice(PIXELS))


def check(one: Case, limits: Limits = LIMITS) -> str | None:
    """Decodes it; what is wrong with that, if anything."""
    memory = _Memory()
    began = time.process_time()
    made: DecodePlan | None = None
    image: Image | None = None
    try:
        made = plan(one.data, limits, min_side=one.min_side, max_pixels=one.max_pixels)
        image = decode(one.data, limits, plan=made)
    except (ImageInvalid, ImageTooLarge, MediaTypeUnsupported):
        pass
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    seconds = time.process_time() - began
    if seconds > SECONDS + 3 * (made.cpu_seconds if made else 0):
        return f"{seconds:.2f} s of CPU time"
    peak, planned = memory.peak(), made.memory if made else 0
    if peak > planned + SLACK_BYTES:
        return f"{peak} bytes, {planned} planned"
    if image is not None and made is not None:
        return _wrong_shape(image, made)
    return None


def _wrong_shape(image: Image, made: DecodePlan) -> str | None:
    header, factor = made.header, made.reduction
    height, width = -(-header.height // factor), -(-header.width // factor)
    size = header.height, header.width
    if header.orientation >= 5:
        height, width, size = width, height, size[::-1]
    pixels = image.pixels
    if (image.height, image.width) != size:
        return f"reported {image.height} x {image.width} of {size}"
    if pixels.dtype != "uint8" or pixels.ndim != 3 or pixels.shape[2] != 3 or min(pixels.shape) < 1:
        return f"{pixels.dtype} {pixels.shape}"
    if made.max_pixels is not None and height * width > made.max_pixels:
        return None if pixels.size <= 3 * made.max_pixels else f"{pixels.shape}: too many pixels"
    return None if pixels.shape[:2] == (height, width) else f"{pixels.shape} for {height} x {width}"


class _Memory:
    """The peak of this process' memory from now on, above what it has now."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        self._before = self._read(b"VmRSS:")

    def peak(self) -> int:
        """Bytes."""
        return self._read(b"VmHWM:") - self._before

    @staticmethod
    def _read(field: bytes) -> int:
        status = Path("/proc/self/status").read_bytes()
        at = status.index(field) + len(field)
        return int(status[at : status.index(b"kB", at)]) * 1024


def _child(seed: int, kinds: Sequence[str], first: int, last: int, here: mmap.mmap, failures: int) -> None:
    """Checks cases, writes failures to the pipe `failures`, and keeps the current number in `here`."""
    space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (space + ADDRESS_SPACE, space + ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("error")
    for number in range(first, last):
        here[:8] = number.to_bytes(8, "little")
        one = case(seed, number, kinds)
        faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
        wrong = check(one)
        faulthandler.cancel_dump_traceback_later()
        if wrong is not None:
            os.write(failures, json.dumps([number, wrong[:300]]).encode() + b"\n")


def batch(seed: int, first: int, last: int, kinds: Sequence[str] = tuple(WEIGHTS)) -> list[tuple[int, str]]:
    """Checks cases in a child, and in another one those after a case that ended it."""
    here, found = mmap.mmap(-1, 8), []
    while first < last:
        here[:8] = first.to_bytes(8, "little")
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.close(reading)
                _child(seed, kinds, first, last, here, writing)
                status = 0
            finally:
                os._exit(status)
        os.close(writing)
        with os.fdopen(reading) as lines:
            found += [(number, wrong) for number, wrong in map(json.loads, lines)]
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == 0:
            break
        number = int.from_bytes(here[:8], "little")
        how = f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        found.append((number, how))
        first = number + 1
    return found


def main(arguments: Sequence[str]) -> int:
    """Runs them; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.fuzz decode", description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="cases")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--format", action="append", choices=WEIGHTS, help="only these")
    parser.add_argument("--keep", type=Path, help="folder for the files of failures")
    options = parser.parse_args(arguments)
    began, wrong = time.monotonic(), 0
    last = options.first + options.count
    seeds()
    kinds = tuple(options.format or WEIGHTS)
    for first in range(options.first, last, BATCH):
        found = batch(options.seed, first, min(first + BATCH, last), kinds)
        for number, text in found:
            one = case(options.seed, number, kinds)
            print(f"case {number} ({len(one.data)} bytes, min_side {one.min_side}, ", end="")
            print(f"max_pixels {one.max_pixels}): {text}", flush=True)
            if options.keep is not None:
                options.keep.mkdir(parents=True, exist_ok=True)
                (options.keep / f"{options.seed}-{number}").write_bytes(one.data)
        wrong += len(found)
        done = min(first + BATCH, last) - options.first
        print(f"{done} decodes, {wrong} wrong, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = used.ru_utime + used.ru_stime
    print(f"{options.count} decodes, seed {options.seed}, {seconds:.0f} s of CPU: {wrong} wrong")
    return 1 if wrong else 0
