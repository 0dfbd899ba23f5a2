"""CPU time of decoding by format and size, beside Pillow and OpenCV on the same files.

They are made here of one photograph (`--image`), enlarged or reduced: `python -m loadtests.decode_times`.
HEIC is a grid of one of the fuzzing's tiles, since no HEVC encoder is installed.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pi_heif
from PIL import AvifImagePlugin, Image

from loadtests.imagefiles import heif_grid
from models.image import decode

SIZES = {"0.4": (768, 576), "12": (4000, 3000)}
"""Megapixels, width and height."""
FORMATS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 90},
    "PNG": {"compress_level": 3},
    "WEBP": {"quality": 85, "method": 2},
    "GIF": {},
    "BMP": {},
    "TIFF": {"compression": "tiff_lzw"},
    "AVIF": {"quality": 75, "speed": 9},
}


def _file(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **FORMATS[kind])
    return stream.getvalue()


def _milliseconds(work: Callable[[], object], repeats: int) -> str:
    """The least of several runs; a dash where it cannot be done."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        try:
            done = work()
        except Exception:
            done = None
        if done is None:
            return "-"
        times.append(time.process_time() - began)
    return f"{1000 * min(times):.1f}"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.decode_times", description=__doc__)
    parser.add_argument("--image", type=Path, required=True, help="a photograph")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    cv2.setNumThreads(0)
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    pi_heif.register_heif_opener(decode_threads=0)
    tile = (Path(__file__).parent / "fuzz" / "heic" / "flat.heic").read_bytes()
    print("| format | megapixels | kB | here, ms | here for a classifier, ms | Pillow, ms | OpenCV, ms |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with Image.open(options.image) as opened:
        photograph = opened.convert("RGB")
    for megapixels, size in SIZES.items():
        image = photograph.resize(size)
        files = {kind: _file(image, kind) for kind in FORMATS}
        across, down = (-(-side // 256) for side in size)
        files["HEIC"] = heif_grid(tile, down, across, *size)
        for kind, data in files.items():

            def pillow(data: bytes = data) -> object:
                with Image.open(io.BytesIO(data)) as opened:
                    return np.asarray(opened.convert("RGB"))

            def opencv(data: bytes = data) -> object:
                return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)

            def here(data: bytes = data, min_side: int | None = None) -> object:
                return decode(data, min_side=min_side)

            if len(data) > 20 << 20:
                continue
            ways = (here, lambda here=here: here(min_side=256), pillow, opencv)
            row = " | ".join(_milliseconds(way, options.repeats) for way in ways)
            print(f"| {kind} | {megapixels} | {len(data) / 1000:.0f} | {row} |", flush=True)


if __name__ == "__main__":
    main()
